"""Mistakes that ports of the paper make, each in one step of the right procedure."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from dilated_lib.data.labelled import Sample
from dilated_lib.data.pictures import read_picture
from dilated_lib.data.sets import open_data
from dilated_lib.experiments.context_effect import as_text
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.scores_by_drive import DriveMeter
from dilated_lib.networks.architecture import small_network
from dilated_lib.networks.dilated import DilatedNetwork, Upsampling
from dilated_lib.prediction.segmentation import upsampled

__all__ = ["TRAPS", "Procedure", "measure", "probabilities"]

Step = Callable[[DilatedNetwork, Tensor], Tensor]


def _front(network: DilatedNetwork, pixels: Tensor) -> Tensor:
    """Continue the picture by reflection, as far as the front end's field reaches."""
    border = (network.margin,) * 4
    logits: Tensor = network.front(F.pad(pixels, border, mode="reflect"))
    return logits


def _zeros(network: DilatedNetwork, pixels: Tensor) -> Tensor:
    """Pad every layer of the front end with zeros instead, so that sizes stay."""
    front = copy.deepcopy(network.front)
    for layer in front:
        if isinstance(layer, nn.Conv2d):
            reach = layer.dilation[0] * (layer.kernel_size[0] - 1) // 2
            layer.padding = (reach, reach)
    logits: Tensor = front(pixels)
    return logits


def _context(network: DilatedNetwork, logits: Tensor) -> Tensor:
    refined: Tensor = network.context(logits)
    return refined


def _padded_once(network: DilatedNetwork, logits: Tensor) -> Tensor:
    """Pad in front of the first layer, and for all of them."""
    context, margin = copy.deepcopy(network.context), 0
    for layer in context.modules():
        if isinstance(layer, nn.Conv2d):
            margin += int(layer.padding[0])
            layer.padding = (0, 0)
    refined: Tensor = context(F.pad(logits, (margin,) * 4))
    return refined


def _tiles(
    network: DilatedNetwork, logits: Tensor, *, rows: int, columns: int
) -> Tensor:
    """Refine the logits tile by tile, as if nothing were around a tile."""
    bands = [
        torch.cat([network.context(one) for one in band.tensor_split(columns, 3)], 3)
        for band in logits.tensor_split(rows, 2)
    ]
    return torch.cat(bands, 2)


def _size(network: DilatedNetwork, logits: Tensor) -> tuple[int, int]:
    height, width = (network.sizes[0].step * side for side in logits.shape[2:])
    return height, width


def _enlarged(network: DilatedNetwork, logits: Tensor, way: Upsampling) -> Tensor:
    height, width = _size(network, logits)
    found = upsampled(logits, way, network.sizes[0].step)
    return found[:, :, :height, :width]  # "released" has a row and a column more


def _upsampling(network: DilatedNetwork, logits: Tensor) -> Tensor:
    return _enlarged(network, logits, network.upsampling)


def _shifted(network: DilatedNetwork, logits: Tensor) -> Tensor:
    """Take cell i to be at pixel 8i where it is at 8i + 3.5, or the other way round."""
    own = network.upsampling
    other: Upsampling = "released" if own == "half_pixel" else "half_pixel"
    return _enlarged(network, logits, other)


def _corners(network: DilatedNetwork, logits: Tensor) -> Tensor:
    size = _size(network, logits)
    if network.upsampling == "half_pixel":
        grown = F.interpolate(logits, size, mode="bilinear", align_corners=True)
        return grown.softmax(1)
    found = logits.softmax(1)
    return F.interpolate(found, size, mode="bilinear", align_corners=True)


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """The steps from a picture to class probabilities; a mistake replaces one of them.

    ``pixels`` turns images (N, 3, 8h, 8w), RGB, 0 to 255, into what the front end
    wants, ``front`` that into logits of cells (N, C, h, w), ``context`` refines these,
    and ``upsampling`` makes probabilities of pixels of them. Every version has the same
    cells, so two of them differ by the mistake alone.

    >>> TRAPS["ReLU after final"].front is Procedure().front
    True
    """

    pixels: Step = DilatedNetwork.normalised
    front: Step = _front
    context: Step = _context
    upsampling: Step = _upsampling


TRAPS = {
    "RGB instead of BGR": Procedure(
        pixels=lambda network, images: network.normalised(images).flip(1)
    ),
    "mean not subtracted": Procedure(pixels=lambda network, images: images.flip(1)),
    "zeros around every layer": Procedure(front=_zeros),
    "ReLU after final": Procedure(
        context=lambda network, logits: network.context(logits.relu())
    ),
    "context padded once": Procedure(context=_padded_once),
    "context in two tiles": Procedure(context=partial(_tiles, rows=1, columns=2)),
    "context in nine tiles": Procedure(context=partial(_tiles, rows=3, columns=3)),
    "cells 3.5 pixels off": Procedure(upsampling=_shifted),
    "align_corners=True": Procedure(upsampling=_corners),
}


