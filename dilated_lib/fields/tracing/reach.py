"""What each element of a map has seen of the input: positions carried as data.

Every element of every tensor holds, for each axis of the input, the first and the last
position that it has seen. They are kept as −first and last, so that what two elements
see together is a maximum; −inf is nothing, +inf an axis without end. What only moves
elements (view, permute, cat) is run by torch itself on these numbers, and what mixes
them is a maximum over what it reads.

A network is asked as if its input went on for ever, so a map is known by one period of
its units: the unit one period further along sees the same, moved by a whole number of
positions. A layer may then read beyond any border. Only where torch moves elements are
the numbers written out for the whole map, beside the number of each element's unit;
how units run afterwards is read off these.

:class:`Hulls` is this algebra. :class:`Sums` has the same operations with a sum for the
maximum, on the real tensors with their real borders: differentiated, it gives the exact
set of positions that a unit reads, holes included.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache, reduce
from math import gcd, inf, lcm, nan, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dilated_lib.fields.layers import Along
from dilated_lib.fields.tracing.export import TracingError
from dilated_lib.fields.windows import Sampling

Shape = tuple[int, ...]
Move = Callable[[list[Tensor], float], Any]
SAME = Sampling(1, ((0,),))
CLOSE = 1e-6  # centres are fractions of small denominators
# on the CPU, whichever device is the default when this module is imported
ORIGIN = torch.zeros(1, device="cpu").double()
NOWHERE = torch.tensor(-inf, device="cpu").double()
LARGE = 2**22  # elements that all see everything, as between all pairs of tokens


@dataclass(frozen=True, eq=False)
class Axis:
    """What the elements of a map see along one axis of the input.

    ``data`` stacks three numbers for each element: −first and last position, and the
    unit that it belongs to, −inf where no unit runs. It has length 1 along a dimension
    where all elements are alike. Units run along ``dim``, where ``data`` holds the
    first period of them, or along no single dimension, as tokens do: then all are
    written out. From one unit to the next there are ``rate`` input positions, and the
    units of a period look at the positions ``centres``, NaN for one that reads nothing.
    """

    data: Tensor
    rate: Fraction
    dim: int | None = None
    centres: Tensor = ORIGIN

    @property
    def period(self) -> int:
        """Count the units after which they see the same again, further along."""
        return len(self.centres)

    @cached_property
    def sees(self) -> bool:
        """Tell whether any element sees anything of the axis."""
        return bool((self.data[0] > -inf).any())

    @cached_property
    def unbounded(self) -> bool:
        """Tell whether any element sees the axis without end."""
        return bool((self.data[0] == inf).any())

    @cached_property
    def infinite(self) -> bool:
        """Tell whether whatever sees anything of the axis sees it without end."""
        return bool(self.data[0].isinf().all())

    @cached_property
    def runs(self) -> frozenset[int]:
        """Return the dimensions along which units run."""
        return frozenset(_spans(self.data[2]) if self.dim is None else [self.dim])

    @property
    def moved(self) -> int:
        """Count the input positions from one period of units to the next."""
        return int(self.rate * self.period)

    def at(self, dim: int, places: Tensor) -> Tensor:
        """Return the data at places along a dimension, within the map or beyond it."""
        size = self.data.shape[dim + 1]
        if size == 1 and self.dim != dim:
            return self.data
        data = self.data.index_select(dim + 1, places % size)
        if self.dim != dim:
            return data
        turn = places.div(size, rounding_mode="floor").double()
        rise = turn * torch.tensor([-self.moved, self.moved, size])[:, None]
        return data + line(rise, dim, data.dim() - 1)

    def written(self, dim: int, length: int) -> "Axis":
        """Return the axis with so many elements written out along a dimension."""
        places = torch.arange(length)
        centres = self.looks(places) if self.dim == dim else self.centres
        return replace(self, data=self.at(dim, places), centres=centres)

    def looks(self, units: Tensor) -> Tensor:
        """Return at which positions units look; between two of them, in proportion."""
        known = units.double().where(units.isfinite(), 0)
        low, share, ends = known.floor().long(), known % 1, []
        for unit in (low, low + 1):
            turn = unit.div(self.period, rounding_mode="floor")
            ends.append(self.centres[unit % self.period] + turn * float(self.moved))
        middle = torch.where(share > 0, ends[0].lerp(ends[1], share), ends[0])
        return middle.where(units.isfinite(), nan)

    def by_position(self) -> "Axis":
        """Return units numbered by the positions at which they look."""
        unit = self.looks(self.data[2]).nan_to_num(-inf)
        return Axis(_stacked(self.data[:2], unit), Fraction(1))

    def with_ends(self, ends: Tensor) -> "Axis":
        """Return the same units, which see other positions."""
        return replace(self, data=_stacked(ends, self.data[2]))

    def without_end(self) -> "Axis":
        """Return the same units, without end for whatever they see of the axis."""
        return self.with_ends(torch.where(self.data[:2] > -inf, inf, -inf))

    def gone(self) -> "Axis":
        """Return what is seen of the axis, along which no unit runs."""
        return Axis(_stacked(self.data[:2], NOWHERE), self.rate)


@dataclass(frozen=True, eq=False)
class Hull:
    """A map: what its elements see along each axis.

    ``misaligned`` tells that it was made of maps whose units look at different centres.
    """

    axes: tuple[Axis, ...]
    shape: Shape
    misaligned: bool = False

    @property
    def everything(self) -> bool:
        """Tell whether all elements see all axes without end, or nothing."""
        return all(axis.infinite for axis in self.axes)

    @property
    def homes(self) -> dict[int, Axis]:
        """Return the axes whose units run along a dimension, by that dimension."""
        return {axis.dim: axis for axis in self.axes if axis.dim is not None}

    @property
    def lengthened(self) -> "Hull":
        """Return the map with at least two units, and a period, along each axis."""
        shape = [*self.shape]
        for dim, axis in self.homes.items():
            shape[dim] = max(shape[dim], 2, axis.period)
        return replace(self, shape=tuple(shape))


class Hulls:
    """The algebra of first and last positions.

    With ``ignore`` one value for all positions, such as a mean over the picture, that
    meets a map is left out: ``aside`` holds, for the unions of each node, which were.
    """

    idle = False

    def __init__(self, *, ignore: bool = False) -> None:
        self.ignore = ignore
        self.aside: dict[Any, list[frozenset[int]]] = {None: []}
        self.node: Any = None

    def begin(self, node: Any) -> None:
        """Note that the unions to come are those of a node of the graph."""
        self.node, self.aside[node] = node, []

    def input(self, shape: Shape) -> Hull:
        """Return the map in which every position sees itself."""
        zero = torch.zeros(3, *[1] * len(shape)).double()
        axes = (Axis(zero, Fraction(1), dim=dim) for dim in range(2, len(shape)))
        return Hull(tuple(axes), shape)

    def union(
        self, maps: Sequence[Hull], shape: Shape, *, all_count: bool = False
    ) -> Hull:
        """Take elements together, broadcast to a shape.

        One element for all positions is at any distance from them. So are positions
        paired with all others. ``all_count`` leaves no statistic out.
        """
        wide = [_broadcast(one, shape) for one in maps]
        aside: frozenset[int] = frozenset()
        if self.ignore and not all_count:
            runs = [any(axis.runs for axis in one.axes) for one in wide]
            alone = (n for n, m in enumerate(wide) if m.everything and not runs[n])
            aside = frozenset(alone if any(runs) else ())
        self.aside[self.node].append(aside)
        wide = [*dict.fromkeys(one for n, one in enumerate(wide) if n not in aside)]
        if len(wide) == 1:
            return wide[0]
        wide.sort(key=lambda one: -len(one.homes))  # the first leads for all axes
        columns = [_paced(terms, met=True) for terms in _by_axis(wide)]
        periods: dict[int, int] = {}
        for axis in (axis for column in columns for axis in column):
            if axis.dim is not None:
                periods[axis.dim] = lcm(periods.get(axis.dim, 1), axis.period)
        rows = zip(wide, zip(*columns, strict=True), strict=True)
        together = [_in_step(one, axes, periods) for one, axes in rows]
        axes = []
        for terms in zip(*together, strict=True):
            lead = max(terms, key=_leads)
            data = reduce(torch.maximum, (axis.data for axis in terms))
            data = _stacked(data[:2], lead.data[2]) if lead.runs else data
            axes.append(replace(lead, data=data))
        return Hull(tuple(axes), shape, any(map(_misaligned, columns)))

    def reduce(self, one: Hull, dims: Iterable[int]) -> Hull:
        """Take all elements along some dimensions together, whose length becomes 1."""
        gone = frozenset(dim % len(one.shape) for dim in dims)
        axes = []
        for axis in one.axes:
            if axis.runs and axis.runs <= gone:
                axis = axis.without_end().gone()
            elif axis.runs & gone:
                if _far_apart(axis.data[2], gone):
                    axis = axis.without_end()
                if not axis.infinite:
                    raise TracingError("takes a part of an axis together, unevenly")
            data = most(axis.data, [dim + 1 for dim in gone])
            axes.append(replace(axis, data=data))
        shape = tuple(1 if dim in gone else n for dim, n in enumerate(one.shape))
        return Hull(tuple(axes), shape)

    def positions(self, maps: Sequence[Hull], dim: int) -> bool:
        """Tell whether units of an axis run along a dimension."""
        return any(dim in axis.runs for one in maps for axis in one.axes)

    def gather(self, one: Hull, dim: int, how: Along, length: int) -> Hull:
        """Apply a layer along a dimension: each unit is a union of its reads."""
        dim %= len(one.shape)
        size, layer = one.shape[dim], how.layer
        if size == length and layer == SAME:
            return one
        own = one.homes.get(dim)
        if own is None:
            reads, there = _inside(how, size, length)
        else:
            period = len(layer.reads) * (own.period // gcd(own.period, layer.step))
            reads, there = _reads(layer, period, own.period)
        axes = []
        for axis in one.axes:
            parts = []
            for places, real in zip(reads, there, strict=True):
                part = axis.at(dim, places)
                if not real.all():
                    part = part.where(line(real, dim, len(one.shape)), -inf)
                parts.append(part)
            ends, unit = reduce(torch.maximum, parts)[:2], most(axis.data[2], [dim])
            unit = parts[0][2] if dim in axis.runs else unit  # of what is read first
            if axis is own:
                unit = line(torch.arange(period).double(), dim, unit.dim())
                rate = axis.rate * layer.step / len(layer.reads)
                centres = axis.looks(_places(how, period))
                axes.append(Axis(_stacked(ends, unit), rate, dim, centres))
            else:
                axes.append(replace(axis, data=_stacked(ends, unit)))
        return Hull(tuple(axes), (*one.shape[:dim], length, *one.shape[dim + 1 :]))

    def scan(self, one: Hull, dim: int) -> Hull:
        """Take each element together with all those before it along a dimension."""
        dim %= len(one.shape)
        axes = []
        for axis in one.axes:
            if dim in axis.runs:
                axis = axis.without_end()
            ends = most(axis.data[:2], [dim + 1] if dim in one.homes else [])
            axes.append(axis.with_ends(ends.cummax(dim + 1).values))
        return Hull(tuple(axes), one.shape)

    def move(self, maps: Sequence[Hull], run: Move) -> Any:
        """Return what torch makes of elements that it only moves: a map, or several.

        ``run`` takes a tensor for each map and the number that stands for nothing. It
        runs on the numbers of all elements, written out. Then each axis is folded to a
        period again, if the numbers of its units tell how they run in the result. For a
        map with fewer units than a period they cannot. So torch also runs on longer
        maps, and if these begin with the same units, they are what is folded.
        """
        whole = all(one.everything for one in maps)
        if whole and max(prod(one.shape) for one in maps) > LARGE:
            raise TracingError("moves too many elements: a smaller input may help")
        long = [one.lengthened for one in maps]
        columns = [_comparable(terms, long) for terms in _by_axis(maps)]
        several, parts = _laid_out(columns, maps, run)
        shapes = [shape for _, shape in parts]
        if any(one.shape != more.shape for one, more in zip(maps, long, strict=True)):
            with suppress(RuntimeError, IndexError):  # torch was told the sizes
                _, longer = _laid_out(columns, long, run)
                parts = longer if all(map(_begins_with, longer, parts)) else parts
        hulls = []
        for shape, (data, sizes) in zip(shapes, parts, strict=True):
            axes, lone = [], []
            for terms, numbers in zip(columns, data, strict=True):
                lead = max(terms, key=_leads)
                axes.append(replace(lead, data=_shrunk(numbers), dim=None))
                lone.append(None if axes[-1].runs else _lone(terms, maps, shape))
            axes = _settled(axes, lone, sizes)
            hulls.append(Hull(tuple(axes), shape, any(map(_misaligned, columns))))
        return hulls if several else hulls[0]

    def everything(self, maps: Sequence[Hull], shape: Shape) -> Hull | None:
        """Return what any operation makes of maps that see all; None if they do not."""
        if not all(one.everything for one in maps):
            return None
        data = line(torch.tensor([[inf], [inf], [-inf]]).double(), 0, len(shape))
        return Hull(tuple(Axis(data, axis.rate) for axis in maps[0].axes), shape)


class _Level(torch.autograd.Function):
    """Makes all sums 1, forward and backward: only whether they are zero matters."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return (values != 0).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient != 0).to(gradient.dtype)


