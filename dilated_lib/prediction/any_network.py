"""Class probabilities by any network: a module, or a function of images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["check_scale", "evaluating", "name_of", "probabilities_by", "resized"]

_CHANGING = Lock()  # held while modes change, not while a network computes
_IN_USE: dict[nn.Module, tuple[int, bool]] = {}  # by how many, and the mode before


def probabilities_by(
    network: Callable[[Tensor], Any], images: Tensor, scale: float
) -> Tensor:
    """Class probabilities (N, C, H, W) by a network that is not the paper's."""
    check_scale(scale)
    size, x = images.shape[2:], images.float()
    if isinstance(network, nn.Module):
        x = x.to(next(network.parameters(), x))
    with evaluating(network), torch.no_grad():
        if scale != 1:
            x = resized(x, [max(1, round(side * scale)) for side in size])
        try:
            logits = network(x)
        except Exception as error:
            error.add_note(f"{name_of(network)} was given images {tuple(x.shape)}.")
            raise
        if isinstance(logits, dict) and "out" in logits:
            logits = logits["out"]
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"{name_of(network)} must give logits (N, C, h, w), or torchvision's "
                f'{{"out": logits}}, got {type(logits).__name__}'
            )
        shape = tuple(logits.shape)
        if len(shape) != 4 or shape[0] != len(x) or shape[1] < 2 or 0 in shape:
            raise ValueError(
                f"{name_of(network)} must give logits (N, C, h, w) of two classes or "
                f"more, got {shape} for images {tuple(x.shape)}"
            )
        logits = logits.float()
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, tuple(size), mode="bilinear")
        return logits.softmax(1)


def check_scale(scale: float) -> None:
    """Raise ValueError unless a picture can be enlarged so many times."""
    if not 0 < scale < inf:
        raise ValueError(f"scale must be a number above 0, got {scale!r}")


@contextmanager
def evaluating(network: object) -> Iterator[None]:
    """Dropout and batch norm as in evaluation; afterwards each mode is as it was.

    Several threads may use a network at the same time: the first to come changes a
    module's mode, and the last to leave changes it back.
    """
    modules = [*network.modules()] if isinstance(network, nn.Module) else []
    with _CHANGING:
        for module in modules:
            users, mode = _IN_USE.get(module, (0, module.training))
            _IN_USE[module] = users + 1, mode
            module.training = False
    try:
        yield
    finally:
        with _CHANGING:
            for module in modules:
                users, mode = _IN_USE.pop(module)
                if users > 1:
                    _IN_USE[module] = users - 1, mode
                else:
                    module.training = mode


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) at another size, bilinear, smoothed where they shrink."""
    return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)


def name_of(network: object) -> str:
    """What an error calls a network: the function's name, or the module's class."""
    return getattr(network, "__name__", type(network).__name__)
