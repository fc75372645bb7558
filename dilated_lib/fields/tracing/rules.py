"""What each operation reads: one rule for every kind, for both algebras.

What only moves elements needs no rule: torch runs it (``MOVES``). What computes element
by element is a union. The rest is a window or a resampling along dimensions, or takes
whole dimensions together. An operation without a rule is understood only where all that
it gets already sees everything: so does what it makes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from dilated_lib.fields.layers import Along, adaptive, along, resampled, windows
from dilated_lib.fields.tracing import reach
from dilated_lib.fields.tracing.export import (
    TracingError,
    label,
    name_of,
    named,
    shapes_of,
)
from dilated_lib.fields.tracing.reach import Shape
from dilated_lib.fields.windows import Sampling, Window

Map = Any  # a Hull or a Sum: a rule is the same for both


@dataclass(frozen=True)
class Call:
    """One operation: its arguments by name, the shapes of its results, the algebra.

    An argument that depends on the input is a map; of another tensor only the shape is
    known. ``used`` collects what the rule has looked at, so that none is forgotten.
    """

    operation: str
    args: dict[str, Any]
    shapes: list[Shape]
    algebra: Any  # Hulls or Sums
    used: set[str] = field(default_factory=set)

    @property
    def shape(self) -> Shape:
        """Return the shape of the result, or of the first."""
        return self.shapes[0]

    def __getitem__(self, argument: str) -> Any:
        self.used.add(argument)
        return self.args[argument]

    def map(self, argument: str = "self") -> Map:
        """Return an argument that must depend on the input for the rule to hold."""
        if not is_map(self[argument]):
            raise TracingError(f"takes its {argument} from a constant, and others not")
        return self[argument]

    @property
    def maps(self) -> list[Map]:
        """List all arguments that depend on the input, those in lists too."""
        return [one for name in self.args for one in maps_in(self[name])]

    def union(self, *maps: Map, shape: Shape = (), all_count: bool = False) -> Map:
        """Take maps together element by element."""
        return self.algebra.union(maps, shape or self.shape, all_count=all_count)

    def over(self, one: Map, layers: Sequence[Along]) -> Map:
        """Apply a layer along each of the last dimensions."""
        for dim, layer in enumerate(layers, len(self.shape) - len(layers)):
            one = self.algebra.gather(one, dim, layer, self.shape[dim])
        return one

    def move(self, one: Map, run: Callable[[Tensor], Tensor]) -> Map:
        """Put the same elements in other places."""
        return self.algebra.move([one], lambda planes, _: run(planes[0]))


def is_map(value: Any) -> bool:
    """Tell whether a value depends on the input."""
    return isinstance(value, reach.Hull | reach.Sum)


def maps_in(value: Any) -> list[Map]:
    """List the maps in an argument or a result, which may be a list."""
    return [one for one in pytree.tree_leaves(value) if is_map(one)]


# --- windows and resampling -----------------------------------------------------------


def shift(by: int, border: str = "blank", *, step: int = 1) -> Along:
    """Return a layer whose units read from position ``by`` on, every ``step``-th."""
    return Along(Sampling(step, ((by,),)), border)


def convolution(call: Call) -> Map:
    """Read the channels of each one's group, and the window of each unit.

    Of a kernel that is itself made of the input, each unit reads the whole.
    """
    found, groups, read = convolution_windows(call), call["groups"], []
    dim = len(call.shape) - len(found) - 1
    for one in maps_in(call["input"]):
        out, size = call.shape[dim], one.shape[dim] // groups
        if groups == 1:
            one = call.algebra.reduce(one, [dim])
        elif not groups == out == one.shape[dim]:
            table = Sampling(size, (tuple(range(size)),) * (out // groups))
            one = call.algebra.gather(one, dim, Along(table), out)
        read.append(call.over(one, [*map(along, found)]))
    for kernel in maps_in(call["weight"]):
        whole = call.algebra.reduce(kernel, range(len(kernel.shape)))
        read.append(call.move(whole, torch.flatten))
    return call.union(*read)


def convolution_windows(call: Call) -> list[Window]:
    """Return a convolution's window along each axis, transposed or not."""
    taps = call.args["weight"].shape[2:]
    transposed = call.args.get("transposed", "transpose" in call.operation)
    return windows(
        list(taps),
        call["stride"],
        padding=call["padding"],
        dilation=call["dilation"],
        transposed=transposed,
        output_padding=call["output_padding"] if transposed else 0,
        rank=len(taps),
    )


