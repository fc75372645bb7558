"""How far do context modules see, and do they use it? The record of chapter 10.

A module can use a cue only if its receptive field reaches it. So the accuracy has to
break off at the edge of the field, and a hole in the field has to cost something. Two
stacks are as deep as each other, so that depth can be told from reach.
"""

from math import inf
from pathlib import Path

import numpy as np
import torch

from dilated_lib.data.shapes import Shapes
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.shape_training import (
    Maps,
    accuracies,
    deepened,
    fit,
    front_end,
)
from dilated_lib.fields.arithmetic import compose
from dilated_lib.networks.context import ContextModule

__all__ = ["reach"]

STACKS = {  # their dilations, and how many 1 × 1 layers stand behind them
    "1,1,1,1,1": ((1, 1, 1, 1, 1), 0),
    "1,1,2,2,1": ((1, 1, 2, 2, 1), 0),
    "1,1,2,4,1": ((1, 1, 2, 4, 1), 0),
    "1,2,4,4,1": ((1, 2, 4, 4, 1), 0),
    "1,2,4,8,1": ((1, 2, 4, 8, 1), 0),
    "2,2,2,2,2": ((2, 2, 2, 2, 2), 0),  # holes
    "1,1,1,1,1,1,1,1,1": ((1,) * 9, 0),
    "1,1,2,4,1 + four 1x1": ((1, 1, 2, 4, 1), 4),  # as deep as the one above
}


def reach(
    out: Path = Path("book/results/reach.json"),
    /,
    *,
    seeds: int = 5,
    steps: int = 1500,
    learning_rate: float = 0.001,
    scenes: int = 512,
    test_scenes: int = 200,
    size: int = 52,
) -> None:
    """Train context modules of different reach on shapes; record accuracy by distance.

    The long version of chapter 10. Every module learns to label blank rectangles whose
    class can be told only by their outline. One record is written for each module and
    seed: the percentage of pixels labelled rightly at every distance from the outline.
    It is measured on scenes of the test split, none of which is a training scene.

    Args:
        out: The file of records to write.
        seeds: Trainings of each module, with the seeds 0, 1, …
        steps: Steps of training, each on two scenes in all seven colours.
        learning_rate: The largest, of Adam's; it rises and falls once.
        scenes: Scenes to train on.
        test_scenes: Scenes to measure on; pixels at distance 20 must be among them.
        size: Height and width of a picture in pixels.
    """
    if seeds < 1 or not 0 < learning_rate < inf:
        raise ValueError(
            "seeds must be at least 1, and learning_rate a number above 0, got "
            f"{seeds} and {learning_rate}"
        )
    config = {
        "steps": steps,
        "learning_rate": learning_rate,
        "scenes": scenes,
        "test_scenes": test_scenes,
        "size": size,
    }
    train = Maps.of(Shapes(scenes, size=size))
    test = Maps.of(Shapes(test_scenes, size=size, seed=1, split="test"))
    front = front_end(train, generator=torch.Generator().manual_seed(0))
    train, test = train.through(front), test.through(front)
    recorder = Recorder(out)
    for name, (dilations, pointwise) in STACKS.items():
        for seed in range(seeds):
            with recorder.record(f"reach/{name}", seed=seed, config=config) as metrics:
                generator = torch.Generator().manual_seed(seed)
                module = ContextModule(len(Shapes.classes), dilations=dilations)
                module.reset_parameters(generator=generator)
                network = deepened(module, pointwise, generator=generator)
                losses = fit(
                    network,
                    train,
                    steps=steps,
                    learning_rate=learning_rate,
                    generator=generator,
                )
                correct = accuracies(network, test, farthest=20)
                metrics["receptive_field"] = compose(module.windows).size
                metrics["loss"] = round(float(np.mean(losses[-50:])), 4)
                metrics["accuracy_by_distance"] = [round(100 * c, 2) for c in correct]
