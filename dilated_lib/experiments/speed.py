"""What chapter 07 shows: layers and networks timed side by side, into records."""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
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
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.networks.architecture import small_network
from dilated_lib.networks.context import ContextModule, Variant
from dilated_lib.networks.released import dilation8_pascal_voc
from dilated_lib.prediction.bfloat16 import has_bfloat16, quick

__all__ = ["speed"]

DILATIONS = (1, 2, 4, 8, 16)
LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


Experiment = tuple[str, dict[str, Any], dict[str, Callable[[], object]]]


def speed(
    out: Path = Path("book/results/speed_cpu.json"),
    /,
    *,
    seconds: float = 0.5,
    rounds: int = 3,
    data: str | None = None,
    small: bool = False,
) -> None:
    """Time dilated layers and the paper's networks side by side; chapter 07 shows it.

    It measures on a GPU if there is one. Each record has the times of things measured
    side by side, and their ratios to the first of them: forward, and forward and
    backward together where the experiment's name ends in "training". All experiments
    are measured one after the other, and all of that several times, so that minutes lie
    between the measurements of one thing. A record has the median over these rounds,
    and the ratio of every round.

    Args:
        out: The file of records to write.
        seconds: How long to time each of the things compared, in each round.
        rounds: How often to measure all of it; the records have medians and ranges.
        data: A data set; count on how many of its validation pixels bfloat16 changes
            the small network's label.
        small: Narrow layers and networks, to see that it runs.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    if not 0 < seconds < inf:
        raise ValueError(f"seconds must be a number above 0, got {seconds}")
    pictures = None if data is None else open_data(data).split("val")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recorder = Recorder(out, device=device)
    config: dict[str, Any]
    with torch.no_grad():
        series = [[*_one_round(device, seconds, small)] for _ in range(rounds)]
        for same in zip(*series, strict=True):
            name, config, _, _ = same[0]
            recorder.add(
                f"speed/{name}",
                config=config | {"rounds": rounds},
                metrics=_over_rounds([timings for _, _, timings, _ in same]),
                seconds=sum(wall for _, _, _, wall in same),
            )
        if device.type == "cuda" or has_bfloat16():
            config = {"channels": (21, 21), "side": 64, "dtype": "bfloat16"}
            with recorder.record("speed/gradients", config=config) as metrics:
                metrics.update(gradient_errors(device, DILATIONS))
        if pictures is not None:
            count = 4 if small else len(pictures)  # type: ignore[arg-type]
            config = {"data": data, "split": "val", "pictures": count}
            with recorder.record("speed/labels", config=config) as metrics:
                same_in = same_labels(pictures, count)
                metrics["same"] = round(sum(same_in) / count, 3)
                metrics["worst"] = round(min(same_in), 3)


def _one_round(
    device: torch.device, seconds: float, small: bool
) -> Iterator[tuple[str, dict[str, Any], dict[str, Timing], float]]:
    """Time each experiment; give its name, config, times, and the seconds it took."""
    begin = time.perf_counter()
    for name, config, functions in _experiments(device, small):
        timings = measure(functions, seconds=seconds, turns=2)  # there are more rounds
        yield name, config, timings, time.perf_counter() - begin
        begin = time.perf_counter()


def _over_rounds(rounds: list[dict[str, Timing]]) -> dict[str, dict[str, Any]]:
    """Take medians over the rounds; keep each round's ratio to the first thing."""
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


def _experiments(device: torch.device, small: bool) -> Iterator[Experiment]:
    """Build what is compared: a name, a config and the functions of each experiment.

    First come layers of several widths, by dilation, in both precisions and layouts,
    and their detour by space-to-batch; then both context modules. On a CPU there follow
    the layers where its fast kernel ends, and a picture through the paper's network.
    """
    side, batch = (16, 1) if small else (64, 16 if device.type == "cuda" else 1)
    kinds = {"float32": torch.float32}
    if device.type == "cuda" or has_bfloat16():
        kinds["bfloat16"] = torch.bfloat16
    # on a CPU torch's own gradients can be wrong in bfloat16, see gradient_errors
    trained = kinds if device.type == "cuda" else {"float32": torch.float32}
    for channels in ((3, 3),) if small else ((21, 21), (24, 24), (64, 64), (336, 672)):
        width, outputs = channels
        config = {"channels": channels, "side": side, "batch": batch}
        for (dtype, kind), (layout, order) in product(kinds.items(), LAYOUTS.items()):
            x = torch.randn(batch, width, side, side, device=device, dtype=kind)
            x = x.contiguous(memory_format=order)
            layers = {str(d): _layer(x, outputs, d, order) for d in DILATIONS}
            yield (
                "dilation",
                config | {"dtype": dtype, "layout": layout},
                {name: partial(layer, x) for name, layer in layers.items()},
            )
        x = torch.randn(batch, width, side, side, device=device)
        for d in DILATIONS[1:]:
            conv = _layer(x, outputs, d)
            split = partial(
                dilated_conv2d, x, conv.weight, conv.bias, dilation=d, padding=d
            )
            yield (
                "space_to_batch",
                config | {"dilation": d},
                {
                    "direct": partial(conv, x),
                    "space_to_batch": partial(split, method="space_to_batch"),
                },
            )
        for dtype, kind in trained.items():
            yield from _training(x.to(kind), outputs, config | {"dtype": dtype})
    for variant in get_args(Variant):
        module = ContextModule(3 if small else 21, variant).to(device)
        x = torch.randn(batch, module.num_classes, side, side, device=device)
        config = {"classes": module.num_classes, "side": side, "batch": batch}
        yield f"context/{variant}", config, _both_layouts("contiguous", module, x)
        for dtype, kind in trained.items():
            yield (
                f"context/{variant}/training",
                config | {"dtype": dtype, "layout": "channels_last"},
                _modules(module.to(kind), x.to(kind)),
            )
    if device.type == "cpu":
        yield from _cliffs(kinds, small)
        network = small_network() if small else dilation8_pascal_voc().eval()
        size = network.sizes[0].size(1 if small else 66)
        x = torch.randn(1, 3, size, size)
        things = _both_layouts("plain", network, x)
        yield "voc", {"size": size}, things | {"quick": partial(quick(network), x)}


