"""Rules of the operations that work along positions: a layer along each axis."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor, gcd

import torch

from dilated_lib.fields.tracing._joins import cat, mix
from dilated_lib.fields.tracing._maps import Map, axes_of, replace_dim, same
from dilated_lib.fields.tracing._rules import Call, rule
from dilated_lib.fields.tracing._shapes import over, permute, reshape
from dilated_lib.fields.tracing._signals import SAME, Along, Border, TracingError
from dilated_lib.fields.windows import Sampling, Window


@rule(
    *("conv1d", "conv2d", "conv3d", "convolution"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)
def _convolution(call: Call) -> Map:
    windows = convolution_windows(call)
    return _windows(
        call, _groups(call, call["groups"], len(call.shape) - len(windows) - 1), windows
    )


def convolution_windows(call: Call) -> list[Window]:
    """A convolution's window along each axis, transposed or not."""
    weight = call.args["weight"].shape  # the layer's own, and not from the input
    rank = len(weight) - 2
    transposed = call.args.get("transposed", "transpose" in call.operation)
    strides, dilations = (each(call[key], rank) for key in ("stride", "dilation"))
    extra = each(call.args.get("output_padding", 0), rank)
    windows = []
    for n, taps in enumerate(weight[2:]):
        if call["padding"] == "same":
            total = dilations[n] * (taps - 1)
            pad: int | tuple[int, int] = (total // 2, total - total // 2)
        else:
            pad = 0 if call["padding"] == "valid" else each(call["padding"], rank)[n]
        windows.append(
            Window(
                taps,
                strides[n],
                dilation=dilations[n],
                padding=pad,
                transposed=transposed,
                output_padding=extra[n] if transposed else 0,
            )
        )
    return windows


def _groups(call: Call, groups: int, dim: int) -> Map:
    """Channels of each group taken together, and as many as the layer gives."""
    m, out = call.map("input"), call.shape[dim]
    if all(digit.role == "same" for digit in m.dims[dim]):
        return replace_dim(m, dim, same(out))
    shape = m.shape
    split = (*shape[:dim], groups, shape[dim] // groups, *shape[dim + 1 :])
    together = mix(reshape(m, split, call.name), [dim + 1], call.name)
    wide = replace_dim(together, dim + 1, same(out // groups))
    return reshape(wide, (*shape[:dim], out, *shape[dim + 1 :]), call.name)


def _windows(call: Call, m: Map, windows: Sequence[Window]) -> Map:
    rank = len(windows)
    layers = {}
    for dim, window in enumerate(windows, len(call.shape) - rank):
        trivial = window.extent == window.stride == 1 and window.pads == (0, 0)
        along = SAME if trivial else Along(window)
        layers[dim] = (along, call.shape[dim])
    return over(m, layers, call.name)


@rule(
    *("max_pool1d", "max_pool2d", "max_pool3d"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
)
def _pool(call: Call) -> Map:
    return _windows(call, call.map("self"), pool_windows(call))


def pool_windows(call: Call) -> list[Window]:
    """A pooling's window along each axis."""
    rank = int(call.operation.partition("pool")[2][0])
    sides = [
        each(call.args.get(key) or default, rank)
        for key, default in (
            ("kernel_size", 0),
            ("stride", call["kernel_size"]),
            ("dilation", 1),
            ("padding", 0),
        )
    ]
    return [
        Window(taps, stride, dilation=dilation, padding=pad)
        for taps, stride, dilation, pad in zip(*sides, strict=True)
    ]


@rule(
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
)
def _adaptive_pool(call: Call) -> Map:
    m = call.map("self")
    rank = int(call.operation.partition("pool")[2][0])
    layers = {}
    for dim in range(len(m.dims) - rank, len(m.dims)):
        size, out = m.shape[dim], call.shape[dim]
        if out == 1:
            m = mix(m, [dim], call.name)
        elif out != size:
            period = out // gcd(size, out)
            reads = tuple(
                tuple(range(unit * size // out, -(-(unit + 1) * size // out)))
                for unit in range(period)
            )
            step = period * size // out
            layers[dim] = (Along(Sampling(step, reads)), out)
    return over(m, layers, call.name)


def _resizer(kind: str) -> Callable[[Call], Map]:
    def resize(call: Call) -> Map:
        m = call.map("self" if "self" in call.args else "input")
        rank = len(m.dims) - 2
        scales = call.args.get("scale_factors") or [
            call.args.get(f"scales_{axis}") for axis in "dhw"[-rank:]
        ]
        if rank == 1 and "scales" in call.args:
            scales = [call["scales"]]
        layers = {}
        for dim, scale in enumerate(scales, 2):
            size, out = m.shape[dim], call.shape[dim]
            corners = bool(call.args.get("align_corners"))
            along = resampled(size, out, kind, scale, corners)
            if along is None:
                raise TracingError(
                    f"{call.name} resizes {size} to {out} by {scale} with {kind}, and "
                    "torch's rounding there is not that of exact arithmetic"
                )
            layers[dim] = (along, out)
        return over(m, layers, call.name)

    return resize


def resampled(
    size: int, out: int, kind: str, scale: float | None, corners: bool
) -> Along | None:
    """How a resized map of ``out`` units reads the one of ``size``, along one axis.

    Positions beyond the border are those at the border. None where torch does not do
    what exact arithmetic says: nearest pixels are found in single precision, and a
    scale that leaves the size as it is may be carried out, or not.
    """
    if size == out and scale not in (None, 1):
        return None
    if corners:
        ratio, shift = Fraction(size - 1, max(out - 1, 1)), Fraction(0)
    else:
        ratio = Fraction(size, out)
        if scale is not None:
            simple = Fraction(scale).limit_denominator(1000)
            if abs(simple - Fraction(scale)) > 1e-9:
                return None
            ratio = 1 / simple
        shift = Fraction(0) if kind == "nearest" else (ratio - 1) / 2
    if kind == "nearest-exact":
        shift = ratio / 2
    places = [unit * ratio + shift for unit in range(ratio.denominator)]
    if kind.startswith("nearest"):
        line = torch.arange(size, dtype=torch.float32)[None, None]
        theirs = torch.nn.functional.interpolate(
            line,
            **({"size": out} if scale is None else {"scale_factor": scale}),
            mode=kind,
        )
        ours = [min(floor(unit * ratio + shift), size - 1) for unit in range(out)]
        if theirs.flatten().tolist() != ours:
            return None
        table = Sampling(ratio.numerator, tuple((floor(place),) for place in places))
        return Along(table, "replicate")
    reach = (-1, 0, 1, 2) if kind == "bicubic" else (0, 1)
    exact, touched = [], []
    for place in places:
        low = floor(place)
        reads = tuple(low + one for one in reach)
        exact.append(reads if place != low else (low,))
        # before the first position torch reads the second with weight zero
        touched.append((*reads, low + 2) if low < 0 and kind != "bicubic" else reads)
    step = ratio.numerator
    idle = Sampling(step, tuple(touched))
    return Along(Sampling(step, tuple(exact)), "replicate", idle, tuple(places))


for _kind, _operations in {
    "nearest": ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    "nearest-exact": (
        "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d",
        "_upsample_nearest_exact3d",
    ),
    "linear": ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"),
    "bicubic": ("upsample_bicubic2d",),
}.items():
    rule(*_operations)(_resizer(_kind))


@rule(
    *("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d"),
    *("reflection_pad3d", "replication_pad1d", "replication_pad2d"),
    *("replication_pad3d",),
)
def _pad(call: Call) -> Map:
    m = call.map("self")
    pads = call["pad"] if "pad" in call.args else call["padding"]
    mode = call.args.get("mode", call.operation)
    borders: dict[str, Border] = {
        "refl": "reflect",
        "repl": "replicate",
        "circ": "circular",
        "cons": "blank",
    }
    border = borders["cons" if mode == "pad" else mode[:4]]
    layers = {}
    for n in range(len(pads) // 2):
        dim = len(m.dims) - 1 - n
        before, after = pads[2 * n : 2 * n + 2]
        if before == after == 0:
            continue
        if border == "circular" and min(before, after) < 0:
            raise TracingError(
                f"{call.name} crops, and repeats what is left in circles"
            )
        if axes_of(m.dims[dim]):
            shift = Along(Sampling(1, ((-before,),)), border)
            layers[dim] = (shift, call.shape[dim])
        elif border == "blank" and min(before, after) >= 0:
            sizes = [before, m.shape[dim], after]
            shape = [*m.shape[:dim], sum(sizes), *m.shape[dim + 1 :]]
            m = cat([None, m, None], sizes, dim, shape, call.name)
        elif all(digit.role == "same" for digit in m.dims[dim]):
            m = replace_dim(m, dim, same(call.shape[dim]))
        else:
            raise TracingError(f"{call.name} pads channels that differ, with {mode}")
    return over(m, layers, call.name)


@rule("im2col")
def _im2col(call: Call) -> Map:
    m = call.map("self")
    kernel, strides, dilations, pads = (
        each(call[key], 2) for key in ("kernel_size", "stride", "dilation", "padding")
    )
    for n, dim in enumerate((2, 4)):
        window = Window(kernel[n], strides[n], dilation=dilations[n], padding=pads[n])
        m = _apart(call, m, dim, window, window.output_size(m.shape[dim]))
    return reshape(permute(m, (0, 1, 3, 5, 2, 4)), call.shape, call.name)


@rule("unfold")
def _unfold(call: Call) -> Map:
    m = call.map("self")
    dim = call["dimension"] % len(m.dims)
    window = Window(call["size"], call["step"])
    order = [n for n in range(len(m.dims) + 1) if n != dim + 1]
    apart = _apart(call, m, dim, window, call.shape[dim])
    return permute(apart, [*order, dim + 1])


def _apart(call: Call, m: Map, dim: int, window: Window, length: int) -> Map:
    """The taps of a window as channels, in a dimension of their own after ``dim``."""
    taps: list[Map | None] = []
    for tap in window.inputs(0):
        along = Along(Sampling(window.stride, ((tap,),)))
        one = over(m, {dim: (along, length)}, call.name)
        taps.append(replace_dim(one, dim, one.dims[dim], ()))
    shape = [*m.shape[:dim], length, len(taps), *m.shape[dim + 1 :]]
    return cat(taps, [1] * len(taps), dim + 1, shape, call.name)


def each(value: int | Sequence[int], rank: int) -> list[int]:
    """One number for each axis, from one for all or a list."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values
