"""What a trained network is, apart from its weights; both of them in one file."""

import copy
import json
from dataclasses import asdict, dataclass
from functools import cache
from math import inf, prod
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from torch import nn

from dilated_lib.data.palettes import Colour
from dilated_lib.networks.context import ContextModule
from dilated_lib.networks.dilated import DilatedNetwork, Upsampling, Weights
from dilated_lib.networks.vgg import Padding, front_end
from dilated_lib.networks.weights import file_state, load, save
from dilated_lib.records import results

__all__ = ["Architecture", "open_network", "save_network", "small_network"]

_KEY = "dilated_lib"  # in the file's metadata


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A front end and a context module, and how pictures enter and labels leave.

    ``palette`` has a colour (RGB) for the name of each class, and ``mean`` is (B, G,
    R). ``padding``, ``width``, ``fc_channels`` and ``batch_norm`` are the front end's,
    ``dilations`` the context module's, which pads zeros in each layer. ``scale`` and
    ``upsampling`` are those of
    :func:`~dilated_lib.prediction.segmentation.probabilities`. A file that does not
    mention ``padding`` has a front end without it.

    >>> two = {"road": (128, 64, 128), "sky": (128, 128, 128)}
    >>> narrow = Architecture(palette=two, mean=(0.0, 0.0, 0.0), width=4, fc_channels=8)
    >>> narrow.build().front.final
    Conv2d(8, 2, kernel_size=(1, 1), stride=(1, 1))
    """

    palette: dict[str, Colour]
    mean: tuple[float, float, float]
    padding: Padding = "none"
    width: int = 64
    fc_channels: int = 4096
    batch_norm: bool = False
    context: Literal["none", "basic", "large"] = "basic"
    dilations: tuple[int, ...] = (1, 1, 2, 4, 8, 16, 1)
    scale: float = 1.0
    upsampling: Upsampling = "released"

    def build(self, weights: Weights = None) -> DilatedNetwork:
        """A new network, whose context module starts as the identity.

        ``weights`` are those of :func:`~dilated_lib.networks.vgg.front_end`.
        """
        classes = len(self.palette)
        front = front_end(
            classes,
            weights,
            padding=self.padding,
            fc_channels=self.fc_channels,
            width=self.width,
            batch_norm=self.batch_norm,
        )
        context = None
        if self.context != "none":
            context = ContextModule(classes, self.context, dilations=self.dilations)
        return DilatedNetwork(
            front,
            context,
            palette=self.palette,
            mean=self.mean,
            input_size=(900, 900),
            scale=self.scale,
            upsampling=self.upsampling,
        )


def save_network(
    network: DilatedNetwork, architecture: Architecture, path: str | Path
) -> None:
    """Write weights and architecture as safetensors; whole or not at all.

    Raises ValueError for an architecture that is not the network's, and as
    :func:`~dilated_lib.networks.weights.save`.

    >>> from tempfile import TemporaryDirectory
    >>> sky = {"sky": (128, 128, 128)}
    >>> narrow = Architecture(palette=sky, mean=(0.0, 0.0, 0.0), width=4, fc_channels=8)
    >>> with TemporaryDirectory() as folder:
    ...     save_network(narrow.build(), narrow, Path(folder) / "sky.safetensors")
    ...     open_network(Path(folder) / "sky.safetensors")[1] == narrow
    True
    """
    with torch.device("meta"):
        built = architecture.build()
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
    save(network, path, metadata={_KEY: json.dumps(asdict(architecture))})


def _pads(part: nn.Module) -> list[tuple[object, str]]:
    """How the convolutions of a part pad."""
    layers = (one for one in part.modules() if isinstance(one, nn.Conv2d))
    return [(one.padding, one.padding_mode) for one in layers]


def open_network(path: str | Path) -> tuple[DilatedNetwork, Architecture]:
    """A network from a file of :func:`save_network`, in float32, on the CPU.

    It is in evaluation.

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
            architecture = _architecture(json.loads(text))
            with torch.device("meta"):  # no memory for what a file may merely claim
                network = architecture.build().float()
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


def _architecture(found: dict[str, Any]) -> Architecture:
    """Make an architecture of JSON, whose lists were tuples.

    Raises ValueError for a value that no network has. The front end and the context
    module check their own.
    """
    colours = {name: tuple(one) for name, one in found.get("palette", {}).items()}
    tuples = {name: tuple(found[name]) for name in ("mean", "dilations") & found.keys()}
    read = Architecture(**(found | tuples | {"palette": colours}))
    for name, colour in colours.items():
        if not name.strip() or not name.isprintable():
            raise ValueError(f"the name of a class must be readable, got {name!r}")
        if len(colour) != 3 or not all(_within(part, 0, 255, int) for part in colour):
            raise ValueError(
                f"a colour must be three whole numbers from 0 to 255, got {colour} for "
                f"{name!r}"
            )
    for name, fits, wanted in (
        (
            "mean",
            len(read.mean) == 3 and all(_within(one, 0, 255) for one in read.mean),
            "three numbers from 0 to 255",
        ),
        ("width", _within(read.width, 1, inf, int), "a whole number above 0"),
        (
            "fc_channels",
            _within(read.fc_channels, 1, inf, int),
            "a whole number above 0",
        ),
        ("batch_norm", isinstance(read.batch_norm, bool), "true or false"),
        (
            "dilations",  # more than any picture has pixels is none either
            all(_within(one, 1, 2**15, int) for one in read.dilations),
            f"whole numbers from 1 to {2**15}",
        ),
        ("scale", _within(read.scale, 1e-3, 1e3), "a number from 0.001 to 1000"),
        (
            "upsampling",
            read.upsampling in get_args(Upsampling),
            f"one of {', '.join(get_args(Upsampling))}",
        ),
    ):
        if not fits:
            raise ValueError(f"{name} must be {wanted}, got {getattr(read, name)!r}")
    return read


def _within(value: object, least: float, most: float, *kinds: type) -> bool:
    """Is it a number in these bounds, and of this kind if one is asked for?"""
    return type(value) in (kinds or (int, float)) and least <= value <= most  # type: ignore[operator]


def small_network() -> DilatedNetwork:
    """The network that comes with the library: a street's 11 classes, CamVid's.

    Narrow (16 channels for VGG's 64), with batch norm, and the basic context module;
    trained on CamVid, whose pictures are for research. What it reaches says chapter 13.

    >>> [*small_network().palette][:3]
    ['building', 'tree', 'sky']
    """
    return copy.deepcopy(_small_network())  # whose changes are the caller's alone


@cache
def _small_network() -> DilatedNetwork:
    return open_network(results() / "small.safetensors")[0]
