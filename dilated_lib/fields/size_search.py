"""The search for input sizes that a whole network divides: tried first, then traced."""

from collections.abc import Callable, Sequence
from functools import cache
from math import inf, lcm
from typing import NamedTuple

from dilated_lib.fields import trial
from dilated_lib.fields.arithmetic import ReceptiveField
from dilated_lib.fields.tracing import Fields

NEARBY = 32  # pixels to either side, among which is a multiple of any step to 65


class Found(NamedTuple):
    """The sizes along one axis: ``fixed + n * step`` pixels, n from ``least`` on.

    They give ``more + n * each`` cells.
    """

    field: ReceptiveField
    step: int
    fixed: int
    each: int
    more: int
    least: int


def fixed_pixels(field: ReceptiveField) -> int:
    """What a size has beyond its cells' strides, if both sides are padded alike.

    Raises ValueError where the cells are not alike, or one sees the whole axis.
    """
    if field.size == inf:
        raise ValueError("a cell sees the whole axis: every size gives one cell")
    if not _plain(field):
        raise ValueError(
            "cells must be alike and stand whole pixels apart, got "
            f"{field}; name a layer before the upsampling"
        )
    return int(field.size - field.stride - 2 * field.padding)


def _plain(field: ReceptiveField) -> bool:
    """Are all cells alike, and whole pixels apart?"""
    alike = len(field.phases) == 1 and isinstance(field.stride, int)
    return alike and 0 < field.size < inf and field.stride > 0


class Search:
    """Looks for the whole sizes of one network, and remembers what it has tried."""

    def __init__(
        self,
        tried: Callable[..., tuple[int, ...] | None],
        traced: Callable[[Sequence[int]], Fields],
    ) -> None:
        self.tried, self.traced = cache(tried), traced

    def around(self, at: Sequence[int]) -> list[Found]:
        """The sizes of every axis, found at first next to ``at``."""
        axes = range(len(at))
        start = [self._nearest(at, axis) for axis in axes]
        fields = self.traced(start)
        size = [self._tightest(start, axis, fields) for axis in axes]
        fields = fields if size == start else self.traced(size)
        steps = [self._step(size, axis, fields) for axis in axes]
        counts = [
            self.traced([n + k * by for n, by in zip(size, steps, strict=True)]).lengths
            for k in (1, 2)
        ]
        found = []
        for axis, (length, step) in enumerate(zip(size, steps, strict=True)):
            field, cells = fields[axis], fields.lengths[axis]
            _balanced(field, length, cells, self._left_over(size, axis) == trial.WHOLE)
            each = counts[0][axis] - cells
            if not each or counts[1][axis] - counts[0][axis] != each:
                raise ValueError(
                    f"{length}, {length + step} and {length + 2 * step} pixels give "
                    f"{cells}, {counts[0][axis]} and {counts[1][axis]} cells: their "
                    "number does not follow from the size"
                )
            fixed = length - cells * step  # so that n is the number of cells
            if each > 1:  # n is the number of cells of the coarsest map, if possible
                coarse = _coarsest(fields, axis, step)
                fixed = fixed_pixels(coarse) if coarse else 0
                fixed = length % step if (length - fixed) % step else fixed
            more = cells - (length - fixed) // step * each
            least = (self._least(size, axis, step) - fixed) // step
            found.append(Found(field, step, fixed, each, more, least))
        least_size = [one.fixed + one.least * one.step for one in found]
        if self.tried(*least_size) is None:
            raise ValueError(f"the network takes {size}, but not {least_size}")
        return found

    def _left_over(self, size: Sequence[int], axis: int, length: int = 0) -> int:
        """What a size leaves over along one axis, if that has another length."""
        lengths = [length or n if one == axis else n for one, n in enumerate(size)]
        levels = self.tried(*lengths)
        return trial.REMAINDER if levels is None else levels[axis]

    def _nearest(self, at: Sequence[int], axis: int) -> int:
        """The length next to the given one that is whole, if all axes have it."""
        for most in (trial.PADDING, trial.UNEVEN):
            for length in _outwards(at[axis], NEARBY):
                if self._left_over([length] * len(at), axis) <= most:
                    return length
        if self.tried(*at) is None:
            self.traced(at)  # says why
        raise ValueError(
            f"no size near {at[axis]} pixels is whole: some layer leaves a pixel over, "
            "or resizes by a factor that is not whole"
        )

    def _tightest(self, size: Sequence[int], axis: int, fields: Fields) -> int:
        """A length near a whole one at which no padding is left over, if there is."""
        if not fields[axis].stride:
            raise ValueError("a cell sees the whole axis: every size gives one cell")
        period = _period(fields, axis)
        if period == 1:
            fixed_pixels(fields[axis])  # nothing is divided: are there cells at all?
        coarse = _coarsest(fields, axis, period)
        for length in _outwards(size[axis], period // 2):
            fits = not coarse or (length - fixed_pixels(coarse)) % period == 0
            if fits and self._left_over(size, axis, length) == trial.WHOLE:
                return length
        return size[axis]

    def _step(self, size: Sequence[int], axis: int, fields: Fields) -> int:
        """Pixels from one whole size to the next."""
        length, period = size[axis], _period(fields, axis)
        most = self._left_over(size, axis)
        for step in range(period, 2 * max(period, NEARBY) + 1, period):
            ahead = (length + step, length + 2 * step)
            if all(self._left_over(size, axis, one) <= most for one in ahead):
                return step
        raise ValueError(
            f"the network takes {length} pixels, and no larger size near it"
        )

    def _least(self, size: Sequence[int], axis: int, step: int) -> int:
        """The least size, by halving: a network that takes one takes larger ones."""
        most = self._left_over(size, axis)
        fits, fails = 0, (size[axis] - 1) // step + 1  # steps down
        while fails - fits > 1:
            middle = (fits + fails) // 2
            length = size[axis] - middle * step
            if self._left_over(size, axis, length) <= most:
                fits = middle
            else:
                fails = middle
        return size[axis] - fits * step


def _outwards(length: int, far: int) -> list[int]:
    """Lengths from one on, in the order of their distance."""
    around = range(max(1, length - far), length + far + 1)
    return sorted(around, key=lambda other: abs(other - length))


def _seen(fields: Fields, axis: int) -> list[ReceptiveField]:
    return [*(layer.fields[axis] for layer in fields.layers), fields[axis]]


def _period(fields: Fields, axis: int) -> int:
    """Pixels after which the maps before upsampling look at the input alike again."""
    strides = (field.stride for field in _seen(fields, axis))
    return lcm(*(one for one in strides if isinstance(one, int) and one))


def _coarsest(fields: Fields, axis: int, stride: int) -> ReceptiveField | None:
    """The last map of that stride, if its units are alike."""
    maps = [one for one in _seen(fields, axis) if _plain(one) and one.stride == stride]
    return maps[-1] if maps else None


def _balanced(field: ReceptiveField, size: int, cells: int, whole: bool) -> None:
    """Raise ValueError where what the cells see is not in the middle of the input."""
    if not _plain(field):
        return
    over = size - fixed_pixels(field) - cells * int(field.stride)
    if over and (whole or not 0 < over < field.stride):
        raise ValueError(
            f"{size} pixels give {cells} cells, which see {over:+} pixels more after "
            "the input than before it: the network pads one side more than the other"
        )