def _training(x: Tensor, outputs: int, config: dict[str, Any]) -> Iterator[Experiment]:
    """Go forward and backward, channels last: by dilation, and by the detours."""
    order = torch.channels_last
    x = x.contiguous(memory_format=order)
    config = config | {"layout": "channels_last"}
    layers = {d: _layer(x, outputs, d, order) for d in DILATIONS}
    steps = {str(d): _step(layer, x, layer) for d, layer in layers.items()}
    yield "dilation/training", config, steps
    for d, layer in layers.items():
        ways = {"direct": _step(layer, x, layer)}
        if x.shape[1] % 8:
            ways["padded"] = _step(_detour(layer, multiple=8), x, layer)
        if d > 1:
            ways["space_to_batch"] = _step(_detour(layer, split=True), x, layer)
        if len(ways) > 1:
            yield "detours/training", config | {"dilation": d}, ways


def _cliffs(kinds: dict[str, torch.dtype], small: bool) -> Iterator[Experiment]:
    """Look where oneDNN's fast kernel ends: at the dilation, or at the padding?"""
    for dtype, width, edge in (("bfloat16", (64, 64), 16), ("float32", (336, 672), 8)):
        channels = (3, 3) if small else width
        if dtype not in kinds:
            continue
        x = torch.randn(1, channels[0], 64, 64, dtype=kinds[dtype])
        ways: dict[str, Callable[[], object]] = {
            str(d): partial(_layer(x, channels[1], d), x) for d in (1, edge - 1, edge)
        }
        bare = nn.Conv2d(*channels, 3, dilation=edge).to(x)
        ways["padded before"] = partial(nn.Sequential(nn.ZeroPad2d(edge), bare), x)
        yield "cliff", {"channels": channels, "dtype": dtype, "edge": edge}, ways


def _detour(conv: nn.Conv2d, **way: Any) -> Callable[[Tensor], Tensor]:
    d = conv.dilation[0]
    return lambda x: convolve(x, conv.weight, conv.bias, dilation=d, padding=d, **way)


def _step(
    function: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module
) -> Callable[[], object]:
    """Make a step: the function, and its gradients to x and the module's parameters."""
    x = x.clone().requires_grad_()
    gradient = torch.randn_like(function(x))
    inputs = [x, *module.parameters()]

    def step() -> object:
        with torch.enable_grad():
            return torch.autograd.grad(function(x), inputs, gradient)

    return step


def _modules(module: ContextModule, x: Tensor) -> dict[str, Callable[[], object]]:
    """Make training steps of the context module as it is, and in three other forms.

    They tell what each of its properties costs: "undilated" has no dilation, and
    "plain" has torch's own layers. "full channels" has channels in multiples of 8 from
    the start, and is as fast as the module could be if it did not have to pad them.

    Raises RuntimeError where torch's layers give something else.
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
    x: Tensor,
    outputs: int,
    dilation: int,
    order: torch.memory_format = torch.contiguous_format,
) -> nn.Conv2d:
    conv = nn.Conv2d(x.shape[1], outputs, 3, padding=dilation, dilation=dilation)
    return conv.to(x).to(memory_format=order)


def _both_layouts(
    name: str, module: nn.Module, x: Tensor
) -> dict[str, Callable[[], object]]:
    """Call a module on x as it is, under this name, and with its channels last."""
    order = torch.channels_last
    last = deepcopy(module).to(memory_format=order)
    turned = x.contiguous(memory_format=order)
    return {name: partial(module, x), "channels_last": partial(last, turned)}
