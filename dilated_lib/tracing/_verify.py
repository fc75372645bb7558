"""Does the analysis agree with the real network? Two measurements, no formula."""

import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from dilated_lib.tracing._graph import first_shape, named, operation, rule_of
from dilated_lib.tracing._mixing import REDUCTIONS
from dilated_lib.tracing._positions import each
from dilated_lib.tracing._report import Fields, receptive_field
from dilated_lib.tracing._rules import pointwise
from dilated_lib.tracing._signals import TracingError

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

    For the corners, the middle and ``units`` random units of the output,

    - by NaN: the unmodified network is run in float64 with NaN outside the unit's
      region, where the unit must stay finite, and then with a NaN at single positions
      of it, each of which must make the unit NaN;
    - by gradient: every weight becomes positive and every nonlinearity a sum, so that
      nothing cancels and no branch is closed; the positions with a gradient must be
      the region, exactly.

    ``to`` is as in :func:`receptive_field`, for modules that return one tensor.
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        surrogate = _Surrogate(answer, input_size)
        turns_nan = _real(model, answer, input_size, to)
        for unit in sorted(chosen):
            found = _by_gradient(surrogate, answer, unit)
            found = found or _by_nan(turns_nan, answer, unit, draw)
            if found:
                return found
    return None


def _by_gradient(
    surrogate: "_Surrogate", answer: Fields, unit: tuple[int, ...]
) -> Disagreement | None:
    measured, analysed = surrogate.region(unit), answer.region(*unit)
    for place in np.argwhere(measured != analysed):
        position = tuple(place.tolist())
        return Disagreement("gradient", unit, position, bool(measured[position]))
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
    inside = np.argwhere(answer.region(*unit))
    for place in [*inside[:1], *inside[-1:], *draw.permutation(inside)[:2]]:
        one = np.zeros_like(outside)
        one[tuple(place)] = True
        if not turns_nan(one, unit):
            return Disagreement("NaN", unit, tuple(place.tolist()), False)
    return None


def _unit(values: Tensor, answer: Fields, unit: tuple[int, ...]) -> Tensor:
    """All that an output tensor holds of one unit: its values in every channel."""
    digits = [digit for dim in answer.traced.map.dims for digit in dim]
    places = []
    for digit in digits:
        if isinstance(digit.role, frozenset):
            raise TracingError(
                "positions and other things share a dimension of the output, so that "
                "no unit of it can be looked at"
            )
        places.append(unit[digit.role] if isinstance(digit.role, int) else slice(None))
    return values.reshape([digit.length for digit in digits])[tuple(places)]


def _real(
    model: nn.Module, answer: Fields, input_size: Sequence[int], to: str | None
) -> Callable[[Bools, tuple[int, ...]], bool]:
    """A function that runs the network with NaN at some positions of the input."""
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError("a network on the meta device has no weights to run with")
    network = copy.deepcopy(model).double().eval()
    caught: list[Any] = []
    if to in dict(network.named_modules()):
        network.get_submodule(str(to)).register_forward_hook(
            lambda module, inputs, output: caught.append(output)
        )
    device = next(network.parameters(), torch.empty(0)).device
    noise = torch.Generator().manual_seed(0)
    example = torch.randn(1, *input_size, dtype=torch.float64, generator=noise)

    def turns_nan(places: Bools, unit: tuple[int, ...]) -> bool:
        x = example.masked_fill(torch.from_numpy(places), math.nan).to(device)
        with torch.no_grad():
            result = network(x)
        result = caught[-1] if caught else result
        caught.clear()
        if isinstance(result, Mapping):
            result = result[to] if to in result else next(iter(result.values()))
        return bool(_unit(result, answer, unit).isnan().any())

    return turns_nan


