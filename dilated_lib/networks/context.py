"""The paper's context module (Table 1) and the identity initialisation it needs."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dilated_lib.dilation.layer import DilatedConv2d
from dilated_lib.fields.arithmetic import Window

__all__ = ["ContextModule", "identity_"]

Variant = Literal["basic", "large"]
Padding = Literal["each", "once", "none"]


class ContextModule(nn.Module):
    """Dilated 3 × 3 layers, each with a ReLU, and a 1 × 1 layer without one.

    ``forward`` takes logits (N, C, H, W) and returns logits of that shape; with
    ``padding="none"`` each side is 2 · Σ dilations shorter.

    ``variant`` is Table 1's: "basic" has C channels in every layer, "large" has 2C
    times the largest dilation so far, and C in the end. ``padding`` says where zeros
    are added: in "each" layer, as many as its dilation (the released networks for
    CamVid, KITTI and Cityscapes); "once", all of them in front of the first layer (the
    one for VOC); or "none". ``windows`` holds the layers for the arithmetic.

    A new module is identity-initialised, with noise from torch's global generator;
    ``reset_parameters`` does it again. It then computes max(x, 0), but for the noise.

    Raises ValueError or TypeError for impossible arguments, and in ``forward``
    ValueError for an input that has other channels or is too small.

    Source: Yu and Koltun, ICLR 2016, Table 1, and their released networks.

    >>> ContextModule(21)(torch.zeros(1, 21, 66, 66)).shape
    torch.Size([1, 21, 66, 66])
    """

    def __init__(
        self,
        num_classes: int,
        variant: Variant = "basic",
        *,
        dilations: Sequence[int] = (1, 1, 2, 4, 8, 16, 1),
        padding: Padding = "each",
    ) -> None:
        super().__init__()
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                f"num_classes must be a whole number above 0, got {num_classes!r}"
            )
        _one_of("variant", variant, get_args(Variant))
        _one_of("padding", padding, get_args(Padding))
        if not isinstance(dilations, tuple | list) or not dilations:
            raise ValueError(
                f"dilations must list one number for each layer, got {dilations!r}"
            )
        self.num_classes, self.padding = num_classes, padding
        layers = [Window(3, dilation=dilation) for dilation in dilations]
        pads = {
            "each": [layer.dilation for layer in layers],
            "once": [sum(layer.dilation for layer in layers)] + [0] * len(layers),
            "none": [0] * len(layers),
        }[padding]
        self.windows = (
            *(
                Window(3, dilation=layer.dilation, padding=pad)
                for layer, pad in zip(layers, pads, strict=False)
            ),
            Window(1),
        )
        widest = accumulate((layer.dilation for layer in layers), max)
        widths = [2 * most if variant == "large" else 1 for most in widest]
        channels = [num_classes * width for width in (1, *widths, 1)]
        self.layers = nn.ModuleList(
            DilatedConv2d(
                channels[depth],
                channels[depth + 1],
                window.kernel_size,
                dilation=window.dilation,
                padding=window.pads[0],
            )
            for depth, window in enumerate(self.windows)
        )
        self.reset_parameters()

    def reset_parameters(
        self, *, std: float = 0.01, generator: torch.Generator | None = None
    ) -> None:
        """Initialise every layer to the identity: see :func:`identity_`.

        In a layer of c channels the noise is ``std`` · C/c, as the released code
        divides it: ``std`` times the taps that carry the signal.
        """
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d)
            part = std * self.num_classes / layer.out_channels
            identity_(layer, self.num_classes, std=part, generator=generator)

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, C, H, W) with context; see the class for the size."""
        if logits.dim() != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits must have shape (N, {self.num_classes}, H, W), "
                f"got {tuple(logits.shape)}"
            )
        least = 1
        if self.padding == "none":
            least += sum(window.extent - 1 for window in self.windows)
        if min(logits.shape[2:]) < least:
            raise ValueError(
                f"with padding={self.padding!r} both sides must have at least {least} "
                f"positions, got {tuple(logits.shape[2:])}"
            )
        *hidden, last = self.layers
        for layer in hidden:
            logits = torch.relu(layer(logits))
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
    to one class; all other weights are noise N(0, std²), and the bias is 0. With as
    many channels as classes and ``std=0`` this is the paper's eq. 4, else its eq. 5.
    The sum over a class's channels is passed on. The released training code, which is
    for the basic module, has noise there, too: 0.01, over the width in units of C.

    Raises TypeError for another kind of layer, ValueError for channels that do not
    divide into the groups, an even kernel, a grouped convolution, a negative std.

    >>> conv = nn.Conv2d(2, 2, 3)
    >>> identity_(conv, 2, std=0)
    >>> conv.weight[:, :, 1, 1].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"conv must be an nn.Conv2d, got {type(conv).__name__}")
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups must be a whole number above 0, got {groups!r}")
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
    if std < 0:
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


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
