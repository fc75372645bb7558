"""Class probabilities by any network: a module, or a function of images."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilated_lib.evaluation_mode import evaluating

__all__ = ["check_scale", "name_of", "probabilities_by", "resized"]


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


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) at another size, bilinear, smoothed where they shrink."""
    return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)


def name_of(network: object) -> str:
    """What an error calls a network: the function's name, or the module's class."""
    return getattr(network, "__name__", type(network).__name__)
