"""What a dilated layer costs: counted, and measured side by side.

A layer cannot be faster than its operations at the machine's rate, nor than its bytes
at the memory's: the roofline of Williams, Waterman and Patterson (2009).
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from pathlib import Path
from statistics import median, quantiles
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dilated_lib.architecture import small_network
from dilated_lib.arithmetic import Window
from dilated_lib.context import ContextModule, Variant
from dilated_lib.convolution import dilate
from dilated_lib.data.labelled import Sample
from dilated_lib.data.sets import open_data
from dilated_lib.inference import has_bfloat16, quick
from dilated_lib.networks import dilation8_pascal_voc
from dilated_lib.records import Record, device_name, write
from dilated_lib.segment import probabilities

__all__ = ["Cost", "Timing", "activations", "cost", "measure", "speed"]


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
    functions: Mapping[str, Callable[[], object]], *, seconds: float = 1.0
) -> dict[str, Timing]:
    """Time functions side by side: each is called for about so many seconds in all.

    They take turns in five rounds, after a warm-up, so that what else the machine does
    meets them alike. GPU work is waited for. Compare the ratios, not the times, with
    another run's.

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
    for _ in range(5):
        for name, function in functions.items():
            timer = Timer(
                "function()",
                globals={"function": function},
                num_threads=torch.get_num_threads(),
            )
            times[name] += timer.blocked_autorange(min_run_time=seconds / 5).times
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


DILATIONS = (1, 2, 4, 8, 16)
LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


def speed(out: Path, *, seconds: float, data: str | None, small: bool) -> None:
    """Measure what chapter 07 shows, on a GPU if there is one, into records.

    Each record has the times of things measured side by side, forward, and their ratio
    to the first of them. With ``data``, a data set with the small network's classes,
    it also counts on how many validation pixels ``quick`` changes the label. ``small``
    takes narrow layers and networks, to see that it runs.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    done: list[Record] = []

    def keep(name: str, config: dict[str, Any], metrics: dict[str, Any]) -> None:
        wall = round(time.perf_counter() - begin, 1)
        done.append(
            Record(
                experiment=f"speed/{name}",
                seed=0,
                config=config,
                metrics=metrics,
                seconds=wall,
                device=device_name(device),
            )
        )
        write(out, done)

    with torch.no_grad():
        begin = time.perf_counter()
        for experiment, config, functions in _experiments(device, small):
            timings = measure(functions, seconds=seconds)
            first = next(iter(timings.values())).median_ms
            rows = {
                name: asdict(one) | {"ratio": round(one.median_ms / first, 3)}
                for name, one in timings.items()
            }
            keep(experiment, config, rows)
            begin = time.perf_counter()
        if data is not None:
            shares = _same_labels(open_data(data).split("val"), 4 if small else None)
            config = {"data": data, "split": "val", "pictures": len(shares)}
            metrics = {"same": round(sum(shares) / len(shares), 3)}
            keep("labels", config, metrics | {"worst": round(min(shares), 3)})


Experiment = tuple[str, dict[str, Any], dict[str, Callable[[], object]]]


def _experiments(device: torch.device, small: bool) -> Iterator[Experiment]:
    side, batch = (16, 1) if small else (64, 16 if device.type == "cuda" else 1)
    kinds = {"float32": torch.float32}
    if device.type == "cuda" or has_bfloat16():
        kinds["bfloat16"] = torch.bfloat16
    for channels in ((3, 3),) if small else ((21, 21), (24, 24), (64, 64), (336, 672)):
        for (dtype, kind), (layout, order) in product(kinds.items(), LAYOUTS.items()):
            x = torch.randn(batch, channels[0], side, side, device=device, dtype=kind)
            x = x.contiguous(memory_format=order)
            config = {"channels": channels, "side": side, "batch": batch}
            yield (
                "dilation",
                config | {"dtype": dtype, "layout": layout},
                {str(d): _call(_layer(x, channels[1], d, order), x) for d in DILATIONS},
            )
        x = torch.randn(batch, channels[0], side, side, device=device)
        for d in DILATIONS[1:]:
            conv = _layer(x, channels[1], d, torch.contiguous_format)
            yield (
                "space_to_batch",
                {"channels": channels, "side": side, "batch": batch, "dilation": d},
                {"direct": _call(conv, x), "space_to_batch": _interleaved(conv, x, d)},
            )
    for variant in get_args(Variant):
        module = ContextModule(3 if small else 21, variant).to(device)
        x = torch.randn(batch, module.num_classes, side, side, device=device)
        yield (
            f"context/{variant}",
            {"classes": module.num_classes, "side": side, "batch": batch},
            {"contiguous": _call(module, x), "channels_last": _last(module, x)},
        )
    if device.type == "cpu":
        network = dilation8_pascal_voc(fc_channels=8 if small else 4096).eval()
        size = network.sizes[0].size(1 if small else 66)
        x = torch.randn(1, 3, size, size)
        plain = {"plain": _call(network, x), "channels_last": _last(network, x)}
        yield "voc", {"size": size}, plain | {"quick": _call(quick(network), x)}


def _layer(
    x: Tensor, outputs: int, dilation: int, order: torch.memory_format
) -> nn.Conv2d:
    conv = nn.Conv2d(x.shape[1], outputs, 3, padding=dilation, dilation=dilation)
    return conv.to(x).to(memory_format=order)


def _call(module: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: module(x)


def _last(module: nn.Module, x: Tensor) -> Callable[[], object]:
    order = torch.channels_last
    return _call(
        deepcopy(module).to(memory_format=order), x.contiguous(memory_format=order)
    )


def _interleaved(conv: nn.Conv2d, x: Tensor, d: int) -> Callable[[], object]:
    return lambda: dilate(
        x, conv.weight, conv.bias, dilation=d, padding=d, method="space_to_batch"
    )


def _same_labels(pictures: Dataset[Sample], most: int | None) -> list[float]:
    """For each picture, percent of the pixels to which ``quick`` gives their label."""
    networks = small_network(), quick(small_network())
    shares = []
    for index in range(len(pictures))[:most]:  # type: ignore[arg-type]
        image = pictures[index][0][None]
        one, other = (probabilities(net, image).argmax(1) for net in networks)
        shares.append(100 * (one == other).float().mean().item())
    return shares
