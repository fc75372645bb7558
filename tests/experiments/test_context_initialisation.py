"""Ways to start a context module: what is drawn, how the best rate is chosen."""

import inspect
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dilated_lib import records
from dilated_lib.data.scenes import ShapeScenes
from dilated_lib.data.shapes import Shapes
from dilated_lib.experiments import context_initialisation, stored_logits
from dilated_lib.experiments.context_initialisation import (
    initialised,
    judge,
    measure,
    unseen,
)
from dilated_lib.experiments.shape_training import FRONT_ENDS, Maps, front_end
from dilated_lib.experiments.stored_logits import Logits
from dilated_lib.networks.architecture import small_network

PICTURES = Maps.of(Shapes(12))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


STORED = PICTURES.through(front_end(PICTURES, optimizer="SGD", generator=seeded()))


def layers_of(start, seed=0):
    return list(initialised(start, generator=seeded(seed)).layers)


def test_pytorchs_default_is_what_its_layers_draw():
    torch.manual_seed(5)
    plain = [*(nn.Conv2d(8, 8, 3) for _ in range(7)), nn.Conv2d(8, 8, 1)]
    for mine, theirs in zip(layers_of("PyTorch's default", 5), plain, strict=True):
        assert torch.equal(mine.weight, theirs.weight)
        assert torch.equal(mine.bias, theirs.bias)


@pytest.mark.parametrize(
    ("start", "variance"),
    [
        ("He's", 2 / 72),
        ("Glorot's", 1 / 72),
        ("PyTorch's default", 1 / (3 * 72)),
        ("small noise", 1e-4),
    ],
)
def test_random_weights_have_the_variance_of_their_name(start, variance):
    *layers, _ = layers_of(start)
    weights = torch.stack([layer.weight for layer in layers])  # 4032 of them
    assert weights.var().item() == pytest.approx(variance, rel=0.1)
    assert abs(weights.mean().item()) < 0.1 * math.sqrt(variance)


def test_orthogonal_rows_have_norm_root_two():
    for layer in layers_of("orthogonal"):
        rows = layer.weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(8))


def test_the_identity_is_the_papers_and_biases_are_zero_but_for_pytorchs():
    maps = torch.rand(1, 8, 9, 9, generator=seeded())
    with torch.no_grad():
        off = initialised("identity", generator=seeded())(maps) - maps
    assert 0 < off.std() < 0.2
    for start in context_initialisation.STARTS:
        zero = all((layer.bias == 0).all() for layer in layers_of(start))
        assert zero == (start != "PyTorch's default")


def test_a_start_is_its_seeds_alone():
    for start in context_initialisation.STARTS:
        pairs = [
            zip(layers_of(start), layers_of(start, seed), strict=True)
            for seed in (0, 1)
        ]
        same, other = (
            all(torch.equal(a.weight, b.weight) for a, b in pair) for pair in pairs
        )
        assert same and not other, start


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_sgd_keeps_the_sum_over_the_classes_and_adam_does_not(optimizer):
    front = front_end(PICTURES, optimizer=optimizer, generator=seeded())
    assert front.weight.abs().max() > 1
    drift = front.weight.sum(0).abs().max().item() + front.bias.sum().abs().item()
    logits = PICTURES.through(front).maps
    if optimizer == "SGD":
        assert drift < 1e-4
        assert torch.equal(logits.argmax(1), logits.clamp(min=0).argmax(1))
    else:
        assert drift > 0.1


def test_inside_are_the_blank_pixels_alone():
    outline = PICTURES.distances == 0
    right = F.one_hot(PICTURES.labels, 8).movedim(-1, 1).float()
    on_outline = torch.where(outline[:, None], right, 0)
    found = judge(on_outline, PICTURES)
    assert found["inside"] == 0
    background = (PICTURES.labels == 0).double().mean().item()  # 0 wins where all tie
    expected = 100 * (outline.double().mean().item() + background)
    assert found["accuracy"] == pytest.approx(expected, abs=0.01)
    inside = torch.where(PICTURES.distances[:, None] > 0, right, 0)
    assert judge(inside, PICTURES)["inside"] == 100


