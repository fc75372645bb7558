"""A picture in, a label map out: margin, tiles, upsampling, palette."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from dilated_lib.data.palettes import voc_colour
from dilated_lib.data.pictures import Picture, read_picture
from dilated_lib.evaluation_mode import evaluating
from dilated_lib.fields.arithmetic import compose
from dilated_lib.fields.input_sizes import InputSizes
from dilated_lib.networks.architecture import photo_network
from dilated_lib.networks.context import ContextModule
from dilated_lib.networks.dilated import (
    DilatedNetwork,
    Upsampling,
    bilinear_deconvolution,
)
from dilated_lib.prediction.any_network import (
    check_finite,
    check_scale,
    logits_by,
    name_of,
    rows_by_logits,
)
from dilated_lib.prediction.resizing import resized, resized_rows
from dilated_lib.prediction.tiles import Cut, exact_cuts, padded_cuts, released_cuts
from dilated_lib.whole_files import written_whole

__all__ = ["Segmentation", "predict", "probabilities", "upsampled"]

_BAND = 2**18  # pixels whose probabilities are computed at a time
_CELLS = 96  # rows and columns of cells that the context module computes at a time
Context = Literal["whole", "tiles"]
Rows = Callable[[int, int], Tensor]  # class probabilities of some rows of pixels
# images (N, 3, H, W), RGB, 0 to 255 → logits (N, C, h, w)
Network = DilatedNetwork | Callable[[Tensor], Any]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Holds the label map (H, W) and the probabilities (C, H, W) of a picture.

    Labels are of the smallest unsigned type that holds C classes: uint8, or uint16 for
    more than 256. ``palette`` names the classes in the order of the labels, with their
    colours. ``probabilities`` is None if :func:`predict` was asked for labels alone.
    """

    labels: NDArray[np.unsignedinteger[Any]]
    probabilities: Tensor | None
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
    probabilities: bool = ...,
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
    probabilities: bool = ...,
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
    probabilities: bool = True,
    progress: bool = False,
) -> Segmentation | list[Segmentation]:
    """Segment a picture of any size: compute its label map and class probabilities.

    Labels alone, without the probabilities, take at most 15 MB for each megapixel of
    the picture, reading it included. That holds for both context modules, up to 21
    classes and ``scale=1.5``; to it comes the memory of one tile. The probabilities of
    21 classes would take 84 MB more.

    Raises ValueError for an unreadable picture, and as :func:`probabilities` does.

    Args:
        image: Whatever :func:`~dilated_lib.data.pictures.read_picture` reads: a path, a
            PIL image, an array or a tensor. A list gives a list of results.
        network: Any module or function that takes images (N, 3, H, W), RGB, 0 to 255,
            and gives logits (N, C, h, w) of any stride. One that was trained on
            normalised images is wrapped, as below. None stands for the library's own
            network for photographs, which names six animals:
            :func:`~dilated_lib.networks.architecture.photo_network`.
        tile: As for :func:`probabilities`.
        context: As for :func:`probabilities`.
        upsampling: As for :func:`probabilities`.
        scale: As for :func:`probabilities`.
        probabilities: Keep the probabilities, not the labels alone.
        progress: Show a bar on stderr.

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
    network = photo_network() if network is None else network
    if isinstance(image, list | tuple):
        return [_segmented(network, one, probabilities, options) for one in image]
    return _segmented(network, image, probabilities, options)  # type: ignore[arg-type]  # not a list


def _segmented(
    network: Network, picture: Picture, keep: bool, options: dict[str, Any]
) -> Segmentation:
    pixels = torch.tensor(read_picture(picture)).permute(2, 0, 1)[None]
    size = pixels.shape[2:]
    rows = _rows(network, pixels, **options)
    classes = rows(0, 1).shape[1]
    labels = np.empty(size, np.min_scalar_type(classes - 1))
    kept = torch.empty(classes, *size) if keep else None
    for part, shares in _bands(rows, size):
        shares = shares[0].cpu()
        labels[part] = shares.argmax(0).numpy()
        if kept is not None:
            kept[:, part] = shares
    palette = getattr(network, "palette", None)
    if palette is None:  # numbers for names, and VOC's colours, which never end
        palette = {str(label): voc_colour(label) for label in range(classes)}
    return Segmentation(labels, kept, palette)


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
    """Return the class probabilities (N, C, H, W) of images.

    A :class:`~dilated_lib.networks.dilated.DilatedNetwork` sees the images enlarged by
    ``scale`` and continued by reflection, as far as its margin needs. The front end
    runs on one tile after another, which is exact. Its logits are put together, and the
    context module runs on all of them: at once, or for a large image in tiles that
    bring what it sees around them, which is exact as well. Then some rows of pixels
    after another are interpolated. So memory grows with the image for its logits and
    the result only; the largest map of a tile of 900 × 900 pixels takes 206 MB. The
    network runs where its weights are, and its layers run in their precision.

    A front end that pads inside needs no margin. An image is continued to whole cells
    only, and is one tile if it is no larger than one. Otherwise each tile reads the
    real image around its cells as far as they see. So the padding lies at the image's
    own border alone, and the result is that of one piece.

    Any other module or function gets all of the images at once, where its weights are
    and in their precision. Its logits (N, C, h, w) are interpolated to (H, W), as in
    "half_pixel". Of the options it can have ``scale`` alone.

    Dropout and batch norm are as in evaluation, whatever the network's mode, which is
    left as it was.

    Raises ValueError for images of another shape, pixels or logits that are not finite,
    a tile without a whole cell, impossible options, a front end whose cells are not
    square or whose layers pad otherwise than to keep their size, and a network whose
    output is not a map of logits of two or more classes.

    Source: ``predict.py`` of fyu/dilation.

    Args:
        network: The paper's network, or any module or function of images.
        images: Of shape (N, 3, H, W), RGB, 0 to 255.
        tile: The largest height and width, in pixels, of what the front end sees at a
            time; the network's ``input_size`` by default.
        context: "whole" is described above. "tiles" is the released procedure, of front
            ends without padding: the whole network runs on each tile, and the last ones
            are filled up by reflection. The context module then sees zeros beyond each
            tile, so that results differ near its seams. With a deconvolution the logits
            of all pixels lie in memory.
        upsampling: How to go from cells to pixels; the network's way by default.
            "released" interpolates the probabilities, cell i at pixel 8i.
            "deconvolution" and "half_pixel" (``align_corners=False``) interpolate
            logits, cell i at 8i + 3.5, the centre of what it sees; they differ at the
            border.
        scale: How often to enlarge the images; the network's by default. Their
            probabilities are brought back to (H, W) by interpolation.
        progress: Show a bar on stderr.

    >>> probabilities(photo_network(), torch.zeros(1, 3, 16, 24)).shape
    torch.Size([1, 7, 16, 24])
    """
    rows = _rows(network, images, tile, context, upsampling, scale, progress)
    first = rows(0, 1)
    result = first.new_empty(*first.shape[:2], *images.shape[2:])
    for part, shares in _bands(rows, images.shape[2:]):
        result[:, :, part] = shares
    return result


def _bands(rows: Rows, size: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """Go through an image from top to bottom, in bands of so many pixels at most."""
    count = max(1, _BAND // size[1])
    for first in range(0, size[0], count):
        end = min(first + count, size[0])
        yield slice(first, end), rows(first, end)


def _rows(
    network: Network,
    images: Tensor,
    tile: tuple[int, int] | None,
    context: Context,
    upsampling: Upsampling | None,
    scale: float | None,
    progress: bool,
) -> Rows:
    """Run a network and return a function that computes probabilities of some rows.

    The network has run on all cells of the images when this returns. The probabilities
    of the pixels would take most of the memory, so they are computed when a caller asks
    for some rows, and a caller who needs labels alone asks for few at a time.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
    if images.is_floating_point() and not images.isfinite().all():
        raise ValueError("pixels must be finite, got NaN or infinity")
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
        logits = logits_by(network, images, 1.0 if scale is None else scale)
        return partial(rows_by_logits, logits, (images.shape[2], images.shape[3]))
    upsampling = network.upsampling if upsampling is None else upsampling
    scale = network.scale if scale is None else scale
    for name, value, known in (
        ("context", context, get_args(Context)),
        ("upsampling", upsampling, get_args(Upsampling)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    check_scale(scale)
    pads = _check_geometry(network)
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
    size = images.shape[2], images.shape[3]
    enlarged = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    cut = padded_cuts if pads else exact_cuts
    cut = released_cuts if context == "tiles" else cut
    rows, columns = (
        cut(axis, length, side, least)
        for axis, length, side, least in zip(
            *(network.sizes, enlarged, sides, network.least_size), strict=True
        )
    )
    with evaluating(network), torch.no_grad():
        images = images.to(next(network.parameters()).device)
        read = partial(_tile, images, enlarged)
        logits = _logits(network, read, rows, columns, context, upsampling, progress)
        check_finite(logits, network)
    grown = context == "tiles" and upsampling == "deconvolution"
    stride = 1 if grown else network.stride

    @torch.no_grad()
    def enlarged_rows(first: int, end: int) -> Tensor:
        begin = max(first // stride - 1, 0)  # a cell more on each side, to interpolate
        cells = logits[:, :, begin : -(-end // stride) + 1]
        if upsampling == "deconvolution" and not grown:
            cells = _deconvolved(network, cells)
        shares = upsampled(cells, upsampling, stride)
        return shares[
            :, :, first - stride * begin : end - stride * begin, : enlarged[1]
        ]

    def own_rows(first: int, end: int) -> Tensor:
        shares = resized_rows(enlarged_rows, enlarged[0], size[0], (first, end))
        return resized(shares, (end - first, size[1]))

    return own_rows


def _check_geometry(network: DilatedNetwork) -> bool:
    """Raise ValueError for a front end that cannot be cut; return whether it pads."""
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
    return pads


def _tile(images: Tensor, size: tuple[int, int], down: Cut, across: Cut) -> Tensor:
    """Cut a tile out of images that are enlarged to a size, or not."""
    rows, columns = torch.tensor(down[0]), torch.tensor(across[0])
    if size == images.shape[2:]:
        return images[:, :, rows[:, None], columns]
    parts = [(int(one.min()), int(one.max()) + 1) for one in (down[0], across[0])]
    piece = resized(images, size, rows=parts[0], columns=parts[1])
    (top, _), (left, _) = parts
    return piece[:, :, rows[:, None] - top, columns - left]


def _logits(
    network: DilatedNetwork,
    read: Callable[[Cut, Cut], Tensor],
    rows: list[Cut],
    columns: list[Cut],
    context: Context,
    upsampling: Upsampling,
    progress: bool,
) -> Tensor:
    """Run a network on all tiles and put their logits together.

    These are the logits of cells. Only the released procedure with a deconvolution
    makes pixels of each tile by itself, because its deconvolution sees zeros beyond the
    tile. ``read`` returns the pixels of a tile.
    """
    bar = tqdm(total=len(rows) * len(columns), disable=not progress, unit="tile")

    def one(down: Cut, across: Cut) -> Tensor:
        logits: Tensor = network.front(network.normalised(read(down, across)))
        logits = logits[:, :, down[1], across[1]]
        if context == "tiles":
            logits = network.context(logits).float()
            if upsampling == "deconvolution":
                logits = _deconvolved(network, logits)
        bar.update()
        return logits

    with bar:
        logits = torch.cat(
            [torch.cat([one(down, across) for across in columns], 3) for down in rows],
            2,
        )
    return _with_context(network.context, logits) if context == "whole" else logits


def _with_context(module: nn.Module, logits: Tensor) -> Tensor:
    """Run a context module on the logits of all cells (N, C, h, w).

    The large module has 32 times as many channels inside, so many cells are taken in
    tiles. Each brings the real cells around its own, as far as the module sees; what
    the module computes for those is dropped, and the result is that of one piece.
    """
    if not isinstance(module, ContextModule) or module.padding == "none":
        whole: Tensor = module(logits)
        return whole.float()
    axis = InputSizes(compose(module.windows))
    side = _CELLS + 2 * max(axis.field.halo)
    rows, columns = (padded_cuts(axis, length, side, 1) for length in logits.shape[2:])
    result = torch.empty_like(logits, dtype=torch.float32)
    for (down, own_rows), (across, own_columns) in product(rows, columns):
        tile = logits[:, :, down[0] : down[-1] + 1, across[0] : across[-1] + 1]
        own = module(tile)[:, :, own_rows, own_columns]
        top, left = down[own_rows][0], across[own_columns][0]
        result[:, :, top:, left:][:, :, : own.shape[2], : own.shape[3]] = own
    return result


def _deconvolved(network: DilatedNetwork, logits: Tensor) -> Tensor:
    """Go from cells to pixels by the network's deconvolution, or by the usual one."""
    layer = network.upsample or bilinear_deconvolution(logits.shape[1], network.stride)
    assert not isinstance(layer.padding, str)
    return F.conv_transpose2d(
        logits,
        layer.weight.to(logits),
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
    )


def upsampled(logits: Tensor, upsampling: Upsampling, stride: int) -> Tensor:
    """Return class probabilities of pixels (N, C, ·H, ·W) from logits of cells.

    The logits are (N, C, H, W). See :func:`probabilities` for the three ways; of
    "deconvolution" a layer has done its part.

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
