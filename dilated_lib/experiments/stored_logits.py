"""Context modules on stored logits: the paper's second stage, small enough for a CPU.

The released code stores what a trained front end says of each picture, and trains the
context module on these maps. Training a module then takes minutes, so many can be
compared: with other dilations, and with other seeds.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.utils.data import Dataset
from tqdm import tqdm

from dilated_lib.data.labelled import VOID, Sample, class_counts
from dilated_lib.data.sets import open_data
from dilated_lib.experiments.scores_by_drive import DriveMeter
from dilated_lib.experiments.shape_training import descend
from dilated_lib.networks.architecture import open_network
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.prediction.bfloat16 import quick
from dilated_lib.prediction.segmentation import upsampled
from dilated_lib.training.loss import median_frequency_weights

__all__ = ["FrontEnd", "Logits", "fit", "measure", "store"]


@dataclass(frozen=True)
class Logits:
    """Logits (C, h, w) and labels (H, W), uint8, of each picture, and file names.

    A picture has ⌈H/8⌉ × ⌈W/8⌉ cells.
    """

    maps: Sequence[Tensor]
    labels: Sequence[Tensor]
    names: Sequence[str]


def store(
    network: DilatedNetwork,
    data: Dataset[Sample],
    *,
    mirrored: bool = False,
    progress: bool = False,
) -> Logits:
    """Store what a front end says of whole pictures, and of their mirror images.

    Each picture is continued to whole cells, and has its margin, by reflection, as in
    :func:`~dilated_lib.prediction.segmentation.probabilities`. The network is in
    evaluation mode afterwards.

    Raises ValueError for a network that enlarges its pictures.

    Args:
        network: The network whose front end is asked.
        data: Pictures with their labels.
        mirrored: Store the mirror image of each picture, too, right after it.
        progress: Show a bar.

    >>> from dilated_lib.networks.architecture import small_network
    >>> from dilated_lib.data.scenes import ShapeScenes
    >>> stored = store(small_network(), ShapeScenes(1), mirrored=True)
    >>> [one.shape for one in stored.maps]
    [torch.Size([11, 8, 12]), torch.Size([11, 8, 12])]
    """
    if network.scale != 1:
        raise ValueError(f"the network's scale must be 1, got {network.scale}")
    maps, label_maps, names = [], [], []
    margin = network.margin
    network.eval()
    for index in tqdm(range(len(data)), "logits", disable=not progress):  # type: ignore[arg-type]
        picture, labels = (one.as_subclass(Tensor) for one in data[index])
        rest = [-side % 8 for side in labels.shape]
        around = [(0, 0), *((margin, margin + more) for more in rest)]
        for flip in (False, True)[: 1 + mirrored]:
            image = picture.flip(2) if flip else picture
            image = torch.from_numpy(np.pad(image, around, mode="reflect"))
            with torch.no_grad():
                maps.append(network.front(network.normalised(image[None]))[0])
            label_maps.append(labels.flip(1) if flip else labels)
            names.append(data.name(index))  # type: ignore[attr-defined]
    return Logits(maps, label_maps, names)


class FrontEnd:
    """A trained front end and the data set that it is asked about.

    Raises FileNotFoundError or ValueError for a file that is no network, and for data
    of other classes.

    Args:
        file: The network's.
        data: A data set with the network's classes.

    >>> from dilated_lib.records import results
    >>> FrontEnd(results() / "small.safetensors", "shapes")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the network's classes are building, ...; those of shapes are ground, ...
    """

    def __init__(self, file: Path, data: str) -> None:
        self.network = quick(open_network(file)[0])
        self.data, self.classes = open_data(data), tuple(self.network.palette)
        self.data.require_classes(self.classes)
        self.digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]

    def logits(self, split: str) -> Logits:
        """Store the logits of a split, those of train with their mirror images."""
        pictures = self.data.split(split)
        return store(self.network, pictures, mirrored=split == "train", progress=True)

    def weights(self) -> Tensor:
        """Return the weights of the classes (C,) for :func:`fit`, from train."""
        counts = class_counts(self.data.split("train"), len(self.classes))
        return median_frequency_weights(counts)


def fit(
    module: nn.Module,
    data: Logits,
    *,
    weights: Tensor | None = None,
    steps: int,
    batch: int = 8,
    learning_rate: float = 1e-3,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = AdamW,
    generator: torch.Generator,
) -> list[float]:
    """Train a module on stored logits, and return the loss of each step.

    A cell's label is that of the pixel at 8i + 4, next to the centre of what it sees.
    Void does not count, and neither do cells whose pixel lies beyond the picture. The
    maps of a batch that have one size go through the module together.

    Raises ValueError without maps.

    Args:
        module: From logits (N, C, h, w) to logits of the same shape.
        data: The logits to train on; all are used before one comes again.
        weights: Those of the classes (C,) in the loss, such as
            :func:`~dilated_lib.training.loss.median_frequency_weights`; 1 by default.
        steps: How many steps to take.
        batch: Maps of a step.
        learning_rate: The largest; it rises to it and falls once (``OneCycleLR``).
        optimizer: Makes the optimizer of the module's parameters.
        generator: It draws the batches.

    >>> draw = torch.Generator().manual_seed(0)
    >>> data = Logits(torch.zeros(2, 3, 4, 5), torch.zeros(2, 32, 40), ("a", "b"))
    >>> len(fit(nn.Conv2d(3, 3, 1), data, steps=3, generator=draw))
    3
    """
    if not len(data.maps):
        raise ValueError("there must be maps to train on, got none")
    cells = [_of_cells(one) for one in data.labels]
    batches = _batches(len(cells), batch, steps, generator)

    def loss() -> Tensor:
        chosen = sorted(next(batches), key=lambda index: data.maps[index].shape)
        total, weight = torch.zeros(()), torch.zeros(())
        for _, same in groupby(chosen, lambda index: data.maps[index].shape):
            indices = [*same]
            logits = module(torch.stack([data.maps[index] for index in indices]))
            wanted = torch.stack([cells[index] for index in indices])
            total = total + F.cross_entropy(
                logits, wanted, weights, ignore_index=VOID, reduction="sum"
            )
            known = wanted[wanted != VOID]
            weight += len(known) if weights is None else weights[known].sum()
        return total / weight

    made = optimizer(module.parameters())
    return descend(made, loss, steps=steps, learning_rate=learning_rate)


def _of_cells(labels: Tensor) -> Tensor:
    """Return the label of each cell: of its pixel 4, or void beyond the picture."""
    rest = [-side % 8 for side in labels.shape]
    whole = F.pad(labels, (0, rest[1], 0, rest[0]), value=VOID)
    return whole[4::8, 4::8].long()


def _batches(
    count: int, size: int, steps: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Draw the indices of each batch; all come once before one comes again."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        chosen, order = order[:size], order[size:]
        yield chosen.tolist()


def measure(module: nn.Module, data: Logits, classes: tuple[str, ...]) -> DriveMeter:
    """Collect a module's labels on stored logits, at all pixels, in a meter.

    Its logits are interpolated, cell i at 8i + 3.5 (``upsampling="half_pixel"``).

    >>> maps = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    >>> labels = torch.zeros(1, 16, 24, dtype=torch.uint8)
    >>> roads = Logits(maps, labels, ("morning_1.png",))
    >>> found = measure(nn.Identity(), roads, ("road", "sky")).compute()
    >>> found.miou, [*found.drives]
    (100.0, ['morning'])
    """
    meter = DriveMeter(classes)
    for logits, labels, name in zip(data.maps, data.labels, data.names, strict=True):
        height, width = labels.shape
        with torch.no_grad():
            found = upsampled(module(logits[None]), "half_pixel", 8).argmax(1)[0]
        meter.update(name, found[:height, :width], labels.long())
    return meter
