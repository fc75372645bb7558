"""Torch's layers as tables of reads, along one axis each.

A convolution or pooling is a :class:`~dilated_lib.fields.windows.Window`. Adaptive
pooling and resizing are tables that repeat after a period, with exact fractions: what
torch computes in single precision is asked of torch where it could differ.
"""

from fractions import Fraction
from functools import cache
from math import floor, gcd
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from dilated_lib.fields.windows import Sampling, Window

__all__ = ["Along", "adaptive", "along", "each", "resampled", "windows"]


class Along(NamedTuple):
    """How the units of a map read those of another, along one dimension.

    ``border`` says what a position outside the map read stands for: nothing ("blank"),
    or one inside. ``idle`` adds reads whose weight is exactly zero: no dependence, but
    NaN passes. ``places`` has, for a period of units, the point of the map read on
    which each is centred, where that is not the middle of its reads.
    """

    layer: Sampling
    border: str = "blank"
    idle: Sampling | None = None
    places: tuple[Fraction, ...] = ()

    @property
    def centres(self) -> tuple[Fraction | None, ...]:
        """The point of the map read on which each unit of a period is centred."""
        middles = (Fraction(r[0] + r[-1], 2) if r else None for r in self.layer.reads)
        return self.places or tuple(middles)


def along(window: Window) -> Along:
    """A convolution or pooling window as a table of reads.

    >>> along(Window(3, 2, padding=1)).layer
    Sampling(step=2, reads=((-1, 0, 1),))
    """
    if not window.transposed:
        return Along(Sampling(window.stride, (tuple(window.inputs(0)),)))
    units, middle = range(window.stride), Fraction(window.extent - 1, 2)
    table = Sampling(1, tuple(tuple(window.inputs(unit)) for unit in units))
    places = ((unit + window.pads[0] - middle) / window.stride for unit in units)
    return Along(table, places=tuple(places))


def windows(
    kernel_size: Any,
    stride: Any = 1,
    *,
    padding: Any = 0,
    dilation: Any = 1,
    transposed: bool = False,
    output_padding: Any = 0,
    rank: int,
) -> list[Window]:
    """A convolution or pooling as torch takes its arguments: a window for each axis.

    >>> windows(3, 2, padding="same", dilation=(1, 2), rank=2)[1].pads
    (2, 2)
    """
    taps, dilations = each(kernel_size, rank), each(dilation, rank)
    pads: list[Any] = [0] * rank if padding == "valid" else each(padding, rank)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, taps, strict=True)]
        pads = [(n // 2, n - n // 2) for n in total]
    columns = zip(
        taps,
        each(stride, rank),
        dilations,
        pads,
        each(output_padding, rank),
        strict=True,
    )
    return [
        Window(k, s, dilation=d, padding=p, transposed=transposed, output_padding=e)
        for k, s, d, p, e in columns
    ]


def each(value: Any, rank: int) -> list[int]:
    """One number for each axis, from one for all or a list."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * rank if len(values) == 1 else values


def adaptive(size: int, out: int) -> Sampling:
    """Pooling to ``out`` units: each from its share of the map, rounded outwards.

    >>> adaptive(5, 2)
    Sampling(step=5, reads=((0, 1, 2), (2, 3, 4)))
    """
    units = range(out // gcd(size, out))
    reads = (range(n * size // out, -(-(n + 1) * size // out)) for n in units)
    return Sampling(len(units) * size // out, tuple(map(tuple, reads)))


@cache
def resampled(
    size: int, out: int, kind: str, scale: float | None, corners: bool, smooth: bool
) -> Along | None:
    """How a resized map of ``out`` units reads the one of ``size``, along one axis.

    Positions beyond the border are those at the border. None where torch does not do
    what exact arithmetic says: nearest pixels are found in single precision, and a
    scale that leaves the size as it is may be carried out, or not.
    """
    ratio, nearest = Fraction(size, out), kind.startswith("nearest")
    if scale is not None and not corners:
        ratio = 1 / Fraction(scale).limit_denominator(1000)
        if abs(1 / ratio - Fraction(scale)) > 1e-9 or (size == out and scale != 1):
            return None
    shift = {"nearest": Fraction(0), "nearest_exact": ratio / 2}.get(
        kind, (ratio - 1) / 2
    )
    if corners:
        ratio, shift = Fraction(size - 1, max(out - 1, 1)), Fraction(0)
    places = [unit * ratio + shift for unit in range(ratio.denominator)]
    reach = {"bicubic": 2}.get(kind, 0 if nearest else 1)  # taps on either side
    if smooth and ratio > 1:  # the kernel is as much wider; it ends at the border
        far = ratio * reach
        wide = (range(floor(n - far + 1), floor(n + far + 1)) for n in places)
        table = Sampling(ratio.numerator, tuple(map(tuple, wide)))
        return Along(table, places=tuple(places))
    low = [floor(place) for place in places]
    rows = [[*range(n - reach + 1, n + reach + 1)] if reach else [n] for n in low]
    exact = [
        [n] if n == place and not nearest else row
        for n, place, row in zip(low, places, rows, strict=True)
    ]
    table = Sampling(ratio.numerator, tuple(map(tuple, exact)))
    if not nearest:
        # before the first position torch reads the second with weight zero
        more = [
            [*row, n + 2] if n < 0 and reach == 1 else row
            for n, row in zip(low, rows, strict=True)
        ]
        idle = Sampling(ratio.numerator, tuple(map(tuple, more)))
        return Along(table, "replicate", idle, tuple(places))
    by: Any = {"size": out} if scale is None else {"scale_factor": scale}
    line = torch.arange(size, dtype=torch.float32)[None, None]
    theirs = F.interpolate(line, **by, mode=kind.replace("_", "-")).flatten().tolist()
    ours = [min(floor(unit * ratio + shift), size - 1) for unit in range(out)]
    return Along(table, "replicate") if theirs == ours else None
