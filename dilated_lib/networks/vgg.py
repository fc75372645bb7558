"""VGG-16 as a front end: the classifier turned into a dense predictor of the paper."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dilated_lib.dilation.layer import DilatedConv2d
from dilated_lib.networks.imagenet import published_vgg16
from dilated_lib.networks.weights import converted, fits, read_weights
from dilated_lib.values import one_of, whole

__all__ = ["Padding", "fill", "front_end", "fully_convolutional"]

Padding = Literal["none", "zeros", "reflect"]
ChannelOrder = Literal["bgr", "rgb"]
LastStage = Literal["conv4", "conv5"]

# convolutions of each stage, and their channels
_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
_CONVOLUTIONS = [
    f"conv{stage}_{number}"
    for stage, (count, _) in enumerate(_STAGES, 1)
    for number in range(1, count + 1)
]
_KINDS = ("weight", "bias")


def front_end(
    num_classes: int,
    weights: Literal["imagenet"] | Path | None = None,
    *,
    padding: Padding = "none",
    channel_order: ChannelOrder = "bgr",
    fc_channels: int = 4096,
    width: int = 64,
    batch_norm: bool = False,
    last_stage: LastStage = "conv5",
) -> nn.Sequential:
    """Build the paper's front end, which takes images to logits of their cells.

    Images (N, 3, 372 + 8h, 372 + 8w), BGR, 0 to 255, minus the mean, give logits
    (N, C, h, w). The network is VGG-16 without its last two pooling layers; what
    followed them is dilated, by 2 (conv5) and by 4 (fc6). Nothing is padded, pooling
    rounds up as in Caffe, a ReLU follows each convolution but the last, and fc6 and fc7
    have dropout. The layers have their released names, conv1_1 … fc7, final.

    With ``padding`` "zeros" or "reflect" every convolution pads its input by half of
    what its kernel spans, so that images (N, 3, 8h, 8w) give logits (N, C, h, w), from
    the same weights. A unit more than 24 cells from the border computes the same as
    without padding. Reflection needs at least 13 cells along each axis, since fc6
    mirrors 12 of them. No margin of the picture is read, which makes a training step
    cheaper for the same labelled pixels: four times, measured on crops of 36 x 48 cells
    with 256 channels in fc6.

    ``weights`` fills the 13 convolutions, and fc6 and fc7 if the file has them in the
    width of these. The file must be made for values from 0 to 255, which torchvision's
    ``IMAGENET1K_V1`` is not. What is not filled is drawn as for ReLUs (He et al. 2015),
    and ``final`` from N(0, 0.001²), as in the released training: a new network's loss
    is near ln C.

    Four variants are not the paper's: ``fc_channels``, ``last_stage``, ``width`` and
    ``batch_norm``. The last two are for training from scratch, and take no weights.

    Raises TypeError or ValueError for impossible arguments, ValueError for a file
    without these layers, and otherwise as
    :func:`~dilated_lib.networks.weights.read_weights`.

    Source: Yu and Koltun, ICLR 2016, section 4; the networks of fyu/dilation.

    Args:
        num_classes: C, the number of classes.
        weights: "imagenet" downloads torchvision's ``IMAGENET1K_FEATURES`` and checks
            its hash at every use; a path is a file with torchvision's names or Caffe's.
        padding: "none", or what continues the map around every convolution.
        channel_order: The order in which the file's conv1_1 reads its channels.
        fc_channels: The width of fc6 and fc7. At 512 they have 13 million parameters in
            place of 120.
        width: The channels of conv1; conv2 has twice as many, and so on.
        batch_norm: Whether to normalise after each convolution but the last.
        last_stage: What fc6 follows. With "conv4" there is no conv5: nearly half of
            the 13 convolutions' parameters go, and 96 pixels of the receptive field.

    >>> narrow = front_end(21, fc_channels=8, width=4)
    >>> narrow(torch.zeros(1, 3, 372 + 8 * 2, 372 + 8 * 3)).shape
    torch.Size([1, 21, 2, 3])
    """
    num_classes = whole("num_classes", num_classes, 1)
    fc_channels, width = whole("fc_channels", fc_channels, 1), whole("width", width, 1)
    one_of("channel_order", channel_order, get_args(ChannelOrder))
    one_of("padding", padding, get_args(Padding))
    one_of("last_stage", last_stage, get_args(LastStage))
    layers = OrderedDict(
        _layers(num_classes, fc_channels, width, batch_norm, padding, last_stage)
    )
    network = nn.Sequential(layers)
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            if name == "final":
                nn.init.normal_(layer.weight, std=0.001)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if name == "conv1_1":
                with torch.no_grad():
                    layer.weight /= 64  # about the spread of pixels
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    if weights:
        fill(network, weights, channel_order=channel_order)
    return network


def fill(
    front: nn.Sequential,
    weights: Literal["imagenet"] | Path,
    *,
    channel_order: ChannelOrder = "bgr",
) -> set[str]:
    """Copy VGG-16's weights into a front end, and return the names that it filled.

    The arguments are those of :func:`front_end`, and so are the errors; another is
    ValueError for a front end that is not as wide as VGG-16, or has batch norm.

    >>> fill(front_end(21, width=4, fc_channels=8), "imagenet")
    Traceback (most recent call last):
    ValueError: batch_norm=True and other widths are for training from scratch: ...
    """
    first = front.conv1_1
    assert isinstance(first, nn.Conv2d)
    normed = any(isinstance(layer, nn.BatchNorm2d) for layer in front)
    if normed or first.out_channels != 64:
        raise ValueError(
            "batch_norm=True and other widths are for training from scratch: the "
            "weights are those of a network of width 64 without it, got "
            f"weights={str(weights)!r}"
        )
    if weights == "imagenet":
        return _fill(front, published_vgg16(), "bgr", "IMAGENET1K_FEATURES")
    path = Path(weights)
    return _fill(front, read_weights(path), channel_order, path.name)


def _layers(
    num_classes: int,
    fc_channels: int,
    width: int,
    batch_norm: bool,
    padding: Padding,
    last_stage: LastStage,
) -> Iterator[tuple[str, nn.Module]]:
    """List the front end's layers by their released names, as in ``front_end``.

    Two of VGG-16's poolings are left out, so that the map keeps an eighth of the
    picture's size. Each would have halved it. To compute the same without the first,
    what follows has to read every second unit (conv5, dilation 2), and without both
    every fourth (fc6, dilation 4).

    Args:
        num_classes: The channels of the last layer.
        fc_channels: Those of fc6 and fc7.
        width: Those of conv1.
        batch_norm: Whether each convolution but the last is normalised.
        padding: What continues the map around each convolution.
        last_stage: The stage of VGG-16 that fc6 follows.
    """

    def convolution(
        name: str, inputs: int, outputs: int, kernel_size: int, dilation: int = 1
    ) -> Iterator[tuple[str, nn.Module]]:
        number = name.removeprefix("conv").removeprefix("fc")
        kind = nn.Conv2d if dilation == 1 else DilatedConv2d
        same = dilation * (kernel_size - 1) // 2  # keeps the size at stride 1
        yield (
            name,
            kind(
                inputs,
                outputs,
                kernel_size,
                dilation=dilation,
                padding=0 if padding == "none" else same,
                padding_mode="reflect" if padding == "reflect" and same else "zeros",
            ),
        )
        if batch_norm:
            yield f"bn{number}", nn.BatchNorm2d(outputs)
        yield f"relu{number}", nn.ReLU(inplace=True)

    inputs = 3
    for stage, (count, channels) in enumerate(_STAGES[: int(last_stage[-1])], 1):
        outputs = channels * width // 64
        for number in range(1, count + 1):
            dilation = 2 if stage == 5 else 1
            yield from convolution(
                f"conv{stage}_{number}", inputs, outputs, 3, dilation
            )
            inputs = outputs
        if stage < 4:
            yield f"pool{stage}", nn.MaxPool2d(2, 2, ceil_mode=True)
    yield from convolution("fc6", inputs, fc_channels, 7, 4)
    yield "drop6", nn.Dropout(0.5)
    yield from convolution("fc7", fc_channels, fc_channels, 1)
    yield "drop7", nn.Dropout(0.5)
    yield "final", nn.Conv2d(fc_channels, num_classes, 1)


def _fill(
    network: nn.Sequential, found: dict[str, Tensor], channel_order: str, source: str
) -> set[str]:
    """Copy weights into conv1_1 … conv5_3, and fc6 and fc7 where they fit.

    Every tensor is checked and converted before the first is copied, so that a file
    that does not fit changes nothing. A file with layers that VGG-16 does not have is
    that of a whole network, which nobody means to cut down to its front end.

    Args:
        network: The front end.
        found: The file's tensors, under torchvision's names or Caffe's.
        channel_order: The order in which the file's conv1_1 reads its channels.
        source: What an error calls the file.
    """
    found = {_caffe_name(name): tensor for name, tensor in found.items()}
    state = network.state_dict()
    convolutions = [f"{one}.{kind}" for one in _CONVOLUTIONS for kind in _KINDS]
    wanted = [name for name in convolutions if name in state]
    for name in wanted:
        if name not in found or not fits(found[name], state[name]):
            shape = tuple(found[name].shape) if name in found else "nothing"
            raise ValueError(
                f"{source} must hold the {len(wanted) // 2} convolutions of VGG-16: "
                f"{name} must have shape {tuple(state[name].shape)}, found {shape}"
            )
    for layer in ("fc6", "fc7"):
        pair = [f"{layer}.{kind}" for kind in _KINDS]
        if all(name in found and fits(found[name], state[name]) for name in pair):
            wanted += pair
    others = ("conv", "final", "fc-final", "ct_", "ctx_")
    own = {*wanted, *convolutions}
    over = [name for name in found if name.startswith(others) and name not in own]
    if over:
        raise ValueError(
            f"{source} is not VGG-16's, it also holds {over[0]}; for a whole network "
            "build it first, then load the file into it"
        )
    tensors = {
        name: converted(found[name], state[name], f"{name} of {source}")
        for name in wanted
    }
    if channel_order == "rgb":
        tensors["conv1_1.weight"] = tensors["conv1_1.weight"].flip(1)
    for name, tensor in tensors.items():
        state[name].copy_(tensor)
    return set(wanted)


def _caffe_name(name: str) -> str:
    """Translate torchvision's name of a VGG-16 layer: "features.0" is "conv1_1"."""
    place, _, kind = name.removeprefix("features.").rpartition(".")
    dense = {"classifier.0": "fc6", "classifier.3": "fc7"}
    return f"{_PLACES.get(place) or dense.get(place, place)}.{kind}"


