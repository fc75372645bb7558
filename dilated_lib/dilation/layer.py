"""A dilated layer that is fast on a GPU and right on a CPU in half precision."""

from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DilatedConv2d", "convolve"]


class DilatedConv2d(nn.Conv2d):
    """torch's ``nn.Conv2d``, (N, C, H, W) → (N, O, H', W'), but in half precision.

    Arguments, parameters, names in files, shapes and hooks are those of ``nn.Conv2d``,
    and torch.fx keeps the layer whole. The numbers are the same up to rounding; how
    they lie in memory may differ. (The old torch.jit.script cannot read it;
    torch.export and torch.compile can.)

    In float16 and bfloat16, of the input or by autocast, channels are padded with
    zeros, and the output's are cut off again:

    - On a GPU to a multiple of 8, which its matrix units take. From dilation 16 on the
      map is split, too (:func:`convolve`), because torch's gradients are slow there:
      without stride, and with zeros around the map in multiples of the dilation.
    - On a CPU, of dilated layers, to a multiple of 16: with 17 to 31, and others
      between two multiples, the gradient of torch's own can be wrong (torch 2.11 and
      2.14 on CPUs with ``avx512_bf16``, channels last). Chapter 07 shows it.

    That is a fixed rule. Nothing is tried out, so that a run that was resumed rounds as
    before. In other precisions, and with groups, it is ``nn.Conv2d``.

    >>> layer = DilatedConv2d(21, 21, 3, padding=16, dilation=16)
    >>> layer(torch.zeros(1, 21, 40, 50)).shape
    torch.Size([1, 21, 40, 50])
    """

    @wraps(nn.Conv2d.__init__)  # type: ignore[misc]  # for who asks its arguments
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # by this torch.fx knows the layers that it does not look into
        self.__module__ = nn.Conv2d.__module__

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """As of ``nn.Conv2d``."""
        device, kind = _half(input)
        if (
            kind is None
            or self.groups > 1
            or (device == "cpu" and max(self.dilation) == 1)
            or input.dim() not in (3, 4)
            or input.shape[-3] != self.in_channels  # torch says what is wrong
        ):
            return super().forward(input)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(device):  # cast first: fewer bytes to copy below
            input, weight = input.to(kind), weight.to(kind)  # noqa: A001
            bias = _to(bias, kind)
        parts = input, weight, bias
        if device == "cuda" and input.dim() == 4 and self._can_be_split():
            return convolve(
                *parts,
                dilation=self.dilation[0],
                padding=int(self.padding[0]),
                multiple=8,
                split=True,
            )
        out = self._conv_forward(*_filled(*parts, 8 if device == "cuda" else 16))
        return _cut(out, self.out_channels)

    def _can_be_split(self) -> bool:
        d, pads = self.dilation[0], self.padding
        return (
            d >= 16
            and self.dilation == (d, d)
            and max(self.kernel_size) > 1
            and self.stride == (1, 1)
            and self.padding_mode == "zeros"
            and not isinstance(pads, str)
            and pads == (pads[0], pads[0])
            and pads[0] % d == 0
        )


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int,
    padding: int,
    multiple: int = 1,
    split: bool = False,
) -> Tensor:
    """What ``F.conv2d`` computes of x (N, C, H, W), by way of other shapes.

    Zeros fill the channels up to a ``multiple``, and the output's are cut off again.
    With ``split`` the map is taken apart into dilation² maps, each of every so many
    rows and columns, in the batch; these are convolved without dilation and put
    together. Differentiable as torch's own.

    Raises ValueError if a map is to be split and the padding is no multiple of the
    dilation.

    >>> x, taps = torch.ones(1, 3, 6, 7), torch.ones(5, 3, 3, 3)
    >>> out = convolve(x, taps, dilation=2, padding=2, multiple=8, split=True)
    >>> out.shape, out[0, 0, 2, 2].item()  # 9 taps on each of 3 channels
    (torch.Size([1, 5, 6, 7]), 27.0)
    """
    if split and padding % dilation:
        raise ValueError(
            "to split a map, padding must be a multiple of the dilation, got padding "
            f"{padding} and dilation {dilation}"
        )
    outputs = len(weight)
    x, weight, bias = _filled(x, weight, bias, multiple)
    height, width = (
        side + 2 * padding - dilation * (taps - 1)
        for side, taps in zip(x.shape[2:], weight.shape[2:], strict=True)
    )
    if split and min(height, width) > 0:  # torch says what is wrong
        parts = _apart(x, dilation)
        parts = F.conv2d(parts, weight, bias, padding=padding // dilation)
        out = _together(parts, dilation)[:, :, :height, :width]
    else:
        out = F.conv2d(x, weight, bias, padding=padding, dilation=dilation)
    return _cut(out, outputs)


def _filled(
    x: Tensor, weight: Tensor, bias: Tensor | None, multiple: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same with zeros in more channels, to a multiple; x may lack the batch."""
    more_out, more_in = -len(weight) % multiple, -weight.shape[1] % multiple
    if more_in:
        x = F.pad(x, (0, 0, 0, 0, 0, more_in))
    if more_in or more_out:
        weight = F.pad(weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
    if more_out and bias is not None:
        bias = F.pad(bias, (0, more_out))
    return x, weight, bias


def _cut(out: Tensor, channels: int) -> Tensor:
    """No view where nothing is to cut: ReLUs in place would have to copy it."""
    return out if out.shape[-3] == channels else out.narrow(-3, 0, channels)


def _apart(x: Tensor, d: int) -> Tensor:
    """(N, C, H, W) → (d · d · N, C, ⌈H/d⌉, ⌈W/d⌉), channels last in memory."""
    x = F.pad(x, (0, -x.shape[3] % d, 0, -x.shape[2] % d))
    n, c, height, width = x.shape
    blocks = x.reshape(n, c, height // d, d, width // d, d)
    return blocks.permute(3, 5, 0, 2, 4, 1).flatten(0, 2).movedim(-1, 1)


def _together(parts: Tensor, d: int) -> Tensor:
    """Back: (d · d · N, C, h, w) → (N, C, h · d, w · d), channels last in memory."""
    n, c, height, width = parts.shape
    blocks = parts.movedim(1, -1).reshape(d, d, n // d**2, height, width, c)
    rows = blocks.permute(2, 3, 0, 4, 1, 5).flatten(1, 2).flatten(2, 3)
    return rows.movedim(-1, 1)


def _half(x: Tensor) -> tuple[str, torch.dtype | None]:
    """The device, and float16 or bfloat16 if a layer computes x in it there."""
    device, kind = x.device.type, x.dtype
    if device not in ("cuda", "cpu") or kind == torch.float64:
        return device, None
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
    return device, kind if kind in (torch.float16, torch.bfloat16) else None


def _to(one: Tensor | None, kind: torch.dtype) -> Tensor | None:
    return None if one is None else one.to(kind)