def test_percentages_have_two_digits_and_a_loss_four():
    maps = Maps(
        torch.zeros(1, 3, 1, 7),
        torch.tensor([[[0, 0, 1, 1, 1, 2, 2]]]),
        torch.tensor([[[0, 1, 1, 1, 0, 0, 0]]]),
    )
    assert judge(maps.maps, maps) == {
        "loss": 1.0986,  # ln 3
        "accuracy": 28.57,  # 2 of 7
        "inside": 33.33,  # 1 of 3
    }


def test_unseen_scenes_are_none_of_the_seen():
    candidates = Maps.of(Shapes(200, seed=1))
    seen = Maps.of(Shapes(200))
    kept = unseen(candidates, seen)
    scenes, known = (
        {scene.numpy().tobytes() for scene in maps.distances} for maps in (kept, seen)
    )
    assert not scenes & known
    all_ = {scene.numpy().tobytes() for scene in candidates.distances}
    assert all_ & known and scenes == all_ - known
    assert len(kept.maps) == len(kept.labels) == len(kept.distances)


def test_cells_without_a_positive_logit_are_counted():
    logits = torch.tensor([[1.0, -1.0, 0.0], [-3.0, -2.0, 0.0]]).view(1, 2, 1, 3)
    assert context_initialisation.largest(logits / 3) == {
        "cells": 3,
        "not above 0": 2,
        "least": -0.3333,
        "mean": [-0.5, 0.0],
    }
    logits = torch.tensor([[[2.0, -4.0], [-1.0, -1.0]]]) / 3
    assert context_initialisation.largest(logits)["mean"] == [-0.8333, 0.1667]
    assert context_initialisation.EVALUATED == 50


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(context_initialisation, "EVALUATED", 3)
    monkeypatch.setattr(context_initialisation, "LEARNING_RATES", (0.001, 0.01))
    monkeypatch.setattr(context_initialisation, "STARTS", ("identity", "He's"))


def test_a_record_for_each_training(few, tmp_path, monkeypatch):
    asked, of = [], Maps.of
    monkeypatch.setattr(
        Maps,
        "of",
        lambda data: asked.append((len(data), data.split, data.seed)) or of(data),
    )
    told = {"cells": 12}
    small = {"streets": told}.__getitem__
    monkeypatch.setattr(context_initialisation, "_small_network", small)
    out = tmp_path / "starts.json"
    measure(out, seeds=1, steps=2, scenes=3, data="streets")
    measure(tmp_path / "again.json", seeds=1, steps=2, scenes=3)
    again = json.loads((tmp_path / "again.json").read_text())
    small, *done = json.loads(out.read_text())
    assert [one["metrics"] for one in again] == [one["metrics"] for one in done]
    assert (small["experiment"], small["metrics"]) == ("starts/small network", told)
    assert small["config"] == {"data": "streets", "network": "small"}
    assert len(done) == 2 * (1 + 2 * 3) and {one["seed"] for one in done} == {0}
    scenes = [(21, "train", 0), (21, "train", 1), (21, "test", 0)]  # in seven colours
    assert asked == 2 * scenes
    fronts = [one for one in done if "front end" in one["experiment"]]
    for one, (steps, rate) in zip(fronts, FRONT_ENDS.values(), strict=True):
        wanted = {"scenes": 3, "steps": steps, "learning_rate": rate}
        assert one["config"] == wanted
    trained = [one for one in done if "front end" not in one["experiment"]]
    assert {one["experiment"] for one in trained} == {
        f"starts/{optimizer}/{start}"
        for optimizer in ("Adam", "SGD")
        for start in ("identity", "He's")
    }
    for one in trained:
        assert one["config"]["scenes"] == 3
        assert [*one["metrics"]] == ["val", "test"]
        for scores in one["metrics"].values():
            assert 0 <= scores["inside"] <= 100
    cells = {
        one["experiment"]: one["metrics"]["test"]["not above 0"]
        for one in done
        if "front end" in one["experiment"]
    }
    assert cells["starts/SGD/front end"] == 0