def pool(call: Call) -> Map:
    """Read the window of each unit."""
    return call.over(call.map(), [*map(along, pool_windows(call))])


def pool_windows(call: Call, rank: int = 0) -> list[Window]:
    """Return the window of a pooling, or of what folds, along each axis."""
    taps, given = call["kernel_size"], call.args.get  # an average has no dilation
    pads, dilation = given("padding") or 0, given("dilation") or 1
    stride, rank = given("stride") or taps, rank or _rank(call)
    return windows(taps, stride, padding=pads, dilation=dilation, rank=rank)


def _rank(call: Call) -> int:
    return int(call.operation.partition("pool")[2][0])


def _adaptive_pool(call: Call) -> Map:
    one, rank = call.map(), _rank(call)
    whole = [dim for dim in range(-rank, 0) if call.shape[dim] == 1]
    one = call.algebra.reduce(one, whole) if whole else one
    sizes = zip(one.shape[-rank:], call.shape[-rank:], strict=True)
    return call.over(one, [Along(adaptive(*pair)) for pair in sizes])


def _resize(call: Call) -> Map:
    (one,), rank = call.maps, len(call.shape) - 2
    kinds = ("nearest_exact", "nearest", "bicubic", "linear")
    kind = next(kind for kind in kinds if kind in call.operation)
    smooth, corners = call.operation.endswith("_aa"), call.args.get("align_corners")
    scales = call.args.get("scale_factors") or [
        call.args.get(f"scales_{axis}", call.args.get("scales"))
        for axis in "dhw"[-rank:]
    ]
    tables = []
    for size, out, scale in zip(one.shape[2:], call.shape[2:], scales, strict=True):
        table = resampled(size, out, kind, scale, bool(corners), smooth)
        if table is None:
            raise TracingError(
                f"resizes {size} to {out} by {scale} with {kind}, and torch's "
                "rounding there is not that of exact arithmetic"
            )
        tables.append(table)
    return call.over(one, tables)


def _pad(call: Call) -> Map:
    pads = call["pad"] if "pad" in call.args else call["padding"]
    modes = {"refl": "reflect", "repl": "replicate", "circ": "circular"}
    border = modes.get(call.args.get("mode", call.operation)[:4], "blank")
    if border == "circular" and min(pads) < 0:
        raise TracingError("crops, and repeats what is left in circles")
    return call.over(call.map(), [shift(-n, border) for n in pads[-2::-2]])


def _roll(call: Call) -> Map:
    one = call.map()
    if not call["dims"]:
        raise TracingError("rolls all dimensions as one: name those to roll")
    for by, dim in zip(call["shifts"], call["dims"], strict=True):
        one = call.algebra.gather(one, dim, shift(-by, "circular"), call.shape[dim])
    return one


def _slice(call: Call) -> Map:
    one, dim, start = call.map(), call["dim"], call["start"] or 0
    first = max(start + one.shape[dim], 0) if start < 0 else start
    layer = shift(first, step=call["step"])
    return call.algebra.gather(one, dim, layer, call.shape[dim])


def _fold(call: Call) -> Map:
    found, sizes = pool_windows(call, 2), call["output_size"]
    taps = [window.kernel_size for window in found]
    counts = [w.output_size(n) for w, n in zip(found, sizes, strict=True)]
    shape = (call.shape[0], -1, *taps, *counts)
    one = call.move(call.map(), lambda p: p.reshape(shape))
    for window, length in zip(found, sizes, strict=True):
        parts, spread = [], along(Window(1, window.stride, transposed=True))
        for tap in range(window.kernel_size):
            part = call.move(one, lambda p, t=tap: p.select(2, t))  # type: ignore[misc]
            size = window.stride * part.shape[3]
            part = call.algebra.gather(part, 3, spread, size)
            start = shift(window.pads[0] - tap * window.dilation)
            parts.append(call.algebra.gather(part, 3, start, length))
        one = call.union(*parts, shape=parts[0].shape)
    return one


def _cat(call: Call) -> Map | None:
    """Put channels side by side; None where it is units that come side by side."""
    dim, parts, before = call["dim"] % len(call.shape), [], 0
    if call.algebra.positions(call.maps, dim):
        return None
    for one in call["tensors"]:
        if is_map(one) and prod(one.shape):
            parts.append(call.algebra.gather(one, dim, shift(-before), call.shape[dim]))
        if prod(one.shape):  # torch leaves empty ones out
            before += one.shape[dim]
    return call.union(*parts)


