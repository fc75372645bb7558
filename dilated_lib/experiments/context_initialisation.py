"""How should a context module start? Ways to begin, each at its best learning rate.

The task is that of :mod:`~dilated_lib.experiments.shape_training`: a front end that
sees one pixel, and a context module on its stored logits. Both are trained with one
optimizer, Adam or SGD with momentum. Before the first step, the identity passes on
max(x, 0) of the logits, so this module also counts where that loses the winner: in
cells without a logit > 0.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from dilated_lib.data.shapes import Shapes
from dilated_lib.experiments.shape_training import Maps, descend
from dilated_lib.networks.context import ContextModule
from dilated_lib.records import Record, device_name, write

__all__ = [
    "OPTIMIZERS",
    "STARTS",
    "fit",
    "front_end",
    "initialised",
    "judge",
    "measure",
]

EVALUATED = 50  # scenes to choose the rate on, and to report
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
OPTIMIZERS: Mapping[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "Adam": Adam,
    "SGD": partial(SGD, momentum=0.9),  # the schedule moves it between 0.85 and 0.95
}
_FRONT_ENDS = {"Adam": (150, 0.3), "SGD": (500, 3.0)}  # steps and learning rate
_TWINS = len(Shapes.colours)

Fill = Callable[[nn.Conv2d, torch.Generator], None]


def _pytorch(layer: nn.Conv2d, generator: torch.Generator) -> None:
    """As ``nn.Conv2d`` draws its weight and bias, but from a generator."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(layer.weight[0].numel())
    assert layer.bias is not None
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def _without_bias(fill: Callable[..., Tensor], **how: Any) -> Fill:
    def begin(layer: nn.Conv2d, generator: torch.Generator) -> None:
        fill(layer.weight, generator=generator, **how)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)

    return begin


_RANDOM: Mapping[str, Fill] = {
    "orthogonal": _without_bias(nn.init.orthogonal_, gain=math.sqrt(2)),
    "He's": _without_bias(nn.init.kaiming_normal_, nonlinearity="relu"),
    "Glorot's": _without_bias(nn.init.xavier_normal_),
    "PyTorch's default": _pytorch,
    "small noise": _without_bias(nn.init.normal_, std=0.01),
}
STARTS = ("identity", *_RANDOM)


def initialised(start: str, *, generator: torch.Generator) -> ContextModule:
    """The basic context module for the shapes' classes, initialised by one of STARTS.

    - identity: eq. 4 of the paper, with the released code's noise of 0.01;
    - orthogonal: the rows of each layer's weight matrix are orthogonal, of norm √2;
    - He's: N(0, 2/n) for units of n inputs, so that a ReLU does not shrink the signal;
    - Glorot's: N(0, 2/(n + m)) with m weights on each input; here n = m;
    - PyTorch's default: uniform with variance 1/(3n), weights and biases;
    - small noise: N(0, 0.01²), which Krizhevsky et al. used.

    The biases are 0 but for PyTorch's.

    >>> module = initialised("identity", generator=torch.Generator().manual_seed(0))
    >>> round(module.layers[0].weight[3, 3, 1, 1].item(), 2)
    1.0
    """
    module = ContextModule(len(Shapes.classes))
    if start == "identity":
        module.reset_parameters(generator=generator)
        return module
    for layer in module.layers:
        assert isinstance(layer, nn.Conv2d)
        _RANDOM[start](layer, generator)
    return module