def probabilities(
    network: DilatedNetwork, picture: Image.Image, trap: str | None = None
) -> Tensor:
    """Return class probabilities (C, H, W) of a picture, with a mistake or without.

    The ``trap`` is the name of one of ``TRAPS``. Without it they are those of
    :func:`~dilated_lib.prediction.segmentation.predict` with one tile that holds the
    whole picture, and with ``context="tiles"``.

    Raises ValueError for an unknown trap, for a network with a deconvolution, and for a
    picture whose sides are no multiples of 8 above the margin.

    >>> picture = Image.new("RGB", (200, 192))
    >>> probabilities(small_network(), picture, "RGB instead of BGR").shape
    torch.Size([11, 192, 200])
    """
    if trap and trap not in TRAPS:
        raise ValueError(f"trap must be one of {', '.join(TRAPS)}; got {trap!r}")
    if network.upsample:
        raise ValueError("the network's logits must be those of cells, not of pixels")
    steps = TRAPS[trap] if trap else Procedure()
    network = copy.deepcopy(network).eval()
    pixels = torch.tensor(read_picture(picture)).permute(2, 0, 1)
    with torch.no_grad():
        logits = steps.front(network, steps.pixels(network, _images(pixels)))
        return steps.upsampling(network, steps.context(network, logits))[0]


def _images(pixels: Tensor) -> Tensor:
    if any(side % 8 or side < 192 for side in pixels.shape[1:]):
        raise ValueError(
            f"sides must be multiples of 8 above 186, got {pixels.shape[2]} x "
            f"{pixels.shape[1]} pixels"
        )
    return pixels[None].float()


def measure(
    out: Path = Path("book/results/traps.json"), /, *, data: str = "camvid"
) -> None:
    """Measure what each mistake of chapter 16 costs the small network.

    The correct version and all mistakes are measured together, on every picture of val
    and of test, in about 20 minutes on two CPU cores. A record for each has the scores
    on both splits and on each drive; the percentage of a picture's pixels whose label
    is not that of the correct version, on average; and, of the middle picture of val,
    every fourth row and column of the label map.

    Args:
        out: The file of records to write.
        data: A data set with the network's classes.
    """
    begin = time.perf_counter()
    network = small_network()
    files = open_data(data)
    classes = tuple(network.palette)
    files.require_classes(classes)
    versions = {"none": Procedure(), **TRAPS}
    metrics: dict[str, dict[str, Any]] = {name: {} for name in versions}
    for split in ("val", "test"):
        samples: Dataset[Sample] = files.split(split)
        count = len(samples)  # type: ignore[arg-type]
        meters = {name: DriveMeter(classes) for name in versions}
        changed = dict.fromkeys(versions, 0.0)
        for index in tqdm(range(count), split):
            image, truth = samples[index]
            file = samples.name(index)  # type: ignore[attr-defined]
            found = dict(_label_maps(network, _images(image), versions))
            for name, labels in found.items():
                meters[name].update(file, labels, truth.long())
                other = labels != found["none"]
                changed[name] += 100 * other.double().mean().item() / count
                if split == "val" and index == count // 2:
                    metrics[name]["picture"] = Path(file).stem
                    metrics[name]["labels"] = as_text(labels[::4, ::4])
        for name, meter in meters.items():
            metrics[name][split] = {
                **asdict(meter.compute()),
                "changed": round(changed[name], 2),
            }
    recorder, seconds = Recorder(out), time.perf_counter() - begin
    config = {"data": data, "network": "small"}
    for name, scores in metrics.items():
        recorder.add(f"traps/{name}", config=config, metrics=scores, seconds=seconds)


def _label_maps(
    network: DilatedNetwork, images: Tensor, versions: Mapping[str, Procedure]
) -> Iterator[tuple[str, Tensor]]:
    """Compute the label map (H, W) of each version; equal cells are computed once."""
    cells: dict[tuple[Step, Step], Tensor] = {}
    with torch.no_grad():
        for name, steps in versions.items():
            begin = steps.pixels, steps.front
            if begin not in cells:
                cells[begin] = steps.front(network, steps.pixels(network, images))
            refined = steps.context(network, cells[begin])
            yield name, steps.upsampling(network, refined)[0].argmax(0)
