"""What the units of every network of torchvision see: a record of each.

``python -m dilated_lib.experiments.torchvision_survey`` analyses them all; with
``--verify`` it asks the networks themselves as well, which takes an hour or two. The
book's page "Receptive field of your network" shows the records.
"""

import gc
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from torchvision import models

from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.survey import MANY_WEIGHTS, agreement, outcome
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.fields.tracing.named import named_network

__all__ = ["networks", "survey"]

BACKBONES = "models.detection"
MANY_PAIRS = "mvit_v2_s"  # of tokens, with a place for each: 24 GiB do not hold them


def networks() -> list[str]:
    """List all names, and of detectors also the backbone, which can be traced alone."""
    names = models.list_models()
    detectors = [
        name for name in names if BACKBONES in models.get_model_builder(name).__module__
    ]
    return sorted([*names, *(f"{name}.backbone" for name in detectors)])


def input_size(name: str) -> tuple[int, ...]:
    """Return the usual size of the input of a network."""
    module = models.get_model_builder(name.partition(".")[0]).__module__
    side = 299 if "inception" in name else 520 if "segmentation" in module else 224
    if BACKBONES in module:
        side = 320
    return (3, 16, side, side) if "video" in module else (3, side, side)


def output(name: str) -> str | None:
    """Choose the output to ask for: of a detector's backbone the finest map."""
    return "0" if name.endswith(".backbone") else None


def survey(name: str) -> tuple[dict[str, Any], float]:
    """Return the outcome for a network, and the seconds of the analysis alone."""
    return outcome(named_network(name), input_size(name), output(name))


def verified(name: str, module: str | None) -> list[str]:
    """Ask the network itself whether it agrees, at its output and on the way there.

    The output is compared on the smallest input that the network takes. On one so small
    the units of a deep network see everything, so that any larger field would agree,
    too. That is why two layers on the way are compared as well: ``module``, the last
    before everything is read, and the last that sees 100 positions or fewer, on a wider
    input. Networks of over 400 million weights are not asked at their output, which
    would take over 24 GiB, and MANY_PAIRS is not asked at all.
    """
    if name == MANY_PAIRS:
        return []
    network = named_network(name, device="cpu")
    size = input_size(name)
    *_, side = size
    layers = receptive_field(network, size, to=module or output(name)).layers
    modules = dict(network.named_modules())
    near = [
        layer.module
        for layer in layers
        if max(field.size for field in layer.fields) <= 100 and layer.module in modules
    ]
    tried = []
    if sum(weight.numel() for weight in network.parameters()) < MANY_WEIGHTS:
        tried.append(agreement(network, size, output(name), (64, 96, 128, side)))
    if module is not None:
        tried.append(agreement(network, size, module, (64, 96, 128, side)))
    if near and near[-1] != module:
        tried.append(agreement(network, size, near[-1], (160, side)))
    return tried


def measured(name: str, compare: bool) -> tuple[dict[str, Any], float]:
    """Survey a network; return the metrics of its record, and the seconds it took."""
    begin = time.perf_counter()
    found, seconds = survey(name)
    if compare and found["outcome"] != "refused":
        on_the_way = found.get("module") if "reason" in found else None
        found["verified"] = verified(name, on_the_way)
    gc.collect()
    found["analysis_ms"] = round(1000 * seconds, 1)
    return found, time.perf_counter() - begin


def main(
    out: Path = Path("book/results/torchvision.json"),
    /,
    *,
    verify: bool = False,
    only: tuple[str, ...] = (),
) -> None:
    """Survey all networks of torchvision, two at a time, with one thread each.

    Args:
        out: The file of records to write.
        verify: Compare each with the network itself.
        only: Networks to survey anew; the records of the others stay.
    """
    torch.set_num_threads(1)  # which the records name
    recorder = Recorder(out, keep=bool(only), by_name=True)
    chosen = only or networks()
    with ProcessPoolExecutor(
        2, get_context("spawn"), torch.set_num_threads, (1,)
    ) as pool:
        each = pool.map(measured, chosen, repeat(verify))
        for name, (metrics, seconds) in zip(chosen, each, strict=True):
            recorder.add(
                f"torchvision/{name}",
                config={"input_size": input_size(name)},
                metrics=metrics,
                seconds=seconds,
            )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
