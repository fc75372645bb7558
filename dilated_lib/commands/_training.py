"""Training: a run, and the plan of all that the book reports."""

from pathlib import Path
from typing import Literal

import tyro

from dilated_lib.commands._errors import one_sentence
from dilated_lib.recipes import MODERN, PAPER, Config

__all__ = ["changes", "plan", "throughput", "train"]

_Config = tyro.extras.subcommand_type_from_defaults(
    {
        "modern": Config(recipe=MODERN),
        "paper": Config(recipe=PAPER, scale=4 / 3, steps=20_000),
    },
    descriptions={
        "modern": "AdamW, half a cosine, loss at all pixels, scale and colour drawn",
        "paper": "SGD, constant rate, loss at cells, mirror and crop alone",
    },
)


def train(
    out: Path,
    /,
    config: tyro.conf.OmitArgPrefixes[_Config],  # type: ignore[valid-type]
    *,
    experiment: str = "own/run",
) -> None:
    """Train a network into a folder: the paper's three stages, and from scratch.

    First the recipe, modern or paper, then what is to be otherwise than in it: train
    RUN modern --data camvid --steps 500. The same command again goes on from the last
    checkpoint. On several GPUs: torchrun --nproc-per-node 2 -m dilated_lib train ...
    The folder gets checkpoints, a TensorBoard log (tensorboard --logdir RUN), the
    network and a record. Exit code 2, with one sentence, where something does not fit.

    Args:
        out: The folder of the run.
        config: The recipe, and what is otherwise.
        experiment: What the record calls the run.
    """
    from dilated_lib import training

    with one_sentence():
        done = training.train(config, out, experiment=experiment, progress=True)
    if done:
        for split in ("val", "test"):
            if split in done.metrics:
                print(f"{split}: {done.metrics[split]['miou']:.1f} mean IoU")


def plan(
    tier: str | None = None,
    /,
    *,
    weights: Literal["imagenet"] | Path = "imagenet",
    runs: Path = Path("runs"),
    out: Path = Path("book/results"),
    minutes: float = 0,
    rehearse: bool = False,
    progress: bool = True,
) -> None:
    """Train what the book reports, tier by tier; without a tier, list it and its cost.

    A run that is done is not done again, and one that was stopped goes on.

    Args:
        tier: Which part of the plan, or all.
        weights: VGG-16's convolutions for BGR pixels; imagenet downloads torchvision's.
        runs: The folder of runs, with their checkpoints.
        out: The folder of records.
        minutes: Stop after so many minutes, with a checkpoint; 0 for no limit.
        rehearse: A narrow network, eight pictures and two steps for each run, to see
            that the plan runs.
        progress: Show bars.
    """
    from dilated_lib import plans

    if tier is None:
        for name, what in plans.TIERS.items():
            rows = [one for one in plans.planned() if one.tier == name]
            minutes = sum(one.minutes for one in rows)
            print(f"{name:10} {len(rows):3} runs {minutes:5.0f} min on an H100  {what}")
        return
    with one_sentence():
        plans.execute(
            tier,
            weights=weights,
            runs=runs,
            out=out,
            minutes=minutes,
            rehearse=rehearse,
            progress=progress,
        )


def changes(
    out: Path = Path("book/results/changes.json"),
    /,
    *,
    data: str = "camvid",
    weights: Path | None = None,
    every: int = 4,
) -> None:
    """Compare a network with its own front end, pixel by pixel; chapter 13 shows it.

    On val and on test, as a whole and drive by drive.

    Args:
        out: The file of records to write.
        data: The data set.
        weights: A network that was trained jointly; the small one by default.
        every: Keep every so many rows and columns of the label maps.
    """
    from dilated_lib import changes as module

    with one_sentence():
        module.changes(out, data=data, weights=weights, every=every)


def throughput(
    out: Path = Path("book/results/throughput.json"),
    /,
    *,
    batch: int = 8,
    cells: tuple[int, int] = (66, 66),
    compiled: bool = False,
    small: bool = False,
) -> None:
    """Time training steps beside a matrix product and a peer; write records.

    Args:
        out: The file of records to write.
        batch: Crops in a step.
        cells: Height and width of a crop in cells of 8 pixels.
        compiled: Compile the networks with torch.compile.
        small: Narrow networks and small matrices, to see that it runs.
    """
    from dilated_lib import throughput as module

    module.throughput(out, batch=batch, cells=cells, compiled=compiled, small=small)


def speed(
    out: Path = Path("book/results/speed_cpu.json"),
    /,
    *,
    seconds: float = 0.5,
    rounds: int = 3,
    data: str | None = None,
    small: bool = False,
) -> None:
    """Time dilated layers and the paper's networks side by side; chapter 07 shows it.

    Args:
        out: The file of records to write.
        seconds: How long to time each of the things compared, in each round.
        rounds: How often to measure all of it; the records have medians and ranges.
        data: A data set; count on how many of its validation pixels bfloat16 changes
            the small network's label.
        small: Narrow layers and networks, to see that it runs.
    """
    from dilated_lib import comparisons

    with one_sentence():
        comparisons.speed(out, seconds=seconds, rounds=rounds, data=data, small=small)
