"""What other packages say of the same networks, and who is right.

`make compare` runs it in an environment of its own, and the book's page "Receptive
field of your network" shows the records.

The truth is measured on the network, with NaN, and needs no formula: a row of the input
is made NaN, and the middle units of the output are looked at. A package is right if it
gives the number of rows and of columns from the first that is read to the last.
"""

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilated_lib.experiments.recorder import Recorder
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.networks.context import ContextModule

__all__ = ["cases", "compare"]

SIDE = 128


class Net(nn.Module):
    """A network that computes a function of its input and its layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's value."""
        result: Tensor = self.function(x, *self.layers)
        return result


def conv(k: Any = 3, s: Any = 1, p: Any = 0, d: int = 1, **options: Any) -> nn.Conv2d:
    """Make a layer from 3 channels to 3."""
    return nn.Conv2d(3, 3, k, s, p, d, **options)


def cases() -> dict[str, nn.Module]:
    """Build the networks to ask: a construct each, and beginnings of torchvision's.

    There is one for each construct that a real network may have, so that the record
    tells which of them a package gets right.

    >>> cases()["plain"](torch.zeros(1, 3, 9, 9)).shape
    torch.Size([1, 3, 2, 2])
    """
    from torchvision import models  # not needed to import the library

    torch.manual_seed(0)  # what a gradient misses depends on the weights
    return {
        "plain": nn.Sequential(conv(), nn.ReLU(), conv(5, 2)),
        "max pooling": nn.Sequential(conv(), nn.MaxPool2d(3, 2, 1), conv()),
        "average pooling": nn.Sequential(conv(), nn.AvgPool2d(2), conv()),
        "dilated": nn.Sequential(conv(), conv(3, 1, 2, 2), conv(3, 1, 4, 4)),
        "context module": ContextModule(3),
        "rectangular": nn.Sequential(conv((1, 7)), conv((5, 1), (2, 1))),
        "same, even kernel": nn.Sequential(conv(4, 1, "same"), conv(2, 1, "same")),
        "asymmetric padding": nn.Sequential(nn.ZeroPad2d((3, 0, 1, 0)), conv(4, 2)),
        "reflected": conv(5, 1, 2, padding_mode="reflect"),
        "dilated pooling": nn.Sequential(conv(), nn.MaxPool2d(3, 2, 0, 2)),
        "stride above kernel": nn.Sequential(conv(2, 3), conv(2, 3)),
        "residual": Net(lambda x, a, b: a(x) + b(x), conv(5, 2, 2), conv(1, 2)),
        "concatenated": Net(lambda x, a: torch.cat([a(x), x], 1), conv(7, 1, 3)),
        "other order": Net(lambda x, a, b: a(b(x)), conv(7), conv(3, 2)),
        "shared layer": Net(lambda x, a: a(a(x)), conv()),
        "dead branch": Net(lambda x, a, b: (a(x), b(x))[0], conv(), conv(9)),
        "functional": Net(lambda x, a: F.max_pool2d(a(x), 4, 2), conv()),
        "cropped": Net(lambda x, a: a(x) + x[..., 2:-2, 1:-3], conv(5)),
        "channels split": Net(
            lambda x, a: torch.cat([x[:, :1], a(x)[:, 1:]], 1)[:, :1], conv(5, 1, 2)
        ),
        "transposed": nn.Sequential(
            conv(3, 2), nn.ConvTranspose2d(3, 3, 4, 2, 1), conv()
        ),
        "nearest": nn.Sequential(conv(3, 2, 1), nn.Upsample(scale_factor=2), conv()),
        "bilinear": nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv()),
        "pixel shuffle": nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), conv(3, 1, 1)
        ),
        "pixel unshuffle": nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 3, 3)),
        "rolled": Net(lambda x, a: a(x.roll((5, -3), (2, 3))), conv()),
        "squeeze and excitation": Net(
            lambda x, a: x * a(x.mean((2, 3), keepdim=True)), conv(1)
        ),
        "instance norm": nn.Sequential(conv(), nn.InstanceNorm2d(3)),
        "alexnet.features[:6]": models.alexnet().features[:6],
        "vgg11.features[:11]": models.vgg11().features[:11],
        "resnet18, to layer2": nn.Sequential(*[*models.resnet18().children()][:6]),
        "densenet121, first block": models.densenet121().features[:5],
        "squeezenet1_0.features[:6]": models.squeezenet1_0().features[:6],
        "shufflenet_v2_x0_5, to stage2": nn.Sequential(
            *[*models.shufflenet_v2_x0_5().children()][:3]
        ),
        "mobilenet_v3_small.features[:3]": models.mobilenet_v3_small().features[:3],
    }


