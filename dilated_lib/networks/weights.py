"""Weights from files and into files: all of them, or none and a reason.

Safetensors, PyTorch's state dicts and Caffe models are read; safetensors are written.
"""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dilated_lib.networks.caffe import read_caffemodel
from dilated_lib.whole_files import written_whole

__all__ = ["Loaded", "converted", "file_state", "fits", "load", "read_weights", "save"]

_SCALE = ".scale"  # behind the name of a tensor in int8, the name of its scales
_FEW = 2**12  # layers with fewer weights save little in int8, and cost much


@dataclass(frozen=True)
class Loaded:
    """Names without a counterpart: the network's ``missing``, the file's ``unused``."""

    missing: tuple[str, ...]
    unused: tuple[str, ...]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, by name, onto the CPU.

    A ``.safetensors`` file has them under its own names; what :func:`save` has written
    in int8 is float32 again. A ``.pt`` or ``.pth`` file has
    a state dict that torch saved; it is read with ``weights_only=True``, so that no
    code in it runs. The blobs of a ``.caffemodel`` are called LAYER.weight and
    LAYER.bias.

    Raises FileNotFoundError, or ValueError for another kind of file, a truncated one,
    and one that holds more than tensors.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     torch.save({"bias": torch.ones(2)}, Path(folder) / "net.pt")
    ...     read_weights(Path(folder) / "net.pt")
    {'bias': tensor([1., 1.])}
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    readers: dict[str, Callable[[Path], Any]] = {
        ".safetensors": _safetensors,
        ".caffemodel": read_caffemodel,
        ".pt": _state_dict,
        ".pth": _state_dict,
    }
    if path.suffix not in readers:
        raise ValueError(f"{path.name} must end in one of {', '.join(readers)}")
    try:
        state = readers[path.suffix](path)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} is refused: it is truncated, or holds more than tensors, and "
            "code in it would run"
        ) from error
    except Exception as error:  # of damaged files torch's unpickler raises all kinds
        raise ValueError(
            f"{path.name} cannot be read; is it damaged or truncated? ({error})"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in state.items()
    ):
        raise ValueError(f"{path.name} must hold a state dict: names and tensors")
    return dict(state)


def _safetensors(path: Path) -> dict[str, Tensor]:
    state = load_file(path)
    for name in [*state]:
        whole = state[name]
        if whole.dtype == torch.int8 and name + _SCALE in state:
            scale = state.pop(name + _SCALE)
            if scale.shape != whole.shape[:1]:
                raise ValueError(
                    f"{name} has shape {tuple(whole.shape)}, and scales for "
                    f"{tuple(scale.shape)}"
                )
            state[name] = (whole.flatten(1) * scale[:, None]).view_as(whole)
    return state


def _in_int8(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round each weight to a multiple of 1/127 of the largest of its output channel.

    Small layers are in half precision: such are the first, whose inputs go beyond 100,
    the last, and those of a context module, on whose logits the labels depend. Of the
    pixels of fourteen photographs that a network of this library labelled otherwise
    than in float32, that left a third.
    """
    rounded = dict(state)
    for name, weight in state.items():
        if weight.dim() > 1 and weight.numel() < _FEW:
            rounded[name] = weight.half()
        elif weight.dim() > 1:
            rows = weight.flatten(1).float()
            scale = rows.abs().amax(1).clamp(min=1e-30) / 127  # no division by zero
            steps = (rows / scale[:, None]).round().to(torch.int8)
            rounded[name], rounded[name + _SCALE] = steps.view_as(weight), scale
    return rounded


def _state_dict(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def save(
    network: nn.Module,
    path: str | Path,
    *,
    metadata: dict[str, str] | None = None,
    int8: bool = False,
) -> None:
    """Write a network's weights as safetensors; the file appears whole or not at all.

    ``metadata`` is text that the file carries along. With ``int8`` a weight takes one
    byte: it is rounded to a multiple of 1/127 of the largest of its output channel,
    which is off by at most half of that. Layers with fewer than 4,096 weights are in
    half precision; biases and statistics stay as they are.

    Raises ValueError for another suffix, FileNotFoundError for a folder that is not
    there.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(nn.Linear(2, 3), Path(folder) / "net.safetensors")
    ...     sorted(read_weights(Path(folder) / "net.safetensors"))
    ['bias', 'weight']
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, got {path.name}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}")
    state = {name: one.contiguous() for name, one in file_state(network).items()}
    if int8:
        state = {name: one.contiguous() for name, one in _in_int8(state).items()}
    try:
        with written_whole(path) as new:
            save_file(state, new, metadata)
    except SafetensorError as error:  # a full disk, for example
        raise OSError(f"{path} cannot be written: {error}") from error


