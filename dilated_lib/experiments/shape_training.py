"""How far does a network reach? Trained on shapes, measured by distance to the cue.

The stages are the paper's, in small. A front end learns to label a pixel by what it
sees, which is one pixel here. Its maps are stored, and a context module learns on them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from dilated_lib.data.shapes import Shapes
from dilated_lib.networks.context import ContextModule, identity_

__all__ = [
    "FRONT_ENDS",
    "OPTIMIZERS",
    "Maps",
    "accuracies",
    "deepened",
    "descend",
    "fit",
    "front_end",
]

OPTIMIZERS: Mapping[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "Adam": Adam,
    "SGD": partial(SGD, momentum=0.9),  # the schedule moves it between 0.85 and 0.95
}
FRONT_ENDS = {"Adam": (150, 0.3), "SGD": (500, 3.0)}  # steps and learning rate
_TWINS = len(Shapes.colours)  # pictures of one scene, next to each other


@dataclass(frozen=True)
class Maps:
    """Maps (N, C, H, W) with labels and distances to the cue (N, H, W).

    >>> data = Maps.of(Shapes(2))
    >>> data.maps.shape, data.through(nn.Conv2d(3, 8, 1)).maps.shape
    (torch.Size([14, 3, 36, 36]), torch.Size([14, 8, 36, 36]))
    """

    maps: Tensor
    labels: Tensor
    distances: Tensor

    @classmethod
    def of(cls, shapes: Shapes) -> "Maps":
        """Collect all pictures of a data set."""
        pairs = [shapes[index] for index in range(len(shapes))]
        scenes = torch.stack([shapes.distances(n) for n in range(shapes.scenes)])
        return cls(
            torch.stack([picture for picture, _ in pairs]),
            torch.stack([label for _, label in pairs]),
            scenes.repeat_interleave(_TWINS, 0),
        )

    def through(self, module: nn.Module) -> "Maps":
        """Return what a module makes of the maps, to be stored; no gradient passes."""
        with torch.no_grad():
            return Maps(module(self.maps), self.labels, self.distances)


def fit(
    module: nn.Module,
    data: Maps,
    *,
    steps: int,
    learning_rate: float = 0.01,
    optimizer: str = "Adam",
    generator: torch.Generator,
) -> list[float]:
    """Train a module on two scenes a step, each in all colours; return the losses.

    Void pixels do not count.

    Args:
        module: From maps (N, C, H, W) to logits of the shapes' classes.
        data: The maps to train on.
        steps: How many steps to take.
        learning_rate: The largest; it rises to it and falls once (``OneCycleLR``).
        optimizer: One of OPTIMIZERS: Adam, or SGD with momentum.
        generator: It draws the scenes.

    >>> data, draw = Maps.of(Shapes(2)), torch.Generator().manual_seed(0)
    >>> len(fit(nn.Conv2d(3, 8, 1), data, steps=5, generator=draw))
    5
    """

    def loss() -> Tensor:
        scenes = torch.randint(len(data.maps) // _TWINS, (2, 1), generator=generator)
        chosen = (scenes * _TWINS + torch.arange(_TWINS)).flatten()
        return F.cross_entropy(
            module(data.maps[chosen]), data.labels[chosen], ignore_index=Shapes.void
        )

    made = OPTIMIZERS[optimizer](module.parameters())
    return descend(made, loss, steps=steps, learning_rate=learning_rate)


def descend(
    optimizer: Optimizer,
    loss: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
) -> list[float]:
    """Take steps of an optimizer, each on a new value of the loss; return the losses.

    This is the loop of all experiments that train on stored maps.

    Args:
        optimizer: It has the parameters to train.
        loss: A call draws a batch and returns its loss.
        steps: How many steps to take.
        learning_rate: The largest; it rises to it and falls once (``OneCycleLR``).

    >>> x = torch.ones(1, requires_grad=True)
    >>> adam = torch.optim.Adam([x])
    >>> losses = descend(adam, lambda: (x**2).sum(), steps=50, learning_rate=0.1)
    >>> losses[0], losses[-1] < 0.1
    (1.0, True)
    """
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps
    )
    losses = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(value.item())
    return losses


def front_end(
    data: Maps, *, optimizer: str = "Adam", generator: torch.Generator
) -> nn.Conv2d:
    """Train the smallest front end: a 1 × 1 layer, whose units see one pixel.

    It starts at zero. It learns what a pixel's colour says of its class, and of grey
    that it says nothing. FRONT_ENDS has the steps and the learning rate of each
    optimizer.

    >>> data, draw = Maps.of(Shapes(2)), torch.Generator().manual_seed(0)
    >>> accuracies(front_end(data, generator=draw), data, farthest=0)
    [1.0]
    """
    layer = nn.Conv2d(data.maps.shape[1], len(Shapes.classes), 1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    steps, rate = FRONT_ENDS[optimizer]
    fit(
        layer,
        data,
        steps=steps,
        learning_rate=rate,
        optimizer=optimizer,
        generator=generator,
    )
    return layer


def deepened(
    module: ContextModule,
    layers: int,
    *,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Put 1 × 1 layers behind a context module: deeper, but it sees no further.

    A ReLU stands in front of each of the ``layers``, and they start as the identity,
    like the module's own. The network is then as deep as a module with ``layers`` more
    dilations, and its receptive field is that of ``module``. It is the control for such
    a module: where it succeeds and the module fails, depth cannot be the reason.

    >>> network = deepened(ContextModule(8, dilations=(1, 2)), 4)
    >>> len([layer for layer in network.modules() if isinstance(layer, nn.Conv2d)])
    7
    """
    network = nn.Sequential(module)
    for _ in range(layers):
        layer = nn.Conv2d(module.num_classes, module.num_classes, 1)
        identity_(layer, module.num_classes, generator=generator)
        network.extend([nn.ReLU(), layer])
    return network


def accuracies(module: nn.Module, data: Maps, *, farthest: int) -> list[float]:
    """Return the fraction of pixels labelled rightly at each distance to the cue.

    The distances are 0, 1, … ``farthest``. Raises ValueError where no pixel is that far
    away.

    >>> maps = torch.tensor([[1.0, 0, 0], [0, 1, 1]]).view(1, 2, 1, 3)
    >>> data = Maps(maps, torch.tensor([[[0, 1, 0]]]), torch.tensor([[[0, 1, 1]]]))
    >>> accuracies(nn.Identity(), data, farthest=1)
    [1.0, 0.5]
    """
    with torch.no_grad():
        right = module(data.maps).argmax(1) == data.labels
    fractions = []
    for distance in range(farthest + 1):
        there = right[data.distances == distance]
        if not len(there):
            raise ValueError(f"no pixel is {distance} pixels from the cue")
        fractions.append(there.double().mean().item())
    return fractions
