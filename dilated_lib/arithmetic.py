"""Receptive-field arithmetic along one axis, in whole numbers and fractions.

A layer is a :class:`Window`; a stack of layers is composed into one
:class:`ReceptiveField`. Everything is exact, and nothing here needs torch.

The names follow Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019, with dilation added.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from math import gcd

__all__ = ["ReceptiveField", "Window", "compose"]


@dataclass(frozen=True)
class Window:
    """One convolution or pooling layer along one axis. All lengths are in units.

    ``dilation`` is the distance between neighbouring taps: 1 is the ordinary
    layer, and ``dilation - 1`` holes lie between two taps. ``padding`` is one
    number for both sides or a pair ``(before, after)``. With ``transposed=True``
    the layer is the transpose of that convolution, as in
    ``torch.nn.ConvTranspose1d``: padding then crops, and ``output_padding``
    lengthens the output at its end.

    Raises TypeError for a value that is not a whole number, ValueError for one
    that is out of range.

    >>> Window(3, dilation=4).extent
    9
    """

    kernel_size: int
    stride: int = 1
    _: KW_ONLY
    dilation: int = 1
    padding: int | tuple[int, int] = 0
    transposed: bool = False
    output_padding: int = 0

    def __post_init__(self) -> None:
        for name in ("kernel_size", "stride", "dilation"):
            object.__setattr__(self, name, _whole(name, getattr(self, name), 1))
        if not isinstance(self.transposed, bool):
            raise TypeError(
                f"transposed must be True or False, got {self.transposed!r}"
            )
        if isinstance(self.padding, tuple | list):
            if len(self.padding) != 2:
                raise ValueError(
                    "padding must be one number or a pair (before, after), "
                    f"got {self.padding!r}"
                )
            sides = tuple(_whole("padding", side, 0) for side in self.padding)
            object.__setattr__(self, "padding", sides)
        else:
            object.__setattr__(self, "padding", _whole("padding", self.padding, 0))
        extra = _whole("output_padding", self.output_padding, 0)
        object.__setattr__(self, "output_padding", extra)
        if extra and not self.transposed:
            raise ValueError(
                "output_padding belongs to transposed layers, "
                f"got output_padding={extra} with transposed=False"
            )
        if extra and extra >= max(self.stride, self.dilation):
            raise ValueError(
                "output_padding must be smaller than stride or dilation, "
                f"got output_padding={extra} with stride={self.stride}, "
                f"dilation={self.dilation}"
            )

    @property
    def extent(self) -> int:
        """Distance from the first tap to the last, both included: d(k − 1) + 1."""
        return self.dilation * (self.kernel_size - 1) + 1

    @property
    def pads(self) -> tuple[int, int]:
        """Padding before and after, in units."""
        if isinstance(self.padding, tuple):
            return self.padding
        return (self.padding, self.padding)

    def inputs(self, unit: int) -> Sequence[int]:
        """Input positions that output ``unit`` reads, in rising order.

        Positions outside the input are padding. A unit of a transposed layer may
        read none.

        >>> list(Window(3, 2, dilation=4, padding=1).inputs(5))
        [9, 13, 17]
        >>> Window(3, 2, transposed=True).inputs(4)
        [1, 2]
        """
        unit, (before, _) = _whole("unit", unit), self.pads
        if not self.transposed:
            first = unit * self.stride - before
            return range(first, first + self.extent, self.dilation)
        # input j is written to outputs j·stride − before + dilation·tap
        reads = (
            divmod(unit + before - self.dilation * tap, self.stride)
            for tap in reversed(range(self.kernel_size))
        )
        return [position for position, remainder in reads if remainder == 0]

    def output_size(self, size: int) -> int:
        """Number of outputs for ``size`` inputs, as torch counts them (rounded down).

        Raises ValueError where no output is left: the dilated kernel is larger than
        the padded input, or a transposed layer's padding crops everything.

        >>> Window(3, dilation=16, padding=16).output_size(66)
        66
        """
        size = _whole("input size", size, 1)
        before, after = self.pads
        if self.transposed:
            whole = (size - 1) * self.stride + self.extent + self.output_padding
            if whole <= before + after:
                raise ValueError(
                    f"padding ({before}, {after}) crops the whole output of {whole} "
                    f"for input size {size}; it must leave at least 1"
                )
            return whole - before - after
        padded = size + before + after
        if self.extent > padded:
            raise ValueError(
                f"the dilated kernel is larger than the padded input: kernel_size "
                f"{self.kernel_size} with dilation {self.dilation} spans {self.extent}"
                f", but input size {size} with padding ({before}, {after}) has {padded}"
            )
        return (padded - self.extent) // self.stride + 1


@dataclass(frozen=True, repr=False)
class ReceptiveField:
    """What the units of a layer see of the network's input, along one axis.

    ``phases[i]`` is the hull (first, last) of the input positions that unit i
    reaches, for one period of units; None where a unit reaches nothing. Unit
    ``i + len(phases)`` sees the hull of unit i, moved by
    ``stride * len(phases)``. Ordinary layers have one phase, and unit i sees
    [i·stride − padding, i·stride − padding + size − 1].
    """

    stride: int | Fraction
    phases: tuple[tuple[int, int] | None, ...]

    def __post_init__(self) -> None:
        if not self.phases or self.stride * len(self.phases) % 1:
            raise ValueError(
                "phases must hold one hull for each unit of a period, and the period "
                f"a whole number of input positions; got {len(self.phases)} hulls at "
                f"stride {self.stride}"
            )

    @property
    def size(self) -> int:
        """Input positions from the first to the last seen; the largest phase's."""
        return max(
            (last - first + 1 for first, last in filter(None, self.phases)), default=0
        )

    @property
    def padding(self) -> int:
        """How far unit 0 begins before the input's first position."""
        return -self.start(0)

    def start(self, unit: int) -> int:
        """First input position that ``unit`` sees (negative: in the padding)."""
        return self._hull(unit)[0]

    def end(self, unit: int) -> int:
        """Last input position that ``unit`` sees."""
        return self._hull(unit)[1]

    def centre(self, unit: int) -> Fraction:
        """Midpoint of what ``unit`` sees; a half where the size is even."""
        return Fraction(sum(self._hull(unit)), 2)

    def _hull(self, unit: int) -> tuple[int, int]:
        period, phase = divmod(_whole("unit", unit), len(self.phases))
        hull = self.phases[phase]
        if hull is None:
            raise ValueError(
                f"unit {unit} sees no input: it reads only gaps that the taps of a "
                "transposed layer leave between them"
            )
        move = period * int(self.stride * len(self.phases))
        return hull[0] + move, hull[1] + move

    def __repr__(self) -> str:
        if len(self.phases) > 1:
            detail = f"phases={self.phases}"
        else:
            detail = f"padding={self.padding}" if self.phases[0] else "empty"
        return f"ReceptiveField(size={self.size}, stride={self.stride}, {detail})"


