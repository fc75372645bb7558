"""A picture in, a label map out: margin, tiles, upsampling, palette."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dilated_lib.data.pictures import read_picture
from dilated_lib.fields.input_sizes import InputSizes
from dilated_lib.networks.architecture import small_network
from dilated_lib.networks.dilated import (
    DilatedNetwork,
    Upsampling,
    bilinear_deconvolution,
)

__all__ = ["Segmentation", "predict", "probabilities", "upsampled"]

Context = Literal["whole", "tiles"]
Positions = NDArray[np.intp]
Cut = tuple[Positions, slice]  # the pixels that a tile reads, the cells that it gives


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Label map (H, W), uint8, and probabilities (C, H, W) of a picture of that size.

    ``palette`` names the classes in the order of the labels, with their colours.
    """

    labels: NDArray[np.uint8]
    probabilities: Tensor
    palette: dict[str, tuple[int, int, int]]

    def save(self, path: str | Path) -> None:
        """Write the label map as a PNG with a palette, whose pixels are class ids.

        The file appears whole or not at all. Raises ValueError for another suffix.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"label maps are saved as .png, got {path.name}")
        picture = Image.fromarray(self.labels, mode="P")
        picture.putpalette(
            [part for colour in self.palette.values() for part in colour]
        )
        beside = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            picture.save(beside, "PNG")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def predict(
    image: Path | Image.Image,
    network: DilatedNetwork | None = None,
    *,
    tile: tuple[int, int] | None = None,
    context: Context = "whole",
    upsampling: Upsampling | None = None,
    scale: float | None = None,
    progress: bool = False,
) -> Segmentation:
    """Segment a picture of any size: its label map and class probabilities.

    The picture is read by :func:`~dilated_lib.data.pictures.read_picture`, and what the
    options mean says :func:`probabilities`. Without a ``network`` it is the small one
    that comes with the library, for streets, of 11 classes:
    :func:`~dilated_lib.networks.architecture.small_network`.

    Raises ValueError for an unreadable picture, and as :func:`probabilities` does.

    >>> predict(Image.new("RGB", (24, 16))).labels.shape
    (16, 24)
    """
    if network is None:
        network = small_network()
    pixels = torch.tensor(read_picture(image)).permute(2, 0, 1)[None]
    shares = probabilities(
        network,
        pixels,
        tile=tile,
        context=context,
        upsampling=upsampling,
        scale=scale,
        progress=progress,
    )[0].cpu()
    labels = shares.argmax(0).to(torch.uint8).numpy()
    return Segmentation(labels, shares, network.palette)


def probabilities(
    network: DilatedNetwork,
    images: Tensor,
    *,
    tile: tuple[int, int] | None = None,
    context: Context = "whole",
    upsampling: Upsampling | None = None,
    scale: float | None = None,
    progress: bool = False,
) -> Tensor:
    """Class probabilities (N, C, H, W) of images (N, 3, H, W), RGB, 0 to 255.

    The images are enlarged by ``scale``, by default the network's, turned into BGR
    minus the network's mean, and continued by reflection, as far as the margin of the
    network needs. The front end runs on one tile after another, of at most ``tile``
    (height, width) pixels, by default the network's ``input_size``: this is exact. Its
    logits are put together, and with ``context="whole"`` the context module runs once
    on all of them. Memory grows with the tile and, for logits and result alone, with
    the image: the largest map of a tile of 900 × 900 pixels takes 207 MB. It runs where
    the network's weights are, and its layers in their precision.

    A front end that pads inside needs no margin: an image is continued to whole cells
    only, and is one tile if it is no larger than one. Else each tile reads the real
    image around its cells as far as they see, so that padding lies at the image's own
    border alone, and the result is that of one piece.

    ``context="tiles"`` is the released procedure, of front ends without padding: the
    whole network on each tile, the last ones filled up by reflection, so that the
    context module sees zeros beyond each tile and results differ near its seams.

    ``upsampling`` goes from cells to pixels, by default as the network says.
    "released" interpolates the probabilities, cell i at pixel 8i. "deconvolution" and
    "half_pixel" (``align_corners=False``) interpolate logits, cell i at 8i + 3.5, the
    centre of what it sees; they differ at the border. Enlarged images' probabilities
    are brought back to (H, W) by interpolation.

    ``progress`` shows a bar on stderr. Dropout and batch norm are as in evaluation,
    whatever the network's mode, which is left as it was.

    Raises ValueError for images of another shape, a tile without a whole cell,
    impossible options, and a front end whose cells are not square or whose layers pad
    otherwise than to keep their size.

    Source: ``predict.py`` of fyu/dilation.

    >>> probabilities(small_network(), torch.zeros(1, 3, 16, 24)).shape
    torch.Size([1, 11, 16, 24])
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
    upsampling = network.upsampling if upsampling is None else upsampling
    scale = network.scale if scale is None else scale
    for name, value, known in (
        ("context", context, get_args(Context)),
        ("upsampling", upsampling, get_args(Upsampling)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    if not 0 < scale < inf:
        raise ValueError(f"scale must be a number above 0, got {scale!r}")
    stride, other = (axis.stride for axis in network.sizes)
    step = network.upsample.stride[0] if network.upsample else stride
    if {stride, other, step} != {stride} or min(a.margin for a in network.sizes) < 0:
        raise ValueError(
            "cells must be square, see their own pixels and fit the deconvolution, got "
            f"strides {stride} and {other}, margins {[a.margin for a in network.sizes]}"
        )
    pads = any(axis.field.padding for axis in network.sizes)
    if pads and any(axis.margin for axis in network.sizes):
        raise ValueError(
            "every layer of a front end must keep its size by padding, or none may "
            f"pad, got margins {[axis.margin for axis in network.sizes]}"
        )
    if pads and context == "tiles":
        raise ValueError(
            "context='tiles' is the released procedure, of front ends that do not pad; "
            "this one does: use context='whole'"
        )
    sides = network.input_size if tile is None else tile
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ValueError(f"tile must be (height, width) in pixels, got {tile!r}")
    if context == "tiles" and sides != network.input_size:
        for axis, side in zip(network.sizes, sides, strict=True):
            axis.cells(side)  # the released ones may be no whole ones
    size = images.shape[2:]
    height, width = (max(1, round(side * scale)) for side in size)
    cut = _padded_cuts if pads else _exact_cuts
    cut = _released_cuts if context == "tiles" else cut
    rows, columns = (
        cut(axis, length, side, least)
        for axis, length, side, least in zip(
            *(network.sizes, (height, width), sides, network.least_size), strict=True
        )
    )
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            images = images.to(next(network.parameters()).device)
            if (height, width) != size:
                images = _resized(images.float(), (height, width))
            logits = _logits(
                network, images, rows, columns, context, upsampling, progress
            )
            shares = upsampled(logits, upsampling, stride)[:, :, :height, :width]
            return shares if shares.shape[2:] == size else _resized(shares, size)
    finally:
        for module, mode in modes:
            module.training = mode


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)


def _exact_cuts(axis: InputSizes, length: int, side: int, _: int) -> list[Cut]:
    """The tiles of a front end without padding along an axis, each with its margin."""
    most = (side - axis.size(0)) // axis.stride
    if most < 1:
        raise ValueError(
            f"a tile must have at least {axis.size(1)} pixels a side, one cell and its "
            f"margin; got {side}"
        )
    cells = -(-length // axis.stride) + 1  # one more, to interpolate towards
    parts = -(-cells // most)
    ends = [cells * part // parts for part in range(parts + 1)]
    after = axis.size(cells) - int(axis.margin) - length
    whole = np.pad(np.arange(length), (int(axis.margin), after), mode="reflect")
    return [
        (whole[axis.stride * first :][: axis.size(end - first)], slice(None))
        for first, end in pairwise(ends)
    ]


def _padded_cuts(axis: InputSizes, length: int, side: int, least: int) -> list[Cut]:
    """The tiles of a front end that pads: real pixels around them, as far as it sees.

    A cell sees ``field.padding`` pixels beyond its own, so it sees nothing beyond a cut
    that is ``halo`` cells away, and nothing of the padding there.
    """
    stride = axis.stride
    cells = -(-max(length, least) // stride)
    whole = np.pad(np.arange(length), (0, stride * cells - length), mode="reflect")
    halo = -(-axis.field.padding // stride)
    most = side // stride
    if cells <= most:
        return [(whole, slice(None))]
    own = most - 2 * halo
    if own < 1:
        raise ValueError(
            f"a tile must have at least {stride * (2 * halo + 1)} pixels a side, one "
            f"cell and what it sees around it; got {side}"
        )
    parts = -(-cells // own)
    ends = [cells * part // parts for part in range(parts + 1)]
    cuts = []
    for first, end in pairwise(ends):
        begin = max(0, first - halo)
        pixels = whole[stride * begin : stride * (end + halo)]
        cuts.append((pixels, slice(first - begin, end - begin)))
    return cuts


def _released_cuts(axis: InputSizes, length: int, side: int, _: int) -> list[Cut]:
    """The released tiles: all of one size, the last continued inside."""
    margin, step = int(axis.margin), side - axis.size(0)
    whole = np.pad(np.arange(length), margin, mode="reflect")
    tiles = [whole[first:][:side] for first in range(0, length, step)]
    return [
        (np.pad(one, (0, side - len(one)), mode="reflect"), slice(None))
        for one in tiles
    ]


def _logits(
    network: DilatedNetwork,
    images: Tensor,
    rows: list[Cut],
    columns: list[Cut],
    context: Context,
    upsampling: Upsampling,
    progress: bool,
) -> Tensor:
    """Logits of cells, or of pixels where a deconvolution makes them."""
    weight = next(network.parameters())
    mean = torch.tensor(network.mean, device=weight.device)[:, None, None]
    bar = tqdm(total=len(rows) * len(columns), disable=not progress, unit="tile")

    def one(down: Cut, across: Cut) -> Tensor:
        pixels = torch.tensor(down[0])[:, None], torch.tensor(across[0])
        rgb = images[:, :, pixels[0], pixels[1]]
        logits: Tensor = network.front((rgb.flip(1) - mean).to(weight))
        logits = logits[:, :, down[1], across[1]]
        if context == "tiles":
            logits = after(logits)
        bar.update()
        return logits

    def after(logits: Tensor) -> Tensor:
        logits = network.context(logits).float()
        if upsampling == "deconvolution":
            layer = network.upsample or bilinear_deconvolution(
                logits.shape[1], network.sizes[0].stride
            )
            assert not isinstance(layer.padding, str)
            logits = F.conv_transpose2d(
                logits,
                layer.weight.to(logits),
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
            )
        return logits

    with bar:
        logits = torch.cat(
            [torch.cat([one(down, across) for across in columns], 3) for down in rows],
            2,
        )
    return after(logits) if context == "whole" else logits


def upsampled(logits: Tensor, upsampling: Upsampling, stride: int) -> Tensor:
    """Class probabilities of pixels (N, C, ·H, ·W) from logits of cells (N, C, H, W).

    See :func:`probabilities` for the three ways; of "deconvolution" a layer has done
    its part.

    >>> upsampled(torch.zeros(1, 2, 3, 4), "half_pixel", 8).shape
    torch.Size([1, 2, 24, 32])
    """
    if upsampling == "deconvolution":
        return logits.softmax(1)
    if upsampling == "half_pixel":
        grown = F.interpolate(logits, scale_factor=stride, mode="bilinear")
        return grown.softmax(1)
    # beyond the last cell there is none to interpolate towards
    shares = F.pad(logits.softmax(1), (0, 1, 0, 1), mode="replicate")
    sides = [stride * (side - 1) + 1 for side in shares.shape[2:]]
    return F.interpolate(shares, sides, mode="bilinear", align_corners=True)
