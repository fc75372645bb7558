"""Where a large picture is cut into tiles, along one axis."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dilated_lib.fields.input_sizes import InputSizes

__all__ = ["Cut", "exact_cuts", "padded_cuts", "released_cuts"]

Positions = NDArray[np.intp]
Cut = tuple[Positions, slice]  # the pixels that a tile reads, the cells that it gives


def exact_cuts(axis: InputSizes, length: int, side: int, _: int) -> list[Cut]:
    """Cut an axis into tiles for a front end without padding, each with its margin."""
    most = (side - axis.fixed) // axis.step
    if most < 1:
        raise ValueError(
            f"a tile must have at least {axis.size(1)} pixels a side, one cell and its "
            f"margin; got {side}"
        )
    cells = -(-length // axis.step) + 1  # one more, to interpolate towards
    parts = -(-cells // most)
    ends = [cells * part // parts for part in range(parts + 1)]
    after = axis.size(cells) - int(axis.margin) - length
    whole = np.pad(np.arange(length), (int(axis.margin), after), mode="reflect")
    return [
        (whole[axis.step * first :][: axis.size(end - first)], slice(None))
        for first, end in pairwise(ends)
    ]


def padded_cuts(axis: InputSizes, length: int, side: int, least: int) -> list[Cut]:
    """Cut an axis into tiles for a front end that pads, with real pixels around them.

    A cell sees ``field.halo`` pixels beyond its own, so it sees nothing beyond a cut
    that is as many pixels away, and nothing of the padding there. Cuts are whole steps
    apart, since the cells inside a step differ where maps were upsampled.
    """
    step, each = axis.step, axis.each
    steps = -(-max(length, least) // step)
    whole = np.pad(np.arange(length), (0, step * steps - length), mode="reflect")
    halo = -(-max(axis.field.halo) // step)
    most = side // step
    if steps <= most:
        return [(whole, slice(None))]
    own = most - 2 * halo
    if own < 1:
        raise ValueError(
            f"a tile must have at least {step * (2 * halo + 1)} pixels a side, one "
            f"cell and what it sees around it; got {side}"
        )
    parts = -(-steps // own)
    ends = [steps * part // parts for part in range(parts + 1)]
    cuts = []
    for first, end in pairwise(ends):
        begin = max(0, first - halo)
        pixels = whole[step * begin : step * (end + halo)]
        cuts.append((pixels, slice(each * (first - begin), each * (end - begin))))
    return cuts


def released_cuts(axis: InputSizes, length: int, side: int, _: int) -> list[Cut]:
    """Cut an axis as released: tiles of one size, the last one continued inside."""
    margin, step = int(axis.margin), side - axis.fixed
    whole = np.pad(np.arange(length), margin, mode="reflect")
    tiles = [whole[first:][:side] for first in range(0, length, step)]
    return [
        (np.pad(one, (0, side - len(one)), mode="reflect"), slice(None))
        for one in tiles
    ]
