"""The answer: the field of every layer of a network, and how it came about."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import permutations
from math import ceil, inf, prod
from operator import getitem
from typing import Any, NamedTuple, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from dilated_lib.fields import trial
from dilated_lib.fields.arithmetic import ReceptiveField
from dilated_lib.fields.tracing import export, rules
from dilated_lib.fields.tracing.export import (
    Graph,
    TracingError,
    label,
    operation,
    shapes_of,
)
from dilated_lib.fields.tracing.reach import Axis, Hull, Hulls, Shape, Sums, line, most
from dilated_lib.values import one_of, wholes

Bools = NDArray[np.bool_]
SWALLOWS = re.compile(
    "where|masked_fill|sign|sgn|heaviside|nan_to_num|nansum|fm(ax|in)"
)


@contextmanager
def _on_cpu() -> Iterator[None]:
    """Make new tensors on the CPU, whichever device is the default."""
    elsewhere = torch.get_default_device().type != "cpu"
    with torch.device("cpu") if elsewhere else nullcontext():
        yield


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
    """What is behind an answer: a graph, its two ends, and what the last map sees.

    ``aside`` tells which values were left out as statistics. ``compares`` says that a
    NaN may be lost on the way: something is a truth or an index, or is chosen by one.
    """

    graph: Graph
    start: fx.Node
    end: fx.Node
    hull: Hull
    aside: dict[Any, list[frozenset[int]]]
    compares: bool


class Fields(tuple[ReceptiveField, ...]):
    """What the units of an output see: a tuple, one field an axis, and how it came.

    ``layers`` has a row for each layer on the way, ``unbounded`` the name of the first
    whose units depend on positions at any distance, if any. ``ignored`` names the
    layers that did not count, where statistics were to be ignored. ``coverage`` is an
    array over the fields of unit 0 (the first, if it is a gap of a transposed layer,
    that reads anything): which positions its paths reach, where it was asked for.
    ``seconds`` tells the time for tracing and for the analysis. Copies and pickles are
    plain tuples of the fields.
    """

    layers: tuple[Layer, ...]
    unbounded: str | None
    ignored: tuple[str, ...]
    coverage: Bools | None
    seconds: tuple[float, float]
    traced: Traced
    paths: dict[bool, tuple[Sums, dict[fx.Node, Any]]]

    def __new__(cls, fields: Sequence[ReceptiveField], **details: Any) -> Self:
        """Make a tuple of the fields, with what else is known of them by name."""
        answer = super().__new__(cls, fields)
        vars(answer).update(details, paths={})
        return answer

    def __reduce__(self) -> tuple[type, tuple[tuple[ReceptiveField, ...]]]:
        return tuple, (tuple(self),)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Count the output's units along each axis; 1 where the axis is gone."""
        hull = self.traced.hull
        return tuple(1 if a.dim is None else hull.shape[a.dim] for a in hull.axes)

    @property
    def aligned(self) -> bool:
        """Tell whether all maps that meet look at the same centres."""
        return all(layer.aligned for layer in self.layers)

    @_on_cpu()
    def region(self, *unit: int, idle: bool = False) -> Bools:
        """Find the positions of the input that one unit depends on.

        The result has the shape of the input's axes. Borders are taken as they are: a
        position in zero padding is none, one in reflected, replicated or circular
        padding is the one that it repeats. ``idle`` adds positions that resizing reads
        with weight zero.

        Raises ValueError for a unit that the output does not have.
        """
        _require_unit(unit, self.lengths)
        if idle not in self.paths:
            sums = Sums(idle=idle, aside=self.traced.aside)
            self.paths[idle] = sums, _followed(*self.traced[:3], sums)
        sums, values = self.paths[idle]
        end, belongs = values[self.traced.end], self.elements(unit)
        if not belongs.any():
            raise ValueError(
                f"there is no unit {unit}: units run along both axes at once, as on a "
                "diagonal"
            )
        return _read(sums, end, belongs.reshape(end.shape))

    def elements(self, unit: tuple[int, ...]) -> Tensor:
        """Tell which elements of ``traced.hull`` belong to a unit."""
        hull = self.traced.hull
        belongs = torch.ones(hull.shape, dtype=torch.bool)
        for axis, number in zip(hull.axes, unit, strict=True):
            if axis.dim is not None:
                own = torch.arange(hull.shape[axis.dim]) == number
                belongs &= line(own, axis.dim, belongs.dim())
        return belongs


