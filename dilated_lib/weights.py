"""Weights from files and into files: all of them, or none and a reason.

Read are safetensors, PyTorch state dicts and Caffe models; written are safetensors.
"""

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from google.protobuf.message import DecodeError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dilated_lib.caffe import read_caffemodel

__all__ = ["Loaded", "fits", "load", "read_weights", "save"]


@dataclass(frozen=True)
class Loaded:
    """Names without a counterpart: the network's ``missing``, the file's ``unused``."""

    missing: tuple[str, ...]
    unused: tuple[str, ...]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name, on the CPU.

    ``.safetensors``; ``.pt`` and ``.pth``, a state dict saved by torch, read with
    ``weights_only=True``, so that no code in it runs; ``.caffemodel``, whose layers'
    blobs are called LAYER.weight and LAYER.bias.

    Raises FileNotFoundError, or ValueError for another kind of file, a truncated one,
    and one that holds more than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        match path.suffix:
            case ".safetensors":
                return load_file(path)
            case ".caffemodel":
                return read_caffemodel(path)
            case ".pt" | ".pth":
                state = torch.load(path, map_location="cpu", weights_only=True)
            case _:
                raise ValueError(
                    f"{path.name} must be a .safetensors, .pt, .pth or .caffemodel file"
                )
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path.name} is refused: it is truncated, or holds more than tensors, and "
            f"code in it would run ({reason})"
        ) from error
    except (DecodeError, EOFError, OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{path.name} cannot be read; is it truncated? ({error})"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in state.items()
    ):
        raise ValueError(f"{path.name} must hold a state dict: names and tensors")
    return dict(state)


def save(network: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors; the file appears whole or not at all.

    Raises ValueError for another suffix.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, got {path.name}")
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    state = {name: one.contiguous() for name, one in network.state_dict().items()}
    try:
        save_file(state, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(network: nn.Module, path: Path, *, strict: bool = True) -> Loaded:
    """Weights of a file into a network, in place, by name; precision is the network's.

    Nothing is changed unless everything fits. With ``strict=False`` names may be
    missing from the file or left over in it; which, is returned. A fixed deconvolution
    may always be missing, since Caffe's training files have none.

    Caffe writes some shapes otherwise: ones in front of a bias's, and fully connected
    layers as matrices. They fit a convolution that reads the same numbers in order.

    Raises ValueError for names or shapes that do not fit, and as
    :func:`read_weights` does.
    """
    found = read_weights(path)
    state = network.state_dict()
    fixed = {name for name, one in network.named_parameters() if not one.requires_grad}
    missing = tuple(name for name in state if name not in found)
    unused = tuple(name for name in found if name not in state)
    wrong = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(state[name].shape)}"
        for name in state.keys() & found.keys()
        if not fits(found[name], state[name])
    ]
    if wrong:
        raise ValueError(
            f"{path.name} is for another network, or for other classes: "
            f"{_some(sorted(wrong))}"
        )
    if strict and (unused or set(missing) - fixed):
        raise ValueError(
            f"{path.name} does not fit the network: it lacks "
            f"{_some(sorted(set(missing) - fixed))}; left over: {_some(unused)}"
        )
    for name in state.keys() & found.keys():
        state[name].copy_(found[name].reshape(state[name].shape))
    return Loaded(missing, unused)


def fits(found: Tensor, wanted: Tensor) -> bool:
    """Has a tensor of a file the shape of a parameter, or Caffe's way to write it?"""
    shape = list(found.shape)
    while len(shape) > 1 and shape[0] == 1 and len(shape) > wanted.dim():
        shape.pop(0)
    if len(shape) == 4 and shape[:2] == [1, 1] and wanted.dim() == 4:
        shape = shape[2:]  # a matrix, as Caffe wrote it first
    if len(shape) == 2 and wanted.dim() == 4:
        return shape == [wanted.shape[0], wanted[0].numel()]
    return shape == list(wanted.shape)


def _some(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:4]) or "nothing"
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