@dataclass(frozen=True, eq=False)
class Sum:
    """A map as sums of what its elements read, and its whole shape."""

    value: Tensor
    shape: Shape


class Sums:
    """The algebra of sums, to be differentiated: the same operations, real borders.

    ``idle`` takes in reads of weight zero; ``aside`` is what Hulls left out.
    """

    def __init__(
        self, *, idle: bool, aside: Mapping[Any, Sequence[frozenset[int]]]
    ) -> None:
        self.idle, self.aside = idle, aside
        self.begin(None)

    def begin(self, node: Any) -> None:
        """Note that the unions to come are those of a node of the graph."""
        self.left_out = [*self.aside.get(node, ())]

    def input(self, shape: Shape) -> Sum:
        """Return the map in which every position reads itself."""
        self.leaf = torch.ones((1, 1, *shape[2:])).float().requires_grad_()
        return Sum(self.leaf, shape)

    def union(
        self, maps: Sequence[Sum], shape: Shape, *, all_count: bool = False
    ) -> Sum:
        """Take elements together, broadcast to a shape."""
        aside = self.left_out.pop(0) if self.left_out else frozenset()
        terms = [one.value for n, one in enumerate(maps) if n not in aside]
        terms = [term[(None,) * (len(shape) - term.dim())] for term in terms]
        return Sum(_Level.apply(sum(terms[1:], terms[0])), shape)

    def reduce(self, one: Sum, dims: Iterable[int]) -> Sum:
        """Take all elements along some dimensions together, whose length becomes 1."""
        gone = [dim % len(one.shape) for dim in dims]
        shape = tuple(1 if dim in gone else n for dim, n in enumerate(one.shape))
        return Sum(_Level.apply(one.value.sum(gone, keepdim=True)), shape)

    def positions(self, maps: Sequence[Sum], dim: int) -> bool:
        """Tell whether maps side by side stay as they are, since none is left out."""
        return not any(self.left_out)

    def gather(self, one: Sum, dim: int, how: Along, length: int) -> Sum:
        """Apply a layer along a dimension: each of its units is a sum of its reads."""
        dim %= len(one.shape)
        layer = (how.idle if self.idle else how.weighted) or how.layer
        matrix = _matrix(how._replace(layer=layer), one.shape[dim], length)
        if one.value.shape[dim] < one.shape[dim]:  # all are alike
            matrix = matrix.amax(1, keepdim=True)
        value = (one.value.movedim(dim, -1) @ matrix.T).movedim(-1, dim)
        shape = (*one.shape[:dim], length, *one.shape[dim + 1 :])
        return Sum(_Level.apply(value), shape)

    def scan(self, one: Sum, dim: int) -> Sum:
        """Take each element together with all those before it along a dimension."""
        return Sum(_Level.apply(one.value.cumsum(dim)), one.shape)

    def move(self, maps: Sequence[Sum], run: Move) -> Any:
        """Return what torch makes of elements that it only moves: a map, or several."""
        done = run([one.value.contiguous().expand(one.shape) for one in maps], 0.0)
        several = isinstance(done, list | tuple)
        parts = done if several else [done]
        sums = [Sum(_unexpanded(part), tuple(part.shape)) for part in parts]
        return sums if several else sums[0]

    def everything(self, maps: Sequence[Sum], shape: Shape) -> Sum:
        """Return what an operation makes of maps that read everything everywhere."""
        for element in (one.value.flatten()[end] for one in maps for end in (0, -1)):
            (found,) = torch.autograd.grad(element, self.leaf, retain_graph=True)
            if not bool(found.all()):
                raise TracingError("has no rule, so what one unit reads is not known")
        total = torch.stack([one.value.sum() for one in maps]).sum()
        return Sum(_Level.apply(total.view((1,) * len(shape))), shape)


