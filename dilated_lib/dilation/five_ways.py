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

from dilated_lib.fields.arithmetic import Window

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

    Returns (N, O, H', W'), H' = H + 2·padding − dilation·(kH − 1), the numbers of
    ``torch.nn.functional.conv2d`` up to rounding, and differentiable like it.
    ``dilation`` and ``padding`` (zeros, both sides) are in pixels: one number, or a
    pair (vertical, horizontal). ``bias`` is (O,).

    ``method`` is one of

    - ``"loops"``: the definition, output by output and tap by tap; the oracle
    - ``"inflate"``: put dilation − 1 zeros between the taps, then convolve (where an
      infinite pixel meets such a zero the sum is NaN)
    - ``"unfold"``: gather what each output reads in a column, one matrix product
    - ``"shift"``: for each tap, move the whole picture, scale and add
    - ``"space_to_batch"``: split the picture in dilation² interleaved sub-pictures,
      convolve those densely, and interleave the results

    Raises TypeError where x, weight and bias are not tensors of one floating dtype,
    ValueError for a wrong rank, channels that differ or are none, two devices, an
    unknown method, a dilation or padding out of range, and a dilated kernel larger than
    the padded input.

    >>> x = torch.arange(25.0).reshape(1, 1, 5, 5)
    >>> dilated_conv2d(x, torch.ones(1, 1, 3, 3), dilation=2)
    tensor([[[[108.]]]])
    """
    _check(x, weight, bias)
    if method not in tuple(_METHODS):
        raise ValueError(f"method must be one of {', '.join(_METHODS)}; got {method!r}")
    steps, pads = _pair("dilation", dilation), _pair("padding", padding)
    down = Window(weight.shape[2], dilation=steps[0], padding=pads[0])
    right = Window(weight.shape[3], dilation=steps[1], padding=pads[1])
    size = down.output_size(x.shape[2]), right.output_size(x.shape[3])
    # the Windows' numbers are Python's: a small numpy integer would overflow below
    padded = F.pad(x, (*right.pads, *down.pads))
    out = _METHODS[method](padded, weight, (down.dilation, right.dilation), size)
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
    (down, right), (height, width) = dilation, size
    # cut whole blocks of down × right pixels; each pixel goes to its sub-picture
    whole = F.pad(x, (0, -x.shape[3] % right, 0, -x.shape[2] % down))
    n, c, rows, columns = whole.shape
    blocks = whole.reshape(n, c, rows // down, down, columns // right, right)
    dense = F.conv2d(blocks.permute(3, 5, 0, 1, 2, 4).flatten(0, 2), weight)
    parts = dense.reshape(down, right, n, *dense.shape[1:])
    together = parts.permute(2, 3, 4, 0, 5, 1).flatten(4).flatten(2, 3)
    return together[:, :, :height, :width]


_METHODS: dict[str, Callable[[Tensor, Tensor, Pair, Pair], Tensor]] = {
    "loops": _loops,
    "inflate": _inflate,
    "unfold": _unfold,
    "shift": _shift,
    "space_to_batch": _space_to_batch,
}


def _pair(name: str, value: int | Pair) -> Pair:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or any(isinstance(one, str | tuple | list) for one in pair):
        raise ValueError(
            f"{name} must be one number or a pair (vertical, horizontal), got {value!r}"
        )
    return pair


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
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
