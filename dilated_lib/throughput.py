"""How fast a training step is: beside the matrix product, and beside a peer."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch.utils.flop_counter import FlopCounterMode

from dilated_lib.data.sets import open_data
from dilated_lib.plans import planned
from dilated_lib.recipes import Config
from dilated_lib.records import Record, device_name, write
from dilated_lib.speed import measure
from dilated_lib.stages import Stage
from dilated_lib.start import build_network, build_optimizer

__all__ = ["throughput"]


def throughput(
    out: Path, *, batch: int, cells: tuple[int, int], compiled: bool, small: bool
) -> None:
    """Time training steps: the front end's, with the plan's widths, and DeepLab v3's.

    On made-up crops that lie on the device: forward, backward and AdamW, in bfloat16
    where autocast uses it. Operations are counted by torch (a multiplication and an
    addition are two), and the ceiling, a product of large square matrices, is measured
    in the same run. The peer gets the pixels that are labelled, without the margin.
    ``small`` takes narrow networks and small matrices.

    >>> from tempfile import TemporaryDirectory
    >>> from unittest.mock import patch
    >>> from dilated_lib.speed import Timing
    >>> times = {"product": Timing(2.0, 0.1), "step": Timing(5.0, 0.1)}  # made up
    >>> clock = patch("dilated_lib.throughput.measure", return_value=times)
    >>> with TemporaryDirectory() as folder, clock:
    ...     file = Path(folder) / "steps.json"
    ...     throughput(file, batch=2, cells=(2, 2), compiled=False, small=True)
    ...     file.read_text().count('"images_per_second": 400.0')  # 2 in 5 ms
    2
    """
    torch.backends.cudnn.benchmark = True  # as in training
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(accelerator=device, devices=1, precision="bf16-mixed")
    side = 128 if small else 8192
    left, right = (
        torch.randn(side, side, device=fabric.device, dtype=torch.bfloat16)
        for _ in range(2)
    )
    product = measure({"product": lambda: left @ right}, seconds=2)["product"]
    ceiling = 2 * side**3 / product.median_ms / 1e9
    done: list[Record] = []
    for one in planned():
        wanted = one.name in (
            "camvid/imagenet/front",
            "camvid/scratch/deeplabv3_resnet50",
        )
        if one.config.seed or not wanted:
            continue
        config = replace(one.config, start=None, batch=batch, cells=cells)
        if small:
            config = replace(config, width=4, fc_channels=8)
        step, operations = _step(config, fabric, compiled)
        begin = time.perf_counter()
        timing = measure({"step": step}, seconds=2)["step"]
        rate = operations / timing.median_ms / 1e9
        metrics: dict[str, Any] = {
            **asdict(timing),
            "images_per_second": round(1000 * batch / timing.median_ms, 2),
            "tera_operations_per_second": round(rate, 4),
            "ceiling": round(ceiling, 4),
            "ratio": round(rate / ceiling, 3),
        }
        if fabric.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(fabric.device)
            metrics["peak_gib"] = round(peak / 2**30, 2)
            torch.cuda.reset_peak_memory_stats(fabric.device)
        done.append(
            Record(
                experiment="speed/" + one.name.removeprefix("camvid/"),
                seed=0,
                config={"batch": batch, "cells": cells, "compiled": compiled},
                metrics=metrics,
                seconds=round(time.perf_counter() - begin, 1),
                device=device_name(fabric.device),
            )
        )
        write(out, done)


def _step(
    config: Config, fabric: Fabric, compiled: bool
) -> tuple[Callable[[], None], int]:
    """A step of training, and how many operations it takes."""
    data = open_data("shapes")
    network, _, _ = build_network(config, data)
    stage = Stage(network, config.recipe).to(memory_format=torch.channels_last)
    if compiled:
        stage.compile()
    module, optimizer = fabric.setup(stage, build_optimizer(network, config, set()))
    margin = 372 if config.network == "dilated" else 0
    labelled = [8 * side for side in config.cells]
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(
        256, (config.batch, 3, *(side + margin for side in labelled)), generator=draw
    )
    images = fabric.to_device(images.float())
    labels = torch.randint(
        len(data.palette), (config.batch, *labelled), generator=draw, dtype=torch.uint8
    )
    labels = fabric.to_device(labels)

    def step() -> None:
        optimizer.zero_grad()
        fabric.backward(module(images, labels) / stage.weight(labels))
        optimizer.step()

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return step, counter.get_total_flops()
