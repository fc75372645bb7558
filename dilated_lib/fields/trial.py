"""A network run on sizes alone: which inputs it takes, and what its layers leave over.

torch's fake tensors have a size and no values, so a trial takes a fraction of a second
where tracing takes seconds.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._python_dispatch import TorchDispatchMode

from dilated_lib.fields.tracing import export, rules
from dilated_lib.fields.tracing.export import TracingError, name_of, named
from dilated_lib.fields.tracing.rules import Call
from dilated_lib.fields.windows import Window

WHOLE, PADDING, UNEVEN, REMAINDER = range(4)
REACH, PATIENCE = 64, 5.0  # how far near() looks, in pixels, and how long, in seconds
NEEDS_VALUES = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
    fake_tensor.UnsupportedOperatorException,
    GuardOnDataDependentSymNode,
)


def attempt(
    model: nn.Module, size: tuple[int, ...], to: str | None = None
) -> tuple[int, ...] | None:
    """Return what the layers leave over along each axis; None where the network fails.

    WHOLE says that every window ends where its padded map ends, PADDING that some end
    before it, but read all of the map. With REMAINDER a layer leaves a unit of its map
    unread, or resizes by a factor that is not whole. Of the layers after the module
    ``to`` only resizing counts: if it is not by a whole factor, that is UNEVEN.

    Raises TracingError where the network needs the input's values before ``to``.
    """
    watch = _Leftovers(len(size) - 1)
    with (
        export.ONE_AT_A_TIME,
        export.left_alone(model),  # takes the hook off as well
        fake_tensor.FakeTensorMode(allow_non_fake_inputs=True),
        torch.no_grad(),
        watch,
    ):
        for name, module in model.named_modules():
            if name == to:
                module.register_forward_hook(lambda *_: watch.reach())
        try:
            model(*export.example_inputs(model, [size]))
        except NEEDS_VALUES:
            finished = False
        except Exception:  # a network may refuse a size in any way
            return None
        else:
            finished = True
    if not finished and watch.reached is None:
        export.trace(model, [size], rules.known, to)  # says why not, or gets further
    return watch.levels()


class _Leftovers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A watch on the layers of a network as they run, which keeps each axis's worst."""

    def __init__(self, axes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.worst, self.uneven = [WHOLE] * axes, [False] * axes
        self.reached: list[int] | None = None

    def reach(self) -> None:
        """Note that the module asked for has its result; a shared one comes again."""
        pairs = zip(self.worst, self.uneven, strict=True)
        self.reached = [REMAINDER if uneven else worst for worst, uneven in pairs]

    def levels(self) -> tuple[int, ...]:
        """Return each axis's worst up to the module asked for, or uneven resizing."""
        if self.reached is None:
            self.reach()
        pairs = zip(self.reached or (), self.uneven, strict=True)
        return tuple(max(one, UNEVEN) if uneven else one for one, uneven in pairs)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = name_of(func)
        if name == "native_batch_norm":  # of fake tensors, most of a trial's time
            return torch.empty_like(args[0]), None, None
        result = func(*args, **(kwargs or {}))
        if "backward" in name or "adaptive" in name:
            return result
        call = Call(name, named(func, args, {}), [], None)
        if "convolution" in name:
            self.windows(rules.convolution_windows(call), call["input"], result)
        elif "_pool" in name:
            first = result[0] if isinstance(result, tuple) else result
            self.windows(rules.pool_windows(call), call["self"], first)
        elif "upsample" in name:
            (source,) = (one for one in args if isinstance(one, Tensor))
            self.resized(source, result, bool(call.args.get("align_corners")))
        elif name.endswith(("pad_nd", "pad2d")):
            after = call.args.get("pad") or call.args["padding"]
            result.padded = [max(0, n) for n in after[1::2]]  # the last axis first
        return result

    def windows(self, layers: Sequence[Window], source: Any, result: Tensor) -> None:
        """Note what convolving or pooling leaves over."""
        if len(layers) != len(self.worst) or layers[0].transposed:
            return
        padded = [*getattr(source, "padded", ()), *(0 for _ in layers)]
        for axis in range(-len(layers), 0):
            layer = layers[axis]
            read = (result.shape[axis] - 1) * layer.stride + layer.extent
            over = source.shape[axis] + sum(layer.pads) - read
            gap = max(0, layer.stride - layer.extent)  # as between two windows
            spare = layer.pads[1] + padded[-1 - axis] + gap
            level = PADDING if 0 < over <= spare else REMAINDER if over else WHOLE
            self.worst[axis] = max(self.worst[axis], level)

    def resized(self, source: Tensor, result: Tensor, corners: bool) -> None:
        """Note whether a resized length, or that between corners, is a multiple."""
        for axis in range(-len(self.worst), 0):
            low, high = sorted((source.shape[axis], result.shape[axis]))
            between = corners and (high - 1) % max(1, low - 1) == 0
            self.uneven[axis] |= high % low > 0 and not between


def near(model: nn.Module, sizes: Sequence[tuple[int, ...]]) -> str:
    """Write the end of a sentence on a size that a network refuses: those that fit.

    It is empty where the size is not what is wrong, or nothing fits nearby.
    """
    (channels, *lengths), begin = sizes[0], time.monotonic()

    def runs(*tried: int) -> bool:
        late = time.monotonic() - begin > PATIENCE
        return not late and attempt(model, (channels, *tried)) is not None

    def fits(length: int, step: int) -> int:
        """Return the first length from here on that all axes may have, or 0."""
        tried = range(length, max(0, length + REACH * step), step)
        return next((n for n in tried if runs(*[n] * len(lengths))), 0)

    found = []
    with suppress(TracingError, RecursionError):
        if len(sizes) > 1 or runs(*lengths):
            return ""
        for step in (-1, 1):
            fitting = {length: fits(length, step) for length in set(lengths)}
            size = [fitting[length] for length in lengths]
            if all(size) and runs(*size):
                found.append(" x ".join(map(str, (channels, *size))))
    return f"; sizes that fit are {' and '.join(found)}" if found else ""
