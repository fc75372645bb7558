"""What the context module changes: which pixels, and whether rightly."""

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dilated_lib.data.labelled import VOID, Sample
from dilated_lib.data.sets import open_data
from dilated_lib.experiments.scores_by_drive import DriveMeter, drive_of
from dilated_lib.networks.architecture import open_network, small_network
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.prediction.segmentation import probabilities
from dilated_lib.records import Record, device_name, write

__all__ = ["changes", "label_map", "without_context"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def without_context(network: DilatedNetwork) -> DilatedNetwork:
    """The same front end, whose logits are the answer; it shares the layers.

    >>> network = small_network()
    >>> network.context.num_classes, without_context(network).context
    (11, Identity())
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


def changes(out: Path, *, data: str, weights: Path | None, every: int) -> None:
    """Compare a network with its own front end, pixel by pixel, into a record.

    For val, and for test where there is one, it has the scores without and with the
    context module, those of each drive too; which percentage of the labelled pixels
    changed, and whether from wrong to right or the other way round, in the split and in
    each drive; the accuracy on each picture; and label maps of the best and the worst
    picture, thinned out to ``every`` row and column. Without ``weights`` it is the
    small network.

    Raises ValueError for a data set of other classes, and as ``open_data``.

    >>> changes(Path("c.json"), data="shapes", weights=None, every=4)
    Traceback (most recent call last):
    ValueError: the network's classes are ...; those of shapes are ground, ...
    """
    begin = time.perf_counter()
    network = open_network(weights)[0] if weights else small_network()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    files = open_data(data)
    files.require_classes(tuple(network.palette))
    done = Record(
        experiment=f"changes/{data}",
        seed=0,
        config={"data": data, "every": every},
        metrics={
            split: _compare(network, files.split(split), device=device, every=every)
            for split in ("val", "test")
            if split in files.splits
        },
        seconds=round(time.perf_counter() - begin, 1),
        device=device_name(device),
    )
    write(out, [done])


def _compare(
    network: DilatedNetwork,
    samples: Dataset[Sample],
    *,
    device: torch.device,
    every: int,
) -> dict[str, Any]:
    answers = {"front": without_context(network), "context": network}
    meters = {name: DriveMeter(tuple(network.palette)) for name in answers}
    counts: dict[str, Counter[str]] = {}
    pictures: list[dict[str, Any]] = []
    maps: list[dict[str, list[str]]] = []
    for index in tqdm(range(len(samples)), "pictures"):  # type: ignore[arg-type]
        picture, labels = samples[index]
        file = samples.name(index)  # type: ignore[attr-defined]
        truth = labels.long()
        known = truth != VOID
        if not known.any():
            continue
        found = {
            name: probabilities(one, picture[None].to(device))[0].argmax(0).cpu()
            for name, one in answers.items()
        }
        for name, predicted in found.items():
            meters[name].update(file, predicted, truth)
        right = {name: (one == truth) & known for name, one in found.items()}
        counts.setdefault(drive_of(file), Counter()).update(_count(found, right, known))
        share = {name: int(one.sum()) / int(known.sum()) for name, one in right.items()}
        pictures.append(
            {
                "name": Path(file).stem,
                "accuracy": [round(100 * share[name], 2) for name in answers],
            }
        )
        thin = {"labels": truth, **found}
        maps.append({name: _rows(one[::every, ::every]) for name, one in thin.items()})
    whole: Counter[str] = Counter()
    for one in counts.values():
        whole.update(one)
    order = sorted(range(len(maps)), key=lambda one: pictures[one]["accuracy"][1])
    return {
        **{name: asdict(meter.compute()) for name, meter in meters.items()},
        "changed": _percent(whole),
        "changed_by_drive": {name: _percent(one) for name, one in counts.items()},
        "pictures": pictures,
        "maps": {
            kind: {"name": pictures[index]["name"], **maps[index]}
            for kind, index in (("worst", order[0]), ("best", order[-1]))
        },
    }


def _count(
    found: dict[str, Tensor], right: dict[str, Tensor], known: Tensor
) -> dict[str, int]:
    """The labelled pixels of a picture, and those that changed, by kind."""
    other = (found["front"] != found["context"]) & known
    wrong = ~right["front"] & ~right["context"]
    return {
        "labelled": int(known.sum()),
        "wrong to right": int((other & right["context"]).sum()),
        "right to wrong": int((other & right["front"]).sum()),
        "wrong to wrong": int((other & wrong).sum()),
    }


def _percent(counts: Counter[str]) -> dict[str, float]:
    """Of the labelled pixels; three digits after the point."""
    whole = counts["labelled"]
    return {
        name: round(100 * count / whole, 3)
        for name, count in counts.items()
        if name != "labelled"
    }


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
