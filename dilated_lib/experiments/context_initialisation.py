"""How should a context module start? Ways to begin, each at its best learning rate.

The task is that of :mod:`~dilated_lib.experiments.shape_training`: a front end that
sees one pixel, and a context module on its stored logits. Both are trained with the
same optimizer, Adam or SGD with momentum. Before the first step, the identity passes on
max(x, 0) of the logits, so this module also counts the cells without a logit above 0:
there it loses which class was ahead.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilated_lib.data.sets import open_data
from dilated_lib.data.shapes import Shapes
from dilated_lib.experiments import stored_logits
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.shape_training import FRONT_ENDS, Maps, fit, front_end
from dilated_lib.networks.architecture import small_network
from dilated_lib.networks.context import ContextModule

__all__ = ["STARTS", "initialised", "judge", "largest", "measure"]

EVALUATED = 50  # scenes to choose the rate on, and to report
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)

Fill = Callable[[nn.Conv2d, torch.Generator], None]
Splits = Mapping[str, Maps]


def _pytorch(layer: nn.Conv2d, generator: torch.Generator) -> None:
    """Draw weight and bias as ``nn.Conv2d`` does, but from a generator."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(layer.weight[0].numel())
    assert layer.bias is not None
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def _zero_bias(
    layer: nn.Conv2d,
    generator: torch.Generator,
    *,
    weight: Callable[..., Tensor],
    **how: Any,
) -> None:
    """Draw the weight by a function of ``nn.init``; the bias is 0."""
    weight(layer.weight, generator=generator, **how)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


_RANDOM: Mapping[str, Fill] = {
    "orthogonal": partial(_zero_bias, weight=nn.init.orthogonal_, gain=math.sqrt(2)),
    "He's": partial(_zero_bias, weight=nn.init.kaiming_normal_, nonlinearity="relu"),
    "Glorot's": partial(_zero_bias, weight=nn.init.xavier_normal_),
    "PyTorch's default": _pytorch,
    "small noise": partial(_zero_bias, weight=nn.init.normal_, std=0.01),
}
STARTS = ("identity", *_RANDOM)


def initialised(
    start: str, *, classes: int = len(Shapes.classes), generator: torch.Generator
) -> ContextModule:
    """Build a basic context module, for the shapes by default, from one of STARTS.

    - identity: eq. 4 of the paper, with the released code's noise of 0.01;
    - orthogonal: the rows of each layer's weight matrix are orthogonal, of norm √2;
    - He's: N(0, 2/n) for units of n inputs, so that a ReLU does not shrink the signal;
    - Glorot's: N(0, 2/(n + m)) with m weights on each input; here n = m;
    - PyTorch's default: uniform with variance 1/(3n), weights and biases;
    - small noise: N(0, 0.01²), which Krizhevsky et al. used.

    The biases are 0, except for PyTorch's default.

    >>> module = initialised("identity", generator=torch.Generator().manual_seed(0))
    >>> round(module.layers[0].weight[3, 3, 1, 1].item(), 2)
    1.0
    """
    module = ContextModule(classes)
    if start == "identity":
        module.reset_parameters(generator=generator)
        return module
    for layer in module.layers:
        assert isinstance(layer, nn.Conv2d)
        _RANDOM[start](layer, generator)
    return module


