"""How a network is trained: the paper's recipe, a modern one, and a run of either."""

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

__all__ = ["MODERN", "PAPER", "Config", "Recipe"]


def _check_choices(one: object) -> None:
    """Raises ValueError for a field that is none of the values its type lists."""
    for name, hint in get_type_hints(type(one)).items():
        value = getattr(one, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(
                f"{name} must be one of {', '.join(get_args(hint))}; got {value!r}"
            )


_SHARES = ("momentum", "warmup", "dropout")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the loop does in each step.

    Raises ValueError for values out of range.

    Args:
        optimizer: SGD with momentum, or AdamW.
        learning_rate: That of new layers' weights.
        bias_rate: The learning rate of biases, relative to it; they do not decay.
        trained_rate: That of layers which were trained before, relative to it.
        momentum: Of SGD.
        weight_decay: Of weights; that of SGD is added to the gradient.
        schedule: Constant, or half a cosine down to zero. (The released code takes a
            tenth after each 100,000 steps, more than its runs on streets have.)
        warmup: The share of steps in which the learning rate rises from zero.
        clip: The largest norm of the gradient.
        loss_at: Labels at 8i for cells, as in the released code, or all pixels, with
            the logits interpolated to them.
        class_weights: Weigh a class by the root of the median frequency over its own.
        auxiliary: In the joint stage, the weight of the loss of the front end's logits.
        dropout: Behind fc6 and fc7.
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
        if not 0 < self.zoom[0] <= self.zoom[1] < inf:
            raise ValueError(
                "zoom must be a least and a largest scale above 0, got "
                f"{self.zoom[0]} and {self.zoom[1]}"
            )
        for name in get_type_hints(type(self)):
            value, most = getattr(self, name), 1 if name in _SHARES else inf
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
    """A run: what is trained, on what, and how.

    Raises ValueError for values out of range, and for those that contradict.

    >>> Config(data="shapes", context="basic")
    Traceback (most recent call last):
    ValueError: with context basic the stage must be context or joint, got front

    Args:
        data: camvid, voc2012, voc_animals, shapes, or the path of a folder of your own.
        stage: The front end alone; the context module on the logits of a front end that
            does not change; or both together.
        network: The paper's, or a baseline of torchvision.
        start: Where weights come from: imagenet (downloaded), a file of VGG-16's
            convolutions for BGR pixels, a network of an earlier stage (.safetensors),
            or none: from scratch.
        padding: Of the front end's convolutions; with zeros or reflection inside, a
            crop needs no margin, and a step takes a quarter of the time.
        width: Channels of conv1; VGG-16 has 64.
        fc_channels: Channels of fc6 and fc7; the paper has 4096.
        batch_norm: Behind each convolution of the front end, for training from scratch.
        context: Table 1's variant.
        dilations: Those of the context module.
        scale: Pictures are enlarged by this, here and in prediction.
        recipe: What the loop does in each step.
        steps: Steps of training.
        batch: Pictures in a step, over all processes together.
        cells: Height and width of a crop in cells of 8 pixels.
        pictures: Use so many pictures of each split, 0 for all.
        seed: Of everything that is drawn.
        precision: 16-mixed scales the loss; bf16-mixed needs no scaling.
        compile: Compile the network with torch.compile.
        deterministic: Use deterministic algorithms only, so that a run that was killed
            ends with the same bits.
        checkpoint_every: Steps from one checkpoint to the next.
        validate_every: Steps from one validation to the next; 0 for the end alone.
        workers: Processes that read pictures.
        test: Read the test split too, once, at the end.
    """

    data: str = "camvid"
    stage: Literal["front", "context", "joint"] = "front"
    network: Literal["dilated", "fcn_resnet50", "deeplabv3_resnet50"] = "dilated"
    start: Literal["imagenet"] | Path | None = None
    padding: Literal["none", "zeros", "reflect"] = "none"
    width: int = 64
    fc_channels: int = 4096
    batch_norm: bool = False
    context: Literal["none", "basic", "large"] = "none"
    dilations: tuple[int, ...] = (1, 1, 2, 4, 8, 16, 1)
    scale: float = 1.0
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
        _check_choices(self)
        for name, least in (
            *(("width", 1), ("fc_channels", 1), ("steps", 1), ("batch", 1)),
            *(("pictures", 0), ("seed", 0), ("checkpoint_every", 1), ("workers", 0)),
            ("validate_every", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if min(self.cells) < 1 or not 0 < self.scale < inf:
            raise ValueError(
                f"cells and scale must be above 0, got {self.cells} and {self.scale}"
            )
        needs = "front" if self.context == "none" else "context or joint"
        if (self.context == "none") != (self.stage == "front"):
            raise ValueError(
                f"with context {self.context} the stage must be {needs}, got "
                f"{self.stage}"
            )
        if self.network != "dilated" and self.stage != "front":
            raise ValueError(
                f"{self.network} has no context module: its stage is front, got "
                f"{self.stage}"
            )
