"""What the units of every network of torchvision see: a record of each.

``python -m dilated_lib.experiments.torchvision_survey`` analyses them all; with
``--verify`` it asks the networks themselves as well, which takes an hour or two. The
book's chapter 03 shows the records.
"""

import gc
import json
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from math import inf
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn
from torchvision import models

from dilated_lib.fields.tracing import (
    Layer,
    TracingError,
    named_network,
    receptive_field,
    verify,
)
from dilated_lib.records import Record, device_name, write

__all__ = ["networks", "survey"]

BACKBONES = "models.detection"


def networks() -> list[str]:
    """All names, and for detectors that of the backbone, which can be traced alone."""
    names = models.list_models()
    detectors = [
        name for name in names if BACKBONES in models.get_model_builder(name).__module__
    ]
    return sorted([*names, *(f"{name}.backbone" for name in detectors)])


def input_size(name: str) -> tuple[int, ...]:
    """The usual size of the input of a network."""
    module = models.get_model_builder(name.partition(".")[0]).__module__
    side = 299 if "inception" in name else 520 if "segmentation" in module else 224
    if BACKBONES in module:
        side = 320
    return (3, 16, side, side) if "video" in module else (3, side, side)


def output(name: str) -> str | None:
    """Which output to ask for: of a detector's backbone the finest map."""
    return "0" if name.endswith(".backbone") else None


def survey(name: str) -> tuple[dict[str, Any], float]:
    """The outcome for a network, and the seconds of the analysis alone.

    Exact, with the field of the output; or unbounded, by what, and with the field of
    the last layer before; or refused, with the reason.
    """
    size = input_size(name)
    network = named_network(name)
    try:
        answer = receptive_field(network, size, to=output(name))
    except (TracingError, ValueError) as refusal:
        return {"outcome": "refused", "reason": str(refusal)}, 0.0
    if answer.unbounded is None:
        last: Layer | None = answer.layers[-1]
        outcome: dict[str, Any] = {"outcome": "exact"}
    else:
        bounded = [
            layer
            for layer in answer.layers
            if all(field.size < inf for field in layer.fields)
        ]
        last = bounded[-1] if bounded else None
        outcome = {"outcome": "unbounded", "reason": answer.unbounded}
    if last:
        outcome |= {
            "module": last.module,
            "size": [field.size for field in last.fields],
            "stride": [str(field.stride) for field in last.fields],
            "padding": [field.padding for field in last.fields],
            "aligned": all(
                layer.aligned for layer in answer.layers[: answer.layers.index(last)]
            ),
        }
    return outcome, answer.seconds[1]


def verified(name: str, module: str | None) -> list[str]:
    """Does the network itself agree? At the output, and at layers on the way.

    On the smallest input that the network takes; there the units of a deep network
    see all of it. So also at the last layer before everything is read, ``module``, and
    at the last that sees 100 positions or fewer, on an input that is wider. Networks of
    over 400 million weights are not asked at their output: it takes over 24 GiB.
    """
    network = named_network(name, device="cpu")
    size = input_size(name)
    layers = receptive_field(network, size, to=module or output(name)).layers
    near = [
        layer.module
        for layer in layers
        if max(field.size for field in layer.fields) <= 100
    ]
    tried = []
    if sum(weight.numel() for weight in network.parameters()) < 400e6:
        tried.append(_verified(network, size, output(name), (64, 96, 128, size[-1])))
    if module is not None:
        tried.append(_verified(network, size, module, (64, 96, 128, size[-1])))
    if near and near[-1] != module:
        tried.append(_verified(network, size, near[-1], (160, size[-1])))
    return tried


def _verified(
    network: nn.Module, usual: tuple[int, ...], to: str | None, sides: tuple[int, ...]
) -> str:
    for side in sides:
        size = (*usual[:-2], side, side)
        try:
            found = verify(network, size, to=to, units=1)
        except (TracingError, ValueError) as refusal:
            outcome = str(refusal)
            continue
        shown = " x ".join(map(str, size[1:]))
        outcome = f"{found or 'agrees'}, to {to or 'the output'} on {shown}"
        break
    return outcome


def _measured(name: str, compare: bool) -> dict[str, Any]:
    """What a record says, but for the command and the commit: those of the parent."""
    begin = time.perf_counter()
    outcome, seconds = survey(name)
    if compare and outcome["outcome"] != "refused":
        on_the_way = outcome.get("module") if "reason" in outcome else None
        outcome["verified"] = verified(name, on_the_way)
    gc.collect()
    return {
        "experiment": f"torchvision/{name}",
        "config": {"input_size": input_size(name)},
        "metrics": outcome | {"analysis_ms": round(1000 * seconds, 1)},
        "seconds": round(time.perf_counter() - begin, 1),
        "device": device_name(torch.device("cpu")),
    }


def all_records(names: Iterable[str], *, compare: bool = False) -> Iterable[Record]:
    """Records in the order of the names, two networks at a time."""
    with ProcessPoolExecutor(
        2, get_context("spawn"), torch.set_num_threads, (1,)
    ) as pool:
        jobs = [pool.submit(_measured, name, compare) for name in names]
        for job in jobs:
            yield Record(seed=0, **job.result())


def main(
    out: Path = Path("book/results/torchvision.json"),
    /,
    *,
    verify: bool = False,  # the option's name
    only: tuple[str, ...] = (),
) -> None:
    """Survey all networks of torchvision.

    Args:
        out: The file of records to write.
        verify: Compare each with the network itself.
        only: Networks to survey anew; the records of the others stay.
    """
    there = json.loads(out.read_text()) if only and out.exists() else []
    done = {one["experiment"]: Record(**one) for one in there}
    for record in all_records(only or networks(), compare=verify):
        done[record.experiment] = record
        write(out, [done[name] for name in sorted(done)])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
