"""Training: one loop for the paper's three stages, from scratch, and for baselines."""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor
from tqdm import tqdm

from dilated_lib.data.batches import batches
from dilated_lib.data.labelled import Sample
from dilated_lib.networks.architecture import save_network
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.networks.weights import file_state
from dilated_lib.prediction.metric import evaluate, evaluate_both
from dilated_lib.prediction.segmentation import probabilities
from dilated_lib.records import Record, device_name, peak_gib, write
from dilated_lib.training import checkpoints
from dilated_lib.training.config import Config
from dilated_lib.training.first_batch import check_start
from dilated_lib.training.optimizer import learning_rate
from dilated_lib.training.setup import Run, begin, launch, torch_settings

__all__ = ["train"]


def train(
    config: Config,
    out: str | Path,
    *,
    experiment: str = "run",
    deadline: float | None = None,
    progress: bool = False,
) -> Record | None:
    """Train a network into a folder; the same call again goes on where it stopped.

    The folder gets checkpoints, a TensorBoard log, and in the end network.safetensors
    (a baseline's weights are not kept) and record.json, whose record is returned. It
    runs on the GPU where there is one, and in all processes that torchrun starts, of
    which the first returns the record.

    Everything that is drawn depends on the seed and the step alone. So a run that was
    killed ends, on one device and with ``deterministic``, in the same bits.

    Raises ValueError for what a start check finds, for a loss that is not finite, for
    data that changed since the run began, and for a folder that is the working folder,
    another run's, or in use; OSError if the folder cannot be written; else as the data
    set and the files do.

    Args:
        config: What is trained, on what, and how.
        out: The folder of the run.
        experiment: What the record calls the run.
        deadline: When to stop, in the time of ``time.monotonic``. Past it a checkpoint
            is written, and None is returned.
        progress: Show a bar with the loss and, once it is known, the validation score.

    >>> from tempfile import TemporaryDirectory
    >>> small = {"width": 4, "fc_channels": 8, "cells": (2, 3), "pictures": 2}
    >>> config = Config().changed(data="shapes", steps=2, batch=2, **small)
    >>> with TemporaryDirectory() as folder:
    ...     record = train(config, Path(folder))
    >>> len(record.metrics["loss"])
    2
    """
    given, out = out, Path(out)
    if out.resolve() == Path.cwd():
        raise ValueError(
            "a run needs a folder of its own, not the working folder, got "
            f"{str(given)!r}"
        )
    with (
        checkpoints.one_run_at_a_time(out),
        torch_settings(config.deterministic),
        torch.random.fork_rng(devices=()),
    ):
        if (record := checkpoints.finished(config, out)) is not None:
            return record
        logger = TensorBoardLogger(out, name="log", version="")
        try:
            fabric = launch(config, logger)
            _seed(config.seed, 0)  # for new weights
            run = begin(config, fabric, out, progress)
            whole = _train(run, experiment, deadline)
            return _finish(run, experiment) if whole else None
        finally:
            logger.finalize("")


def _train(run: Run, experiment: str, deadline: float | None) -> bool:
    """Take the steps that are left; return False if the deadline came first.

    Two things are not as plain as one might write them. A loss is read a step late,
    because the program waits for the GPU when it reads, and then the GPU should have
    the next step's work. And the loss is a sum over the pixels of all processes, which
    is divided by the weight of all: the mean of their means would be another loss.
    """
    config, fabric, stage, optimizer = run.config, run.fabric, run.stage, run.optimizer
    loader = batches(
        run.split("train"),
        config.batch,
        seed=config.seed,
        steps=range(run.step, config.steps),
        part=fabric.global_rank,
        parts=fabric.world_size,
        workers=config.workers,
    )
    quiet = not run.progress or fabric.global_rank > 0
    bar = tqdm(loader, experiment, config.steps, initial=run.step, disable=quiet)
    gpu = fabric.device.type == "cuda"
    crops_stream = torch.cuda.Stream() if gpu else None  # type: ignore[no-untyped-call]
    unread: list[tuple[int, Tensor, list[int]]] = []
    score = ""
    since = time.monotonic()
    begun = since - run.seconds
    for indices, samples in bar:
        run.waited += time.monotonic() - since

        # the batch
        images, labels = _crops(run, samples, crops_stream)
        if run.step == 0:
            check_start(stage, images, labels, config)

        # the schedule
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * learning_rate(config, run.step)

        # the loss
        stage.train()
        # crops have one size, for which cuDNN may look for the fastest way
        torch.backends.cudnn.benchmark = not config.deterministic
        _seed(config.seed, 2, run.step, fabric.global_rank)  # for dropout
        weight: Any = fabric.all_reduce(stage.weight(labels), reduce_op="sum")
        # gradients are averaged over processes: times their number is the sum
        loss = run.module(images, labels) * (fabric.world_size / weight.clamp(1e-6))

        # the step
        optimizer.zero_grad()
        fabric.backward(loss)
        if config.recipe.clip is not None:
            fabric.clip_gradients(
                run.module,  # type: ignore[arg-type]
                optimizer,
                max_norm=config.recipe.clip,
                error_if_nonfinite=False,
            )
        optimizer.step()
        mean: Any = fabric.all_reduce(loss.detach(), reduce_op="mean")
        unread.append((run.step, mean, indices))
        run.step += 1

        # the checkpoint, for which all losses are read: none lies behind a bad one
        last = run.step == config.steps
        # of all processes the first one's clock counts
        late = deadline is not None and fabric.broadcast(time.monotonic() > deadline)
        saves = last or late or run.step % config.checkpoint_every == 0
        while len(unread) > (0 if saves else 1):
            _read_loss(run, *unread.pop(0))
        run.seconds = time.monotonic() - begun
        if saves:
            _save(run)
        if late and not last:
            return False

        # the validation
        if config.validate_every and run.step % config.validate_every == 0 and not last:
            score = _validate(run)
        if run.losses:
            bar.set_postfix_str(f"loss {run.losses[-1]:.3f}{score}", refresh=False)
        since = time.monotonic()
    return True


