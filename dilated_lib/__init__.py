"""Dilated convolution, taken apart: the library behind the book.

Names are imported on first use (PEP 562), so ``import dilated_lib`` loads neither
torch nor matplotlib, and ``dilated_lib.compose`` never does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dilated_lib import arithmetic as arithmetic
    from dilated_lib import convolution as convolution
    from dilated_lib import plot as plot
    from dilated_lib.arithmetic import ReceptiveField as ReceptiveField
    from dilated_lib.arithmetic import Window as Window
    from dilated_lib.arithmetic import compose as compose
    from dilated_lib.convolution import dilate as dilate

_HOME = {
    "Window": "arithmetic",
    "ReceptiveField": "arithmetic",
    "compose": "arithmetic",
    "dilate": "convolution",
}
_MODULES = ("arithmetic", "convolution", "plot")

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
