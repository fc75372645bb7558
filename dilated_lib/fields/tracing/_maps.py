"""Maps inside a network: which of their dimensions follows which axis of the input.

A :class:`Map` stands for a tensor. Each of its dimensions is a row of digits, the outer
first, as in a number of mixed base: splitting and merging dimensions regroups digits.
A digit is an input axis (its number), or runs over channels that depend on the input
all alike ("same") or each in its own way ("each"), or over several whole axes that are
mixed up with other things (a set of them).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilated_lib.fields.tracing._passes import filled_by
from dilated_lib.fields.tracing._signals import SAME, WHOLE, Along, Signal

Signals = NDArray[Any]  # of Signal, or None where nothing depends on the input


class Digit(NamedTuple):
    """A factor of a dimension's length, and what it runs over."""

    role: int | str | frozenset[int]
    length: int

    @property
    def plain(self) -> bool:
        """Does it run over channels, not over positions?"""
        return isinstance(self.role, str)


Rows = tuple[tuple[Digit, ...], ...]


@dataclass(frozen=True)
class Map:
    """A tensor, as far as dependence on the input goes.

    ``signals`` has one dimension for each digit "each", in the order of the digits.
    """

    dims: Rows
    signals: Signals

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(math.prod(digit.length for digit in dim) for dim in self.dims)

    @property
    def different(self) -> list[Signal]:
        """The signals in it, each once, without the blank ones."""
        return [one for one in dict.fromkeys(self.signals.flat) if one is not None]

    def eaches(self, end: int) -> int:
        """Number of digits "each" in the first ``end`` dimensions."""
        return sum(d.role == "each" for dim in self.dims[:end] for d in dim)


def build(dims: Iterable[Iterable[Digit]], signals: Signals) -> Map:
    """A map in its shortest form: "each" becomes "same" where all signals are one.

    So do several axes mixed up with other things, once every unit sees all of them.
    """
    rows = tuple(tuple(dim) for dim in dims)
    if any(isinstance(d.role, frozenset) for dim in rows for d in dim):
        seen = [signal.alike for signal in signals.flat if signal is not None]
        rows = without(rows, frozenset.intersection(*seen or [frozenset()]), bags=True)
    if signals.ndim and len(set(signals.flat)) == 1:
        rows = tuple(
            tuple(d._replace(role="same") if d.role == "each" else d for d in dim)
            for dim in rows
        )
        signals = one_of(signals.flat[0])
    return Map(rows, signals)


def without(rows: Rows, axes: frozenset[int], *, bags: bool = False) -> Rows:
    """Dimensions that no longer follow some axes, alone or in bags, or in bags only."""

    def changed(digit: Digit) -> Digit:
        role = digit.role
        if isinstance(role, frozenset):
            return digit._replace(role=role - axes or "same")
        return digit._replace(role="same") if role in axes and not bags else digit

    return tuple(tuple(map(changed, dim)) for dim in rows)


def same(length: int) -> tuple[Digit, ...]:
    """A dimension of channels that are all alike."""
    return (Digit("same", length),) if length > 1 else ()


def replace_dim(m: Map, dim: int, *digits: tuple[Digit, ...]) -> Map:
    """The map with other digits for one dimension, or with none or several for it."""
    dim %= len(m.dims)
    return replace(m, dims=(*m.dims[:dim], *digits, *m.dims[dim + 1 :]))


def map_signals(m: Map, change: Callable[[Signal], Signal]) -> Signals:
    """The signals, each changed once, wherever it stands."""
    table: dict[Signal | None, Signal | None] = {None: None}
    table |= {signal: change(signal) for signal in m.different}
    return array_of([table[signal] for signal in m.signals.flat], m.signals.shape)


def read(
    signal: Signal,
    name: str,
    alongs: Mapping[int, tuple[Along, int | None]],
) -> Signal:
    """A signal that reads another, along some axes, and its new length along each."""
    axes = range(len(signal.lengths))
    lengths = [alongs[a][1] if a in alongs else signal.lengths[a] for a in axes]
    how = tuple(alongs[a][0] if a in alongs else SAME for a in axes)
    alike = {axis for axis in axes if how[axis] is WHOLE}
    full = signal.full
    if signal.alike:  # else it is not worth the time
        filled = {a for a in axes if filled_by(how[a], signal.lengths[a], lengths[a])}
        alike |= signal.alike & filled
        full = full and len(filled) == len(axes)
    return Signal(name, tuple(lengths), ((signal, how),), frozenset(alike), full)


def axes_of(digits: Iterable[Digit]) -> set[int]:
    """The input axes that a dimension follows, alone or mixed up."""
    axes: set[int] = set()
    for digit in digits:
        if isinstance(digit.role, int):
            axes.add(digit.role)
        elif isinstance(digit.role, frozenset):
            axes |= digit.role
    return axes


def one_of(signal: Signal | None) -> Signals:
    """An array of no dimension, for channels that are all alike."""
    return array_of([signal], ())


def array_of(signals: Sequence[Signal | None], shape: Sequence[int]) -> Signals:
    """An array of signals, whatever numpy would make of the list."""
    array = np.empty(len(signals), object)
    array[:] = signals
    return array.reshape(shape)
