"""The plan of runs, and what is measured besides: throughput."""

import json
from dataclasses import replace

import pytest
import torch
from training_runs import TINY

import dilated_lib as dl
from dilated_lib.plans import TIERS, Planned, execute, planned
from dilated_lib.speed import Timing
from dilated_lib.throughput import throughput


@pytest.fixture(autouse=True)
def quiet():
    yield
    torch.use_deterministic_algorithms(False)


def test_every_run_belongs_to_a_tier_and_follows_one_of_its_seed():
    done = set()
    for one in planned():
        assert one.tier in TIERS and 0 < one.minutes < 9
        if one.after:
            assert (one.after, one.config.seed) in done
        assert (one.name, one.config.seed) not in done
        done.add((one.name, one.config.seed))
    assert {one.tier for one in planned()} == TIERS.keys()


def test_the_first_tier_has_three_seeds_and_fits_twenty_minutes():
    runs = [one for one in planned() if one.tier == "imagenet"]
    assert sorted(one.config.seed for one in runs) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sum(one.minutes for one in runs) < 20
    assert all(one.config.test for one in runs)


def small_plan(weights="imagenet"):
    front = replace(TINY, steps=2, recipe=replace(TINY.recipe, dropout=0.0))
    head = replace(front, stage="context", context="basic")
    yield Planned("shapes/front", "imagenet", 1, front)
    yield Planned("shapes/front + basic", "imagenet", 1, head, "shapes/front")
    small = replace(front, stage="joint", context="basic", batch_norm=True)
    yield Planned("shapes/small", "small", 1, small)


def test_a_plan_is_done_once_and_gathers_records(tmp_path, monkeypatch):
    monkeypatch.setattr("dilated_lib.plans.planned", small_plan)
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
    state = dl.weights.read_weights(out / "small.safetensors")
    assert state["conv1_1.weight"].dtype == torch.float16
    assert network.conv1_1.weight.dtype == torch.float32


def test_a_plan_stops_in_time_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("dilated_lib.plans.planned", small_plan)
    runs, out = tmp_path / "runs", tmp_path / "out"
    assert execute("imagenet", runs=runs, out=out, minutes=1e-9) == []
    assert [*runs.rglob("*.pt")] and not [*runs.rglob("record.json")]
    assert len(execute("imagenet", runs=runs, out=out, minutes=9)) == 2


def test_an_unknown_tier_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one of imagenet, together, .* got 'x'"):
        execute("x", runs=tmp_path, out=tmp_path)


def test_throughput_counts_operations_and_compares(tmp_path, monkeypatch):
    def once(functions, *, seconds):  # test_speed.py has the measurement itself
        for function in functions.values():
            function()
        return {name: Timing(20.0 + len(name), 0.5) for name in functions}

    monkeypatch.setattr("dilated_lib.throughput.measure", once)
    out = tmp_path / "t.json"
    throughput(out, batch=2, cells=(2, 2), compiled=False, small=True)
    front, peer = json.loads(out.read_text())
    assert front["experiment"] == "speed/imagenet/front"
    assert peer["experiment"] == "speed/scratch/deeplabv3_resnet50"
    for one in (front, peer):
        found = one["metrics"]
        rate = 2000 / found["median_ms"]
        assert found["images_per_second"] == pytest.approx(rate, rel=0.01)
        ceiling = 2 * 128**3 / 27 / 1e9  # of a product that takes 27 ms
        assert found["ceiling"] == pytest.approx(ceiling, abs=1e-4)
        assert found["median_ms"] == 24
