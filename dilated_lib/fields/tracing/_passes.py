"""Two passes over a graph of signals: up, for all units; down, from one unit.

Forward, from the input up, for the hulls of all units at once (:func:`fields`); and
backward, from one unit down, for the exact set of positions that it depends on
(:func:`reached`).
"""

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import floor

import numpy as np
from numpy.typing import NDArray

from dilated_lib.fields.arithmetic import ReceptiveField, above, join
from dilated_lib.fields.tracing._signals import (
    SAME,
    Along,
    Border,
    Signal,
    TracingError,
)
from dilated_lib.fields.windows import Sampling, Window

# where its first corner lies, and which
Set = tuple[tuple[int, ...], NDArray[np.bool_]]
UNBOUNDED = ReceptiveField(0, ((-math.inf, math.inf),))


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
    kept: dict[Seen, Seen] = {}  # what is equal is one, and so quick to compare
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
            axes = [_met(axis) for axis in zip(*parts, strict=True)]
        except ValueError as error:
            raise TracingError(f"{signal.name}: {error}") from None
        seen[signal] = tuple(kept.setdefault(axis, axis) for axis in axes)
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
    different = tuple({id(one): one for one in maps}.values())
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


def sees_all(signal: Signal, most: int = 100) -> bool:
    """Is it known that every unit sees all of the input, since all see the same?

    Where it would take long, above more than ``most`` signals, it is not known.
    """
    axes = len(signal.lengths)
    if signal.full or len(signal.alike) < axes:
        return signal.full
    found = {signal}
    todo = [signal]
    while todo:
        signal_ = todo.pop()
        new = {below for below, _ in signal_.reads} - found
        found |= new
        todo += new
        if len(found) > most:
            return False
    (source,) = (one for one in found if not one.reads)
    seen = reached(signal, (0,) * axes, borders=True)
    return bool(seen and seen[1].shape == source.lengths and seen[1].all())


def filled_by(along: Along, below: int | None, length: int | None) -> bool:
    """Does each of so many units read something of the map below?"""
    if along is SAME or along.layer is None:
        return True
    return _filled_by(along.layer, along.border, below or 1, length or 1)


@cache
def _filled_by(
    layer: Window | Sampling, border: Border, below: int, length: int
) -> bool:
    along = Along(layer, border)
    return all(
        any(along.inside(one, below) is not None for one in layer.inputs(unit))
        for unit in range(length)
    )


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
        folded[along.inside(position, length)] |= row
    return 0, folded


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
