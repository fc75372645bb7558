"""Networks by name, without weights."""

import inspect
from importlib import import_module

import torch
from torch import nn

from dilated_lib.fields.tracing.export import TracingError


def named_network(name: str, *, device: str = "meta") -> nn.Module:
    """Build a network of torchvision by its name, or by ``module:function``.

    A submodule may follow after a dot: "fasterrcnn_resnet50_fpn.backbone". Weights are
    torch's random ones, or none on the meta device.

    Raises TracingError for a name that leads nowhere.

    >>> named_network("resnet18.conv1")
    Conv2d(3, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False)
    """
    module, colon, rest = name.rpartition(":")
    function, _, inner = rest.partition(".")
    whole = module + colon + function
    if colon:
        try:
            builder = getattr(import_module(module), function)
        except Exception as error:  # a module of the user's may raise anything
            raise TracingError(f"{whole} cannot be loaded: {_line(error)}") from error
        options = {}
    else:
        from torchvision import models  # only for its names; the library does without

        try:
            builder = models.get_model_builder(function)
        except ValueError:
            raise TracingError(
                f"torchvision has no network {function!r}; one of yours is "
                "'module:function'"
            ) from None
        known = inspect.signature(builder).parameters
        options = {"weights_backbone": None} if "weights_backbone" in known else {}
    try:
        try:
            with torch.device(device):
                network = builder(**options)
        except RuntimeError:  # some compute with tensors, and on meta these are empty
            network = builder(**options)
    except Exception as error:
        raise TracingError(f"{name} cannot be built: {_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise TracingError(f"{name} is no network, but a {type(network).__name__}")
    try:
        part: nn.Module = network.get_submodule(inner)
    except AttributeError:
        raise TracingError(f"{whole} has no module {inner!r}") from None
    return part


def _line(error: Exception) -> str:
    """Put an error into a line, with its kind where it says nothing else."""
    return " ".join(str(error).split()) or type(error).__name__
