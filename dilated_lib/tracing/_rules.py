"""The table of operations, and the rules of those that work on channels."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dilated_lib.layers import Sampling
from dilated_lib.tracing._joins import cat, join
from dilated_lib.tracing._maps import (
    Digit,
    Map,
    axes_of,
    build,
    map_signals,
    read,
    replace_dim,
)
from dilated_lib.tracing._shapes import flatten, over, permute, reshape
from dilated_lib.tracing._signals import SAME, Along, TracingError


@dataclass(frozen=True)
class Call:
    """One operation: its place in the network, arguments by name, and output shapes.

    A tensor argument is a :class:`Map` where it depends on the input, else a tensor
    without values, of which only the shape is known. ``used`` collects the arguments
    that the rule has looked at, so that none is forgotten.
    """

    name: str
    operation: str
    args: dict[str, Any]
    shapes: list[tuple[int, ...]]
    used: set[str] = field(default_factory=set)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output, or of the first."""
        return self.shapes[0]

    def __getitem__(self, argument: str) -> Any:
        self.used.add(argument)
        return self.args[argument]

    def map(self, argument: str) -> Map:
        """An argument that must depend on the input for the rule to hold."""
        value = self[argument]
        if not isinstance(value, Map):
            raise TracingError(
                f"{self.name} takes its {argument} from a constant, and something "
                "else from the input"
            )
        return value

    @property
    def maps(self) -> list[Map]:
        """All arguments that depend on the input, those in lists too."""
        return [one for name in self.args for one in maps_in(self[name])]

    @property
    def forgotten(self) -> list[str]:
        """Arguments that depend on the input, and that the rule did not look at."""
        return [
            name
            for name, value in self.args.items()
            if name not in self.used and maps_in(value)
        ]


def maps_in(value: Any) -> list[Map]:
    """The maps in an argument or a result, which may be a list."""
    parts = value if isinstance(value, list | tuple) else [value]
    return [part for part in parts if isinstance(part, Map)]


Rule = Callable[[Call], Map | list[Map | None]]
RULES: dict[str, Rule] = {}


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Enter a rule for some of torch's operations, by their names in ``torch.ops``."""

    def enter(function: Rule) -> Rule:
        for operation in operations:
            assert operation not in RULES
            RULES[operation] = function
        return function

    return enter


@rule("hardswish", "prelu", "log_sigmoid_forward", "rrelu")
def pointwise(call: Call) -> Map:
    """Every element from the elements at its place."""
    return join(call.maps, call.shape, call.name)


@rule(
    *("alias", "clone", "contiguous", "detach", "dropout", "expand", "expand_as"),
    *("_to_copy", "to", "lift_fresh_copy", "feature_dropout", "type_as"),
)
def _unchanged(call: Call) -> Map:
    return join(call.maps[:1], call.shape, call.name)


@rule("copy")
def _copy(call: Call) -> Map:
    call.used.add("self")  # it is overwritten
    return join([call.map("src")], call.shape, call.name)


@rule(
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze"),
    *("unsqueeze", "view_as", "_reshape_alias"),
)
def _reshape(call: Call) -> Map:
    return reshape(call.maps[0], call.shape, call.name)


@rule("permute")
def _permute(call: Call) -> Map:
    return permute(call.map("self"), call["dims"])


@rule("transpose", "swapaxes", "t")
def _transpose(call: Call) -> Map:
    m = call.map("self")
    order = [*range(len(m.dims))]
    one, other = call.args.get("dim0", 0), call.args.get("dim1", -1)
    order[one], order[other] = order[other], order[one]
    return permute(m, order)


