"""A network with the paper's geometry and hardly a weight, and pictures for it."""

from collections import OrderedDict

import numpy as np
import torch
from PIL import Image
from torch import nn

import dilated_lib as dl

RNG = np.random.default_rng(0)


def tiny(upsample=False, classes=4, padding="each", front="none"):
    """A front end with VGG's layers, but two channels: its geometry, in no time."""
    torch.manual_seed(0)
    built = dl.front_end(classes, padding=front, fc_channels=2)
    layers = OrderedDict(built.named_children())
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            layers[name] = nn.Conv2d(
                3 if name == "conv1_1" else 2,
                classes if name == "final" else 2,
                layer.kernel_size,
                dilation=layer.dilation,
                padding=layer.padding,
                padding_mode=layer.padding_mode,
            )
            nn.init.kaiming_normal_(layers[name].weight, nonlinearity="relu")
    network = dl.DilatedNetwork(
        nn.Sequential(layers),
        dl.ContextModule(classes, dilations=(1, 2, 1), padding=padding),
        palette={f"class {n}": (n, 2 * n, 255 - n) for n in range(classes)},
        mean=(10.0, 20.0, 30.0),
        input_size=(420, 436),
        upsample=upsample,
    )
    return network.eval()


def picture(height, width):
    """Smooth, so that neighbours are alike, and different everywhere."""
    coarse = RNG.integers(0, 256, (2 + height // 20, 2 + width // 20, 3), dtype="u1")
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
