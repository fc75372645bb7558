"""The plan of runs, and what is measured besides: throughput."""

import json
from dataclasses import asdict, replace
from inspect import signature
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode
from training_runs import TINY

import dilated_lib as dl
from dilated_lib.cli import plan
from dilated_lib.data.palettes import CAMVID
from dilated_lib.dilation.cost import Timing
from dilated_lib.experiments import plan as module
from dilated_lib.experiments.plan import (
    TIERS,
    Planned,
    execute,
    next_run,
    planned,
    state,
)
from dilated_lib.experiments.throughput import operations, throughput, training_step
from dilated_lib.networks.architecture import save_network
from dilated_lib.networks.weights import read_weights
from dilated_lib.prediction.bfloat16 import has_bfloat16
from dilated_lib.training.config import MODERN, PAPER, Config, read_config
from dilated_lib.training.setup import build_network


@pytest.fixture(autouse=True)
def quiet():
    yield
    torch.use_deterministic_algorithms(False)


def test_every_run_belongs_to_a_tier_and_follows_one_of_its_seed():
    done = set()
    for one in planned():
        assert one.tier in TIERS
        if one.after:
            assert (one.after, one.config.seed) in done
        assert (one.name, one.config.seed) not in done
        done.add((one.name, one.config.seed))
    assert {one.tier for one in planned()} == TIERS.keys()


@pytest.mark.parametrize(
    ("tier", "pilot"),  # a front end is trained as long as in the pilot, or longer
    [("padded", 2600 * 2 * 288 * 384), ("animals", 1370 * 2 * 304 * 304)],
)
def test_tiers_for_a_cpu_have_front_ends_that_differ_in_their_seed_alone(tier, pilot):
    runs = [one for one in planned() if one.tier == tier]
    assert [one.config.seed for one in runs] == [0, 1, 2]
    first = runs[0].config
    assert all(one.config.changed(seed=0) == first for one in runs)
    assert first.architecture == dl.Architecture(padding="zeros", fc_channels=256)
    assert first.test
    rows, columns = first.cells
    assert first.steps * first.batch * 64 * rows * columns >= pilot


MODERN_FRONT = Config(
    data="camvid",
    start="imagenet",
    architecture=dl.Architecture(fc_channels=1024, scale=1.5),
    recipe=MODERN,
    steps=3200,
    batch=8,
    cells=(66, 66),
    precision="bf16-mixed",
    workers=8,
    test=True,
)
FRONT = {"stage": "front", "start": "imagenet", "steps": 3200}
HEAD = {"stage": "context", "start": None, "steps": 800, "learning_rate": 1e-3}
ON = {"start": None, "steps": 1200, "learning_rate": 2e-4, "trained_rate": 0.5}
SCRATCH = {"start": None, "steps": 3000, "learning_rate": 1e-3}
PHOTOGRAPHS = {
    "data": "voc_animals",
    "scale": 1.0,
    "cells": (44, 44),
    "batch": 12,
    "test": False,
}
BASIC, LARGE, NORM = {"context": "basic"}, {"context": "large"}, {"batch_norm": True}
JOINT, STREETS, ANIMALS = (
    {"stage": "joint"},
    "camvid/imagenet/",
    "voc_animals/imagenet/",
)
GPU = {  # by name: the tier, the run before, what differs from the first front end
    f"{STREETS}front": ("imagenet", None, FRONT),
    f"{STREETS}front + basic": ("imagenet", f"{STREETS}front", HEAD | BASIC),
    f"{STREETS}front + large": ("imagenet", f"{STREETS}front", HEAD | LARGE),
    f"{STREETS}front + basic, together": ("together", None, JOINT | BASIC),
    f"{STREETS}front + large, together": ("together", None, JOINT | LARGE),
    f"{STREETS}front, on": ("joint", f"{STREETS}front", ON),
    f"{STREETS}front + basic, joint": (
        "joint",
        f"{STREETS}front + basic",
        ON | JOINT | BASIC,
    ),
    f"{STREETS}front + large, joint": (
        "joint",
        f"{STREETS}front + large",
        ON | JOINT | LARGE,
    ),
    f"{STREETS}front + basic, no dilation": (
        "ablations",
        f"{STREETS}front",
        HEAD | BASIC | {"dilations": (1, 1, 1, 1, 1, 1, 1)},
    ),
    f"{STREETS}front + basic, no dilation 16": (
        "ablations",
        f"{STREETS}front",
        HEAD | BASIC | {"dilations": (1, 1, 2, 4, 8, 1)},
    ),
    "camvid/scratch/front": ("scratch", None, SCRATCH | NORM),
    "camvid/scratch/front + basic": (
        "scratch",
        "camvid/scratch/front",
        HEAD | BASIC | NORM,
    ),
    "camvid/scratch/front + large": (
        "scratch",
        "camvid/scratch/front",
        HEAD | LARGE | NORM,
    ),
    "camvid/scratch/front + basic, together": (
        "scratch",
        None,
        SCRATCH | JOINT | BASIC | NORM | {"steps": 6000},
    ),
    "camvid/scratch/fcn_resnet50": (
        "peers",
        None,
        SCRATCH | {"network": "fcn_resnet50"},
    ),
    "camvid/scratch/deeplabv3_resnet50": (
        "peers",
        None,
        SCRATCH | {"network": "deeplabv3_resnet50"},
    ),
    f"{ANIMALS}front": ("voc", None, PHOTOGRAPHS),
    f"{ANIMALS}front + basic": (
        "voc",
        f"{ANIMALS}front",
        HEAD | BASIC | PHOTOGRAPHS,
    ),
    f"{ANIMALS}front + large": (
        "voc",
        f"{ANIMALS}front",
        HEAD | LARGE | PHOTOGRAPHS,
    ),
}


