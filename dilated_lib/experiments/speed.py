"""What chapter 07 shows: layers and networks timed side by side, into records."""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import product
from math import inf
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilated_lib.data.sets import open_data
from dilated_lib.dilation.cost import Timing, measure
from dilated_lib.dilation.five_ways import dilated_conv2d
from dilated_lib.dilation.layer import DilatedConv2d, convolve
from dilated_lib.experiments.precision import gradient_errors, same_labels
from dilated_lib.networks.architecture import small_network
from dilated_lib.networks.context import ContextModule, Variant
from dilated_lib.networks.released import dilation8_pascal_voc
from dilated_lib.prediction.bfloat16 import has_bfloat16, quick
from dilated_lib.records import Record, device_name, write

__all__ = ["speed"]

DILATIONS = (1, 2, 4, 8, 16)
LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


def speed(
    out: Path, *, seconds: float, rounds: int, data: str | None, small: bool
) -> None:
    """Measure what chapter 07 shows, on a GPU if there is one, into records.

    Each record has the times of things measured side by side, and their ratios to the
    first of them: forward, and forward and backward together where the experiment's
    name ends in "training". All experiments are measured one after the other, and that
    is done ``rounds`` times, so that minutes lie between the measurements of one thing.
    A record has the median over the rounds, and the ratio of every round. In a round
    each thing is timed for about ``seconds``. With ``data``, a data set with the small
    network's classes, it also counts on how many validation pixels ``quick`` changes
    the label. ``small`` takes narrow layers and networks, to see that it runs.

    Raises ValueError for less than one round, for seconds that are not above 0 and
    finite, and for data that cannot be opened.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    if not 0 < seconds < inf:
        raise ValueError(f"seconds must be a number above 0, got {seconds}")
    pictures = None if data is None else open_data(data).split("val")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    done: list[Record] = []

    def keep(
        name: str, config: dict[str, Any], metrics: dict[str, Any], wall: float
    ) -> None:
        done.append(
            Record(
                experiment=f"speed/{name}",
                seed=0,
                config=config,
                metrics=metrics,
                seconds=round(wall, 1),
                device=device_name(device),
            )
        )
        write(out, done)

    with torch.no_grad():
        series = [_timed(device, seconds, small) for _ in range(rounds)]
        for same in zip(*series, strict=True):
            name, config, _, _ = same[0]
            rows = _over_rounds([timings for _, _, timings, _ in same])
            wall = sum(one[-1] for one in same)
            keep(name, config | {"rounds": rounds}, rows, wall)
        if device.type == "cuda" or has_bfloat16():
            config = {"channels": (21, 21), "side": 64, "dtype": "bfloat16"}
            begin = time.perf_counter()
            errors = gradient_errors(device, DILATIONS)
            keep("gradients", config, errors, time.perf_counter() - begin)
        if pictures is not None:
            begin = time.perf_counter()
            shares = same_labels(pictures, 4 if small else None)
            config = {"data": data, "split": "val", "pictures": len(shares)}
            metrics = {"same": round(sum(shares) / len(shares), 3)}
            metrics["worst"] = round(min(shares), 3)
            keep("labels", config, metrics, time.perf_counter() - begin)


def _timed(
    device: torch.device, seconds: float, small: bool
) -> list[tuple[str, dict[str, Any], dict[str, Timing], float]]:
    """One round: of each experiment the name, the config, the times, and its own."""
    found = []
    begin = time.perf_counter()
    for name, config, functions in _experiments(device, small):
        timings = measure(functions, seconds=seconds, turns=2)  # there are more rounds
        end = time.perf_counter()
        found.append((name, config, timings, end - begin))
        begin = end
    return found


def _over_rounds(rounds: list[dict[str, Timing]]) -> dict[str, dict[str, Any]]:
    """Medians over the rounds, and each round's ratio to the first of the things."""
    first, *_ = rounds[0]
    rows = {}
    for name in rounds[0]:
        ratios = [one[name].median_ms / one[first].median_ms for one in rounds]
        rows[name] = {
            "median_ms": round(median(one[name].median_ms for one in rounds), 4),
            "spread_ms": round(median(one[name].spread_ms for one in rounds), 4),
            "ratio": round(median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
    return rows


Experiment = tuple[str, dict[str, Any], dict[str, Callable[[], object]]]


def _experiments(device: torch.device, small: bool) -> Iterator[Experiment]:
    side, batch = (16, 1) if small else (64, 16 if device.type == "cuda" else 1)
    kinds = {"float32": torch.float32}
    if device.type == "cuda" or has_bfloat16():
        kinds["bfloat16"] = torch.bfloat16
    # on a CPU torch's own gradients can be wrong in bfloat16, see gradient_errors
    trained = kinds if device.type == "cuda" else {"float32": torch.float32}
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
        yield from _training(device, side, batch, channels, trained)
    for variant in get_args(Variant):
        module = ContextModule(3 if small else 21, variant).to(device)
        x = torch.randn(batch, module.num_classes, side, side, device=device)
        yield (
            f"context/{variant}",
            {"classes": module.num_classes, "side": side, "batch": batch},
            {"contiguous": _call(module, x), "channels_last": _last(module, x)},
        )
        for dtype, kind in trained.items():
            yield (
                f"context/{variant}/training",
                {"classes": module.num_classes, "side": side, "batch": batch}
                | {"dtype": dtype, "layout": "channels_last"},
                _modules(module.to(kind), x.to(kind)),
            )
    if device.type == "cpu":
        yield from _cliffs(kinds, small)
        network = small_network() if small else dilation8_pascal_voc().eval()
        size = network.sizes[0].size(1 if small else 66)
        x = torch.randn(1, 3, size, size)
        plain = {"plain": _call(network, x), "channels_last": _last(network, x)}
        yield "voc", {"size": size}, plain | {"quick": _call(quick(network), x)}


def _training(
    device: torch.device,
    side: int,
    batch: int,
    channels: tuple[int, int],
    kinds: dict[str, torch.dtype],
) -> Iterator[Experiment]:
    """Forward and backward, channels last: by dilation, and by the detours."""
    order = torch.channels_last
    for dtype, kind in kinds.items():
        x = torch.randn(batch, channels[0], side, side, device=device, dtype=kind)
        x = x.contiguous(memory_format=order)
        config = {"channels": channels, "side": side, "batch": batch}
        config |= {"dtype": dtype, "layout": "channels_last"}
        layers = {d: _layer(x, channels[1], d, order) for d in DILATIONS}
        yield (
            "dilation/training",
            config,
            {str(d): _step(layer, x, layer) for d, layer in layers.items()},
        )
        for d, layer in layers.items():
            ways = {"direct": _step(layer, x, layer)}
            if channels[0] % 8:
                ways["padded"] = _step(_detour(layer, multiple=8), x, layer)
            if d > 1:
                ways["space_to_batch"] = _step(_detour(layer, split=True), x, layer)
            if len(ways) > 1:
                yield "detours/training", config | {"dilation": d}, ways


def _cliffs(kinds: dict[str, torch.dtype], small: bool) -> Iterator[Experiment]:
    """Where oneDNN's fast kernel ends, contiguous: at the dilation or the padding?"""
    for dtype, width, edge in (("bfloat16", (64, 64), 16), ("float32", (336, 672), 8)):
        channels = (3, 3) if small else width
        if dtype not in kinds:
            continue
        x = torch.randn(1, channels[0], 64, 64, dtype=kinds[dtype])
        ways = {
            str(d): _call(_layer(x, channels[1], d, torch.contiguous_format), x)
            for d in (1, edge - 1, edge)
        }
        bare = nn.Conv2d(*channels, 3, dilation=edge).to(x)
        ways["padded before"] = _call(nn.Sequential(nn.ZeroPad2d(edge), bare), x)
        yield "cliff", {"channels": channels, "dtype": dtype, "edge": edge}, ways


def _detour(conv: nn.Conv2d, **way: Any) -> Callable[[Tensor], Tensor]:
    d = conv.dilation[0]
    return lambda x: convolve(x, conv.weight, conv.bias, dilation=d, padding=d, **way)


def _step(
    function: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module
) -> Callable[[], object]:
    """The function's value, and its gradients to x and the module's parameters."""
    x = x.clone().requires_grad_()
    gradient = torch.randn_like(function(x))
    inputs = [x, *module.parameters()]

    def step() -> object:
        with torch.enable_grad():
            return torch.autograd.grad(function(x), inputs, gradient)

    return step


def _modules(module: ContextModule, x: Tensor) -> dict[str, Callable[[], object]]:
    """The context module, without dilation, of torch's own layers, and as it is.

    And with channels in multiples of 8 from the start: as fast as it could be if it
    need not pad them.
    """
    order = torch.channels_last
    module, x = module.to(memory_format=order), x.contiguous(memory_format=order)
    undilated, plain, full = (deepcopy(module) for _ in range(3))
    for at, layer in enumerate(module.layers):
        assert isinstance(layer, nn.Conv2d)
        kernel, d = layer.kernel_size[0], layer.dilation[0]
        shape = layer.in_channels, layer.out_channels, kernel
        more = [-(-channels // 8) * 8 for channels in shape[:2]]
        pad = kernel // 2 * d
        plain.layers[at] = nn.Conv2d(*shape, padding=pad, dilation=d)
        full.layers[at] = DilatedConv2d(*more, kernel, padding=pad, dilation=d)
        undilated.layers[at] = DilatedConv2d(*shape, padding=kernel // 2)
    full.in_channels = full.num_classes = -(-module.num_classes // 8) * 8
    wide = F.pad(x, (0, 0, 0, 0, 0, full.num_classes - module.num_classes))
    full.to(x).to(memory_format=order)
    for other in (plain, undilated):
        other.to(x).to(memory_format=order).load_state_dict(module.state_dict())
    wanted = plain(x)
    far = (module(x) - wanted).abs().max() / wanted.abs().max()
    if far > 0.05:  # eight layers, each rounded to eight bits
        raise RuntimeError(f"the context module is off torch's layers by {far:.2f}")
    modules = {"undilated": undilated, "plain": plain, "library": module}
    steps = {name: _step(one, x, one) for name, one in modules.items()}
    return steps | {"full channels": _step(full, wide, full)}


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
    return lambda: dilated_conv2d(
        x, conv.weight, conv.bias, dilation=d, padding=d, method="space_to_batch"
    )