def test_the_rate_is_chosen_on_validation_scenes_for_each_start(
    few, tmp_path, monkeypatch
):
    """Where test would choose another; and the choice of one start is not another's."""
    best = {"identity": 0.01, "He's": 0.001}

    def trained(stored, optimizer, start, seed, config):
        rate = config["learning_rate"]
        right = {"val": rate == best[start], "test": rate != best[start]}
        return {split: {"inside": float(one)} for split, one in right.items()}

    monkeypatch.setattr(context_initialisation, "_trained", trained)
    out = tmp_path / "starts.json"
    measure(out, seeds=2, steps=2, scenes=3)
    found = json.loads(out.read_text())
    assert [one["seed"] for one in found] == [0, 1] * (len(found) // 2)
    longer = {
        one["experiment"]: one["config"]["learning_rate"]
        for one in found
        if one["config"]["steps"] == 8
    }
    assert longer == {
        f"starts/{optimizer}/{start}": rate
        for optimizer in ("Adam", "SGD")
        for start, rate in best.items()
    }


def test_the_small_networks_cells_are_counted_on_val_and_test(monkeypatch):
    maps = torch.randn(2, 11, 2, 3, generator=seeded())
    labels = torch.randint(11, (2, 16, 24), generator=seeded()).byte()

    class Files:
        def split(self, name):
            return ShapeScenes(1, seed=["val", "test"].index(name))

        def require_classes(self, classes):
            assert len(classes) == 11

    shift = {0: 0.0, 1: -9.0}

    def stored(network, data, *, progress):
        assert progress  # it takes minutes
        return Logits(maps + shift[data.seed], labels, ("a_0", "b_0"))

    files = {"streets": Files()}
    monkeypatch.setattr(context_initialisation, "open_data", files.__getitem__)
    monkeypatch.setattr("dilated_lib.experiments.stored_logits.store", stored)
    found = context_initialisation._small_network("streets")
    assert found["val"]["not above 0"] == int((maps.amax(1) <= 0).sum()) == 0
    assert found["test"]["not above 0"] == found["test"]["cells"] == 12
    assert [*found["val"]["front end"]["drives"]] == ["a", "b"]
    # every score is 0 after max(x, 0), so class 0 wins everywhere
    share = 100 * (labels == 0).double().mean().item()
    after = found["test"]["max(x, 0)"]["accuracy"]
    assert after == pytest.approx(share, abs=0.01)
    assert found["test"]["front end"] == found["val"]["front end"]
    front = Logits(maps, labels, ("a_0", "b_0"))
    classes = tuple(small_network().palette)
    score = stored_logits.measure(nn.Identity(), front, classes).compute()
    assert found["val"]["front end"] == {
        "miou": score.miou,
        "accuracy": score.accuracy,
        "drives": {drive: one.miou for drive, one in score.drives.items()},
    }


def test_the_books_record_has_every_training_on_a_clean_commit():
    runs = records.read("starts")
    small, *rest = runs
    assert small.experiment == "starts/small network"
    assert {run.command for run in runs} == {
        "python -m dilated_lib starts --data camvid"
    }
    assert {len(run.commit) for run in runs} == {40}
    assert {split: one["cells"] for split, one in small.metrics.items()} == {
        "val": 101 * 45 * 60,
        "test": 233 * 45 * 60,
    }
    usual = inspect.signature(measure).parameters
    rates = (0.001, 0.003, 0.01, 0.03, 0.1)
    assert rates == context_initialisation.LEARNING_RATES
    for run in rest:
        steps, rate = run.config["steps"], run.config["learning_rate"]
        assert run.config["scenes"] == usual["scenes"].default
        if "front end" not in run.experiment:
            assert steps in (usual["steps"].default, 4 * usual["steps"].default)
            assert rate in rates
    seeds = {}
    for run in rest:
        which = run.experiment, run.config["steps"], run.config["learning_rate"]
        seeds.setdefault(which, []).append(run.seed)
    assert all(each == [*range(usual["seeds"].default)] for each in seeds.values())
    grid = len(context_initialisation.STARTS) * (
        len(context_initialisation.LEARNING_RATES) + 1
    )
    assert len(seeds) == 2 * (1 + grid)


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_a_module_is_fitted_by_the_optimizer_asked_for(monkeypatch, optimizer):
    def fitted(*_, optimizer, **__):
        raise LookupError(optimizer)

    monkeypatch.setattr(context_initialisation, "fit", fitted)
    config = {"steps": 1, "learning_rate": 0.1}
    with pytest.raises(LookupError, match=optimizer):
        context_initialisation._trained(
            {"train": STORED}, optimizer, "identity", 0, config
        )