def settings(config):
    """All settings of a run on one level."""
    nested = asdict(config)
    inner = {**nested.pop("architecture"), **nested.pop("recipe")}
    return nested | inner


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_runs_for_a_gpu_differ_in_what_their_question_asks(seed):
    runs = {one.name: one for one in planned() if one.config.seed == seed}
    first = settings(runs[f"{STREETS}front"].config)
    assert first == settings(MODERN_FRONT) | {"seed": seed}
    found = {name: one for name, one in runs.items() if name in GPU}
    assert [*found] == [*GPU]
    for name, (tier, after, changes) in GPU.items():
        assert (runs[name].tier, runs[name].after) == (tier, after)
        assert settings(runs[name].config) == first | changes
    others = {one.tier for name, one in runs.items() if name not in GPU}
    single = {"photos", "streets", "paper", "small"} if seed == 0 else set()
    assert others == {"padded", "animals", "fronts"} | single


def test_the_papers_run_has_the_papers_recipe_size_and_crops():
    (paper,) = (one for one in planned() if one.tier == "paper")
    assert (paper.name, paper.after) == ("camvid/paper/front", None)
    config = paper.config
    changes = {"fc_channels": 4096, "cells": (32, 32), "steps": 5000, "scale": 4 / 3}
    assert config == MODERN_FRONT.changed(recipe=PAPER, **changes)
    assert 480 * config.architecture.scale == 640
    assert 8 * 32 + 372 == 628


def test_animals_are_trained_as_streets_are_but_for_these_settings():
    streets, animals = (
        next(one.config for one in planned() if one.tier == tier)
        for tier in ("padded", "animals")
    )
    recipe = replace(streets.recipe, learning_rate=2.5e-4, zoom=(0.6, 1.3))
    changes = {"data": "voc_animals", "steps": 2000, "cells": (38, 38)}
    assert animals == streets.changed(recipe=recipe, **changes)
    fast = has_bfloat16()
    assert streets.precision == ("bf16-mixed" if fast else "32-true")


def test_unless_asked_nothing_is_shown_and_nothing_stops():
    for function in (execute, module.carry_out):
        assert not signature(function).parameters["progress"].default
    for name in ("minutes", "rehearse"):
        assert not signature(execute).parameters[name].default


def test_the_photo_network_is_trained_for_longer_and_its_first_stages_are_kept():
    (photos,) = (one for one in planned() if one.tier == "photos")
    animals = next(one for one in planned() if one.tier == "animals")
    assert (photos.name, photos.after) == ("voc_animals/photos", None)
    changes = {"stage": "joint", "context": "basic", "frozen": 2, "steps": 4500}
    assert photos.config == animals.config.changed(**changes)


