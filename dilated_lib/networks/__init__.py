"""The paper's networks: front end, context module, both together, and their weights.

This belongs to Part III of the book. Nothing here knows how a network is trained.
"""

from dilated_lib.networks.architecture import (
    photo_network,
    small_network,
    street_network,
)
from dilated_lib.networks.released import (
    dilation7_kitti,
    dilation8_camvid,
    dilation8_pascal_voc,
    dilation10_cityscapes,
)

__all__ = [
    "dilation7_kitti",
    "dilation8_camvid",
    "dilation8_pascal_voc",
    "dilation10_cityscapes",
    "photo_network",
    "small_network",
    "street_network",
]
