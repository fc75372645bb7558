"""What the context module changes: which pixels, and whether rightly."""

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassJaccardIndex
from tqdm import tqdm

from dilated_lib.architecture import open_network, small_network
from dilated_lib.data.labelled import VOID, Sample
from dilated_lib.data.sets import open_data
from dilated_lib.metric import scores
from dilated_lib.networks import DilatedNetwork
from dilated_lib.records import Record, device_name, write
from dilated_lib.segment import probabilities

__all__ = ["changes", "label_map", "without_context"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def without_context(network: DilatedNetwork) -> DilatedNetwork:
    """The same front end, whose logits are the answer; it shares the layers.

    >>> network = small_network()
    >>> len(network.context), len(without_context(network).context)
    (15, 0)
    """
    return DilatedNetwork(
        network.front,
        None,
        palette=network.palette,
        mean=network.mean,
        input_size=network.input_size,
        scale=network.scale,
        upsampling=network.upsampling,
    )


def changes(
    out: Path, *, data: str, split: str, weights: Path | None, every: int
) -> None:
    """Compare a network with its own front end, pixel by pixel, into a record.

    It has the scores on the split, without and with the context module, and the
    accuracy of each picture; how many pixels changed, and whether from wrong to right
    or the other way round; and label maps, thinned out to ``every`` row and column, of
    the best and the worst picture. Without ``weights`` it is the small network.

    Raises ValueError for a data set of other classes, and as ``open_data``.

    >>> changes(Path("c.json"), data="shapes", split="val", weights=None, every=4)
    Traceback (most recent call last):
    ValueError: the network's classes are ...; those of shapes are ground, ...
    """
    begin = time.perf_counter()
    network = open_network(weights)[0] if weights else small_network()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    answers = [
        partial(probabilities, one) for one in (without_context(network), network)
    ]
    pictures: list[dict[str, Any]] = []
    maps: list[list[Tensor]] = []
    totals = dict.fromkeys(("wrong to right", "right to wrong", "wrong to wrong"), 0)
    labelled = 0
    classes = tuple(network.palette)
    meters = [
        MulticlassJaccardIndex(len(classes), average=None, ignore_index=VOID)
        for _ in answers
    ]
    files = open_data(data)
    files.require_classes(classes)
    samples: Dataset[Sample] = files.split(split)
    for index in tqdm(range(len(samples)), "pictures"):  # type: ignore[arg-type]
        picture, labels = samples[index]
        truth = labels.long()
        front, both = (
            answer(picture[None].to(device))[0].argmax(0).cpu() for answer in answers
        )
        for meter, one in zip(meters, (front, both), strict=True):
            meter.update(one, truth)
        known = truth != VOID
        right = [(one == truth) & known for one in (front, both)]
        other = (front != both) & known
        totals["wrong to right"] += int((other & right[1]).sum())
        totals["right to wrong"] += int((other & right[0]).sum())
        totals["wrong to wrong"] += int((other & ~right[0] & ~right[1]).sum())
        labelled += int(known.sum())
        pictures.append(
            {
                "name": Path(samples.name(index)).stem,  # type: ignore[attr-defined]
                "accuracy": [
                    round(100 * (one.sum() / known.sum()).item(), 2) for one in right
                ],
            }
        )
        maps.append([one[::every, ::every].clone() for one in (truth, front, both)])
    order = sorted(range(len(maps)), key=lambda one: pictures[one]["accuracy"][1])
    shown = {
        kind: {
            "name": pictures[index]["name"],
            **{
                name: _rows(one)
                for name, one in zip(
                    ("labels", "front", "context"), maps[index], strict=True
                )
            },
        }
        for kind, index in (("worst", order[0]), ("best", order[-1]))
    }
    done = Record(
        experiment=f"changes/{data}",
        seed=0,
        config={"data": data, "split": split, "every": every},
        metrics={
            "scores": [asdict(scores(meter, classes)) for meter in meters],
            "pictures": pictures,
            "changed": {
                name: round(100 * count / labelled, 3) for name, count in totals.items()
            },
            "maps": shown,
        },
        seconds=round(time.perf_counter() - begin, 1),
        device=device_name(device),
    )
    write(out, [done])


def _rows(labels: Tensor) -> list[str]:
    """A label map as text, one digit a pixel, a dot where it is void."""
    return [
        "".join("." if one == VOID else _DIGITS[one] for one in row)
        for row in labels.tolist()
    ]


def label_map(rows: list[str]) -> Tensor:
    """A label map (H, W) from a record's rows.

    >>> label_map(["01", "a."])
    tensor([[  0,   1],
            [ 10, 255]])
    """
    values = [
        [VOID if one == "." else _DIGITS.index(one) for one in row] for row in rows
    ]
    return torch.tensor(values)
