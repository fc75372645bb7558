"""The metric: mean IoU from the confusion matrix of a whole split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassJaccardIndex
from tqdm import tqdm

from dilated_lib.data.labelled import VOID, Sample

__all__ = ["Scores", "evaluate", "evaluate_both", "scores"]


@dataclass(frozen=True)
class Scores:
    """Holds mean IoU, accuracy of pixels, and the IoU of each class, in percent.

    A class that is neither in the labels nor in the predictions has None, and does not
    count in the mean.
    """

    miou: float
    accuracy: float
    per_class: dict[str, float | None]


def evaluate(
    probabilities: Callable[[Tensor], Tensor],
    data: Dataset[Sample],
    classes: tuple[str, ...],
    *,
    device: torch.device | str = "cpu",
    flip: bool = False,
    workers: int = 0,
    progress: bool = False,
) -> Scores:
    """Measure a network on a split, in which void pixels do not count.

    One confusion matrix is summed over all pixels of the split (the rule of VOC); no
    score is computed for each picture. All that could make a score wrong without an
    error is checked on every picture: the number of classes, sizes, labels, NaN.

    Raises ValueError for probabilities of another number of classes or pixels and for
    those that are not finite, for a label that is none of the classes, and for a split
    without any label.

    Args:
        probabilities: A function that turns images (1, 3, H, W), RGB, 0 to 255, on the
            device, into class probabilities (1, C, H, W).
        data: The split.
        classes: The classes' names, in the order of the labels.
        device: Where the function wants its images.
        flip: Average the probabilities with those of the mirrored image.
        workers: Processes that read pictures ahead.
        progress: Show a bar on stderr.

    >>> data = [(torch.zeros(3, 1, 4), torch.tensor([[0, 0, 1, VOID]]))]
    >>> road = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    >>> evaluate(lambda images: road, data, ("road", "sky"))
    Scores(miou=33.33, accuracy=66.67, per_class={'road': 66.67, 'sky': 0.0})
    """
    seen = _seen(
        probabilities,
        data,
        classes,
        device=device,
        flip=flip,
        workers=workers,
        progress=progress,
    )
    return scores(seen[-1], classes)


def evaluate_both(
    probabilities: Callable[[Tensor], Tensor],
    data: Dataset[Sample],
    classes: tuple[str, ...],
    **options: Any,
) -> tuple[Scores, Scores]:
    """Measure a network on a split, alone and averaged with the mirrored image.

    That takes two predictions of each picture, where :func:`evaluate` without and with
    ``flip`` would take three. Its arguments and errors are those of evaluate.

    >>> data = [(torch.zeros(3, 1, 2), torch.tensor([[0, 1]]))]
    >>> left = torch.tensor([[0.9, 0.6], [0.1, 0.4]]).view(1, 2, 1, 2)
    >>> [one.accuracy for one in evaluate_both(lambda images: left, data, ("a", "b"))]
    [50.0, 50.0]
    """
    alone, averaged = _seen(probabilities, data, classes, flip=True, **options)
    return scores(alone, classes), scores(averaged, classes)


def _seen(
    probabilities: Callable[[Tensor], Tensor],
    data: Dataset[Sample],
    classes: tuple[str, ...],
    *,
    device: torch.device | str = "cpu",
    flip: bool,
    workers: int = 0,
    progress: bool = False,
) -> list[MulticlassJaccardIndex]:
    """Show a split to a metric, and with ``flip`` the averaged answers to another."""
    metrics = [
        MulticlassJaccardIndex(
            len(classes),
            average=None,
            ignore_index=VOID,
            validate_args=False,
            sync_on_compute=False,
        ).to(device)
        for _ in range(1 + flip)
    ]
    loader = DataLoader(data, batch_size=None, num_workers=workers)
    for picture, labels in tqdm(loader, "pictures", disable=not progress, leave=False):
        unknown = (labels < 0) | (labels >= len(classes)) & (labels != VOID)
        if unknown.any():
            raise ValueError(
                f"labels must be below {len(classes)}, or {VOID} for void, got "
                f"{int(labels[unknown][0])}"
            )
        images = picture[None].to(device)
        shares = probabilities(images)
        if shares.shape[1] != len(classes):
            raise ValueError(
                f"the network has {shares.shape[1]} classes, the data set "
                f"{len(classes)}: {', '.join(classes)}"
            )
        if shares.shape[2:] != labels.shape:
            raise ValueError(
                f"a picture of {tuple(labels.shape)} pixels must have as many "
                f"probabilities, got {tuple(shares.shape[2:])}"
            )
        answers = [shares]
        if flip:  # the sum is largest where the mean is
            answers.append(shares + probabilities(images.flip(3)).flip(3))
        for metric, answer in zip(metrics, answers, strict=True):
            if not answer.isfinite().all():
                raise ValueError("probabilities must be finite, got NaN or infinity")
            metric.update(answer.argmax(1), labels[None].to(device))
    return metrics


def scores(metric: MulticlassJaccardIndex, classes: tuple[str, ...]) -> Scores:
    """Compute scores from a metric that has seen a split, with ``average=None``.

    Raises ValueError where it has seen no pixel with a label.

    >>> metric = MulticlassJaccardIndex(2, average=None)
    >>> metric.update(torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1]))
    >>> scores(metric, ("road", "sky"))
    Scores(miou=33.33, accuracy=66.67, per_class={'road': 66.67, 'sky': 0.0})
    """
    matrix = metric.confmat.cpu().double()  # row the label, column the prediction
    if not matrix.sum():
        raise ValueError("no pixel has a label: there is nothing to measure")
    there = matrix.sum(0) + matrix.sum(1) > 0
    each = 100 * metric.compute().cpu().double()
    return Scores(
        miou=round(each[there].mean().item(), 2),
        accuracy=round(100 * (matrix.diagonal().sum() / matrix.sum()).item(), 2),
        per_class={
            name: round(value.item(), 2) if seen else None
            for name, value, seen in zip(classes, each, there, strict=True)
        },
    )
