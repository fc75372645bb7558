"""Class probabilities by any network: a module, or a function of images."""

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from dilated_lib.evaluation_mode import evaluating
from dilated_lib.prediction.resizing import resized

__all__ = ["check_finite", "check_scale", "logits_by", "name_of", "rows_by_logits"]


def logits_by(network: Callable[[Tensor], Any], images: Tensor, scale: float) -> Tensor:
    """Return the logits (N, C, h, w) of a network that is not the paper's, in float32.

    Such a network may be anything that can be called. So what it returns is checked
    here, where its name and the size of its input can be told.

    Raises ValueError for anything but finite logits of two classes or more.
    """
    check_scale(scale)
    x = images.float()
    if scale != 1:
        height, width = (max(1, round(side * scale)) for side in images.shape[2:])
        x = resized(x, (height, width))
    if isinstance(network, nn.Module):
        x = x.to(next(network.parameters(), x))
    with evaluating(network), torch.no_grad():
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
        check_finite(logits, network)
        return logits


def rows_by_logits(
    logits: Tensor, size: tuple[int, int], first: int, end: int
) -> Tensor:
    """Return probabilities (N, C, end − first, W) of rows of pixels.

    Args:
        logits: Of shape (N, C, h, w).
        size: Height and width in pixels, to which the logits are interpolated.
        first: The first row.
        end: The row after the last.
    """
    rows = resized(logits, size, rows=(first, end), smooth=False)
    return rows.softmax(1)


def check_finite(logits: Tensor, network: object) -> None:
    """Raise ValueError for logits among which there is NaN or infinity.

    A label would come out of them all the same, since NaN is the largest number for
    ``argmax``.
    """
    if not logits.isfinite().all():
        raise ValueError(
            f"{name_of(network)} gave logits that are not finite. Are its weights and "
            f"its mean right, and can its precision hold such numbers?"
        )


def check_scale(scale: float) -> None:
    """Raise ValueError unless a picture can be enlarged so many times."""
    if not 0 < scale < inf:
        raise ValueError(f"scale must be a number above 0, got {scale!r}")


def name_of(network: object) -> str:
    """Return what an error calls a network: its own name, or that of its class."""
    return getattr(network, "__name__", type(network).__name__)