def _require_unit(unit: Sequence[int], lengths: tuple[int, ...]) -> None:
    if len(unit) != len(lengths) or not all(
        0 <= one < length for one, length in zip(unit, lengths, strict=True)
    ):
        raise ValueError(f"unit must be within {lengths}, got {tuple(unit)}")


def _read(sums: Sums, end: Any, elements: Tensor) -> Bools:
    """Return the positions of the input that some elements of a map depend on."""
    with torch.enable_grad():
        whole = (end.value * elements).sum()
    (found,) = torch.autograd.grad(whole, sums.leaf, retain_graph=True)
    result: Bools = (found[0, 0] != 0).numpy()
    return result


@overload
def receptive_field(
    model: nn.Module, input_size: Sequence[int], **options: Any
) -> Fields: ...
@overload
def receptive_field(
    model: nn.Module, input_size: Sequence[Sequence[int]], **options: Any
) -> tuple[Fields, ...]: ...
def receptive_field(  # type: ignore[misc]
    model: nn.Module,
    input_size: Sequence[int] | Sequence[Sequence[int]],
    *,
    of: str | None = None,
    to: str | None = None,
    coverage: bool = False,
    statistics: str = "read",
) -> Fields | tuple[Fields, ...]:
    """Compute what each unit of a network's output sees, as one field an axis.

    ``input_size`` is (C, …) without the batch: (3, H, W) for a picture. For a network
    with several inputs it is a list of such sizes, and the answer has the fields in
    each input. The field is that of the network continued over an unlimited input, so
    it may exceed the picture. ``to`` names the output, or a module whose result to
    take, such as "layer4": what comes after it does not matter. ``of`` names a module
    whose result to take for the input. ``coverage`` adds which positions inside the
    field of unit 0 are reached; for that the network is traced on a larger input.

    Layers that read a whole axis, such as global pooling or attention over all
    positions, make ``size`` infinite. With ``statistics="ignore"`` one value for all
    positions that meets a map does not count: the mean and variance of instance norm,
    the weights of squeeze-and-excitation. The answer names these layers (``ignored``).
    Batch norm is taken in evaluation mode. Values are not looked at: a weight or a
    constant mask of zero counts like any other.

    Raises TracingError, with one sentence, for what it does not understand: a network
    that decides by values, an operation that it does not know, or maps that meet with
    different strides. ValueError for impossible names or sizes, TypeError for what is
    no module or no name.

    >>> h, w = receptive_field(nn.Conv2d(3, 8, (3, 5), dilation=2), (3, 32, 32))
    >>> h.size, w.size
    (5, 9)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
    one_of("statistics", statistics, ("read", "ignore"))
    sizes = _sizes(input_size)
    begin = time.perf_counter()
    try:
        graph = export.trace(model, sizes, rules.known, to)
    except TracingError as error:
        text = f"{error}{trial.near(model, sizes)}"
        raise TracingError(text) from error.__cause__
    seconds = time.perf_counter() - begin
    starts = graph.inputs if of is None else [graph.find(of)]
    ignore = statistics == "ignore"
    answers = [_analysed(graph, one, of, to, ignore, seconds) for one in starts]
    for answer in answers if coverage else ():
        vars(answer)["coverage"] = _covered(model, sizes, answer, of, to, ignore)
    several = isinstance(next(iter(input_size)), list | tuple)
    return tuple(answers) if several else answers[0]


def region(
    model: nn.Module,
    input_size: Sequence[int],
    unit: Sequence[int],
    *,
    to: str | None = None,
) -> Bools:
    """Find the positions of the input that one unit of an output (N, C, …) reads.

    It is ``Fields.region`` for networks whose units have no field in common, such as
    those that resize with ``align_corners=True`` beside maps of whole strides. The
    result has the shape of the input's axes.

    Raises ValueError for an output with other axes, or a unit outside it.

    >>> region(nn.Conv1d(1, 1, 3, dilation=2), (1, 7), (1,)).astype(int)
    array([0, 1, 0, 1, 0, 1, 0])
    """
    graph = export.trace(model, _sizes(input_size), rules.known, to)
    (start,), end = graph.inputs, graph.find(to)
    shape, sums = shapes_of(end)[0], Sums(idle=False, aside={})
    if len(shape) != len(shapes_of(start)[0]):
        raise ValueError(f"the output {shape} has other axes: to=… names a map")
    _require_unit(unit, shape[2:])
    with _on_cpu():
        values = _followed(graph, start, end, sums)
        elements = torch.zeros(shape)
        place: Any = (slice(None), slice(None), *unit)
        elements[place] = 1
        return _read(sums, values[end], elements)


def _sizes(input_size: Any) -> list[tuple[int, ...]]:
    """Return one size for each input. A number of numpy is a number too."""
    try:
        given = list(input_size)
        several = all(isinstance(one, list | tuple) for one in given)
        listed = given if several else [given]
        sizes = [wholes("a size", one, 1, what="lengths") for one in listed]
        if sizes and all(len(size) >= 2 for size in sizes):
            return sizes
    except (TypeError, ValueError):
        pass
    raise ValueError(
        "input_size must be (channels, then one length an axis), such as "
        f"(3, 224, 224); got {input_size!r}"
    )


def _followed(
    graph: Graph, start: fx.Node, end: fx.Node, algebra: Any
) -> dict[fx.Node, Any]:
    """Return what each node between two sees, or reads."""
    try:
        with torch.enable_grad():
            return rules.follow(graph.nodes, algebra, start, end)
    except TracingError as error:
        if "together" not in str(error):
            raise
        causes = [
            f": {label(node)} resizes with align_corners=True, so its units have no "
            "field in common with those of other maps"
            for node in graph.nodes
            if "upsample" in str(node.target) and True in node.args[1:]
        ]
        cause = causes[0] if causes else ""
        raise TracingError(
            f"{error}{cause}; region(…) gives what one of them reads"
        ) from None


@_on_cpu()
def _analysed(
    graph: Graph,
    start: fx.Node,
    of: str | None,
    to: str | None,
    ignore: bool,
    seconds: float,
) -> Fields:
    begin, shape = time.perf_counter(), shapes_of(start)[0]
    if not isinstance(start.meta["val"], Tensor):
        raise ValueError(f"{start.name} gives several maps, and so none to begin at")
    if len(shape) < 3:
        raise ValueError(f"{start.name} has shape {shape}, and so no axis to follow")
    end = graph.find(to)
    hulls = Hulls(ignore=ignore)
    values = _followed(graph, start, end, hulls)
    if isinstance(values.get(end), list):
        raise ValueError(f"{to} is several maps: choose one of them with to=…")
    if end not in values:
        raise ValueError(f"{to or 'the output'} does not depend on {of or 'the input'}")
    try:
        seen = _as_map(values[end])
        fields = fields_of(seen)
    except TracingError as error:
        raise TracingError(f"{label(end)} {error}") from None
    live = {node: one for node, one in values.items() if isinstance(one, Hull)}
    shown = (pytree.tree_leaves(node.meta["val"])[0] for node in values)
    compares = not all(one.is_floating_point() for one in shown) or any(
        SWALLOWS.fullmatch(operation(node)) for node in values
    )
    endless = (
        label(node)
        for node, one in values.items()
        for hull in rules.maps_in(one)
        if any(axis.unbounded for axis in hull.axes)
    )
    return Fields(
        fields,
        layers=tuple(_rows(live)),
        unbounded=next(endless, None),
        ignored=tuple(
            dict.fromkeys(label(n) for n, left in hulls.aside.items() if any(left))
        ),
        coverage=None,
        seconds=(seconds, time.perf_counter() - begin),
        traced=Traced(graph, start, end, seen, hulls.aside, compares),
    )


def fields_of(hull: Hull) -> tuple[ReceptiveField, ...]:
    """Return the field along each axis, for all channels together."""
    return tuple(map(_field, hull.axes))


def _field(axis: Axis) -> ReceptiveField:
    rate = axis.rate if axis.runs else Fraction(0)
    if not axis.sees:
        return ReceptiveField(rate, (None,) * rate.denominator)
    if axis.unbounded:
        return ReceptiveField(rate, ((-inf, inf),) * rate.denominator)
    if axis.dim is None and axis.runs:
        raise TracingError(
            "puts positions beside other things along one dimension, or out of order, "
            "or adds them up one by one, so that its units are no longer those of a "
            "map; a larger input may help, and region(…) gives what one of them reads"
        )
    if rate < 0:
        raise TracingError(
            "turns an axis round, so that its last unit is the first: region(…) gives "
            "what one of them reads"
        )
    others = [n + 1 for n in range(axis.data.dim() - 1) if n != axis.dim]
    ends = most(axis.data[:2], others).view(2, -1).T.tolist()
    hulls = [None if last == -inf else (-int(n), int(last)) for n, last in ends]
    return ReceptiveField(rate, tuple(hulls))


def _as_map(hull: Hull) -> Hull:
    """Return tokens as a picture again, in which each axis has its dimension."""
    mixed = [axis for axis in hull.axes if axis.dim is None and axis.runs]
    dims = {dim for axis in mixed for dim in axis.runs}
    if len(dims) != 1:
        return hull
    (dim,) = dims
    counts = [len({*axis.data[2].flatten().tolist()}) for axis in mixed]
    channels, left = divmod(hull.shape[dim], prod(counts))
    if left or (channels > 1 and len(mixed) == 1):
        return hull
    for order in permutations(counts):
        shape = (*hull.shape[:dim], channels, *order, *hull.shape[dim + 1 :])
        found: Hull = Hulls().move([hull], partial(_reshaped, shape))
        if all(axis.dim is not None for axis in found.axes if axis.runs):
            return found
    return hull


def _reshaped(shape: Shape, planes: Sequence[Tensor], _: float) -> Tensor:
    return planes[0].reshape(shape)


def _rows(live: Mapping[fx.Node, Hull]) -> list[Layer]:
    """List a row for each node whose units read others than their own."""
    rows: list[Layer] = []
    # of each map its fields, and whether it is misaligned and no row has told so
    known: dict[Hull, tuple[tuple[ReceptiveField, ...] | None, bool]] = {}
    for node, hull in live.items():
        if hull in known:
            continue
        inputs = dict.fromkeys(live[n] for n in node.all_input_nodes if n in live)
        below = [known[one] for one in inputs]
        misaligned = hull.misaligned or any(untold for _, untold in below)
        before = [fields for fields, _ in below]
        try:
            fields = fields_of(hull)
        except TracingError:  # in a shape that is no map: as it was before
            known[hull] = before[0] if before else None, misaligned
            continue
        known[hull] = fields, False
        others = len(inputs) > 1 or fields not in before
        if inputs and others and node.target is not getitem:
            module = (export.path_of(node) or [node.name])[-1]
            row = (module, operation(node), hull.shape, fields, not misaligned)
            rows.append(Layer(*row))
    return rows


def _covered(
    model: nn.Module,
    sizes: Sequence[tuple[int, ...]],
    answer: Fields,
    of: str | None,
    to: str | None,
    ignore: bool,
) -> Bools:
    """Return the region of a unit like unit 0, on an input larger than its field."""
    if any(field.size == inf for field in answer):
        raise ValueError("the field is unbounded: a layer reads a whole axis")
    lengths = shapes_of(answer.traced.start)[0][2:]
    pairs = [*zip(answer, lengths, strict=True)]
    times = max(ceil((3 * field.size + length) / length) for field, length in pairs)
    large = [(size[0], *(times * one for one in size[1:])) for size in sizes]
    graph = export.trace(model, large, rules.known, to)
    start = graph.inputs[0] if of is None else graph.find(of)
    wide = _analysed(graph, start, of, to, ignore, 0.0)
    unit, box = [], []
    for field, length in pairs:
        period = len(field.phases)
        first = next(n for n, hull in enumerate(field.phases) if hull)
        turns = times * length / 2 // int(period * field.stride)
        unit.append(first + period * int(turns))
        box.append(slice(field.start(unit[-1]), field.end(unit[-1]) + 1))
    return wide.region(*unit)[tuple(box)]
