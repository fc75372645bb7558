"""Pooling with dilation, where torch's own layers have none or limit their padding."""

from math import inf
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

__all__ = ["DilatedAvgPool2d", "dilated_pool", "pair"]


class DilatedAvgPool2d(nn.Module):
    """``nn.AvgPool2d`` with ``dilation`` units from each value to the next.

    ``forward`` takes maps (N, C, H, W) to (N, C, h, w). Padding, rounding up, and what
    an average at the border is divided by are those of ``pool``, on maps whose units
    stand ``dilation`` times as close.

    >>> import torch
    >>> layer = DilatedAvgPool2d(nn.AvgPool2d(2), stride=(1, 1), dilation=3)
    >>> layer(torch.arange(5.0).expand(1, 1, 4, 5))[0, 0, 0]
    tensor([1.5000, 2.5000])
    """

    def __init__(
        self, pool: nn.AvgPool2d, stride: tuple[int, int], dilation: int
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = pair(pool.kernel_size), stride
        self.dilation = (dilation, dilation)
        self.pads, self.more = _borders(pool, dilation)
        self.zeros_count = float(pool.count_include_pad)
        self.divisor = pool.divisor_override

    def extra_repr(self) -> str:
        """Show the arguments as torch's layers do."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.pads}, dilation={self.dilation}"
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Add up each unit's values, and divide by how many count."""
        taps = maps.new_ones(1, 1, *self.kernel_size)
        counted = maps.new_ones(1, 1, *maps.shape[2:])
        counted = F.pad(counted, self.pads, value=self.zeros_count)
        count = F.conv2d(
            F.pad(counted, self.more), taps, stride=self.stride, dilation=self.dilation
        )
        total = F.conv2d(
            F.pad(F.pad(maps, self.pads), self.more),
            taps.repeat(maps.shape[1], 1, 1, 1),
            stride=self.stride,
            dilation=self.dilation,
            groups=maps.shape[1],
        )
        return total / (self.divisor or count.clamp(min=1))


def dilated_pool(
    layer: nn.MaxPool2d | nn.AvgPool2d, stride: tuple[int, int], rate: int
) -> nn.Module | None:
    """Return a module that pools with another stride and ``rate`` times the dilation.

    It is None if the layer itself can do that with other arguments. Every ``rate``-th
    unit is that of the layer; where a stride is lost, every (``rate`` · stride)-th is.
    So a window that rounding up lets reach beyond the map does so here, too.
    """
    pads, more = _borders(layer, rate)
    if isinstance(layer, nn.AvgPool2d):
        plain = rate == 1 and not any(more)
        return None if plain else DilatedAvgPool2d(layer, stride, rate)
    kernel = pair(layer.kernel_size)
    limits = zip(pads[::2], kernel[::-1], strict=True)
    if not any(more) and all(2 * pad <= taps for pad, taps in limits):
        return None
    around: Any = tuple(map(sum, zip(pads, more, strict=True)))
    dilation = tuple(gap * rate for gap in pair(layer.dilation))
    pool = nn.MaxPool2d(kernel, stride, dilation=dilation)
    return nn.Sequential(nn.ConstantPad2d(around, -inf), pool)


def _borders(layer: Any, rate: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a dilated pooling's padding as F.pad wants it, and what it rounds up by.

    Torch's last window may begin at any unit of the map, but no later. So with
    ``ceil_mode`` it ends beyond the padding by less than a stride.
    """
    pads, more = [], []
    for axis in (1, 0):
        pad, stride = pair(layer.padding)[axis], pair(layer.stride)[axis]
        gap = pair(getattr(layer, "dilation", 1))[axis]
        span = (pair(layer.kernel_size)[axis] - 1) * gap
        pads += [pad * rate] * 2
        more += [0, min(stride - 1, span - pad) * rate if layer.ceil_mode else 0]
    return tuple(pads), tuple(more)


def pair(value: Any) -> Any:
    """Return a layer's argument along both axes; a padding's name as it is."""
    return value if isinstance(value, str) else _pair(value)
