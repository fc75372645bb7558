"""What depends on what, as a graph of signals whose edges say where they read.

A :class:`Signal` is what all channels of a map have in common that depend on the input
alike. Two passes over the graph answer every question: forward, from the input up, for
the hulls of all units at once (:func:`fields`); and backward, from one unit down, for
the exact set of positions that it depends on (:func:`reached`).
"""

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from math import floor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dilated_lib.arithmetic import ReceptiveField, above, join
from dilated_lib.layers import Sampling, Window

Border = Literal["blank", "reflect", "replicate", "circular"]
# where its first corner lies, and which
Set = tuple[tuple[int, ...], NDArray[np.bool_]]
UNBOUNDED = ReceptiveField(0, ((-math.inf, math.inf),))


class TracingError(ValueError):
    """What the analysis does not understand: it never guesses."""


@dataclass(frozen=True, eq=False)
class Along:
    """How the units of one map read those of another, along one axis.

    Without a ``layer`` each unit reads the whole axis. ``border`` says what a position
    outside the map read stands for: nothing, or one inside. ``idle`` lists reads whose
    weight is exactly zero: no dependence, though NaN passes.
    """

    layer: Window | Sampling | None
    border: Border = "blank"
    idle: Sampling | None = None
    places: tuple[Fraction, ...] | None = None

    def place(self, unit: int) -> Fraction | None:
        """The point of the map read on which a unit is centred; None if it reads none.

        Where reads are weighted, as in resizing, ``places`` says it for one period.
        """
        layer = self.layer
        if isinstance(layer, Window):
            middle = Fraction(layer.dilation * (layer.kernel_size - 1), 2)
            if layer.transposed:
                return (unit + layer.pads[0] - middle) / layer.stride
            return unit * layer.stride - layer.pads[0] + middle
        assert layer is not None
        if self.places is not None:
            period, phase = divmod(unit, len(self.places))
            return self.places[phase] + period * layer.step
        reads = layer.inputs(unit)
        return Fraction(reads[0] + reads[-1], 2) if reads else None


SAME = Along(Window(1))
WHOLE = Along(None)
_orders = count()


@dataclass(eq=False, frozen=True)
class Signal:
    """A map, as far as dependence goes.

    ``reads`` lists the signals that its units read, with one :class:`Along` an axis;
    ``lengths`` the units along each axis, None where the axis is gone. ``whole`` names
    the axes of which every unit sees all, whatever it sees along the others; ``joint``
    says that it is nothing but signals taken together unit by unit.
    """

    name: str
    lengths: tuple[int | None, ...]
    reads: tuple[tuple["Signal", tuple[Along, ...]], ...] = ()
    whole: frozenset[int] = frozenset()
    joint: bool = False
    order: int = field(default_factory=lambda: next(_orders))


def union(name: str, signals: Iterable[Signal | None]) -> Signal | None:
    """A signal whose units read the same unit of each of the signals; None for none."""
    parts = tuple(dict.fromkeys(one for one in signals if one is not None))
    if len(parts) < 2:
        return parts[0] if parts else None
    columns = zip(*(part.lengths for part in parts), strict=True)
    lengths = tuple(max((n for n in one if n), default=None) for one in columns)
    reads: dict[tuple[Signal, tuple[Along, ...]], None] = {}
    for part in parts:
        if part.joint and len(part.reads) == 2 and part.lengths == lengths:
            reads |= dict.fromkeys(part.reads)  # pairs abound in attention
            continue
        pairs = [*zip(part.lengths, lengths, strict=True)]
        for mine, length in pairs:
            if mine not in (length, 1, None):
                raise TracingError(f"{name} takes {mine} and {length} units together")
        # one unit for all places: there is no telling how far from them it is
        reads[part, tuple(SAME if one == n else WHOLE for one, n in pairs)] = None
    most = max((part.whole for part in parts), key=len)
    if len(most) < len(lengths):  # each part may see all of another axis
        most = frozenset.intersection(*(part.whole for part in parts))
    return Signal(name, lengths, tuple(reads), most, joint=True)


@dataclass(frozen=True)
class Seen:
    """What the units of a map see along one axis, and on what they are centred.

    ``centres`` holds the centre of each unit of a period, in positions of the input;
    None where there is none, or where maps met whose centres differ (``aligned``).
    """

    field: ReceptiveField
    centres: tuple[Fraction | None, ...]
    aligned: bool = True

    def centre(self, place: Fraction | None) -> Fraction | None:
        """The point of the input on which a point between two units is centred."""
        if place is None:
            return None
        low = floor(place)
        share = place - low
        ends = [self._unit(low), self._unit(low + 1) if share else Fraction(0)]
        if ends[0] is None or ends[1] is None:
            return None
        return ends[0] * (1 - share) + ends[1] * share

    def _unit(self, unit: int) -> Fraction | None:
        period, phase = divmod(unit, len(self.centres))
        centre = self.centres[phase]
        moved = period * len(self.centres) * Fraction(self.field.stride)
        return None if centre is None else centre + moved


