"""What the context module changes: which pixels, and whether rightly."""

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
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.scores_by_drive import DriveMeter, drive_of
from dilated_lib.networks.architecture import open_network, street_network
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.prediction.segmentation import probabilities

__all__ = ["as_text", "changes", "label_map", "without_context"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def without_context(network: DilatedNetwork) -> DilatedNetwork:
    """Return the front end as a network of its own, made of the same layers.

    >>> network = street_network()
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


def changes(
    out: Path = Path("book/results/changes.json"),
    /,
    *,
    data: str = "camvid",
    weights: Path | None = None,
    every: int = 4,
) -> None:
    """Compare a network with its own front end, pixel by pixel; chapter 13 shows it.

    For val, and for test where there is one, the record has the scores without and with
    the context module, those of each drive too; which percentage of the labelled pixels
    changed, and whether from wrong to right or the other way round, in the split and in
    each drive; the accuracy on each picture; and label maps of the best and the worst
    picture.

    Args:
        out: The file of records to write.
        data: A data set with the network's classes.
        weights: A network that was trained jointly; that for streets by default.
        every: Keep every so many rows and columns of the label maps.
    """
    network = open_network(weights)[0] if weights else street_network()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    files = open_data(data)
    files.require_classes(tuple(network.palette))
    recorder, config = Recorder(out, device=device), {"data": data, "every": every}
    with recorder.record(f"changes/{data}", config=config) as metrics:
        for split in ("val", "test"):
            if split in files.splits:
                samples = files.split(split)
                metrics[split] = _compare(network, samples, device=device, every=every)


def _compare(
    network: DilatedNetwork,
    samples: Dataset[Sample],
    *,
    device: torch.device,
    every: int,
) -> dict[str, Any]:
    """Compare both answers on each picture of a split; return the split's metrics.

    All are counted in one pass, since two predictions of a picture take long. A picture
    without any label is left out: nothing can be right or wrong there.
    """
    networks = {"front": without_context(network), "context": network}
    meters = {name: DriveMeter(tuple(network.palette)) for name in networks}
    whole: Counter[str] = Counter()
    by_drive: dict[str, Counter[str]] = {}
    pictures: list[dict[str, Any]] = []
    maps: list[dict[str, list[str]]] = []
    for index in tqdm(range(len(samples)), "pictures"):  # type: ignore[arg-type]
        picture, labels = samples[index]
        file = samples.name(index)  # type: ignore[attr-defined]
        truth = labels.long()
        known = truth != VOID
        if not known.any():
            continue
        predicted = {
            name: probabilities(one, picture[None].to(device))[0].argmax(0).cpu()
            for name, one in networks.items()
        }
        for name, found in predicted.items():
            meters[name].update(file, found, truth)
        right = {name: (found == truth) & known for name, found in predicted.items()}
        counts = _count(predicted, right, known)
        for counter in (whole, by_drive.setdefault(drive_of(file), Counter())):
            counter.update(counts)
        accuracy = [
            round(100 * (int(one.sum()) / int(known.sum())), 2)
            for one in right.values()
        ]
        pictures.append({"name": Path(file).stem, "accuracy": accuracy})
        thin = {"labels": truth, **predicted}
        maps.append(
            {name: as_text(one[::every, ::every]) for name, one in thin.items()}
        )
    order = sorted(range(len(maps)), key=lambda one: pictures[one]["accuracy"][1])
    return {
        **{name: asdict(meter.compute()) for name, meter in meters.items()},
        "changed": _percent(whole),
        "changed_by_drive": {name: _percent(one) for name, one in by_drive.items()},
        "pictures": pictures,
        "maps": {
            kind: {"name": pictures[index]["name"], **maps[index]}
            for kind, index in (("worst", order[0]), ("best", order[-1]))
        },
    }


def _count(
    found: dict[str, Tensor], right: dict[str, Tensor], known: Tensor
) -> dict[str, int]:
    """Count the labelled pixels of a picture, and those that changed, by kind."""
    other = (found["front"] != found["context"]) & known
    wrong = ~right["front"] & ~right["context"]
    return {
        "labelled": int(known.sum()),
        "wrong to right": int((other & right["context"]).sum()),
        "right to wrong": int((other & right["front"]).sum()),
        "wrong to wrong": int((other & wrong).sum()),
    }


def _percent(counts: Counter[str]) -> dict[str, float]:
    """Turn counts into percent of the labelled pixels, three digits after the point."""
    whole = counts["labelled"]
    return {
        name: round(100 * count / whole, 3)
        for name, count in counts.items()
        if name != "labelled"
    }


def as_text(labels: Tensor) -> list[str]:
    """Write a label map (H, W) as text: a digit a pixel, a dot where it is void.

    >>> as_text(torch.tensor([[0, 1], [10, VOID]]))
    ['01', 'a.']
    """
    return [
        "".join("." if one == VOID else _DIGITS[one] for one in row)
        for row in labels.tolist()
    ]


def label_map(rows: list[str]) -> Tensor:
    """Read a label map (H, W) from the rows that :func:`as_text` wrote.

    >>> label_map(["01", "a."])
    tensor([[  0,   1],
            [ 10, 255]])
    """
    base = len(_DIGITS)
    values = [[VOID if one == "." else int(one, base) for one in row] for row in rows]
    return torch.tensor(values)
