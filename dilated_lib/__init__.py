"""Dilated convolution, taken apart: the library behind the book.

Names are imported on first use (PEP 562), so ``import dilated_lib`` loads neither
torch nor matplotlib, and ``dilated_lib.compose`` never does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dilated_lib import cli as cli
    from dilated_lib import data as data
    from dilated_lib import dilation as dilation
    from dilated_lib import experiments as experiments
    from dilated_lib import explorer as explorer
    from dilated_lib import fields as fields
    from dilated_lib import networks as networks
    from dilated_lib import plot as plot
    from dilated_lib import prediction as prediction
    from dilated_lib import records as records
    from dilated_lib import training as training
    from dilated_lib.data.sets import open_data as open_data
    from dilated_lib.dilation.five_ways import dilated_conv2d as dilated_conv2d
    from dilated_lib.dilation.layer import DilatedConv2d as DilatedConv2d
    from dilated_lib.dilation.remove_stride import remove_stride_ as remove_stride_
    from dilated_lib.experiments.claims import claim as claim
    from dilated_lib.experiments.run_differences import difference as difference
    from dilated_lib.explorer import Explorer as Explorer
    from dilated_lib.fields.arithmetic import ReceptiveField as ReceptiveField
    from dilated_lib.fields.arithmetic import Window as Window
    from dilated_lib.fields.arithmetic import compose as compose
    from dilated_lib.fields.effective import (
        effective_receptive_field as effective_receptive_field,
    )
    from dilated_lib.fields.input_sizes import input_sizes as input_sizes
    from dilated_lib.fields.paths import coverage as coverage
    from dilated_lib.fields.paths import deviation as deviation
    from dilated_lib.fields.paths import hdc_distances as hdc_distances
    from dilated_lib.fields.tracing import receptive_field as receptive_field
    from dilated_lib.fields.tracing import region as region
    from dilated_lib.fields.tracing.verify import verify as verify
    from dilated_lib.networks.architecture import Architecture as Architecture
    from dilated_lib.networks.architecture import open_network as open_network
    from dilated_lib.networks.architecture import save_network as save_network
    from dilated_lib.networks.context import ContextModule as ContextModule
    from dilated_lib.networks.context import identity_ as identity_
    from dilated_lib.networks.dilated import DilatedNetwork as DilatedNetwork
    from dilated_lib.networks.vgg import front_end as front_end
    from dilated_lib.networks.vgg import fully_convolutional as fully_convolutional
    from dilated_lib.networks.weights import load as load
    from dilated_lib.networks.weights import save as save
    from dilated_lib.prediction.bfloat16 import quick as quick
    from dilated_lib.prediction.metric import evaluate as evaluate
    from dilated_lib.prediction.segmentation import predict as predict
    from dilated_lib.training.config import Config as Config
    from dilated_lib.training.loop import train as train


_HOME = {
    "Architecture": "networks.architecture",
    "open_network": "networks.architecture",
    "save_network": "networks.architecture",
    "compose": "fields.arithmetic",
    "ReceptiveField": "fields.arithmetic",
    "Window": "fields.arithmetic",
    "claim": "experiments.claims",
    "ContextModule": "networks.context",
    "identity_": "networks.context",
    "DilatedConv2d": "dilation.layer",
    "dilated_conv2d": "dilation.five_ways",
    "open_data": "data.sets",
    "remove_stride_": "dilation.remove_stride",
    "difference": "experiments.run_differences",
    "Explorer": "explorer",
    "quick": "prediction.bfloat16",
    "evaluate": "prediction.metric",
    "DilatedNetwork": "networks.dilated",
    "coverage": "fields.paths",
    "deviation": "fields.paths",
    "effective_receptive_field": "fields.effective",
    "hdc_distances": "fields.paths",
    "Config": "training.config",
    "predict": "prediction.segmentation",
    "input_sizes": "fields.input_sizes",
    "receptive_field": "fields.tracing",
    "region": "fields.tracing",
    "verify": "fields.tracing",
    "train": "training.loop",
    "front_end": "networks.vgg",
    "fully_convolutional": "networks.vgg",
    "load": "networks.weights",
    "save": "networks.weights",
}
_MODULES = (
    "cli",
    "data",
    "dilation",
    "experiments",
    "explorer",
    "fields",
    "networks",
    "plot",
    "prediction",
    "records",
    "training",
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
