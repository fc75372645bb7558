"""The paper's context module (Table 1) and the identity initialisation it needs."""

from collections.abc import Iterable
from itertools import accumulate
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dilated_lib.dilation.layer import DilatedConv2d
from dilated_lib.fields.windows import Window
from dilated_lib.values import one_of, whole, wholes

__all__ = ["ContextModule", "identity_"]

Variant = Literal["basic", "large"]
Padding = Literal["each", "once", "none"]
PaddingMode = Literal["zeros", "reflect", "replicate"]


class ContextModule(nn.Module):
    """Dilated 3 × 3 layers, each with a ReLU, and a 1 × 1 layer without one.

    ``forward`` takes logits (N, C, H, W), or features (N, in_channels, H, W), and
    returns logits (N, C, H, W); with ``padding="none"`` each side is 2 · Σ dilations
    shorter. ``windows`` holds the layers for the arithmetic.

    A new module starts as the identity, with noise from torch's global generator:
    apart from the noise it computes max(x, 0). ``reset_parameters`` initialises it
    again. Features have no classes to pass on, so with ``in_channels`` the first layer
    starts as He et al. (ICCV 2015) propose for ReLUs, and only the others as the
    identity.

    Raises TypeError or ValueError for impossible arguments; ``forward`` raises
    ValueError for an input that has other channels or is too small.

    Source: Yu and Koltun, ICLR 2016, Table 1, and their released networks. They write
    that reflection does as well as zeros at the border.

    Args:
        num_classes: C, the number of classes.
        variant: Table 1's. "basic" has C channels in every layer; "large" has 2C times
            the largest dilation so far, and C in the end.
        dilations: The dilation of each 3 × 3 layer.
        padding: Where the map is continued: in front of "each" layer, by its dilation
            (the released networks for CamVid, KITTI and Cityscapes); "once", in front
            of the first layer and for all of them (the one for VOC); or "none".
        padding_mode: What continues it: zeros, its own reflection, or copies of its
            outermost positions.
        in_channels: The channels of features, where these come in place of logits.

    >>> ContextModule(21)(torch.zeros(1, 21, 66, 66)).shape
    torch.Size([1, 21, 66, 66])
    >>> ContextModule(21, in_channels=64)(torch.zeros(1, 64, 66, 66)).shape
    torch.Size([1, 21, 66, 66])
    """

    def __init__(
        self,
        num_classes: int,
        variant: Variant = "basic",
        *,
        dilations: Iterable[int] = (1, 1, 2, 4, 8, 16, 1),
        padding: Padding = "each",
        padding_mode: PaddingMode = "zeros",
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = whole("num_classes", num_classes, 1)
        one_of("variant", variant, get_args(Variant))
        one_of("padding", padding, get_args(Padding))
        one_of("padding_mode", padding_mode, get_args(PaddingMode))
        rates = wholes("dilations", dilations, 1, what="one number for each layer")
        self.padding = padding
        self.takes_features = in_channels is not None
        self.in_channels = self.num_classes
        if in_channels is not None:
            self.in_channels = whole("in_channels", in_channels, 1)
        pads = {
            "each": rates,
            "once": (sum(rates), *[0] * (len(rates) - 1)),
            "none": [0] * len(rates),
        }[padding]
        self.windows = (
            *(
                Window(3, dilation=d, padding=p)
                for d, p in zip(rates, pads, strict=True)
            ),
            Window(1),
        )
        large = variant == "large"
        widths = [2 * widest if large else 1 for widest in accumulate(rates, max)]
        hidden = [self.num_classes * width for width in widths]
        channels = [self.in_channels, *hidden, self.num_classes]
        self.layers = nn.ModuleList(
            DilatedConv2d(
                channels[depth],
                channels[depth + 1],
                window.kernel_size,
                dilation=window.dilation,
                padding=window.padding,
                padding_mode=padding_mode,
            )
            for depth, window in enumerate(self.windows)
        )
        self.relu = nn.ReLU(inplace=True)
        self.reset_parameters()

    def reset_parameters(
        self, *, std: float = 0.01, generator: torch.Generator | None = None
    ) -> None:
        """Initialise every layer as the identity: see :func:`identity_`.

        In a layer of c channels the noise is ``std`` · C/c: the released code divides
        it so, and then it is ``std`` times the taps that carry the signal. A first
        layer that takes features is drawn without regard to ``std``.
        """
        for depth, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            if depth == 0 and self.takes_features:
                nn.init.kaiming_normal_(
                    layer.weight, nonlinearity="relu", generator=generator
                )
                nn.init.zeros_(layer.bias)
                continue
            part = std * self.num_classes / layer.out_channels
            identity_(layer, self.num_classes, std=part, generator=generator)

    def forward(self, logits: Tensor) -> Tensor:
        """Compute logits (N, C, H, W) with context; see the class for their size."""
        if logits.dim() != 4 or logits.shape[1] != self.in_channels:
            kind = "features" if self.takes_features else "logits"
            raise ValueError(
                f"{kind} must have shape (N, {self.in_channels}, H, W), "
                f"got {tuple(logits.shape)}"
            )
        how, least = f"padding={self.padding!r}", 1
        if self.padding == "none":
            least += sum(window.extent - 1 for window in self.windows)
        elif self.layers[0].padding_mode == "reflect":  # which leaves the border out
            how = "padding_mode='reflect'"
            least += max(max(window.pads) for window in self.windows)
        if min(logits.shape[2:]) < least:
            raise ValueError(
                f"with {how} both sides must have at least {least} positions, got "
                f"{tuple(logits.shape[2:])}"
            )
        *hidden, last = self.layers
        for layer in hidden:
            logits = self.relu(layer(logits))
        result: Tensor = last(logits)
        return result


def identity_(
    conv: nn.Conv2d,
    groups: int,
    *,
    std: float = 0.01,
    generator: torch.Generator | None = None,
) -> None:
    """Initialise a layer in place so that it passes ``groups`` classes on unchanged.

    Channels in and out are split into ``groups`` equal groups, one for each class. The
    centre tap from channel a to channel b is groups / (channels out) where both belong
    to one class, so that the sum over a class's channels is passed on. All other
    weights are noise N(0, std²), and the bias is 0. With as many channels as classes
    and ``std=0`` this is the paper's eq. 4, with more channels its eq. 5. The noise is
    that of the released training code, which is for the basic module: 0.01, divided by
    the width in units of C.

    Raises TypeError for another kind of layer. Raises ValueError for channels that do
    not divide into the groups, an even kernel, a grouped convolution, and an ``std``
    that is negative or not finite.

    Source: Yu and Koltun, ICLR 2016, section 3.

    Args:
        conv: A layer with odd kernel sides.
        groups: The number of classes.
        std: The standard deviation of the noise.
        generator: Draws the noise; by default torch's global one does.

    >>> conv = nn.Conv2d(2, 2, 3)
    >>> identity_(conv, 2, std=0)
    >>> conv.weight[:, :, 1, 1].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"conv must be an nn.Conv2d, got {type(conv).__name__}")
    groups = whole("groups", groups, 1)
    if conv.in_channels % groups or conv.out_channels % groups:
        raise ValueError(
            f"{conv.in_channels} channels in and {conv.out_channels} out must both "
            f"divide into {groups} groups"
        )
    if conv.groups != 1:
        raise ValueError(f"conv must not be grouped, got groups={conv.groups}")
    if any(side % 2 == 0 for side in conv.kernel_size):
        raise ValueError(
            f"the kernel needs a centre: its sides must be odd, got {conv.kernel_size}"
        )
    if not 0 <= std < inf:
        raise ValueError(f"std must be at least 0, got {std}")
    with torch.no_grad():
        conv.weight.normal_(0, std, generator=generator)
        if conv.bias is not None:
            conv.bias.zero_()
        out_class, in_class = (
            torch.arange(channels, device=conv.weight.device) * groups // channels
            for channels in (conv.out_channels, conv.in_channels)
        )
        same = out_class[:, None] == in_class
        row, column = (side // 2 for side in conv.kernel_size)
        conv.weight[:, :, row, column][same] = groups / conv.out_channels