# --- whole dimensions taken together --------------------------------------------------


def _reduce(call: Call) -> Map:
    """Read whole dimensions, which are then left out, or of whatever length."""
    one, dims = call.maps[0], call.args.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or range(len(one.shape))
    dims = [dim % len(one.shape) for dim in dims]
    whole, kept = call.algebra.reduce(one, dims), len(call.shape) == len(one.shape)
    return call.union(whole) if kept else call.move(whole, lambda p: p.squeeze(dims))


def _with_all(call: Call, one: Map, dims: Sequence[int]) -> Map:
    """Read each element itself and all others along some dimensions."""
    return call.union(one, call.algebra.reduce(one, dims), shape=one.shape)


def _group_norm(call: Call) -> Map:
    one, groups = call.map("input"), call["num_groups"]
    shape = (one.shape[0], groups, -1, *one.shape[2:])
    apart = call.move(one, lambda p: p.reshape(shape))
    whole = _with_all(call, apart, range(2, len(apart.shape)))
    return call.move(whole, lambda p: p.flatten(1, 2))


def _batch_norm(call: Call) -> Map:
    one, first = call.map("input"), 2 if "instance" in call.operation else 0
    own = call.args.get("running_mean") is None or call.args.get("training")
    dims = [*range(first, 1), *range(2, len(one.shape))]
    return _with_all(call, one, dims) if call.args.get("use_input_stats", own) else one


def _recurrent(call: Call) -> list[Map]:
    if "batch_sizes" in call.args:
        raise TracingError("is a recurrent layer on a packed sequence: pass a tensor")
    steps = 1 if call["batch_first"] else 0
    seen = call.algebra.reduce(call.map("input"), [2])
    if call["bidirectional"]:
        seen = call.algebra.reduce(seen, [steps])
    else:
        seen = call.algebra.scan(seen, steps)
    last = call.algebra.reduce(seen, [steps])
    last = call.move(last, lambda p: p.transpose(0, steps))  # (layers, N, channels)
    states = [call.union(last, shape=shape) for shape in call.shapes[1:]]
    return [call.union(seen), *states]


def _matmul(call: Call) -> Map:
    """Read a whole row and a whole column for each element of a product."""
    scales = ("beta", "alpha", "out_dtype")
    *added, left, right = (call[name] for name in call.args if name not in scales)
    row, column = len(left.shape) == 1, len(right.shape) == 1
    read = [call.algebra.reduce(one, [-1]) for one in maps_in(left)]
    read += [call.algebra.reduce(one, [-1 if column else -2]) for one in maps_in(right)]
    if row or column:  # as a matrix of one row or column, which is left out again
        at = len(call.shape) - (not column)
        shape = (*call.shape[:at], 1, *call.shape[at:])
        product = call.union(*read, shape=shape)
        return call.move(product, lambda p: p.squeeze(at))
    return call.union(*maps_in(added), call.union(*read))


def _attention(call: Call) -> Map:
    read = [call.algebra.reduce(one, [-1]) for one in maps_in(call["query"])]
    for name in ("key", "value"):
        for one in maps_in(call[name]):
            if not call["is_causal"] or call.algebra.idle:  # those ahead have weight 0
                one = call.algebra.reduce(one, [-2])
            elif one.shape[-2] == call.shape[-2]:
                one = call.algebra.scan(one, -2)
            else:
                raise TracingError("is causal, with keys of another length")
            read.append(call.algebra.reduce(one, [-1]) if name == "key" else one)
    read += [call.algebra.reduce(one, [-1]) for one in maps_in(call["attn_mask"])]
    return call.union(*read, all_count=True)


# --- the table ------------------------------------------------------------------------


def _copy(call: Call) -> Map | None:
    call.used.add("self")  # it is overwritten
    return call.union(call["src"]) if is_map(call["src"]) else None


def _embedding(call: Call) -> Map:
    return call.union(call.move(call.map("indices"), lambda p: p.unsqueeze(-1)))


def _put(call: Call) -> Map | None:
    """Put one number where a mask says so; None where a list tells the places."""
    (mask, *more), value = call.args["indices"], call.args["values"]
    whole = is_map(mask) and mask.shape == call.shape and len(mask.shape) > 2
    return pointwise(call) if whole and not more and prod(value.shape) == 1 else None


def pointwise(call: Call) -> Map:
    """Read for each element those at its place."""
    return call.union(*call.maps)


