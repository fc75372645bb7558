"""What a model card tells: how a network does on each class, and what bytes cost."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassJaccardIndex
from tqdm import tqdm

from dilated_lib.data.labelled import VOID, Sample
from dilated_lib.data.sets import open_data
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.networks.architecture import open_network
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.prediction.metric import scores
from dilated_lib.prediction.segmentation import probabilities

__all__ = ["card"]

_DRAWN = 10


def card(
    stored: Path,
    original: Path,
    /,
    *,
    data: str = "voc_animals",
    split: Literal["val", "test"] = "test",
    out: Path = Path("book/results/cards.json"),
    seed: int = 0,
) -> None:
    """Measure a network stored with a byte for each weight, beside its original.

    The record has its scores on a split; for each class, how many percent of its pixels
    are called what; how many percent of all pixels get the label that the original
    gives; and what the pictures show. That is, apart from background, the class with
    most pixels of a picture. It is named if more of them are called so than anything
    else. Ten of these pictures are drawn with the seed and listed.

    Args:
        stored: The network in bytes.
        original: The network that it was made from.
        data: A data set with their classes.
        split: Which pictures.
        out: The file of records; those of other data sets stay.
        seed: Which ten pictures are listed.
    """
    network, other = (open_network(file)[0] for file in (stored, original))
    files = open_data(data)
    for one in (network, other):
        files.require_classes(tuple(one.palette))
    recorder = Recorder(out, keep=True, by_name=True)
    config = {"network": stored.name, "data": data, "split": split}
    with recorder.record(f"cards/{data}", seed=seed, config=config) as metrics:
        metrics.update(_measured(network, other, files.split(split), seed))


def _measured(
    network: DilatedNetwork,
    original: DilatedNetwork,
    samples: Dataset[Sample],
    seed: int,
) -> dict[str, Any]:
    """Go through a split once; return what the record has of it."""
    classes, count = tuple(network.palette), len(samples)  # type: ignore[arg-type]
    meter = MulticlassJaccardIndex(len(classes), average=None, ignore_index=VOID)
    same = pixels = 0
    shown: dict[int, dict[str, Any]] = {}
    for index in tqdm(range(count), "pictures"):
        picture, labels = samples[index]
        found, other = (
            probabilities(one, picture[None])[0].argmax(0)
            for one in (network, original)
        )
        meter.update(found, labels.long())
        same, pixels = same + int((found == other).sum()), pixels + found.numel()
        if told := _told(found, labels, classes):
            name = samples.name(index)  # type: ignore[attr-defined]
            shown[index] = {"name": Path(name).stem} | told
    rows = meter.confmat.double()
    shares = 100 * rows / rows.sum(1, keepdim=True).clamp(1)
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=draw).tolist()
    return {
        "scores": asdict(scores(meter, classes)),
        "called": {
            name: dict(zip(classes, (round(one, 1) for one in row), strict=True))
            for name, row in zip(classes, shares.tolist(), strict=True)
        },
        "same_as_original": round(100 * same / pixels, 3),
        "pictures": len(shown),
        "named": sum(one["called"] == one["shows"] for one in shown.values()),
        "drawn": [shown[index] for index in order if index in shown][:_DRAWN],
    }


def _told(
    found: Tensor, labels: Tensor, classes: tuple[str, ...]
) -> dict[str, str | float] | None:
    """Tell what a picture shows most, and what that is called; None for background."""
    counts = torch.bincount(labels[labels != VOID].long(), minlength=len(classes))
    if "background" in classes:
        counts[classes.index("background")] = 0
    if not counts.any():
        return None
    most = int(counts.argmax())
    called = torch.bincount(found[labels == most], minlength=len(classes))
    return {
        "shows": classes[most],
        "called": classes[int(called.argmax())],
        "right": round(100 * (called[most] / called.sum()).item(), 1),
    }