def test_the_network_for_streets_has_no_conv5_and_ten_megabytes(tmp_path):
    (streets,) = (one for one in planned() if one.tier == "streets")
    padded = next(one for one in planned() if one.tier == "padded")
    layers = {"front": "conv4", "fc_channels": 88, "context": "basic"}
    assert (streets.name, streets.after) == ("camvid/streets", None)
    assert streets.config == padded.config.changed(stage="joint", steps=2000, **layers)
    architecture = streets.config.architecture
    network = architecture.build(CAMVID, (0.0, 0.0, 0.0))
    for part, size in ((network.front, 284), (network, 812)):
        assert [one.size for one in dl.receptive_field(part, (3, 480, 480))] == [
            size
        ] * 2
    stored = tmp_path / "streets.safetensors"
    save_network(network, architecture, stored, int8=True)
    assert 9.5e6 < stored.stat().st_size < 10e6


@pytest.mark.parametrize("name", ["camvid/imagenet/padded front", "camvid/small"])
def test_what_the_books_records_were_trained_with_is_what_is_planned(name):
    usual = next(one.config for one in planned() if one.name == name)
    records = [one for one in dl.records.read("camvid") if one.experiment == name]
    assert records
    for one in records:
        config = read_config(one.config)
        machine = {"precision": config.precision, "start": config.start}
        assert replace(usual, seed=one.seed, **machine) == replace(
            config, checkpoint_every=usual.checkpoint_every, workers=usual.workers
        )


def test_front_ends_are_compared_that_differ_in_nothing_else():
    """Pictures, crops and their order follow from the rest of the configuration."""
    animals = {
        one.config.seed: one.config for one in planned() if one.tier == "animals"
    }
    fronts = [one for one in planned() if one.tier == "fronts"]
    name = "evidence/front/voc_animals/"
    for one in fronts:
        config, kind = one.config, one.name.removeprefix(name)
        changes = {"padding": "none"} if kind == "no padding" else {"front": kind}
        assert config != animals[config.seed]
        assert config == animals[config.seed].changed(**changes)
    names = {(one.name.removeprefix(name), one.config.seed) for one in fronts}
    kinds = ("no padding", "dense", "largefov", "fcn8s", "fcn32s")
    assert names == {*product(kinds, (0, 1, 2))} and len(fronts) == 15


def test_all_front_ends_that_are_compared_can_be_trained(tmp_path, monkeypatch):
    def on_shapes(weights="imagenet"):
        for one in planned(weights):
            if one.tier == "fronts" and one.config.seed == 0:
                yield replace(one, config=replace(one.config, data="shapes"))

    monkeypatch.setattr("dilated_lib.experiments.plan.planned", on_shapes)
    runs, out = tmp_path / "runs", tmp_path / "out"
    behind = dl.records.read("evidence")[0]  # one seed, and several front ends
    modules = [replace(behind, config={"front": digest}) for digest in ("ab", "cd")]
    dl.records.write(out / "evidence.json", modules)
    records = execute("fronts", runs=runs, out=out, rehearse=True)
    assert len(records) == 5 and all(len(one.metrics["loss"]) == 2 for one in records)
    assert execute("fronts", runs=runs, out=out, rehearse=True) == records
    gathered = dl.records.read_file(out / "evidence.json")
    assert gathered[:2] == modules
    assert [one.experiment for one in gathered[2:]] == sorted(
        one.experiment for one in records
    )
    for one in records:
        kind = one.experiment.rpartition("/")[2]
        folder = runs / one.experiment.replace(" ", "") / "seed-0"
        _, architecture = dl.open_network(folder / "network.safetensors")
        padding = "none" if kind == "no padding" else "zeros"
        assert architecture.padding == padding
        assert architecture.front == ("paper" if padding == "none" else kind)


def small_plan(weights="imagenet"):
    front = TINY.changed(steps=2, recipe=replace(TINY.recipe, dropout=0.0))
    head = front.changed(stage="context", context="basic")
    yield Planned("shapes/front", "imagenet", front)
    yield Planned("shapes/front + basic", "imagenet", head, "shapes/front")
    small = front.changed(stage="joint", context="basic", batch_norm=True)
    yield Planned("shapes/small", "small", small)


@pytest.mark.parametrize("progress", [True, False])
def test_bars_are_shown_where_they_were_asked_for(tmp_path, monkeypatch, progress):
    shown = []

    def carried_out(*_, progress, **__):
        shown.append(progress)

    monkeypatch.setattr(module, "planned", small_plan)
    monkeypatch.setattr(module, "carry_out", carried_out)
    execute("imagenet", runs=tmp_path, out=tmp_path, progress=progress)
    assert {*shown} == {progress}