def fit(
    network: nn.Module,
    data: Maps,
    *,
    optimizer: str,
    steps: int,
    learning_rate: float,
    generator: torch.Generator,
) -> list[float]:
    """Train with one of OPTIMIZERS; return the losses.

    All else is as in :func:`~dilated_lib.experiments.shape_training.fit`.

    >>> data, draw = Maps.of(Shapes(2)), torch.Generator().manual_seed(0)
    >>> how = {"optimizer": "SGD", "steps": 5, "learning_rate": 0.1}
    >>> len(fit(nn.Conv2d(3, 8, 1), data, **how, generator=draw))
    5
    """

    def loss() -> Tensor:
        scenes = torch.randint(len(data.maps) // _TWINS, (2, 1), generator=generator)
        chosen = (scenes * _TWINS + torch.arange(_TWINS)).flatten()
        return F.cross_entropy(network(data.maps[chosen]), data.labels[chosen])

    made = OPTIMIZERS[optimizer](network.parameters())
    return descend(made, loss, steps=steps, learning_rate=learning_rate)


def front_end(data: Maps, *, optimizer: str, generator: torch.Generator) -> nn.Conv2d:
    """A 1 × 1 layer that starts at zero, trained with one of OPTIMIZERS.

    150 steps of Adam with a learning rate of 0.3, or 500 of SGD with 3.

    >>> data, draw = Maps.of(Shapes(2)), torch.Generator().manual_seed(0)
    >>> front = front_end(data, optimizer="SGD", generator=draw)
    >>> front.bias.sum().abs().item() < 1e-4
    True
    """
    layer = nn.Conv2d(data.maps.shape[1], len(Shapes.classes), 1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    steps, rate = _FRONT_ENDS[optimizer]
    fit(
        layer,
        data,
        optimizer=optimizer,
        steps=steps,
        learning_rate=rate,
        generator=generator,
    )
    return layer


def judge(logits: Tensor, data: Maps) -> dict[str, float]:
    """The loss of logits (N, C, H, W), and the percentage of pixels labelled rightly.

    ``accuracy`` counts all pixels, ``inside`` the shapes' blank ones, which are not on
    the outline. Who does not see the outline is right on one in seven of these at most.

    >>> data = Maps.of(Shapes(1))
    >>> judge(F.one_hot(data.labels, 8).movedim(-1, 1).float(), data)["inside"]
    100.0
    """
    right = (logits.argmax(1) == data.labels).double()
    return {
        "loss": round(F.cross_entropy(logits, data.labels).item(), 4),
        "accuracy": round(100 * right.mean().item(), 2),
        "inside": round(100 * right[data.distances > 0].mean().item(), 2),
    }


def measure(
    out: Path = Path("book/results/starts.json"),
    /,
    *,
    seeds: int = 5,
    steps: int = 200,
    scenes: int = 256,
    data: str | None = None,
) -> None:
    """Train context modules from different starts; chapter 09 shows the record.

    Each start is trained with Adam and with SGD, on a front end that the same optimizer
    trained, at five learning rates. The rate whose modules are right on most pixels
    inside the shapes of validation scenes is then given four times the steps as well.
    A record is written for each training, with its accuracy on validation scenes, none
    of which it was trained on, and on scenes of the test split. Each front end has a
    record, too: in how many cells no logit is above 0, and what max(x, 0) changes.

    Args:
        out: The file of records to write.
        seeds: Trainings of each start, with the seeds 0, 1, …
        steps: Steps of training, each on two scenes in all seven colours.
        scenes: Scenes to train on.
        data: A data set with the small network's classes, such as camvid. The cells of
            that network's front end are counted on it, too, in the first record.
    """
    done: list[Record] = []

    def keep(records: Iterable[Record]) -> None:
        done.extend(records)
        write(out, done)

    if data is not None:
        keep([_small_network(data)])
    splits = {"train": Maps.of(Shapes(scenes))}
    splits["val"] = unseen(Maps.of(Shapes(EVALUATED, seed=1)), splits["train"])
    splits["test"] = Maps.of(Shapes(EVALUATED, split="test"))
    for optimizer in OPTIMIZERS:
        stored = []
        for seed in range(seeds):
            record, maps = _front_end(splits, optimizer, seed)
            keep([record])
            stored.append(maps)
        for start in STARTS:
            inside = {}
            for rate in LEARNING_RATES:
                runs = [
                    _trained(maps, optimizer, start, seed, steps, rate)
                    for seed, maps in enumerate(stored)
                ]
                keep(runs)
                inside[rate] = sum(run.metrics["val"]["inside"] for run in runs)
            best = max(inside, key=inside.__getitem__)
            keep(
                _trained(maps, optimizer, start, seed, 4 * steps, best)
                for seed, maps in enumerate(stored)
            )


def unseen(candidates: Maps, seen: Maps) -> Maps:
    """Those of the candidates whose scene is not among the seen.

    >>> two = Maps.of(Shapes(2))
    >>> len(unseen(Maps.of(Shapes(3)), two).maps), len(unseen(two, two).maps)
    (7, 0)
    """
    known = {scene.numpy().tobytes() for scene in seen.distances}
    new = [scene.numpy().tobytes() not in known for scene in candidates.distances]
    kept = torch.tensor(new)
    return Maps(
        candidates.maps[kept], candidates.labels[kept], candidates.distances[kept]
    )


Splits = Mapping[str, Maps]


def _front_end(splits: Splits, optimizer: str, seed: int) -> tuple[Record, Splits]:
    """A front end's record, and its logits on the splits."""
    began = time.perf_counter()
    front = front_end(
        splits["train"],
        optimizer=optimizer,
        generator=torch.Generator().manual_seed(seed),
    )
    stored = {split: maps.through(front) for split, maps in splits.items()}
    steps, rate = _FRONT_ENDS[optimizer]
    metrics = {
        split: {
            "front end": judge(stored[split].maps, stored[split]),
            "max(x, 0)": judge(stored[split].maps.clamp(min=0), stored[split]),
            **_largest(stored[split].maps),
        }
        for split in ("val", "test")
    }
    name = f"{optimizer}/front end"
    config = {"scenes": len(splits["train"].maps) // _TWINS, "steps": steps}
    return _record(name, seed, config | {"learning_rate": rate}, metrics, began), stored


def _trained(
    stored: Splits, optimizer: str, start: str, seed: int, steps: int, rate: float
) -> Record:
    """The record of one training on a front end's logits."""
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    built = initialised(start, generator=generator)
    fit(
        built,
        stored["train"],
        optimizer=optimizer,
        steps=steps,
        learning_rate=rate,
        generator=generator,
    )
    with torch.no_grad():
        found = {
            split: judge(built(stored[split].maps), stored[split])
            for split in ("val", "test")
        }
    metrics = {  # the loss of a training that diverged is no number
        split: {name: one[name] for name in ("accuracy", "inside")}
        for split, one in found.items()
    }
    config = {"scenes": len(stored["train"].maps) // _TWINS, "steps": steps}
    name = f"{optimizer}/{start}"
    return _record(name, seed, config | {"learning_rate": rate}, metrics, began)


def _small_network(data: str) -> Record:
    """Of the small network's front end: its cells, and its scores after max(x, 0)."""
    from dilated_lib.data.sets import open_data
    from dilated_lib.experiments.stored_logits import measure as measured
    from dilated_lib.experiments.stored_logits import store
    from dilated_lib.networks.architecture import (
        small_network,  # the shapes need none of these
    )

    began = time.perf_counter()
    network, files = small_network(), open_data(data)
    classes = tuple(network.palette)
    files.require_classes(classes)
    metrics: dict[str, Any] = {}
    for split in ("val", "test"):
        logits = store(network, files.split(split), progress=True)
        metrics[split] = _largest(torch.stack([*logits.maps]))
        for name, step in (("front end", nn.Identity()), ("max(x, 0)", nn.ReLU())):
            found = measured(step, logits, classes).compute()
            metrics[split][name] = {
                "miou": found.miou,
                "accuracy": found.accuracy,
                "drives": {drive: one.miou for drive, one in found.drives.items()},
            }
    config = {"data": data, "network": "small"}
    return _record("small network", 0, config, metrics, began)


def _largest(logits: Tensor) -> dict[str, Any]:
    """In how many cells the largest logit is not above 0; the least of the largest.

    Beside them the least and the largest of the cells' mean logits.
    """
    largest, mean = logits.amax(1), logits.mean(1)
    return {
        "cells": largest.numel(),
        "not above 0": int((largest <= 0).sum()),
        "least": round(largest.min().item(), 4),
        "mean": [round(end.item(), 4) for end in (mean.min(), mean.max())],
    }


def _record(
    name: str, seed: int, config: dict[str, Any], metrics: dict[str, Any], began: float
) -> Record:
    return Record(
        experiment=f"starts/{name}",
        seed=seed,
        config=config,
        metrics=metrics,
        seconds=round(time.perf_counter() - began, 1),
        device=device_name(torch.device("cpu")),
    )