# --- tensors with length 1 where all elements are alike -------------------------------


def _unexpanded(plane: Tensor, shared: Sequence[Tensor] = ()) -> Tensor:
    """Return a tensor without what it, and those with it, repeat along a dimension."""
    strides = [one.stride() for one in (plane, *shared)]
    steps = [max(column) for column in zip(*strides, strict=True)]
    return plane[tuple(slice(None) if step else slice(0, 1) for step in steps)]


def _shrunk(data: Tensor) -> Tensor:
    """Return data with length 1 along each dimension along which nothing changes."""
    for dim in range(1, data.dim()):
        if data.shape[dim] > 1 and bool((data == data.narrow(dim, 0, 1)).all()):
            data = data.narrow(dim, 0, 1)
    return data.clone()  # the rest of the memory is free


def _stacked(ends: Tensor, unit: Tensor) -> Tensor:
    """Return −first, last and unit as the data of an axis."""
    return torch.stack([*torch.broadcast_tensors(*ends, unit)])  # type: ignore[no-untyped-call]


def most(data: Tensor, dims: Iterable[int]) -> Tensor:
    """Return the largest along some dimensions, whose length becomes 1."""
    dims = [*dims]
    return data.amax(dims, keepdim=True) if dims else data  # torch takes [] for all


def line(values: Tensor, dim: int, rank: int) -> Tensor:
    """Return numbers along one of ``rank`` dimensions, after the tensor's own first."""
    return values.view(
        *values.shape[:-1], *(-1 if d == dim else 1 for d in range(rank))
    )


