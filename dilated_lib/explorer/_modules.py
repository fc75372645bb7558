"""From an explorer's layers to PyTorch's, and back from a network."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from dilated_lib.explorer._layers import MOST_LAYERS, Layer
from dilated_lib.fields.tracing.chain import chain
from dilated_lib.fields.windows import Window


def sequential(layers: Iterable[Layer], channels: int) -> nn.Sequential:
    """Build the stack as modules with ``channels`` in and out of each.

    Torch's layers pad both sides alike. Where the two sides differ, a padding module
    stands before the layer, or a cropping one behind a transposed layer.
    """
    return nn.Sequential(
        *(module for layer in layers for module in _modules(layer, channels))
    )


def _modules(layer: Layer, channels: int) -> list[nn.Module]:
    """Build the one or two modules of a layer.

    A pooling pads with −∞, which is never the largest value. A transposed layer that
    crops more before than after does so in one module, because torch's output padding
    gives back at the end what its padding crops there; but torch allows that only up to
    the stride or the dilation. Every other layer with unequal sides takes two modules.
    """
    height, width = axes = (layer.height, layer.width)
    kernel = _both(height.kernel_size, width.kernel_size)
    stride = _both(height.stride, width.stride)
    dilation = _both(height.dilation, width.dilation)
    pads = (*width.pads, *height.pads)  # torch has the last axis first
    before = _both(height.pads[0], width.pads[0])
    even = all(window.pads[0] == window.pads[1] for window in axes)
    if layer.pooling:
        if even:
            return [nn.MaxPool2d(kernel, stride, before, dilation)]
        minus = nn.ConstantPad2d(pads, -torch.inf)
        return [minus, nn.MaxPool2d(kernel, stride, dilation=dilation)]
    if not height.transposed:
        if even:
            return [nn.Conv2d(channels, channels, kernel, stride, before, dilation)]
        conv = nn.Conv2d(channels, channels, kernel, stride, dilation=dilation)
        return [nn.ZeroPad2d(pads), conv]
    extra = (_extra(height), _extra(width))
    if all(
        0 <= more < max(w.stride, w.dilation)
        for more, w in zip(extra, axes, strict=True)
    ):
        return [
            nn.ConvTranspose2d(
                channels,
                channels,
                kernel,
                stride,
                before,
                output_padding=extra,
                dilation=dilation,
            )
        ]
    up = nn.ConvTranspose2d(channels, channels, kernel, stride, dilation=dilation)
    crop = (-pads[0], -pads[1], -pads[2], -pads[3])
    return [up, nn.ZeroPad2d(crop)]


def _both(height: int, width: int) -> int | tuple[int, int]:
    return height if height == width else (height, width)


def _extra(window: Window) -> int:
    """Return what torch calls the output padding."""
    before, after = window.pads
    return before - after


def layers_from(
    model: nn.Module, input_size: Sequence[int] | None
) -> tuple[tuple[Layer, ...], int]:
    """Return the layers of a network that is one chain, and the channels it takes."""
    size = tuple(input_size or _usual_size(model))
    links = chain(model, size)
    if len(links) > MOST_LAYERS:
        raise ValueError(
            f"an explorer shows at most {MOST_LAYERS} layers, and "
            f"{type(model).__name__} has {len(links)}: give a part of it"
        )
    if len(links[0].windows) > 2:
        raise ValueError(
            f"an explorer shows one or two axes, and {type(model).__name__} has "
            f"{len(links[0].windows)}"
        )
    layers = (Layer(link.windows[0], link.windows[-1], link.pooling) for link in links)
    return tuple(layers), size[0]


def _usual_size(model: nn.Module) -> tuple[int, ...]:
    """Return 512 a side, with the sides and channels of the first convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            return (module.in_channels, *[512] * len(module.kernel_size))
    raise ValueError(
        f"{type(model).__name__} has no Conv1d or Conv2d to tell its input's size: "
        "give input_size=(channels, height, width)"
    )
