"""Starts of a context module on a trained front end's logits."""

import json

import pytest
import torch

from dilated_lib.experiments.context_initialisation import initialised, largest
from dilated_lib.experiments.real_starts import RATES, STARTS, real_starts
from dilated_lib.experiments.shape_training import OPTIMIZERS
from dilated_lib.experiments.stored_logits import FrontEnd, measure


def built(start, classes=3, seed=0):
    return STARTS[start](classes, torch.Generator().manual_seed(seed))


@pytest.fixture
def logits():
    """Logits of 9 × 9 cells, every third of which has none above 0."""
    drawn = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    return torch.where(torch.arange(9) % 3 == 0, drawn - 10, drawn)


def test_the_identity_passes_on_what_is_above_0(logits):
    found = built("identity without noise")(logits)
    assert torch.equal(found, logits.clamp(min=0))
    noisy = built("identity")(logits)
    assert 0 < (noisy - found).abs().mean() < 0.2


def test_lifted_logits_lose_no_cell(logits):
    (lift, _) = built("identity on lifted logits")
    logits = torch.cat([logits, 2 * logits.roll(4, 3)])
    lifted = lift(logits)
    assert lifted.shape == logits.shape and (lifted.amin(1) == 0).all()
    assert torch.allclose(lifted.softmax(1), logits.softmax(1))
    assert torch.equal(built("identity without noise")(lifted), lifted)


def test_each_optimizer_has_three_rates():
    assert RATES == {"Adam": (0.0003, 0.001, 0.003), "SGD": (0.001, 0.01, 0.1)}


@pytest.mark.parametrize("start", [*STARTS][3:])
def test_a_random_start_knows_nothing_of_its_input(start, logits):
    wide = torch.randn(1, 3, 67, 67, generator=torch.Generator().manual_seed(2))
    together = torch.stack([built(start)(wide).flatten(), wide.flatten()])
    assert abs(torch.corrcoef(together)[0, 1]) < 0.3


@pytest.mark.parametrize("start", STARTS)
def test_a_start_is_drawn_by_its_seed_alone(start):
    one, same, other = (
        torch.cat([weight.flatten() for weight in built(start, seed=seed).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (start == "identity without noise")


@pytest.mark.parametrize("start", [*STARTS][3:])
def test_a_random_start_is_that_of_its_name(start):
    generator = torch.Generator().manual_seed(0)
    wanted = initialised(start, classes=3, generator=generator).state_dict()
    for name, weight in built(start).state_dict().items():
        assert torch.equal(weight, wanted[name])


def test_a_record_has_the_last_losses_and_the_scores_of_each_split(
    shapes, tmp_path, monkeypatch
):
    file = tmp_path / "front.safetensors"
    asked = FrontEnd(file, str(shapes))
    stored = {split: asked.logits(split) for split in ("train", "val", "test")}
    trainings = []

    def fitted(module, maps, **options):
        pairs = zip(maps.labels, stored["train"].labels, strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
        assert torch.equal(options.pop("weights"), asked.weights())
        seed = options.pop("generator").initial_seed()
        kinds = [one for one in RATES if OPTIMIZERS[one] is options["optimizer"]]
        trainings.append((seed, *kinds, options["learning_rate"]))
        assert options["steps"] == 150
        return [step + 0.123456 for step in range(150)]

    monkeypatch.setattr("dilated_lib.experiments.real_starts.fit", fitted)
    out = tmp_path / "e.json"
    real_starts(file, data=str(shapes), seeds=2, steps=150, out=out)
    front, *found = json.loads(out.read_text())
    name = f"evidence/start/{asked.data.name}"
    about = {"data": asked.data.name, "front": asked.digest}
    assert (front["experiment"], front["config"]) == (f"{name}/front end", about)
    for split in ("val", "test"):
        maps = torch.cat([one.flatten(1) for one in stored[split].maps], 1)
        assert front["metrics"][split] == largest(maps[None])
    order = [
        (seed, kind, start, rate)
        for seed in (0, 1)
        for kind, rates in RATES.items()
        for start in STARTS
        for rate in rates
    ]
    assert trainings == [(seed, kind, rate) for seed, kind, _, rate in order]
    for (seed, kind, start, rate), one in zip(order, found, strict=True):
        assert (one["experiment"], one["seed"]) == (f"{name}/{kind}/{start}", seed)
        assert one["config"] == {**about, "steps": 150, "learning_rate": rate}
        metrics = one["metrics"]
        assert (metrics["diverged"], metrics["loss"]) == (False, 99.6235)
        module = built(start, len(asked.classes), seed)
        for split in ("val", "test"):
            scores = measure(module, stored[split], asked.classes).compute()
            wanted = {"miou": scores.miou, "accuracy": scores.accuracy}
            assert metrics[split] == wanted


def test_each_training_is_recorded_once(shapes, tmp_path, monkeypatch):
    for start in [*STARTS][1:]:
        monkeypatch.delitem(STARTS, start)
    monkeypatch.setitem(RATES, "SGD", (1e30, 1e-3))
    front, out = tmp_path / "front.safetensors", tmp_path / "e.json"
    options = {"data": str(shapes), "steps": 6, "out": out}
    real_starts(front, seeds=1, **options)
    counted, *found = json.loads(out.read_text())
    cells = counted["metrics"]["test"]
    assert (cells["cells"], 0 <= cells["not above 0"] <= cells["cells"]) == (12, True)
    rates = [*RATES["Adam"], *RATES["SGD"]]
    assert [one["config"]["learning_rate"] for one in found] == rates
    assert [one["metrics"]["diverged"] for one in found] == [False] * 3 + [True, False]
    assert ["val" in one["metrics"] for one in found] == [True] * 3 + [False, True]
    other = counted | {"experiment": "evidence/other"}
    out.write_text(json.dumps([other, counted, *found]))
    real_starts(front, seeds=2, **options)
    again = json.loads(out.read_text())
    assert again[:7] == [other, counted, *found] and len(again) == 12
