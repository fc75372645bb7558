"""Dilated convolution, taken apart: the library behind the book.

Names are imported on first use (PEP 562), so ``import dilated_lib`` loads neither
torch nor matplotlib, and ``dilated_lib.compose`` never does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dilated_lib import arithmetic as arithmetic
    from dilated_lib import caffe as caffe
    from dilated_lib import context as context
    from dilated_lib import convolution as convolution
    from dilated_lib import data as data
    from dilated_lib import dense as dense
    from dilated_lib import experiments as experiments
    from dilated_lib import layers as layers
    from dilated_lib import networks as networks
    from dilated_lib import palettes as palettes
    from dilated_lib import paths as paths
    from dilated_lib import pictures as pictures
    from dilated_lib import plot as plot
    from dilated_lib import reach as reach
    from dilated_lib import records as records
    from dilated_lib import segment as segment
    from dilated_lib import sizes as sizes
    from dilated_lib import tracing as tracing
    from dilated_lib import traps as traps
    from dilated_lib import vgg as vgg
    from dilated_lib import weights as weights
    from dilated_lib.arithmetic import ReceptiveField as ReceptiveField
    from dilated_lib.arithmetic import Window as Window
    from dilated_lib.arithmetic import compose as compose
    from dilated_lib.context import ContextModule as ContextModule
    from dilated_lib.context import identity_ as identity_
    from dilated_lib.convolution import dilate as dilate
    from dilated_lib.dense import remove_stride_ as remove_stride_
    from dilated_lib.networks import DilatedNetwork as DilatedNetwork
    from dilated_lib.paths import coverage as coverage
    from dilated_lib.paths import deviation as deviation
    from dilated_lib.paths import effective_receptive_field as effective_receptive_field
    from dilated_lib.paths import hdc_distances as hdc_distances
    from dilated_lib.segment import predict as predict
    from dilated_lib.sizes import input_sizes as input_sizes
    from dilated_lib.tracing import receptive_field as receptive_field
    from dilated_lib.tracing import verify as verify
    from dilated_lib.vgg import front_end as front_end
    from dilated_lib.vgg import fully_convolutional as fully_convolutional
    from dilated_lib.weights import load as load
    from dilated_lib.weights import save as save

_HOME = {
    "ReceptiveField": "arithmetic",
    "Window": "arithmetic",
    "compose": "arithmetic",
    "ContextModule": "context",
    "identity_": "context",
    "dilate": "convolution",
    "remove_stride_": "dense",
    "DilatedNetwork": "networks",
    "coverage": "paths",
    "deviation": "paths",
    "effective_receptive_field": "paths",
    "hdc_distances": "paths",
    "predict": "segment",
    "input_sizes": "sizes",
    "receptive_field": "tracing",
    "verify": "tracing",
    "front_end": "vgg",
    "fully_convolutional": "vgg",
    "load": "weights",
    "save": "weights",
}
_MODULES = (
    "arithmetic",
    "caffe",
    "context",
    "convolution",
    "data",
    "dense",
    "experiments",
    "layers",
    "networks",
    "palettes",
    "paths",
    "pictures",
    "plot",
    "reach",
    "records",
    "segment",
    "sizes",
    "tracing",
    "traps",
    "vgg",
    "weights",
)

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
