"""What a run starts from: a network, its optimizer, and checks that save an hour."""

from math import cos, log, pi
from pathlib import Path

import torch
from torch import Tensor, nn

from dilated_lib.data.labelled import DataSet
from dilated_lib.networks.architecture import Architecture
from dilated_lib.networks.baselines import Baseline
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.networks.vgg import fill
from dilated_lib.networks.weights import load
from dilated_lib.training.config import Config
from dilated_lib.training.loss import Stage

__all__ = ["build_network", "build_optimizer", "check_start", "learning_rate"]


def build_network(
    config: Config, data: DataSet
) -> tuple[DilatedNetwork | Baseline, Architecture | None, set[str]]:
    """The network, its architecture, and the names of parameters trained before.

    A baseline is torchvision's, and has no architecture of this library.

    Raises ValueError for a start that does not fit.

    >>> from dilated_lib.data.sets import open_data
    >>> config = Config(data="shapes", width=4, fc_channels=8)
    >>> network, architecture, trained = build_network(config, open_data("shapes"))
    >>> network.front.final.out_channels, trained
    (4, set())
    """
    architecture = Architecture(
        palette=data.palette,
        mean=data.mean,
        padding=config.padding,
        width=config.width,
        fc_channels=config.fc_channels,
        batch_norm=config.batch_norm,
        context=config.context,
        dilations=config.dilations,
        scale=config.scale,
        upsampling="released" if config.recipe.loss_at == "cells" else "half_pixel",
    )
    start = config.start
    if config.stage == "context" and not _network_file(start):
        raise ValueError(
            "the context stage needs a trained front end: start must be its "
            f".safetensors, got {start}"
        )
    if config.network != "dilated":
        if isinstance(start, Path):
            raise ValueError(
                f"a baseline starts from imagenet or from scratch, got {start}"
            )
        other = Baseline(config.network, len(data.palette), start, scale=config.scale)
        body = {name for name, _ in other.named_parameters() if "backbone" in name}
        return other, None, body if start else set()
    network = architecture.build()
    network.input_size = (1200, 1200)  # one tile for CamVid, enlarged by 1.5
    if not _network_file(start):
        filled = fill(network.front, start) if start else set()
        return network, architecture, {f"front.{name}" for name in filled}
    assert isinstance(start, Path)
    done = load(network, start, strict=False)
    new = [name for name in done.missing if not name.startswith("ctx_")]
    if new or done.unused:
        raise ValueError(
            f"{start.name} is for another network: {[*new, *done.unused][0]} stands on "
            "one side only"
        )
    names = {name for name, _ in network.named_parameters()}
    missing = {name for name in names if network.file_name(name) in done.missing}
    return network, architecture, names - missing


def _network_file(start: object) -> bool:
    return isinstance(start, Path) and start.suffix == ".safetensors"


def build_optimizer(
    network: nn.Module, config: Config, trained: set[str]
) -> torch.optim.Optimizer:
    """SGD or AdamW, with groups for weights and biases, new and trained before.

    ``base`` in a group is its learning rate before the schedule. Biases and what has
    one dimension (batch norm) do not decay.

    >>> groups = build_optimizer(nn.Conv2d(3, 8, 3), Config(), set()).param_groups
    >>> [group["weight_decay"] for group in groups]
    [0.01, 0.0]
    """
    recipe = config.recipe
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            flat = parameter.dim() < 2
            rate = recipe.learning_rate
            rate *= recipe.trained_rate if name in trained else 1.0
            rate *= recipe.bias_rate if flat else 1.0
            decay = 0.0 if flat else recipe.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    rows = [
        {"params": parameters, "lr": rate, "base": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(rows, momentum=recipe.momentum)
    # one pass over the weights instead of ten; a scaled loss forbids it
    return torch.optim.AdamW(rows, fused=config.precision != "16-mixed")


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of a step, relative to the recipe's.

    >>> [round(learning_rate(Config(steps=100), step), 2) for step in (0, 5, 99)]
    [0.17, 1.0, 0.0]
    """
    warmup = config.recipe.warmup * config.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.recipe.schedule == "constant":
        return 1.0
    return (1 + cos(pi * (step - warmup) / (config.steps - warmup))) / 2


def check_start(stage: Stage, images: Tensor, labels: Tensor, config: Config) -> None:
    """The first batch: is a layer dead, and does an untrained network guess?

    Raises ValueError where all outputs of a ReLU are 0, and where a new network's loss
    is not near ln C, that of equal probabilities.

    >>> from dilated_lib.data.sets import open_data
    >>> config = Config(data="shapes", width=4, fc_channels=8)
    >>> stage = Stage(build_network(config, open_data("shapes"))[0], config.recipe)
    >>> images, labels = torch.full((1, 3, 388, 396), 128.0), torch.zeros(1, 16, 24)
    >>> check_start(stage, images, labels, config)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: front.relu1_1 is 0 everywhere on the first batch: the layers before ...
    """
    if config.network != "dilated":
        return
    dead: list[str] = []
    hooks = [
        layer.register_forward_hook(
            lambda _, __, output, name=name: (
                dead.append(name) if not output.any() else None
            )
        )
        for name, layer in stage.network.named_modules()
        if isinstance(layer, nn.ReLU)
    ]
    stage.eval()
    try:
        with torch.no_grad():
            # not by calling it: a stage to be compiled is compiled for training alone
            loss = float(stage.forward(images, labels) / stage.weight(labels))
    finally:
        for hook in hooks:
            hook.remove()
    if dead:
        raise ValueError(
            f"{dead[0]} is 0 everywhere on the first batch: the layers before it are "
            "dead. Is the start right, and the mean?"
        )
    if _network_file(config.start) or not stage.weight(labels):
        return
    if config.stage == "joint":
        loss /= 1 + config.recipe.auxiliary
    classes = stage.network.num_classes
    guess = log(classes)
    if not abs(loss - guess) < 0.5:
        raise ValueError(
            f"the first loss is {loss:.2f}; equal probabilities for "
            f"{classes} classes have ln C = {guess:.2f}. Something starts "
            "too large: the last layer, or weights that want smaller pixels than 0 to "
            "255"
        )
