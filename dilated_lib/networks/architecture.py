"""The architecture of a network, and files that hold it together with the weights."""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from torch import nn

from dilated_lib.data.palettes import Colour
from dilated_lib.networks.context import ContextModule
from dilated_lib.networks.dilated import DilatedNetwork, Upsampling
from dilated_lib.networks.pooled import Pooled, pooled_front_end
from dilated_lib.networks.vgg import Padding, front_end
from dilated_lib.networks.weights import file_state, load, save
from dilated_lib.records import results
from dilated_lib.values import one_of, positive, whole, wholes

__all__ = [
    "Architecture",
    "open_network",
    "photo_network",
    "save_network",
    "small_network",
    "street_network",
]

_KEY = "dilated_lib"  # in the file's metadata
_Context = Literal["none", "basic", "large"]
_Paper = Literal["paper", "conv4"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The layers of a network, whatever the data and the weights are.

    Classes and mean are the data's: :meth:`build` asks for them. Raises ValueError or
    TypeError for values that cannot be.

    Args:
        front: The paper's front end; the same without conv5, so that fc6 follows
            "conv4"; or one that keeps VGG-16's five poolings, by its name in
            :func:`~dilated_lib.networks.pooled.pooled_front_end`.
        padding: What the front end's convolutions pad. With zeros or reflection inside,
            a crop needs no margin, and a step takes less time.
        width: The channels of conv1; VGG-16 has 64.
        fc_channels: The channels of fc6 and fc7; the paper has 4096.
        batch_norm: Normalise behind each convolution of a front end from scratch.
        context: The context module by its name in Table 1; each layer pads zeros.
        dilations: The dilation of each 3 x 3 layer of the context module.
        scale: The factor by which pictures are enlarged before the network sees them.

    >>> narrow = Architecture(width=4, fc_channels=8)
    >>> two = {"road": (128, 64, 128), "sky": (128, 128, 128)}
    >>> narrow.build(two, (0.0, 0.0, 0.0)).front.final
    Conv2d(8, 2, kernel_size=(1, 1), stride=(1, 1))
    """

    front: _Paper | Pooled = "paper"
    padding: Padding = "none"
    width: int = 64
    fc_channels: int = 4096
    batch_norm: bool = False
    context: _Context = "none"
    dilations: tuple[int, ...] = (1, 1, 2, 4, 8, 16, 1)
    scale: float = 1.0

    def __post_init__(self) -> None:
        papers = get_args(_Paper)
        one_of("front", self.front, (*papers, *get_args(Pooled)))
        one_of("padding", self.padding, get_args(Padding))
        one_of("context", self.context, get_args(_Context))
        for name in ("width", "fc_channels"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        layers = "one number for each layer"
        dilations = wholes("dilations", self.dilations, 1, what=layers)
        object.__setattr__(self, "dilations", dilations)
        object.__setattr__(self, "scale", positive("scale", self.scale))
        if self.front not in papers and (self.padding != "zeros" or self.batch_norm):
            raise ValueError(
                f"front {self.front} has zeros as padding and no batch norm, got "
                f"padding {self.padding} and batch_norm={self.batch_norm}"
            )

    def build(
        self, palette: Mapping[str, Colour], mean: tuple[float, float, float]
    ) -> DilatedNetwork:
        """Build a new network, whose context module starts as the identity.

        ``palette`` has a colour (RGB) for the name of each class, and ``mean`` is that
        of the training pictures (B, G, R).
        """
        classes, fc_channels = len(palette), self.fc_channels
        if self.front == "paper" or self.front == "conv4":
            front = front_end(
                classes,
                padding=self.padding,
                fc_channels=fc_channels,
                width=self.width,
                batch_norm=self.batch_norm,
                last_stage="conv5" if self.front == "paper" else "conv4",
            )
        else:
            front = pooled_front_end(
                self.front, classes, fc_channels=fc_channels, width=self.width
            )
        context = None
        if self.context != "none":
            context = ContextModule(
                len(palette), self.context, dilations=self.dilations
            )
        return DilatedNetwork(
            front,
            context,
            palette=palette,
            mean=mean,
            input_size=(900, 900),
            scale=self.scale,
        )


def save_network(
    network: DilatedNetwork,
    architecture: Architecture,
    path: str | Path,
    *,
    int8: bool = False,
) -> None:
    """Write a network as safetensors: its weights, and all that it takes to build it.

    The file appears whole or not at all. ``int8`` makes it a quarter as large, see
    :func:`~dilated_lib.networks.weights.save`.

    Raises ValueError for an architecture that is not the network's, and as
    :func:`~dilated_lib.networks.weights.save`.

    >>> from tempfile import TemporaryDirectory
    >>> narrow = Architecture(width=4, fc_channels=8)
    >>> network = narrow.build({"sky": (128, 128, 128)}, (0.0, 0.0, 0.0))
    >>> with TemporaryDirectory() as folder:
    ...     save_network(network, narrow, Path(folder) / "sky.safetensors")
    ...     open_network(Path(folder) / "sky.safetensors")[1] == narrow
    True
    """
    with torch.device("meta"):
        built = architecture.build(network.palette, network.mean)
    wanted = file_state(built)
    for name, one in file_state(network).items():
        if name not in wanted or wanted.pop(name).shape != one.shape:
            raise ValueError(
                f"the architecture is another network's: it has no {name} with shape "
                f"{tuple(one.shape)}"
            )
    if wanted:
        raise ValueError(f"the network lacks {next(iter(wanted))} of the architecture")
    for part in ("front", "context"):
        if _pads(getattr(built, part)) != _pads(getattr(network, part)):
            raise ValueError(
                f"the architecture is another network's: its {part} pads otherwise, "
                "which no weight tells"
            )
    described = {
        "palette": network.palette,
        "mean": network.mean,
        **asdict(architecture),
        "upsampling": network.upsampling,
    }
    save(network, path, metadata={_KEY: json.dumps(described)}, int8=int8)


def _pads(part: nn.Module) -> list[tuple[object, str]]:
    """List how the convolutions of a part pad."""
    layers = (layer for layer in part.modules() if isinstance(layer, nn.Conv2d))
    return [(layer.padding, layer.padding_mode) for layer in layers]


def open_network(path: str | Path) -> tuple[DilatedNetwork, Architecture]:
    """Open a file of :func:`save_network`: the network in evaluation, on the CPU.

    It computes in float32. A file that does not mention ``padding`` or ``front`` is
    older than the others, and has the paper's front end, which pads nothing.

    Raises FileNotFoundError, or ValueError for another file and a damaged one.

    >>> network, architecture = open_network(results() / "small.safetensors")
    >>> architecture.width, architecture.batch_norm, network.training
    (16, True, False)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        if text:
            network, architecture = _built(**json.loads(text))
    except Exception as error:  # a foreign file may say anything
        raise ValueError(
            f"{path.name} is no network of this library, or damaged: {error}"
        ) from error
    if not text:
        raise ValueError(
            f"{path.name} has weights, but does not say of which network; build it "
            "first, and load them into it"
        )
    for name, one in file_state(network).items():
        if prod(shapes.get(name, [0])) != one.numel():
            raise ValueError(
                f"{path.name} is for another network, or for other classes: of {name} "
                f"it has {shapes.get(name, 'nothing')}, not {list(one.shape)}"
            )
    network.to_empty(device="cpu")
    load(network, path)
    return network.eval(), architecture


def _built(
    *, palette: Any, mean: Any, upsampling: Any = "released", **architecture: Any
) -> tuple[DilatedNetwork, Architecture]:
    """Build, without memory, the network that a file describes in JSON.

    Raises ValueError or TypeError for a value that no network has: the file would open
    and fail later, or not at all. Here are checked what the data give and what only a
    file can exaggerate; the architecture checks its own.
    """
    described = Architecture(**architecture)
    for name, colour in palette.items():
        if not name.strip() or not name.isprintable():
            raise ValueError(f"the name of a class must be readable, got {name!r}")
        if not _numbers(colour, int):
            raise ValueError(
                f"a colour must be three whole numbers from 0 to 255, got {colour} for "
                f"{name!r}"
            )
    for name, value, fits, wanted in (
        ("mean", mean, _numbers(mean, int, float), "three numbers from 0 to 255"),
        (
            "batch_norm",
            described.batch_norm,
            isinstance(described.batch_norm, bool),
            "true or false",
        ),
        (
            "dilations",  # more than any picture has pixels is none either
            described.dilations,
            max(described.dilations) <= 2**15,
            f"whole numbers up to {2**15}",
        ),
        (
            "scale",
            described.scale,
            1e-3 <= described.scale <= 1e3,
            "a number from 0.001 to 1000",
        ),
    ):
        if not fits:
            raise ValueError(f"{name} must be {wanted}, got {value!r}")
    one_of("upsampling", upsampling, get_args(Upsampling))
    colours = {name: tuple(colour) for name, colour in palette.items()}
    with torch.device("meta"):  # no memory for what a file may merely claim
        network = described.build(colours, tuple(mean)).float()
    network.upsampling = upsampling
    return network, described


def _numbers(values: Any, *kinds: type) -> bool:
    """Are these three numbers of such kinds, from 0 to 255?"""
    listed = isinstance(values, list) and len(values) == 3
    return listed and all(type(one) in kinds and 0 <= one <= 255 for one in values)


def photo_network() -> DilatedNetwork:
    """Return the library's network for photographs, of six animals and background.

    It is the paper's front end, with 256 channels in fc6 and fc7 and zeros for padding,
    and the basic context module. It started from VGG-16's convolutions of ImageNet, and
    was trained on 850 photographs of VOC 2012. The file has a byte for each weight. Its
    model card tells its scores, its failures and whose work it is.

    >>> [*photo_network().palette]
    ['background', 'cat', 'cow', 'dog', 'horse', 'person', 'sheep']
    """
    return copy.deepcopy(_own("photos"))  # whose changes are the caller's alone


def street_network() -> DilatedNetwork:
    """Return the library's network for streets, of CamVid's 11 classes.

    The front end ends with conv4 of VGG-16, which started from ImageNet, and pads
    zeros; 88 channels in fc6 and fc7 follow, and the basic context module. It was
    trained on CamVid, whose pictures are for research. The file has a byte for each
    weight, ten megabytes in all. Chapter 13 reports its scores.

    >>> [*street_network().palette][:3]
    ['building', 'tree', 'sky']
    """
    return copy.deepcopy(_own("streets"))


def small_network() -> DilatedNetwork:
    """Return a small network for streets, built like the paper's.

    It pads nothing in its front end, which has 16 channels where VGG has 64, and batch
    norm; the basic context module follows. It was trained on CamVid from random
    weights. Chapters 14 and 16 take it apart; chapter 13 reports its scores.

    >>> small_network().margin
    186
    """
    return copy.deepcopy(_own("small"))


@cache
def _own(name: str) -> DilatedNetwork:
    return open_network(results() / f"{name}.safetensors")[0]
