"""Receptive-field arithmetic along one axis, in whole numbers and fractions.

A layer is a :class:`~dilated_lib.fields.windows.Window`; a stack of layers is composed
into one :class:`ReceptiveField`. Everything is exact, and nothing here needs torch.

The names follow Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019, with dilation added.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from dilated_lib.fields.windows import Sampling, Window
from dilated_lib.values import whole

__all__ = [
    "ReceptiveField",
    "Sampling",
    "Window",
    "above",
    "compose",
    "join",
    "place",
]


@dataclass(frozen=True, repr=False)
class ReceptiveField:
    """What the units of a layer see of the network's input, along one axis.

    ``stride`` is the distance between what neighbouring units see, in input positions.
    ``phases[i]`` is the hull (first, last) of the input positions that unit i reaches,
    for one period of units; it is None where a unit reaches nothing. Unit
    ``i + len(phases)`` sees the hull of unit i, moved by ``stride * len(phases)``.
    Ordinary layers have one phase, so that unit i sees the positions from
    i·stride − padding to i·stride − padding + size − 1, both included.

    Above a layer that reads a whole axis the hull is (−inf, inf), ``size`` is
    ``math.inf``, and there is no start, end, centre or padding. A stride of 0 means
    that one unit is left along the axis.

    Raises TypeError for a stride that is neither a whole number nor a fraction, and
    ValueError where a period of units does not span a whole number of positions.

    >>> field = ReceptiveField(8, ((0, 379),))
    >>> field.size, field.start(1), field.end(1)
    (380, 8, 387)
    """

    stride: int | Fraction
    phases: tuple[tuple[float, float] | None, ...]

    def __post_init__(self) -> None:
        stride = self.stride
        if not isinstance(stride, Fraction):
            stride = whole("stride", stride)
        # a whole stride is a whole number, so that equal fields are written alike
        stride = stride.numerator if stride.denominator == 1 else stride
        object.__setattr__(self, "stride", stride)
        if not self.phases or self.stride * len(self.phases) % 1:
            raise ValueError(
                "phases must hold one hull for each unit of a period, and the period "
                f"a whole number of input positions; got {len(self.phases)} hulls at "
                f"stride {self.stride}"
            )

    @property
    def size(self) -> float:
        """Count the input positions from the first to the last that a unit sees.

        Where the phases differ it is the largest of their counts.
        """
        return max(
            (last - first + 1 for first, last in filter(None, self.phases)), default=0
        )

    @property
    def padding(self) -> int:
        """Return how far unit 0 begins before the input's first position."""
        return -self.start(0)

    @property
    def halo(self) -> tuple[int, int]:
        """Return the positions that a tile must bring before its own, and after them.

        The units of one period own ``stride * len(phases)`` positions. A tile of whole
        periods, cut out of a larger input, computes its own units exactly if it comes
        with that many more positions on each side and what it computes for these is
        dropped. Raises ValueError where a unit sees the whole axis.

        >>> ReceptiveField(8, ((-186, 193),)).halo  # the front end, padded inside
        (186, 186)
        """
        own = int(self.stride * len(self.phases))
        hulls = [self._bounded(unit) for unit, hull in enumerate(self.phases) if hull]
        return (
            max([0, *(-first for first, _ in hulls)]),
            max([0, *(last + 1 - own for _, last in hulls)]),
        )

    def start(self, unit: int) -> int:
        """Return the first position that ``unit`` sees; in the padding, a negative."""
        return self._bounded(unit)[0]

    def end(self, unit: int) -> int:
        """Return the last input position that ``unit`` sees."""
        return self._bounded(unit)[1]

    def centre(self, unit: int) -> Fraction:
        """Return the midpoint of what ``unit`` sees: between two for an even size."""
        return Fraction(sum(self._bounded(unit)), 2)

    def reaches(self, unit: int) -> bool:
        """Tell whether ``unit`` sees any input; above transposed layers one may not."""
        return self.phases[unit % len(self.phases)] is not None

    def _bounded(self, unit: int) -> tuple[int, int]:
        first, last = self._hull(unit)
        if math.isinf(first):
            raise ValueError(
                f"unit {unit} sees the whole axis: its field has no first position, "
                "no last, and no centre"
            )
        return int(first), int(last)

    def _hull(self, unit: int) -> tuple[float, float]:
        period, phase = divmod(whole("unit", unit), len(self.phases))
        hull = self.phases[phase]
        if hull is None:
            raise ValueError(
                f"unit {unit} sees no input: it reads only gaps that the taps of a "
                "transposed layer leave between them"
            )
        move = period * int(self.stride * len(self.phases))
        return hull[0] + move, hull[1] + move

    def __repr__(self) -> str:
        if self.size == math.inf:
            detail = "unbounded"
        elif len(self.phases) > 1:
            detail = f"phases={self.phases}"
        else:
            detail = f"padding={self.padding}" if self.phases[0] else "empty"
        return f"ReceptiveField(size={self.size}, stride={self.stride}, {detail})"


