"""All runs behind the book's results: in tiers, resumable, with what they cost."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dilated_lib.architecture import open_network, save_network
from dilated_lib.recipes import MODERN, PAPER, Config
from dilated_lib.records import Record, write
from dilated_lib.training import train

__all__ = ["TIERS", "Planned", "execute", "planned"]

TIERS = {
    "imagenet": "CamVid from ImageNet: front end alone, + basic, + large, three seeds",
    "together": "CamVid from ImageNet, front end and module together from the start",
    "joint": "the first networks trained on jointly, and the front end alone as long",
    "ablations": "heads without dilation, and without the layer of dilation 16",
    "scratch": "CamVid from scratch: front end alone, + basic, + large, and together",
    "peers": "torchvision's FCN and DeepLab v3 from scratch, same steps and pictures",
    "paper": "the paper's recipe on CamVid, one seed, a quarter of its 20,000 steps",
    "voc": "the VOC subset from ImageNet: front end alone, + basic, + large",
    "small": "the small network that comes with the library",
}
_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Planned:
    """A run: its name, tier, the minutes it takes on an H100, and what it goes on from.

    ``after`` names the run of the same seed whose network it starts from.
    """

    name: str
    tier: str
    minutes: float
    config: Config
    after: str | None = None


def planned(weights: Literal["imagenet"] | Path = "imagenet") -> Iterator[Planned]:
    """The runs, in order; ``weights`` are VGG-16's, as of ``front_end``.

    >>> first, second, *_ = planned()
    >>> second.name, second.after == first.name
    ('camvid/imagenet/front + basic', True)
    """
    for seed in _SEEDS:
        yield from _street(seed, "imagenet", weights)
    for seed in _SEEDS:
        for variant in ("basic", "large"):
            run = _together(replace(_front(seed), start=weights), variant)
            name = f"camvid/imagenet/front + {variant}, together"
            yield Planned(name, "together", 4.6, run)
    for seed in _SEEDS:
        yield from _joint(seed)
    for seed in _SEEDS:
        front = "camvid/imagenet/front"
        for name, dilations in (
            ("no dilation", (1, 1, 1, 1, 1, 1, 1)),
            ("no dilation 16", (1, 1, 2, 4, 8, 1)),
        ):
            head = replace(_head(seed), dilations=dilations)
            yield Planned(f"{front} + basic, {name}", "ablations", 1, head, front)
    for seed in _SEEDS:
        yield from _street(seed, "scratch", None)
        run = replace(_together(_scratch(_front(seed)), "basic"), steps=6000)
        yield Planned("camvid/scratch/front + basic, together", "scratch", 8.5, run)
    for seed in _SEEDS:
        for peer in ("fcn_resnet50", "deeplabv3_resnet50"):
            run = replace(_scratch(_front(seed)), network=peer, batch_norm=False)
            yield Planned(f"camvid/scratch/{peer}", "peers", 5, run)
    paper = replace(
        _front(0),
        start=weights,
        fc_channels=4096,
        recipe=PAPER,
        scale=4 / 3,  # 640 × 480, the paper's
        cells=(32, 32),  # its crops of 628 pixels
        steps=5000,
    )
    yield Planned("camvid/paper/front", "paper", 7, paper)
    for seed in _SEEDS:
        yield from _voc(seed, weights)
    yield Planned("camvid/small", "small", 8, _SMALL)


def _front(seed: int) -> Config:
    return Config(
        data="camvid",
        fc_channels=1024,
        scale=1.5,
        steps=3200,
        batch=8,
        cells=(66, 66),
        seed=seed,
        precision="bf16-mixed",
        workers=8,
        test=True,
    )


def _head(seed: int, context: Literal["basic", "large"] = "basic") -> Config:
    """A context module on a front end that does not change."""
    recipe = replace(MODERN, learning_rate=1e-3)
    return replace(
        _front(seed), stage="context", context=context, steps=800, recipe=recipe
    )


def _together(config: Config, context: Literal["basic", "large"]) -> Config:
    """Front end and context module from the start, each with a loss of its own."""
    return replace(config, stage="joint", context=context)


def _scratch(config: Config) -> Config:
    recipe = replace(config.recipe, learning_rate=1e-3)
    return replace(config, batch_norm=True, steps=3000, recipe=recipe)


def _street(
    seed: int, start: str, weights: Literal["imagenet"] | Path | None
) -> Iterator[Planned]:
    name, minutes = f"camvid/{start}/front", 4.5
    run = replace(_front(seed), start=weights)
    if start == "scratch":
        run, minutes = _scratch(run), 6
    yield Planned(name, start, minutes, run)
    for variant in ("basic", "large"):
        head = replace(_head(seed, variant), batch_norm=run.batch_norm)
        yield Planned(f"{name} + {variant}", start, 1, head, name)


def _joint(seed: int) -> Iterator[Planned]:
    front = "camvid/imagenet/front"
    recipe = replace(MODERN, trained_rate=0.5, learning_rate=2e-4)
    run = replace(_front(seed), steps=1200, recipe=recipe)
    yield Planned("camvid/imagenet/front, on", "joint", 2.5, run, front)
    for variant in ("basic", "large"):
        both = replace(run, stage="joint", context=variant)
        name = f"{front} + {variant}"
        yield Planned(f"{name}, joint", "joint", 2.5, both, name)


def _voc(seed: int, weights: Literal["imagenet"] | Path) -> Iterator[Planned]:
    name = "voc_animals/imagenet/front"
    run = replace(_pictures(_front(seed)), start=weights)
    yield Planned(name, "voc", 4, run)
    for variant in ("basic", "large"):
        head = _pictures(_head(seed, variant))
        yield Planned(f"{name} + {variant}", "voc", 1.5, head, name)


def _pictures(config: Config) -> Config:
    """The same on photographs of about 500 × 375 pixels."""
    return replace(
        config, data="voc_animals", scale=1.0, cells=(44, 44), batch=12, test=False
    )


_SMALL = Config(
    data="camvid",
    stage="joint",
    width=16,
    fc_channels=128,
    batch_norm=True,
    context="basic",
    recipe=replace(MODERN, learning_rate=3e-3, dropout=0.1, zoom=(0.7, 1.5)),
    steps=1500,
    batch=4,
    cells=(45, 60),
    precision="bf16-mixed",
    checkpoint_every=50,
    workers=1,
    test=True,
)


def execute(
    tier: str,
    *,
    weights: Literal["imagenet"] | Path = "imagenet",
    runs: Path,
    out: Path,
    minutes: float = 0,
    rehearse: bool = False,
    progress: bool = False,
) -> list[Record]:
    """Train the runs of a tier, or of "all", into ``runs``; their records into ``out``.

    A run that is done is not done again, one that was stopped goes on. After each run
    the records of all are written, and after the small network small.safetensors, in
    half precision. After ``minutes``, if that is not 0, a checkpoint is written, and
    the records so far are returned. ``rehearse`` takes a narrow network, eight pictures
    and two steps for each run.

    Raises ValueError for an unknown tier, else as :func:`~dilated_lib.training.train`.

    >>> execute("gpu", runs=Path("runs"), out=Path("results"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: tier must be all or one of imagenet, together, ..., got 'gpu'
    """
    if tier not in ("all", *TIERS):
        raise ValueError(f"tier must be all or one of {', '.join(TIERS)}, got {tier!r}")
    deadline = time.monotonic() + 60 * minutes if minutes else None
    done: list[Record] = []
    for one in planned(weights):
        if tier not in ("all", one.tier):
            continue
        config = one.config
        if one.after:
            start = _folder(runs, one.after, config.seed) / "network.safetensors"
            config = replace(config, start=start)
        if rehearse:
            config = _rehearsal(config)
        folder = _folder(runs, one.name, config.seed)
        record = train(
            config, folder, experiment=one.name, deadline=deadline, progress=progress
        )
        if record is None:  # out of time, or another process than the first
            return done
        done.append(record)
        _gather(runs, out)
        if one.tier == "small":
            network, architecture = open_network(folder / "network.safetensors")
            save_network(network.half(), architecture, out / "small.safetensors")
        if deadline and time.monotonic() > deadline:
            return done
    return done


def _folder(runs: Path, name: str, seed: int) -> Path:
    return runs / name.replace(" ", "").replace(",", "-") / f"seed-{seed}"


def _gather(runs: Path, out: Path) -> None:
    """All records of the runs, one file for each data set; others there stay."""
    found: dict[str, list[Record]] = {}
    for file in sorted(runs.rglob("record.json")):
        record = Record(**json.loads(file.read_text())[0])
        found.setdefault(record.experiment.split("/")[0], []).append(record)
    for name, records in found.items():
        file = out / f"{name}.json"
        runs_of = {(one.experiment, one.seed): one for one in records}
        before = json.loads(file.read_text()) if file.is_file() else []
        kept = {(one["experiment"], one["seed"]): Record(**one) for one in before}
        both = kept | runs_of
        write(file, [both[key] for key in sorted(both)])


def _rehearsal(config: Config) -> Config:
    start = config.start
    if not str(start).endswith(".safetensors"):
        start = None
    return replace(
        config,
        start=start,
        width=8,
        fc_channels=32,
        steps=2,
        batch=2,
        cells=(4, 6),
        scale=0.5,
        pictures=8,
        precision="32-true",
        workers=0,
        checkpoint_every=1,
    )
