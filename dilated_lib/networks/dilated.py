"""A front end and a context module behind it, layer by layer."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dilated_lib.data.palettes import Colour
from dilated_lib.fields.input_sizes import InputSizes, input_sizes
from dilated_lib.networks.context import ContextModule

__all__ = ["DilatedNetwork", "bilinear_deconvolution"]

Weights = Literal["imagenet"] | Path | None
Upsampling = Literal["released", "deconvolution", "half_pixel"]


class DilatedNetwork(nn.Module):
    """A front end, and a context module behind it, with what their numbers mean.

    ``forward`` takes images (N, 3, H, W), BGR, 0 to 255, minus ``mean``, and returns
    logits of the cells (N, C, h, w), or of pixels, (N, C, 8h, 8w), with ``upsample``.
    The softmax is not part of it. For sizes see
    :func:`~dilated_lib.fields.input_sizes.input_sizes`.

    The layers are children under the names of the released files: those of ``front``,
    its last one called ``final``; then ``prefix`` + conv1_1, conv1_2, conv2_1, …, where
    the first number rises with the dilation, fc1, final; and with ``upsample`` a fixed
    bilinear deconvolution. They are those of ``front`` and ``context``, not copies.
    With ``context=None`` the front end's logits are the network's.

    ``palette`` has a colour (RGB) for the name of each class, in the order of the
    logits; ``mean`` is (B, G, R), and ``input_size`` the height and width of a tile in
    pixels. :func:`~dilated_lib.prediction.segmentation.predict` enlarges pictures by
    ``scale`` first, and goes from cells to pixels by ``upsampling``, "deconvolution"
    with ``upsample``.

    Raises ValueError where the parts do not fit together, and in ``forward`` for an
    input of another shape or one too small for a cell.

    >>> from dilated_lib.networks.vgg import front_end
    >>> front, sky = front_end(1, fc_channels=8, width=4), {"sky": (128, 128, 128)}
    >>> one = {"palette": sky, "mean": (0.0, 0.0, 0.0), "input_size": (900, 900)}
    >>> DilatedNetwork(front, None, **one)(torch.zeros(1, 3, 388, 396)).shape
    torch.Size([1, 1, 2, 3])
    """

    def __init__(
        self,
        front: nn.Sequential,
        context: ContextModule | None,
        *,
        palette: Mapping[str, Colour],
        mean: tuple[float, float, float],
        input_size: tuple[int, int],
        final: str = "final",
        prefix: str = "ctx_",
        upsample: bool = False,
        scale: float = 1.0,
        upsampling: Upsampling = "released",
    ) -> None:
        super().__init__()
        last = front[-1]
        counts = {
            "logits of the front end": getattr(last, "out_channels", None),
            "colours": len(palette),
        }
        if context is not None:
            counts["classes of the context module"] = context.num_classes
        if len(set(counts.values())) > 1:
            raise ValueError(
                "all parts must be for as many classes, got "
                + ", ".join(f"{count} {name}" for name, count in counts.items())
            )
        self.palette, self.mean, self.input_size = dict(palette), mean, input_size
        self.scale = scale
        self.upsampling: Upsampling = "deconvolution" if upsample else upsampling
        *layers, (_, last) = front._modules.items()
        rows = [*layers, (final, last)]
        if context is not None:
            rows += _named(context, prefix)
        self._front, self._context = len(layers) + 1, len(rows)
        if upsample:
            deconvolution = bilinear_deconvolution(len(palette), 8)
            rows.append((f"{prefix}upsample", deconvolution))
        for name, layer in rows:
            if name in self._modules:
                raise ValueError(f"two layers would be called {name}")
            self.add_module(name, layer)

    @property
    def front(self) -> nn.Sequential:
        """The front end, images → logits of the cells. Shares the layers."""
        return self._part(0, self._front)

    @property
    def context(self) -> nn.Sequential:
        """The context module, logits → logits. Shares the layers."""
        return self._part(self._front, self._context)

    def _rows(self) -> list[tuple[str, nn.Module]]:
        # named_children would leave out a layer that stands there twice
        return [(name, one) for name, one in self._modules.items() if one is not None]

    def _part(self, first: int, end: int) -> nn.Sequential:
        return nn.Sequential(OrderedDict(self._rows()[first:end]))

    @property
    def upsample(self) -> nn.ConvTranspose2d | None:
        """The deconvolution from cells to pixels, if there is one."""
        last = [layer for _, layer in self._rows()[self._context :]]
        return last[0] if last else None  # type: ignore[return-value]

    @cached_property
    def sizes(self) -> tuple[InputSizes, InputSizes]:
        """Which heights and widths of inputs give whole cells of the front end."""
        return input_sizes(self.front)

    @cached_property
    def least_size(self) -> tuple[int, int]:
        """The smallest height and width in pixels from which the front end has a cell.

        A front end that pads by reflection needs more than it reflects.
        """
        return _least(self.front, 0), _least(self.front, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) → logits; see the class."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must have shape (N, 3, H, W), got {tuple(images.shape)}"
            )
        least = self.least_size
        if images.shape[2] < least[0] or images.shape[3] < least[1]:
            raise ValueError(
                f"images must have at least {least[0]} x {least[1]} pixels, for one "
                f"cell, got {tuple(images.shape[2:])}; pad them by reflection first"
            )
        for _, layer in self._rows():
            images = layer(images)
        return images


def _named(context: ContextModule, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a context module under their released names, with their ReLUs."""
    *hidden, last = context.layers
    depth = 0
    dilations = [window.dilation for window in context.windows[: len(hidden) - 1]]
    for level, (_, group) in enumerate(groupby(dilations), 1):
        for number, _ in enumerate(group, 1):
            yield f"{prefix}conv{level}_{number}", hidden[depth]
            yield f"{prefix}relu{level}_{number}", nn.ReLU(inplace=True)
            depth += 1
    yield f"{prefix}fc1", hidden[depth]
    yield f"{prefix}fc1_relu", nn.ReLU(inplace=True)
    yield f"{prefix}final", last


