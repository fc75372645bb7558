"""The command line: ``python -m dilated_lib COMMAND``, with ``--help`` for each."""

import time
from pathlib import Path

import torch
import tyro

from dilated_lib.arithmetic import compose
from dilated_lib.context import ContextModule
from dilated_lib.data.shapes import Shapes
from dilated_lib.reach import Maps, accuracies, fit, front_end
from dilated_lib.records import Record, device_name, write


def reach(
    out: Path = Path("book/results/reach.json"),
    /,
    *,
    seeds: int = 5,
    steps: int = 1500,
    learning_rate: float = 0.003,
    scenes: int = 512,
    size: int = 52,
) -> None:
    """Train context modules of different reach on shapes; record accuracy by distance.

    The long version of chapter 10. Every module learns to label blank rectangles whose
    class only their outline tells. A record is written for each module and seed: the
    share of right pixels at every distance from the outline, on scenes of their own.

    Args:
        out: The file of records to write.
        seeds: Trainings of each module, with the seeds 0, 1, …
        steps: Steps of training, two scenes in all seven colours each.
        learning_rate: The largest, of Adam's; it rises and falls once.
        scenes: Scenes to train on.
        size: Height and width of a picture in pixels.
    """
    config = {
        "steps": steps,
        "learning_rate": learning_rate,
        "scenes": scenes,
        "size": size,
    }
    train, test = (
        Maps.of(Shapes(count, size=size, seed=seed))
        for seed, count in ((0, scenes), (1, 200))
    )
    front = front_end(train, generator=torch.Generator().manual_seed(0))
    train, test = train.through(front), test.through(front)
    done = []
    for dilations in STACKS:
        for seed in range(seeds):
            begin = time.perf_counter()
            generator = torch.Generator().manual_seed(seed)
            module = ContextModule(len(Shapes.classes), dilations=dilations)
            module.reset_parameters(generator=generator)
            losses = fit(
                module,
                train,
                steps=steps,
                learning_rate=learning_rate,
                generator=generator,
            )
            shares = accuracies(module, test, farthest=20)
            done.append(
                Record(
                    experiment="reach/" + ",".join(map(str, dilations)),
                    seed=seed,
                    config=config,
                    metrics={
                        "receptive_field": compose(module.windows).size,
                        "loss": round(sum(losses[-50:]) / 50, 4),
                        "accuracy_by_distance": [round(100 * s, 2) for s in shares],
                    },
                    seconds=round(time.perf_counter() - begin, 1),
                    device=device_name(torch.device("cpu")),
                )
            )
            write(out, done)


STACKS = (
    (1, 1, 1, 1, 1),
    (1, 1, 2, 2, 1),
    (1, 1, 2, 4, 1),
    (1, 2, 4, 4, 1),
    (1, 2, 4, 8, 1),
    (2, 2, 2, 2, 2),  # holes
    (1,) * 9,
)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"reach": reach}, description=__doc__)
