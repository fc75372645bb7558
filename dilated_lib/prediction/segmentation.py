"""A picture in, a label map out: margin, tiles, upsampling, palette."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dilated_lib.data.palettes import voc_colour
from dilated_lib.data.pictures import Picture, read_picture
from dilated_lib.evaluation_mode import evaluating
from dilated_lib.fields.input_sizes import InputSizes
from dilated_lib.networks.architecture import small_network
from dilated_lib.networks.dilated import (
    DilatedNetwork,
    Upsampling,
    bilinear_deconvolution,
)
from dilated_lib.prediction.any_network import (
    check_scale,
    name_of,
    probabilities_by,
    resized,
)
from dilated_lib.whole_files import written_whole

__all__ = ["Segmentation", "predict", "probabilities", "upsampled"]

Context = Literal["whole", "tiles"]
Positions = NDArray[np.intp]
Cut = tuple[Positions, slice]  # the pixels that a tile reads, the cells that it gives
# images (N, 3, H, W), RGB, 0 to 255 → logits (N, C, h, w)
Network = DilatedNetwork | Callable[[Tensor], Any]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Label map (H, W) and probabilities (C, H, W) of a picture of that size.

    Labels are of the smallest unsigned type that holds C classes: uint8, or uint16 for
    more than 256. ``palette`` names the classes in the order of the labels, with their
    colours.
    """

    labels: NDArray[np.unsignedinteger[Any]]
    probabilities: Tensor
    palette: dict[str, tuple[int, int, int]]

    def save(self, path: str | Path) -> None:
        """Write the label map as a PNG whose pixels are class ids.

        It has the palette, or 16 bits a pixel for more than 256 classes. The file
        appears whole or not at all. Raises ValueError for another suffix.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"label maps are saved as .png, got {path.name}")
        picture = Image.fromarray(self.labels)
        if self.labels.dtype == np.uint8:
            picture = Image.fromarray(self.labels, mode="P")
            picture.putpalette(
                [part for colour in self.palette.values() for part in colour]
            )
        with written_whole(path) as new:
            picture.save(new, "PNG")


@overload
def predict(
    image: Picture,
    network: Network | None = ...,
    *,
    tile: tuple[int, int] | None = ...,
    context: Context = ...,
    upsampling: Upsampling | None = ...,
    scale: float | None = ...,
    progress: bool = ...,
) -> Segmentation: ...
@overload
def predict(
    image: list[Picture] | tuple[Picture, ...],
    network: Network | None = ...,
    *,
    tile: tuple[int, int] | None = ...,
    context: Context = ...,
    upsampling: Upsampling | None = ...,
    scale: float | None = ...,
    progress: bool = ...,
) -> list[Segmentation]: ...
def predict(
    image: Picture | Sequence[Picture],
    network: Network | None = None,
    *,
    tile: tuple[int, int] | None = None,
    context: Context = "whole",
    upsampling: Upsampling | None = None,
    scale: float | None = None,
    progress: bool = False,
) -> Segmentation | list[Segmentation]:
    """Segment a picture of any size: its label map and class probabilities.

    A picture is whatever :func:`~dilated_lib.data.pictures.read_picture` reads: a path,
    a PIL image, an array or a tensor. A list of pictures gives a list of results. For
    the options see :func:`probabilities`.

    ``network`` may be any module or function that takes images (N, 3, H, W), RGB, 0 to
    255, and gives logits (N, C, h, w) of any stride. One that was trained on normalised
    images is wrapped, as below. Without a network it is the small one that comes with
    the library, for streets, of 11 classes:
    :func:`~dilated_lib.networks.architecture.small_network`.

    Raises ValueError for an unreadable picture, and as :func:`probabilities` does.

    >>> photo = Image.new("RGB", (24, 16))
    >>> predict(photo).labels.shape
    (16, 24)
    >>> network = torch.nn.Conv2d(3, 21, 8, 8).eval()  # or torchvision's DeepLab
    >>> mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    >>> std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    >>> predict(photo, lambda x: network((x / 255 - mean) / std)).labels.shape
    (16, 24)
    """
    options: dict[str, Any] = {"tile": tile, "context": context, "scale": scale}
    options |= {"upsampling": upsampling, "progress": progress}
    network = small_network() if network is None else network
    if isinstance(image, list | tuple):
        return [_segmented(network, one, options) for one in image]
    return _segmented(network, image, options)  # type: ignore[arg-type]  # not a list


def _segmented(
    network: Network, picture: Picture, options: dict[str, Any]
) -> Segmentation:
    pixels = torch.tensor(read_picture(picture)).permute(2, 0, 1)[None]
    classes = probabilities(network, pixels, **options)[0].cpu()
    kind = np.min_scalar_type(len(classes) - 1)
    labels = classes.argmax(0).numpy().astype(kind)
    palette = getattr(network, "palette", None)
    if palette is None:  # numbers for names, and VOC's colours, which never end
        palette = {str(label): voc_colour(label) for label in range(len(classes))}
    return Segmentation(labels, classes, palette)


def probabilities(
    network: Network,
    images: Tensor,
    *,
    tile: tuple[int, int] | None = None,
    context: Context = "whole",
    upsampling: Upsampling | None = None,
    scale: float | None = None,
    progress: bool = False,
) -> Tensor:
    """Class probabilities (N, C, H, W) of images (N, 3, H, W), RGB, 0 to 255.

    Of a :class:`~dilated_lib.networks.dilated.DilatedNetwork` as described below. Any
    other module or function gets all of the images at once, where its weights are and
    in their precision, and its logits (N, C, h, w) are interpolated to (H, W), as in
    "half_pixel". Of the options ``scale`` alone is for these.

    The images are enlarged by ``scale``, by default the network's, and continued by
    reflection, as far as the margin of the network needs. The front end runs on one
    tile after another, of at most ``tile`` (height, width) pixels, by default the
    network's ``input_size``: this is exact. Its logits are put together, and with
    ``context="whole"`` the context module runs once on all of them. Memory grows with
    the tile and, for logits and result alone, with the image: the largest map of a tile
    of 900 × 900 pixels takes 207 MB. It runs where the network's weights are, and its
    layers in their precision.

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
    impossible options, a front end whose cells are not square or whose layers pad
    otherwise than to keep their size, and a network whose output is not a map of
    logits of two or more classes.

    Source: ``predict.py`` of fyu/dilation.

    >>> probabilities(small_network(), torch.zeros(1, 3, 16, 24)).shape
    torch.Size([1, 11, 16, 24])
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
    if not isinstance(network, DilatedNetwork):
        for name, value, default in (
            ("tile", tile, None),
            ("context", context, "whole"),
            ("upsampling", upsampling, None),
        ):
            if value != default:
                raise ValueError(
                    f"{name} is an option of the paper's networks; {name_of(network)} "
                    f"is not one: leave it out, got {value!r}"
                )
        return probabilities_by(network, images, 1.0 if scale is None else scale)
    upsampling = network.upsampling if upsampling is None else upsampling
    scale = network.scale if scale is None else scale
    for name, value, known in (
        ("context", context, get_args(Context)),
        ("upsampling", upsampling, get_args(Upsampling)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    check_scale(scale)
    stride, other = (axis.step for axis in network.sizes)
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
    with evaluating(network), torch.no_grad():
        images = images.to(next(network.parameters()).device)
        if (height, width) != size:
            images = resized(images.float(), (height, width))
        logits = _logits(network, images, rows, columns, context, upsampling, progress)
        shares = upsampled(logits, upsampling, stride)[:, :, :height, :width]
        return shares if shares.shape[2:] == size else resized(shares, size)


def _exact_cuts(axis: InputSizes, length: int, side: int, _: int) -> list[Cut]:
    """The tiles of a front end without padding along an axis, each with its margin."""
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


def _padded_cuts(axis: InputSizes, length: int, side: int, least: int) -> list[Cut]:
    """The tiles of a front end that pads: real pixels around them, as far as it sees.

    A cell sees ``field.halo`` pixels beyond its own, so it sees nothing beyond a cut
    that is as many pixels away, and nothing of the padding there.
    """
    stride = axis.step
    cells = -(-max(length, least) // stride)
    whole = np.pad(np.arange(length), (0, stride * cells - length), mode="reflect")
    halo = -(-max(axis.field.halo) // stride)
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
    margin, step = int(axis.margin), side - axis.fixed
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
    bar = tqdm(total=len(rows) * len(columns), disable=not progress, unit="tile")

    def one(down: Cut, across: Cut) -> Tensor:
        pixels = torch.tensor(down[0])[:, None], torch.tensor(across[0])
        rgb = images[:, :, pixels[0], pixels[1]]
        logits: Tensor = network.front(network.normalised(rgb))
        logits = logits[:, :, down[1], across[1]]
        if context == "tiles":
            logits = after(logits)
        bar.update()
        return logits

    def after(logits: Tensor) -> Tensor:
        logits = network.context(logits).float()
        if upsampling == "deconvolution":
            layer = network.upsample or bilinear_deconvolution(
                logits.shape[1], network.sizes[0].step
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
