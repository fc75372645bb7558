"""What depends on what, as a graph of signals whose edges say where they read.

A :class:`Signal` is what all channels of a map have in common that depend on the input
alike. Two passes over the graph answer every question (``_passes``).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Literal

from dilated_lib.fields.windows import Sampling, Window

Border = Literal["blank", "reflect", "replicate", "circular"]


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

    def inside(self, position: int, length: int) -> int | None:
        """The position inside a map for which one beyond its border stands, if any."""
        if 0 <= position < length:
            return position
        if self.border == "blank":
            return None
        if self.border == "circular":
            return position % length
        if self.border == "replicate":
            return min(max(position, 0), length - 1)
        period = max(2 * (length - 1), 1)
        return (length - 1) - abs((length - 1) - position % period)


SAME = Along(Window(1))
WHOLE = Along(None)
_orders = count()


@dataclass(eq=False, frozen=True)
class Signal:
    """A map, as far as dependence goes.

    ``reads`` lists the signals that its units read, with one :class:`Along` an axis;
    ``lengths`` the units along each axis, None where the axis is gone. ``alike`` names
    the axes along which all units see the same; ``full`` says that every unit sees all
    of the input; ``joint`` that it is but signals taken together unit by unit.
    """

    name: str
    lengths: tuple[int | None, ...]
    reads: tuple[tuple["Signal", tuple[Along, ...]], ...] = ()
    alike: frozenset[int] = frozenset()
    full: bool = False
    joint: bool = False
    order: int = field(default_factory=lambda: next(_orders))


def union(name: str, signals: Iterable[Signal | None]) -> Signal | None:
    """A signal whose units read the same unit of each of the signals; None for none."""
    parts = tuple(one for one in dict.fromkeys(signals) if one is not None)
    if len(parts) < 2:
        return parts[0] if parts else None
    lengths, full = parts[0].lengths, False
    level = len({part.lengths for part in parts}) == 1
    if not level:
        columns = zip(*(part.lengths for part in parts), strict=True)
        lengths = tuple(max((n for n in one if n), default=None) for one in columns)
    same = (SAME,) * len(lengths)
    reads: dict[tuple[Signal, tuple[Along, ...]], None] = {}
    for part in parts:
        full |= part.full
        if part.joint and len(part.reads) == 2 and part.lengths == lengths:
            reads |= dict.fromkeys(part.reads)  # pairs abound in attention
        else:
            reads[part, same if level else _broadcast(name, part, lengths)] = None
    if full:
        alike = frozenset(range(len(lengths)))
    else:
        alike = frozenset.intersection(*[part.alike for part in parts])
    return Signal(name, lengths, tuple(reads), alike, full, joint=True)


def _broadcast(
    name: str, part: Signal, lengths: tuple[int | None, ...]
) -> tuple[Along, ...]:
    """How the units of a union read those of a part, of which there may be but one.

    One unit for all places is at any distance from them, and so a whole axis.
    """
    alongs = []
    for mine, length in zip(part.lengths, lengths, strict=True):
        if mine not in (length, 1, None):
            raise TracingError(f"{name} takes {mine} and {length} units together")
        alongs.append(SAME if mine == length else WHOLE)
    return tuple(alongs)


def stretched(signal: Signal, lengths: Mapping[int, int], name: str) -> Signal:
    """The signal with as many units along some axes, where it has but one for all."""
    axes = range(len(signal.lengths))
    wanted = tuple(lengths.get(axis, signal.lengths[axis]) for axis in axes)
    if wanted == signal.lengths:
        return signal
    alongs = _broadcast(name, signal, wanted)
    alike = signal.alike | {axis for axis in axes if alongs[axis] is WHOLE}
    return Signal(name, wanted, ((signal, alongs),), alike, signal.full)


def vouched(signal: Signal, full: bool = True) -> Signal:
    """The signal, of which it is known, or not, that every unit sees all the input."""
    axes = range(len(signal.lengths))
    reads = ((signal, (SAME,) * len(axes)),)
    alike = frozenset(axes if full else ())
    return Signal(signal.name, signal.lengths, reads, alike, full)


def unvouched(signal: Signal) -> Signal:
    """The signal, of which it is not known what all units see alike."""
    return vouched(signal, full=False)
