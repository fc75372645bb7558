"""From a network to maps: trace it once, then apply a rule to each operation."""

import traceback
import warnings
from contextlib import redirect_stderr
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from dilated_lib.fields.tracing import (
    _mixing as _mixing,  # enters its rules, and so do:
)
from dilated_lib.fields.tracing import _places as _places
from dilated_lib.fields.tracing import _positions as _positions
from dilated_lib.fields.tracing._maps import Digit, Map, one_of, same
from dilated_lib.fields.tracing._rules import RULES, Call, Rule, maps_in, pointwise
from dilated_lib.fields.tracing._signals import Signal, TracingError


@dataclass(frozen=True)
class Graph:
    """A traced network: its operations in order, and its outputs by name."""

    module: fx.GraphModule
    outputs: dict[str, fx.Node]

    @property
    def nodes(self) -> list[fx.Node]:
        """All nodes, in the order in which they run."""
        return list(self.module.graph.nodes)

    @property
    def input(self) -> fx.Node:
        """The placeholder of the input; those before it are of the weights."""
        return [node for node in self.nodes if node.op == "placeholder"][-1]

    def find(self, name: str) -> fx.Node:
        """An output, the last value computed in a module, or a node of the graph.

        Raises ValueError for a name that is none of them.
        """
        if not isinstance(name, str):
            raise TypeError(f"a module or an output is told by its name, got {name!r}")
        if name in self.outputs:
            return self.outputs[name]
        for node in reversed(self.nodes):
            if name == node.name or name in path_of(node):
                return node
        known = {*self.outputs, *(path for n in self.nodes for path in path_of(n))}
        near = get_close_matches(name, known, 3) or sorted(known)[:3]
        raise ValueError(
            f"the network computes nothing named {name!r}; near to it: "
            + ", ".join(map(repr, near))
        )

    def output(self) -> fx.Node:
        """The only output. Raises ValueError where there are several."""
        if len(self.outputs) != 1:
            names = ", ".join(map(repr, self.outputs)) or "nothing"
            raise ValueError(f"the network returns {names}: choose one with to=…")
        return next(iter(self.outputs.values()))


def path_of(node: fx.Node) -> list[str]:
    """The modules in which a node is computed, from the outermost in."""
    stack = node.meta.get("nn_module_stack", {})
    return [path.split("@")[0] for path, _ in stack.values() if path]


def trace(model: nn.Module, input_size: tuple[int, ...]) -> Graph:
    """The operations of a network in evaluation mode, on an input of that size.

    Nothing is computed. Raises TracingError where it needs the input's values.
    """
    weights = next(model.parameters(), torch.empty(0))
    dtype = weights.dtype if weights.is_floating_point() else torch.float32
    example = torch.empty(1, *input_size, dtype=dtype, device=weights.device)
    state = {module: vars(module).copy() for module in model.modules()}
    try:
        model.eval()
        # with an error, export prints the whole graph
        with redirect_stderr(StringIO()), warnings.catch_warnings(action="ignore"):
            program = torch.export.export(model, (example,), strict=False)
            program = program.run_decompositions({})  # nothing in place any more
            if not all(map(_ruled, program.graph.nodes)):
                program = program.run_decompositions(_parts())
    except Exception as error:
        raise TracingError(_why(model, input_size, error)) from error
    finally:
        for module, was in state.items():  # of training, and what forward() sets
            vars(module).clear()
            vars(module).update(was)
    signature = program.graph_signature
    constants = (
        signature.inputs_to_lifted_tensor_constants | signature.inputs_to_buffers
    )
    values = {**program.state_dict, **program.constants}
    for node in program.graph.nodes:
        if node.name in constants:  # a list of places, say: what it holds matters
            node.meta["val"] = values[constants[node.name]]
    returned = program.graph.output_node().args[0]
    names = program.graph_signature.user_outputs
    tree = pytree.tree_unflatten(list(names), program.call_spec.out_spec)
    by_name = {node.name: node for node in returned if isinstance(node, fx.Node)}
    outputs = {
        place: by_name[name]
        for place, name in by_place(tree).items()
        if name in by_name
    }
    return Graph(program.graph_module, outputs)


def by_place(outputs: Any) -> dict[str, Any]:
    """What a network returns, by names: keys and numbers, "output" for a single one."""
    leaves = pytree.tree_flatten_with_path(outputs)[0]
    return {pytree.keystr(at).strip("[]'.") or "output": one for at, one in leaves}


def _ruled(node: fx.Node) -> bool:
    """Is a node no operation, or one that the analysis knows?"""
    target = node.target
    return not isinstance(target, OpOverload) or _known(target)


def _known(target: OpOverload) -> bool:
    name = _name(target)
    return torch.Tag.pointwise in target.tags or name in RULES or name in CONSTANT


def _parts() -> dict[OpOverload, Any]:
    """How torch itself takes apart the operations that have no rule."""
    table: Any = torch.export.default_decompositions()
    return {target: parts for target, parts in table.items() if not _known(target)}


