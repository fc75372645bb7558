"""How a network is trained: the paper's recipe, a modern one, and a run of either."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dilated_lib.networks.architecture import Architecture
from dilated_lib.values import one_of, whole

__all__ = ["MODERN", "PAPER", "Config", "Recipe", "read_config"]


def _check_choices(checked: "Recipe | Config") -> None:
    """Raise ValueError for a field that is none of the values its type lists."""
    for name, hint in get_type_hints(type(checked)).items():
        if get_origin(hint) is Literal:
            one_of(name, getattr(checked, name), get_args(hint))


_FRACTIONS = ("momentum", "warmup", "dropout")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the loop does in each step.

    Raises ValueError for values out of range.

    Args:
        optimizer: SGD with momentum, or AdamW.
        learning_rate: The learning rate of new layers' weights.
        bias_rate: That of biases, which do not decay, relative to that of weights.
        trained_rate: That of layers which were trained before, relative to new ones.
        momentum: The momentum of SGD.
        weight_decay: The decay of weights; SGD adds it to the gradient.
        schedule: Constant, or half a cosine down to zero. (The released code takes a
            tenth after each 100,000 steps, more than its runs on streets have.)
        warmup: The fraction of the steps in which the rate rises from zero.
        clip: The largest norm of the gradient.
        loss_at: Compare cells with the labels at 8i, as in the released code, or
            interpolate the logits to all pixels.
        class_weights: Weigh a class by the root of the median frequency over its own.
        auxiliary: The weight of the loss of the front end's logits, in the joint stage.
        dropout: The probability of dropout behind fc6 and fc7.
        zoom: The least and the largest random scale.
        rotation: The largest random turn, of every other picture, in degrees.
        colour: The largest random change of brightness, contrast and saturation.
    """

    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    bias_rate: float = 1.0
    trained_rate: float = 1.0
    momentum: float = 0.9
    weight_decay: float
    schedule: Literal["constant", "cosine"]
    warmup: float = 0.0
    clip: float | None = None
    loss_at: Literal["cells", "pixels"]
    class_weights: bool = False
    auxiliary: float = 0.0
    dropout: float = 0.5
    zoom: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        _check_choices(self)
        object.__setattr__(self, "zoom", tuple(self.zoom))  # JSON has lists
        if len(self.zoom) != 2 or not 0 < self.zoom[0] <= self.zoom[1] < inf:
            raise ValueError(
                "zoom must be a least and a largest scale above 0, got "
                + (" and ".join(map(str, self.zoom)) or "nothing")
            )
        for name, value in vars(self).items():
            most = 1 if name in _FRACTIONS else inf
            if isinstance(value, int | float) and not 0 <= value < most:
                raise ValueError(f"{name} must be from 0 to below {most}, got {value}")
        if self.clip == 0:
            raise ValueError("clip must be above 0, or None, got 0")