Rule = Callable[[Call], Any]
RULES: dict[str, Rule] = {
    "hardswish|log_sigmoid_forward|rrelu|complex|polar|_conj|resolve_conj": pointwise,
    "alias|clone|contiguous|detach|(feature_)?dropout|expand(_as)?|_to_copy|to|type_as|"
    "lift_fresh_copy": lambda call: call.union(*call.maps[:1]),
    "prelu|_prelu_kernel": lambda call: call.map(),
    "copy": _copy,
    "cat|concatenate": _cat,
    "conv[123]d|conv_transpose[123]d|_?convolution": convolution,
    "(max|avg)_pool[123]d(_with_indices)?": pool,
    "_?adaptive_(max|avg)_pool[123]d": _adaptive_pool,
    "_?upsample_(nearest(_exact)?|(bi|tri)?linear|bicubic)[123]d(_aa)?": _resize,
    "pad|constant_pad_nd|(reflection|replication)_pad[123]d": _pad,
    "roll": _roll,
    "slice": _slice,
    "col2im": _fold,
    "mean|sum|amax|amin|prod|var|std|logsumexp|norm|linalg_vector_norm|max|min|argmax|"
    "argmin|median|all|any|nansum|var_mean|std_mean|sort|argsort|topk|kthvalue|mode|"
    "_fft_(r2c|c2c|c2r)": _reduce,
    "cumsum|cumprod|logcumsumexp|cummax|cummin": (
        lambda call: call.algebra.scan(call.map(), call["dim"])
    ),
    "(_safe|_log)?_?softmax|log_softmax": (
        lambda call: _with_all(call, call.map(), [call["dim"]])
    ),
    "(native_)?layer_norm|rms_norm|_fused_rms_norm": lambda call: _with_all(
        call, call.map("input"), range(-len(call["normalized_shape"]), 0)
    ),
    "group_norm": _group_norm,
    "instance_norm|batch_norm|_native_batch_norm_legit(_no_training)?": _batch_norm,
    "lstm|gru|rnn_tanh|rnn_relu": _recurrent,
    "linear": lambda call: call.union(call.algebra.reduce(call.map("input"), [-1])),
    "matmul|bmm|mm|addmm|baddbmm|mv": _matmul,
    "scaled_dot_product_attention": _attention,
    "index_put": _put,
    "embedding": _embedding,
    "view_as_real": lambda call: call.union(
        call.move(call.map(), lambda p: p.unsqueeze(-1))
    ),
    "view_as_complex": lambda call: call.move(
        call.algebra.reduce(call.map(), [-1]), lambda p: p.squeeze(-1)
    ),
}
MOVES = re.compile(
    "(_unsafe_)?view(_as)?|reshape|_reshape_alias|(un)?flatten|(un)?squeeze|permute|t|"
    "transpose|swapaxes|movedim|pixel_(un)?shuffle|channel_shuffle|select|narrow|"
    "(unsafe_|tensor_)?split(_with_sizes)?|chunk|unbind|unfold|(slice|select)_scatter|"
    "index(_put|_select)?|gather|flip|rot90|repeat(_interleave)?|tile|diagonal|cat|"
    "concatenate|stack"
)
PLACES = ("index", "indices", "repeats")  # arguments that say where, not what
CONSTANT = re.compile(  # of which only the shape depends on the input
    "(zeros|ones|full|empty|rand|randn)_like|new_(zeros|ones|full|empty)|sym_size|"
    "_assert_tensor_metadata"
)
WHY = {
    "grid_sampler": "reads positions that values decide",
    "deform_conv2d": "reads positions that values decide",
    "max_unpool": "puts values at positions that other values decide",
    "cond": "goes one of two ways, as values decide",
    "fractional_max_pool": "draws its windows at random",
    "roi_": "reads positions that boxes decide",
    "_local_scalar_dense": "makes a number of a tensor, as .item() does",
    "obs_fq_helper": "rounds by the range of all values that it has met",
}


@cache
def rule_of(target: Any) -> Rule | None:
    """Return the rule of an operation that mixes elements."""
    name = name_of(target)
    if torch.Tag.pointwise in target.tags and "prelu" not in name:
        return pointwise
    return next((rule for key, rule in RULES.items() if re.fullmatch(key, name)), None)


def known(target: OpOverload) -> bool:
    """Tell whether it is known what an operation reads, or why that cannot be."""
    name = name_of(target)
    told = CONSTANT.fullmatch(name) or MOVES.fullmatch(name) or _why(name)
    return bool(rule_of(target) or told)


