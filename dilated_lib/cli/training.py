"""Training: a run, and the plan of all that the book reports."""

import sys
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Literal

import tyro

from dilated_lib.cli.errors import one_sentence
from dilated_lib.cli.scores import rows
from dilated_lib.records import Record
from dilated_lib.training.config import MODERN, PAPER, Config

__all__ = ["plan", "throughput", "train"]

_FEW = 10  # means of losses; fewer may lie above that of guessing by chance

_Config = tyro.extras.subcommand_type_from_defaults(
    {
        "modern": Config(recipe=MODERN),
        "paper": Config().changed(recipe=PAPER, scale=4 / 3, steps=20_000),
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
    network and a record. In the end the IoU of each class is printed, and a warning if
    classes are never predicted or the loss stays above that of guessing. Exit code 2,
    with one sentence, where something does not fit.

    Args:
        out: The folder of the run.
        config: The recipe, and what is otherwise.
        experiment: What the record calls the run.
    """
    from dilated_lib.training import loop

    with one_sentence(goes_on=True):
        done = loop.train(config, out, experiment=experiment, progress=True)
    if done:
        splits = [name for name in ("val", "test") if name in done.metrics]
        print(f"{'IoU in percent':14}" + "".join(f" {name:>6}" for name in splits))
        print(*rows(*(done.metrics[name] for name in splits)), sep="\n")
        for sentence in _doubts(done, config):
            print(sentence, file=sys.stderr)


def _doubts(done: Record, config: Config) -> Iterator[str]:
    """Say what is wrong with a run that ended, although no step of it failed."""
    from dilated_lib.training.first_batch import guessing_loss

    classes = done.metrics["val"]["per_class"]
    if missed := [name for name, value in classes.items() if value == 0]:
        yield (
            f"IoU 0.0 on the validation pictures: {', '.join(missed)}. The network "
            "never predicts them, or hardly ever where they are."
        )
    losses, guess = done.metrics["loss"], guessing_loss(config, len(classes))
    late = losses[len(losses) // 2 :]
    if len(late) >= _FEW and min(late) > guess:
        yield (
            f"The loss stays above {guess:.2f}, that of equal probabilities (ln C), so "
            "the network is worse than guessing. A smaller --learning-rate may help."
        )


def plan(
    tier: str | None = None,
    /,
    *,
    next: bool = False,  # noqa: A002  # the option's name
    weights: Literal["imagenet"] | Path = "imagenet",
    runs: Path = Path("runs"),
    out: Path = Path("book/results"),
    minutes: float = 0,
    rehearse: bool = False,
    progress: bool = True,
) -> None:
    """Train what the book reports; without a tier, list every run and its cost.

    The list has each tier's question, and for each run the TFLOP of its training, the
    hours that they take at this machine's rate, which is measured for the list, and how
    far it is. A run that is done is not done again, and one that was stopped goes on.

    Args:
        tier: Which part of the plan, or all.
        next: Only the next run that waits for nothing, of the tier or of all.
        weights: VGG-16's convolutions for BGR pixels; imagenet downloads torchvision's.
        runs: The folder of runs, with their checkpoints and networks.
        out: The folder of records.
        minutes: Stop after so many minutes, with a checkpoint; 0 for no limit.
        rehearse: A narrow network, eight pictures and two steps for each run, to see
            that the plan runs.
        progress: Show bars.
    """
    from dilated_lib.experiments import plan

    if tier is None and not next:
        return _list(runs)
    with one_sentence(goes_on=True):
        if not 0 <= minutes < inf:
            raise ValueError(f"minutes must be 0 or more, and finite, got {minutes}")
        if next:
            one = plan.next_run(tier or "all", runs=runs, weights=weights)
            if one is None:
                return print("nothing is left to do")
            print(f"{one.name}, seed {one.config.seed}: {plan.state(one, runs)}")
            deadline = time.monotonic() + 60 * minutes if minutes else None
            plan.carry_out(
                one,
                runs=runs,
                out=out,
                deadline=deadline,
                rehearse=rehearse,
                progress=progress,
            )
            return print(f"now: {plan.state(one, runs)}")
        assert tier is not None
        plan.execute(
            tier,
            weights=weights,
            runs=runs,
            out=out,
            minutes=minutes,
            rehearse=rehearse,
            progress=progress,
        )


def _list(runs: Path) -> None:
    """Every run of the plan: TFLOP, hours on this machine, state."""
    from dilated_lib.experiments import plan

    rate = plan.rate() / 1e12
    print(f"{rate:.2f} TFLOP/s in a training step of the padded front end, here")
    print(f"{'run':46}{'seed':>5}{'TFLOP':>9}{'hours':>8}  state")
    question, costs = "", {}
    for one in plan.planned():
        if question != plan.TIERS[one.tier]:
            question = plan.TIERS[one.tier]
            print(f"\n{one.tier}: {question}")
        if one.name not in costs:
            costs[one.name] = one.tflop
        cost, hours = costs[one.name], costs[one.name] / rate / 3600
        row = f"{one.name:46}{one.config.seed:>5}{cost:>9.0f}{hours:>8.1f}"
        print(f"{row}  {plan.state(one, runs)}")


def throughput(
    out: Path = Path("book/results/throughput.json"),
    /,
    *,
    compiled: bool = False,
) -> None:
    """Time training steps of the plan beside a matrix product; write records.

    On a CPU the front end that pads zeros, and the one that reads a margin, for as many
    labelled pixels. On a GPU the front end from ImageNet and DeepLab v3.

    Args:
        out: The file of records to write.
        compiled: Compile the networks with torch.compile.
    """
    import torch

    from dilated_lib.experiments import plan
    from dilated_lib.experiments import throughput as module

    gpu = torch.cuda.is_available()
    runs = {one.name: one.config for one in plan.planned()}
    names = ("imagenet/front", "scratch/deeplabv3_resnet50")
    configs = {name: runs[f"camvid/{name}"] for name in names}
    if not gpu:
        zeros = runs["camvid/imagenet/padded front"]
        configs = {"zeros": zeros, "margin": zeros.changed(padding="none")}
    with one_sentence():
        module.throughput(out, configs, compiled=compiled, side=8192 if gpu else 4096)
