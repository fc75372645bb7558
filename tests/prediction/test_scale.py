"""A picture at another scale: smaller or larger for the network, and back again."""

import torch
from tiny_network import tiny
from torch.nn import functional as F

from dilated_lib.prediction.segmentation import probabilities

IMAGES = torch.randint(256, (1, 3, 160, 240), generator=torch.manual_seed(0)).float()


def resize(images, size):
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def test_every_pixel_counts_where_a_picture_shrinks():
    network, seen = tiny(front="zeros"), []
    network.front.conv1_1.register_forward_hook(lambda _, given, __: seen.extend(given))
    probabilities(network, IMAGES, scale=0.5)
    (found,) = seen
    wanted = network.normalised(resize(IMAGES, (80, 120)))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-2)


def test_every_probability_counts_where_they_are_brought_back():
    network = tiny(front="zeros")
    large = probabilities(network, resize(IMAGES, (320, 480)), scale=1.0)
    found = probabilities(network, IMAGES, scale=2.0)
    torch.testing.assert_close(found, resize(large, (160, 240)), rtol=0, atol=1e-4)


def test_tiles_of_an_enlarged_picture_are_those_of_the_picture():
    """The last of them begins below the picture's first row."""
    network, images = tiny(), IMAGES[..., :40]
    whole = probabilities(network, images, scale=3.0, tile=(372 + 480, 372 + 120))
    tiles = probabilities(network, images, scale=3.0, tile=(372 + 160, 372 + 120))
    torch.testing.assert_close(tiles, whole, rtol=0, atol=1e-5)
