"""From a network to the graph of its operations, without computing anything."""

import copy
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from operator import getitem
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

TOLD = {  # what torch means, by a part of what it says
    "data-dependent": (
        "what it does depends on the values, not only on the size, of its input"
    ),
    "__obj_flatten__": (
        "its weights are packed as whole numbers; give it as it was before quantization"
    ),
    "types: Long, Int": (
        "it takes whole numbers, and is given floats: wrap it in a module that begins "
        "with x.long()"
    ),
    "fake tensor in the exported program": (
        "it changes a tensor where torch cannot follow, as by .data: let it compute a "
        "new one"
    ),
    "register a pytree": (
        "it returns other things than tensors in lists, tuples and dictionaries; to=… "
        "names a layer whose result to take"
    ),
}
ONE_AT_A_TIME = threading.RLock()  # torch.export changes the state of the process


class TracingError(ValueError):
    """Says what the analysis does not understand, since it never guesses."""


@dataclass(frozen=True)
class Graph:
    """A traced network: its operations in order, its inputs, its outputs by name."""

    module: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    outputs: dict[str, fx.Node]

    @property
    def nodes(self) -> list[fx.Node]:
        """List all nodes, in the order in which they run."""
        return list(self.module.graph.nodes)

    def find(self, name: str | None) -> fx.Node:
        """Return an output, the last value in a module or a node; for None the output.

        Raises ValueError for a name that is none of them, and where there is more than
        one output and no name.
        """
        if name is None:
            if len(self.outputs) != 1:
                names = ", ".join(map(repr, self.outputs)) or "nothing"
                raise ValueError(f"the network returns {names}: choose one with to=…")
            return next(iter(self.outputs.values()))
        if not isinstance(name, str):
            raise TypeError(f"a module or an output is told by its name, got {name!r}")
        if name in self.outputs:
            return self.outputs[name]
        for node in reversed(self.nodes):
            if name == node.name or name in path_of(node):
                return node
        known = {*self.outputs, *(path for n in self.nodes for path in path_of(n))}
        near = get_close_matches(name, known) or sorted(known)[:3]
        raise ValueError(
            f"the network computes nothing named {name!r}; near to it: "
            + ", ".join(map(repr, near))
        )


def path_of(node: fx.Node) -> list[str]:
    """Return the modules in which a node is computed, from the outermost in."""
    stack = node.meta.get("nn_module_stack", {})
    return [path for path, _ in stack.values() if path]


def trace(
    model: nn.Module,
    sizes: Sequence[tuple[int, ...]],
    known: Callable[[OpOverload], bool],
    to: str | None = None,
) -> Graph:
    """Return the operations of a network in evaluation mode, on inputs of some sizes.

    What is not ``known`` is taken apart, if torch can. A network that cannot be traced
    as a whole is traced as far as the module ``to``. Raises TracingError where it
    needs the input's values.
    """
    try:
        with ONE_AT_A_TIME, left_alone(model):
            examples = example_inputs(model, sizes)
            try:
                program = _exported(model, examples)
            except Exception:
                if not to or to not in dict(model.named_modules()):
                    raise
                with _stopping_at(model, to):
                    program = _exported(model, examples)
            if any(map(_in_place, program.graph.nodes)):
                program = program.run_decompositions({})
            targets = {node.target for node in program.graph.nodes}
            if not all(known(one) for one in targets if isinstance(one, OpOverload)):
                table: Any = torch.export.default_decompositions()
                taken = {one: how for one, how in table.items() if not known(one)}
                program = program.run_decompositions(taken)
    except Exception as error:
        raise TracingError(why(model, sizes, error)) from error
    return _graph(program, len(sizes))


def example_inputs(
    model: nn.Module, sizes: Sequence[tuple[int, ...]]
) -> tuple[Tensor, ...]:
    """Return inputs of those sizes, of the kind of the network's weights."""
    weights = next(model.parameters(), torch.empty(0))
    dtype = weights.dtype if weights.is_floating_point() else torch.float32
    return tuple(
        torch.empty(1, *size, dtype=dtype, device=weights.device) for size in sizes
    )


def _exported(model: nn.Module, examples: tuple[Tensor, ...]) -> Any:
    jit: Any = torch.jit
    saved: Any = model
    kinds = {type(one) for one in model.modules()}
    if isinstance(model, jit.ScriptModule) or jit.RecursiveScriptModule in kinds:
        from torch._export.converter import TS2EPConverter

        if not isinstance(model, jit.TopLevelTracedModule):
            saved = jit.script(model)  # a part may be a script, and not the whole
        model = TS2EPConverter(saved, examples).convert().module()
    return torch.export.export(model, examples, strict=False)


def _in_place(node: fx.Node) -> bool:
    """Tell whether a node may change its arguments, or calls a graph that may."""
    if node.op != "call_function" or node.target is getitem:
        return False
    return not isinstance(node.target, OpOverload) or node.target._schema.is_mutable


class Reached(BaseException):
    """Stops a network at the module that was asked for."""