def fields(signals: Iterable[Signal]) -> dict[Signal, tuple[Seen, ...]]:
    """Receptive fields, one an axis, of signals and of all below, by one pass up.

    Raises TracingError where maps of different strides meet.
    """
    found, todo = set(), [*signals]
    while todo:
        signal = todo.pop()
        if signal not in found:
            found.add(signal)
            todo += [below for below, _ in signal.reads]
    seen: dict[Signal, tuple[Seen, ...]] = {}
    itself = Seen(ReceptiveField(1, ((0, 0),)), (Fraction(0),))
    for signal in sorted(found, key=lambda one: one.order):
        if not signal.reads:  # the input
            seen[signal] = (itself,) * len(signal.lengths)
            continue
        parts = [
            [
                below if along is SAME else _over(below, along)
                for below, along in zip(seen[part], alongs, strict=True)
            ]
            for part, alongs in signal.reads
        ]
        try:
            seen[signal] = tuple(_met(axis) for axis in zip(*parts, strict=True))
        except ValueError as error:
            raise TracingError(f"{signal.name}: {error}") from None
    return seen


def _over(below: Seen, along: Along) -> Seen:
    """What a layer's units see, from what those below see."""
    if along.layer is None:
        return Seen(UNBOUNDED, (None,))
    field = above(below.field, along.layer)
    if below.field.size == math.inf:
        return Seen(field, (None,))
    units = range(len(field.phases))
    return Seen(field, tuple(below.centre(along.place(unit)) for unit in units))


def _met(maps: tuple[Seen, ...]) -> Seen:
    """What the units of maps taken together see."""
    different = tuple(dict.fromkeys(maps))
    if len(different) == 1:
        return different[0]
    field = join(one.field for one in different)
    bounded = [one for one in different if one.field.size < math.inf]
    centres: list[Fraction | None] = []
    aligned = True
    for unit in range(math.lcm(*(len(one.centres) for one in bounded))):
        here = {one.centre(Fraction(unit)) for one in bounded} - {None}
        aligned &= len(here) < 2
        centres.append(here.pop() if len(here) == 1 else None)
    return Seen(field, tuple(centres) or (None,), aligned)


def reached(
    signal: Signal, unit: tuple[int, ...], *, borders: bool, idle: bool = False
) -> Set | None:
    """Positions of the input that a unit depends on, exactly, by one pass down.

    With ``borders`` the map ends where it ends, and a position beyond is what the
    padding puts there; without, it goes on for ever, as for :func:`fields`. ``idle``
    takes in reads of weight zero. None where the unit depends on nothing.

    Raises ValueError without ``borders`` where the field is unbounded.
    """
    sets: dict[Signal, Set] = {signal: (unit, np.ones((1,) * len(unit), bool))}
    todo = [(-signal.order, signal)]
    while todo:
        _, signal = heapq.heappop(todo)
        if not signal.reads:
            return sets[signal]
        top = sets.pop(signal)
        for below, alongs in signal.reads:
            corner, inside = list(top[0]), top[1]
            for axis, along in enumerate(alongs):
                corner[axis], inside = _down(
                    corner[axis],
                    np.moveaxis(inside, axis, 0),
                    along,
                    below.lengths[axis] or 1 if borders else None,
                    idle,
                )
                inside = np.moveaxis(inside, 0, axis)
            if inside.any():
                if below not in sets:
                    heapq.heappush(todo, (-below.order, below))
                sets[below] = _merged(sets.get(below), (tuple(corner), inside))
    return None


def _down(
    first: int, units: NDArray[np.bool_], along: Along, length: int | None, idle: bool
) -> tuple[int, NDArray[np.bool_]]:
    """Positions that units read along the first axis, from ``first`` on."""
    if along is SAME or not units.any():
        return first, units
    if along.layer is None:
        if length is None:
            raise ValueError("the field is unbounded: a layer reads a whole axis")
        return 0, np.repeat(units.any(axis=0, keepdims=True), length, axis=0)
    layer = along.idle if idle and along.idle else along.layer
    reads = [layer.inputs(first + unit) for unit in range(len(units))]
    ends = [end for read in reads if read for end in (read[0], read[-1])]
    if not ends:
        return 0, np.zeros((0, *units.shape[1:]), bool)
    start, stop = min(ends), max(ends) + 1
    below = np.zeros((stop - start, *units.shape[1:]), bool)
    if isinstance(layer, Window) and not layer.transposed:
        for tap in range(layer.kernel_size):
            begin = tap * layer.dilation
            end = begin + layer.stride * (len(units) - 1) + 1
            below[begin : end : layer.stride] |= units
    else:
        for unit, read in zip(units, reads, strict=True):
            below[np.array(read, int) - start] |= unit
    if length is None:
        return start, below
    if along.border == "blank":
        low = max(start, 0)
        return low, below[low - start : max(length - start, 0)]
    folded = np.zeros((length, *units.shape[1:]), bool)
    for position, row in enumerate(below, start):
        folded[folded_back(position, length, along.border)] |= row
    return 0, folded


def folded_back(position: int, length: int, border: Border) -> int:
    """The position inside a map that one beyond its border stands for."""
    if border == "circular":
        return position % length
    if border == "replicate":
        return min(max(position, 0), length - 1)
    period = max(2 * (length - 1), 1)
    return (length - 1) - abs((length - 1) - position % period)


def _merged(one: Set | None, other: Set) -> Set:
    if one is None:
        return other
    corners = np.array([one[0], other[0]])
    ends = corners + np.array([one[1].shape, other[1].shape])
    low = corners.min(axis=0)
    whole = np.zeros(ends.max(axis=0) - low, bool)
    for corner, inside in (one, other):
        begin = np.array(corner) - low
        places = zip(begin, begin + inside.shape, strict=True)
        whole[tuple(slice(*place) for place in places)] |= inside
    return tuple(low.tolist()), whole
