"""All runs behind the book's results: in tiers, resumable, with what they cost."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from dilated_lib.dilation.cost import measure
from dilated_lib.experiments.throughput import operations, training_step
from dilated_lib.networks.architecture import Architecture, open_network, save_network
from dilated_lib.networks.pooled import Pooled
from dilated_lib.prediction.bfloat16 import has_bfloat16
from dilated_lib.records import Record, read_file, write
from dilated_lib.training.config import MODERN, PAPER, Config
from dilated_lib.training.loop import train

__all__ = [
    "TIERS",
    "Planned",
    "carry_out",
    "execute",
    "next_run",
    "planned",
    "rate",
    "state",
]

# each with its question; the first five are for a CPU, the others for a GPU
TIERS = {
    "padded": "How good is a front end that pads zeros, trained on two CPU cores?",
    "animals": "And one that knows six animals, from 850 photographs?",
    "photos": "How well are animals named by a network that is trained for longer?",
    "streets": "How well are streets labelled by a network of ten megabytes?",
    "fronts": "Does simplifying the front end help, on the same photographs?",
    "imagenet": "What does a context module add behind a front end from ImageNet?",
    "together": "Is it better to train front end and module together from the start?",
    "joint": "Does joint training help more than training the front end on as long?",
    "ablations": "How much of the gain remains without dilation, or without the 16?",
    "scratch": "What does the module add behind a front end trained from scratch?",
    "peers": "How do FCN and DeepLab v3 do from scratch, with as many steps?",
    "paper": "What does the paper's recipe give in a quarter of its 20,000 steps?",
    "voc": "And on photographs of animals: front end, basic, large?",
    "small": "How good is a small one from random weights, built like the paper's?",
}
_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Planned:
    """A run: its name, the tier whose question it serves, and what it goes on from.

    ``after`` names the run of the same seed whose network it starts from.
    """

    name: str
    tier: str
    config: Config
    after: str | None = None

    @property
    def tflop(self) -> float:
        """Count the TFLOP of all its training steps, without validation."""
        return self.config.steps * operations(self.config) / 1e12


def planned(weights: Literal["imagenet"] | Path = "imagenet") -> Iterator[Planned]:
    """List the runs, in order; ``weights`` are VGG-16's, as of ``front_end``.

    >>> first, second, *_ = (one for one in planned() if one.tier == "imagenet")
    >>> second.name, second.after == first.name
    ('camvid/imagenet/front + basic', True)
    """
    for seed in _SEEDS:
        run = replace(_PADDED, start=weights, seed=seed)
        yield Planned("camvid/imagenet/padded front", "padded", run)
    for seed in _SEEDS:
        run = replace(_ANIMALS, start=weights, seed=seed)
        yield Planned("voc_animals/imagenet/padded front", "animals", run)
    yield Planned("voc_animals/photos", "photos", replace(_PHOTOS, start=weights))
    yield Planned("camvid/streets", "streets", replace(_STREETS, start=weights))
    for seed in _SEEDS:
        yield from _fronts(replace(_ANIMALS, start=weights, seed=seed))
    for seed in _SEEDS:
        yield from _street(seed, "imagenet", weights)
    for seed in _SEEDS:
        for variant in ("basic", "large"):
            run = _together(replace(_front(seed), start=weights), variant)
            name = f"camvid/imagenet/front + {variant}, together"
            yield Planned(name, "together", run)
    for seed in _SEEDS:
        yield from _joint(seed)
    for seed in _SEEDS:
        front = "camvid/imagenet/front"
        for name, dilations in (
            ("no dilation", (1, 1, 1, 1, 1, 1, 1)),
            ("no dilation 16", (1, 1, 2, 4, 8, 1)),
        ):
            head = _head(seed).changed(dilations=dilations)
            yield Planned(f"{front} + basic, {name}", "ablations", head, front)
    for seed in _SEEDS:
        yield from _street(seed, "scratch", None)
        run = replace(_together(_scratch(_front(seed)), "basic"), steps=6000)
        yield Planned("camvid/scratch/front + basic, together", "scratch", run)
    for seed in _SEEDS:
        for baseline in ("fcn_resnet50", "deeplabv3_resnet50"):
            run = _scratch(_front(seed)).changed(network=baseline, batch_norm=False)
            yield Planned(f"camvid/scratch/{baseline}", "peers", run)
    paper = _front(0).changed(
        start=weights,
        fc_channels=4096,
        recipe=PAPER,
        scale=4 / 3,  # 640 × 480, the paper's
        cells=(32, 32),  # its crops of 628 pixels
        steps=5000,
    )
    yield Planned("camvid/paper/front", "paper", paper)
    for seed in _SEEDS:
        yield from _voc(seed, weights)
    yield Planned("camvid/small", "small", _SMALL)


def _fronts(run: Config) -> Iterator[Planned]:
    """Train other front ends in the same way, the one that takes longest at the end."""
    others = {name: run.changed(front=name) for name in get_args(Pooled)}
    for name, config in (others | {"no padding": run.changed(padding="none")}).items():
        yield Planned(f"evidence/front/{run.data}/{name}", "fronts", config)


def _front(seed: int) -> Config:
    return Config(
        data="camvid",
        architecture=Architecture(fc_channels=1024, scale=1.5),
        steps=3200,
        batch=8,
        cells=(66, 66),
        seed=seed,
        precision="bf16-mixed",
        workers=8,
        test=True,
    )


def _head(seed: int, context: Literal["basic", "large"] = "basic") -> Config:
    """Train a context module on a front end that does not change."""
    recipe = replace(MODERN, learning_rate=1e-3)
    return _front(seed).changed(
        stage="context", context=context, steps=800, recipe=recipe
    )


def _together(config: Config, context: Literal["basic", "large"]) -> Config:
    """Train both parts together from the start, each with a loss of its own."""
    return config.changed(stage="joint", context=context)


def _scratch(config: Config) -> Config:
    recipe = replace(config.recipe, learning_rate=1e-3)
    return config.changed(batch_norm=True, steps=3000, recipe=recipe)


def _street(
    seed: int, start: str, weights: Literal["imagenet"] | Path | None
) -> Iterator[Planned]:
    name = f"camvid/{start}/front"
    run = replace(_front(seed), start=weights)
    if start == "scratch":
        run = _scratch(run)
    yield Planned(name, start, run)
    for variant in ("basic", "large"):
        norm = run.architecture.batch_norm
        head = _head(seed, variant).changed(batch_norm=norm)
        yield Planned(f"{name} + {variant}", start, head, name)


def _joint(seed: int) -> Iterator[Planned]:
    front = "camvid/imagenet/front"
    recipe = replace(MODERN, trained_rate=0.5, learning_rate=2e-4)
    run = replace(_front(seed), steps=1200, recipe=recipe)
    yield Planned("camvid/imagenet/front, on", "joint", run, front)
    for variant in ("basic", "large"):
        both = _together(run, variant)
        name = f"{front} + {variant}"
        yield Planned(f"{name}, joint", "joint", both, name)


def _voc(seed: int, weights: Literal["imagenet"] | Path) -> Iterator[Planned]:
    name = "voc_animals/imagenet/front"
    run = replace(_pictures(_front(seed)), start=weights)
    yield Planned(name, "voc", run)
    for variant in ("basic", "large"):
        head = _pictures(_head(seed, variant))
        yield Planned(f"{name} + {variant}", "voc", head, name)


def _pictures(config: Config) -> Config:
    """Do the same on photographs of about 500 × 375 pixels."""
    return config.changed(
        data="voc_animals", scale=1.0, cells=(44, 44), batch=12, test=False
    )


_PADDED = Config(
    data="camvid",
    architecture=Architecture(padding="zeros", fc_channels=256),
    recipe=replace(
        MODERN,
        learning_rate=3e-4,
        weight_decay=1e-4,
        clip=5.0,
        dropout=0.5,
        zoom=(0.8, 1.5),
        rotation=0.0,
        colour=0.2,
    ),
    steps=3000,
    batch=2,
    cells=(36, 48),
    precision="bf16-mixed" if has_bfloat16() else "32-true",
    checkpoint_every=100,
    test=True,
)
_ANIMALS = replace(
    _PADDED,
    data="voc_animals",
    recipe=replace(_PADDED.recipe, learning_rate=2.5e-4, zoom=(0.6, 1.3)),
    steps=2000,
    cells=(38, 38),
)
_PHOTOS = replace(
    _ANIMALS,
    stage="joint",
    architecture=replace(_ANIMALS.architecture, context="basic"),
    frozen=2,
    steps=4500,
)
_STREETS = replace(
    _PADDED,
    stage="joint",
    architecture=replace(
        _PADDED.architecture, front="conv4", fc_channels=88, context="basic"
    ),
    steps=2000,
)
_SMALL = Config(
    data="camvid",
    stage="joint",
    architecture=Architecture(
        width=16, fc_channels=128, batch_norm=True, context="basic"
    ),
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
    """Train the runs of a tier, and return their records, as far as they are done.

    A run that is done is not done again, and one that was stopped goes on. After each
    run the records of all are written. Beside them the networks of three tiers are
    stored, as the library brings them: photos.safetensors and streets.safetensors with
    a byte for each weight, and small.safetensors in half precision.

    Raises ValueError for an unknown tier, else as
    :func:`~dilated_lib.training.loop.train`.

    Args:
        tier: One of TIERS, or "all".
        weights: VGG-16's, as of ``front_end``.
        runs: The folder of the runs, with their checkpoints and networks.
        out: The folder of records.
        minutes: After so many a checkpoint is written, and the records so far are
            returned; 0 for no limit.
        rehearse: Take a narrow network, eight pictures and two steps for each run.
        progress: Show bars.

    >>> execute("gpu", runs=Path("runs"), out=Path("results"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: tier must be all or one of padded, animals, ..., got 'gpu'
    """
    if tier not in ("all", *TIERS):
        raise ValueError(f"tier must be all or one of {', '.join(TIERS)}, got {tier!r}")
    deadline = time.monotonic() + 60 * minutes if minutes else None
    done: list[Record] = []
    for one in planned(weights):
        if tier not in ("all", one.tier):
            continue
        record = carry_out(
            one,
            runs=runs,
            out=out,
            deadline=deadline,
            rehearse=rehearse,
            progress=progress,
        )
        if record is None:  # out of time, or another process than the first
            return done
        done.append(record)
        if deadline and time.monotonic() > deadline:
            return done
    return done


def carry_out(
    one: Planned,
    *,
    runs: Path,
    out: Path,
    deadline: float | None = None,
    rehearse: bool = False,
    progress: bool = False,
) -> Record | None:
    """Train one run of the plan, or go on with it, and write its record at once.

    Returns None where the deadline came first: a checkpoint lies in the run's folder
    then.

    Args:
        one: The run.
        runs: The folder of the runs, with their checkpoints and networks.
        out: The folder of records.
        deadline: When to stop, on the clock of ``time.monotonic``.
        rehearse: Take a narrow network, eight pictures and two steps.
        progress: Show bars.

    >>> from unittest.mock import patch
    >>> one = next_run("padded", runs=Path("nowhere"))
    >>> with patch("dilated_lib.experiments.plan.train", return_value=None) as stopped:
    ...     carry_out(one, runs=Path("runs"), out=Path("results"))
    >>> stopped.call_args.kwargs["experiment"]
    'camvid/imagenet/padded front'
    """
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
    if record is None:
        return None
    _gather(runs, out)
    if one.tier in ("photos", "streets", "small"):  # which come with the library
        network, architecture = open_network(folder / "network.safetensors")
        int8 = one.tier != "small"
        network = network if int8 else network.half()
        save_network(network, architecture, out / f"{one.tier}.safetensors", int8=int8)
    return record


def state(one: Planned, runs: Path) -> str:
    """Tell how far a run is: done, at a step, ready, or which run it waits for.

    >>> first, second, *_ = (one for one in planned() if one.tier == "imagenet")
    >>> state(first, Path("nowhere")), state(second, Path("nowhere"))
    ('ready', 'waits for camvid/imagenet/front')
    """
    folder = _folder(runs, one.name, one.config.seed)
    if (folder / "record.json").is_file():
        return "done"
    if kept := sorted((folder / "checkpoints").glob("step-*.pt")):
        step = int(re.sub(r"\D", "", kept[-1].stem))
        return f"at step {step} of {one.config.steps}"
    if one.after:
        before = _folder(runs, one.after, one.config.seed)
        if not (before / "record.json").is_file():
            return f"waits for {one.after}"
    return "ready"


def next_run(
    tier: str,
    *,
    runs: Path,
    weights: Literal["imagenet"] | Path = "imagenet",
) -> Planned | None:
    """Find the first run of a tier, or of "all", that is neither done nor waiting.

    One that was stopped is an earlier one, so it goes on first.

    >>> next_run("padded", runs=Path("nowhere")).config.seed
    0
    """
    for one in planned(weights):
        now = state(one, runs)
        if tier in ("all", one.tier) and now != "done" and "waits" not in now:
            return one
    return None


def rate() -> float:
    """Measure how many operations this machine does in a second of training.

    It takes a step of the padded front end on one crop, for a few seconds.

    >>> from unittest.mock import patch
    >>> from dilated_lib.dilation.cost import Timing
    >>> second = {"step": Timing(median_ms=1000.0, spread_ms=0.0)}  # made up
    >>> with patch("dilated_lib.experiments.plan.measure", return_value=second):
    ...     print(f"{rate() / 1e12:.2f} TFLOP/s")
    0.32 TFLOP/s
    """
    config = replace(_PADDED, batch=1)
    times = measure({"step": training_step(config)}, seconds=0.5)
    return 1000 * operations(config) / times["step"].median_ms


def _folder(runs: Path, name: str, seed: int) -> Path:
    return runs / name.replace(" ", "").replace(",", "-") / f"seed-{seed}"


def _gather(runs: Path, out: Path) -> None:
    """Write the records of all runs, a file for each data set; others there stay.

    A file's name is the first word of its experiments. Others may have several records
    with one seed, of modules behind several front ends.
    """
    found: dict[str, list[Record]] = {}
    for file in sorted(runs.rglob("record.json")):
        for record in read_file(file):
            found.setdefault(record.experiment.split("/")[0], []).append(record)
    for name, records in found.items():
        file = out / f"{name}.json"
        runs_of = {_key(one) for one in records}
        before = read_file(file) if file.is_file() else []
        kept = [one for one in before if _key(one) not in runs_of]
        write(file, sorted(kept + records, key=_key))


def _key(record: Record) -> tuple[str, int]:
    return record.experiment, record.seed


def _rehearsal(config: Config) -> Config:
    start = config.start
    if not str(start).endswith(".safetensors"):
        start = None
    return config.changed(
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
