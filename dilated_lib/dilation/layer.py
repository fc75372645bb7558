"""A dilated layer that is fast on a GPU and right on a CPU in half precision."""

from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilated_lib.dilation.five_ways import apart, together
from dilated_lib.values import whole

__all__ = ["DilatedConv2d", "convolve"]


class DilatedConv2d(nn.Conv2d):
    """Torch's ``nn.Conv2d`` on maps (N, C, H, W), fast and right in half precision.

    Arguments, parameters, names in files, shapes and hooks are those of ``nn.Conv2d``,
    and torch.fx keeps the layer whole. The numbers are the same up to rounding; how
    they lie in memory may differ. (The old torch.jit.script cannot read it;
    torch.export and torch.compile can.)

    In float16 and bfloat16, whether the input has it or autocast asks for it, the
    channels are filled up with zeros, and the output's are cut off again:

    - On a GPU to a multiple of 8, which its matrix units take. From dilation 16 on the
      map is split as well (:func:`convolve`), because torch's gradients are slow there.
      That works without stride, and with zeros around the map in multiples of the
      dilation.
    - On a CPU, in dilated layers, to a multiple of 16. With 17 to 31 channels, and
      others between two multiples, torch's own gradient can be wrong (torch 2.11 and
      2.14 on CPUs with ``avx512_bf16``, channels last). Chapter 07 shows it.

    The rule is fixed. Nothing is tried out, so that a run that was resumed rounds as
    before. In other precisions, and with groups, the layer is ``nn.Conv2d``.

    >>> layer = DilatedConv2d(21, 21, 3, padding=16, dilation=16)
    >>> layer(torch.zeros(1, 21, 40, 50)).shape
    torch.Size([1, 21, 40, 50])
    """

    @wraps(nn.Conv2d.__init__)  # type: ignore[misc]  # inspect.signature asks
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # by this torch.fx knows the layers that it does not look into
        self.__module__ = nn.Conv2d.__module__

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Compute what ``nn.Conv2d`` does, (N, C, H, W) → (N, O, H', W')."""
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
        d, pad = self.dilation[0], self.padding[0]
        return (
            d >= 16
            and self.dilation == (d, d)
            and max(self.kernel_size) > 1
            and self.stride == (1, 1)
            and self.padding_mode == "zeros"
            and self.padding == (pad, pad)
            and pad % d == 0
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
    """Compute what ``F.conv2d`` does, by way of shapes that suit the hardware.

    The result is differentiable, as torch's own is.

    Raises TypeError for numbers that are not whole, and ValueError for one out of range
    and where a map is to be split whose padding is not a multiple of the dilation.

    Args:
        x: Maps (N, C, H, W).
        weight: Kernels (O, C, kH, kW).
        bias: (O,), or None.
        dilation: Pixels from one tap to the next, along both axes.
        padding: Zeros on every side, in pixels.
        multiple: Of what the channels are filled up to a multiple, with zeros; the
            output's are cut off again.
        split: Whether to take the map apart into dilation² maps in the batch, each of
            every dilation-th row and column. These are convolved without dilation and
            put together again.

    >>> x, taps = torch.ones(1, 3, 6, 7), torch.ones(5, 3, 3, 3)
    >>> out = convolve(x, taps, dilation=2, padding=2, multiple=8, split=True)
    >>> out.shape, out[0, 0, 2, 2].item()  # 9 taps on each of 3 channels
    (torch.Size([1, 5, 6, 7]), 27.0)
    """
    dilation, padding = whole("dilation", dilation, 1), whole("padding", padding, 0)
    multiple = whole("multiple", multiple, 1)
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
        both = dilation, dilation
        parts = F.conv2d(apart(x, both), weight, bias, padding=padding // dilation)
        out = together(parts, both)[:, :, :height, :width]
    else:
        out = F.conv2d(x, weight, bias, padding=padding, dilation=dilation)
    return _cut(out, outputs)


def _filled(
    x: Tensor, weight: Tensor, bias: Tensor | None, multiple: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Fill the channels up to a multiple with zeros.

    Args:
        x: Maps (N, C, H, W) or (C, H, W).
        weight: Kernels (O, C, kH, kW), which get more of C and of O.
        bias: (O,), or None.
        multiple: Of what C and O become a multiple.
    """
    more_out, more_in = -len(weight) % multiple, -weight.shape[1] % multiple
    if more_in:
        x = F.pad(x, (0, 0, 0, 0, 0, more_in))
    if more_in or more_out:
        weight = F.pad(weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
    if more_out and bias is not None:
        bias = F.pad(bias, (0, more_out))
    return x, weight, bias


def _cut(out: Tensor, channels: int) -> Tensor:
    """Return the first ``channels`` of the output, or itself if it has no more.

    A ReLU in place would have to copy a view.
    """
    return out if out.shape[-3] == channels else out.narrow(-3, 0, channels)


def _half(x: Tensor) -> tuple[str, torch.dtype | None]:
    """Return the device, and float16 or bfloat16 if a layer computes x in it there."""
    device, kind = x.device.type, x.dtype
    if device not in ("cuda", "cpu") or kind == torch.float64:
        return device, None
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
    return device, kind if kind in (torch.float16, torch.bfloat16) else None


def _to(one: Tensor | None, kind: torch.dtype) -> Tensor | None:
    return None if one is None else one.to(kind)