# --- reading along a dimension --------------------------------------------------------


@lru_cache(1024)
def _reads(layer: Sampling, length: int, period: int = 0) -> tuple[Tensor, Tensor]:
    """Return what each unit reads, (reads, units), and whether it really does.

    Of a map whose units see alike after a period, the first and the last period of the
    reads tell the hull: those between come back to the same phase, further inside.
    """
    rows: list[Sequence[int]] = [*layer.reads]
    if period:
        rows = [[*row[:period], *row[max(period, len(row) - period) :]] for row in rows]
    widest = max(1, *map(len, rows))
    reads = [[*row, *[row[-1] if row else 0] * (widest - len(row))] for row in rows]
    there = torch.tensor([bool(row) for row in rows])
    units = torch.arange(length)
    phases, turns = units % len(rows), units // len(rows)
    moved = torch.tensor(reads).T[:, phases] + layer.step * turns
    return moved, there[phases].expand(widest, -1)


@lru_cache(1024)
def _inside(how: Along, size: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the same within a map that ends, by what its border repeats."""
    reads, there = _reads(how.layer, length)
    if how.border == "circular":
        return reads % size, there
    if how.border == "reflect":
        far = size - 1
        return far - (far - reads % max(2 * far, 1)).abs(), there
    inside = reads.clamp(0, size - 1)
    return inside, there & ((inside == reads) | (how.border == "replicate"))


@lru_cache(1024)
def _matrix(how: Along, size: int, length: int) -> Tensor:
    """Return a matrix with 1 where a unit (row) reads a position (column)."""
    matrix = torch.zeros(length, size).float()
    for places, real in zip(*_inside(how, size, length), strict=True):
        matrix[torch.arange(length)[real], places[real]] = 1
    return matrix


@lru_cache(1024)
def _places(how: Along, length: int) -> Tensor:
    """Return the points below at which units are centred; NaN if they read nothing."""
    known = [nan if centre is None else float(centre) for centre in how.centres]
    turns = torch.arange(length // len(known)) * how.layer.step
    return (torch.tensor(known, dtype=torch.float64) + turns[:, None]).flatten()


# --- maps taken together --------------------------------------------------------------


def _by_axis(maps: Iterable[Hull]) -> list[tuple[Axis, ...]]:
    """Return for each axis what each of the maps has of it."""
    return [*zip(*(one.axes for one in maps), strict=True)]


def _broadcast(one: Hull, shape: Shape) -> Hull:
    """Return the map in a longer shape; an axis spread over a dimension is gone."""
    if one.shape == shape:
        return one
    more = len(shape) - len(one.shape)
    spread = [d for d in range(more, len(shape)) if one.shape[d - more] != shape[d]]
    axes = []
    for axis in one.axes:
        home = None if axis.dim is None else axis.dim + more
        data = axis.data[(slice(None), *(None,) * more)]
        for dim in spread:
            data = data.narrow(dim + 1, 0, 1)
        axis = replace(axis, data=data, dim=home)
        axes.append(axis.gone() if home in spread else axis)
    return Hull(tuple(axes), shape)


def _in_step(
    one: Hull, axes: Sequence[Axis], periods: Mapping[int, int]
) -> Sequence[Axis]:
    """Return the axes of a map with so many units written out along dimensions.

    Where units of the map itself no longer run, all its elements are. Raises
    TracingError where none run along these dimensions, and yet elements differ.
    """
    homes = {axis.dim for axis in axes}
    for dim in one.homes.keys() - homes:
        axes = [axis.written(dim, one.shape[dim]) for axis in axes]
    for dim, period in periods.items():
        if dim not in homes:
            if any(a.data.shape[dim + 1] > 1 and not a.infinite for a in axes):
                raise TracingError("takes positions and other things together")
            axes = [replace(axis, data=most(axis.data, [dim + 1])) for axis in axes]
        axes = [axis.written(dim, period) for axis in axes]
    return axes


def _far_apart(unit: Tensor, dims: Iterable[int]) -> bool:
    """Tell whether elements along dimensions lie all over an axis, evenly."""
    known, axes = unit > -inf, [dim for dim in dims if unit.shape[dim] > 1]
    last, first = unit.amax(axes), unit.where(known, inf).amin(axes)
    steps = torch.cat([unit.diff(dim=dim).abs().flatten() for dim in axes])
    steps = steps[steps.isfinite() & (steps > 0)]
    if not len(steps):
        return False
    return bool((last - first + steps.min() > last.max() - first.min()).all())


def _leads(axis: Axis) -> tuple[bool, ...]:
    """Return a key that is largest for the map whose units those of a union are."""
    return axis.sees, bool(axis.runs), bool(axis.runs) and not axis.infinite


def _paced(terms: Sequence[Axis], *, met: bool) -> list[Axis]:
    """Return an axis of maps that come together, as units run in the leading one.

    Maps that are ``met`` are taken together element by element, others moved.
    """
    lead = max(terms, key=_leads)
    if not lead.runs:
        return [*terms]
    bounded = [one for one in terms if all(_leads(one))]
    if met and not all(_alike(one, lead) for one in bounded):
        bounded = []  # each position meets all others
    strides = sorted({axis.rate for axis in bounded})
    if met and len(strides) > 1:
        raise TracingError(
            "takes maps of different strides together, so that no two units see "
            "alike: " + " and ".join(map(str, strides))
        )
    paced = []
    for one in terms:
        if one in bounded:
            paced.append(one)
        elif one is lead or (one.dim == lead.dim is not None and one.rate == lead.rate):
            paced.append(one.without_end())
        else:
            paced.append(one.without_end().gone())
    return paced


def _comparable(terms: Sequence[Axis], maps: Sequence[Hull]) -> list[Axis]:
    """Return an axis of maps that are moved together, with numbers that compare."""
    paced = _paced(terms, met=False)
    if len({axis.rate for axis in paced if all(_leads(axis))}) < 2:
        return paced
    pairs = zip(paced, maps, strict=True)
    return [
        replace(axis, data=_written(axis, one)).by_position() for axis, one in pairs
    ]


def _alike(one: Axis, other: Axis) -> bool:
    """Tell whether units of two maps run along the same dimension, not across it."""
    if not one.runs & other.runs:
        return False
    apart = torch.zeros(1)
    if one.dim is other.dim is None:
        apart = one.data[2] - other.data[2]
        apart = apart[apart.isfinite()]
    if one.dim != other.dim or not bool((apart == apart[:1]).all()):
        raise TracingError("takes units together that run in different orders")
    return True


def _misaligned(terms: Sequence[Axis]) -> bool:
    """Tell whether units of one axis look at different centres in maps that meet."""
    bounded = [axis for axis in terms if all(_leads(axis))]
    units = torch.arange(lcm(*(axis.period for axis in bounded)) if bounded else 0)
    rows = [axis.looks(units) for axis in bounded]
    return any(bool(((row - rows[0]).abs() > CLOSE).any()) for row in rows)


# --- how units run after a move -------------------------------------------------------


Part = tuple[list[Tensor], Shape]  # the data of each axis, and the shape


def _laid_out(
    columns: Sequence[Sequence[Axis]], maps: Sequence[Hull], run: Move
) -> tuple[bool, list[Part]]:
    """Return whether torch makes several maps of those written out, and these."""
    found = []
    for terms in columns:
        rows = []
        written = [_written(*pair) for pair in zip(terms, maps, strict=True)]
        for numbers in zip(*written, strict=True):
            pairs = zip(numbers, maps, strict=True)
            done = run([plane.expand(one.shape) for plane, one in pairs], -inf)
            rows.append(done if isinstance(done, list | tuple) else [done])
        parts = zip(*rows, strict=True)
        found.append([torch.stack([_unexpanded(p, row) for p in row]) for row in parts])
    shapes = [tuple(part.shape) for part in rows[0]]
    data = map(list, zip(*found, strict=True))
    return done is rows[-1], [*zip(data, shapes, strict=True)]


def _written(axis: Axis, one: Hull) -> Tensor:
    """Return the data of all elements of a map; what sees nothing is no unit's."""
    for dim in one.homes:
        axis = axis.written(dim, one.shape[dim])
    ends, unit = axis.data[:2], axis.data[2]
    return _stacked(ends, unit.where(ends[0] > -inf, -inf))


def _begins_with(longer: Part, exact: Part) -> bool:
    """Tell whether these are the same units, and perhaps more after them."""
    here = tuple(map(slice, exact[1]))
    return len(longer[1]) == len(here) and all(
        bool((more[2][here] == one[2]).all())
        for more, one in zip(longer[0], exact[0], strict=True)
    )


class Track(NamedTuple):
    """Says how units run: they advance by so many for so many ``elements``."""

    dim: int
    elements: int
    advance: int


def _lone(terms: Sequence[Axis], maps: Sequence[Hull], shape: Shape) -> Track | None:
    """Return where a dimension of one unit is after a move: before the same sizes."""
    for axis, one in zip(terms, maps, strict=True):
        if axis.dim is not None and one.shape[axis.dim] == 1:
            back = axis.dim - len(one.shape)
            if shape[back:] == one.shape[back:]:
                return Track(back + len(shape), 1, 1)
    return None


def _spans(unit: Tensor) -> dict[int, float]:
    """Return the dimensions along which units change, and how far they go."""
    first = unit.where(unit > -inf, inf)
    dims = [dim for dim, size in enumerate(unit.shape) if size > 1 and unit.numel()]
    spans = {d: float((unit.amax(d) - first.amin(d)).max()) for d in dims}
    return {dim: far for dim, far in spans.items() if far > 0}


def _track(axis: Axis, taken: Container[int]) -> Track | None:
    """Return how units run along a dimension, if they do so evenly.

    They do if the unit ``count`` elements further on is always the same number of units
    ahead. After a view that cuts an axis in pieces, units run along several dimensions:
    they are then those of the longest stride, and the others are channels of them.
    Along a dimension that another axis has ``taken``, as rows take that of tokens from
    columns, they are not looked for.
    """
    unit, spans = axis.data[2], _spans(axis.data[2])
    dim = max(spans, key=lambda one: spans[one])
    if dim in taken:
        return None
    size = unit.shape[dim]
    row = most(unit, [d for d in range(unit.dim()) if d != dim]).flatten()
    row = row[row.isfinite().nonzero()[0, 0] :]  # what is constant before it aside
    # all counts are tried at once at 32 elements of the row; few are left to be proved
    counts = torch.arange(1, max(2, len(row) // 2 + 1))
    starts = torch.linspace(0, len(row) - 1, 32).long()[:, None]
    rises = row[(starts + counts).clamp(max=len(row) - 1)] - row[starts]
    even = (rises == rises[:1]) | (starts + counts >= len(row)) | ~rises.isfinite()
    for count in counts[even.all(0) & (rises[0] != 0)].tolist():
        rise = unit.narrow(dim, count, size - count) - unit.narrow(dim, 0, size - count)
        rise = rise[rise.isfinite()]
        if len(rise) and rise[0] != 0 and bool((rise == rise[0]).all()):
            return Track(dim, count, int(rise[0]))
    return None


def _settled(
    axes: list[Axis], lone: Sequence[Track | None], shape: Shape
) -> list[Axis]:
    """Return the axes of a map, each along one dimension if its units run evenly.

    If their numbers do not tell, the positions at which they look may: of several
    units at one position, a view that shifts each row by one more moves the numbers.
    """
    runs = [
        axis.runs | ({track.dim} if track else set())
        for axis, track in zip(axes, lone, strict=True)
    ]
    for n, alone in enumerate(lone):
        others = frozenset().union(*runs[:n], *runs[n + 1 :])
        numbered = [axes[n]]
        if axes[n].period > 1:  # otherwise positions are as even as units are
            numbered.append(axes[n].by_position())
        for own in numbered:
            if axes[n].dim is not None:
                break
            track = _track(own, others) if own.runs else alone
            if track and track.dim not in others:
                there = [*axes[:n], own, *axes[n + 1 :]]
                axes = _folded(there, n, track, shape[track.dim]) or axes
    return axes


def _folded(axes: list[Axis], n: int, track: Track, size: int) -> list[Axis] | None:
    """Return the axes of a map, where axis ``n`` has one period along its track.

    The dimension is cut into turns of one period. With the rise from turn to turn taken
    off, they must all hold the same numbers, which are those of the period. Constants
    beside a map are like padding: the map goes on there. None where what the elements
    see does not rise as their units do.
    """
    own, (dim, count, advance) = axes[n], track
    period = count * (own.period // gcd(own.period, advance))
    if period > size:
        return None
    rate, turns = own.rate * advance / count, -(-size // period)
    moved = int(rate * period)
    steps = torch.tensor([[-moved], [moved], [advance * period // count]])
    rise = (torch.arange(turns) * steps).double()
    result = []
    for axis in axes:
        data = axis.data
        if data.shape[dim + 1] > 1:
            rest = [0] * 2 * (data.dim() - dim - 2) + [0, turns * period - size]
            sizes = [*data.shape[: dim + 1], turns, period, *data.shape[dim + 2 :]]
            data = F.pad(data, rest, value=-inf).view(sizes)
            if axis is own:
                data = data - line(rise, dim, data.dim() - 1)
            whole = most(data, [dim + 1])
            if not bool(((data == whole) | (data == -inf)).all()):
                return None
            data = whole.squeeze(dim + 1)
        result.append(replace(axis, data=data))
    ends, unit = result[n].data[:2], result[n].data[2]
    looks = own.looks(unit)
    centres = looks.movedim(dim, -1).reshape(-1, period).nanmean(0)
    unit = line(torch.arange(period).double(), dim, unit.dim())
    result[n] = Axis(_stacked(ends, unit), rate, dim, centres)
    return result