def compose(windows: Iterable[Window]) -> ReceptiveField:
    """Receptive field of a stack of layers, the layer nearest the input first.

    Raises TypeError for anything but a list of Windows. No layer at all is the
    identity: size 1, stride 1, padding 0.

    For ordinary layers this is the closed form of Araujo et al. (2019),
    size = 1 + Σ (extent_l − 1) Π_{i<l} stride_i, with padding and stride likewise.

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
        field = _above(field, layer)
    return field


def _above(below: ReceptiveField, layer: Window) -> ReceptiveField:
    """What a layer's units see of the network's input, from what those below see.

    The hull of a union is the hull of the hulls, so each unit needs only the hulls of
    the units that it reads.
    """
    phases = len(below.phases)
    if layer.transposed:
        stride = Fraction(below.stride) / layer.stride
        period = phases * layer.stride
    else:
        stride = Fraction(below.stride) * layer.stride
        period = phases // gcd(phases, layer.stride)
    hulls = []
    for unit in range(period):
        reads = layer.inputs(unit)
        # taps come back to the same phase after that many, further inside the hull
        outer = {*reads[:phases], *reads[-phases:]}
        seen = [below._hull(one) for one in outer if below.phases[one % phases]]
        ends = [end for hull in seen for end in hull]
        hulls.append((min(ends), max(ends)) if seen else None)
    whole = stride.denominator == 1
    return ReceptiveField(stride.numerator if whole else stride, tuple(hulls))


def _whole(name: str, value: object, least: int | None = None) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
