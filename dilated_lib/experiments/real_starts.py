"""How should a context module start on a trained front end's logits?

Chapter 09 compares starts on shapes, where a module must carry a cue across the map.
Here the logits are real: those of a front end that is trained already and right about
most cells. The identity hands them on, as far as they are above 0; a random start has
to learn first what the front end knew.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dilated_lib.experiments.context_initialisation import initialised, largest
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.shape_training import OPTIMIZERS
from dilated_lib.experiments.stored_logits import FrontEnd, fit, measure
from dilated_lib.networks.context import ContextModule

__all__ = ["RATES", "STARTS", "Lifted", "real_starts"]

RATES = {"Adam": (3e-4, 1e-3, 3e-3), "SGD": (1e-3, 1e-2, 1e-1)}


class Lifted(nn.Module):
    """Add to the logits of a cell what makes its least one 0: no ReLU cuts them then.

    The probabilities stay what they were.

    >>> Lifted()(torch.tensor([-3.0, -1.0]).view(1, 2, 1, 1)).flatten().tolist()
    [0.0, 2.0]
    """

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits (N, C, h, w), of the same shape."""
        return logits - logits.amin(1, keepdim=True)


def _identity(
    classes: int, generator: torch.Generator, *, std: float = 0.01
) -> ContextModule:
    module = ContextModule(classes)
    module.reset_parameters(std=std, generator=generator)
    return module


def _lifted(classes: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(Lifted(), _identity(classes, generator))


def _random(classes: int, generator: torch.Generator, *, start: str) -> ContextModule:
    return initialised(start, classes=classes, generator=generator)


STARTS: Mapping[str, Callable[[int, torch.Generator], nn.Module]] = {
    "identity": _identity,
    "identity without noise": partial(_identity, std=0.0),
    "identity on lifted logits": _lifted,
    **{
        start: partial(_random, start=start)
        for start in ("orthogonal", "He's", "PyTorch's default")
    },
}


def real_starts(
    front: Path,
    /,
    *,
    data: str = "camvid",
    seeds: int = 3,
    steps: int = 1000,
    out: Path = Path("book/results/evidence.json"),
) -> None:
    """Train basic modules from each start on real logits; add a record for each.

    Every start is trained with Adam and with SGD, at three learning rates, and scored
    on val and on test; of a training that diverged the record says so. The first record
    counts the cells without a logit above 0, in which the identity loses everything. A
    training whose record is in the file is not repeated.

    Raises as :class:`~dilated_lib.experiments.stored_logits.FrontEnd` does.

    Args:
        front: The trained network whose front end it is.
        data: A data set with the network's classes.
        seeds: Trainings of each start, with the seeds 0, 1, …
        steps: Steps of training, eight maps each.
        out: The file of records to add to.
    """
    asked = FrontEnd(front, data)
    weights = asked.weights()
    stored = {split: asked.logits(split) for split in ("train", "val", "test")}
    recorder = Recorder(out, keep=True)
    about = {"data": asked.data.name, "front": asked.digest}
    name = f"evidence/start/{asked.data.name}"
    if not recorder.has(f"{name}/front end", config=about):
        with recorder.record(f"{name}/front end", config=about) as metrics:
            for split in ("val", "test"):
                cells = [one.flatten(1) for one in stored[split].maps]
                metrics[split] = largest(torch.cat(cells, 1)[None])
    for seed, optimizer, start in product(range(seeds), RATES, STARTS):
        for rate in RATES[optimizer]:
            experiment = f"{name}/{optimizer}/{start}"
            config = {**about, "steps": steps, "learning_rate": rate}
            if recorder.has(experiment, seed=seed, config=config):
                continue
            with recorder.record(experiment, seed=seed, config=config) as metrics:
                generator = torch.Generator().manual_seed(seed)
                module = STARTS[start](len(asked.classes), generator)
                losses = fit(
                    module,
                    stored["train"],
                    weights=weights,
                    steps=steps,
                    learning_rate=rate,
                    optimizer=OPTIMIZERS[optimizer],
                    generator=generator,
                )
                metrics["diverged"] = not np.isfinite(losses).all()
                if metrics["diverged"]:
                    continue
                metrics["loss"] = round(float(np.mean(losses[-100:])), 4)
                for split in ("val", "test"):
                    found = measure(module, stored[split], asked.classes).compute()
                    metrics[split] = {"miou": found.miou, "accuracy": found.accuracy}
