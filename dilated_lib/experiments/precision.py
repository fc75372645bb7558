"""How far the fast ways are from the exact ones: gradients, and labels."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from math import isfinite
from multiprocessing import get_context

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dilated_lib.data.labelled import Sample
from dilated_lib.dilation.layer import DilatedConv2d
from dilated_lib.networks.architecture import small_network
from dilated_lib.prediction.bfloat16 import quick
from dilated_lib.prediction.segmentation import probabilities

__all__ = ["gradient_errors", "same_labels"]


def gradient_errors(
    device: torch.device, dilations: tuple[int, ...]
) -> dict[str, dict[str, float | str]]:
    """Measure how far the gradients of the weights are from float64's, by dilation.

    The layer has 21 to 21 channels, in bfloat16, channels last; it is torch's, and the
    library's. An error is the largest difference, relative to the largest gradient.

    On some CPUs torch's layer reads memory that is not its own there, see
    :class:`~dilated_lib.dilation.layer.DilatedConv2d`. What comes out is then
    undefined: a number, "nan" or "inf", or "process ended", which is why each has a
    process of its own. So do not rely on torch's errors beyond dilation 1.

    >>> gradient_errors(torch.device("cpu"), ())
    {'torch': {}, 'library': {}}
    """
    found: dict[str, dict[str, float | str]] = {"torch": {}, "library": {}}
    for d in dilations:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                error = pool.submit(_gradient_error, nn.Conv2d, d, device).result()
                found["torch"][str(d)] = error
            except BrokenProcessPool:
                found["torch"][str(d)] = "process ended"
        found["library"][str(d)] = _gradient_error(DilatedConv2d, d, device)
    return found


def _gradient_error(
    layer: type[nn.Conv2d], d: int, device: torch.device
) -> float | str:
    draw = torch.Generator().manual_seed(0)
    conv = layer(21, 21, 3, padding=d, dilation=d)
    x, weight, gradient = (
        torch.randn(shape, generator=draw).to(device, torch.bfloat16)
        for shape in ((1, 21, 64, 64), conv.weight.shape, (1, 21, 64, 64))
    )
    conv = conv.to(x).to(memory_format=torch.channels_last)
    conv.load_state_dict({"weight": weight, "bias": torch.zeros(21)})
    x = x.contiguous(memory_format=torch.channels_last)
    both: list[Tensor] = []
    for kind in (torch.bfloat16, torch.float64):
        conv = conv.to(kind)
        with torch.enable_grad():
            out = conv(x.to(kind))
        both += torch.autograd.grad(out, [conv.weight], gradient)
    error = ((both[0] - both[1]).abs().max() / both[1].abs().max()).item()
    return round(error, 4) if isfinite(error) else str(error)


def same_labels(pictures: Dataset[Sample], count: int) -> list[float]:
    """Count the pixels of each picture to which ``quick`` gives the same label.

    In percent, for the small network, on the first ``count`` pictures.

    >>> from dilated_lib.data.scenes import ShapeScenes
    >>> all(percent > 90 for percent in same_labels(ShapeScenes(2), 2))
    True
    """
    networks = small_network(), quick(small_network())
    same = []
    for index in range(count):
        image = pictures[index][0][None]
        one, other = (probabilities(net, image).argmax(1) for net in networks)
        same.append(100 * (one == other).float().mean().item())
    return same
