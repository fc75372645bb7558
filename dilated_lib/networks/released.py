"""The four released networks, layer by layer, under their released names."""

from dilated_lib.data.palettes import CAMVID, CITYSCAPES, PASCAL_VOC
from dilated_lib.networks.context import ContextModule
from dilated_lib.networks.dilated import DilatedNetwork, Weights
from dilated_lib.networks.vgg import front_end

__all__ = [
    "dilation7_kitti",
    "dilation8_camvid",
    "dilation8_pascal_voc",
    "dilation10_cityscapes",
]


def dilation8_pascal_voc(
    weights: Weights = None, *, fc_channels: int = 4096
) -> DilatedNetwork:
    """Build Dilation8 for VOC 2012, 21 classes: the large context module, padded once.

    It was released for tiles of 900 × 900, and the colours are VOC's own. ``weights``
    and ``fc_channels`` are those of :func:`~dilated_lib.networks.vgg.front_end`; the
    context module starts as the identity. To have the released weights of the whole
    network, :func:`~dilated_lib.networks.weights.load` their file into it.

    Source: ``models/dilation8_pascal_voc_deploy.prototxt`` of fyu/dilation.

    >>> dilation8_pascal_voc(fc_channels=8).context.layers[0].padding
    (33, 33)
    """
    return DilatedNetwork(
        front_end(21, weights, fc_channels=fc_channels),
        ContextModule(21, "large", padding="once"),
        palette=PASCAL_VOC,
        mean=(102.93, 111.36, 116.52),
        input_size=(900, 900),
        final="fc-final",
        prefix="ct_",
    )


def dilation8_camvid(
    weights: Weights = None, *, fc_channels: int = 4096
) -> DilatedNetwork:
    """Build Dilation8 for CamVid, 11 classes in an order of its own: the basic module.

    It was released for tiles of 900 × 1100. The arguments are those of
    :func:`dilation8_pascal_voc`.

    Source: ``models/dilation8_camvid_deploy.prototxt`` of fyu/dilation.

    >>> dilation8_camvid(fc_channels=8).context.layers[5].dilation
    (16, 16)
    """
    return DilatedNetwork(
        front_end(11, weights, fc_channels=fc_channels),
        ContextModule(11),
        palette=CAMVID,
        mean=(110.70313206, 108.77808759, 105.41212523),
        input_size=(900, 1100),
    )


def dilation7_kitti(
    weights: Weights = None, *, fc_channels: int = 4096
) -> DilatedNetwork:
    """Build Dilation7 for KITTI, CamVid's 11 classes: basic, without the dilation 16.

    It was released for tiles of 852 × 1640, whose width is not a whole size: pooling
    rounds up, so that what such a tile gives is 4 pixels wider than its part of the
    picture. The arguments are those of :func:`dilation8_pascal_voc`.

    Source: ``models/dilation7_kitti_deploy.prototxt`` of fyu/dilation.

    >>> dilation7_kitti(fc_channels=8).context.layers[4].dilation
    (8, 8)
    """
    return DilatedNetwork(
        front_end(11, weights, fc_channels=fc_channels),
        ContextModule(11, dilations=(1, 1, 2, 4, 8, 1)),
        palette=CAMVID,
        mean=(96.19429688, 95.55136972, 91.34692262),
        input_size=(852, 1640),
    )


def dilation10_cityscapes(
    weights: Weights = None, *, fc_channels: int = 4096
) -> DilatedNetwork:
    """Build Dilation10 for Cityscapes, 19 classes: two more layers, a deconvolution.

    It was released for tiles of 1396 × 1396. Its logits are those of pixels. The
    arguments are those of :func:`dilation8_pascal_voc`.

    Source: ``models/dilation10_cityscapes_deploy.prototxt`` of fyu/dilation.

    >>> dilation10_cityscapes(fc_channels=8).upsample.stride
    (8, 8)
    """
    return DilatedNetwork(
        front_end(19, weights, fc_channels=fc_channels),
        ContextModule(19, dilations=(1, 1, 2, 4, 8, 16, 32, 64, 1)),
        palette=CITYSCAPES,
        mean=(72.39, 82.91, 73.16),
        input_size=(1396, 1396),
        upsample=True,
    )