def test_a_plan_is_done_once_and_gathers_records(tmp_path, monkeypatch):
    monkeypatch.setattr("dilated_lib.experiments.plan.planned", small_plan)
    runs, out = tmp_path / "runs", tmp_path / "out"
    first = execute("imagenet", runs=runs, out=out)
    assert not (out / "small.safetensors").exists()  # it is of another tier
    assert [one.experiment for one in first] == ["shapes/front", "shapes/front + basic"]
    assert str(runs) in first[1].config["start"]
    other = replace(first[0], experiment="shapes/of another run")
    dl.records.write(out / "shapes.json", [other])
    again = execute("all", runs=runs, out=out)
    assert again[:2] == first  # not trained anew
    gathered = json.loads((out / "shapes.json").read_text())
    names = [one.experiment for one in (*again, other)]
    assert [one["experiment"] for one in gathered] == sorted(names)
    network, _ = dl.open_network(out / "small.safetensors")
    state = read_weights(out / "small.safetensors")
    assert state["conv1_1.weight"].dtype == torch.float16
    assert network.front.conv1_1.weight.dtype == torch.float32


@pytest.mark.parametrize("tier", ["photos", "streets"])
def test_networks_that_come_with_the_library_have_a_byte_a_weight(
    tmp_path, tier, monkeypatch
):
    monkeypatch.setattr("dilated_lib.networks.weights._FEW", 0)  # TINY's layers, too
    one = Planned("shapes/any", tier, TINY)
    assert module.carry_out(one, runs=tmp_path, out=tmp_path)
    trained, _ = dl.open_network(tmp_path / "shapes/any/seed-0/network.safetensors")
    stored, _ = dl.open_network(tmp_path / f"{tier}.safetensors")
    with safe_open(tmp_path / f"{tier}.safetensors", "pt") as file:
        assert file.get_tensor("conv1_1.weight").dtype == torch.int8
    rows = zip(trained.parameters(), stored.parameters(), strict=True)
    for one, other in rows:
        step = one.detach().abs().max() / 127
        torch.testing.assert_close(one, other, rtol=0, atol=float(step / 2) * 1.001)


def test_a_plan_stops_in_time_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("dilated_lib.experiments.plan.planned", small_plan)
    runs, out = tmp_path / "runs", tmp_path / "out"
    assert execute("imagenet", runs=runs, out=out, minutes=1e-9) == []
    assert [*runs.rglob("*.pt")] and not [*runs.rglob("record.json")]
    assert len(execute("imagenet", runs=runs, out=out, minutes=9)) == 2


def test_an_unknown_tier_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one of padded, animals, photos, .* got 'x'"):
        execute("x", runs=tmp_path, out=tmp_path)


