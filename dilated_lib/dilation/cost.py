"""What a dilated layer costs: counted, and measured side by side.

A layer cannot be faster than its operations at the machine's rate, nor than its bytes
at the memory's: the roofline of Williams, Waterman and Patterson (2009).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from dilated_lib.fields.arithmetic import Window

__all__ = ["Cost", "Timing", "activations", "cost", "measure"]


@dataclass(frozen=True)
class Cost:
    """Of one pass through a layer: arithmetic operations, and bytes to be moved.

    A multiplication and an addition are two operations. Of bytes it takes at least the
    input, the weights and the output once each. ``intensity`` is operations for a byte.

    >>> Cost(operations=18, bytes=6).intensity
    3.0
    """

    operations: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.operations / self.bytes


def cost(
    conv: nn.Conv2d, size: tuple[int, int], *, batch: int = 1, number: int = 4
) -> Cost:
    """What a layer costs on an input (batch, C, H, W), in numbers of so many bytes.

    ``size`` is (H, W).

    The dilation is not in it, but for what padding makes of the output's size.
    Raises ValueError for padding in words, and for an input smaller than the kernel.

    >>> cost(nn.Conv2d(21, 21, 3, padding=16, dilation=16), (64, 64)).operations
    32514048
    """
    outputs = []
    for axis, side in enumerate(size):
        pad = conv.padding[axis]
        if isinstance(pad, str):
            raise ValueError(f"padding must be in numbers, got {conv.padding!r}")
        window = Window(
            conv.kernel_size[axis],
            conv.stride[axis],
            dilation=conv.dilation[axis],
            padding=pad,
        )
        outputs.append(window.output_size(side))
    made = batch * conv.out_channels * prod(outputs)
    read = batch * conv.in_channels * prod(size)
    taps = conv.in_channels // conv.groups * prod(conv.kernel_size)
    return Cost(2 * made * taps, number * (made + read + conv.weight.numel()))


@dataclass(frozen=True)
class Timing:
    """Median of a call's times and the distance of their quartiles, in milliseconds."""

    median_ms: float
    spread_ms: float


def measure(
    functions: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    turns: int = 5,
) -> dict[str, Timing]:
    """Time functions side by side: each is called for about so many seconds in all.

    After a warm-up they are called by turns, each ``turns`` times for a part of the
    seconds, so that what else the machine does meets them alike. ``turns`` is at least
    2. GPU work is waited for. Compare the ratios, not the times, with another run's.

    >>> times = measure({"sum": lambda: torch.ones(9).sum()}, seconds=0.05)
    >>> times["sum"].median_ms > 0
    True
    """
    # its module looks for a compiler, which timing does not need, and says so
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(turns):
        for name, function in functions.items():
            timer = Timer(
                "function()",
                globals={"function": function},
                num_threads=torch.get_num_threads(),
            )
            times[name] += timer.blocked_autorange(min_run_time=seconds / turns).times
    return {name: _timing(found) for name, found in times.items()}


def _timing(times: list[float]) -> Timing:
    low, _, high = quantiles(times, n=4)
    return Timing(round(1000 * median(times), 4), round(1000 * (high - low), 4))


def activations(network: nn.Module, size: tuple[int, int, int]) -> int:
    """Numbers in the outputs of a network's convolutions and poolings, for one image.

    ``size`` is (C, H, W). Nothing is computed: the network runs without values, so it
    must be on the meta device.

    >>> with torch.device("meta"):
    ...     activations(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)), (3, 10, 10))
    640
    """
    counted = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal counted
        counted += output.numel()

    kinds = (nn.Conv2d, nn.MaxPool2d)
    hooks = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, kinds)
    ]
    try:
        network(torch.empty(1, *size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return counted
