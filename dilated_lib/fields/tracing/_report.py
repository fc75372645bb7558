"""The answer: the field of every layer of a network, and how it came about."""

import gc
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dilated_lib.fields.arithmetic import ReceptiveField
from dilated_lib.fields.tracing._analysis import (
    Answers,
    Layer,
    Traced,
    analysed,
    first_whole,
)
from dilated_lib.fields.tracing._graph import trace
from dilated_lib.fields.tracing._passes import reached
from dilated_lib.fields.tracing._signals import Signal

__all__ = ["Fields", "Layer", "receptive_field"]


class Fields(tuple[ReceptiveField, ...]):
    """What the units of an output see: a tuple, one field an axis, and how it came.

    ``layers`` has a row for each layer on the way, ``unbounded`` the name of the first
    whose units depend on positions at any distance, if any. ``coverage`` is an array
    over the fields of unit 0 (the first, if it is a gap of a transposed layer, that
    reads anything): which positions its paths reach, where it was asked for.
    ``seconds`` tells the time for tracing and for the analysis. Copies and pickles are
    plain tuples of the fields.
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
        self.unbounded = first_whole(seen)

    def __reduce__(self) -> tuple[type, tuple[tuple[ReceptiveField, ...]]]:
        return tuple, (tuple(self),)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Units of the output along each axis; 1 where the axis is gone."""
        return tuple(length or 1 for length in self._signal.lengths)

    def _covered(self) -> NDArray[np.bool_]:
        # the first that reads anything: those before are gaps of a transposed layer
        unit = tuple(
            next(n for n, hull in enumerate(axis.phases) if hull) for axis in self
        )
        found = reached(self._signal, unit, borders=False)
        starts = [axis.start(one) for axis, one in zip(self, unit, strict=True)]
        ends = [axis.end(one) for axis, one in zip(self, unit, strict=True)]
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
    different strides. ValueError for impossible names or sizes, TypeError for what is
    no module or no name.

    >>> h, w = receptive_field(nn.Conv2d(3, 8, (3, 5), dilation=2), (3, 32, 32))
    >>> h.size, w.size
    (5, 9)
    """
    size = tuple(input_size) if isinstance(input_size, Sequence) else ()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
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
        signal, seen, layers, behind = analysed(graph, of, to)
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
