"""The dilated convolution, written five ways that all agree.

Like torch, every method computes cross-correlation,

    out[n, o, y, x] = b[o] + Σ_{c,i,j} weight[o, c, i, j] · x[n, c, y + d·i, x + d·j],

the sum of eq. 2 of Yu & Koltun (2016) with the kernel turned by 180°. For their
true convolution pass ``weight.flip(-2, -1)``.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dilated_lib.fields.windows import Window
from dilated_lib.values import one_of, pair

__all__ = ["dilated_conv2d"]

Pair = tuple[int, int]


def dilated_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int | Pair = 1,
    padding: int | Pair = 0,
    method: str = "shift",
) -> Tensor:
    """Convolve ``x`` (N, C, H, W) with a dilated ``weight`` (O, C, kH, kW).

    The result has shape (N, O, H', W') with H' = H + 2·padding − dilation·(kH − 1), and
    W' likewise. It has the numbers of ``torch.nn.functional.conv2d`` up to rounding,
    and is differentiable like it. The methods are

    - ``"loops"``: the definition, output by output and tap by tap
    - ``"inflate"``: put dilation − 1 zeros between the taps, then convolve (where an
      infinite pixel meets such a zero the sum is NaN)
    - ``"unfold"``: gather what each output reads in a column, then one matrix product
    - ``"shift"``: for each tap, move the whole picture, scale and add
    - ``"space_to_batch"``: split the picture into dilation² interleaved sub-pictures,
      convolve those densely, and interleave the results

    Raises TypeError where x, weight and bias are not tensors of one floating dtype, and
    for a dilation or padding that is not a whole number. Raises ValueError for a wrong
    rank, channels that differ or are missing, two devices, an unknown method, a
    dilation or padding out of range, and a dilated kernel larger than the padded input.

    Source: Yu and Koltun, ICLR 2016, eq. 2.

    Args:
        x: The pictures.
        weight: One kernel for each of O output channels.
        bias: One number for each output channel, (O,).
        dilation: Pixels from one tap to the next, or a pair (vertical, horizontal).
        padding: Zeros on every side, in pixels, or such a pair.
        method: How to compute it.

    >>> x = torch.arange(25.0).reshape(1, 1, 5, 5)
    >>> dilated_conv2d(x, torch.ones(1, 1, 3, 3), dilation=2)
    tensor([[[[108.]]]])
    """
    _check(x, weight, bias)
    one_of("method", method, tuple(_METHODS))
    steps = pair("dilation", dilation, sides="vertical, horizontal")
    pads = pair("padding", padding, sides="vertical, horizontal")
    down = Window(weight.shape[2], dilation=steps[0], padding=pads[0])
    right = Window(weight.shape[3], dilation=steps[1], padding=pads[1])
    size = down.output_size(x.shape[2]), right.output_size(x.shape[3])
    padded = F.pad(x, (*right.pads, *down.pads))
    out = _METHODS[method](padded, weight, steps, size)
    return out if bias is None else out + bias[:, None, None]


def _loops(x: Tensor, weight: Tensor, dilation: Pair, size: Pair) -> Tensor:
    (down, right), (height, width) = dilation, size
    units = []
    for row in range(height):
        for column in range(width):
            unit = x.new_zeros(())
            for i in range(weight.shape[2]):
                for j in range(weight.shape[3]):
                    seen = x[:, :, row + down * i, column + right * j]
                    unit = unit + seen @ weight[:, :, i, j].T
            units.append(unit)
    return torch.stack(units, dim=-1).reshape(len(x), len(weight), *size)


def _inflate(x: Tensor, weight: Tensor, dilation: Pair, size: Pair) -> Tensor:
    (down, right), (rows, columns) = dilation, weight.shape[2:]
    inflated = weight.new_zeros(
        *weight.shape[:2], down * (rows - 1) + 1, right * (columns - 1) + 1
    )
    inflated[:, :, ::down, ::right] = weight
    return F.conv2d(x, inflated)


def _unfold(x: Tensor, weight: Tensor, dilation: Pair, size: Pair) -> Tensor:
    columns = F.unfold(x, weight.shape[2:], dilation=dilation)
    return (weight.flatten(1) @ columns).reshape(len(x), len(weight), *size)


def _shift(x: Tensor, weight: Tensor, dilation: Pair, size: Pair) -> Tensor:
    (down, right), (height, width) = dilation, size
    out = x.new_zeros(())
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            top, left = down * i, right * j
            moved = x[:, :, top : top + height, left : left + width]
            out = out + torch.einsum("oc,nchw->nohw", weight[:, :, i, j], moved)
    return out


def _space_to_batch(x: Tensor, weight: Tensor, dilation: Pair, size: Pair) -> Tensor:
    parts = F.conv2d(apart(x, dilation), weight)
    return together(parts, dilation)[:, :, : size[0], : size[1]]


def apart(x: Tensor, dilation: Pair) -> Tensor:
    """Split maps into interleaved ones, which come in the batch.

    (N, C, H, W) becomes (down · right · N, C, ⌈H/down⌉, ⌈W/right⌉), channels last in
    memory. The map is cut into blocks of down × right pixels, the last ones filled up
    with zeros, and each pixel of a block goes to a map of its own.
    """
    down, right = dilation
    whole = F.pad(x, (0, -x.shape[3] % right, 0, -x.shape[2] % down))
    n, c, rows, columns = whole.shape
    blocks = whole.reshape(n, c, rows // down, down, columns // right, right)
    return blocks.permute(3, 5, 0, 2, 4, 1).flatten(0, 2).movedim(-1, 1)


def together(parts: Tensor, dilation: Pair) -> Tensor:
    """Put the maps of :func:`apart` together again, channels last in memory.

    (down · right · N, C, h, w) becomes (N, C, down · h, right · w).
    """
    down, right = dilation
    rows = parts.movedim(1, -1)
    rows = rows.reshape(down, right, len(parts) // (down * right), *rows.shape[1:])
    return rows.permute(2, 3, 0, 4, 1, 5).flatten(1, 2).flatten(2, 3).movedim(-1, 1)


_METHODS: dict[str, Callable[[Tensor, Tensor, Pair, Pair], Tensor]] = {
    "loops": _loops,
    "inflate": _inflate,
    "unfold": _unfold,
    "shift": _shift,
    "space_to_batch": _space_to_batch,
}


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise an error unless the tensors belong together.

    Torch would refuse most of these, too, but in words of its own that differ from
    method to method; a meta tensor it would even take.
    """
    tensors = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}"
            )
    for value in tensors.values():
        if not value.is_floating_point() or value.dtype != x.dtype:
            raise TypeError(
                "x, weight and bias must share one floating dtype, got "
                + ", ".join(f"{key}: {one.dtype}" for key, one in tensors.items())
            )
    if len({value.device for value in tensors.values()}) > 1:
        raise ValueError(
            "x, weight and bias must be on one device, got "
            + ", ".join(f"{key}: {one.device}" for key, one in tensors.items())
        )
    for name, value, axes in (
        ("x", x, "(N, C, H, W)"),
        ("weight", weight, "(O, C, kH, kW)"),
    ):
        if value.ndim != 4:
            raise ValueError(f"{name} must have shape {axes}, got {tuple(value.shape)}")
    if 0 in weight.shape[:2]:
        raise ValueError(
            f"weight must have at least one channel O and C, got {tuple(weight.shape)}"
        )
    if x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x and weight must have the same channels C, got x {tuple(x.shape)} with "
            f"{x.shape[1]} and weight {tuple(weight.shape)} with {weight.shape[1]}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must have shape (O,) = ({len(weight)},), got {tuple(bias.shape)}"
        )
