"""One layer along one axis: which positions of its input each output unit reads."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from dilated_lib.values import pair, whole

__all__ = ["Sampling", "Window"]


@dataclass(frozen=True)
class Window:
    """One convolution or pooling layer along one axis; all lengths are in units.

    Raises TypeError for a value that is not a whole number, and ValueError for one that
    is out of range.

    Args:
        kernel_size: How many taps the kernel has.
        stride: The distance between the first taps of neighbouring outputs.
        dilation: The distance between neighbouring taps. 1 is the ordinary layer;
            ``dilation - 1`` holes lie between two taps.
        padding: Positions added on each side, or a pair ``(before, after)``; a pair of
            equal numbers becomes that number, so that equal layers are equal.
        transposed: Whether the layer is the transpose of that convolution, as
            ``torch.nn.ConvTranspose1d`` is. Its padding crops the output.
        output_padding: How much longer a transposed layer's output is at its end.

    >>> Window(3, dilation=4).extent
    9
    """

    kernel_size: int
    stride: int = 1
    _: KW_ONLY
    dilation: int = 1
    padding: int | tuple[int, int] = 0
    transposed: bool = False
    output_padding: int = 0

    def __post_init__(self) -> None:
        # a frozen dataclass sets its own fields only by this detour
        for name in ("kernel_size", "stride", "dilation"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        if not isinstance(self.transposed, bool):
            raise TypeError(
                f"transposed must be True or False, got {self.transposed!r}"
            )
        before, after = pair("padding", self.padding, 0, sides="before, after")
        object.__setattr__(
            self, "padding", before if before == after else (before, after)
        )
        extra = whole("output_padding", self.output_padding, 0)
        object.__setattr__(self, "output_padding", extra)
        if extra and not self.transposed:
            raise ValueError(
                "output_padding belongs to transposed layers, "
                f"got output_padding={extra} with transposed=False"
            )
        if extra and extra >= max(self.stride, self.dilation):
            raise ValueError(
                "output_padding must be smaller than stride or dilation, "
                f"got output_padding={extra} with stride={self.stride}, "
                f"dilation={self.dilation}"
            )

    @property
    def extent(self) -> int:
        """Count the units from the first tap to the last, d(k − 1) + 1."""
        return self.dilation * (self.kernel_size - 1) + 1

    @property
    def pads(self) -> tuple[int, int]:
        """Return the padding before and after, in units."""
        if isinstance(self.padding, tuple):
            return self.padding
        return (self.padding, self.padding)

    def inputs(self, unit: int) -> Sequence[int]:
        """List the input positions that output ``unit`` reads, in rising order.

        Positions outside the input are padding. A unit of a transposed layer may
        read none.

        >>> list(Window(3, 2, dilation=4, padding=1).inputs(5))
        [9, 13, 17]
        >>> Window(3, 2, transposed=True).inputs(4)
        [1, 2]
        """
        unit, (before, _) = whole("unit", unit), self.pads
        if not self.transposed:
            first = unit * self.stride - before
            return range(first, first + self.extent, self.dilation)
        # input j is written to outputs j·stride − before + dilation·tap
        reads = (
            divmod(unit + before - self.dilation * tap, self.stride)
            for tap in reversed(range(self.kernel_size))
        )
        return [position for position, remainder in reads if remainder == 0]

    def output_size(self, size: int) -> int:
        """Count the outputs for ``size`` inputs, as torch does (rounded down).

        Raises ValueError where no output is left: the dilated kernel is larger than
        the padded input, or a transposed layer's padding crops everything.

        >>> Window(3, dilation=16, padding=16).output_size(66)
        66
        """
        size = whole("input size", size, 1)
        before, after = self.pads
        if self.transposed:
            full = (size - 1) * self.stride + self.extent + self.output_padding
            if full <= before + after:
                raise ValueError(
                    f"padding ({before}, {after}) crops the whole output of {full} "
                    f"for input size {size}; it must leave at least 1"
                )
            return full - before - after
        padded = size + before + after
        if self.extent > padded:
            raise ValueError(
                f"the dilated kernel is larger than the padded input: kernel_size "
                f"{self.kernel_size} with dilation {self.dilation} spans {self.extent}"
                f", but input size {size} with padding ({before}, {after}) has {padded}"
            )
        return (padded - self.extent) // self.stride + 1


@dataclass(frozen=True)
class Sampling:
    """A layer along one axis that is not a window: a table of what each unit reads.

    Unit i reads the positions ``reads[i]``; unit ``i + len(reads)`` reads them moved by
    ``step``. Resizing, slicing and adaptive pooling are such layers.

    >>> Sampling(2, ((0,), (0, 1), (1,))).inputs(4)
    [2, 3]
    """

    step: int
    reads: tuple[tuple[int, ...], ...]

    def inputs(self, unit: int) -> Sequence[int]:
        """List the input positions that output ``unit`` reads, in rising order."""
        period, phase = divmod(whole("unit", unit), len(self.reads))
        return [position + period * self.step for position in self.reads[phase]]
