"""Maps taken together: over dimensions of one, or several element by element."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dilated_lib.fields.tracing._maps import (
    Digit,
    Map,
    Signals,
    array_of,
    axes_of,
    build,
    map_signals,
    one_of,
    read,
    replace_dim,
    same,
    without,
)
from dilated_lib.fields.tracing._passes import sees_all
from dilated_lib.fields.tracing._shapes import flatten, interleaved, over, settle
from dilated_lib.fields.tracing._signals import (
    WHOLE,
    Along,
    Signal,
    TracingError,
    stretched,
    union,
    unvouched,
    vouched,
)
from dilated_lib.fields.windows import Sampling


def mix(m: Map, dims: Iterable[int], name: str) -> Map:
    """Everything along some dimensions taken together; they keep the length 1."""
    places = {dim % len(m.dims) for dim in dims}
    axes: set[int] = set()
    together: list[int] = []
    for dim in places:
        axes |= axes_of(m.dims[dim])
        together += range(m.eaches(dim), m.eaches(dim + 1))
    signals = m.signals
    if together:
        kept = [axis for axis in range(signals.ndim) if axis not in together]
        sizes = [signals.shape[axis] for axis in kept]
        rows = signals.transpose([*kept, *together]).reshape(math.prod(sizes), -1)
        signals = array_of([union(name, row) for row in rows], sizes)
    rows_ = tuple(() if n in places else dim for n, dim in enumerate(m.dims))
    mixed = build(rows_, signals)
    return mixed if not axes else unbound(mixed, axes, name)


def unbound(m: Map, axes: Iterable[int], name: str) -> Map:
    """The map after something that reads whole axes: no dimension follows them."""
    gone = frozenset(axes)
    whole = dict.fromkeys(gone, (WHOLE, None))

    def every(signal: Signal) -> Signal:
        all_units = read(signal, name, whole)
        return vouched(all_units) if sees_all(all_units) else all_units

    return build(without(m.dims, gone), map_signals(m, every))


def join(maps: Sequence[Map], shape: Sequence[int], name: str) -> Map:
    """Maps taken together element by element, broadcast to ``shape``."""
    if len(maps) == 1 and maps[0].shape == tuple(shape):
        return maps[0]
    dims, arrays = align(maps, shape, name)
    if all(array.ndim == 0 for array in arrays):
        return build(dims, one_of(union(name, [array.item() for array in arrays])))
    table: dict[frozenset[Any], Signal | None] = {}
    whole = np.broadcast_arrays(*arrays)
    rows = [*map(frozenset, zip(*(array.flat for array in whole), strict=True))]
    for row in rows:
        if row not in table:
            table[row] = union(name, row)
    return build(dims, array_of([table[row] for row in rows], whole[0].shape))


def align(
    maps: Sequence[Map], shape: Sequence[int], name: str, apart: int | None = None
) -> tuple[tuple[tuple[Digit, ...], ...], list[Signals]]:
    """Dimensions that all maps have after broadcasting, and their signals to match.

    Along dimension ``apart`` the maps' own channels are kept.
    """
    wide = [replace(m, dims=((),) * (len(shape) - len(m.dims)) + m.dims) for m in maps]
    dims: list[tuple[Digit, ...]] = []
    for dim, size in enumerate(shape):
        if dim == apart:
            dims.append((Digit("each", size),))
            continue
        for number, m in enumerate(wide):  # length 1, broadcast: follows no axis
            if m.shape[dim] == 1 < size:
                wide[number] = replace_dim(m, dim, ())
        if len(rows := _kinds(wide, dim)) > 1:
            wide = [settle(m, dim, name) for m in wide]
            if len(rows := _kinds(wide, dim)) > 1:
                if not all(digit.plain for row in rows for digit in row):
                    raise TracingError(
                        f"{name} joins maps whose dimension {dim} means different "
                        "things: positions in one, channels in the other"
                    )
                wide = [flatten(m, dim) if m.dims[dim] else m for m in wide]
                rows = _kinds(wide, dim)
        dims.append(next(iter(rows), same(size)))
    axes = [axis for dim in dims for axis in axes_of(dim)]
    if len(set(axes)) < len(axes):
        raise TracingError(f"{name} pairs each position of an axis with every other")
    lengths = {d.role: d.length for row in dims for d in row if isinstance(d.role, int)}
    for number, m in enumerate(wide):
        for dim, row in enumerate(dims):
            if dim != apart and m.dims[dim] != row:
                m = replace_dim(m, dim, ())
        short = [s for s in m.different if stretched(s, lengths, name) is not s]
        if short:
            signals = map_signals(m, lambda s: stretched(s, lengths, name))
            m = replace(m, signals=signals)
        wide[number] = m if apart is None else flatten(m, apart)
    return tuple(dims), [_spread(m, dims) for m in wide]


def _kinds(maps: Iterable[Map], dim: int) -> set[tuple[Digit, ...]]:
    """The ways in which maps use a dimension, other than being alike along it."""
    return {
        m.dims[dim] for m in maps if any(digit.role != "same" for digit in m.dims[dim])
    }


def _spread(m: Map, dims: Sequence[tuple[Digit, ...]]) -> Signals:
    """The signals with a dimension for every digit "each" of ``dims``."""
    sizes = [
        m.shape[dim]
        if m.dims[dim] and len(row) == 1
        else digit.length
        if m.dims[dim]
        else 1
        for dim, row in enumerate(dims)
        for digit in row
        if digit.role == "each"
    ]
    return m.signals.reshape(sizes)


def cat(
    maps: Sequence[Map | None],
    sizes: Sequence[int],
    dim: int,
    shape: Sequence[int],
    name: str,
) -> Map:
    """Maps one after the other along ``dim``; None for what is constant."""
    parts = [m for m in maps if m is not None]
    rows = _kinds(parts, dim)
    if all(digit.plain for row in rows for digit in row):
        _refuse_single_positions(parts, name)
        dims, arrays = align(parts, shape, name, apart=dim)
        place = sum(d.role == "each" for row in dims[:dim] for d in row)
        wide = np.broadcast_shapes(
            *((*a.shape[:place], 1, *a.shape[place + 1 :]) for a in arrays)
        )
        present = iter(arrays)
        pieces = [
            np.full((*wide[:place], size, *wide[place + 1 :]), None, object)
            if m is None
            else np.broadcast_to(
                next(present), (*wide[:place], size, *wide[place + 1 :])
            )
            for m, size in zip(maps, sizes, strict=True)
        ]
        return build(dims, np.concatenate(pieces, axis=place))
    only = parts[0] if len(parts) == 1 else None
    if only is not None and interleaved(only.dims[dim]):
        before = sum(sizes[: [m is None for m in maps].index(False)])
        shift = Along(Sampling(1, ((-before,),)))
        return over(only, {dim: (shift, shape[dim])}, name)
    # positions beside other things: only what reads all of them can follow
    axes: set[int] = set()
    rest = []
    for m in parts:
        axes |= axes_of(m.dims[dim])
        plain = tuple(digit for digit in m.dims[dim] if digit.plain)
        one = replace_dim(m, dim, plain)
        rest.append(mix(one, [dim], name))
    joined = join(rest, (*shape[:dim], 1, *shape[dim + 1 :]), name)
    # places beside each other are no units taken together: some may see less
    beside = [signal for m in maps for signal in (m.signals.flat if m else [None])]
    if not all(signal and signal.full for signal in beside):
        joined = replace(joined, signals=map_signals(joined, unvouched))
    bag = (Digit(frozenset(axes), shape[dim]),)
    return replace_dim(joined, dim, bag)


def _refuse_single_positions(maps: Iterable[Map], name: str) -> None:
    """Positions taken one by one and put side by side are positions no longer."""
    signals = {signal for m in maps for signal in m.different}
    lost = [
        signal
        for signal in signals
        for axis, length in enumerate(signal.lengths)
        if length is None and axis not in signal.alike
    ]
    if lost and len(signals) > 1:
        raise TracingError(f"{name} puts positions side by side that were taken singly")
