"""Modules behind trained front ends: what each can do, and what is recorded of it."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import dilated_lib as dl
from dilated_lib.data.palettes import CAMVID
from dilated_lib.experiments import stored_logits
from dilated_lib.experiments.context_evidence import MODULES, context, mistakes
from dilated_lib.networks.architecture import Architecture, small_network
from dilated_lib.prediction.bfloat16 import quick

SEES = {  # cells to each side that a module reads
    "1 x 1": 0,
    "1 x 1 with coordinates": 0,
    "no dilation": 7,
    "no dilation 16": 17,
    "basic": 33,
    "basic, reflection": 33,
}


def built(name, classes=4, seed=0):
    return MODULES[name](classes, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "sees"), SEES.items())
def test_a_module_sees_as_far_as_it_should_and_starts_as_the_identity(name, sees):
    module = built(name)
    logits = torch.rand(1, 4, 67, 67, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    found = module(logits)
    assert torch.corrcoef(torch.stack([found, logits]).flatten(1))[0, 1] > 0.8
    found[0, 0, 33, 33].backward()
    rows, columns = logits.grad[0].abs().sum(0).nonzero(as_tuple=True)
    for places in (rows, columns):
        assert (33 - places.min(), places.max() - 33) == (sees, sees)


@pytest.mark.parametrize("name", MODULES)
def test_a_start_is_drawn_by_its_seed_alone(name):
    one, same, other = (
        torch.cat([weight.flatten() for weight in built(name, seed=seed).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_each_has_eight_layers_but_the_one_without_dilation_16():
    counts = {
        name: sum(isinstance(one, nn.Conv2d) for one in built(name).modules())
        for name in MODULES
    }
    assert counts.pop("no dilation 16") == 7
    assert counts.pop("1 x 1 with coordinates") == 9  # of rows and columns
    assert {*counts.values()} == {8}


def test_coordinates_tell_above_from_below_and_left_from_right():
    module = built("1 x 1 with coordinates", 2)
    with torch.no_grad():
        module[0].linear.weight.copy_(torch.eye(2)[..., None, None])
        moved = module[0](torch.zeros(1, 2, 3, 5))[0]
    assert moved[0].tolist() == [[-1.0] * 5, [0.0] * 5, [1.0] * 5]
    assert moved[1].tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 3


def test_mistakes_between_objects_are_told_from_those_at_the_border():
    confusion = torch.tensor([[50, 3, 1], [5, 20, 2], [1, 4, 8]])
    assert mistakes(confusion) == {"another object": 15.0, "border": 25.0}
    thirds = mistakes(torch.tensor([[5, 1, 0], [1, 1, 1], [0, 0, 0]]))
    assert thirds == {"another object": 33.33, "border": 66.67}
    objects = 40
    assert 100 * (2 + 4) / objects == 15 and 100 * (3 + 1 + 5 + 1) / objects == 25


def test_every_module_is_recorded_once_and_kept(shapes, tmp_path, monkeypatch):
    small = {name: MODULES[name] for name in ("1 x 1", "no dilation")}
    monkeypatch.setattr("dilated_lib.experiments.context_evidence.MODULES", small)
    front, out, runs = tmp_path / "front.safetensors", tmp_path / "e.json", tmp_path
    options = {"data": str(shapes), "steps": 2, "runs": runs, "out": out}
    context(front, seeds=1, **options)
    first = json.loads(out.read_text())
    context(front, seeds=2, **options)
    found = json.loads(out.read_text())
    assert found[:3] == first  # not trained anew
    context(front, seeds=1, **options | {"steps": 1, "out": tmp_path / "other.json"})
    (tmp_path / "other.json").rename(out)
    context(front, seeds=1, **options)  # of other steps there is no record yet
    again = json.loads(out.read_text())
    assert [one["config"]["steps"] for one in again] == [1, 1, 1, 2, 2, 2]
    about = [(one["experiment"].rpartition("/")[2], one["seed"]) for one in found]
    assert about == [
        *(("nothing", 0), ("1 x 1", 0), ("no dilation", 0)),
        *(("1 x 1", 1), ("no dilation", 1)),
    ]
    assert len({one["config"]["front"] for one in found}) == 1
    for one in found:
        for split in ("val", "test"):
            scores = one["metrics"][split]
            assert {*scores} == {"miou", "accuracy", "per_class", "mistakes"}
            assert {*scores["mistakes"]} == {"another object", "border"}
    assert "loss" in found[1]["metrics"] and "loss" not in found[0]["metrics"]
    kept = sorted(runs.glob("evidence/**/*.safetensors"))
    assert [file.name for file in kept] == [
        "seed-0.safetensors",
        "seed-1.safetensors",
    ] * 2
    weights = load_file(next(file for file in kept if "no dilation" in str(file)))
    assert built("no dilation", 3).load_state_dict(weights)


def test_the_loss_is_the_mean_of_the_last_hundred_steps(shapes, tmp_path, monkeypatch):
    small = {"1 x 1": MODULES["1 x 1"]}

    def fitted(module, stored, *, weights, steps, generator):
        assert (steps, generator.initial_seed()) == (150, 0)
        return [step + 0.123456 for step in range(steps)]

    room = "dilated_lib.experiments.context_evidence"
    monkeypatch.setattr(f"{room}.MODULES", small)
    monkeypatch.setattr(f"{room}.fit", fitted)
    front, out = tmp_path / "front.safetensors", tmp_path / "e.json"
    context(front, data=str(shapes), seeds=1, steps=150, runs=tmp_path, out=out)
    _, trained = json.loads(out.read_text())
    assert trained["metrics"]["loss"] == 99.6235


@pytest.fixture
def streets(tmp_path):
    """Five noisy pictures with labels of CamVid's classes, in a folder."""
    draw = np.random.default_rng(0)
    for kind, shape, most in (("pictures", (16, 24, 3), 256), ("labels", (16, 24), 11)):
        (tmp_path / kind).mkdir()
        for number in range(5):
            pixels = draw.integers(0, most, shape, np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    (tmp_path / "classes.txt").write_text("\n".join(CAMVID))
    for split, numbers in (("train", "012"), ("val", "3"), ("test", "4")):
        (tmp_path / f"{split}.txt").write_text("\n".join(numbers))
    return tmp_path


def test_without_a_file_the_front_end_is_that_of_the_small_network(
    streets, tmp_path, monkeypatch
):
    few = {name: MODULES[name] for name in ("1 x 1", "no dilation", "basic")}
    monkeypatch.setattr("dilated_lib.experiments.context_evidence.MODULES", few)
    out = tmp_path / "e.json"
    context(data=str(streets), seeds=2, steps=3, runs=tmp_path / "runs", out=out)
    found = json.loads(out.read_text())
    names = [one["experiment"].rpartition("/")[2] for one in found]
    assert names == ["nothing", *few, *few]
    assert [one["seed"] for one in found] == [0] + [0] * 3 + [1] * 3
    network = quick(small_network())
    data = dl.open_data(str(streets))
    for split in ("val", "test"):
        stored = stored_logits.store(network, data.split(split))
        wanted = stored_logits.measure(
            nn.Identity(), stored, (*network.palette,)
        ).compute()
        assert found[0]["metrics"][split] == asdict(wanted)


def test_one_seed_draws_one_start_and_one_order_for_layers_of_the_same_shapes():
    """So basic and no dilation may be compared in pairs; the others may not."""
    starts, orders = {}, {}
    for name in ("basic", "no dilation", "no dilation 16"):
        generator = torch.Generator().manual_seed(0)
        module = MODULES[name](11, generator)
        starts[name] = [*module.parameters()]
        orders[name] = [*stored_logits._batches(734, 8, 50, generator)]
    for one, other in zip(starts["basic"], starts["no dilation"], strict=True):
        assert torch.equal(one, other)
    assert orders["basic"] == orders["no dilation"] != orders["no dilation 16"]


def test_the_front_end_is_that_of_the_file(streets, tmp_path, monkeypatch):
    monkeypatch.setattr("dilated_lib.experiments.context_evidence.MODULES", {})
    kind = Architecture(width=4, fc_channels=8, context="basic")
    network, path = kind.build(CAMVID, (1.0, 2.0, 3.0)), tmp_path / "other.safetensors"
    dl.save_network(network, kind, path)
    out = tmp_path / "e.json"
    context(path, data=str(streets), runs=tmp_path, out=out)
    (front,) = json.loads(out.read_text())
    stored = stored_logits.store(
        quick(network), dl.open_data(str(streets)).split("val")
    )
    wanted = stored_logits.measure(nn.Identity(), stored, (*network.palette,)).compute()
    assert front["metrics"]["val"] == asdict(wanted)


def test_other_classes_are_refused(streets, tmp_path):
    (streets / "classes.txt").write_text("\n".join("abcdefghijk"))
    with pytest.raises(ValueError, match=r"classes are building, tree, .* are a, b, c"):
        context(data=str(streets), runs=tmp_path / "runs", out=tmp_path / "e.json")
    assert not (tmp_path / "e.json").exists()


def test_the_books_records_are_of_one_run_of_the_command():
    runs = dl.records.read("heads")
    assert {one.command for one in runs} == {"python -m dilated_lib heads"}
    assert len({one.commit for one in runs}) == 1 and not runs[0].commit.endswith("+")
    front, *modules = runs
    assert front.experiment == "heads/front" and len(modules) == 4 * 5
    for one in modules:  # under the names of that time
        name = one.experiment.removeprefix("heads/")
        sees = SEES[{"no neighbours": "1 x 1"}.get(name, name)]
        assert one.metrics["receptive_field"] == 2 * sees + 1


def test_the_books_evidence_is_of_committed_code_and_of_every_module_alike():
    runs = dl.records.read("evidence")
    assert not any(one.commit.endswith("+") or " /" in one.command for one in runs)
    assert len({one.device for one in runs}) == 1  # one kind of CPU
    fronts = {one.config["front"] for one in runs}
    wanted = {("nothing", 0), *((name, seed) for name in MODULES for seed in range(5))}
    for front in fronts:
        of = [one for one in runs if one.config["front"] == front]
        context_runs = [one for one in of if "/context/" in one.experiment]
        far_runs = [one for one in of if "/far/" in one.experiment]
        assert len(context_runs) + len(far_runs) == len(of)
        found = {(one.experiment.split("/")[-1], one.seed) for one in context_runs}
        assert found == wanted and len(context_runs) == len(wanted)
        assert [one.seed for one in far_runs] == [0, 1, 2, 3, 4]
