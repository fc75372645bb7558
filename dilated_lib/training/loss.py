"""The paper's three stages of training as one module: crops and labels → loss."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilated_lib.data.labelled import VOID
from dilated_lib.networks.baselines import Baseline
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.training.config import Recipe

__all__ = ["Stage", "layout", "median_frequency_weights"]


class Stage(nn.Module):
    """A network with the loss of its stage.

    ``forward`` takes crops (N, 3, H, W), RGB, 0 to 255, with the network's margin, and
    labels (N, h, w) of the pixels inside it. It returns the sum of the weighted
    cross-entropies, not yet divided by :meth:`weight`, so that a batch may be spread
    over processes. ``frozen`` keeps the front end as it is, and in evaluation.

    >>> from dilated_lib.networks.architecture import Architecture
    >>> from dilated_lib.training.config import PAPER
    >>> two = {"road": (128, 64, 128), "sky": (128, 128, 128)}
    >>> narrow = Architecture(width=4, fc_channels=8).build(two, (0.0, 0.0, 0.0))
    >>> stage, labels = Stage(narrow, PAPER), torch.zeros(1, 16, 24)
    >>> loss = stage(torch.zeros(1, 3, 388, 396), labels) / stage.weight(labels)
    >>> round(loss.item(), 4)  # ln 2: the network does not know yet
    0.6931
    """

    def __init__(
        self,
        network: DilatedNetwork | Baseline,
        recipe: Recipe,
        *,
        class_weights: Tensor | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.recipe, self.frozen = network, recipe, frozen
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = recipe.dropout
        if frozen:
            network.front.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Stage":
        """Set the mode, as of any module; a frozen front end stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.network.front.eval()
        return self

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add up the losses of all pixels, or cells, that have a label."""
        network = self.network
        logits = network.front(network.normalised(images))
        if isinstance(network.context, nn.Identity):
            return self._sum(logits, labels)
        loss = self._sum(network.context(logits), labels)
        if self.recipe.auxiliary and not self.frozen:
            loss = loss + self.recipe.auxiliary * self._sum(logits, labels)
        return loss

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = self._at(labels)
        if logits.shape[2:] != labels.shape[1:]:
            logits = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear")
        # one row a pixel: the loss of maps has no deterministic form on a GPU, and
        # the rows' own sum is that of a single block of threads there
        rows = logits.float().permute(0, 2, 3, 1).flatten(0, 2)
        return F.cross_entropy(
            rows,
            labels.flatten().long(),
            self.class_weights,
            ignore_index=VOID,
            reduction="none",
        ).sum()

    def _at(self, labels: Tensor) -> Tensor:
        step = self.network.stride if self.recipe.loss_at == "cells" else 1
        return labels[:, ::step, ::step]

    def weight(self, labels: Tensor) -> Tensor:
        """Return what to divide the sum by: the weights of all that has a label."""
        labels = self._at(labels).flatten().long()
        known = labels != VOID
        if self.class_weights is None:
            return known.sum().float()
        return (self.class_weights[labels * known] * known).sum()


def layout(device: torch.device, precision: str) -> torch.memory_format:
    """Return how weights lie in memory in training: channels last, with an exception.

    The exception is float32 on a CPU. Without AVX-512 the gradient of weights that lie
    channels last is slow there: VGG-16's first layers take four times as long, and a
    step of the front end 1.7 times (oneDNN of torch 2.14, two cores with AVX2).

    >>> layout(torch.device("cpu"), "32-true")
    torch.contiguous_format
    """
    slow = device.type == "cpu" and precision == "32-true"
    return torch.contiguous_format if slow else torch.channels_last


def median_frequency_weights(counts: Tensor) -> Tensor:
    """Compute weights (C,) of classes: the root of the median frequency over their own.

    Eigen and Fergus (ICCV 2015) use the ratio without the root, and take frequencies in
    the pictures that have the class. With the root rare classes count more, but do not
    drown the others. A class without pixels has weight 0.

    Raises ValueError where no class has pixels.

    >>> median_frequency_weights(torch.tensor([100, 400, 0, 25]))
    tensor([1.0000, 0.5000, 0.0000, 2.0000])
    """
    if not counts.any():
        raise ValueError("no pixel has a label: there is nothing to weigh")
    found = counts.double()
    weights = (found[counts > 0].quantile(0.5) / found).sqrt()
    return torch.where(counts > 0, weights, 0.0).float()
