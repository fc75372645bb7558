"""The optimizer of a recipe, and the learning rate of each step."""

from math import cos, pi

import torch
from torch import nn

from dilated_lib.training.config import Config

__all__ = ["build_optimizer", "learning_rate"]


def build_optimizer(
    network: nn.Module, config: Config, trained: set[str]
) -> torch.optim.Optimizer:
    """Build SGD or AdamW for the parameters that learn.

    Weights and biases are groups of their own, and so are the parameters that are named
    in ``trained``, because a start has trained them before. ``base`` in a group is its
    learning rate before the schedule. What has one dimension (biases and batch norm)
    does not decay.

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
        {"params": parameters, "base": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(rows, momentum=recipe.momentum)
    # fused is one pass over the weights instead of ten; a scaled loss forbids it
    return torch.optim.AdamW(rows, fused=config.precision != "16-mixed")


def learning_rate(config: Config, step: int) -> float:
    """Return the learning rate of a step, relative to the recipe's.

    It rises during the warm-up; then it is constant, or falls along half a cosine.

    >>> [round(learning_rate(Config(steps=100), step), 2) for step in (0, 5, 99)]
    [0.17, 1.0, 0.0]
    """
    warmup = config.recipe.warmup * config.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.recipe.schedule == "constant":
        return 1.0
    return (1 + cos(pi * (step - warmup) / (config.steps - warmup))) / 2
