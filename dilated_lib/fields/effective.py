"""The effective receptive field: what a network makes of its paths.

Weights and closed ReLUs decide how much of a receptive field counts. Gradients measure
it (Luo et al. 2016).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["effective_receptive_field"]


def effective_receptive_field(
    model: nn.Module,
    inputs: Tensor,
    *,
    unit: Sequence[int] | None = None,
    binary: bool = False,
    seed: int = 0,
) -> NDArray[np.float64]:
    """How strongly one output unit depends on each position, measured with gradients.

    ``inputs`` (N, C, …) are pictures, or noise; the result has the shape of their axes.
    It is the mean size of ∂ output / ∂ input over inputs and channels; the output is
    the unit's channels added up with random signs (seeded), so that they do not cancel.
    ``unit`` is one index an axis, the middle one if not given. With ``binary`` it is
    the share of the inputs for which any gradient arrives. The model runs in
    evaluation mode.

    For a linear stack with equal weights the result is the product of the ``coverage``
    along the axes, and its width along each is ``deviation`` (Luo et al. 2016).

    Raises ValueError for inputs without axes, an output that is no map with as many
    axes, or a unit outside it.

    >>> conv = nn.Conv1d(1, 1, 3, dilation=2, padding=2)
    >>> effective_receptive_field(conv, torch.ones(1, 1, 7), binary=True)
    array([0., 1., 0., 1., 0., 1., 0.])
    """
    if inputs.dim() < 3 or not inputs.numel():
        raise ValueError(
            f"inputs must have shape (N, C, one length an axis), none of them 0, "
            f"got {tuple(inputs.shape)}"
        )
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        total = torch.zeros(inputs.shape[2:], dtype=torch.float64)
        for number, one in enumerate(inputs):
            x = one[None].detach().requires_grad_()
            with torch.enable_grad():
                output = model(x)
            if not isinstance(output, torch.Tensor) or output.dim() != inputs.dim():
                raise ValueError(
                    f"the output must be one map with {inputs.dim() - 2} axes, got "
                    + (
                        str(tuple(output.shape))
                        if hasattr(output, "shape")
                        else type(output).__name__
                    )
                )
            sizes = output.shape[2:]
            place = [n // 2 for n in sizes] if unit is None else list(unit)
            if len(place) != len(sizes) or not all(
                0 <= index < size for index, size in zip(place, sizes, strict=True)
            ):
                raise ValueError(
                    f"unit must be within {tuple(sizes)}, got {tuple(place)}"
                )
            generator = torch.Generator().manual_seed(seed + number)
            signs = torch.randint(2, (output.shape[1],), generator=generator) * 2 - 1
            column = int(np.ravel_multi_index(place, sizes))
            seen = (output[0].flatten(1)[:, column] * signs.to(output)).sum()
            (gradient,) = torch.autograd.grad(seen, x)
            arrives = gradient[0].abs().double().mean(0).cpu()
            total += (arrives > 0).double() if binary else arrives
    finally:
        for module, training in modes.items():
            module.training = training
    result: NDArray[np.float64] = (total / len(inputs)).numpy()
    return result
