"""Context modules on stored logits: the paper's second stage, small enough for a CPU.

The released code stores what a trained front end says of each picture, and trains the
context module on these maps. A module is a matter of minutes then, so that many can be
compared: of other dilations, with other seeds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms import v2
from tqdm import tqdm

from dilated_lib.data.labelled import VOID, Sample
from dilated_lib.data.transforms import CropWithMargin
from dilated_lib.experiments.scores_by_drive import DriveMeter, SplitScores
from dilated_lib.experiments.shape_training import descend
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.prediction.segmentation import upsampled

__all__ = ["Logits", "fit", "score", "store"]


@dataclass(frozen=True)
class Logits:
    """Logits (N, C, h, w) of a front end, labels (N, 8h, 8w), uint8, and file names."""

    maps: Tensor
    labels: Tensor
    names: tuple[str, ...]


def store(
    network: DilatedNetwork,
    data: Dataset[Sample],
    *,
    mirrored: bool = False,
    progress: bool = False,
) -> Logits:
    """What a network's front end says of whole pictures, and of their mirror images.

    Each picture has its margin, by reflection, as in
    :func:`~dilated_lib.prediction.segmentation.probabilities`. The network is in
    evaluation afterwards.

    Raises ValueError for a network that enlarges its pictures, and for a picture whose
    sides are no multiples of 8.

    >>> from dilated_lib.networks.architecture import small_network
    >>> from dilated_lib.data.scenes import ShapeScenes
    >>> store(small_network(), ShapeScenes(1), mirrored=True).maps.shape
    torch.Size([2, 11, 8, 12])
    """
    if network.scale != 1:
        raise ValueError(f"the network's scale must be 1, got {network.scale}")
    maps, answers, names = [], [], []
    network.eval()
    for index in tqdm(range(len(data)), "logits", disable=not progress):  # type: ignore[arg-type]
        sample = data[index]
        height, width = sample[1].shape
        if height % 8 or width % 8:
            raise ValueError(
                f"both sides must be multiples of 8, got {height} × {width} pixels"
            )
        crop = CropWithMargin((height // 8, width // 8), network.margin)  # all of it
        for flip in (False, True)[: 1 + mirrored]:
            mirror = v2.RandomHorizontalFlip(float(flip))
            image, labels = (one.as_subclass(Tensor) for one in crop(mirror(sample)))
            with torch.no_grad():
                maps.append(network.front(network.normalised(image[None])))
            answers.append(labels)
            names.append(data.name(index))  # type: ignore[attr-defined]
    return Logits(torch.cat(maps), torch.stack(answers), tuple(names))


def fit(
    module: nn.Module,
    data: Logits,
    *,
    weights: Tensor | None = None,
    steps: int,
    batch: int = 8,
    learning_rate: float = 1e-3,
    generator: torch.Generator,
) -> list[float]:
    """Train a module on stored logits, with AdamW; the loss of each step.

    A cell's label is that of the pixel at 8i + 4, next to the centre of what it sees.
    ``weights`` are the classes' (C,), as of
    :func:`~dilated_lib.training.loss.median_frequency_weights`. The learning rate
    rises and falls once (``OneCycleLR``). Void does not count. Raises ValueError
    without maps.

    >>> draw = torch.Generator().manual_seed(0)
    >>> data = Logits(torch.zeros(2, 3, 4, 5), torch.zeros(2, 32, 40), ("a", "b"))
    >>> len(fit(nn.Conv2d(3, 3, 1), data, steps=3, generator=draw))
    3
    """
    if not len(data.maps):
        raise ValueError(f"there must be maps to train on, got {data.maps.shape}")
    cells = data.labels[:, 4::8, 4::8].long()
    batches = _batches(len(cells), batch, steps, generator)

    def loss() -> Tensor:
        chosen = next(batches)
        return F.cross_entropy(
            module(data.maps[chosen]), cells[chosen], weights, ignore_index=VOID
        )

    optimizer = torch.optim.AdamW(module.parameters())
    return descend(optimizer, loss, steps=steps, learning_rate=learning_rate)


def _batches(
    count: int, size: int, steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        chosen, order = order[:size], order[size:]
        yield chosen


def score(module: nn.Module, data: Logits, classes: tuple[str, ...]) -> SplitScores:
    """Scores of a module on stored logits, at all pixels, and those of each drive.

    Its logits are interpolated, cell i at 8i + 3.5 (``upsampling="half_pixel"``).

    >>> maps = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    >>> labels = torch.zeros(1, 16, 24, dtype=torch.uint8)
    >>> roads = Logits(maps, labels, ("morning_1.png",))
    >>> found = score(nn.Identity(), roads, ("road", "sky"))
    >>> found.miou, [*found.drives]
    (100.0, ['morning'])
    """
    meter = DriveMeter(classes)
    for start in range(0, len(data.maps), 8):
        batch = slice(start, start + 8)
        with torch.no_grad():
            logits = upsampled(module(data.maps[batch]), "half_pixel", 8)
        each = zip(
            data.names[batch], logits.argmax(1), data.labels[batch].long(), strict=True
        )
        for name, predicted, labels in each:
            meter.update(name, predicted, labels)
    return meter.compute()
