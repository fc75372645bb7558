"""The plan of runs, and what is measured besides: throughput."""

import json
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from training_runs import TINY

import dilated_lib as dl
from dilated_lib.cli import plan
from dilated_lib.dilation.cost import Timing
from dilated_lib.experiments.plan import (
    TIERS,
    Planned,
    execute,
    next_run,
    planned,
    state,
)
from dilated_lib.experiments.throughput import operations, throughput, training_step
from dilated_lib.networks.weights import read_weights
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


def test_a_plan_is_done_once_and_gathers_records(tmp_path, monkeypatch):
    monkeypatch.setattr("dilated_lib.experiments.plan.planned", small_plan)
    runs, out = tmp_path / "runs", tmp_path / "out"
    first = execute("imagenet", runs=runs, out=out)
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
