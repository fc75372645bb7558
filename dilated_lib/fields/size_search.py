"""The search for input sizes that a whole network divides: tried first, then traced.

A trial runs the network on a size without values, and says whether a layer leaves units
over; it takes a fraction of a second. Tracing takes seconds, and gives the receptive
fields. So candidates are tried, and only the three sizes that the rule rests on are
traced.
"""

from collections.abc import Callable, Sequence
from functools import cache
from math import inf, lcm
from typing import NamedTuple

from dilated_lib.fields import trial
from dilated_lib.fields.arithmetic import ReceptiveField
from dilated_lib.fields.tracing import Fields

NEARBY = 32  # pixels to either side, among which is a multiple of any step to 65


class Found(NamedTuple):
    """The sizes along one axis: ``fixed + n * step`` pixels, for n from ``least`` on.

    They give ``more + n * each`` cells, whose receptive field is ``field``.
    """

    field: ReceptiveField
    step: int
    fixed: int
    each: int
    more: int
    least: int


def fixed_pixels(field: ReceptiveField) -> int:
    """Return what a size has beyond its cells' strides, if both sides are padded alike.

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
    """Tell whether all cells are alike, and whole pixels apart."""
    alike = len(field.phases) == 1 and isinstance(field.stride, int)
    return alike and 0 < field.size < inf and field.stride > 0


class Search:
    """A search for the whole sizes of one network, which remembers what it has tried.

    ``tried`` takes lengths and returns what the layers leave over along each axis, as
    :func:`~dilated_lib.fields.trial.attempt` does; ``traced`` takes a size and returns
    the receptive fields.
    """

    def __init__(
        self,
        tried: Callable[..., tuple[int, ...] | None],
        traced: Callable[[Sequence[int]], Fields],
    ) -> None:
        self.tried, self.traced = cache(tried), traced

    def around(self, at: Sequence[int]) -> list[Found]:
        """Find the sizes of every axis, beginning next to ``at``.

        A whole size near ``at`` comes first, then one at which no layer leaves even
        padding over. The period of the maps says which steps may lead from one whole
        size to the next. Three sizes in a row are traced, because the number of cells
        must grow by as much in the second step as in the first: only then is it a line
        in n. The least size is found by halving, and tried once more for all axes
        together.

        Raises ValueError for a network without such a line, and says why.
        """
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
        """Return what a size leaves over along an axis, at another length of it."""
        lengths = [length or n if one == axis else n for one, n in enumerate(size)]
        levels = self.tried(*lengths)
        return trial.REMAINDER if levels is None else levels[axis]

    def _nearest(self, at: Sequence[int], axis: int) -> int:
        """Return the nearest length that is whole if all axes have it."""
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
        """Return a length near a whole one that leaves no padding over, if any does."""
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
        """Return the pixels from one whole size to the next."""
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
        """Return the least size, by halving: what takes one size takes larger ones."""
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
    """List the lengths around one, in the order of their distance from it."""
    around = range(max(1, length - far), length + far + 1)
    return sorted(around, key=lambda other: abs(other - length))


def _seen(fields: Fields, axis: int) -> list[ReceptiveField]:
    return [*(layer.fields[axis] for layer in fields.layers), fields[axis]]


def _period(fields: Fields, axis: int) -> int:
    """Return the pixels after which all maps look at the input as before."""
    strides = (field.stride for field in _seen(fields, axis))
    return lcm(*(one for one in strides if isinstance(one, int) and one))


def _coarsest(fields: Fields, axis: int, stride: int) -> ReceptiveField | None:
    """Return the last map of that stride whose units are alike, if there is one."""
    maps = [one for one in _seen(fields, axis) if _plain(one) and one.stride == stride]
    return maps[-1] if maps else None


def _balanced(field: ReceptiveField, size: int, cells: int, whole: bool) -> None:
    """Raise ValueError unless what the cells see is in the middle of the input.

    Args:
        field: Of the cells.
        size: The input's pixels along the axis.
        cells: How many cells it gives.
        whole: Whether the layers leave nothing over, not even padding.
    """
    if not _plain(field):
        return
    over = size - fixed_pixels(field) - cells * int(field.stride)
    if not 0 <= over < field.stride or (over and whole):
        raise ValueError(
            f"{size} pixels give {cells} cells, which see {over:+} pixels more after "
            "the input than before it: the network pads one side more than the other"
        )
