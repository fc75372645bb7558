"""The answer: the field of every layer of a network, and how it came about."""

import gc
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.utils import _pytree as pytree

from dilated_lib.arithmetic import ReceptiveField
from dilated_lib.tracing._graph import Graph, follow, label, operation, path_of, trace
from dilated_lib.tracing._maps import Map
from dilated_lib.tracing._passes import Seen, fields, reached
from dilated_lib.tracing._signals import WHOLE, Signal, TracingError, union

__all__ = ["Fields", "Layer", "receptive_field"]


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

    ``compares`` says that something on the way is no number with a fraction, but a
    truth or an index.
    """

    graph: Graph
    node: fx.Node
    map: Map
    compares: bool


class Fields(tuple[ReceptiveField, ...]):
    """What the units of an output see: a tuple, one field an axis, and how it came.

    ``layers`` has a row for each layer on the way, ``unbounded`` the name of the first
    whose units depend on positions at any distance, if any. ``coverage`` is an array
    over the fields of unit 0: which positions its paths reach, where it was asked for.
    ``seconds`` tells the time for tracing and for the analysis.
    """

    def __new__(cls, signal: Signal, seen: Answers, **_: Any) -> Self:
        """The fields alone; see __init__ for the rest."""
        return super().__new__(cls, (axis.field for axis in seen[signal]))

    def __init__(
        self,
        signal: Signal,
        seen: Answers,
        *,
        layers: tuple[Layer, ...],
        coverage: bool,
        seconds: tuple[float, float],
        traced: Traced,
    ) -> None:
        self.layers, self.seconds, self.traced = layers, seconds, traced
        self._signal = signal
        self._source = min(seen, key=lambda one: one.order)
        self.coverage = self._covered() if coverage else None
        self.unbounded = _first_whole(seen)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Units of the output along each axis; 1 where the axis is gone."""
        return tuple(length or 1 for length in self._signal.lengths)

    def _covered(self) -> NDArray[np.bool_]:
        found = reached(self._signal, (0,) * len(self), borders=False)
        starts = [axis.start(0) for axis in self]
        ends = [axis.end(0) for axis in self]
        return _placed(found, starts, [end + 1 for end in ends])

    @property
    def aligned(self) -> bool:
        """Do all maps that meet look at the same centres?"""
        return all(layer.aligned for layer in self.layers)

    def region(self, *unit: int, idle: bool = False) -> NDArray[np.bool_]:
        """Which positions of the input one unit depends on; shape of the input's axes.

        Borders are taken as they are: a position in zero padding is none, one in
        reflected, replicated or circular padding is the one that it repeats. ``idle``
        adds positions that resizing reads with weight zero.

        Raises ValueError for a unit that the output does not have.
        """
        if len(unit) != len(self) or not all(
            0 <= one < length for one, length in zip(unit, self.lengths, strict=True)
        ):
            raise ValueError(f"unit must be within {self.lengths}, got {unit}")
        found = reached(self._signal, unit, borders=True, idle=idle)
        ends = [length or 1 for length in self._source.lengths]
        return _placed(found, [0] * len(ends), ends)


def receptive_field(
    model: nn.Module,
    input_size: Sequence[int],
    *,
    of: str | None = None,
    to: str | None = None,
    coverage: bool = False,
) -> Fields:
    """What each unit of a network's output sees of its input, one field an axis.

    ``input_size`` is (C, …) without the batch: (3, H, W) for a picture. The field is
    that of the network continued over an unlimited input, so it may exceed the
    picture. ``to`` names the output, or a module whose result to take, such as
    "layer4"; ``of`` a module whose result to take for the input. ``coverage`` adds
    which positions inside the field of unit 0 are reached.

    Layers that read a whole axis, such as global pooling or attention over all
    positions, make ``size`` infinite. Batch norm is taken in evaluation mode. Values
    are not looked at: a weight or a constant mask of zero counts like any other.

    Raises TracingError, with one sentence, for what it does not understand: a network
    that decides by values, an operation without a rule, or maps that meet with
    different strides. ValueError for impossible names or sizes.

    >>> h, w = receptive_field(nn.Conv2d(3, 8, (3, 5), dilation=2), (3, 32, 32))
    >>> h.size, w.size
    (5, 9)
    """
    size = tuple(input_size) if isinstance(input_size, Sequence) else ()
    if len(size) < 2 or not all(isinstance(one, int) and one > 0 for one in size):
        raise ValueError(
            "input_size must be (channels, then one length an axis), such as "
            f"(3, 224, 224); got {input_size!r}"
        )
    begin = time.perf_counter()
    graph = trace(model, size)
    traced = time.perf_counter()
    collecting = gc.isenabled()
    gc.disable()  # signals stay: looking for dead ones doubles the time
    try:
        signal, seen, layers, behind = _analysed(graph, of, to)
    finally:
        if collecting:
            gc.enable()
    seconds = (traced - begin, time.perf_counter() - traced)
    return Fields(
        signal,
        seen,
        layers=layers,
        coverage=coverage,
        seconds=seconds,
        traced=behind,
    )


def _analysed(
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
    if _beside(values[end]):
        raise TracingError(
            f"{label(end)} puts positions beside other things along one dimension, so "
            "that its units are no longer those of a map"
        )
    live = _live(end, values)
    signals = _together(live, values)
    seen = fields(signals.values())
    rows = tuple(_rows(signals, values, seen))
    shown = (pytree.tree_leaves(node.meta["val"])[0] for node in live)
    compares = not all(one.is_floating_point() for one in shown)
    return signals[end], seen, rows, Traced(graph, end, values[end], compares)


def _beside(m: Map) -> bool:
    """Are positions of a map mixed up with others, or with other things?"""
    return any(isinstance(digit.role, frozenset) for dim in m.dims for digit in dim)


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
        known = node.target is getitem or _beside(values[node])
        if inputs and signal not in inputs and not known:
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
    return torch.Tag.pointwise in target.tags or "cat" in target.name()


def _first_whole(seen: Answers) -> str | None:
    """The name of the first layer that reads a whole axis."""
    for signal in sorted(seen, key=lambda one: one.order):
        if any(along is WHOLE for _, alongs in signal.reads for along in alongs):
            return signal.name
    return None


def _placed(
    found: tuple[tuple[int, ...], NDArray[np.bool_]] | None,
    starts: Sequence[int],
    ends: Sequence[int],
) -> NDArray[np.bool_]:
    """A set of positions as an array from ``starts`` to before ``ends``."""
    whole = np.zeros(np.subtract(ends, starts), bool)
    if found is not None:
        corner, inside = found
        low = [max(pair) for pair in zip(corner, starts, strict=True)]
        sizes = map(sum, zip(corner, inside.shape, strict=True))
        high = [min(pair) for pair in zip(sizes, ends, strict=True)]
        whole[_box(low, high, starts)] = inside[_box(low, high, corner)]
    return whole


def _box(
    low: Sequence[int], high: Sequence[int], origin: Sequence[int]
) -> tuple[slice, ...]:
    sides = zip(low, high, origin, strict=True)
    return tuple(slice(first - zero, end - zero) for first, end, zero in sides)
