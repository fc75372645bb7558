"""From a strided network to a dense one that computes the same."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dilated_lib.dilation.pointwise import is_pointwise, running
from dilated_lib.dilation.pooling import dilated_pool, pair
from dilated_lib.fields.tracing import export, rules
from dilated_lib.fields.tracing.export import (
    TracingError,
    operation,
    path_of,
    shapes_of,
)
from dilated_lib.fields.tracing.reach import Hulls
from dilated_lib.values import whole, wholes

__all__ = ["remove_stride_"]

_LAYERS: dict[str, Any] = {
    "conv2d": nn.Conv2d,
    "max_pool2d": nn.MaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
}
# Sides of pictures to trace on. On odd maps, padding that depends on the size shows.
_SIDES = 257, 1025, 224, 64


class _Change(NamedTuple):
    """What becomes of a layer: whether it loses its stride, and how it is dilated."""

    removed: bool
    rate: int


_Plan = dict[nn.Module, _Change]
_NONE = _Change(removed=False, rate=1)


def remove_stride_(
    network: nn.Module, output_stride: int, *, input_size: Sequence[int] | None = None
) -> None:
    """Remove strides beyond ``output_stride`` and dilate what follows, in place.

    Let n be the stride that is removed. Every n-th unit of the new output is what the
    strided network computed in evaluation mode. The units between are, away from the
    padding, what it computes for the image moved by less than its stride. Each of
    several outputs has its own n. The layer that loses its stride keeps the dilation it
    has; to dilate it, too, is the well-known mistake in the first block of a stage.
    Everything behind it is dilated, pooling included, and its zero padding grows alike.

    The network is traced. What computes each unit from that unit alone may follow a
    removed stride as it is: activations, batch norm, sums, concatenated or permuted
    channels. Convolutions and pooling are changed if they are layers of the network
    (``nn.Conv2d``, ``nn.MaxPool2d``, ``nn.AvgPool2d``). Some pooling layers, which have
    no weights, are replaced: an average that has to be dilated or rounds its size up by
    a ``DilatedAvgPool2d``; a maximum that rounds its size up, or whose padding would
    exceed half its kernel, by an ``nn.ConstantPad2d`` before an ``nn.MaxPool2d``.

    ``input_size`` is the (C, H, W) to trace with; afterwards the network works on any
    size that it worked on. If it is left out, squares of 257, 1025, 224 and 64 pixels
    are tried, with as many channels as the first convolution takes.

    Raises TypeError or ValueError for impossible arguments. Raises ValueError, before
    anything is changed, for what cannot stay as it is behind a removed stride, such as
    a mean over all positions or an upsampling; for a convolution or pooling that would
    have to change and is not a layer; for layers with hooks; for a network that cannot
    be traced; and where maps meet whose units stand at different distances, or whose
    sizes no longer agree.

    Source: Shelhamer, Long and Darrell, PAMI 2017, section 3.2; Yu and Koltun, 2016.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.MaxPool2d(2))
    >>> remove_stride_(net, 1)
    >>> net[0].stride, net[1].stride, net[1].dilation
    ((1, 1), (1, 1), (2, 2))
    """
    output_stride = whole("output_stride", output_stride, 1)
    if input_size is not None:
        what = "channels, a height and a width"
        input_size = wholes("input_size", input_size, 1, what=what, count=3)
    graph = _traced(network, input_size)
    plan = _planned(network, graph, output_stride)
    if network in plan and not isinstance(network, nn.Conv2d):
        raise ValueError(f"{network} may have to be replaced: put it in nn.Sequential")
    with export.ONE_AT_A_TIME, export.left_alone(network):
        _change(network, plan)
        _run(network, graph.inputs[0].meta["val"])
    _change(network, plan)


def _traced(network: nn.Module, input_size: Sequence[int] | None) -> export.Graph:
    """Trace a network, on the size given or on the first that it takes."""
    convs = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    channels = next((conv.in_channels for conv in convs), 3)
    sizes = [(channels, side, side) for side in _SIDES]
    errors = []
    for size in sizes if input_size is None else [tuple(input_size)]:
        try:
            return export.trace(network, [size], rules.known)
        except TracingError as error:
            errors.append(error)
    raise ValueError(f"{errors[0]}; input_size=(C, H, W) names a size that it takes")


def _planned(network: nn.Module, graph: export.Graph, output_stride: int) -> _Plan:
    """Decide what becomes of each layer that has to change; nothing is changed yet.

    The nodes of the graph are followed in order. Each map has a rate: how many units of
    the dense network lie between two neighbours of the strided one. A layer whose
    result would be strided by more than ``output_stride`` loses its stride, which
    multiplies the rate of all that follows; a layer that reads a map of rate r is
    dilated by r. So the plan is one pass, and everything in it that cannot be carried
    out raises ValueError here, while the network is still as it was.
    """
    graph.module.graph.eliminate_dead_code()
    start = graph.inputs[0]
    maps: dict[fx.Node, Any] = {start: Hulls().input(shapes_of(start)[0])}
    rates = {start: 1}  # units of the dense network between two of the strided one's
    uses: dict[nn.Module, tuple[str, _Change]] = {}
    for node in graph.nodes:
        below = [one for one in node.all_input_nodes if one in maps]
        if node.op != "call_function" or not below:
            continue
        path = path_of(node)
        layer = network.get_submodule(path[-1]) if path else network
        name = path[-1] if path else type(network).__name__
        try:
            result = rules.apply(node, maps, Hulls())
        except TracingError as error:
            raise ValueError(f"{name} ({node.name}) {error}") from error
        if result is None:  # only its shape depends on the image
            continue
        if not layer._modules and (layer._forward_hooks or layer._forward_pre_hooks):
            raise ValueError(f"{name} has hooks, which may change its units")
        spacings = {rates[one] for one in below if running(maps[one])} or {1}
        if len(spacings) > 1:
            raise ValueError(
                f"maps of different spacing meet in {name} ({node.name}): on the ways "
                f"to it, strides of {' and '.join(map(str, sorted(spacings)))} would "
                "be removed; another output_stride may suit them"
            )
        (rate,) = spacings
        kept = max([abs(axis.rate) / rate for axis in running(result)], default=0)
        change = _Change(kept > output_stride, rate)
        maps[node], rates[node] = result, rate
        if change == _NONE and not isinstance(layer, tuple(_LAYERS.values())):
            continue
        if not change.removed and is_pointwise(node, maps):
            continue
        if change != _NONE:
            _check(node, layer, name, change, maps[below[0]])
            rates[node] *= pair(layer.stride)[0] if change.removed else 1
        what, other = uses.setdefault(layer, (operation(node), change))
        if other != change:
            raise ValueError(
                f"{name} is used twice, at different spacings; give each place a layer "
                "of its own"
                if what == operation(node)
                else f"{name} computes {what}, too, which its stride may decide; let "
                "its padding be a number of zeros"
            )
    return {layer: change for layer, (_, change) in uses.items() if change != _NONE}


def _check(node: fx.Node, layer: Any, name: str, change: _Change, before: Any) -> None:
    """Raise ValueError for what cannot be changed as it has to be.

    Args:
        node: The call in the graph.
        layer: The innermost module that makes the call.
        name: Its name in the network.
        change: What has to become of it.
        before: The map that the call reads.
    """
    what = operation(node)
    if what not in _LAYERS:
        raise ValueError(
            f"{name} ({what}) cannot be made dense: it does not compute each unit from "
            "that unit alone, and alike, and these would stand further apart; give "
            "the part of the network before it, or a larger output_stride"
        )
    if not isinstance(layer, _LAYERS[what]):
        raise ValueError(
            f"{name} calls {what} where nothing can be changed, in its forward or as a "
            f"graph; let a layer nn.{_LAYERS[what].__name__} compute it"
        )
    given = export.named(node.target, node.args, node.kwargs)
    own = ["stride", "padding", *(["dilation"] if "dilation" in given else [])]
    if any(pair(given[key]) != pair(getattr(layer, key)) for key in own):
        raise ValueError(
            f"{name} must use its own stride and dilation, and be padded by a number "
            f"of zeros; got {layer}"
        )
    if {axis.dim for axis in before.axes} != {2, 3}:
        raise ValueError(f"{name} must work on maps (N, C, H, W)")
    first, second = pair(layer.stride)
    if change.removed and first != second:
        raise ValueError(f"{name} must have one stride for both axes, got {layer}")
    if layer.padding == "same" and not all(k % 2 for k in pair(layer.kernel_size)):
        raise ValueError(f"{name} pads an even kernel unevenly; name a number of zeros")


def _run(network: nn.Module, image: torch.Tensor) -> None:
    """Raise ValueError if the changed network fails on an image of this size.

    The run is on torch's fake tensors, which have a size and no values.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    eager: Any = torch.compiler.set_stance("force_eager")
    try:
        with fake, eager, torch.no_grad():
            network(torch.empty(image.shape, dtype=image.dtype, device=image.device))
    except Exception as error:  # whatever the network's own code raises
        raise ValueError(
            f"without its strides the network would fail: {error}; sizes of maps that "
            "agreed may now differ, or be others than its forward expects"
        ) from error


def _change(network: nn.Module, plan: _Plan) -> None:
    """Carry out a plan; a module that has to be replaced is, wherever it is used."""
    for layer, change in plan.items():
        new = _changed(layer, change)
        for parent in [*network.modules()]:
            for name in [n for n, child in parent._modules.items() if child is layer]:
                parent._modules[name] = new


def _changed(layer: Any, change: _Change) -> Any:
    """Return the layer without its stride, or dilated; it may be another module."""
    stride = (1, 1) if change.removed else pair(layer.stride)
    if not isinstance(layer, nn.Conv2d):
        new = dilated_pool(layer, stride, change.rate)
        if new:
            return new.train(layer.training)
    layer.stride = stride
    for key in ("dilation", "padding"):
        value = pair(getattr(layer, key, ""))
        if not isinstance(value, str):
            setattr(layer, key, tuple(units * change.rate for units in value))
    return layer
