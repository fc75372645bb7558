"""The weights that torchvision publishes, fetched without running code of a file."""

import hashlib
import re
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from dilated_lib.networks.weights import read_weights
from dilated_lib.whole_files import written_whole

__all__ = ["published_vgg16", "published_weights"]

CAFFES = (0.4294, 0.5503, 0.4800)  # VGG-16's first weight for blue, for green, for red


def published_weights(url: str) -> dict[str, Tensor]:
    """Return the tensors, by name, of a file of weights that torchvision publishes.

    The file lies in torch.hub's cache and is fetched when it is not there. Its name
    ends with the first digits of its SHA-256, and every use compares them with the
    file. The first use also writes the whole digest beside it, which later uses compare
    too. The file is read with ``weights_only=True``, so code in it does not run, as it
    would in torchvision's own ``get_state_dict``.

    Raises OSError if the file cannot be fetched, and ValueError if its digest is wrong
    or it holds more than tensors.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    named = re.search(r"-([0-9a-f]{8,})\.pth$", file.name)
    if not named:
        raise ValueError(f"{url} must end in -DIGITS.pth, the digits of its SHA-256")
    if not file.is_file():
        _fetch(url, file, named[1])
    _check(file, named[1])
    return read_weights(file)


def published_vgg16() -> dict[str, Tensor]:
    """Return the weights of VGG-16's 13 convolutions, for BGR pixels from 0 to 255.

    Their names are those of torchvision's ``features``, "0.weight" for conv1_1; the
    classifier in this file is not a number.

    torchvision says that conv1_1 reads red, green, blue. But its file came from Caffe,
    which has blue first, by way of ssd.pytorch, which does not say whether it turned
    them. So weights that begin as Caffe's do are taken for Caffe's, and others turned.

    Raises as :func:`published_weights`.

    Source: IMAGENET1K_FEATURES; the first weights of VGG_ILSVRC_16_layers.caffemodel.
    """
    from torchvision.models import VGG16_Weights  # the library does without otherwise

    weights = {
        name.removeprefix("features."): one
        for name, one in published_weights(
            VGG16_Weights.IMAGENET1K_FEATURES.url
        ).items()
        if name.startswith("features.")
    }
    conv1_1 = weights.get("0.weight", torch.empty(0))
    if conv1_1.shape[1:] == (3, 3, 3):
        first = conv1_1[0, :, 0, 0].double()
        if not torch.allclose(first, torch.tensor(CAFFES).double(), atol=1e-3):
            weights["0.weight"] = conv1_1.flip(1)
    return weights


def _fetch(url: str, file: Path, digits: str) -> None:
    """Download a file whose SHA-256 begins with ``digits``; raise OSError otherwise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(file), digits, progress=False)
    except (OSError, HTTPException, RuntimeError) as error:  # the last: a wrong digest
        raise OSError(f"{url} cannot be fetched: {error}") from error


def _check(file: Path, digits: str) -> None:
    """Raise ValueError for a file whose digest is not that of its name and first use.

    The digits in the name are 32 bits, for which somebody could make another file; the
    whole digest leaves no room for that once it is written down.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(digits):
        raise ValueError(
            f"{file} is not what torchvision published: its SHA-256 must begin with "
            f"{digits}, got {digest[: len(digits)]}; delete it to fetch it again"
        )
    whole = file.with_name(f"{file.name}.sha256")
    if not whole.is_file():
        # a cache that cannot be written cannot be changed
        with suppress(OSError), written_whole(whole) as new:
            new.write_text(digest)
    elif (known := whole.read_text().strip()) != digest:
        raise ValueError(
            f"{file} has changed since its first use: {whole.name} says {known!r}, got "
            f"{digest}; delete both files to fetch it again"
        )