def judge(logits: Tensor, data: Maps) -> dict[str, float]:
    """Return the loss of logits (N, C, H, W), and the percentage of right labels.

    ``accuracy`` counts all pixels, ``inside`` the shapes' blank ones, which are not on
    the outline. A network that does not see the outline labels at most one in seven of
    these rightly.

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
    recorder = Recorder(out)
    if data is not None:
        config: dict[str, Any] = {"data": data, "network": "small"}
        with recorder.record("starts/small network", config=config) as metrics:
            metrics.update(_small_network(data))
    splits = {"train": Maps.of(Shapes(scenes))}
    splits["val"] = unseen(Maps.of(Shapes(EVALUATED, seed=1)), splits["train"])
    splits["test"] = Maps.of(Shapes(EVALUATED, split="test"))
    for optimizer, (taken, rate) in FRONT_ENDS.items():
        stored = []
        config = {"scenes": scenes, "steps": taken, "learning_rate": rate}
        name = f"starts/{optimizer}/front end"
        for seed in range(seeds):
            with recorder.record(name, seed=seed, config=config) as metrics:
                draw = torch.Generator().manual_seed(seed)
                front = front_end(splits["train"], optimizer=optimizer, generator=draw)
                stored.append({of: maps.through(front) for of, maps in splits.items()})
                metrics.update(_of_front_end(stored[seed]))
        for start in STARTS:
            inside = {}
            for rate in LEARNING_RATES:
                config = {"scenes": scenes, "steps": steps, "learning_rate": rate}
                inside[rate] = _trainings(recorder, stored, optimizer, start, config)
            best = max(inside, key=inside.__getitem__)
            config = {"scenes": scenes, "steps": 4 * steps, "learning_rate": best}
            _trainings(recorder, stored, optimizer, start, config)


def unseen(candidates: Maps, seen: Maps) -> Maps:
    """Return those of the candidates whose scene is not among the seen.

    >>> two = Maps.of(Shapes(2))
    >>> len(unseen(Maps.of(Shapes(3)), two).maps), len(unseen(two, two).maps)
    (7, 0)
    """
    known = {scene.numpy().tobytes() for scene in seen.distances}
    new = [scene.numpy().tobytes() not in known for scene in candidates.distances]
    parts = candidates.maps, candidates.labels, candidates.distances
    return Maps(*(part[torch.tensor(new)] for part in parts))


def _of_front_end(stored: Splits) -> dict[str, Any]:
    """Judge a front end's logits as they are and after max(x, 0); count its cells."""
    return {
        split: {
            "front end": judge(stored[split].maps, stored[split]),
            "max(x, 0)": judge(stored[split].maps.clamp(min=0), stored[split]),
            **largest(stored[split].maps),
        }
        for split in ("val", "test")
    }


def _trainings(
    recorder: Recorder,
    stored: Sequence[Splits],
    optimizer: str,
    start: str,
    config: dict[str, Any],
) -> float:
    """Record a training on each front end's logits; sum up "inside" on validation."""
    total = 0.0
    for seed, maps in enumerate(stored):
        name = f"starts/{optimizer}/{start}"
        with recorder.record(name, seed=seed, config=config) as metrics:
            metrics.update(_trained(maps, optimizer, start, seed, config))
        total += metrics["val"]["inside"]
    return total


def _trained(
    stored: Splits, optimizer: str, start: str, seed: int, config: dict[str, Any]
) -> dict[str, Any]:
    """Train a context module on a front end's logits; return its accuracies."""
    generator = torch.Generator().manual_seed(seed)
    built = initialised(start, generator=generator)
    fit(
        built,
        stored["train"],
        steps=config["steps"],
        learning_rate=config["learning_rate"],
        optimizer=optimizer,
        generator=generator,
    )
    metrics = {}
    for split in ("val", "test"):
        with torch.no_grad():
            found = judge(built(stored[split].maps), stored[split])
        del found["loss"]  # of a training that diverged it is no number
        metrics[split] = found
    return metrics


def _small_network(data: str) -> dict[str, Any]:
    """Count the cells of the small network's front end; score it after max(x, 0)."""
    network, files = small_network(), open_data(data)
    classes = tuple(network.palette)
    files.require_classes(classes)
    metrics: dict[str, Any] = {}
    for split in ("val", "test"):
        logits = stored_logits.store(network, files.split(split), progress=True)
        metrics[split] = largest(torch.stack([*logits.maps]))
        for name, step in (("front end", nn.Identity()), ("max(x, 0)", nn.ReLU())):
            found = stored_logits.measure(step, logits, classes).compute()
            metrics[split][name] = {
                "miou": found.miou,
                "accuracy": found.accuracy,
                "drives": {drive: one.miou for drive, one in found.drives.items()},
            }
    return metrics


def largest(logits: Tensor) -> dict[str, Any]:
    """Count the cells of logits (N, C, …) whose largest logit is not above 0.

    Beside the count stand the least of the largest logits, and the range of the cells'
    mean logits.

    >>> largest(torch.tensor([[[1.0, -1.0], [0.0, -3.0]]]))
    {'cells': 2, 'not above 0': 1, 'least': -1.0, 'mean': [-2.0, 0.5]}
    """
    largest, mean = logits.amax(1), logits.mean(1)
    return {
        "cells": largest.numel(),
        "not above 0": int((largest <= 0).sum()),
        "least": round(largest.min().item(), 4),
        "mean": [round(end.item(), 4) for end in (mean.min(), mean.max())],
    }
