"""Does the analysis agree with the real network? NaN tells, and shares no rule."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dilated_lib.fields.tracing.export import Reached, by_place
from dilated_lib.fields.tracing.report import Fields, receptive_field

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Disagreement:
    """A position of the input that a unit reads, or not, against the analysis."""

    method: str
    unit: tuple[int, ...]
    position: tuple[int, ...]
    measured: bool

    def __str__(self) -> str:
        verb, other = ("reads", "denies it") if self.measured else ("ignores", "not")
        return (
            f"by {self.method}, unit {self.unit} {verb} position {self.position}; the "
            f"analysis {other}"
        )


def verify(
    model: nn.Module,
    input_size: Sequence[int],
    *,
    to: str | None = None,
    units: int = 4,
    seed: int = 0,
) -> Disagreement | None:
    """Compare the analysis with the network itself; None where they agree.

    For the corners, the middle and ``units`` random units of the output the unmodified
    network is run in float64 with NaN outside the unit's region, where the unit must
    stay finite. Then it is run with a NaN at single positions of the region, its first
    and last along each axis and two random ones, each of which must make the unit NaN.
    (But where the network compares values, or masks them, as ``torch.where`` does:
    there a NaN may be lost.) None of the rules of the analysis takes part in this.

    ``to`` is as in :func:`receptive_field`, for outputs, and for modules that return
    one tensor; what follows such a module does not run. Raises ValueError where the
    network cannot be run for the comparison: it has no weights, cannot be copied, or
    gives NaN of itself.

    >>> verify(nn.Conv2d(1, 1, 3, dilation=2), (1, 8, 8)) is None
    True
    """
    answer = receptive_field(model, input_size, to=to)
    draw = np.random.default_rng(seed)
    last = [length - 1 for length in answer.lengths]
    chosen: set[tuple[int, ...]] = {
        (0,) * len(last),
        tuple(last),
        tuple(n // 2 for n in last),
        *(tuple(draw.integers(0, n + 1).item() for n in last) for _ in range(units)),
    }
    numbers = {answer.traced.start}
    for node in answer.traced.graph.nodes:
        value = node.meta.get("val")
        whole = isinstance(value, Tensor) and not (
            value.is_floating_point() or value.is_complex()
        )
        if not numbers.isdisjoint(node.all_input_nodes) and not whole:
            numbers.add(node)
    if answer.traced.end not in numbers:
        raise ValueError("the output is made of indices or truths: it is never NaN")
    turns_nan = _real(model, answer, input_size, to)
    for unit in sorted(one for one in chosen if answer.elements(one).any()):
        found = _by_nan(turns_nan, answer, unit, draw)
        if found:
            return found
    return None


def _by_nan(
    turns_nan: Callable[[Bools, tuple[int, ...]], bool],
    answer: Fields,
    unit: tuple[int, ...],
    draw: np.random.Generator,
) -> Disagreement | None:
    outside = ~answer.region(*unit, idle=True)
    if turns_nan(outside, unit):
        while outside.sum() > 1:  # which position is it? halve them until one is left
            half = np.zeros_like(outside)
            half[tuple(np.argwhere(outside)[: outside.sum() // 2].T)] = True
            outside = half if turns_nan(half, unit) else outside & ~half
        (place,) = np.argwhere(outside)
        return Disagreement("NaN", unit, tuple(place.tolist()), True)
    if answer.traced.compares:
        return None
    inside = np.argwhere(answer.region(*unit))
    ends = [inside[[n.argmin(), n.argmax()]] for n in inside.T if len(inside)]
    for place in np.concatenate([*ends, draw.permutation(inside)[:2]]):
        one = np.zeros_like(outside)
        one[tuple(place)] = True
        if not turns_nan(one, unit):
            return Disagreement("NaN", unit, tuple(place.tolist()), False)
    return None


def _real(
    model: nn.Module, answer: Fields, input_size: Sequence[int], to: str | None
) -> Callable[[Bools, tuple[int, ...]], bool]:
    """Return a function that runs the network with NaN at positions of the input."""
    weights = [*model.parameters(), *model.buffers()]
    if any(weight.is_meta for weight in weights):
        raise ValueError("a network on the meta device has no weights to run with")
    noise = torch.Generator().manual_seed(0)
    example = torch.randn(1, *input_size, generator=noise)
    device = next(iter(weights), example).device
    own = next((one.dtype for one in weights if one.is_floating_point()), torch.float32)
    for dtype in (torch.float64, own):  # some insist on their own
        try:
            network = copy.deepcopy(model).to(dtype).eval()
            clean, calls = _run(network, example.to(device, dtype), to)
            break
        except (RuntimeError, TypeError) as error:
            failure = error
    else:
        line = str(failure).splitlines()[0]
        raise ValueError(f"the network does not run on noise, or as a copy: {line}")
    if clean.isnan().any():
        raise ValueError("the network gives NaN of itself, so that NaN tells nothing")

    def turns_nan(places: Bools, unit: tuple[int, ...]) -> bool:
        x = example.masked_fill(torch.from_numpy(places), math.nan).to(device, dtype)
        values, _ = _run(network, x, to, calls)
        belongs = answer.elements(unit).reshape(values.shape)
        return bool(values[belongs.to(values.device)].isnan().any())

    return turns_nan


def _run(
    network: nn.Module, x: Tensor, to: str | None, calls: int = 0
) -> tuple[Tensor, int]:
    """Return the output ``to`` of a network, or that of a module in it, and its calls.

    The network ends at the last of ``calls`` calls of that module, if they are known:
    what follows may not stand NaN.
    """
    caught: list[Any] = []
    hooks = []

    def catch(_module: nn.Module, _inputs: Any, result: Any) -> None:
        caught.append(result)
        if len(caught) == calls:
            raise Reached

    every = dict(network.named_modules(remove_duplicate=False))
    if to in every:
        if len(names := [name for name in every if every[name] is every[to]]) > 1:
            raise ValueError(f"{', '.join(names)} are one module: give it one name")
        hooks.append(every[to].register_forward_hook(catch))
    default = torch.get_default_dtype()
    torch.set_default_dtype(x.dtype)  # of constants that the network makes
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs = by_place(network(x))
    except Reached:
        outputs = {}
    finally:
        torch.set_default_dtype(default)
        for hook in hooks:
            hook.remove()
    if to in outputs:  # and not the module of that name
        caught.clear()
    elif caught:
        outputs = {str(to): caught[-1]}
    name = next(iter(outputs)) if to is None else to
    found = outputs.get(name)
    if not isinstance(found, Tensor):
        raise ValueError(f"{name!r} is no output, and no module that gives one tensor")
    return found, len(caught)
