"""The same numbers in another shape, and layers along the positions in it."""

from collections.abc import Mapping, Sequence

import numpy as np

from dilated_lib.fields.tracing._maps import (
    Digit,
    Map,
    Signals,
    array_of,
    build,
    map_signals,
    read,
    replace_dim,
    same,
)
from dilated_lib.fields.tracing._signals import (
    SAME,
    Along,
    Signal,
    TracingError,
    union,
    vouched,
)
from dilated_lib.fields.windows import Sampling


def permute(m: Map, order: Sequence[int]) -> Map:
    """Dimensions in another order."""
    order = [dim % len(m.dims) for dim in order]
    axes = [axis for dim in order for axis in range(m.eaches(dim), m.eaches(dim + 1))]
    return Map(tuple(m.dims[dim] for dim in order), m.signals.transpose(axes))


def reshape(m: Map, shape: Sequence[int], name: str) -> Map:
    """The same digits in other dimensions; digits are split where they have to be."""
    try:
        return _regrouped(m, shape, name)
    except TracingError as cut:
        try:
            for dim in range(len(m.dims)):
                m = settle(m, dim, name)
        except TracingError:
            raise cut from None
        return _regrouped(m, shape, name)


def _regrouped(m: Map, shape: Sequence[int], name: str) -> Map:
    shape = tuple(shape)
    queue: list[Digit] = []
    for digit in (digit for dim in m.dims for digit in dim):
        if queue and digit.role == queue[-1].role == "same":
            digit = Digit("same", queue.pop().length * digit.length)
        queue.append(digit)
    signals, eaches, dims = m.signals, 0, []
    gone: dict[int, tuple[Along, None]] = {}
    for place, size in enumerate(shape):
        dim: list[Digit] = []
        need = size
        # positions of which there is one go to dimensions of length 1, as far as it may
        last = shape[place + 1 : place + 2] != (1,)
        while queue and (
            need > 1 or (size == queue[0].length == 1 and (last or not dim))
        ):
            digit = queue.pop(0)
            if digit.length == 1 < size and isinstance(digit.role, int):
                gone[digit.role] = (SAME, None)  # its one position is nowhere any more
                continue
            if need % digit.length:
                if digit.length % need or isinstance(digit.role, frozenset):
                    raise TracingError(
                        f"{name} reshapes {m.shape} to {tuple(shape)}, which cuts "
                        "across positions"
                    )
                inner = digit.length // need
                if isinstance(digit.role, int):
                    parts = _split(signals, digit.role, need, inner, name)
                    role = "same" if len(parts) == 1 else "each"
                    signals = parts[0] if len(parts) == 1 else np.stack(parts, eaches)
                    queue.insert(0, Digit(role, inner))
                else:
                    if digit.role == "each":
                        sizes = list(signals.shape)
                        sizes[eaches : eaches + 1] = [need, inner]
                        signals = signals.reshape(sizes)
                    queue.insert(0, Digit(digit.role, inner))
                digit = Digit(digit.role, need)
            eaches += digit.role == "each"
            dim.append(digit)
            need //= digit.length
        dims.append(dim)
    if gone:
        left = Map((), signals)
        signals = map_signals(left, lambda signal: read(signal, name, gone))
    return build(dims, signals)


def _split(
    signals: Signals, axis: int, outer: int, inner: int, name: str
) -> list[Signals]:
    """Signals of every ``inner``-th unit, from each of the first ``inner`` units on.

    Where every unit depends on all of the input they are all alike, and one is enough.
    """

    def every(signal: Signal, offset: int) -> Signal:
        step = Along(Sampling(inner, ((offset,),)))
        return read(signal, name, {axis: (step, outer)})

    one = Map((), signals)
    alike = all(len(s.alike) == len(s.lengths) for s in one.different)
    return [
        map_signals(one, lambda signal, j=offset: every(signal, j))  # type: ignore[misc]
        for offset in range(1 if alike else inner)
    ]


