"""Bilinear resizing, of a part of an image at a time.

torch resizes an image as a whole. Of a part that is cut out it would take the border
for that of the image, and it would not know where between two pixels the part's first
one lies. So the weights of a part are computed here.
"""

from collections.abc import Callable
from functools import partial
from math import ceil, floor

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["resized", "resized_rows"]

Part = tuple[int, int]  # the first row or column, and the one after the last


def resized(
    images: Tensor,
    size: tuple[int, int],
    *,
    rows: Part | None = None,
    columns: Part | None = None,
    smooth: bool = True,
) -> Tensor:
    """Resize images (N, C, H, W), or compute some rows and columns of the result.

    This is ``F.interpolate(mode="bilinear", antialias=smooth)``, but a part of the
    result reads only the pixels that it needs. So a large image can be resized piece by
    piece, and its result never lies in memory as a whole. Bytes become float32.

    Args:
        images: The images.
        size: Height and width of the whole result.
        rows: The first row to compute and the one after the last; None for all.
        columns: The same of the columns.
        smooth: Average over more pixels where the image shrinks.

    >>> image = torch.arange(6.0).view(1, 1, 1, 6)
    >>> resized(image, (1, 3), smooth=False)
    tensor([[[[0.5000, 2.5000, 4.5000]]]])
    >>> resized(image, (1, 3), columns=(1, 2), smooth=False)
    tensor([[[[2.5000]]]])
    """
    height, width = images.shape[2:]

    def read_rows(first: int, end: int, inside: slice = slice(None)) -> Tensor:
        return images[:, :, first:end, inside].float()

    def read_columns(first: int, end: int) -> Tensor:
        read = partial(read_rows, inside=slice(first, end))
        found = resized_rows(read, height, size[0], rows or (0, size[0]), smooth=smooth)
        return found.mT

    if columns:
        return resized_rows(read_columns, width, size[1], columns, smooth=smooth).mT
    # torch is quicker along an axis of which nothing is left out
    if not rows:
        return F.interpolate(images.float(), size, mode="bilinear", antialias=smooth)
    found = resized_rows(read_rows, height, size[0], rows, smooth=smooth)
    whole = found.shape[2], size[1]
    return F.interpolate(found, whole, mode="bilinear", antialias=smooth)


def resized_rows(
    read: Callable[[int, int], Tensor],
    length: int,
    size: int,
    part: Part,
    *,
    smooth: bool = True,
) -> Tensor:
    """Compute some rows (N, C, h, W) of an image that is resized along its height.

    A new row is a weighted mean of the old rows around its centre. The weights fall
    linearly to zero at a distance of one old row; if the image shrinks and is to be
    smooth, the distance is the ratio of the two heights. Old rows beyond the border do
    not exist and have no weight.

    Args:
        read: A function that returns the old rows (N, C, ·, W) from a first one up to
            the one before an end, of which only those that are needed are read.
        length: The number of old rows.
        size: The number of new rows.
        part: The first new row to compute, and the one after the last.
        smooth: Average over more rows where the image shrinks.

    >>> columns = torch.tensor([0.0, 1.0, 2.0]).view(1, 1, 3, 1)
    >>> resized_rows(lambda a, b: columns[:, :, a:b], 3, 6, (1, 3)).flatten()
    tensor([0.2500, 0.7500])
    """
    if length == size:
        return read(*part)
    ratio = length / size
    reach = max(ratio, 1.0) if smooth else 1.0
    begin = max(0, ceil((part[0] + 0.5) * ratio - 0.5 - reach))
    end = min(length, floor((part[1] - 0.5) * ratio - 0.5 + reach) + 1)
    old = read(begin, end)
    centre = (torch.arange(*part, dtype=torch.float64) + 0.5) * ratio - 0.5
    away = (torch.arange(begin, end) - centre[:, None]).abs()
    weights = (1 - away / reach).clamp(0)
    return (weights / weights.sum(1, keepdim=True)).to(old) @ old
