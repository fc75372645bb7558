"""A run of training: what it is made of, one step of it, and how it is measured."""

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from dilated_lib.data.labelled import (
    DataSet,
    LabelledPictures,
    Sample,
    class_counts,
)
from dilated_lib.data.sets import open_data
from dilated_lib.data.transforms import augmentation
from dilated_lib.networks.architecture import Architecture, save_network
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.networks.weights import file_state
from dilated_lib.prediction.metric import evaluate
from dilated_lib.prediction.segmentation import probabilities
from dilated_lib.records import Record, device_name, write
from dilated_lib.training.checkpoints import (
    latest,
    remove_checkpoints,
    write_checkpoint,
)
from dilated_lib.training.config import Config
from dilated_lib.training.loss import Stage, layout, median_frequency_weights
from dilated_lib.training.setup import (
    build_network,
    build_optimizer,
    check_start,
    learning_rate,
)

__all__ = ["Run", "begin", "require_same"]


def _seed(*numbers: int) -> None:
    """Seed torch from whole numbers: the run's, what it is for, a step, a place."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


@dataclass
class Run:
    """What a run is made of, and how far it is."""

    config: Config
    fabric: Fabric
    out: Path
    progress: bool
    data: DataSet
    counts: Tensor
    architecture: Architecture | None
    stage: Stage
    module: Callable[..., Any]  # the stage as Fabric runs it
    optimizer: Any
    augment: nn.Module
    beside: torch.cuda.Stream | None = None
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # for samples to be read
    losses: list[float] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)  # of the data

    def split(self, name: str) -> Dataset[Sample]:
        """A split, or its first pictures."""
        return _first(self.data.split(name), self.config.pictures)

    def crops(self, samples: list[Sample]) -> tuple[Tensor, Tensor]:
        """A step's images and labels; a GPU makes them beside the step before it."""
        first = self.fabric.global_rank * len(samples)
        pairs = []
        with torch.cuda.stream(self.beside):
            for place, sample in enumerate(samples):
                _seed(self.config.seed, 1, self.step, first + place)
                pairs.append(self.augment(*self.fabric.to_device(sample)))
            images = torch.stack([image for image, _ in pairs]).float()
            labels = torch.stack([label for _, label in pairs])
        if self.beside:
            now = torch.cuda.current_stream()
            now.wait_stream(self.beside)
            images.record_stream(now)
            labels.record_stream(now)
        return images, labels

    def update(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of the optimizer; its loss, not yet read from the device."""
        config, fabric, stage = self.config, self.fabric, self.stage
        if self.step == 0:
            check_start(stage, images, labels, config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * learning_rate(config, self.step)
        # crops have one size, for which cuDNN may look for the fastest way
        torch.backends.cudnn.benchmark = not config.deterministic
        stage.train()
        _seed(config.seed, 2, self.step, fabric.global_rank)  # dropout
        weight = fabric.all_reduce(stage.weight(labels), reduce_op="sum")
        assert isinstance(weight, Tensor)
        # gradients are averaged over processes: times their number is the sum
        loss = self.module(images, labels) * (fabric.world_size / weight.clamp(1e-6))
        self.optimizer.zero_grad()
        fabric.backward(loss)
        if config.recipe.clip is not None:
            fabric.clip_gradients(
                self.module,  # type: ignore[arg-type]
                self.optimizer,
                max_norm=config.recipe.clip,
                error_if_nonfinite=False,
            )
        self.optimizer.step()
        mean = fabric.all_reduce(loss.detach(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def note(self, step: int, loss: Tensor, indices: list[int]) -> None:
        """Read a step's loss. Raises ValueError if it is not finite."""
        value = loss.item()
        if not np.isfinite(value):
            names = [self.data.split("train").name(one) for one in indices]  # type: ignore[attr-defined]
            raise ValueError(
                f"the loss of step {step} is {value}; its pictures were "
                f"{', '.join(names)}. Checkpoints before it are kept. A smaller "
                "learning rate may help"
            )
        self.losses.append(round(value, 4))
        if step % 10 == 0:
            rate = self.optimizer.param_groups[0]["lr"]
            self.fabric.log_dict({"loss": value, "learning_rate": rate}, step)

    def save(self) -> None:
        """A checkpoint, by the first process."""
        if self.fabric.global_rank == 0:
            state = {
                "config": _plain(self.config),
                "data": self.digests,
                "counts": self.counts,
                "step": self.step,
                "seconds": self.seconds,
                "waited": self.waited,
                "losses": self.losses,
                "network": file_state(self.stage.network),
                "optimizer": self.optimizer.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
            }
            write_checkpoint(self.out / "checkpoints", self.step, state)
        self.fabric.barrier()

    def shares(self, images: Tensor) -> Tensor:
        """Class probabilities of whole images, in float32; a GPU may use TF32."""
        network = self.stage.network
        return probabilities(network, images, scale=network.scale)

    def measure(self, split: str, *, flip: bool = False) -> dict[str, Any]:
        """Scores on a split."""
        torch.backends.cudnn.benchmark = False  # pictures differ in size
        found = evaluate(
            self.shares,
            self.split(split),
            tuple(self.data.palette),
            device=self.fabric.device,
            flip=flip,
            workers=self.config.workers,
            progress=self.progress,
        )
        return asdict(found)

    def validate(self) -> None:
        """Scores on the validation split and four of its label maps, into the log."""
        if self.fabric.global_rank == 0:
            found = self.measure("val")
            scores = {f"val/{key}": found[key] for key in ("miou", "accuracy")}
            self.fabric.log_dict(scores, self.step)
            colours = torch.tensor([*self.data.palette.values()], dtype=torch.uint8)
            data = _first(self.split("val"), 4)
            for index in range(len(data)):  # type: ignore[arg-type]
                picture, _ = data[index]
                shares = self.shares(picture[None].to(self.fabric.device))
                labels = colours[shares[0].argmax(0).cpu()].permute(2, 0, 1)
                self.fabric.logger.experiment.add_image(  # type: ignore[attr-defined]
                    f"val/{index}", torch.cat([picture, labels], 2), self.step
                )
        self.fabric.barrier()

    def finish(self, experiment: str) -> Record | None:
        """Measure, write the network and the record; the first process returns it."""
        done = None
        if self.fabric.global_rank == 0:
            metrics: dict[str, Any] = {}
            for split in ("val", "test") if self.config.test else ("val",):
                metrics[split] = self.measure(split)
                metrics[f"{split}_flip"] = self.measure(split, flip=True)
            part = -(-len(self.losses) // 50)
            metrics["loss"] = [
                round(float(np.mean(self.losses[first:][:part])), 4)
                for first in range(0, len(self.losses), part)
            ]
            metrics["waited"] = round(100 * self.waited / self.seconds, 1)
            if self.architecture:
                path = self.out / "network.safetensors"
                network: DilatedNetwork = self.stage.network  # type: ignore[assignment]
                save_network(network, self.architecture, path)
            done = Record(
                experiment=experiment,
                seed=self.config.seed,
                config=_plain(self.config),
                metrics=metrics,
                seconds=round(self.seconds, 1),
                device=device_name(self.fabric.device),
            )
            write(self.out / "record.json", [done])
            remove_checkpoints(self.out / "checkpoints")  # of large networks, gigabytes
        self.fabric.barrier()
        return done


def _first(data: Dataset[Sample], count: int) -> Dataset[Sample]:
    number = len(data)  # type: ignore[arg-type]
    return Subset(data, range(count)) if 0 < count < number else data


def begin(config: Config, fabric: Fabric, out: Path, progress: bool) -> Run:
    """A new run, or the newest checkpoint of one."""
    state = latest(out / "checkpoints")
    data = open_data(config.data)
    digests = _digests(config, data)
    if state is not None:
        if missing := _KEYS - state.keys():
            raise ValueError(
                f"the newest checkpoint in {out / 'checkpoints'} is none of a run, it "
                f"lacks {', '.join(sorted(missing))}; delete it"
            )
        require_same(state["config"], config, out)
        before = state.get("data", {})
        if other := [name for name, one in before.items() if one != digests[name]]:
            raise ValueError(
                f"the {other[0]} of {config.data} are not those with which the run in "
                f"{out} began; restore them, or choose another folder"
            )
        counts = state["counts"]
    else:
        pictures = _first(data.split("train"), config.pictures)
        counts = class_counts(pictures, len(data.palette), progress=progress)
        for name in ("val", "test") if config.test else ("val",):  # wrong labels, now
            pictures = _first(data.split(name), config.pictures)
            class_counts(pictures, len(data.palette), progress=progress)
        if absent := [
            name for name, n in zip(data.palette, counts, strict=True) if not n
        ]:
            warnings.warn(
                f"no training picture has {', '.join(absent)}: it cannot be learned",
                stacklevel=4,
            )
    _seed(config.seed, 0)
    network, architecture, trained = build_network(config, data)
    if state:
        _restore(network, state["network"], out)
    recipe = config.recipe
    stage = Stage(
        network,
        recipe,
        class_weights=median_frequency_weights(counts)
        if recipe.class_weights
        else None,
        frozen=config.stage == "context",
    ).to(memory_format=layout(fabric.device, config.precision))
    optimizer = build_optimizer(network, config, trained)
    if config.compile:
        stage.compile()
    module, optimizer = fabric.setup(stage, optimizer)
    augment = augmentation(
        cells=config.cells,
        margin=network.margin,
        scale=(config.scale * recipe.zoom[0], config.scale * recipe.zoom[1]),
        rotation=recipe.rotation,
        colour=recipe.colour,
        fill=(data.mean[2], data.mean[1], data.mean[0]),
    )
    beside = None
    if fabric.device.type == "cuda":
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    run = Run(
        config, fabric, out, progress, data, counts, architecture,
        stage, module, optimizer, augment, beside,
    )  # fmt: skip
    run.digests = digests
    if state:
        optimizer.load_state_dict(state["optimizer"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        run.step, run.seconds = state["step"], state["seconds"]
        run.waited, run.losses = state["waited"], state["losses"]
    return run


_KEYS = {
    *("config", "counts", "step", "seconds", "waited", "losses"),
    *("network", "optimizer", "precision"),
}


def _digests(config: Config, data: DataSet) -> dict[str, str]:
    """Return digests of what must not change while a run goes on.

    These are the classes, the names of the pictures, and the files of the label maps.
    """
    splits = ("train", "val", "test") if config.test else ("train", "val")
    names, maps = {}, {}
    for name in splits:
        split = data.split(name)
        count = len(split)  # type: ignore[arg-type]
        names[name] = [split.name(index) for index in range(count)]  # type: ignore[attr-defined]
        if isinstance(split, LabelledPictures):
            maps[name] = split.digest(config.pictures or count)
    known = {
        "classes": [*data.palette.items()],
        "pictures": names,
        "label maps": maps,
    }
    return {
        name: hashlib.sha256(json.dumps(one).encode()).hexdigest()
        for name, one in known.items()
    }


def _restore(network: nn.Module, weights: dict[str, Tensor], out: Path) -> None:
    names = zip(file_state(network), network.state_dict(), strict=True)
    own = dict(names)
    try:
        network.load_state_dict({own.get(one, one): weights[one] for one in weights})
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the newest checkpoint in {out / 'checkpoints'} does not hold the weights "
            f"of this network ({reason}); delete it"
        ) from error


def _plain(config: Config) -> dict[str, Any]:
    """As JSON has it: lists for tuples, text for paths."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return plain


def require_same(found: dict[str, Any], config: Config, folder: Path) -> None:
    """Raises ValueError for the configuration of another run, and says what differs."""
    # a run of before the front end could pad does not say that it did not
    found = {"padding": "none"} | found
    other = [
        key
        for key, value in _plain(config).items()
        if key not in ("workers", "checkpoint_every")  # which change no number
        and found.get(key) != value
    ]
    if other:
        raise ValueError(
            f"{folder} holds another run, with other {', '.join(other)}; choose "
            "another folder, or delete it"
        )