def over(m: Map, layers: Mapping[int, tuple[Along, int]], name: str) -> Map:
    """A layer that works along some dimensions; it leaves so many units on each.

    Along a dimension without positions all units read the same.
    """
    alongs: dict[int, tuple[Along, int]] = {}
    for dim, (along, length) in layers.items():
        m = settle(m, dim, name)
        if all(digit.plain for digit in m.dims[dim]):
            m = _over_channels(m, dim, along, length, name)
    dims = list(m.dims)
    for dim, (along, length) in layers.items():
        if all(digit.plain for digit in dims[dim]):
            continue
        role = dims[dim][0].role
        if not isinstance(role, int):
            raise TracingError(
                f"{name} works along a dimension of {m.shape[dim]} in which positions "
                "and other things are mixed"
            )
        alongs[role] = (along, length)
        dims[dim] = (Digit(role, length),)
    if all(along is SAME for along, _ in alongs.values()):
        return build(dims, m.signals)
    return build(dims, map_signals(m, lambda signal: read(signal, name, alongs)))


def _over_channels(m: Map, dim: int, along: Along, length: int, name: str) -> Map:
    """A layer that works along channels: each of its units takes some together."""
    assert along.layer is not None
    size = m.shape[dim]
    reads = [along.layer.inputs(unit) for unit in range(length)]
    inside = [[along.inside(one, size) for one in some] for some in reads]
    places = [[one for one in some if one is not None] for some in inside]
    if all(digit.role == "same" for digit in m.dims[dim]) and all(places):
        return replace_dim(m, dim, same(length))
    wide = flatten(m, dim)
    place = wide.eaches(dim)
    channels = np.moveaxis(wide.signals, place, 0)
    rows = channels.reshape(size, -1)
    units = [union(name, together) for some in places for together in rows[some].T]
    signals = array_of(units, (length, *channels.shape[1:]))
    dims = (*m.dims[:dim], (Digit("each", length),), *m.dims[dim + 1 :])
    return build(dims, np.moveaxis(signals, 0, place))


def interleaved(digits: Sequence[Digit]) -> bool:
    """Is a dimension one axis, or an axis between whose units channels are put?"""
    return isinstance(digits[0].role, int) and all(one.plain for one in digits[1:])


def settle(m: Map, dim: int, name: str) -> Map:
    """The map with ``dim`` as one axis, or as channels; interleaves where it must.

    Units that alternate between channels, as pixel_shuffle puts them, become phases.
    """
    digits = m.dims[dim]
    if all(digit.plain for digit in digits) or len(digits) == 1:
        return m
    (axis, length), *inner = digits
    if not isinstance(axis, int) or not interleaved(digits):
        raise TracingError(
            f"{name} works along a dimension of {m.shape[dim]} in which positions and "
            "channels, or two axes, follow each other"
        )
    flat = flatten(replace_dim(m, dim, tuple(inner)), dim)
    place, rate = flat.eaches(dim), flat.shape[dim]
    columns = np.moveaxis(flat.signals, place, -1)
    table: dict[tuple[Signal | None, ...], Signal | None] = {}

    def interleaved_by(phases: tuple[Signal | None, ...]) -> Signal | None:
        parts = []
        for signal in dict.fromkeys(phases):
            if signal is not None:
                places = tuple((0,) if one is signal else () for one in phases)
                along = Along(Sampling(1, places))
                parts.append(read(signal, name, {axis: (along, length * rate)}))
        whole = union(name, parts)
        all_full = all(signal and signal.full for signal in phases)
        return vouched(whole) if whole and all_full else whole

    rows = [tuple(row) for row in columns.reshape(-1, rate)]
    for row in rows:
        if row not in table:
            table[row] = interleaved_by(row)
    merged = array_of([table[row] for row in rows], columns.shape[:-1])
    dims = (*m.dims[:dim], (Digit(axis, length * rate),), *m.dims[dim + 1 :])
    return build(dims, merged)


def flatten(m: Map, dim: int) -> Map:
    """The map with a dimension of channels as one digit "each"."""
    digits, place = m.dims[dim], m.eaches(dim)
    signals = m.signals
    for offset, digit in enumerate(digits):
        if digit.role == "same":
            signals = np.repeat(
                np.expand_dims(signals, place + offset), digit.length, place + offset
            )
    shape = signals.shape
    sizes = (*shape[:place], m.shape[dim], *shape[place + len(digits) :])
    dims = (*m.dims[:dim], (Digit("each", m.shape[dim]),), *m.dims[dim + 1 :])
    return Map(dims, signals.reshape(sizes))