def _why(model: nn.Module, input_size: tuple[int, ...], error: Exception) -> str:
    """One sentence on the call that stopped the tracing."""
    python, torchs = Path(traceback.__file__).parent, Path(torch.__file__).parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.line
        and frame.filename != __file__
        and Path(frame.filename).parent != python
        and torchs not in Path(frame.filename).parents
    ]
    what = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "data-dependent" in what:
        what = "what it does depends on the values, not only on the size, of its input"
    where = ""
    if frames:
        where = f" at {frames[-1].name}, `{frames[-1].line}`"
    size = " x ".join(map(str, input_size))
    return f"{type(model).__name__} on {size} cannot be traced{where}: {what}"


def follow(graph: Graph, of: fx.Node | None) -> dict[fx.Node, Any]:
    """Every value of the network that depends on the input, or on the node ``of``.

    A value is a :class:`Map`, or a list of them and None.
    """
    values: dict[fx.Node, Any] = {}
    start = of or graph.input
    if not isinstance(start.meta["val"], Tensor):
        raise ValueError(f"{start.name} gives several maps, and so none to begin at")
    if start.meta["val"].dim() < 3:
        shape = tuple(start.meta["val"].shape)
        raise ValueError(f"{start.name} has shape {shape}, and so no axis to follow")
    for node in graph.nodes:
        if node is start:
            values[node] = _input(tuple(node.meta["val"].shape))
        elif node.op == "call_function" and any(
            source in values for source in node.all_input_nodes
        ):
            value = _apply(node, values)
            if value is not None:
                values[node] = value
    return values


def _input(shape: tuple[int, ...]) -> Map:
    """The map in which every position sees itself."""
    axes = shape[2:]
    signal = Signal("input", axes)
    positions = [(Digit(axis, length),) for axis, length in enumerate(axes)]
    return Map((same(shape[0]), same(shape[1]), *positions), one_of(signal))


def _apply(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    def value_of(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [value_of(one) for one in argument]
        if isinstance(argument, fx.Node):
            if argument not in values:
                return _constant(argument).meta.get("val")
            return values[argument]
        return argument

    if node.target is getitem:
        whole, place = values[node.all_input_nodes[0]], int(str(node.args[1]))
        return whole[place] if isinstance(whole, list) else whole
    name = label(node)
    if not isinstance(node.target, OpOverload):
        raise TracingError(f"{name} calls {node.target}, which has no rule")
    what = operation(node)
    if what in CONSTANT:
        return None
    rule = rule_of(node)
    if rule is None:
        raise TracingError(f"{name} calls {node.target}, which has no rule")
    given = named(node, value_of(node.args), node.kwargs)
    arguments = {key: value_of(value) for key, value in given.items()}
    shown = pytree.tree_leaves(node.meta["val"])
    shapes = [tuple(one.shape) for one in shown if isinstance(one, Tensor)]
    call = Call(name, what, arguments, shapes)
    result = rule(call)
    if call.forgotten:
        raise TracingError(f"{name} takes its {call.forgotten[0]} from the input")
    for one, shape in zip(maps_in(result), shapes, strict=False):
        if one.shape != shape:
            raise TracingError(f"{name} gives {shape}, and its rule {one.shape}")
    return result


def _constant(node: fx.Node) -> fx.Node:
    """The node of which one that does not depend on the input is a copy."""
    while isinstance(node.target, OpOverload) and operation(node) in COPIES:
        (node,) = node.all_input_nodes
    return node


def rule_of(node: fx.Node) -> Rule | None:
    """The rule of a node's operation, if there is one."""
    target: Any = node.target
    pointwise_ = torch.Tag.pointwise in target.tags
    return pointwise if pointwise_ else RULES.get(operation(node))


def operation(node: fx.Node) -> str:
    """The name of what a node computes, as in ``torch.ops.aten``, without overload."""
    return _name(node.target)


def _name(target: Any) -> str:
    return str(target._schema.name).partition("::")[2]


def named(node: fx.Node, args: Any, kwargs: Any) -> dict[str, Any]:
    """All arguments of a node's operation by name, left out ones with their default."""
    target: Any = node.target
    places = target._schema.arguments
    given = dict(zip((one.name for one in places), args, strict=False)) | dict(kwargs)
    return {one.name: given.get(one.name, one.default_value) for one in places}


def label(node: fx.Node) -> str:
    """Where a node is computed and what it does, for tables and errors."""
    path = path_of(node)
    return f"{path[-1]} ({node.name})" if path else node.name


def first_shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's output, or of the first."""
    return tuple(pytree.tree_leaves(node.meta["val"])[0].shape)


COPIES = frozenset({"alias", "clone", "detach", "lift_fresh_copy"})
CONSTANT = frozenset(
    {
        *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like"),
        *("randn_like", "new_zeros", "new_ones", "new_full", "new_empty"),
        *("sym_size", "_assert_tensor_metadata"),
    }
)
"""Operations of which only the shape depends on the input."""
