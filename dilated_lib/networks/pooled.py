"""Front ends that keep VGG-16's five poolings, to compare the paper's front end with.

The paper's has only the first three. These have its convolutions, under its names.
"""

from collections import OrderedDict
from typing import Literal, get_args

from torch import Tensor, nn

from dilated_lib.dilation.layer import DilatedConv2d
from dilated_lib.networks.dilated import bilinear_deconvolution
from dilated_lib.networks.vgg import front_end
from dilated_lib.values import one_of

__all__ = ["Pooled", "pooled_front_end"]

Pooled = Literal["dense", "fcn8s", "fcn32s", "largefov"]
_Layers = OrderedDict[str, nn.Module]


def pooled_front_end(
    kind: Pooled, num_classes: int, *, fc_channels: int = 4096, width: int = 64
) -> nn.Sequential:
    """Build a front end with all of VGG-16's poolings, on the interface of the paper's.

    Images (N, 3, 8h, 8w), BGR, 0 to 255, minus the mean, give logits (N, C, h, w), as
    :func:`~dilated_lib.networks.vgg.front_end` gives them with ``padding="zeros"``. The
    weights have its names, and where their shapes are the same, the same torch seed
    draws the same numbers.

    - "dense" computes what the classifier computes, at four times as many positions
      along each axis. pool4 and pool5 have stride 1, and pool5 has dilation 2, since
      pool4 leaves it a map twice as dense; the rest is the paper's front end. Together
      the two poolings span 24 pixels, one and a half cells on each side. conv1_1 pads
      these 12 pixels more, so that each cell is the middle of what it sees.
    - "largefov" is DeepLab's: as "dense", but fc6 is 3 × 3 with dilation 12, which
      spans as much as 7 × 7 with dilation 4. (Its released files also enlarge all
      poolings to 3 × 3, which puts the middle of each cell elsewhere.)
    - "fcn32s" computes logits at stride 32. A fixed bilinear deconvolution makes them
      cells of 8 pixels; from there to pixels, all front ends take the same way.
    - "fcn8s" goes there by two deconvolutions, which start bilinear and learn, each
      class for itself. To their results it adds logits that 1 × 1 layers, score_pool4
      and score_pool3, make of pool4 and pool3. These layers start at zero, and read
      their maps times 0.01 and 0.0001, so that all parts can learn at once.

    The FCNs of Long et al. add 100 zeros around the image, because fc6 pads none. Here
    every convolution pads half of what its kernel spans, as in the other front ends,
    and deconvolutions repeat the cells at the border. Poolings round up, and what that
    adds to a map is cut off behind it, so that every h and w are possible.

    Raises TypeError or ValueError for impossible arguments.

    Source: Long, Shelhamer and Darrell, CVPR 2015, section 4, who call ``final``
    score_fr; for the two factors, voc-fcn8s-atonce in shelhamer/fcn.berkeleyvision.org;
    Chen et al., ICLR 2015, section 3 (largefov).

    Args:
        kind: Which of the four.
        num_classes: C, the number of classes.
        fc_channels: The width of fc6 and fc7.
        width: The channels of conv1; conv2 has twice as many, and so on.

    >>> import torch
    >>> fcn = pooled_front_end("fcn8s", 21, fc_channels=8, width=4)
    >>> fcn(torch.zeros(1, 3, 8 * 5, 8 * 6)).shape
    torch.Size([1, 21, 5, 6])
    """
    one_of("kind", kind, get_args(Pooled))
    paper = front_end(
        num_classes, padding="zeros", fc_channels=fc_channels, width=width
    )
    if kind in ("dense", "largefov"):
        return nn.Sequential(_dense(paper, large_field=kind == "largefov"))
    layers = _with_poolings(
        paper,
        pool4=nn.MaxPool2d(2, ceil_mode=True),
        pool5=nn.MaxPool2d(2, ceil_mode=True),
    )
    for name, layer in layers.items():
        if isinstance(layer, DilatedConv2d):
            layers[name] = _undilated(layer)
    final = layers.pop("final")
    if kind == "fcn32s":
        layers["upscore4"] = _upsampling(num_classes, 4, learns=False)
        return _FCN32s(layers | {"final": final})
    for pool, channels in (("pool4", 8 * width), ("pool3", 4 * width)):
        score = nn.Conv2d(channels, num_classes, 1)
        for parameter in score.parameters():
            nn.init.zeros_(parameter)
        layers[f"score_{pool}"] = score
    for name in ("upscore2", "upscore_pool4"):
        layers[name] = _upsampling(num_classes, 2, learns=True)
    return _FCN8s(layers | {"final": final})