def _least(layers: nn.Module, axis: int) -> int:
    """The smallest input, in pixels along an axis, that gives one unit."""

    def along(value: Any) -> int:
        return int(value[axis] if isinstance(value, tuple) else value)

    size = 1
    for layer in reversed([*layers.modules()]):
        if isinstance(layer, nn.MaxPool2d | nn.Conv2d):
            extent = along(layer.dilation) * (along(layer.kernel_size) - 1) + 1
            stride, pad = along(layer.stride), along(layer.padding)
            if isinstance(layer, nn.MaxPool2d) and layer.ceil_mode:
                began = (size - 1) * stride + 1 - pad  # the last window begins inside
                size = max(began, (size - 2) * stride + extent + 1 - 2 * pad, 1)
            else:
                size = max((size - 1) * stride + extent - 2 * pad, 1)
            if getattr(layer, "padding_mode", "zeros") == "reflect":
                size = max(size, pad + 1)  # the border itself is not repeated
    return size


def bilinear_deconvolution(channels: int, stride: int) -> nn.ConvTranspose2d:
    """Bilinear upsampling by an even ``stride``, as Caffe's fixed deconvolution.

    (N, C, h, w) → (N, C, stride · h, stride · w). The centre of cell i comes to
    stride · i + (stride − 1)/2, the middle of its pixels. Away from the border this is
    ``F.interpolate(scale_factor=stride, mode="bilinear", align_corners=False)``; at the
    border cells outside count as zeros. Not trained, without a bias.

    Raises ValueError for an odd stride.

    >>> bilinear_deconvolution(3, 8)(torch.ones(1, 3, 2, 5)).shape
    torch.Size([1, 3, 16, 40])
    """
    if stride < 2 or stride % 2:
        raise ValueError(f"stride must be even, got {stride}")
    layer = nn.ConvTranspose2d(
        channels,
        channels,
        2 * stride,
        stride=stride,
        padding=stride // 2,
        groups=channels,
        bias=False,
    )
    tap = 1 - (torch.arange(2 * stride) - stride + 0.5).abs() / stride
    layer.weight.requires_grad_(False).copy_(tap[:, None] * tap)
    return layer
