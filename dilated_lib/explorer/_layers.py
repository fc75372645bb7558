"""The layers of an explorer, and the text in which page and Python exchange them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from dilated_lib.fields.windows import Window

MOST_LAYERS = 20
_TOKEN = re.compile(
    r"(?P<kind>[kmt])(?P<kernel>\d+)(?:s(?P<stride>\d+))?(?:d(?P<dilation>\d+))?"
    r"(?:p(?P<before>\d+)(?::(?P<after>\d+))?)?"
)


@dataclass(frozen=True)
class Layer:
    """One layer on screen: its windows along height and width, alike if one is given.

    It is a convolution, a transposed one where its windows are, or a max pooling. In
    text, ``k3d2p2`` is a convolution of three taps with dilation 2 and padding 2,
    ``m2s2`` a pooling and ``t4s2p1`` a transposed convolution; ``p2:0`` pads by 2
    before and by 0 after, and ``k3xk1`` has three taps along the height and one along
    the width.

    Raises TypeError for what is not a Window. Raises ValueError for a transposed window
    together with a plain or a pooling one, and for an ``output_padding`` above the
    padding.

    >>> str(Layer(Window(3, dilation=2, padding=2)))
    'k3d2p2'
    >>> str(Layer(Window(2, 2), pooling=True))
    'm2s2'
    """

    height: Window
    width: Window = None  # type: ignore[assignment]  # the height's, then
    pooling: bool = False

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            window = getattr(self, name) or self.height
            if not isinstance(window, Window):
                raise TypeError(f"{name} must be a Window, got {window!r}")
            object.__setattr__(self, name, _plain(window))
        kinds = {self.height.transposed, self.width.transposed}
        if len(kinds) == 2 or (self.pooling and True in kinds):
            raise ValueError(
                "both windows of a layer must be transposed or none, and none of a "
                f"pooling; got {self.height} and {self.width}, pooling={self.pooling}"
            )

    def __str__(self) -> str:
        kind = "m" if self.pooling else "t" if self.height.transposed else "k"
        axes = [kind + _settings(window) for window in (self.height, self.width)]
        return "x".join(dict.fromkeys(axes))


def write(layers: Iterable[Layer]) -> str:
    """Write a stack as text, the layer nearest the input first."""
    return ",".join(map(str, layers))


def read(text: str) -> tuple[Layer, ...]:
    """Read the layers of a text, the one nearest the input first.

    Raises ValueError for text that is not a layer, which it quotes, and for more than
    twenty layers.

    >>> [layer.height.dilation for layer in read("k3,k3d2,k3d4")]
    [1, 2, 4]
    """
    tokens = text.split(",")
    if len(tokens) > MOST_LAYERS:
        raise ValueError(
            f"an explorer shows at most {MOST_LAYERS} layers, got {len(tokens)}"
        )
    return tuple(_layer(token, depth) for depth, token in enumerate(tokens, 1))


def layers_of(given: str | Iterable[Layer | Window]) -> tuple[Layer, ...]:
    """Return the layers that a text, Layers or Windows stand for.

    Raises TypeError for anything else, and ValueError for none or more than twenty.
    """
    if isinstance(given, str):
        return read(given)
    layers = tuple(one if isinstance(one, Layer) else Layer(one) for one in given)
    return read(write(layers))


def _layer(token: str, depth: int) -> Layer:
    found = [_TOKEN.fullmatch(axis) for axis in token.split("x")]
    kinds = {match and match["kind"] for match in found}
    if len(found) > 2 or len(kinds) > 1 or None in kinds:
        raise ValueError(
            f"layer {depth}, {token!r}, is none: write k3 for a convolution of three "
            "taps, m2s2 for a pooling or t4s2p1 for a transposed convolution, then s, "
            "d and p for stride, dilation and padding"
        )
    windows = [_window(match.groupdict()) for match in found if match]
    return Layer(windows[0], windows[-1], kinds == {"m"})


def _window(found: dict[str, Any]) -> Window:
    before = int(found["before"] or 0)
    after = before if found["after"] is None else int(found["after"])
    return Window(
        int(found["kernel"]),
        int(found["stride"] or 1),
        dilation=int(found["dilation"] or 1),
        padding=(before, after),
        transposed=found["kind"] == "t",
    )


def _plain(window: Window) -> Window:
    """Return the same window without output_padding: its padding crops less instead."""
    before, after = window.pads
    if window.output_padding > after:
        raise ValueError(
            f"output_padding must not be above the padding, got {window}: the explorer "
            "has no units that no tap can reach"
        )
    padding = before, after - window.output_padding
    return replace(window, padding=padding, output_padding=0)


def _settings(window: Window) -> str:
    before, after = window.pads
    text = str(window.kernel_size)
    text += f"s{window.stride}" if window.stride > 1 else ""
    text += f"d{window.dilation}" if window.dilation > 1 else ""
    if before or after:
        text += f"p{before}" if before == after else f"p{before}:{after}"
    return text