@contextmanager
def _stopping_at(model: nn.Module, name: str) -> Iterator[None]:
    """Let a network end at one of its modules, whose result it returns.

    The module raises an exception that the network's own ``forward`` cannot catch.
    torch.fx must then forget the modules that were left that way: it pops none itself.
    """
    inner, whole, results = fx.Tracer.call_module, model.forward, []

    def call_module(tracer: fx.Tracer, *call: Any) -> Any:
        depth = len(tracer.module_stack)
        try:
            return inner(tracer, *call)
        except Reached:
            while len(tracer.module_stack) > depth:
                tracer.module_stack.popitem()
            raise

    def stop(_module: nn.Module, _inputs: Any, result: Any) -> None:
        results.append(result)
        raise Reached

    def forward(*inputs: Tensor) -> Any:
        try:
            return whole(*inputs)
        except Reached:
            return {name: results[-1]}

    hook = model.get_submodule(name).register_forward_hook(stop)
    with patch.object(fx.Tracer, "call_module", call_module):
        vars(model)["forward"] = forward  # `left_alone` takes it off again
        yield
    hook.remove()


@contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Put everything back that tracing changes: modules, and the process.

    A network may make buffers, modules or entries of dictionaries as it runs; while
    traced it would keep tensors without values. Lazy layers could not be put back.
    """
    if any(map(nn.parameter.is_lazy, model.parameters())):
        raise TracingError("lazy layers have no weights yet; run the network once")
    state: list[tuple[dict[str, Any], dict[str, Any], list[tuple[Any, Any]]]] = []
    for module in model.modules():
        values = vars(module)
        kept = [v for v in values.values() if isinstance(v, dict | list | set)]
        if not isinstance(module, torch.jit.ScriptModule):
            state.append((values, {**values}, [(v, copy.copy(v)) for v in kept]))
    weights = [(one, one.data) for one in (*model.parameters(), *model.buffers())]
    generator = torch.random.get_rng_state()
    try:
        with redirect_stderr(StringIO()), warnings.catch_warnings(action="ignore"):
            with suppress(NotImplementedError):  # what torch.export gave has one mode
                model.eval()
            yield
    finally:
        torch.random.set_rng_state(generator)
        for weight, data in weights:
            if weight.is_meta:
                weight.data = data
        for values, before, containers in state:
            values.clear()
            values.update(before)
            for container, items in containers:
                container.clear()
                (container.extend if isinstance(items, list) else container.update)(
                    items
                )


def _graph(program: Any, inputs: int) -> Graph:
    signature = program.graph_signature
    constants = {**signature.inputs_to_lifted_tensor_constants}
    constants |= signature.inputs_to_buffers
    values = {**program.state_dict, **program.constants}
    for node in program.graph.nodes:
        if node.name in constants:  # a list of places, say: what it holds matters
            node.meta["val"] = values[constants[node.name]]
    returned = program.graph.output_node().args[0]
    names = list(signature.user_outputs)
    spec = program.call_spec.out_spec
    tree = pytree.tree_unflatten(names, spec)
    by_name = {node.name: node for node in returned if isinstance(node, fx.Node)}
    placed = by_place(tree).items()
    outputs = {place: by_name[name] for place, name in placed if name in by_name}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    return Graph(program.graph_module, tuple(placeholders[-inputs:]), outputs)


def by_place(outputs: Any) -> dict[str, Any]:
    """Name what a network returns by its keys and numbers; a single one is "output".

    >>> by_place((1, [2, {"k": 3}]))
    {'0': 1, '1.0': 2, '1.1.k': 3}
    """
    leaves = pytree.tree_flatten_with_path(outputs)[0]
    return {
        ".".join(pytree.keystr((key,)).strip("[]'.") for key in at) or "output": one
        for at, one in leaves
    }


def why(model: nn.Module, sizes: Sequence[tuple[int, ...]], error: Exception) -> str:
    """Write one sentence on the call that stopped the tracing."""
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
    what = next((told for sign, told in TOLD.items() if sign in what), what)
    if isinstance(error, RecursionError):
        what = f"it is nested deeper than Python's limit of {sys.getrecursionlimit()}"
    where = f" at {frames[-1].name}, `{frames[-1].line}`" if frames else ""
    size = " and ".join(" x ".join(map(str, one)) for one in sizes)
    return f"{type(model).__name__} on {size} cannot be traced{where}: {what}"


def operation(node: fx.Node) -> str:
    """Return the name of what a node computes, as in ``torch.ops.aten``."""
    return name_of(node.target)


def name_of(target: Any) -> str:
    """Return the name of an operation without its library and overload."""
    schema = getattr(target, "_schema", None)
    return str(schema.name).partition("::")[2] if schema else str(target)


def named(target: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return all arguments of an operation by name, left out ones with defaults."""
    places = target._schema.arguments
    given = dict(zip((one.name for one in places), args, strict=False)) | dict(kwargs)
    return {one.name: given.get(one.name, one.default_value) for one in places}


def label(node: fx.Node) -> str:
    """Say where a node is computed and what it does, for tables and errors."""
    path = path_of(node)
    return f"{path[-1]} ({node.name})" if path else node.name


def shapes_of(node: fx.Node) -> list[tuple[int, ...]]:
    """Return the shapes of a node's results."""
    shown = pytree.tree_leaves(node.meta["val"])
    return [tuple(one.shape) for one in shown if isinstance(one, Tensor)]
