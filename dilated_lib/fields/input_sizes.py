"""Which input sizes a network divides into whole cells, and the margin they need."""

from dataclasses import dataclass
from math import inf

from torch import nn

from dilated_lib.fields.arithmetic import ReceptiveField, compose
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.fields.windows import Window, whole

__all__ = ["InputSizes", "input_sizes"]


@dataclass(frozen=True)
class InputSizes:
    """The whole sizes of a network's input along one axis. All lengths in pixels.

    A network makes one cell of each ``field.stride`` pixels. An input of
    ``size(n)`` pixels gives n cells, if it is large enough for each layer, and no layer
    of a chain leaves a pixel over: each window lies inside the (padded) input, and the
    last one ends where it ends. ``margin`` is what
    the input needs on each side beyond the pixels of its cells, so that the middle of
    each cell's receptive field is the middle of the cell. It is negative where the
    network's own padding is more than that.

    The reason: n cells see (n − 1) · stride + field.size positions, of which the
    network pads field.padding on each side. What is left is n · stride + 2 · margin.

    >>> VGG = ReceptiveField(8, ((0, 379),))
    >>> InputSizes(VGG).margin, InputSizes(VGG).size(66), InputSizes(VGG).cells(900)
    (186, 900, 66)
    """

    field: ReceptiveField

    def __post_init__(self) -> None:
        field = self.field
        if field.size == inf:
            raise ValueError("a cell sees the whole axis: every size gives one cell")
        if len(field.phases) > 1 or not isinstance(field.stride, int):
            raise ValueError(
                "cells must be alike and stand whole pixels apart, got "
                f"{field}; name a layer before the upsampling"
            )

    @property
    def stride(self) -> int:
        """Pixels from one cell to the next."""
        return int(self.field.stride)

    @property
    def margin(self) -> float:
        """Pixels that the input needs on each side beyond those of its cells."""
        twice = self.size(0)
        return twice // 2 if twice % 2 == 0 else twice / 2

    def size(self, cells: int) -> int:
        """Pixels of the input that gives so many cells."""
        seen = (cells - 1) * self.stride + int(self.field.size)
        return seen - 2 * self.field.padding

    def cells(self, size: int) -> int:
        """Cells of a whole input size.

        Raises ValueError for another size, with the whole ones next to it.
        """
        pixels = whole("size", size, 1)
        cells, over = divmod(pixels - self.size(0), self.stride)
        least = max(1, -((self.size(0) - 1) // self.stride))  # that has a pixel
        if over or cells < least:
            below = max(cells, least)
            near = [self.size(n) for n in (below, below + 1)]
            raise ValueError(
                f"{size} pixels do not give whole cells; sizes that do are {self}, "
                f"such as {near[0]} ({below} cells) or {near[1]} ({below + 1})"
            )
        return cells

    def __str__(self) -> str:
        fixed = self.size(0)
        if fixed < 0:
            return f"{self.stride}n - {-fixed}"
        return f"{fixed} + {self.stride}n" if fixed else f"{self.stride}n"


def input_sizes(
    network: nn.Module,
    *,
    channels: int = 3,
    to: str | None = None,
    at: tuple[int, int] = (512, 512),
) -> tuple[InputSizes, InputSizes]:
    """The whole sizes of any network's input: of its height and of its width.

    ``to`` names the module whose output are the cells; by default they are the
    network's output. ``at`` is a height and width that the network takes. Padding must
    be the same on both sides, and is asked: the network is traced at ``at`` and at a
    whole size next to it, which must give the cells promised.

    Raises ValueError where the cells are not alike, where a cell sees the whole axis,
    and where a side is padded more than the other; TracingError as
    :func:`~dilated_lib.fields.tracing.receptive_field` does.

    >>> vgg = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
    >>> h, w = input_sizes(vgg)
    >>> str(h), h.margin, h.size(4)
    ('6 + 2n', 3, 14)
    """
    if to is None and (chain := _chain(network)):
        return chain
    height, width = (
        InputSizes(field) for field in receptive_field(network, (channels, *at), to=to)
    )
    cells = [
        max(1, (pixels - axis.size(0)) // axis.stride)
        for axis, pixels in zip((height, width), at, strict=True)
    ]
    sides = [axis.size(n) for axis, n in zip((height, width), cells, strict=True)]
    found, less, more = (
        receptive_field(
            network, (channels, *(one + by for one in sides)), to=to
        ).lengths
        for by in (0, -1, 1)
    )
    up = any(getattr(layer, "ceil_mode", False) for layer in network.modules())
    for axis, count in enumerate(cells):
        tight = more[axis] == count + 1 if up else less[axis] == count - 1
        if found[axis] != count or not tight:
            raise ValueError(
                f"an input of {sides} gives {list(found)} cells, which are not just "
                f"{cells}: the network pads one side more than the other"
            )
    return height, width


def _chain(network: nn.Module) -> tuple[InputSizes, InputSizes] | None:
    """The sizes of layers in a row, without the seconds of tracing.

    Where they pad, all of them must keep their size at stride 1: then n · stride pixels
    give n cells, and no layer leaves a pixel over.
    """
    if type(network) is not nn.Sequential:
        return None
    axes: tuple[list[Window], list[Window]] = ([], [])
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            if not layer.__module__.startswith("torch.nn"):
                return None  # as for torch.fx: a subclass may compute something else
            if isinstance(layer.padding, str):
                return None
            for axis, windows in enumerate(axes):
                kernel, stride, dilation, padding = (
                    int(value[axis] if isinstance(value, tuple) else value)
                    for value in (
                        *(layer.kernel_size, layer.stride),
                        *(layer.dilation, layer.padding),
                    )
                )
                windows.append(
                    Window(kernel, stride, dilation=dilation, padding=padding)
                )
        elif type(layer) not in (nn.ReLU, nn.BatchNorm2d, nn.Dropout):
            return None
    for windows in axes:
        pads = any(any(one.pads) for one in windows)
        if pads and not all(map(_keeps_size, windows)):
            return None
    return InputSizes(compose(axes[0])), InputSizes(compose(axes[1]))


def _keeps_size(window: Window) -> bool:
    """Does a layer turn n · stride positions into n, whatever n is?"""
    before, after = window.pads
    return before == after and window.extent - 2 * before == window.stride
