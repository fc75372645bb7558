"""What a dilated layer costs: counted, and measured side by side.

A layer cannot be faster than the machine does its operations, nor faster than the
memory moves its bytes: the roofline of Williams, Waterman and Patterson (2009).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from dilated_lib.fields.layers import windows_of
from dilated_lib.values import positive, whole, wholes

__all__ = ["Cost", "Timing", "activations", "cost", "measure"]


@dataclass(frozen=True)
class Cost:
    """The cost of one pass through a layer: operations, and bytes to be moved.

    A multiplication and an addition are two operations. The bytes are the least that a
    pass must move: the input, the weights and the output, once each.

    >>> Cost(operations=18, bytes=6).intensity
    3.0
    """

    operations: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Return the operations for each byte."""
        return self.operations / self.bytes


def cost(
    conv: nn.Conv2d, size: tuple[int, int], *, batch: int = 1, number: int = 4
) -> Cost:
    """Count what a layer costs on an input (batch, C, H, W).

    The dilation costs nothing of its own: it counts only through the output's size.

    Raises ValueError for an input smaller than the kernel.

    Args:
        conv: The layer.
        size: Height and width of the input.
        batch: The inputs in a pass.
        number: The bytes of a number, such as 2 in half precision.

    >>> cost(nn.Conv2d(21, 21, 3, padding=16, dilation=16), (64, 64)).operations
    32514048
    """
    sides = wholes("size", size, 1, what="a height and a width", count=2)
    batch, number = whole("batch", batch, 1), whole("number", number, 1)
    layers = zip(windows_of(conv), sides, strict=True)
    outputs = [window.output_size(side) for window, side in layers]
    made = batch * conv.out_channels * prod(outputs)
    read = batch * conv.in_channels * prod(sides)
    taps = conv.in_channels // conv.groups * prod(conv.kernel_size)
    return Cost(2 * made * taps, number * (made + read + conv.weight.numel()))


@dataclass(frozen=True)
class Timing:
    """The median of a call's times and the distance of their quartiles, in ms."""

    median_ms: float
    spread_ms: float


def measure(
    functions: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    turns: int = 5,
) -> dict[str, Timing]:
    """Time functions side by side.

    After a warm-up they are called by turns, each ``turns`` times, so that whatever
    else the machine does affects them alike. Each is called for about ``seconds`` in
    all. Work on a GPU is waited for. With another run compare the ratios, not the
    times: these depend on how busy the machine was.

    Raises ValueError for seconds that are not above 0, and for fewer than 2 turns,
    which have no spread.

    >>> times = measure({"sum": lambda: torch.ones(9).sum()}, seconds=0.05)
    >>> times["sum"].median_ms > 0
    True
    """
    seconds, turns = positive("seconds", seconds), whole("turns", turns, 2)
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
    return {name: _timing(several) for name, several in times.items()}


def _timing(times: list[float]) -> Timing:
    low, _, high = quantiles(times)  # quartiles
    return Timing(round(1000 * median(times), 4), round(1000 * (high - low), 4))


def activations(network: nn.Module, size: tuple[int, int, int]) -> int:
    """Count the numbers that a network's convolutions and poolings give for one image.

    ``size`` is (C, H, W). Nothing is computed: the network runs without values, so it
    must be on the meta device.

    >>> with torch.device("meta"):
    ...     activations(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)), (3, 10, 10))
    640
    """
    shape = wholes("size", size, 1, what="channels, a height and a width", count=3)
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
        network(torch.empty(1, *shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return counted
