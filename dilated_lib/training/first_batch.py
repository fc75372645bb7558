"""The check of the first batch, which can save an hour of training."""

from contextlib import ExitStack
from math import log

import torch
from torch import Tensor, nn

from dilated_lib.training.config import Config
from dilated_lib.training.loss import Stage

__all__ = ["check_start", "guessing_loss"]


def check_start(stage: Stage, images: Tensor, labels: Tensor, config: Config) -> None:
    """Look at the first batch: is a layer dead, and does an untrained network guess?

    Behind a ReLU whose outputs are all 0 nothing depends on the picture, and in front
    of it nothing gets a gradient. And unless it comes from an earlier stage, a network
    should give all classes about the same probability; a loss far from that means that
    weights or pixels are too large. Raises ValueError for either. A baseline is not
    looked at.

    Args:
        stage: The network with its loss, before the first step.
        images: The crops of the first batch (N, 3, H, W).
        labels: Their labels (N, h, w).
        config: The run, which tells where the weights come from.

    >>> from dilated_lib.data.sets import open_data
    >>> from dilated_lib.training.setup import build_network
    >>> config = Config().changed(data="shapes", width=4, fc_channels=8)
    >>> stage = Stage(build_network(config, open_data("shapes"))[0], config.recipe)
    >>> images, labels = torch.full((1, 3, 388, 396), 128.0), torch.zeros(1, 16, 24)
    >>> check_start(stage, images, labels, config)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: front.relu1_1 is 0 everywhere on the first batch: the layers before ...
    """
    if config.network != "dilated":
        return
    names: dict[nn.Module, str] = {
        layer: name
        for name, layer in stage.network.named_modules()
        if isinstance(layer, nn.ReLU)
    }
    dead: list[str] = []

    def look(layer: nn.Module, _: object, output: Tensor) -> None:
        if not output.any():
            dead.append(names[layer])

    stage.eval()
    with torch.no_grad(), ExitStack() as after:
        for layer in names:
            after.callback(layer.register_forward_hook(look).remove)
        # not by calling it: a stage to be compiled is compiled for training alone
        loss = float(stage.forward(images, labels) / stage.weight(labels))
    if dead:
        raise ValueError(
            f"{dead[0]} is 0 everywhere on the first batch: the layers before it are "
            "dead. Is the start right, and the mean?"
        )
    if str(config.start).endswith(".safetensors") or not stage.weight(labels):
        return
    classes = stage.network.num_classes
    guess = log(classes)
    loss *= guess / guessing_loss(config, classes)
    # with 4096 channels behind ImageNet's, a batch of one class was off by up to 0.88
    if not abs(loss - guess) < 1:
        raise ValueError(
            f"the first loss is {loss:.2f}; equal probabilities for "
            f"{classes} classes have ln C = {guess:.2f}. Something starts "
            "too large: the last layer, or weights that want smaller pixels than 0 to "
            "255"
        )


def guessing_loss(config: Config, classes: int) -> float:
    """Return the loss of equal probabilities, ln C, or more with an auxiliary loss.

    >>> round(guessing_loss(Config().changed(stage="joint", context="basic"), 11), 2)
    3.36
    """
    parts = 1 + config.recipe.auxiliary if config.stage == "joint" else 1
    return parts * log(classes)
