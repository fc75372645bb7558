"""A front end and a context module behind it, layer by layer."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dilated_lib.data.palettes import Colour
from dilated_lib.fields.input_sizes import InputSizes, input_sizes
from dilated_lib.fields.layers import windows_of
from dilated_lib.networks.context import ContextModule
from dilated_lib.values import one_of, positive, whole, wholes

__all__ = ["DilatedNetwork", "bilinear_deconvolution"]

Weights = Literal["imagenet"] | Path | None
Upsampling = Literal["released", "deconvolution", "half_pixel"]


class DilatedNetwork(nn.Module):
    """A front end and a context module behind it, as the paper draws them.

    ``forward`` takes images (N, 3, H, W), RGB, 0 to 255, and returns logits of the
    cells (N, C, h, w), or with ``upsample`` of pixels, (N, C, 8h, 8w). The softmax is
    not part of it. For sizes see :func:`~dilated_lib.fields.input_sizes.input_sizes`.

    ``front`` takes :meth:`normalised` images to logits of the cells, and ``context``
    refines these; it is ``nn.Identity`` where there is none. ``upsample`` is a fixed
    bilinear deconvolution, or None.

    Files keep the names of the released ones, and :meth:`file_name` translates. These
    are the names of the front end's layers, the last of them ``final``; then, each
    after ``prefix``, conv1_1, conv1_2, conv2_1, …, where the first number rises with
    the dilation, fc1, final and upsample.

    Raises TypeError or ValueError for impossible arguments, and ValueError where the
    parts do not fit together; ``forward`` raises ValueError for an input of another
    shape, or one too small for a cell.

    Args:
        front: From :func:`~dilated_lib.networks.vgg.front_end`, or layers like them.
        context: Between logits of as many classes, or None.
        palette: A colour (RGB) for the name of each class, in the order of the logits.
        mean: Of the training pictures (B, G, R), subtracted from each pixel.
        input_size: Height and width of a tile in pixels, in prediction.
        final: What files call the front end's last layer.
        prefix: What files put before the names of the context module's layers.
        upsample: Whether to add a deconvolution from cells to pixels.
        scale: How many times as large pictures are made before they are segmented.
        upsampling: How prediction goes from cells to pixels; "deconvolution" with
            ``upsample``.

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
        counts = {
            "logits of the front end": getattr(front[-1], "out_channels", None),
            "colours": len(palette),
        }
        if context is not None:
            counts["classes of the context module"] = context.num_classes
            counts["channels into it"] = context.in_channels
        if len(set(counts.values())) > 1:
            raise ValueError(
                "all parts must be for as many classes, got "
                + ", ".join(f"{count} {name}" for name, count in counts.items())
            )
        self.front = front
        self.context = nn.Identity() if context is None else context
        self.upsample = bilinear_deconvolution(len(palette), 8) if upsample else None
        self.palette, self.mean = dict(palette), mean
        what = "a height and a width"
        height, width = wholes("input_size", input_size, 1, what=what, count=2)
        self.input_size = height, width
        self.num_classes, self.scale = len(palette), positive("scale", scale)
        one_of("upsampling", upsampling, get_args(Upsampling))
        self.upsampling: Upsampling = "deconvolution" if upsample else upsampling
        *own, last = front._modules
        self._file_names = {f"front.{name}": name for name in own}
        self._file_names |= {f"front.{last}": final, "upsample": f"{prefix}upsample"}
        if context is not None:
            for place, name in enumerate(_released_names(context)):
                self._file_names[f"context.layers.{place}"] = prefix + name
        for name, count in Counter(self._file_names.values()).items():
            if count > 1:
                raise ValueError(f"two layers would be called {name} in files")

    def file_name(self, name: str) -> str:
        """Return what files call a parameter: "front.fc6.bias" is "fc6.bias" there."""
        pairs = self._file_names.items()
        own, layer = next(pair for pair in pairs if name.startswith(f"{pair[0]}."))
        return layer + name.removeprefix(own)

    @cached_property
    def sizes(self) -> tuple[InputSizes, InputSizes]:
        """Return which heights and widths of inputs give whole cells."""
        return input_sizes(self.front)

    @cached_property
    def least_size(self) -> tuple[int, int]:
        """Return the smallest height and width, in pixels, that have a cell.

        A front end that pads by reflection needs more than it reflects.
        """
        return _least(self.front, 0), _least(self.front, 1)

    @property
    def stride(self) -> int:
        """Return the pixels from one cell of the front end to the next."""
        return int(self.sizes[0].stride)

    @property
    def margin(self) -> int:
        """Return the pixels that the front end needs on each side of its cells'."""
        return int(self.sizes[0].margin)

    def normalised(self, images: Tensor) -> Tensor:
        """Return images (N, 3, H, W) as the front end wants them: BGR, minus ``mean``.

        They have the precision of its weights, but only after the mean is subtracted:
        bfloat16 would round the pixels themselves.
        """
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images.device)
        return (images.flip(1) - mean[:, None, None]).to(next(self.front.parameters()))

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits from images (N, 3, H, W); see the class for their size."""
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
        logits: Tensor = self.context(self.front(self.normalised(images)))
        return logits if self.upsample is None else self.upsample(logits)


def _released_names(context: ContextModule) -> Iterator[str]:
    """List what the released files call a context module's layers, without prefix."""
    dilations = [window.dilation for window in context.windows[:-2]]
    for level, (_, group) in enumerate(groupby(dilations), 1):
        for number, _ in enumerate(group, 1):
            yield f"conv{level}_{number}"
    yield from ("fc1", "final")


def _least(layers: nn.Module, axis: int) -> int:
    """Return the smallest input, in pixels along an axis, that gives one unit.

    The layers are followed from the last to the first, since one of them needs as many
    inputs as its outputs read. Padding makes that fewer, and so does rounding up: the
    last window only has to begin inside the padded map.
    """
    size = 1
    for layer in reversed([*layers.modules()]):
        if isinstance(layer, nn.MaxPool2d | nn.Conv2d):
            window = windows_of(layer)[axis]
            before, after = window.pads
            if isinstance(layer, nn.MaxPool2d) and layer.ceil_mode:
                begins = (size - 1) * window.stride + 1 - before
                reads = (size - 2) * window.stride + window.extent + 1
                size = max(begins, reads - before - after, 1)
            else:
                reads = (size - 1) * window.stride + window.extent
                size = max(reads - before - after, 1)
            if isinstance(layer, nn.Conv2d) and layer.padding_mode == "reflect":
                size = max(size, before + 1)  # the border itself is not repeated
    return size


def bilinear_deconvolution(channels: int, stride: int) -> nn.ConvTranspose2d:
    """Build Caffe's fixed deconvolution, which upsamples bilinearly by ``stride``.

    (N, C, h, w) becomes (N, C, stride · h, stride · w). The centre of cell i comes to
    stride · i + (stride − 1)/2, the middle of its pixels. Away from the border this is
    ``F.interpolate(scale_factor=stride, mode="bilinear", align_corners=False)``; at the
    border the cells outside count as zeros. It has no bias and is not trained.

    Raises TypeError or ValueError for impossible numbers, such as an odd stride.

    >>> bilinear_deconvolution(3, 8)(torch.ones(1, 3, 2, 5)).shape
    torch.Size([1, 3, 16, 40])
    """
    channels, stride = whole("channels", channels, 1), whole("stride", stride, 2)
    if stride % 2:
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
