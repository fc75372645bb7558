"""The table of operations, and the rules of those that compute or arrange elements."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dilated_lib.fields.tracing._joins import cat, join
from dilated_lib.fields.tracing._maps import Map
from dilated_lib.fields.tracing._shapes import permute, reshape
from dilated_lib.fields.tracing._signals import TracingError


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


Rule = Callable[[Call], Map | list[Map | None] | None]
RULES: dict[str, Rule] = {}


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Enter a rule for some of torch's operations, by their names in ``torch.ops``."""

    def enter(function: Rule) -> Rule:
        for operation in operations:
            assert operation not in RULES
            RULES[operation] = function
        return function

    return enter


@rule("hardswish", "log_sigmoid_forward", "rrelu")
def pointwise(call: Call) -> Map:
    """Every element from the elements at its place."""
    return join(call.maps, call.shape, call.name)


@rule(
    *("alias", "clone", "contiguous", "detach", "dropout", "expand", "expand_as"),
    *("_to_copy", "to", "lift_fresh_copy", "feature_dropout", "type_as"),
)
def _unchanged(call: Call) -> Map:
    return join(call.maps[:1], call.shape, call.name)


@rule("prelu", "_prelu_kernel")
def _prelu(call: Call) -> Map:
    return join([call.map("self")], call.shape, call.name)


@rule("copy")
def _copy(call: Call) -> Map | None:
    call.used.add("self")  # it is overwritten
    src = call["src"]
    return join([src], call.shape, call.name) if isinstance(src, Map) else None


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
