"""What a run needs before its first step: devices, data, a network, an optimizer."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from dilated_lib.data.labelled import DataSet, Sample, class_counts
from dilated_lib.data.sets import open_data
from dilated_lib.data.transforms import augmentation
from dilated_lib.networks.baselines import Baseline
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.networks.vgg import fill
from dilated_lib.networks.weights import load
from dilated_lib.training import checkpoints
from dilated_lib.training.config import Config
from dilated_lib.training.loss import Stage, layout, median_frequency_weights
from dilated_lib.training.optimizer import build_optimizer

__all__ = ["Run", "begin", "build_network", "launch", "torch_settings"]


@dataclass
class Run:
    """What the loop works with, and how far it is.

    ``module`` is the stage as Fabric runs it: in its precision, over all processes.
    ``identity`` is the part of a checkpoint that never changes.
    """

    config: Config
    fabric: Fabric
    out: Path
    progress: bool
    data: DataSet
    identity: dict[str, Any]
    stage: Stage
    module: Callable[..., Any]
    optimizer: Any
    augment: nn.Module
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds, for samples to be read
    losses: list[float] = field(default_factory=list)

    def split(self, name: str) -> Dataset[Sample]:
        """Return a split, or as many of its pictures as the run uses."""
        return _first(self.data.split(name), self.config.pictures)


def _first(data: Dataset[Sample], count: int) -> Dataset[Sample]:
    number = len(data)  # type: ignore[arg-type]
    return Subset(data, range(count)) if 0 < count < number else data


def begin(config: Config, fabric: Fabric, out: Path, progress: bool) -> Run:
    """Begin a new run, or go on with the one whose checkpoints are in a folder.

    Everything that can be wrong with the data or the start is found here, and not after
    an hour: every label map is read once. New weights are drawn as torch is seeded.

    Args:
        config: What is trained, on what, and how.
        fabric: The devices and processes.
        out: The folder of the run.
        progress: Show bars.
    """
    recipe, data = config.recipe, open_data(config.data)
    identity = checkpoints.identity(config, data)
    state = checkpoints.resumed(out, config, identity)
    counts = state["counts"] if state else _count_labels(config, data, progress)
    network, trained = build_network(config, data)
    if state:
        checkpoints.restore_weights(network, state["network"], out)
    weights = median_frequency_weights(counts) if recipe.class_weights else None
    frozen = config.stage == "context"
    stage = Stage(network, recipe, class_weights=weights, frozen=frozen)
    stage = stage.to(memory_format=layout(fabric.device, config.precision))
    optimizer = build_optimizer(network, config, trained)
    if config.compile:
        stage.compile()
    module, optimizer = fabric.setup(stage, optimizer)
    scale = config.architecture.scale
    augment = augmentation(
        cells=config.cells,
        margin=network.margin,
        scale=(scale * recipe.zoom[0], scale * recipe.zoom[1]),
        rotation=recipe.rotation,
        colour=recipe.colour,
        fill=(data.mean[2], data.mean[1], data.mean[0]),
    )
    identity["counts"] = counts
    run = Run(
        config, fabric, out, progress, data, identity, stage, module, optimizer, augment
    )
    if state:
        optimizer.load_state_dict(state["optimizer"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        run.step, run.seconds = state["step"], state["seconds"]
        run.waited, run.losses = state["waited"], state["losses"]
    return run


def _count_labels(config: Config, data: DataSet, progress: bool) -> Tensor:
    """Count the training pixels of each class (C,), and check all other labels too."""
    counts, *_ = (
        class_counts(
            _first(data.split(split), config.pictures),
            len(data.palette),
            progress=progress,
        )
        for split in ("train", "val", *(["test"] if config.test else []))
    )
    absent = [name for name, n in zip(data.palette, counts, strict=True) if not n]
    if absent:
        warnings.warn(
            f"no training picture has {', '.join(absent)}: it cannot be learned",
            stacklevel=4,
        )
    return counts


def build_network(
    config: Config, data: DataSet
) -> tuple[DilatedNetwork | Baseline, set[str]]:
    """Build the network of a run, and name its parameters that were trained before.

    The weights are those of the start; what it does not have is drawn.

    Raises ValueError for a start that does not fit.

    >>> config = Config().changed(data="shapes", width=4, fc_channels=8)
    >>> network, trained = build_network(config, open_data("shapes"))
    >>> network.front.final.out_channels, trained
    (4, set())
    """
    start = config.start
    earlier = isinstance(start, Path) and start.suffix == ".safetensors"
    if config.stage == "context" and not earlier:
        raise ValueError(
            "the context stage needs a trained front end: start must be its "
            f".safetensors, got {start}"
        )
    if config.network != "dilated":
        if isinstance(start, Path):
            raise ValueError(
                f"a baseline starts from imagenet or from scratch, got {start}"
            )
        scale = config.architecture.scale
        baseline = Baseline(config.network, len(data.palette), start, scale=scale)
        body = {name for name, _ in baseline.named_parameters() if "backbone" in name}
        return baseline, body if start else set()
    network = config.architecture.build(data.palette, data.mean)
    if config.recipe.loss_at == "pixels":  # prediction goes there as the loss does
        network.upsampling = "half_pixel"
    network.input_size = (1200, 1200)  # one tile for CamVid, enlarged by 1.5
    kept = tuple(f"conv{stage}_" for stage in range(1, config.frozen + 1))
    for name, parameter in network.front.named_parameters():
        if name.startswith(kept):
            parameter.requires_grad_(False)
    if not isinstance(start, Path) or not earlier:
        filled = fill(network.front, start) if start else set()
        return network, {f"front.{name}" for name in filled}
    loaded = load(network, start, strict=False)
    new = [name for name in loaded.missing if not name.startswith("ctx_")]
    if new or loaded.unused:
        raise ValueError(
            f"{start.name} is for another network: {[*new, *loaded.unused][0]} stands "
            "on one side only"
        )
    names = {name for name, _ in network.named_parameters()}
    missing = {name for name in names if network.file_name(name) in loaded.missing}
    return network, names - missing


@contextmanager
def torch_settings(deterministic: bool) -> Iterator[None]:
    """Set torch up for a run; afterwards its settings are what they were."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, product = torch.backends.cudnn, torch.get_float32_matmul_precision()
    with ExitStack() as after:
        after.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
        after.callback(torch.set_float32_matmul_precision, product)
        before = torch.are_deterministic_algorithms_enabled()
        after.callback(torch.use_deterministic_algorithms, before, warn_only=warns)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision("high")
        yield


def launch(config: Config, logger: TensorBoardLogger) -> Fabric:
    """Take the GPU where there is one, and all processes that torchrun has started.

    Raises ValueError for a batch that does not divide into as many parts.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's
    world = int(os.environ.get("WORLD_SIZE", 1))
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=here,
        num_nodes=world // here,
        precision=config.precision,
        loggers=logger,
    )
    fabric.launch()
    if config.batch % fabric.world_size:
        raise ValueError(
            f"a batch of {config.batch} does not divide into {fabric.world_size} parts"
        )
    return fabric