def compose(windows: Iterable[Window]) -> ReceptiveField:
    """Compute the receptive field of a stack, the layer nearest the input first.

    For ordinary layers this is the closed form of Araujo et al. (2019),
    size = 1 + Σ (extent_l − 1) Π_{i<l} stride_i, with padding and stride likewise.
    A stack without layers is the identity: size 1, stride 1, padding 0.

    Raises TypeError for anything but a list of Windows.

    >>> compose([Window(3, dilation=1), Window(3, dilation=2), Window(3, dilation=4)])
    ReceptiveField(size=15, stride=1, padding=0)
    >>> compose([Window(4, 2, padding=1, transposed=True)])
    ReceptiveField(size=2, stride=1/2, phases=((-1, 0), (0, 1)))
    """
    if not isinstance(windows, Iterable):
        raise TypeError(f"windows must be a list of Windows, got {windows!r}")
    layers = tuple(windows)
    for depth, layer in enumerate(layers, 1):
        if not isinstance(layer, Window):
            raise TypeError(f"layer {depth} must be a Window, got {layer!r}")
    field = ReceptiveField(1, ((0, 0),))
    for layer in layers:
        field = above(field, layer)
    return field


def above(below: ReceptiveField, layer: Window | Sampling) -> ReceptiveField:
    """Compute what a layer's units see, from what the units below it see.

    The hull of a union is the hull of the hulls, so each unit needs only the hulls of
    the units that it reads. It does not even need all of these: the units of one phase
    see the same hull, moved along with the unit, so among them the first and the last
    that a tap reads decide. That keeps a layer of a million taps cheap.

    >>> above(compose([Window(3, 2)]), Sampling(1, ((0,), (0,))))
    ReceptiveField(size=3, stride=1, phases=((0, 2), (0, 2)))
    """
    if isinstance(layer, Sampling):
        step, units = layer.step, len(layer.reads)
    else:
        step, units = (1, layer.stride) if layer.transposed else (layer.stride, 1)
    phases = len(below.phases)
    hulls = []
    for unit in range(units * (phases // math.gcd(phases, step))):
        reads = layer.inputs(unit)
        # after that many taps the phases repeat, further inside the hull
        outer = {*reads[:phases], *reads[-phases:]}
        hulls.append(
            _hull_of(below._hull(lower) for lower in outer if below.reaches(lower))
        )
    return ReceptiveField(Fraction(below.stride) * step / units, tuple(hulls))


def place(field: ReceptiveField, unit: int) -> float:
    """Return where a drawing puts a unit, in input positions: phases spaced evenly.

    Raises ValueError above a layer that reads a whole axis.

    >>> place(compose([Window(3, 2)]), 1)
    3.0
    """
    phases = range(len(field.phases))
    shifts = [field.centre(i) - i * field.stride for i in phases if field.reaches(i)]
    return float(whole("unit", unit) * field.stride + sum(shifts) / len(shifts))


def join(fields: Iterable[ReceptiveField]) -> ReceptiveField:
    """Compute what the units of a map see that is made of several maps.

    A sum or a concatenation makes such a map: each of its units sees what any of the
    units at the same index sees, and its hull is the hull of that union. A whole axis
    joined with anything is the whole axis.

    Raises ValueError for maps of different strides: their units stand at different
    distances, so no two units of the joined map would see alike.

    >>> join([compose([Window(3, padding=1)]), compose([Window(5, dilation=2)])])
    ReceptiveField(size=10, stride=1, padding=1)
    """
    maps = tuple(dict.fromkeys(fields))
    if len(maps) == 1:
        return maps[0]
    strides = [field.stride for field in maps if field.size != math.inf]
    if len(strides) < len(maps):
        # a map with one unit left has stride 0, and lies along one that has a stride
        stride = max((*strides, *(field.stride for field in maps)), key=bool)
        return ReceptiveField(
            stride, ((-math.inf, math.inf),) * Fraction(stride).denominator
        )
    if len(set(strides)) > 1:
        raise ValueError(
            "maps of different strides meet, so that no two units see alike: "
            + " and ".join(map(str, sorted(set(strides))))
        )
    period = math.lcm(*(len(field.phases) for field in maps))
    hulls = (
        _hull_of(field._hull(unit) for field in maps if field.reaches(unit))
        for unit in range(period)
    )
    return ReceptiveField(strides.pop(), tuple(hulls))


def _hull_of(hulls: Iterable[tuple[float, float]]) -> tuple[float, float] | None:
    ends = [end for hull in hulls for end in hull]
    return (min(ends), max(ends)) if ends else None
