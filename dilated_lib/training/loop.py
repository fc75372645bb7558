"""Training: one loop for the paper's three stages, from scratch, and for baselines."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from lightning.fabric import Fabric
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from dilated_lib.data.batches import batches
from dilated_lib.records import Record, read_file
from dilated_lib.training.checkpoints import remove_checkpoints
from dilated_lib.training.config import Config
from dilated_lib.training.run import Run, begin, require_same

__all__ = ["train"]

_PATIENCE = 6  # seconds


def train(
    config: Config,
    out: str | Path,
    *,
    experiment: str = "run",
    deadline: float | None = None,
    progress: bool = False,
) -> Record | None:
    """Train a network into a folder; the same call again goes on where it stopped.

    ``out`` gets checkpoints, a TensorBoard log, and in the end network.safetensors (a
    baseline's weights are not kept) and record.json, whose record is returned;
    ``experiment`` is its name. Past ``deadline``, of ``time.monotonic``, a checkpoint
    is written and None returned. Runs on the GPU where there is one, and in all
    processes that torchrun starts, of which the first returns the record.

    Everything that is drawn depends on the seed and the step alone. So a run that was
    killed ends, on one device and with ``deterministic``, in the same bits.

    Raises ValueError for what a start check finds, for a loss that is not finite, for
    data that changed since the run began, and for a folder that is the working folder,
    another run's, or in use; OSError if the folder cannot be written; else as the data
    set and the files do.

    >>> from tempfile import TemporaryDirectory
    >>> small = {"width": 4, "fc_channels": 8, "cells": (2, 3), "pictures": 2}
    >>> config = Config(data="shapes", steps=2, batch=2, **small)
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
        _locked(out),
        _settings(config.deterministic),
        torch.random.fork_rng(devices=()),
    ):
        if (out / "record.json").is_file():
            return _done(config, out)
        return _train(config, out, experiment, deadline, progress)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other runs out of a folder, and clear what a killed one left half written.

    Of several processes the first one does it for all.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        # processes that read pictures for a killed run live on for five seconds
        lock = FileLock(out / ".lock", timeout=_PATIENCE).acquire()
    except Timeout:
        raise ValueError(
            f"another run is writing into {out}; wait, or end it"
        ) from None
    except OSError as error:
        if not (out / "record.json").is_file():
            raise OSError(f"a run cannot write into {out}: {error}") from error
        lock = None  # the run has ended, so that there is nothing to write
    if lock is None:
        yield
        return
    with lock:
        for name in ("network.safetensors", "record.json"):
            for half in out.glob(f"{name}.*.part"):
                half.unlink()
        yield


def _done(config: Config, out: Path) -> Record:
    """Return the record of a run that has ended, if its files are whole."""
    file = out / "record.json"
    records = read_file(file)
    if len(records) != 1:
        raise ValueError(f"{file} must hold the record of one run, got {len(records)}")
    require_same(records[0].config, config, out)
    if config.network == "dilated":
        network = out / "network.safetensors"
        try:
            with safe_open(network, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{out} has a record, but {network.name} is missing or damaged "
                f"({error}); delete {file.name} to train the network again"
            ) from error
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # the folder may be read-only by now
            remove_checkpoints(out / "checkpoints")  # left if it was killed before
    return records[0]


@contextmanager
def _settings(deterministic: bool) -> Iterator[None]:
    """Torch's for a run; afterwards they are what they were."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warning = torch.is_deterministic_algorithms_warn_only_enabled()
    searching = torch.backends.cudnn.benchmark
    product = torch.get_float32_matmul_precision()
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warning)
        torch.backends.cudnn.benchmark = searching
        torch.set_float32_matmul_precision(product)


def _train(
    config: Config, out: Path, experiment: str, deadline: float | None, progress: bool
) -> Record | None:
    logger = TensorBoardLogger(out, name="log", version="")
    try:
        fabric = _fabric(config, logger)
        run = begin(config, fabric, out, progress)
        return _steps(run, experiment, deadline)
    finally:
        logger.finalize("")


def _steps(run: Run, experiment: str, deadline: float | None) -> Record | None:
    config, fabric = run.config, run.fabric
    loader = batches(
        run.split("train"),
        config.batch,
        seed=config.seed,
        steps=range(run.step, config.steps),
        part=fabric.global_rank,
        parts=fabric.world_size,
        workers=config.workers,
    )
    since = time.monotonic()
    begun = since - run.seconds
    pending: tuple[int, Tensor, list[int]] | None = None
    quiet = not run.progress or fabric.global_rank > 0
    for indices, samples in tqdm(
        loader, experiment, config.steps, initial=run.step, disable=quiet
    ):
        run.waited += time.monotonic() - since
        images, labels = run.crops(samples)
        loss = run.update(images, labels)
        if pending:  # only now, so that a GPU has this step's work while it is read
            run.note(*pending)
        pending = (run.step, loss, indices)
        run.step += 1
        run.seconds = time.monotonic() - begun
        last = run.step == config.steps
        # of all processes the first one's clock counts
        late = deadline is not None and fabric.broadcast(time.monotonic() > deadline)
        if last or late or run.step % config.checkpoint_every == 0:
            run.note(*pending)  # nothing is kept after a loss that is not finite
            pending = None
            run.save()
        if late and not last:
            return None
        if config.validate_every and run.step % config.validate_every == 0 and not last:
            run.validate()
        since = time.monotonic()
    return run.finish(experiment)


def _fabric(config: Config, logger: TensorBoardLogger) -> Fabric:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's
    world = int(os.environ.get("WORLD_SIZE", 1))
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=here,
        num_nodes=world // here,
        strategy="ddp" if world > 1 else "auto",
        precision=config.precision,
        loggers=logger,
    )
    fabric.launch()
    if config.batch % fabric.world_size:
        raise ValueError(
            f"a batch of {config.batch} does not divide into {fabric.world_size} parts"
        )
    return fabric
