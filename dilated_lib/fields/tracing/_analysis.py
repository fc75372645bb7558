"""From the maps of a network to the fields of its layers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from dilated_lib.fields.arithmetic import ReceptiveField
from dilated_lib.fields.tracing._graph import Graph, follow, label, operation, path_of
from dilated_lib.fields.tracing._maps import Digit, Map
from dilated_lib.fields.tracing._passes import Seen, fields
from dilated_lib.fields.tracing._shapes import settle
from dilated_lib.fields.tracing._signals import WHOLE, Signal, TracingError, union

Answers = Mapping[Signal, tuple[Seen, ...]]


@dataclass(frozen=True)
class Layer:
    """A row of the table: one operation that reads other units than its own.

    ``module`` is where it is computed and ``operation`` what it does; ``shape`` is its
    output's, (N, C, …); ``fields`` has one entry an axis, for all channels together.
    ``aligned`` is False where maps meet whose units at one place look at different
    centres.
    """

    module: str
    operation: str
    shape: tuple[int, ...]
    fields: tuple[ReceptiveField, ...]
    aligned: bool


class Traced(NamedTuple):
    """The graph behind an answer, the node that was asked for, and its map.

    ``compares`` says that a NaN may be lost on the way: something there is a truth or
    an index, or is chosen by one.
    """

    graph: Graph
    node: fx.Node
    map: Map
    compares: bool


def analysed(
    graph: Graph, of: str | None, to: str | None
) -> tuple[Signal, Answers, tuple[Layer, ...], Traced]:
    """The signal of the output, all fields, the table, and what is behind them."""
    start = None if of is None else graph.find(of)
    end = graph.output() if to is None else graph.find(to)
    values = follow(graph, start)
    if isinstance(values.get(end), list):
        raise ValueError(f"{to} is several maps: choose one of them with to=…")
    if end not in values or not values[end].different:
        raise ValueError(f"{to or 'the output'} does not depend on {of or 'the input'}")
    if any(isinstance(one.role, frozenset) for dim in values[end].dims for one in dim):
        raise TracingError(
            f"{label(end)} puts positions beside other things along one dimension, so "
            "that its units are no longer those of a map"
        )
    for dim, digits in enumerate(values[end].dims):
        if not _read_as_units(digits):
            values[end] = settle(values[end], dim, label(end))
    live = _live(end, values)
    signals = _together(live, values)
    seen = fields(signals.values())
    rows = tuple(_rows(signals, values, seen))
    shown = (pytree.tree_leaves(node.meta["val"])[0] for node in live)
    compares = not all(one.is_floating_point() for one in shown) or any(
        isinstance(node.target, OpOverload) and operation(node) in _SWALLOWS
        for node in live
    )
    return signals[end], seen, rows, Traced(graph, end, values[end], compares)


_SWALLOWS = frozenset(
    {
        *("where", "masked_fill", "sign", "sgn", "heaviside", "nan_to_num", "nansum"),
        *("fmax", "fmin"),
    }
)


def _read_as_units(digits: Sequence[Digit]) -> bool:
    """Is each place of a dimension a unit, or a channel of one?

    Not where positions are beside other things, or have channels between them.
    """
    plain = [digit.plain for digit in digits]
    mixed = any(isinstance(digit.role, frozenset) for digit in digits)
    return not mixed and plain == sorted(plain, reverse=True)


def _live(end: fx.Node, values: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """The nodes on a way from the input to ``end``, in order."""
    needed = {end}
    for node in reversed([*values]):
        if node in needed:
            needed |= {one for one in node.all_input_nodes if one in values}
    return [node for node in values if node in needed]


def _together(
    nodes: Iterable[fx.Node], values: Mapping[fx.Node, Any]
) -> dict[fx.Node, Signal]:
    """All that each node computes from the input, as one signal."""
    signals: dict[fx.Node, Signal] = {}
    unions: dict[frozenset[Signal], Signal | None] = {}
    for node in nodes:
        if isinstance(values[node], list):  # its parts are nodes of their own
            continue
        parts = values[node].different
        if frozenset(parts) not in unions:
            unions[frozenset(parts)] = union(label(node), parts)
        whole = unions[frozenset(parts)]
        if whole is not None:
            signals[node] = whole
    return signals


def _rows(
    signals: Mapping[fx.Node, Signal], values: Mapping[fx.Node, Any], seen: Answers
) -> Iterable[Layer]:
    """A row for each node whose units read others than their own."""
    for node, signal in signals.items():
        inputs = {signals[one] for one in node.all_input_nodes if one in signals}
        shown = all(map(_read_as_units, values[node].dims))
        if inputs and signal not in inputs and node.target is not getitem and shown:
            yield Layer(
                (path_of(node) or [node.name])[-1],
                operation(node),
                values[node].shape,
                tuple(axis.field for axis in seen[signal]),
                not _meets(node) or all(axis.aligned for axis in seen[signal]),
            )


def _meets(node: fx.Node) -> bool:
    """Does a node take maps together place by place?"""
    target: Any = node.target
    return torch.Tag.pointwise in target.tags or operation(node) in _JOINS


_JOINS = frozenset(
    {
        *("cat", "concatenate", "stack", "slice_scatter", "select_scatter"),
        *("einsum", "matmul", "bmm", "mm", "addmm", "baddbmm"),
    }
)


def first_whole(seen: Answers) -> str | None:
    """The name of the first layer that reads a whole axis."""
    for signal in sorted(seen, key=lambda one: one.order):
        if any(along is WHOLE for _, alongs in signal.reads for along in alongs):
            return signal.name
    return None
