"""Does a context module help behind a front end that is trained already?

A module may gain for three reasons that have nothing to do with a neighbourhood: it has
more layers, it corrects logits that are too sure of themselves, and it may learn where
in a picture a class stands. So the paper's module is compared with others, each of
which can do one of these and sees less. All of them are trained on the stored logits of
the same front end, which does not change: the paper's Table 3, in small.

``book/results/heads.json``, of chapter 13, is an earlier run of this experiment behind
the small network's front end, in float32 throughout. There the modules are called
heads/basic, and so on; "front" is what is called "nothing" here, and "no neighbours"
is "1 x 1". Its ``loss`` is the mean of the last 50 steps, not 100.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.scores_by_drive import DriveMeter
from dilated_lib.experiments.stored_logits import FrontEnd, fit, measure
from dilated_lib.networks.context import ContextModule, identity_
from dilated_lib.records import results

__all__ = ["MODULES", "context", "mistakes"]


class WherePixelsAre(nn.Module):
    """Add to each logit a linear function of its row and column, from −1 to 1.

    A module that sees no neighbours learns with it that the sky is above. The function
    is 0 before training.

    >>> WherePixelsAre(2)(torch.ones(1, 2, 3, 4)).shape
    torch.Size([1, 2, 3, 4])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(2, classes, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits (N, C, h, w), of the same shape."""
        rows, columns = (torch.linspace(-1, 1, side) for side in logits.shape[2:])
        coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        moved: Tensor = logits + self.linear(coordinates[None])
        return moved


def _pointwise(classes: int, generator: torch.Generator) -> nn.Sequential:
    """Build 1 × 1 layers, as many as the basic module has, from the same start."""
    layers: list[nn.Module] = []
    for _ in range(len(ContextModule(classes).layers)):
        layer = nn.Conv2d(classes, classes, 1)
        identity_(layer, classes, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _placed(classes: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(WherePixelsAre(classes), *_pointwise(classes, generator))


def _dilated(classes: int, generator: torch.Generator, **options: Any) -> ContextModule:
    module = ContextModule(classes, **options)
    module.reset_parameters(generator=generator)
    return module


MODULES: dict[str, Callable[[int, torch.Generator], nn.Module]] = {
    "1 x 1": _pointwise,
    "1 x 1 with coordinates": _placed,
    "no dilation": partial(_dilated, dilations=(1,) * 7),
    "no dilation 16": partial(_dilated, dilations=(1, 1, 2, 4, 8, 1)),
    "basic": _dilated,
    "basic, reflection": partial(_dilated, padding_mode="reflect"),
}


def context(
    front: Path | None = None,
    /,
    *,
    data: str,
    seeds: int = 5,
    steps: int = 2000,
    runs: Path = Path("runs"),
    out: Path = Path("book/results/evidence.json"),
) -> None:
    """Train context modules on a front end's logits; add a record for each.

    The logits of all pictures are stored first, those of the training pictures with
    their mirror images. A module whose record is in the file is not trained again, so
    the command goes on where it was stopped. The modules' weights are kept in ``runs``.

    Args:
        front: The trained network whose front end it is; the small one by default.
        data: A data set with the network's classes.
        seeds: Trainings of each module, with the seeds 0, 1, …
        steps: Steps of training, eight maps each.
        runs: The folder of the modules' weights.
        out: The file of records to add to.
    """
    asked = FrontEnd(front or results() / "small.safetensors", data)
    files, classes, weights = asked.data, asked.classes, asked.weights()
    stored = {split: asked.logits(split) for split in ("train", "val", "test")}
    recorder = Recorder(out, keep=True)
    config = {"data": files.name, "front": asked.digest, "steps": steps}
    for seed in range(seeds):
        for name, build in {"nothing": None, **MODULES}.items():
            experiment = f"evidence/context/{files.name}/{name}"
            if recorder.has(experiment, seed=seed, config=config):
                continue
            if build is None and seed:  # there is nothing to draw
                continue
            with recorder.record(experiment, seed=seed, config=config) as metrics:
                module: nn.Module = nn.Identity()
                if build is not None:
                    generator = torch.Generator().manual_seed(seed)
                    module = build(len(classes), generator)
                    losses = fit(
                        module,
                        stored["train"],
                        weights=weights,
                        steps=steps,
                        generator=generator,
                    )
                    metrics["loss"] = round(float(np.mean(losses[-100:])), 4)
                    file = runs / f"{experiment}/{asked.digest}/seed-{seed}.safetensors"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    save_file(module.state_dict(), file)
                for split in ("val", "test"):
                    metrics[split] = _scores(measure(module, stored[split], classes))


def _scores(meter: DriveMeter) -> dict[str, Any]:
    """Return the scores that a record has: by drive, or of objects by mistake."""
    found = asdict(meter.compute())
    if "background" in found["per_class"]:
        del found["drives"]
        found["mistakes"] = mistakes(meter.confusion)
    return found


def mistakes(confusion: Tensor) -> dict[str, float]:
    """Tell two kinds of mistakes apart, of objects on a background, which is class 0.

    In percent of the pixels that are labelled as objects: those that were given to
    "another object"; and the "border", those lost to the background, and those of the
    background that were taken for an object.

    >>> mistakes(torch.tensor([[90, 4, 0], [3, 80, 5], [0, 2, 10]]))
    {'another object': 7.0, 'border': 7.0}
    """
    objects = confusion[1:, 1:].sum() + confusion[1:, 0].sum()
    mixed = confusion[1:, 1:].sum() - confusion[1:, 1:].trace()
    border = confusion[1:, 0].sum() + confusion[0, 1:].sum()
    return {
        "another object": round(100 * (mixed / objects).item(), 2),
        "border": round(100 * (border / objects).item(), 2),
    }
