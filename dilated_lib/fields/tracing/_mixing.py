"""Rules of the operations that take much together: norms, sums, products, attention."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dilated_lib.fields.tracing._joins import join, mix
from dilated_lib.fields.tracing._maps import Map, axes_of, replace_dim, same
from dilated_lib.fields.tracing._rules import Call, rule
from dilated_lib.fields.tracing._shapes import permute, reshape
from dilated_lib.fields.tracing._signals import TracingError


def normalise(call: Call, m: Map, dims: Sequence[int]) -> Map:
    """Every element from itself and from all others along ``dims``."""
    mixed = mix(m, dims, call.name)
    keep = any(axes_of(m.dims[dim]) for dim in dims)  # positions stay, unbounded
    return join([m, mixed] if keep else [mixed], call.shape, call.name)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(call: Call) -> Map:
    return normalise(call, call.map("self"), [call["dim"]])


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def _layer_norm(call: Call) -> Map:
    m = call.map("input")
    return normalise(call, m, range(-len(call["normalized_shape"]), 0))


@rule("group_norm")
def _group_norm(call: Call) -> Map:
    m, groups = call.map("input"), call["num_groups"]
    channels, *rest = m.shape[1:]
    apart = reshape(m, (m.shape[0], groups, channels // groups, *rest), call.name)
    every = mix(apart, range(2, len(apart.dims)), call.name)
    whole = join([apart, every], apart.shape, call.name)
    return reshape(whole, call.shape, call.name)


@rule("instance_norm")
def _instance_norm(call: Call) -> Map:
    m = call.map("input")
    if not call["use_input_stats"]:
        return m
    return normalise(call, m, range(2, len(m.dims)))


@rule(
    *("batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
)
def _batch_norm(call: Call) -> Map:
    if call.args.get("training") or call.args.get("running_mean") is None:
        m = call.map("input")
        return normalise(call, m, [0, *range(2, len(m.dims))])
    return call.map("input")


REDUCTIONS = (
    *("mean", "sum", "amax", "amin", "prod", "var", "std", "logsumexp", "norm"),
    *("linalg_vector_norm", "max", "min", "argmax", "argmin", "median", "all", "any"),
    *("nansum", "var_mean", "std_mean"),
)
"""Operations that take everything along some dimensions together."""


@rule(*REDUCTIONS)
def _reduce(call: Call) -> Map:
    m = call.maps[0]
    dims = call.args.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or range(len(m.dims))
    places = {dim % len(m.dims) for dim in dims}
    mixed = mix(m, places, call.name)
    if len(call.shape) == len(m.dims):
        return mixed
    kept = tuple(dim for n, dim in enumerate(mixed.dims) if n not in places)
    return replace(mixed, dims=kept)


def contract(call: Call, terms: Sequence[tuple[Any, str]], out: str) -> Map:
    """A product of tensors summed over the letters that ``out`` does not name."""
    maps: list[Map] = []
    for tensor, letters in terms:
        if not isinstance(tensor, Map):
            continue
        if len(set(letters)) < len(letters):
            raise TracingError(f"{call.name} takes a diagonal")
        summed = [n for n, letter in enumerate(letters) if letter not in out]
        m = mix(tensor, summed, call.name)
        # an axis in two dimensions: every position with every other, as attention has
        twice = [
            n
            for n, letter in enumerate(letters)
            for axis in axes_of(m.dims[n])
            if any(
                axis in axes_of(one.dims[place]) and out[place] != letter
                for one in maps
                for place in range(len(out))
            )
        ]
        if any(axes_of(one.dims[out.find(letters[n])]) for n in twice for one in maps):
            raise TracingError(f"{call.name} multiplies a map with itself turned round")
        m = mix(m, twice, call.name) if twice else m
        dims = {letter: m.dims[n] for n, letter in enumerate(letters)}
        order = [n for letter in out for n in [letters.find(letter)] if n >= 0]
        kept = permute(m, [*order, *(n for n in range(len(letters)) if n not in order)])
        maps.append(Map(tuple(dims.get(letter, ()) for letter in out), kept.signals))
    return join(maps, call.shape, call.name)


@rule("linear")
def _linear(call: Call) -> Map:
    m = mix(call.map("input"), [-1], call.name)
    return replace_dim(m, -1, same(call.shape[-1]))


@rule("matmul", "bmm", "mm", "addmm", "baddbmm")
def _matmul(call: Call) -> Map:
    *added, one, other = (call[name] for name in call.args if name not in _SCALES)
    batch = "abcdefgh"[: max(len(one.shape), len(other.shape)) - 2]
    left = (batch + "ik")[-len(one.shape) :] if len(one.shape) > 1 else "k"
    right = (batch + "kj")[-len(other.shape) :] if len(other.shape) > 1 else "k"
    out = batch + ("i" if "i" in left else "") + ("j" if "j" in right else "")
    product = contract(call, [(one, left), (other, right)], out)
    return join(
        [*(m for m in added if isinstance(m, Map)), product], call.shape, call.name
    )


_SCALES = ("beta", "alpha", "out_dtype")


@rule("einsum")
def _einsum(call: Call) -> Map:
    equation = call["equation"].replace(" ", "")
    if "." in equation or "->" not in equation:
        raise TracingError(f"{call.name}: einsum {equation!r} is not written out")
    left, out = equation.split("->")
    return contract(call, [*zip(call["tensors"], left.split(","), strict=True)], out)


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> Map:
    if call["is_causal"]:
        raise TracingError(f"{call.name} is causal: each position sees those before it")
    query = mix(call.map("query"), [-1], call.name)
    key = mix(call.map("key"), [-2, -1], call.name)
    value = mix(call.map("value"), [-2], call.name)
    return join([query, key, value], call.shape, call.name)