@rule("pixel_shuffle")
def _pixel_shuffle(call: Call) -> Map:
    m, rate = call.map("self"), call["upscale_factor"]
    *rest, channels, height, width = m.shape
    n, split = len(rest), (channels // rate**2, rate, rate, height, width)
    apart = reshape(m, (*rest, *split), call.name)
    order = (*range(n), *(n + dim for dim in (0, 3, 1, 4, 2)))
    return reshape(permute(apart, order), call.shape, call.name)


@rule("pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> Map:
    m, rate = call.map("self"), call["downscale_factor"]
    *rest, channels, height, width = m.shape
    n = len(rest)
    split = (channels, height // rate, rate, width // rate, rate)
    apart = reshape(m, (*rest, *split), call.name)
    order = (*range(n), *(n + dim for dim in (0, 2, 4, 1, 3)))
    return reshape(permute(apart, order), call.shape, call.name)


@rule("channel_shuffle")
def _channel_shuffle(call: Call) -> Map:
    m, groups = call.map("self"), call["groups"]
    n, channels, *rest = m.shape
    apart = reshape(m, (n, groups, channels // groups, *rest), call.name)
    order = (0, 2, 1, *range(3, 3 + len(rest)))
    return reshape(permute(apart, order), call.shape, call.name)


@rule("cat", "concatenate")
def _cat(call: Call) -> Map:
    parts = [part for part in call["tensors"] if math.prod(part.shape)]
    dim = call["dim"] % len(call.shape)
    maps = [part if isinstance(part, Map) else None for part in parts]
    return cat(maps, [part.shape[dim] for part in parts], dim, call.shape, call.name)


@rule("stack")
def _stack(call: Call) -> Map:
    dim = call["dim"] % len(call.shape)
    maps = []
    for part in call["tensors"]:
        if isinstance(part, Map):
            part = replace(part, dims=(*part.dims[:dim], (), *part.dims[dim:]))
        maps.append(part if isinstance(part, Map) else None)
    return cat(maps, [1] * len(maps), dim, call.shape, call.name)


def take(m: Map, dim: int, places: Any) -> Map:
    """Some of the channels along ``dim``."""
    wide = flatten(m, dim)
    index = (slice(None),) * wide.eaches(dim) + (places,)
    chosen = wide.signals[index]
    place = len(index) - 1
    if chosen.shape[place] == 1:
        return build(replace_dim(wide, dim, ()).dims, chosen.squeeze(place))
    digits = (Digit("each", chosen.shape[place]),)
    return build(replace_dim(wide, dim, digits).dims, chosen)


@rule("select")
def _select(call: Call) -> Map:
    m = call.map("self")
    dim = call["dim"] % len(m.dims)
    return selected(call, m, dim, range(m.shape[dim])[call["index"]])


def selected(call: Call, m: Map, dim: int, index: int) -> Map:
    """One unit or channel along a dimension, which is gone then."""
    one = slices(call, m, dim, index, 1, 1)
    if one.dims[dim]:  # the axis ends here: one unit is left, wherever it is looked for
        gone = dict.fromkeys(axes_of(one.dims[dim]), (SAME, None))
        one = Map(one.dims, map_signals(one, lambda s: read(s, call.name, gone)))
    return replace_dim(one, dim)


@rule("slice")
def _slice(call: Call) -> Map:
    m, dim = call.map("self"), call["dim"] % len(call.map("self").dims)
    start, _, step = slice(call["start"], call["end"], call["step"]).indices(
        m.shape[dim]
    )
    return slices(call, m, dim, start, call.shape[dim], step)


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unbind", "unsafe_split")
def _split(call: Call) -> list[Map | None]:
    m = call.map("self")
    dim = call["dim"] % len(m.dims)
    parts: list[Map | None] = []
    start = 0
    for shape in call.shapes:
        length = shape[dim] if len(shape) == len(m.dims) else 1
        part = slices(call, m, dim, start, length, 1)
        if len(shape) < len(m.dims):
            part = selected(call, m, dim, start)
        parts.append(part)
        start += length
    return parts


def slices(call: Call, m: Map, dim: int, start: int, length: int, step: int) -> Map:
    """Every ``step``-th unit or channel along a dimension, from ``start`` on."""
    if length == m.shape[dim]:
        return m
    if not axes_of(m.dims[dim]):
        stop = start + step * (length - 1) + 1
        return take(m, dim, slice(start, stop, step))
    return over(m, {dim: (Along(Sampling(step, ((start,),))), length)}, call.name)


@rule("slice_scatter")
def _slice_scatter(call: Call) -> Map:
    """One map written into a part of another, along one dimension."""
    dim = call["dim"] % len(call.shape)
    size = call.shape[dim]
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
    whole, part = call["self"], call["src"]
    if step != 1:
        raise TracingError(f"{call.name} writes to every {step}th place only")
    if (start, stop) == (0, size):
        return join([call.map("src")], call.shape, call.name)
    maps: list[Map | None] = []
    sizes = [start, stop - start, size - stop]
    for begin, length in zip((0, start, stop), sizes, strict=True):
        source = part if begin == start and length == stop - start else whole
        if not isinstance(source, Map):
            maps.append(None)
        elif source is part:
            maps.append(part)
        else:
            maps.append(slices(call, source, dim, begin, length, 1) if length else None)
    present = [n for n in range(3) if sizes[n]]
    return cat(
        [maps[n] for n in present],
        [sizes[n] for n in present],
        dim,
        call.shape,
        call.name,
    )


@rule("glu")
def _glu(call: Call) -> Map:
    m = call.map("self")
    dim = call["dim"] % len(m.dims)
    half = call.shape[dim]
    halves = [slices(call, m, dim, start, half, 1) for start in (0, half)]
    return join(halves, call.shape, call.name)