def _seed(*numbers: int) -> None:
    """Seed torch from whole numbers: the run's seed, what for, the step, the place."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _crops(
    run: Run, samples: list[Sample], stream: torch.cuda.Stream | None
) -> tuple[Tensor, Tensor]:
    """Return a step's images and labels: mirrored, scaled and cropped at random.

    Each crop is seeded by its step and its place in the batch. On a GPU they are
    prepared in a stream of their own, while the step before is still computed.
    """
    first = run.fabric.global_rank * len(samples)
    pairs = []
    with torch.cuda.stream(stream):
        for place, sample in enumerate(samples, first):
            _seed(run.config.seed, 1, run.step, place)
            pairs.append(run.augment(*run.fabric.to_device(sample)))
        images = torch.stack([image for image, _ in pairs]).float()
        labels = torch.stack([label for _, label in pairs])
    if stream:
        now = torch.cuda.current_stream()
        now.wait_stream(stream)
        images.record_stream(now)
        labels.record_stream(now)
    return images, labels


def _read_loss(run: Run, step: int, loss: Tensor, indices: list[int]) -> None:
    """Read a step's loss from the device. Raises ValueError if it is not finite."""
    value = loss.item()
    if not np.isfinite(value):
        pictures = run.data.split("train")
        names = [pictures.name(index) for index in indices]  # type: ignore[attr-defined]
        raise ValueError(
            f"the loss of step {step} is {value}; its pictures were "
            f"{', '.join(names)}. Checkpoints before it are kept. A smaller "
            "learning rate may help"
        )
    run.losses.append(round(value, 4))
    if step % 10 == 0:
        rate = run.optimizer.param_groups[0]["base"] * learning_rate(run.config, step)
        run.fabric.log_dict({"loss": value, "learning_rate": rate}, step)


def _save(run: Run) -> None:
    """Write a checkpoint; the first process does it, and the others wait."""
    if run.fabric.global_rank == 0:
        state = {
            **run.identity,
            "step": run.step,
            "seconds": run.seconds,
            "waited": run.waited,
            "losses": run.losses,
            "network": file_state(run.stage.network),
            "optimizer": run.optimizer.state_dict(),
            "precision": run.fabric.strategy.precision.state_dict(),
        }
        checkpoints.write_checkpoint(run.out / "checkpoints", run.step, state)
    run.fabric.barrier()


def _measure(run: Run, split: str, measure: Callable[..., Any]) -> Any:
    """Measure the network on a split, in float32; a GPU may use TF32."""
    torch.backends.cudnn.benchmark = False  # pictures differ in size
    network = run.stage.network
    return measure(
        partial(probabilities, network, scale=network.scale),
        run.split(split),
        tuple(run.data.palette),
        device=run.fabric.device,
        workers=run.config.workers,
        progress=run.progress,
    )


def _validate(run: Run) -> str:
    """Log scores and four label maps of the validation split; return what the bar says.

    The first process does it, and the others wait.
    """
    score = ""
    if run.fabric.global_rank == 0:
        scores, network = asdict(_measure(run, "val", evaluate)), run.stage.network
        score = f", validation {scores['miou']:.1f} mean IoU"
        logged = {f"val/{key}": scores[key] for key in ("miou", "accuracy")}
        run.fabric.log_dict(logged, run.step)
        colours = torch.tensor([*run.data.palette.values()], dtype=torch.uint8)
        pictures = run.split("val")
        for index in range(min(4, len(pictures))):  # type: ignore[arg-type]
            picture, _ = pictures[index]
            images = picture[None].to(run.fabric.device)
            answer = probabilities(network, images, scale=network.scale)
            labels = colours[answer[0].argmax(0).cpu()].permute(2, 0, 1)
            run.fabric.logger.experiment.add_image(  # type: ignore[attr-defined]
                f"val/{index}", torch.cat([picture, labels], 2), run.step
            )
    run.fabric.barrier()
    return score


def _finish(run: Run, experiment: str) -> Record | None:
    """Measure the network, write it and its record; the first process returns that.

    Checkpoints go last: of large networks they are gigabytes, but until the record is
    written they are all there is.
    """
    record = None
    if run.fabric.global_rank == 0:
        config, network = run.config, run.stage.network
        metrics: dict[str, Any] = {}
        for split in ("val", "test") if config.test else ("val",):
            alone, averaged = _measure(run, split, evaluate_both)
            metrics[split], metrics[f"{split}_flip"] = asdict(alone), asdict(averaged)
        part = -(-len(run.losses) // 50)
        metrics["loss"] = [
            round(float(np.mean(run.losses[first:][:part])), 4)
            for first in range(0, len(run.losses), part)
        ]
        metrics["waited"] = round(100 * run.waited / run.seconds, 1)
        metrics["peak_gib"] = peak_gib(run.fabric.device)
        if isinstance(network, DilatedNetwork):
            save_network(network, config.architecture, run.out / "network.safetensors")
        record = Record(
            experiment=experiment,
            seed=config.seed,
            config=run.identity["config"],
            metrics=metrics,
            seconds=round(run.seconds, 1),
            device=device_name(run.fabric.device),
            data=run.identity["data"],
        )
        write(run.out / "record.json", [record])
        checkpoints.remove_checkpoints(run.out / "checkpoints")
    run.fabric.barrier()
    return record