def _places() -> Iterator[tuple[str, str]]:
    position = 0
    for stage, (count, _) in enumerate(_STAGES, 1):
        for number in range(1, count + 1):
            yield str(position), f"conv{stage}_{number}"
            position += 2  # a ReLU follows
        position += 1  # and a pooling


_PLACES = dict(_places())


def fully_convolutional(vgg: nn.Module) -> nn.Sequential:
    """Turn a VGG of torchvision into a network that slides over larger images.

    Images (N, 3, H, W) give class scores (N, classes, h, w). The classifier's first
    layer becomes a 7 × 7 convolution and the others 1 × 1, with the same weights, which
    are shared and not copied. So an image of 224 × 224 gives the classifier's own
    output as one unit; a larger one gives a unit every 32 pixels. The pooling to 7 × 7
    between them, which does nothing at 224, is left out.

    Raises TypeError for another network.

    Source: Long, Shelhamer and Darrell, CVPR 2015.

    >>> from torchvision.models import vgg11
    >>> with torch.device("meta"):
    ...     fully_convolutional(vgg11())(torch.empty(1, 3, 224, 256)).shape
    torch.Size([1, 1000, 1, 2])
    """
    from torchvision.models import VGG

    if not isinstance(vgg, VGG):
        raise TypeError(f"vgg must be a VGG of torchvision, got {type(vgg).__name__}")
    head: list[nn.Module] = []
    side = 7
    for layer in vgg.classifier:
        if isinstance(layer, nn.Linear):
            inputs = layer.in_features // side**2
            with torch.device("meta"):
                conv = nn.Conv2d(inputs, layer.out_features, side)
            weight = layer.weight.view(-1, inputs, side, side)
            conv.weight = nn.Parameter(weight, layer.weight.requires_grad)
            conv.bias = layer.bias
            head.append(conv)
            side = 1
        else:
            head.append(layer)
    return nn.Sequential(*vgg.features, *head)
