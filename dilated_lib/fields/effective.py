"""The effective receptive field: what a network makes of its paths.

Weights and closed ReLUs decide how much of a receptive field counts, and gradients
measure it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dilated_lib.evaluation_mode import evaluating
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.fields.tracing.export import shapes_of
from dilated_lib.values import whole, wholes

__all__ = ["effective_receptive_field"]


def effective_receptive_field(
    model: nn.Module,
    inputs: Tensor,
    *,
    to: str | None = None,
    unit: Sequence[int] | None = None,
    binary: bool = False,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Measure with gradients how strongly one output unit depends on each position.

    The result has the shape of the inputs' axes. It is the mean size of
    ∂ output / ∂ input over inputs and channels, where the output is the sum of the
    unit's channels with random signs, so that channels do not cancel each other. The
    model runs in evaluation mode.

    For a linear stack with equal weights the result is the product of the ``coverage``
    along the axes, and its width along each is ``deviation``.

    Maps may have their channels last, (N, …, C), as in Swin, or all units in one row of
    tokens, (N, L, C). To find out, a part of the first input is set to NaN: all the
    channels of a unit then lose their value together. Where that does not tell, as for
    tokens, :func:`~dilated_lib.fields.tracing.receptive_field` traces the network.

    Raises ValueError for inputs without axes, an unknown module, an output that is not
    a map of units, such as tokens with one for the class, a unit outside it, and where
    no gradient arrives at all.

    Source: Luo et al., "Understanding the Effective Receptive Field in Deep
    Convolutional Neural Networks", NeurIPS 2016.

    Args:
        model: It maps ``inputs`` to a map with as many axes.
        inputs: Pictures or noise, (N, C, …) with one length an axis.
        to: The module whose output is taken, such as "layer3"; by default the model's.
        unit: One index an axis; by default the middle of the map.
        binary: Whether to give, in place of the mean, the fraction of the inputs for
            which any gradient arrives.
        seed: Of the signs.

    >>> conv = nn.Conv1d(1, 1, 3, dilation=2, padding=2)
    >>> effective_receptive_field(conv, torch.ones(1, 1, 7), binary=True)
    array([0., 1., 0., 1., 0., 1., 0.])
    """
    if inputs.dim() < 3 or not inputs.numel():
        raise ValueError(
            f"inputs must have shape (N, C, one length an axis), none of them 0, "
            f"got {tuple(inputs.shape)}"
        )
    seed = whole("seed", seed)
    if unit is not None:
        unit = wholes("unit", unit, what="one index an axis")
    with evaluating(model):
        shape, dims = _layout(model, inputs, to)
        sizes = tuple(1 if dim is None else shape[dim] for dim in dims)
        place = unit or tuple(n // 2 for n in sizes)
        if len(place) != len(sizes) or not all(
            0 <= index < size for index, size in zip(place, sizes, strict=True)
        ):
            raise ValueError(f"unit must be within {sizes}, got {place}")
        own: list[int | slice] = [slice(None)] * len(shape)
        for dim, index in zip(dims, place, strict=True):
            if dim is not None:
                own[dim] = index
        total = torch.zeros(inputs.shape[2:], dtype=torch.float64)
        for number, one in enumerate(inputs):
            x = one[None].detach().requires_grad_()
            with torch.enable_grad():
                channels = _output(model, x, to).reshape(shape)[tuple(own)].flatten()
            generator = torch.Generator().manual_seed(seed + number)
            signs = torch.randint(2, channels.shape, generator=generator) * 2 - 1
            (gradient,) = torch.autograd.grad(channels, x, signs.type_as(channels))
            arrives = gradient[0].abs().double().mean(0).cpu()
            total += (arrives > 0).double() if binary else arrives
    if not total.any():
        raise ValueError(
            f"no gradient of unit {place} arrives at the input: it reads "
            "nothing, or every ReLU on its way is closed, as for inputs of zeros; try "
            "torch.randn"
        )
    result: NDArray[np.float64] = (total / len(inputs)).numpy()
    return result


def _output(model: nn.Module, x: Tensor, to: str | None) -> Tensor:
    """Return the model's output for ``x``, or that of a module in it: one map."""
    caught: list[object] = []
    if to is None:
        caught.append(model(x))
    else:
        if to not in dict(model.named_modules()):
            raise ValueError(f"the model has no module {to!r}")
        module = model.get_submodule(to)
        hook = module.register_forward_hook(lambda *call: caught.append(call[2]))
        try:
            model(x)
        finally:
            hook.remove()
    name = "the output" if to is None else f"the output of {to}"
    if not caught:
        raise ValueError(f"{to} is not called, so it has no output")
    output = caught[-1]
    if not isinstance(output, Tensor) or output.dim() not in (3, x.dim()):
        kind = tuple(output.shape) if isinstance(output, Tensor) else type(output)
        raise ValueError(
            f"{name} must be one map with {x.dim() - 2} axes, got "
            + (kind.__name__ if isinstance(kind, type) else str(kind))
        )
    return output


def _layout(
    model: nn.Module, inputs: Tensor, to: str | None
) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """Return the shape of one output as a map, and its dimension for each axis.

    The dimension is None where one unit is left along the axis.
    """
    lost = _output(model, _marked(inputs[:1]), to).isnan()
    if lost.dim() == inputs.dim():
        # units lose their value alike along the dimension of the channels
        first, last = ((lost.any(d) == lost.all(d)).all() for d in (1, -1))
        if first != last:
            axes = range(2, lost.dim()) if first else range(1, lost.dim() - 1)
            return tuple(lost.shape), tuple(axes)
    traced = receptive_field(model, inputs.shape[1:], to=to).traced
    if shapes_of(traced.end)[0] != lost.shape or any(
        axis.dim is None and axis.runs for axis in traced.hull.axes
    ):
        raise ValueError(
            f"the output, {tuple(lost.shape)}, must be a map of units; it puts them "
            "beside other things along one dimension, or in another order"
        )
    return traced.hull.shape, tuple(axis.dim for axis in traced.hull.axes)


def _marked(x: Tensor) -> Tensor:
    """Return a copy with NaN in the second half of every axis."""
    marked = x.detach().clone()
    quarter = [slice(None)] * 2 + [slice(side // 2, None) for side in x.shape[2:]]
    marked[tuple(quarter)] = torch.nan
    return marked