def test_the_next_run_is_the_first_that_is_neither_done_nor_waiting(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("dilated_lib.experiments.plan.planned", small_plan)
    runs, out = tmp_path / "runs", tmp_path / "out"
    front, head, small = small_plan()
    states = [state(one, runs) for one in (front, head, small)]
    assert states == ["ready", "waits for shapes/front", "ready"]
    go_on = {"next": True, "runs": runs, "out": out, "progress": False}
    plan("imagenet", minutes=1e-9, **go_on)  # stopped at once, with a checkpoint
    assert state(front, runs) == "at step 1 of 2"
    assert not out.exists()
    assert "shapes/front, seed 0: ready\nnow: at step 1 of 2" in capsys.readouterr().out
    plan("imagenet", **go_on)
    assert (state(front, runs), state(head, runs)) == ("done", "ready")
    assert len(json.loads((out / "shapes.json").read_text())) == 1
    assert next_run("all", runs=runs) == head
    for _ in range(2):
        plan(**go_on)
    assert [state(one, runs) for one in small_plan()] == ["done"] * 3
    assert next_run("all", runs=runs) is None
    plan(**go_on)
    assert capsys.readouterr().out.endswith("nothing is left to do\n")


def test_the_list_has_each_question_once_and_the_cost_of_each_run(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("dilated_lib.experiments.plan.planned", small_plan)
    monkeypatch.setattr("dilated_lib.experiments.plan.rate", lambda: 1e5)
    plan(runs=tmp_path)
    printed = capsys.readouterr().out
    assert printed.count(TIERS["imagenet"]) == printed.count(TIERS["small"]) == 1
    rows = [row for row in printed.splitlines() if row.startswith("shapes/")]
    assert len(rows) == 3
    front = next(small_plan())
    hours = front.config.steps * operations(front.config) / 1e5 / 3600
    assert rows[0].split()[3] == f"{hours:.1f}" and hours > 0.1
    assert rows[1].endswith("waits for shapes/front")


def test_operations_are_those_of_a_step_that_runs():
    """Counted on no data, against torch's count of a step that computes."""
    for config in (
        TINY,
        TINY.changed(padding="none", stage="joint", context="basic", cells=(2, 3)),
    ):
        step = training_step(config)
        with FlopCounterMode(display=False) as counter:
            step()
        assert operations(config) == counter.get_total_flops()


def test_a_front_end_that_pads_needs_less_than_a_third_of_the_operations():
    padded = next(planned()).config.changed(fc_channels=8, width=8)
    with_margin = padded.changed(padding="none")
    assert operations(padded) < operations(with_margin) / 3


def test_a_step_reads_a_margin_only_where_the_front_end_does_not_pad(monkeypatch):
    for padding, margin in (("none", 372), ("zeros", 0)):
        seen = []
        config = TINY.changed(padding=padding)
        network, _ = build_network(config, dl.open_data("shapes"))
        network.front.conv1_1.register_forward_hook(
            lambda _, args, __, seen=seen: seen.append(args[0].shape)
        )
        monkeypatch.setattr(
            "dilated_lib.experiments.throughput.build_network",
            lambda *_, network=network: (network, set()),
        )
        training_step(config)()
        height, width = (8 * side + margin for side in config.cells)
        assert seen == [(config.batch, 3, height, width)]


def test_throughput_compares_steps_with_the_product_and_with_each_other(
    tmp_path, monkeypatch
):
    def once(functions, *, seconds):  # test_speed.py has the measurement itself
        for function in functions.values():
            function()
        return {name: Timing(20.0 + len(name), 0.5) for name in functions}

    monkeypatch.setattr("dilated_lib.experiments.throughput.measure", once)
    out = tmp_path / "t.json"
    zeros, margin = TINY, TINY.changed(padding="none")
    throughput(out, {"zeros": zeros, "margin": margin}, side=99)
    first, second = json.loads(out.read_text())
    assert first["experiment"] == "speed/step/zeros"
    assert second["experiment"] == "speed/step/margin"
    for one, config in ((first, zeros), (second, margin)):
        found = one["metrics"]
        tera = operations(config) / 1e12
        assert found["tera_operations"] == pytest.approx(tera, abs=1e-4)
        assert found["ceiling"] == pytest.approx(2 * 99**3 / 27e9, abs=1e-4)
        assert found["labelled_pixels"] == 2 * 24 * 32
    assert (first["metrics"]["relative"], second["metrics"]["relative"]) == (1.0, 1.04)


def test_a_rehearsal_is_small_and_goes_on_from_what_the_run_does():
    small = {
        "start": None,
        "width": 8,
        "fc_channels": 32,
        "steps": 2,
        "batch": 2,
        "cells": (4, 6),
        "scale": 0.5,
        "pictures": 8,
        "precision": "32-true",
        "workers": 0,
        "checkpoint_every": 1,
    }
    assert settings(module._rehearsal(MODERN_FRONT)) == settings(MODERN_FRONT) | small
    before = Path("runs/network.safetensors")
    found = module._rehearsal(replace(MODERN_FRONT, start=before))
    assert settings(found) == settings(MODERN_FRONT) | small | {"start": before}
    downloaded = replace(MODERN_FRONT, start=Path("vgg16.pth"))
    assert module._rehearsal(downloaded).start is None


def test_the_rate_is_that_of_one_crop_of_the_padded_front_end(monkeypatch):
    asked = {}

    def measure(functions, **options):
        asked.update(functions, **options)
        return {"step": Timing(4.0, 0.1)}

    monkeypatch.setattr(module, "training_step", lambda config: config)
    monkeypatch.setattr(module, "measure", measure)
    config = replace(next(planned()).config, start=None, batch=1)
    assert module.rate() == 1000 * operations(config) / 4.0
    assert asked == {"step": config, "seconds": 0.5}
