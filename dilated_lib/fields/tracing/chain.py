"""The layers of a network that is one chain, as windows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import fx, nn

from dilated_lib.fields.arithmetic import compose
from dilated_lib.fields.tracing.export import label, named, operation
from dilated_lib.fields.tracing.report import receptive_field
from dilated_lib.fields.tracing.rules import Call, convolution_windows, pool_windows
from dilated_lib.fields.windows import Window


class Link(NamedTuple):
    """One layer of a chain: its window along each axis, and whether it pools."""

    windows: tuple[Window, ...]
    pooling: bool


def chain(model: nn.Module, input_size: Sequence[int]) -> tuple[Link, ...]:
    """List the convolutions and poolings of a network, those nearest the input first.

    ``input_size`` is (C, …) without the batch. Padding layers belong to the layer that
    reads them; what works unit by unit is left out. A pooling's ``ceil_mode`` is not
    told, nor what padding is filled with.

    Raises ValueError for a network that is no chain of such layers: the fields of the
    chain must be those of the network. TracingError as ``receptive_field`` does.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2))
    >>> [link.windows[0].kernel_size for link in chain(net, (1, 8, 8))]
    [3, 2]
    """
    fields = receptive_field(model, input_size)
    node, reached = fields.traced.end, {fields.traced.start}
    for one in fields.traced.graph.nodes:
        if not reached.isdisjoint(one.all_input_nodes):
            reached.add(one)
    links: list[Link] = []
    while node is not fields.traced.start:
        name = operation(node)
        if "conv" in name:
            links.insert(0, Link(tuple(convolution_windows(_call(node))), False))
        elif name.startswith(("max_pool", "avg_pool")):
            links.insert(0, Link(tuple(pool_windows(_call(node))), True))
        elif "pad" in name:
            _pad(links, _call(node), label(node))
        sources = [one for one in node.all_input_nodes if one in reached]
        if len(sources) != 1:
            raise ValueError(
                f"{label(node)} takes {len(sources)} maps together, and a chain has "
                "one after the other: give a part of the network"
            )
        (node,) = sources
    if not links or any(
        compose(link.windows[axis] for link in links) != field
        for axis, field in enumerate(fields)
    ):
        raise ValueError(
            f"{type(model).__name__} is no chain of convolutions and poolings: it also "
            "resizes, crops or reads whole axes; give a part of the network"
        )
    return tuple(links)


def _call(node: fx.Node) -> Call:
    """Return a node's operation and its arguments, those of the graph as shown."""
    arguments: Any = named(node.target, node.args, node.kwargs)
    given = fx.map_arg(arguments, lambda one: one.meta.get("val"))
    return Call(operation(node), dict(given), [], None)


def _pad(links: list[Link], call: Call, name: str) -> None:
    """Give a padding to the layer above it, the first of ``links``."""
    pads = call["pad"] if "pad" in call.args else call["padding"]
    pairs = [*zip(pads[::2], pads[1::2], strict=True)][::-1]  # torch has the last first
    if not links or min(pads) < 0 or links[0].windows[0].transposed:
        raise ValueError(
            f"{name} pads {tuple(pads)}, and no convolution or pooling reads it as its "
            "own padding"
        )
    windows = list(links[0].windows)
    for axis, (before, after) in enumerate(pairs, len(windows) - len(pairs)):
        own = windows[axis].pads
        pads = (own[0] + before, own[1] + after)
        windows[axis] = replace(windows[axis], padding=pads)
    links[0] = Link(tuple(windows), links[0].pooling)
