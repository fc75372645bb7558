"""Which input sizes a network divides into whole cells, and the margin they need."""

from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from dilated_lib.fields import trial
from dilated_lib.fields.arithmetic import ReceptiveField, compose, place
from dilated_lib.fields.size_search import Search, fixed_pixels
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.fields.windows import Window, whole

__all__ = ["InputSizes", "input_sizes"]


@dataclass(frozen=True)
class InputSizes:
    """The whole sizes of a network's input along one axis. All lengths in pixels.

    A network makes one cell of each ``stride`` pixels. An input of ``size(n)`` pixels
    gives n cells, and no layer leaves a pixel over: the last window ends where the
    (padded) input ends, or else only padding follows it. ``margin`` is what the input
    needs before the pixels of its cells, so that the middle of each cell's receptive
    field is the middle of the cell. It is negative where the network's own padding is
    more than that.

    The sizes are ``fixed + n * step``, and have ``more + n * each`` cells, for all n
    from ``least`` on. In a chain of layers a step is one cell, and n their number. The
    reason: n cells see (n − 1) · stride + field.size positions, of which the network
    pads field.padding on each side. What is left is n · stride + 2 · margin, so that
    the margin is needed on both sides.

    >>> VGG = ReceptiveField(8, ((0, 379),))
    >>> InputSizes(VGG).margin, InputSizes(VGG).size(66), InputSizes(VGG).cells(900)
    (186, 900, 66)
    """

    field: ReceptiveField
    step: int = 0
    fixed: int = 0
    each: int = 1
    more: int = 0
    least: int = 1

    def __post_init__(self) -> None:
        if not self.step:
            object.__setattr__(self, "fixed", fixed_pixels(self.field))
            object.__setattr__(self, "step", self.field.stride)

    @property
    def stride(self) -> int | Fraction:
        """Pixels from one cell to the next."""
        stride = Fraction(self.step, self.each)
        return stride.numerator if stride.denominator == 1 else stride

    @property
    def margin(self) -> float:
        """Pixels that the input needs before those of its cells.

        Raises ValueError where a cell sees the whole axis.
        """
        margin = place(self.field, 0) - float(self.stride - 1) / 2
        return int(margin) if margin.is_integer() else margin

    def size(self, cells: int) -> int:
        """Pixels of the input that gives so many cells.

        Raises ValueError where no whole size does, with the numbers next to it.
        """
        steps, over = divmod(cells - self.more, self.each)
        if over or steps < self.least:
            raise ValueError(
                f"no whole size gives {cells} cells; sizes are {self}, such as "
                + self._next_to(steps)
            )
        return self.fixed + steps * self.step

    def cells(self, size: int) -> int:
        """Cells of a whole input size.

        Raises ValueError for another size, with the whole ones next to it.
        """
        steps, over = divmod(whole("size", size, 1) - self.fixed, self.step)
        if over or steps < self._first:
            raise ValueError(
                f"{size} pixels do not give whole cells; sizes that do are {self}, "
                "such as " + self._next_to(steps)
            )
        return self._cells(steps)

    @property
    def _first(self) -> int:
        """The least number of steps that leaves a pixel."""
        return max(self.least, -((self.fixed - 1) // self.step))

    def _cells(self, steps: int) -> int:
        return self.more + steps * self.each

    def _next_to(self, steps: int) -> str:
        below = max(steps, self._first)
        sizes = [self.fixed + n * self.step for n in (below, below + 1)]
        return (
            f"{sizes[0]} ({self._cells(below)} cells) or "
            f"{sizes[1]} ({self._cells(below + 1)})"
        )

    def __str__(self) -> str:
        """The sizes as a line in n."""
        if self.fixed < 0:
            return f"{self.step}n - {-self.fixed}"
        return f"{self.fixed} + {self.step}n" if self.fixed else f"{self.step}n"

    @property
    def count(self) -> str:
        """The cells of these sizes, in the same n."""
        more = f" {'-' if self.more < 0 else '+'} {abs(self.more)}" if self.more else ""
        return f"{'' if self.each == 1 else self.each}n{more}"


def input_sizes(
    network: nn.Module,
    *,
    channels: int = 3,
    to: str | None = None,
    at: tuple[int, int] = (512, 512),
) -> tuple[InputSizes, InputSizes]:
    """The whole sizes of any network's input: of its height and of its width.

    ``to`` names the module whose output are the cells; by default they are the
    network's output. The whole network takes these sizes, and resizes all its maps by
    whole factors: a U-Net with ``to`` in its encoder has the sizes of the U-Net. Up to
    ``to`` no layer leaves a pixel over, and no padding either, if there is such a size.
    ``at`` is a height and width to begin at. The rule rests on sizes that were tried:
    the network is run, on sizes without values, around ``at`` and at the least size,
    and is traced at three whole sizes in a row.

    Raises ValueError where no size near ``at`` is whole, where a cell sees the whole
    axis and is the only one, where layers only upsample, and where a side is padded
    more than the other; TracingError as
    :func:`~dilated_lib.fields.tracing.receptive_field` does.

    >>> vgg = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
    >>> h, w = input_sizes(vgg)
    >>> str(h), h.margin, h.size(4)
    ('6 + 2n', 3, 14)
    """
    if to is None and (chain := _chain(network)):
        return chain
    search = Search(
        lambda *size: trial.attempt(network, (channels, *size), to),
        lambda size: receptive_field(network, (channels, *size), to=to),
    )
    height, width = search.around(at)
    return InputSizes(*height), InputSizes(*width)


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
