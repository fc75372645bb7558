"""The live explorer of receptive fields: on a static page, and in a notebook.

One ES module and one style sheet serve both. On a page they stand inline, and need
neither a kernel nor another file; in a notebook anywidget loads them, so that Python
reads and sets the stack on screen. Torch is loaded for real modules only.
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Self

import anywidget
import traitlets

from dilated_lib.explorer._layers import Layer, layers_of, read, write
from dilated_lib.explorer._still import still
from dilated_lib.fields.windows import Window
from dilated_lib.values import whole

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Explorer", "Layer"]

_HERE = resources.files(__name__)


class Explorer(anywidget.AnyWidget):
    """A stack of up to twenty layers to touch, along one axis and two.

    ``layers`` are Windows or :class:`Layer`, the one nearest the input first, or their
    text, such as ``"k3,k3d2,k3d4"``. ``channels`` is what each layer takes and gives.
    Both can be read and set while the explorer is on screen. ``stack`` is the text of
    the layers; ``observe`` follows it.

    Raises ValueError for no layer, more than twenty, text that does not describe
    layers, or less than one channel, and TypeError for values of other kinds. The
    screen has limits of its own, such as a kernel of at most 15 taps; the explorer
    explains these there.

    >>> explorer = Explorer([Window(3, dilation=d) for d in (1, 2, 4)])
    >>> explorer
    Explorer('k3,k3d2,k3d4')
    >>> explorer.layers[2].height.dilation
    4
    """

    _esm = (_HERE / "explorer.js").read_bytes().decode()
    _css = (_HERE / "explorer.css").read_bytes().decode()
    stack = traitlets.Unicode().tag(sync=True)
    channels = traitlets.Any().tag(sync=True)

    def __init__(
        self,
        layers: str | Iterable[Layer | Window] = "k3,k3d2,k3d4",
        *,
        channels: int = 21,
    ) -> None:
        super().__init__(stack=write(layers_of(layers)), channels=channels)

    @traitlets.validate("stack")
    def _a_stack(self, proposal: Any) -> str:
        return write(read(proposal["value"]))

    @traitlets.validate("channels")
    def _a_number(self, proposal: Any) -> int:
        return whole("channels", proposal["value"], 1)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the layers on screen, the one nearest the input first."""
        return read(self.stack)

    @layers.setter
    def layers(self, layers: str | Iterable[Layer | Window]) -> None:
        self.stack = write(layers_of(layers))

    def module(self) -> "nn.Sequential":
        """Build the stack on screen as PyTorch modules over (N, channels, H, W).

        >>> Explorer("k3d2p2,m2s2", channels=8).module()[0]
        Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), padding=(2, 2), dilation=(2, 2))
        """
        from dilated_lib.explorer._modules import sequential

        return sequential(self.layers, self.channels)

    @classmethod
    def from_module(
        cls, model: "nn.Module", input_size: Sequence[int] | None = None
    ) -> Self:
        """Make an explorer of a real network's layers, which must be one chain.

        ``input_size`` is (C, H, W), or (C, L) for one axis, which is then shown along
        both. By default it is 512 a side and the channels of the first convolution.
        What works unit by unit (ReLU, batch norm) is left out, any pooling is shown as
        max pooling, and each layer has the network's input channels.

        Raises ValueError for a network that branches, resizes or has more than twenty
        layers; a part of it may work.
        """
        from dilated_lib.explorer._modules import layers_from

        layers, channels = layers_from(model, input_size)
        return cls(layers, channels=channels)

    def __repr__(self) -> str:
        return f"Explorer({self.stack!r})"

    def _repr_html_(self) -> str:
        return (
            f'<div class="dilated-explorer" data-stack="{escape(self.stack)}" '
            f'data-channels="{self.channels}">{still(self.layers)}</div>'
            f"<style>{self._css}</style>"
            f'<script type="module">{self._esm}</script>'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        assert bundle is not None  # there is a view
        data, metadata = bundle
        return data | {"text/html": self._repr_html_()}, metadata
