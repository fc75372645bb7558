"""Context modules on the logits of one front end: the record of chapter 13."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dilated_lib.fields.arithmetic import compose
from dilated_lib.networks.context import ContextModule
from dilated_lib.records import Record, device_name, write

__all__ = ["heads"]

HEADS = {  # their kernels, and dilations
    "basic": (3, (1, 1, 2, 4, 8, 16, 1)),
    "no dilation 16": (3, (1, 1, 2, 4, 8, 1)),
    "no dilation": (3, (1, 1, 1, 1, 1, 1, 1)),
    "no neighbours": (1, (1, 1, 1, 1, 1, 1, 1)),
}


def heads(
    out: Path = Path("book/results/heads.json"),
    /,
    *,
    data: str = "camvid",
    network: Path | None = None,
    seeds: int = 5,
    steps: int = 2000,
) -> None:
    """Train context modules on a front end's logits; chapter 13 shows the scores.

    The front end stays as it is. Its logits are stored: of the training pictures and
    their mirror images, of val and of test. On these the basic context module is
    trained as it is, without its layer of dilation 16, without any dilation, and with
    1 × 1 kernels only. The first record is of the front end alone. Scores are those of
    a split, and of each drive in it.

    Args:
        out: The file of records to write.
        data: A data set with the network's classes.
        network: The file of the network whose front end it is; the small one, if none.
        seeds: Trainings of each module, with the seeds 0, 1, …
        steps: Steps of training, eight maps each.
    """
    from dilated_lib.data.labelled import class_counts
    from dilated_lib.data.sets import open_data
    from dilated_lib.experiments import stored_logits  # other commands start faster
    from dilated_lib.networks.architecture import open_network, small_network
    from dilated_lib.training.loss import median_frequency_weights

    files = open_data(data)
    source = open_network(network)[0] if network else small_network()
    classes = tuple(source.palette)
    files.require_classes(classes)
    counts = class_counts(files.split("train"), len(classes))
    weights = median_frequency_weights(counts)
    begin = time.perf_counter()
    stored = {
        split: stored_logits.store(
            source, files.split(split), mirrored=split == "train", progress=True
        )
        for split in ("train", "val", "test")
    }
    done: list[Record] = []

    def keep(name: str, seed: int, module: nn.Module, **metrics: Any) -> None:
        for split in ("val", "test"):
            metrics[split] = asdict(
                stored_logits.measure(module, stored[split], classes).compute()
            )
        done.append(
            Record(
                experiment=f"heads/{name}",
                seed=seed,
                config={
                    "data": data,
                    "network": network.name if network else "small",
                    "steps": steps,
                },
                metrics=metrics,
                seconds=round(time.perf_counter() - begin, 1),
                device=device_name(torch.device("cpu")),
            )
        )
        write(out, done)

    keep("front", 0, nn.Identity())
    for seed in range(seeds):
        for name, (kernel, dilations) in HEADS.items():
            begin = time.perf_counter()
            generator = torch.Generator().manual_seed(seed)
            module = ContextModule(len(classes), dilations=dilations)
            if kernel == 1:
                module.layers = nn.ModuleList(
                    nn.Conv2d(len(classes), len(classes), 1) for _ in module.layers
                )
            module.reset_parameters(generator=generator)
            losses = stored_logits.fit(
                module,
                stored["train"],
                weights=weights,
                steps=steps,
                generator=generator,
            )
            keep(
                name,
                seed,
                module,
                receptive_field=compose(module.windows).size if kernel > 1 else 1,
                loss=round(float(np.mean(losses[-50:])), 4),
            )