def measured(network: nn.Module) -> list[int]:
    """Measure how many rows and columns a unit reads, from the first to the last.

    The most of four units next to each other, since they may differ where the network
    enlarges its maps.
    """
    with torch.no_grad():
        sides = network(torch.zeros(1, 3, SIDE, SIDE)).shape[2:]
    sizes = []
    for axis, side in enumerate(sides):
        units = range(side // 2, side // 2 + 4)
        reads: dict[int, list[int]] = {unit: [] for unit in units}
        for position in range(SIDE):
            x = torch.randn(1, 3, SIDE, SIDE)
            x.select(2 + axis, position).fill_(torch.nan)
            with torch.no_grad():
                lost = network(x).isnan().any(1)[0].any(1 - axis)
            for unit in units:
                if lost[unit]:
                    reads[unit].append(position)
        sizes.append(max(one[-1] - one[0] + 1 for one in reads.values() if one))
    return sizes


def ours(network: nn.Module) -> list[float]:
    """Ask this library; an unbounded field is as large as the picture."""
    axes = receptive_field(network, (3, SIDE, SIDE))
    return [SIDE if axis.size == inf else axis.size for axis in axes]


def by_torchlens(network: nn.Module) -> list[Any]:
    """Ask torchlens, which logs a forward pass; it may call an answer a bound."""
    import torchlens

    trace = torchlens.trace(network, torch.randn(1, 3, SIDE, SIDE))
    view = trace.layers[-1].receptive_field
    if any(size is None for size in view.size[-2:]):
        raise ValueError(str(view.status))
    sizes = [SIDE if size == inf else int(size) for size in view.size[-2:]]
    return sizes if "exact" in str(view.status).lower() else [f"≤ {n}" for n in sizes]


def by_receptivefield(network: nn.Module) -> list[int]:
    """Differentiate the network as it is; rows are called w there, columns h."""
    from receptivefield.pytorch import PytorchReceptiveField

    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = network(x)
            self.feature_maps = [y]
            return y

    (found,) = PytorchReceptiveField(Wrapped).compute(input_shape=[SIDE, SIDE, 3])
    return [int(found.rf.size.w), int(found.rf.size.h)]


TOOLS: dict[str, Callable[[nn.Module], Any]] = {
    "dilated-lib": ours,
    "torchlens": by_torchlens,
    "receptivefield": by_receptivefield,
}


def compare(out: Path = Path("book/results/tools.json"), /) -> None:
    """Run all packages on all cases, and write a record for each package."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    networks = cases()
    truth = {name: measured(network.eval()) for name, network in networks.items()}
    recorder = Recorder(out)
    for tool, ask in TOOLS.items():
        config = {"version": version(tool), "side": SIDE}
        with recorder.record(f"tools/{tool}", config=config) as metrics:
            for name, network in networks.items():
                try:
                    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                        answer = ask(network)
                except Exception as error:  # whatever a package raises is its answer
                    answer = type(error).__name__
                metrics[name] = {"measured": truth[name], "answered": answer}


if __name__ == "__main__":
    compare()