PAPER = Recipe(
    optimizer="sgd",
    learning_rate=1e-4,
    bias_rate=2.0,
    weight_decay=5e-4,
    momentum=0.99,
    schedule="constant",
    loss_at="cells",
)
MODERN = Recipe(
    optimizer="adamw",
    learning_rate=4e-4,
    trained_rate=0.2,
    weight_decay=0.01,
    schedule="cosine",
    warmup=0.05,
    clip=1.0,
    loss_at="pixels",
    class_weights=True,
    auxiliary=0.4,
    dropout=0.2,
    zoom=(0.5, 2.0),
    rotation=5.0,
    colour=0.3,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run: which network is trained, on what, and how.

    Raises ValueError for values out of range, and for those that contradict.

    >>> Config(data="shapes", architecture=Architecture(context="basic"))
    Traceback (most recent call last):
    ValueError: with context basic the stage must be context or joint, got front

    Args:
        data: camvid, voc2012, voc_animals, shapes, or the path of a folder of your own.
        stage: The front end alone; the context module, on the logits of a front end
            that does not change; or both together.
        network: The paper's, or a baseline of torchvision, which has its own layers.
        start: Where weights come from: imagenet (downloaded), a file of VGG-16's
            convolutions for BGR pixels, a network of an earlier stage (.safetensors),
            or none: from scratch.
        architecture: The layers of the paper's network.
        frozen: How many stages of VGG-16, from the first, keep the weights that they
            start with. Two are the choice of Girshick (Fast R-CNN, ICCV 2015): their
            features are edges and textures, which serve any task, and on two cores
            their gradients take a quarter of a step.
        recipe: What the loop does in each step.
        steps: How many steps to train.
        batch: How many pictures a step takes, over all processes together.
        cells: The height and width of a crop, in cells of 8 pixels.
        pictures: Use only so many pictures of each split, or all of them with 0.
        seed: The seed of everything that is drawn.
        precision: 16-mixed scales the loss; bf16-mixed needs no scaling.
        compile: Compile the network with torch.compile.
        deterministic: Use deterministic algorithms only, so that a run that was killed
            ends with the same bits.
        checkpoint_every: Steps from one checkpoint to the next.
        validate_every: Steps from one validation to the next; 0 for the end alone.
        workers: How many processes read pictures.
        test: Read the test split too, once, at the end.
    """

    data: str = "camvid"
    stage: Literal["front", "context", "joint"] = "front"
    network: Literal["dilated", "fcn_resnet50", "deeplabv3_resnet50"] = "dilated"
    start: Literal["imagenet"] | Path | None = None
    architecture: Architecture = field(default_factory=Architecture)
    frozen: int = 0
    recipe: Recipe = MODERN
    steps: int = 2000
    batch: int = 8
    cells: tuple[int, int] = (32, 32)
    pictures: int = 0
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    compile: bool = False
    deterministic: bool = False
    checkpoint_every: int = 500
    validate_every: int = 0
    workers: int = 0
    test: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.start, str) and self.start != "imagenet":
            object.__setattr__(self, "start", Path(self.start))
        object.__setattr__(self, "cells", tuple(self.cells))  # JSON has lists
        _check_choices(self)
        for name in ("steps", "batch", "checkpoint_every"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        for name in ("frozen", "pictures", "seed", "workers", "validate_every"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 0))
        if min(self.cells) < 1:
            raise ValueError(f"cells must be above 0, got {self.cells}")
        context = self.architecture.context
        needs = "front" if context == "none" else "context or joint"
        if (context == "none") != (self.stage == "front"):
            raise ValueError(
                f"with context {context} the stage must be {needs}, got {self.stage}"
            )
        if self.network != "dilated" and self.frozen:
            raise ValueError(
                f"{self.network} has no stages of VGG-16: frozen must be 0, got "
                f"{self.frozen}"
            )
        if self.network != "dilated" and self.stage != "front":
            raise ValueError(
                f"{self.network} has no context module: its stage is front, got "
                f"{self.stage}"
            )

    def changed(self, **changes: Any) -> "Config":
        """Return the run with other values, also for fields of its architecture.

        >>> Config().changed(stage="joint", context="large").architecture.context
        'large'
        """
        names = {one.name for one in fields(Architecture)} & changes.keys()
        layers = {name: changes.pop(name) for name in names}
        architecture = changes.pop("architecture", self.architecture)
        return replace(self, architecture=replace(architecture, **layers), **changes)


def read_config(found: Mapping[str, Any]) -> Config:
    """Return the configuration that a record or a checkpoint holds.

    Older runs have the fields of the architecture among their own. A field that is not
    mentioned is newer than the run, which did as its default does. Raises ValueError
    where it is no configuration.

    >>> from dilated_lib.records import read
    >>> read_config(read("camvid")[0].config).architecture.padding
    'zeros'
    """
    try:
        flat = {**found, **found.get("architecture", {})}
        flat.pop("architecture", None)
        return Config().changed(**flat | {"recipe": Recipe(**found["recipe"])})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"this is no configuration of a run: {error}") from error
