"""From a strided network to a dense one that computes the same."""

import operator
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F

__all__ = ["remove_stride_"]

# what works on each unit by itself, so that it does not matter how far apart they are
_POINTWISE: tuple[type[nn.Module], ...] = (
    *(nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity, nn.ReLU, nn.ReLU6),
    *(nn.Hardswish, nn.LeakyReLU, nn.SiLU, nn.Sigmoid),
)
_FUNCTIONS = {F.relu, torch.relu, operator.add, operator.iadd, torch.add}


class _Spacing(NamedTuple):
    """Of a map: pixels from unit to unit, and units between two of the strided one's.

    Both are 1 for the image; a layer that keeps its stride multiplies the first, one
    that loses it the second.
    """

    stride: int
    rate: int


def remove_stride_(network: nn.Module, output_stride: int) -> None:
    """Remove strides beyond ``output_stride`` and dilate what follows, in place.

    Every n-th unit of the new output, n the stride removed, is what the strided
    network computed; the units between are, away from the padding, what it computes for
    the image moved by less than its stride. For networks (N, C, H, W) → (N, C, h, w) of
    convolutions, max pooling, operations on single units and sums: everything behind a
    removed stride is dilated, pooling too, and its zero padding grows alike. The
    layer that loses its stride keeps the dilation it has, which is what "first block of
    a stage" mistakes are about.

    Raises ValueError, before anything is changed, for an operation that has no dense
    form, for a network that torch.fx cannot trace (in the mode that it is in), for
    layers with hooks, and where maps of different spacing meet.

    Source: Shelhamer, Long and Darrell, PAMI 2017, section 4.2; Yu and Koltun, 2016.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.MaxPool2d(2))
    >>> remove_stride_(net, 1)
    >>> net[0].stride, net[1].stride, net[1].dilation
    ((1, 1), (1, 1), (2, 2))
    """
    if not isinstance(output_stride, int) or output_stride < 1:
        raise ValueError(
            f"output_stride must be a whole number above 0, got {output_stride!r}"
        )
    try:
        graph = fx.Tracer().trace(network)
    except Exception as error:  # whatever the network's own code raises
        raise ValueError(f"the network cannot be traced: {error}") from error
    spacings: dict[fx.Node, _Spacing] = {}
    changes: dict[nn.Module, tuple[int, int]] = {}
    for node in graph.nodes:
        below = {spacings[one] for one in node.all_input_nodes}
        if len(below) > 1:
            raise ValueError(f"maps of different spacing meet in {node.name}: {below}")
        here = below.pop() if below else _Spacing(1, 1)
        if node.op == "call_module":
            layer = network.get_submodule(str(node.target))
            if layer._forward_hooks or layer._forward_pre_hooks:
                raise ValueError(f"{node.target} has hooks, which may change its units")
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                stride = _stride(layer, str(node.target))
                removed = here.stride * stride > output_stride
                if removed or here.rate > 1:
                    _check(layer, str(node.target), here.rate)
                change = (1 if removed else stride, here.rate)
                if changes.setdefault(layer, change) != change:
                    raise ValueError(
                        f"{node.target} is used twice, at different spacings"
                    )
                if removed:
                    here = here._replace(rate=here.rate * stride)
                else:
                    here = here._replace(stride=here.stride * stride)
            elif not isinstance(layer, _POINTWISE):
                raise ValueError(
                    f"{node.target} ({type(layer).__name__}) has no dense form; give "
                    "the part of the network before it"
                )
        elif node.op == "call_function" and node.target not in _FUNCTIONS:
            raise ValueError(
                f"{node.name} has no dense form; give the part of the network before it"
            )
        elif node.op == "call_method":
            raise ValueError(f"the method {node.target} has no dense form")
        spacings[node] = here
    for layer, (stride, rate) in changes.items():
        _change(layer, stride, rate)


def _stride(layer: nn.Conv2d | nn.MaxPool2d, name: str) -> int:
    """The stride of a layer along both axes."""
    first, second = _pair(layer.stride)
    if first != second:
        raise ValueError(f"{name} must have one stride for both axes, got {layer}")
    return first


def _check(layer: nn.Conv2d | nn.MaxPool2d, name: str, rate: int) -> None:
    """Why a layer cannot lose its stride or be dilated, if so."""
    if isinstance(layer, nn.Conv2d):
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise ValueError(f"{name} must be padded by a number of zeros, got {layer}")
        return
    if layer.ceil_mode and _pair(layer.stride) != (1, 1):
        raise ValueError(
            f"{name} rounds its size up, which has no dense form; got {layer}"
        )
    pads, kernels = _pair(layer.padding), _pair(layer.kernel_size)
    for pad, kernel in zip(pads, kernels, strict=True):
        if 2 * pad * rate > kernel:
            raise ValueError(
                f"{name} would be padded by {pad * rate}, and torch pads pooling by no "
                f"more than half its kernel; got {layer}"
            )


def _change(layer: nn.Module, stride: int, rate: int) -> None:
    if rate == 1 and _pair(layer.stride) == (stride, stride):  # type: ignore[arg-type]
        return
    for name, factor in (("dilation", rate), ("padding", rate)):
        first, second = _pair(getattr(layer, name))
        setattr(layer, name, (first * factor, second * factor))
    layer.stride = (stride, stride)  # type: ignore[assignment]


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second
