"""A network of positive weights and sums: its gradients show all that it reads."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from dilated_lib.fields.tracing._graph import first_shape, named, operation, rule_of
from dilated_lib.fields.tracing._mixing import REDUCTIONS
from dilated_lib.fields.tracing._positions import each
from dilated_lib.fields.tracing._report import Fields
from dilated_lib.fields.tracing._rules import pointwise

Bools = NDArray[np.bool_]


def values_of(unit: tuple[int, ...], values: Tensor, answer: Fields) -> Tensor:
    """All that an output tensor holds of one unit: its values in every channel."""
    digits = [digit for dim in answer.traced.map.dims for digit in dim]
    places = [
        unit[digit.role] if isinstance(digit.role, int) else slice(None)
        for digit in digits
    ]
    return values.reshape([digit.length for digit in digits])[tuple(places)]


class _Level(torch.autograd.Function):
    """Values of one size, so that none is lost; gradients too, but for rounding."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return torch.rand(values.shape, dtype=values.dtype) + 0.5  # contiguous

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        reached = gradient.abs() > 1e-9 * gradient.abs().max()
        return reached * (torch.rand_like(gradient) + 0.5)


class Surrogate(fx.Interpreter):
    """The network with positive weights, and a sum in place of each nonlinearity."""

    def __init__(self, answer: Fields, input_size: Sequence[int]) -> None:
        super().__init__(answer.traced.graph.module)
        self.answer, self.value = answer, torch.empty(0)
        self.input = torch.ones(1, *input_size, dtype=torch.float64, requires_grad=True)
        self.run()

    def region(self, unit: tuple[int, ...]) -> Bools:
        """Positions of the input with a gradient of one unit of the output."""
        if not self.value.requires_grad:
            raise ValueError("the output is made of indices or truths: no gradients")
        seen = values_of(unit, self.value, self.answer).sum()
        (gradient,) = torch.autograd.grad(seen, self.input, retain_graph=True)
        result: Bools = (gradient != 0).any(dim=0).any(dim=0).numpy()
        return result

    def run(self) -> None:  # type: ignore[override]
        """Run up to the node that was asked for."""
        traced = self.answer.traced
        self.env[traced.graph.input] = self.input
        for node in traced.graph.nodes:
            if node.op != "placeholder":
                for one in node.all_input_nodes:
                    if one.op == "placeholder" and one not in self.env:
                        self.env[one] = _positive(one.meta["val"])
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


def _positive(weight: Tensor) -> Tensor:
    """A weight without values as positive ones; a list of places as it is."""
    if weight.is_floating_point():
        return torch.rand(weight.shape, dtype=torch.float64) + 0.5
    known = type(weight) is Tensor and not weight.is_meta
    return weight if known else torch.zeros(weight.shape, dtype=weight.dtype)


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
    if name == "instance_norm" and not given["use_input_stats"]:
        return x * 1
    if name == "instance_norm" or "batch_norm" in name:
        batch = () if name == "instance_norm" else (0,)
        return x + x.sum((*batch, *range(2, x.dim())), keepdim=True)
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
