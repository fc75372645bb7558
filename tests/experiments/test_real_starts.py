"""Starts of a context module on a trained front end's logits."""

import json

import pytest
import torch

from dilated_lib.experiments.real_starts import RATES, STARTS, real_starts


def built(start, classes=3):
    return STARTS[start](classes, torch.Generator().manual_seed(0))


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
    lifted = lift(logits)
    assert torch.allclose(lifted.softmax(1), logits.softmax(1))
    assert torch.equal(built("identity without noise")(lifted), lifted)


@pytest.mark.parametrize("start", [*STARTS][3:])
def test_a_random_start_knows_nothing_of_its_input(start, logits):
    wide = torch.randn(1, 3, 67, 67, generator=torch.Generator().manual_seed(2))
    together = torch.stack([built(start)(wide).flatten(), wide.flatten()])
    assert abs(torch.corrcoef(together)[0, 1]) < 0.3


def test_each_training_is_recorded_once(shapes, tmp_path, monkeypatch):
    for start in [*STARTS][1:]:
        monkeypatch.delitem(STARTS, start)
    monkeypatch.setitem(RATES, "SGD", (1e-3, 1e30))
    front, out = tmp_path / "front.safetensors", tmp_path / "e.json"
    options = {"data": str(shapes), "steps": 6, "out": out}
    real_starts(front, seeds=1, **options)
    counted, *found = json.loads(out.read_text())
    cells = counted["metrics"]["test"]
    assert (cells["cells"], 0 <= cells["not above 0"] <= cells["cells"]) == (12, True)
    rates = [*RATES["Adam"], *RATES["SGD"]]
    assert [one["config"]["learning_rate"] for one in found] == rates
    assert [one["metrics"]["diverged"] for one in found] == [False] * 4 + [True]
    assert "val" in found[0]["metrics"] and "val" not in found[-1]["metrics"]
    real_starts(front, seeds=2, **options)
    again = json.loads(out.read_text())
    assert again[:6] == [counted, *found] and len(again) == 11