def _with_poolings(paper: nn.Sequential, **poolings: nn.Module) -> _Layers:
    """List the layers of the paper's front end with pool4 and pool5 in their places."""
    layers: _Layers = OrderedDict()
    for name, layer in paper.named_children():
        layers[name] = layer
        if name in ("relu4_3", "relu5_3"):
            pool = f"pool{name[4]}"
            layers[pool] = poolings[pool]
    return layers


def _dense(paper: nn.Sequential, *, large_field: bool) -> _Layers:
    """List the layers of the dense classifier, or of DeepLab's LargeFOV."""
    layers = _with_poolings(
        paper, pool4=nn.MaxPool2d(2, 1), pool5=nn.MaxPool2d(2, 1, dilation=2)
    )
    first, fc6 = paper.conv1_1, paper.fc6
    assert isinstance(first, nn.Conv2d) and isinstance(fc6, nn.Conv2d)
    first.padding = (13, 13)
    if large_field:
        new = DilatedConv2d(fc6.in_channels, fc6.out_channels, 3, dilation=12)
        new.padding = new.dilation
        nn.init.kaiming_normal_(new.weight, nonlinearity="relu")
        new.bias = fc6.bias
        layers["fc6"] = new
    return layers


def _undilated(layer: DilatedConv2d) -> nn.Conv2d:
    """Return a layer with the same weights that has no dilation, and keeps sizes."""
    side = layer.kernel_size[0]
    new = nn.Conv2d(layer.in_channels, layer.out_channels, side, padding=side // 2)
    new.weight, new.bias = layer.weight, layer.bias
    return new


def _upsampling(classes: int, stride: int, *, learns: bool) -> nn.Sequential:
    """Return a deconvolution that starts as bilinear interpolation up to the border.

    It takes what lies beyond the map for zeros, so the cells at the border are repeated
    first. Its padding cuts off what becomes of these.
    """
    layer = bilinear_deconvolution(classes, stride).requires_grad_(learns)
    layer.padding = (3 * stride // 2, 3 * stride // 2)
    return nn.Sequential(nn.ReplicationPad2d(1), layer)


class _FCN32s(nn.Sequential):
    """The layers up to fc7, upscore4, and ``final``, which goes before upscore4."""

    upscore4: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        logits, pool3, _ = self._coarse(images)
        return _cut(self.upscore4(logits), pool3)

    def _coarse(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the logits at stride 32, and on the way the maps pool3 and pool4."""
        maps = {}
        latest = images
        for name, layer in self.named_children():
            if "score" not in name:
                latest = maps[name] = layer(latest)
        return latest, maps["pool3"], maps["pool4"]


class _FCN8s(_FCN32s):
    """The same with two smaller steps, after each of which a pooling is scored."""

    upscore2: nn.Module
    upscore_pool4: nn.Module
    score_pool4: nn.Module
    score_pool3: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        logits, pool3, pool4 = self._coarse(images)
        logits = _cut(self.upscore2(logits), pool4) + self.score_pool4(0.01 * pool4)
        logits = _cut(self.upscore_pool4(logits), pool3)
        fine: Tensor = logits + self.score_pool3(0.0001 * pool3)
        return fine


def _cut(logits: Tensor, like: Tensor) -> Tensor:
    """Cut off what a pooling added to a map's size by rounding up."""
    return logits[:, :, : like.shape[2], : like.shape[3]]
