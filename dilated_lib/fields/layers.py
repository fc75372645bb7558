"""Torch's layers, read as what their units see along each axis.

A convolution or pooling is a :class:`~dilated_lib.fields.windows.Window`, whether it is
a call in a traced graph or a module of a network. Adaptive pooling and resizing are
tables that repeat after a period, computed with exact fractions. Torch computes some of
these in single precision; where the two could differ, torch is asked.
"""

from fractions import Fraction
from functools import cache
from math import floor, gcd
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from dilated_lib.fields.windows import Sampling, Window

__all__ = ["Along", "adaptive", "along", "resampled", "windows", "windows_of"]


class Along(NamedTuple):
    """How the units of a map read those of another map, along one dimension.

    Args:
        layer: The positions that each unit reads.
        border: What a position outside the map stands for: nothing ("blank"), or one
            inside it, as torch names its paddings.
        weighted: Those of them with a weight, where the kernel has zeros: no output
            depends on the others, but a NaN passes.
        idle: Where torch reads more with weight zero, but near a border alone: the
            reads as they are there.
        places: For a period of units, the point of the map on which each is centred;
            empty where that is the middle of what it reads.
    """

    layer: Sampling
    border: str = "blank"
    weighted: Sampling | None = None
    idle: Sampling | None = None
    places: tuple[Fraction, ...] = ()

    @property
    def centres(self) -> tuple[Fraction | None, ...]:
        """Return the point of the map on which each unit of a period is centred."""
        middles = (Fraction(r[0] + r[-1], 2) if r else None for r in self.layer.reads)
        return self.places or tuple(middles)


def along(window: Window) -> Along:
    """Return a window as a table of reads.

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
    stride: Any,
    *,
    padding: Any,
    dilation: Any,
    transposed: bool = False,
    output_padding: Any = 0,
    rank: int,
) -> list[Window]:
    """Return a window for each axis of a convolution or pooling.

    The arguments are torch's: a number for all axes, or a list with one for each.
    ``padding`` may also be "valid" or "same", which pads an even kernel by one more
    after the map than before it.

    Args:
        kernel_size: Taps.
        stride: Units from one output to the next.
        padding: Units before and after the map.
        dilation: Units from one tap to the next.
        transposed: Whether it is a transposed convolution.
        output_padding: Units that a transposed one's output has more.
        rank: The number of axes.

    >>> windows(3, 2, padding="same", dilation=(1, 2), rank=2)[1].pads
    (2, 2)
    """

    def each(value: Any) -> list[Any]:
        values = list(value) if isinstance(value, list | tuple) else [value]
        return values * rank if len(values) == 1 else values

    taps, dilations = each(kernel_size), each(dilation)
    pads = each(0 if padding == "valid" else padding)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, taps, strict=True)]
        pads = [(n // 2, n - n // 2) for n in total]
    columns = zip(
        taps, each(stride), dilations, pads, each(output_padding), strict=True
    )
    return [
        Window(k, s, dilation=d, padding=p, transposed=transposed, output_padding=e)
        for k, s, d, p, e in columns
    ]


def windows_of(layer: nn.Conv2d | nn.MaxPool2d) -> list[Window]:
    """Return the windows of a module, along the height and along the width.

    A pooling's ``ceil_mode`` and what the padding is filled with are not part of them.

    >>> windows_of(nn.Conv2d(3, 8, (3, 5), dilation=2, padding="same"))[1].pads
    (4, 4)
    """
    return windows(
        layer.kernel_size,
        layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        rank=2,
    )


def adaptive(size: int, out: int) -> Sampling:
    """Return adaptive pooling to ``out`` units as a table of reads.

    Each unit reads its part of a map of ``size`` units, rounded outwards.

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
    """Return how a resized map reads the one below it, along one axis.

    A unit of the result stands at a point of the map below, which the ratio of the
    sizes gives, and reads the taps of its kernel around that point. All this is exact
    in fractions, and repeats once the point is a whole number again: the table has one
    such period. Positions beyond the border are those at the border.

    The result is None where torch does not do what exact arithmetic says: it finds
    nearest pixels in single precision, and may or may not carry out a scale that leaves
    the size as it is.

    Args:
        size: Units of the map below.
        out: Units of the result.
        kind: Torch's mode without the number of axes, such as "bicubic" or "linear".
        scale: The factor that torch was given in place of a size, or None.
        corners: Torch's ``align_corners``.
        smooth: Torch's ``antialias``, which widens the kernel where a map shrinks.
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
        ratio = Fraction(size - 1, out - 1) if out > 1 else Fraction(0)
        # where it smooths, torch does not put the first unit on the first position
        shift = (ratio - 1) / 2 if smooth else Fraction(0)
    places = [unit * ratio + shift for unit in range(ratio.denominator)]
    reach = {"bicubic": 2}.get(kind, 0 if nearest else 1)  # taps on either side
    if smooth and ratio > 1:  # the kernel is as much wider; it ends at the border
        far = ratio * reach
        wide = [range(floor(n - far) + 1, floor(n + far) + 1) for n in places]
        table = Sampling(ratio.numerator, tuple(map(tuple, wide)))
        # a whole number of units away from its middle the kernel is zero
        inner = (
            tuple(one for one in row if one == n or (one - n) % ratio)
            for n, row in zip(places, wide, strict=True)
        )
        weighted = Sampling(ratio.numerator, tuple(inner))
        return Along(table, weighted=weighted, places=tuple(places))
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
            [*row, n + 2] if n < 0 and reach == 1 and not smooth else row
            for n, row in zip(low, rows, strict=True)
        ]
        idle = Sampling(ratio.numerator, tuple(map(tuple, more)))
        return Along(table, "replicate", idle=idle, places=tuple(places))
    by: Any = {"size": out} if scale is None else {"scale_factor": scale}
    line = torch.arange(size, dtype=torch.float32)[None, None]
    theirs = F.interpolate(line, **by, mode=kind.replace("_", "-")).flatten().tolist()
    ours = [floor(unit * ratio + shift) for unit in range(out)]
    return Along(table) if theirs == ours else None