def file_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors, under the names that files have for them.

    They are the network's own, not copies. A network with a method ``file_name``, such
    as :class:`~dilated_lib.networks.dilated.DilatedNetwork`, translates its names;
    those of any other network stay as they are.

    >>> [*file_state(nn.Linear(2, 3))]
    ['weight', 'bias']
    """
    file_name = getattr(network, "file_name", str)
    return {file_name(name): tensor for name, tensor in network.state_dict().items()}


def load(network: nn.Module, path: str | Path, *, strict: bool = True) -> Loaded:
    """Copy the weights of a file into a network, in place; it keeps its precision.

    The names are those of files, see :func:`file_state`. Everything is checked first,
    so that a file that does not fit changes nothing. With ``strict=False`` names may be
    missing from the file or left over in it; the result says which. A fixed
    deconvolution (transposed, not trained) may always be missing, because Caffe's
    training files have none.

    Caffe writes some shapes differently: a bias has ones in front, and a fully
    connected layer is a matrix. They fit a convolution that reads the same numbers in
    order.

    Raises ValueError for names, shapes or kinds of numbers that do not fit, for numbers
    that are not finite, for a network on "meta", and as :func:`read_weights` does.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(nn.Linear(2, 3), Path(folder) / "net.safetensors")
    ...     load(nn.Linear(2, 3), Path(folder) / "net.safetensors")
    Loaded(missing=(), unused=())
    """
    path = Path(path)
    found = read_weights(path)
    state = file_state(network)
    if any(tensor.is_meta for tensor in state.values()):
        raise ValueError(
            'the network has no memory: network.to_empty(device="cpu") gives it some'
        )
    file_name = getattr(network, "file_name", str)
    fixed = {
        file_name(f"{name}.weight")
        for name, layer in network.named_modules()
        if isinstance(layer, nn.ConvTranspose2d) and not layer.weight.requires_grad
    }
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
    common = {
        name: converted(found[name], state[name], f"{name} of {path.name}")
        for name in state.keys() & found.keys()
    }
    for name, values in common.items():
        state[name].copy_(values)
    return Loaded(missing, unused)


def converted(found: Tensor, wanted: Tensor, name: str) -> Tensor:
    """Return a tensor of a file in the shape and precision of the parameter it fits.

    Raises ValueError, with ``name``, for numbers of another kind and for any that is
    not finite.

    >>> converted(torch.ones(1, 1, 1, 2), torch.zeros(2, dtype=torch.half), "bias")
    tensor([1., 1.], dtype=torch.float16)
    """
    if found.is_floating_point() != wanted.is_floating_point() or found.is_complex():
        raise ValueError(f"{name} must hold {wanted.dtype}, got {found.dtype}")
    try:
        values = found.reshape(wanted.shape).to(wanted.dtype)
        finite = bool(values.isfinite().all())
    except (NotImplementedError, RuntimeError) as error:  # sparse, quantized, empty
        raise ValueError(f"{name} holds no plain numbers: {error}") from error
    if not finite:
        raise ValueError(f"{name} must be finite in {wanted.dtype}; it is not")
    return values


def fits(found: Tensor, wanted: Tensor) -> bool:
    """Tell whether a tensor of a file has a parameter's shape, or Caffe's form of it.

    >>> fits(torch.zeros(8, 12), torch.zeros(8, 3, 2, 2))
    True
    """
    shape = list(found.shape)
    if shape == list(wanted.shape):
        return True
    while len(shape) > wanted.dim() and shape[0] == 1:
        shape.pop(0)
    if len(shape) == 4 and shape[:2] == [1, 1] and wanted.dim() == 4:
        shape = shape[2:]  # a matrix, as Caffe wrote it first
    if len(shape) == 2 and wanted.dim() == 4:
        return shape == [wanted.shape[0], wanted[0].numel()]
    return shape == list(wanted.shape)


def _some(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:4]) or "nothing"
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
