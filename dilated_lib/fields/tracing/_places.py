"""Rules of the operations that take parts of a map, or write into them."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dilated_lib.fields.tracing._joins import cat, join
from dilated_lib.fields.tracing._maps import (
    Digit,
    Map,
    axes_of,
    build,
    map_signals,
    read,
    replace_dim,
)
from dilated_lib.fields.tracing._rules import Call, rule
from dilated_lib.fields.tracing._shapes import flatten, over
from dilated_lib.fields.tracing._signals import SAME, Along, TracingError
from dilated_lib.fields.windows import Sampling


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
def _slice_scatter(call: Call) -> Map | None:
    dim = call["dim"] % len(call.shape)
    size = call.shape[dim]
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
    if step != 1:
        raise TracingError(f"{call.name} writes to every {step}th place only")
    return _written(call, call["src"], dim, start, stop)


@rule("select_scatter")
def _select_scatter(call: Call) -> Map | None:
    dim = call["dim"] % len(call.shape)
    start = range(call.shape[dim])[call["index"]]
    src = call["src"]
    if isinstance(src, Map):
        src = replace(src, dims=(*src.dims[:dim], (), *src.dims[dim:]))
    return _written(call, src, dim, start, start + 1)


def _written(call: Call, src: Any, dim: int, start: int, stop: int) -> Map | None:
    """One map, or constants, written into a part of another, along one dimension."""
    size, whole = call.shape[dim], call["self"]
    if (start, stop) == (0, size):
        return join([src], call.shape, call.name) if isinstance(src, Map) else None

    def kept(begin: int, end: int) -> Map | None:
        if not isinstance(whole, Map):
            return None
        return slices(call, whole, dim, begin, end - begin, 1)

    parts = [(src if isinstance(src, Map) else None, stop - start)]
    if start > 0:
        parts.insert(0, (kept(0, start), start))
    if stop < size:
        parts.append((kept(stop, size), size - stop))
    maps, sizes = zip(*parts, strict=True)
    return cat(maps, sizes, dim, call.shape, call.name)


@rule("index")
def _index(call: Call) -> Map:
    m, lists = call.map("self"), call["indices"]
    dims = [dim for dim, one in enumerate(lists) if one is not None]
    if len(dims) > 1:
        raise TracingError(f"{call.name} takes places by several lists")
    return _listed(call, m, dims[0], lists[dims[0]])


@rule("index_select")
def _index_select(call: Call) -> Map:
    m = call.map("self")
    return _listed(call, m, call["dim"] % len(m.dims), call["index"])


def _listed(call: Call, m: Map, dim: int, places: Any) -> Map:
    """Channels by a list of their numbers."""
    if axes_of(m.dims[dim]):
        raise TracingError(f"{call.name} takes positions by a list")
    if type(places) is not Tensor or places.is_meta or places.dtype == torch.bool:
        raise TracingError(
            f"{call.name} takes channels by a list that is computed, or of truths"
        )
    return take(m, dim, places.reshape(-1).tolist())


@rule("flip")
def _flip(call: Call) -> Map:
    m = call.map("self")
    for dim in call["dims"]:
        if axes_of(m.dims[dim]):
            raise TracingError(f"{call.name} turns an axis round")
        m = take(m, dim % len(m.dims), slice(None, None, -1))
    return m


@rule("roll")
def _roll(call: Call) -> Map:
    m = call.map("self")
    if not call["dims"]:
        raise TracingError(f"{call.name} rolls over the borders of dimensions")
    layers = {}
    shifts: Counter[int] = Counter()
    for shift, dim in zip(call["shifts"], call["dims"], strict=True):
        shifts[dim % len(m.dims)] += shift
    for dim, shift in shifts.items():
        if axes_of(m.dims[dim]):
            along = Along(Sampling(1, ((-shift,),)), "circular")
            layers[dim] = (along, m.shape[dim])
        else:
            m = take(m, dim, np.roll(np.arange(m.shape[dim]), shift))
    return over(m, layers, call.name)


@rule("repeat")
def _repeat(call: Call) -> Map:
    m, times = call.map("self"), call["repeats"]
    m = replace(m, dims=((),) * (len(times) - len(m.dims)) + m.dims)
    for dim, count in enumerate(times):
        if count > 1:
            sizes = [m.shape[dim]] * count
            shape = (*m.shape[:dim], sum(sizes), *m.shape[dim + 1 :])
            m = cat([m] * count, sizes, dim, shape, call.name)
    return m


@rule("glu")
def _glu(call: Call) -> Map:
    m = call.map("self")
    dim = call["dim"] % len(m.dims)
    half = call.shape[dim]
    halves = [slices(call, m, dim, start, half, 1) for start in (0, half)]
    return join(halves, call.shape, call.name)
