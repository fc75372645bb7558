"""Which input sizes a network divides into whole cells, and the margin they need."""

from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from dilated_lib.fields import trial
from dilated_lib.fields.arithmetic import ReceptiveField, compose, place
from dilated_lib.fields.layers import windows_of
from dilated_lib.fields.size_search import Search, fixed_pixels
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.fields.windows import Window
from dilated_lib.values import whole, wholes

__all__ = ["InputSizes", "input_sizes"]


@dataclass(frozen=True)
class InputSizes:
    """The whole sizes of a network's input along one axis; all lengths in pixels.

    A network makes one cell of each ``stride`` pixels. An input of ``size(n)`` pixels
    gives n cells, and no layer leaves a pixel over: the last window ends where the
    (padded) input ends, or else only padding follows it. ``margin`` is what the input
    needs before the pixels of its cells, so that the middle of each cell's receptive
    field is the middle of the cell. It is negative where the network's own padding is
    more than that.

    Why the margin is needed on both sides: n cells see (n − 1) · stride + field.size
    positions, of which the network pads field.padding before and after. What is left
    for the input is n · stride + 2 · margin.

    Printed, it is the line of its sizes in n, such as "372 + 8n".

    Args:
        field: The receptive field of the cells.
        step: Pixels from one whole size to the next. Without it the sizes are those of
            a chain of layers, where a step is one cell, and n counts the cells.
        fixed: The size at n = 0: sizes are ``fixed + n * step``.
        each: Cells that a step adds.
        more: The cells at n = 0: there are ``more + n * each`` of them.
        least: The n from which on these sizes hold.

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
        for name in ("step", "fixed", "each", "more", "least"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        if not self.step:
            object.__setattr__(self, "fixed", fixed_pixels(self.field))
            object.__setattr__(self, "step", self.field.stride)

    @property
    def stride(self) -> int | Fraction:
        """Return the pixels from one cell to the next, a fraction if need be."""
        stride = Fraction(self.step, self.each)
        return stride.numerator if stride.denominator == 1 else stride

    @property
    def margin(self) -> float:
        """Return the pixels that the input needs before those of its cells.

        Raises ValueError where a cell sees the whole axis.
        """
        margin = place(self.field, 0) - float(self.stride - 1) / 2
        return int(margin) if margin.is_integer() else margin

    def size(self, cells: int) -> int:
        """Return the pixels of the input that gives so many cells.

        Raises ValueError where no whole size does; it names the numbers next to it.
        """
        cells = whole("cells", cells)
        steps, over = divmod(cells - self.more, self.each)
        if over or steps < self.least:
            raise ValueError(
                f"no whole size gives {cells} cells; sizes are {self}, such as "
                + self._next_to(steps)
            )
        return self.fixed + steps * self.step

    def cells(self, size: int) -> int:
        """Count the cells of a whole input size.

        Raises ValueError for another size; it names the whole ones next to it.
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
        """Return the least number of steps that leaves a pixel."""
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
        """Write the sizes as a line in n."""
        if self.fixed < 0:
            return f"{self.step}n - {-self.fixed}"
        return f"{self.fixed} + {self.step}n" if self.fixed else f"{self.step}n"

    @property
    def count(self) -> str:
        """Write the numbers of cells of these sizes, in the same n."""
        more = f" {'-' if self.more < 0 else '+'} {abs(self.more)}" if self.more else ""
        return f"{'' if self.each == 1 else self.each}n{more}"


def input_sizes(
    network: nn.Module,
    *,
    channels: int = 3,
    to: str | None = None,
    at: tuple[int, int] = (512, 512),
) -> tuple[InputSizes, InputSizes]:
    """Find the whole sizes of any network's input: of its height and of its width.

    The whole network takes these sizes, and resizes all its maps by whole factors: a
    U-Net with ``to`` in its encoder has the sizes of the U-Net. Up to ``to`` no layer
    leaves a pixel over, and none leaves padding over either, if there is such a size.

    The rule rests on sizes that were tried. The network is run around ``at`` and at the
    least size, on tensors that have a size but no values; and it is traced at three
    whole sizes in a row. A chain of layers needs none of this: its sizes follow from
    the arithmetic.

    Raises ValueError where no size near ``at`` is whole, where a cell sees the whole
    axis and is the only one, where layers only upsample, and where one side is padded
    more than the other. Raises TracingError as
    :func:`~dilated_lib.fields.tracing.receptive_field` does.

    Args:
        network: It maps images (N, C, H, W) to maps of cells.
        channels: C.
        to: The module whose output the cells are; by default the network's output.
        at: The height and width at which the search begins.

    >>> vgg = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
    >>> h, w = input_sizes(vgg)
    >>> str(h), h.margin, h.size(4)
    ('6 + 2n', 3, 14)
    """
    channels = whole("channels", channels, 1)
    start = wholes("at", at, 1, what="a height and a width", count=2)
    if to is None and (chain := _chain(network)):
        return chain
    search = Search(
        lambda *size: trial.attempt(network, (channels, *size), to),
        lambda size: receptive_field(network, (channels, *size), to=to),
    )
    height, width = search.around(start)
    return InputSizes(*height), InputSizes(*width)


def _chain(network: nn.Module) -> tuple[InputSizes, InputSizes] | None:
    """Return the sizes of layers in a row, without the seconds of tracing.

    Where layers pad, all of them must turn n · stride units into n: then n · stride
    pixels give n cells, and no layer leaves a pixel over. The result is None for
    anything else, which then has to be traced.
    """
    if type(network) is not nn.Sequential:
        return None
    axes: tuple[list[Window], list[Window]] = ([], [])
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            if not layer.__module__.startswith("torch.nn"):
                return None  # as for torch.fx: a subclass may compute something else
            for windows, window in zip(axes, windows_of(layer), strict=True):
                windows.append(window)
        elif type(layer) not in (nn.ReLU, nn.BatchNorm2d, nn.Dropout):
            return None
    for windows in axes:
        pads = any(any(one.pads) for one in windows)
        if pads and not all(map(_keeps_size, windows)):
            return None
    return InputSizes(compose(axes[0])), InputSizes(compose(axes[1]))


def _keeps_size(window: Window) -> bool:
    """Tell whether a layer turns n · stride positions into n, whatever n is."""
    before, after = window.pads
    return before == after and window.extent - 2 * before == window.stride