def _why(name: str) -> str | None:
    return next((text for key, text in WHY.items() if key in name), None)


# --- the graph ------------------------------------------------------------------------


def follow(
    nodes: Sequence[fx.Node], algebra: Any, start: fx.Node, end: fx.Node
) -> dict[fx.Node, Any]:
    """Return every value on a way from ``start`` to ``end``: a map, or maps."""
    needed = {end}
    for node in reversed(nodes):
        if node in needed and node is not start:
            needed.update(node.all_input_nodes)
    values: dict[fx.Node, Any] = {start: algebra.input(shapes_of(start)[0])}
    for node in nodes:
        if node in needed and not values.keys().isdisjoint(node.all_input_nodes):
            try:
                value = apply(node, values, algebra)
            except TracingError as error:
                raise TracingError(f"{label(node)} {error}") from None
            if value is not None:
                values[node] = value
    return values


def apply(node: fx.Node, values: Mapping[fx.Node, Any], algebra: Any) -> Any:
    """Return what a node makes of the values before it; None if nothing is left."""

    def value_of(argument: fx.Node) -> Any:
        return values[argument] if argument in values else constant(argument)

    args: Any = fx.map_arg(node.args, value_of)
    kwargs: Any = fx.map_arg(dict(node.kwargs), value_of)
    if node.target is getitem:
        whole, place = args
        return whole[place] if isinstance(whole, list) else whole
    name = name_of(node.target)
    if CONSTANT.fullmatch(name):
        return None
    shapes = shapes_of(node)
    algebra.begin(node)
    try:
        return _ruled(node.target, args, kwargs, Call(name, {}, shapes, algebra))
    except TracingError:  # of what sees everything, all that is made sees everything
        maps = maps_in((args, kwargs))
        algebra.begin(node)
        results = [algebra.everything(maps, shape) for shape in shapes]
        if None in results or not results:
            raise
        return results if len(results) > 1 else results[0]


def _ruled(target: Any, args: Any, kwargs: Any, call: Call) -> Any:
    why = _why(call.operation)
    if why or not isinstance(target, OpOverload) or not known(target):
        why = why or f"calls {target}, and it is not known which positions that reads"
        raise TracingError(f"{why}; to=… names a layer before it")
    call.args.update(named(target, args, kwargs))
    rule = rule_of(target)
    result = rule(call) if rule else None
    if result is None and MOVES.fullmatch(call.operation):
        return _moved(target, call)
    for key, value in call.args.items():
        if key not in call.used and maps_in(value):
            raise TracingError(f"takes its {key} from the input")
    return result


def _moved(target: OpOverload, call: Call) -> Any:
    """Run torch's own operation on the numbers; what is constant has seen nothing."""
    shape, name, args = call.shape, call.operation, call.args
    if "view" in name or name == "_reshape_alias":
        return call.move(call.maps[0], lambda p: p.reshape(shape))
    places = {key: args[key] for key in PLACES if key in args}
    for place in pytree.tree_leaves(places):
        if is_map(place):
            raise TracingError("takes places that the input decides")
        if isinstance(place, Tensor) and (type(place) is not Tensor or place.is_meta):
            raise TracingError("takes places by a list that is computed")
    if args.get("accumulate"):
        raise TracingError("adds up what it puts at one place")

    def run(planes: list[Tensor], blank: float) -> Any:
        present = iter(planes)

        def plane(value: Any) -> Any:
            if isinstance(value, Tensor):
                return planes[0].new_tensor(blank).expand(value.shape)
            return next(present) if is_map(value) else value

        return target(**{**pytree.tree_map(plane, args), **places})

    return call.algebra.move(call.maps, run)


def constant(node: fx.Node) -> Any:
    """Return the value of a node without the input, or a tensor of its shape.

    Lists of places are computed, if they need no weight.
    """
    shown = node.meta.get("val")
    whole = isinstance(shown, Tensor) and not shown.is_floating_point()
    if type(shown) is Tensor or not (whole and isinstance(node.target, OpOverload)):
        return shown
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), constant)
    leaves = pytree.tree_leaves((args, kwargs))
    if any(type(one) is not Tensor for one in leaves if isinstance(one, Tensor)):
        return shown
    try:
        here = {"device": "cpu"} if kwargs.get("device") else {}
        return node.target(*args, **{**kwargs, **here})
    except (RuntimeError, TypeError):
        return shown