class _Level(torch.autograd.Function):
    """Values of one size, so that none is lost; gradients too, but for rounding."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return torch.rand_like(values) + 0.5

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        reached = gradient.abs() > 1e-9 * gradient.abs().max()
        return reached * (torch.rand_like(gradient) + 0.5)


class _Surrogate(fx.Interpreter):
    """The network with positive weights, and a sum in place of each nonlinearity."""

    def __init__(self, answer: Fields, input_size: Sequence[int]) -> None:
        super().__init__(answer.traced.graph.module)
        self.answer, self.value = answer, torch.empty(0)
        self.input = torch.ones(1, *input_size, dtype=torch.float64, requires_grad=True)
        self.run()

    def region(self, unit: tuple[int, ...]) -> Bools:
        """Positions of the input with a gradient of one unit of the output."""
        seen = _unit(self.value, self.answer, unit).sum()
        (gradient,) = torch.autograd.grad(seen, self.input, retain_graph=True)
        result: Bools = (gradient != 0).any(dim=0).any(dim=0).numpy()
        return result

    def run(self) -> None:  # type: ignore[override]
        """Run up to the node that was asked for."""
        traced = self.answer.traced
        for node in traced.graph.nodes:
            if node is traced.graph.input:
                self.env[node] = self.input
            elif node.op == "placeholder":
                shown = node.meta["val"]
                weight = torch.zeros(shown.shape, dtype=shown.dtype)
                if shown.is_floating_point():
                    weight = torch.rand(shown.shape, dtype=torch.float64) + 0.5
                self.env[node] = weight
            else:
                self.env[node] = self._leveled(node)
            if node is traced.node:
                self.value = self.env[node]
                return

    def _leveled(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": "cpu"}
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if _depends(x)]
        target: Any = node.target
        if target is torch.ops.aten._assert_tensor_metadata.default:  # single precision
            return None
        if not inputs or target is operator.getitem:
            return pytree.tree_map(_doubled, target(*args, **kwargs))
        given = named(node, args, kwargs)
        shape = first_shape(node)
        if rule_of(node) is pointwise:
            result: Any = torch.stack([one.expand(shape) for one in inputs]).sum(0)
        else:
            result = _summed(operation(node), given, inputs, shape)
        if result is None:
            result = target(*args, **kwargs)
        elif isinstance(node.meta["val"], list | tuple):
            result = (result, *node.meta["val"][1:])
        return pytree.tree_map(lambda x: _Level.apply(x) if _depends(x) else x, result)


def _doubled(value: Any) -> Any:
    single = isinstance(value, Tensor) and value.dtype == torch.float32
    return value.double() if single else value


def _depends(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _summed(
    name: str, given: dict[str, Any], inputs: list[Tensor], shape: tuple[int, ...]
) -> Tensor | None:
    """The sum of all that a nonlinear operation reads; None for a linear one."""
    x = inputs[0]
    if name.startswith("max_pool"):
        return _summed_windows(x, given, int(name[8]))
    if name.startswith("adaptive_max_pool"):
        average: Tensor = getattr(F, name.replace("max", "avg"))(x, shape[2:])
        return average
    if "softmax" in name:
        return x.sum(given["dim"], keepdim=True).expand(shape)
    if "batch_norm" in name and given.get("running_mean") is not None:
        return x * 1
    if name == "layer_norm":
        return x + x.sum(tuple(range(-len(given["normalized_shape"]), 0)), keepdim=True)
    if name == "group_norm":
        groups = x.reshape(len(x), given["num_groups"], -1)
        groups = groups + groups.sum(-1, keepdim=True)
        return groups.reshape(shape)
    if name == "instance_norm" or "batch_norm" in name:
        return x + x.sum(tuple(range(2, x.dim())), keepdim=True)
    if name == "scaled_dot_product_attention":
        query, key, value = (given[one] for one in ("query", "key", "value"))
        read = [query.sum(-1, True), key.sum((-2, -1), True), value.sum(-2, True)]
        return torch.stack([one.expand(shape) for one in read]).sum(0)
    if name in REDUCTIONS:
        dims = given.get("dim")
        total: Tensor = x.sum(dims) if dims not in (None, []) else x.sum()
        return total.reshape(shape)
    if name == "copy":
        return inputs[-1].expand(shape) * 1
    if name == "glu":
        return sum(x.chunk(2, given["dim"]), torch.zeros(shape, dtype=x.dtype))
    return None


def _summed_windows(x: Tensor, given: dict[str, Any], rank: int) -> Tensor:
    """What max pooling reads, summed: one strided slice for each tap."""
    kernel, stride, pads, dilation = (
        each(given.get(name) or default, rank)
        for name, default in (
            ("kernel_size", 1),
            ("stride", given["kernel_size"]),
            ("padding", 0),
            ("dilation", 1),
        )
    )
    for n in range(rank):
        dim = x.dim() - rank + n
        span = dilation[n] * (kernel[n] - 1)
        # as far as the last window may reach over the end, where it is rounded up
        edges = [0, 0] * (rank - 1 - n) + [pads[n], pads[n] + span + stride[n]]
        wide, length = F.pad(x, edges), x.shape[dim]
        reach = length + 2 * pads[n] - span - 1
        units = reach // stride[n] + 1
        if given.get("ceil_mode"):
            units = -(-reach // stride[n]) + 1
            units -= (units - 1) * stride[n] >= length + pads[n]
        x = sum(
            wide.narrow(dim, dilation[n] * tap, (units - 1) * stride[n] + 1)
            .unfold(dim, 1, stride[n])
            .squeeze(-1)
            for tap in range(kernel[n])
        )  # type: ignore[assignment]
    return x
