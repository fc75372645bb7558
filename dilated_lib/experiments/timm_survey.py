"""What the units of timm's networks see, one network of each family: a record of each.

`make survey-timm` runs it in an environment of its own, and the book's page "Receptive
field of your network" shows the records. A family is a module of ``timm.models``, and
its member with the fewest weights stands for it. To these come networks with a kind of
attention that the smallest member of their family lacks, and the decoders of
segmentation-models-pytorch. Every answer is compared with the network itself, by NaN.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.survey import MANY_WEIGHTS, agreement, outcome

__all__ = ["Candidate", "candidate", "names", "smallest", "survey"]

PACKAGES = ("timm", "segmentation-models-pytorch")
ATTENTIVE = (
    *("botnet26t_256", "lambda_resnet26t", "eva02_tiny_patch14_224"),
    *("mobilevitv2_050", "maxvit_rmlp_pico_rw_256", "samvit_base_patch16"),
)
DECODERS = (
    *("DPT", "DeepLabV3", "DeepLabV3Plus", "FPN", "Linknet", "MAnet", "PAN", "PSPNet"),
    *("Segformer", "UPerNet", "Unet", "UnetPlusPlus"),
)
SIDES = (64, 96, 128)  # inputs to compare on, before the usual one
LARGE = 1024  # an input of this many pixels a side takes an hour to compare on


@dataclass(frozen=True)
class Candidate:
    """A network to ask, its usual input, and the stages of its pyramid, if any.

    Each of ``stages`` builds the network as far as one map of the pyramid, the finest
    first, and returns that map alone, so that a fine map is quick to compare.
    """

    name: str
    network: nn.Module
    input_size: tuple[int, ...]
    stages: Sequence[Callable[[], nn.Module]] = ()


def names() -> list[str]:
    """List all that is surveyed: timm/FAMILY, timm/NETWORK and smp/DECODER."""
    import timm

    families = [*timm.list_modules(), *ATTENTIVE]
    return [*(f"timm/{one}" for one in families), *(f"smp/{one}" for one in DECODERS)]


def smallest(members: Iterable[str], build: Callable[[str], nn.Module]) -> str:
    """Return the member with the fewest weights; timm's ``test_…`` do not count.

    >>> smallest(["test_1", "two", "three"], lambda name: nn.Linear(1, len(name)))
    'two'
    """
    weights = {}
    for name in members:
        if not name.startswith("test_"):
            with torch.device("meta"):
                weights[name] = sum(one.numel() for one in build(name).parameters())
    return min(weights, key=lambda name: (weights[name], name))


def candidate(name: str) -> Candidate:
    """Build what a name of :func:`names` stands for, with random weights."""
    import timm

    package, _, network = name.partition("/")
    torch.manual_seed(0)
    if package == "smp":
        import segmentation_models_pytorch as smp

        vit = network == "DPT"  # the only one that does not take a ResNet
        encoder = "tu-vit_tiny_patch16_224" if vit else "resnet18"
        side = 224 if vit else 256
        built = getattr(smp, network)(encoder, encoder_weights=None)
        return Candidate(f"{network} on {encoder}", built, (3, side, side))
    if network in timm.list_modules():
        network = smallest(timm.list_models(module=network), timm.create_model)
    built = timm.create_model(network)
    size = built.default_cfg["input_size"]
    pyramid = partial(timm.create_model, network, features_only=True)
    try:
        indices = pyramid().feature_info.out_indices
    except Exception:  # timm says in many ways that it makes no pyramid of a network
        return Candidate(network, built, size)
    stages = [partial(pyramid, out_indices=(index,)) for index in indices]
    return Candidate(network, built, size, stages)


def survey(one: Candidate) -> dict[str, Any]:
    """Return the outcome for a network and for each finite map of its pyramid.

    A pyramid ends at its first map that sees everything, or that is refused.
    """
    found, seconds = outcome(one.network, one.input_size)
    weights, side = sum(map(Tensor.numel, one.network.parameters())), one.input_size[-1]
    if found["outcome"] != "refused" and weights < MANY_WEIGHTS and side < LARGE:
        sides = (*SIDES, side)
        found["verified"] = [agreement(one.network, one.input_size, None, sides)]
    found["analysis_ms"] = round(1000 * seconds, 1)
    if one.stages:
        found["pyramid"] = [*_pyramid(one)]
    return found


def _pyramid(one: Candidate) -> Iterator[dict[str, Any]]:
    """Ask the maps of a pyramid, from the finest to the first that is not finite."""
    for build in one.stages:
        stage = build()
        found, _ = outcome(stage, one.input_size)
        if found["outcome"] == "exact":
            sides = (*SIDES[-1:], one.input_size[-1])
            found["verified"] = [agreement(stage, one.input_size, None, sides)]
        yield found
        if found["outcome"] != "exact":
            return


def main(
    out: Path = Path("book/results/timm.json"), /, *, only: tuple[str, ...] = ()
) -> None:
    """Survey timm's families and the decoders of segmentation-models-pytorch.

    Args:
        out: The file of records to write.
        only: Networks to survey anew; the records of the others stay.
    """
    warnings.filterwarnings("ignore")
    recorder = Recorder(out, keep=bool(only), by_name=True, packages=PACKAGES)
    for name in only or names():
        one = candidate(name)
        config = {"network": one.name, "input_size": one.input_size}
        with recorder.record(name, config=config) as metrics:
            try:
                metrics.update(survey(one))
            except Exception as error:  # a fault of this library; a refusal is none
                metrics.update(outcome="failed", reason=repr(error))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
