"""A dilated layer that is fast on a GPU and right on a CPU in half precision."""

from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DilatedConv2d", "convolve"]


class DilatedConv2d(nn.Conv2d):
    """torch's ``nn.Conv2d``, (N, C, H, W) → (N, O, H', W'), but in half precision.

    Arguments, parameters, names in files, shapes and hooks are those of ``nn.Conv2d``,
    and torch.fx keeps the layer whole. The numbers are the same up to rounding. (The
    old torch.jit.script cannot read it; torch.export and torch.compile can.)

    In float16 and bfloat16, of the input or by autocast, it calls :func:`convolve`. On
    a GPU channels are padded to a multiple of 8, which its matrix units take, and from
    dilation 16 on the map is split, because torch's gradients are slow there. On a CPU
    channels are padded to a multiple of 16: with 17 to 31, and others between two
    multiples, the gradient of torch's own dilated layer can be wrong (torch 2.11 and
    2.14 on CPUs with ``avx512_bf16``, channels last). Chapter 07 shows both.

    That is a fixed rule. Nothing is tried out, so that a run that was resumed rounds as
    before. In other precisions, and with strides, groups, unequal dilations, or padding
    that is not zeros in multiples of the dilation, it is ``nn.Conv2d``.

    >>> layer = DilatedConv2d(21, 21, 3, padding=16, dilation=16)
    >>> layer(torch.zeros(1, 21, 40, 50)).shape
    torch.Size([1, 21, 40, 50])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # by this torch.fx knows the layers that it does not look into
        self.__module__ = nn.Conv2d.__module__

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """As of ``nn.Conv2d``."""
        rule, dilation, pads = _rule(input), self.dilation[0], self.padding
        if (
            rule is None
            or input.dim() != 4
            or input.shape[1] != self.in_channels  # torch says what is wrong
            or (self.stride, self.groups, self.padding_mode) != ((1, 1), 1, "zeros")
            or self.dilation != (dilation, dilation)
            or isinstance(pads, str)
            or pads != (pads[0], pads[0])
            or pads[0] % dilation
        ):
            return super().forward(input)
        return convolve(
            input,
            self.weight,
            self.bias,
            dilation=dilation,
            padding=pads[0],
            multiple=rule[0],
            split=dilation >= rule[1],
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
    together. ``padding`` must be a multiple of the dilation then. Differentiable as
    torch's own.

    >>> x, taps = torch.ones(1, 3, 6, 7), torch.ones(5, 3, 3, 3)
    >>> out = convolve(x, taps, dilation=2, padding=2, multiple=8, split=True)
    >>> out.shape, out[0, 0, 2, 2].item()  # 9 taps on each of 3 channels
    (torch.Size([1, 5, 6, 7]), 27.0)
    """
    outputs = len(weight)
    more_out, more_in = -outputs % multiple, -weight.shape[1] % multiple
    if more_out or more_in:
        x = F.pad(x, (0, 0, 0, 0, 0, more_in))
        weight = F.pad(weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
        bias = None if bias is None else F.pad(bias, (0, more_out))
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
    return out[:, :outputs]


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


def _rule(x: Tensor) -> tuple[int, float] | None:
    """Of what channels are to be a multiple, and from which dilation on to split."""
    device = x.device.type
    if device not in ("cuda", "cpu"):
        return None
    mixed = torch.is_autocast_enabled(device)
    kind = torch.get_autocast_dtype(device) if mixed else x.dtype
    if kind not in (torch.float16, torch.bfloat16):
        return None
    return (8, 16) if device == "cuda" else (16, inf)
