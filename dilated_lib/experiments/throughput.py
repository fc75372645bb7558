"""How fast is a training step, compared with the matrix product and other steps?"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dilated_lib.data.labelled import DataSet
from dilated_lib.data.palettes import CAMVID, PASCAL_VOC, VOC_ANIMALS
from dilated_lib.data.sets import open_data
from dilated_lib.dilation.cost import measure
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.records import peak_gib
from dilated_lib.training.config import Config
from dilated_lib.training.loss import Stage, layout
from dilated_lib.training.optimizer import build_optimizer
from dilated_lib.training.setup import build_network

__all__ = ["operations", "throughput", "training_step"]


def throughput(
    out: Path, configs: Mapping[str, Config], *, compiled: bool = False, side: int
) -> None:
    """Time a training step of each of several runs, side by side, into records.

    A step goes forward and backward, clips and calls AdamW, on made-up crops that lie
    on the device, in the precision of its run. Operations are counted by torch (a
    multiplication and an addition are two). The ceiling is measured in the same rounds:
    the product of two square matrices, in bfloat16, or in float32 where the runs are.
    ``ratio`` is the step's rate over the ceiling, ``relative`` its time over that of
    the first run's step.

    Args:
        out: The file of records to write.
        configs: The runs, by the name that their record will have.
        compiled: Compile the networks with torch.compile.
        side: Rows of the matrices.

    >>> from tempfile import TemporaryDirectory
    >>> from unittest.mock import patch
    >>> from dilated_lib.dilation.cost import Timing
    >>> times = {"product": Timing(2.0, 0.1), "tiny": Timing(5.0, 0.1)}  # made up
    >>> clock = patch("dilated_lib.experiments.throughput.measure", return_value=times)
    >>> narrow = {"data": "shapes", "width": 4, "fc_channels": 8}
    >>> tiny = Config().changed(**narrow, batch=2, cells=(2, 2))
    >>> with TemporaryDirectory() as folder, clock:
    ...     file = Path(folder) / "steps.json"
    ...     throughput(file, {"tiny": tiny}, side=128)
    ...     file.read_text().count('"images_per_second": 400.0')  # 2 in 5 ms
    1
    """
    torch.backends.cudnn.benchmark = True  # as in training
    steps, counted = {}, {}
    for name, config in configs.items():
        steps[name] = training_step(config, compiled=compiled)
        counted[name] = operations(config)
    first, *_ = configs.values()
    kind = torch.float32 if first.precision == "32-true" else torch.bfloat16
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    begin = time.perf_counter()
    times = measure({"product": lambda: left @ right, **steps}, seconds=2)
    seconds = (time.perf_counter() - begin) / len(times)
    ceiling = 2 * side**3 / times["product"].median_ms / 1e9
    reference = times[next(iter(configs))].median_ms
    recorder = Recorder(out, device=device)
    for name, config in configs.items():
        rate = counted[name] / times[name].median_ms / 1e9
        metrics: dict[str, Any] = {
            **asdict(times[name]),
            "images_per_second": round(1000 * config.batch / times[name].median_ms, 2),
            "labelled_pixels": config.batch * 64 * config.cells[0] * config.cells[1],
            "tera_operations": round(counted[name] / 1e12, 4),
            "tera_operations_per_second": round(rate, 4),
            "ceiling": round(ceiling, 4),
            "ratio": round(rate / ceiling, 3),
            "relative": round(times[name].median_ms / reference, 3),
        }
        if device.type == "cuda":
            metrics["peak_gib"] = peak_gib(device)
        described = {
            "batch": config.batch,
            "cells": config.cells,
            "padding": config.architecture.padding,
            "precision": config.precision,
            "compiled": compiled,
            "product": side,
        }
        recorder.add(
            f"speed/step/{name}", config=described, metrics=metrics, seconds=seconds
        )


def training_step(config: Config, *, compiled: bool = False) -> Callable[[], None]:
    """Make a training step of a run: forward, backward, clipping, optimizer.

    A call takes the step, on made-up crops. They have the size, the margin and the
    number of the run's; the weights are drawn.

    >>> narrow = {"data": "shapes", "width": 4, "fc_channels": 8}
    >>> training_step(Config().changed(**narrow, batch=1))()
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(accelerator=device, devices=1, precision=config.precision)
    stage = _stage(config)
    stage = stage.to(memory_format=layout(fabric.device, config.precision))
    if compiled:
        stage.compile()
    module, optimizer = fabric.setup(
        stage, build_optimizer(stage.network, config, set())
    )
    images, labels = _crops(config, fabric.device)

    def step() -> None:
        optimizer.zero_grad()
        fabric.backward(module(images, labels) / stage.weight(labels))
        if config.recipe.clip is not None:
            fabric.clip_gradients(module, optimizer, max_norm=config.recipe.clip)
        optimizer.step()

    return step


def operations(config: Config) -> int:
    """Count the arithmetic operations of one training step; nothing is computed.

    >>> narrow = {"data": "shapes", "width": 4, "fc_channels": 8}
    >>> step = Config().changed(**narrow, batch=1, cells=(2, 2))
    >>> operations(replace(step, batch=2)) / operations(step)
    2.0
    """
    device = torch.device("meta")
    with device:
        stage = _stage(config)
    counter = FlopCounterMode(display=False)
    with counter:
        stage(*_crops(config, device)).backward()
    return int(counter.get_total_flops())


def _stage(config: Config) -> Stage:
    """Build the run's network with its loss; the weights are as they are drawn."""
    frozen = config.stage == "context"
    drawn = replace(config, start=None, stage="joint" if frozen else config.stage)
    network, _ = build_network(drawn, _classes(config))
    return Stage(network, config.recipe, frozen=frozen)


def _classes(config: Config) -> DataSet:
    """Make a data set with the classes of the run's, which need not be there."""
    made_up = open_data("shapes")
    palette = {"camvid": CAMVID, "voc2012": PASCAL_VOC, "voc_animals": VOC_ANIMALS}
    return replace(made_up, palette=palette.get(config.data, made_up.palette))


def _crops(config: Config, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make up images and labels such as a step of the run gets."""
    classes = len(_classes(config).palette)
    pads = config.network != "dilated" or config.architecture.padding != "none"
    margin = 0 if pads else 372
    sides = [8 * count for count in config.cells]
    images = torch.rand(config.batch, 3, *(side + margin for side in sides))
    labels = torch.randint(classes, (config.batch, *sides), dtype=torch.uint8)
    return (255 * images).to(device), labels.to(device)
