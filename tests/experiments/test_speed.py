"""The command that measures speed: every ratio of every round is in the record."""

import json
import random

import pytest
import torch

from dilated_lib.dilation.cost import Timing
from dilated_lib.experiments import precision, speed
from dilated_lib.prediction import bfloat16


@pytest.fixture
def timings(monkeypatch):
    """What the command measures, in order: each thing runs once, and times are drawn.

    The times themselves are tested elsewhere, and would only take long here.
    """
    taken, draw = [], random.Random(0)

    def once(functions, *, seconds, turns):
        assert seconds == 0.5 and turns > 1
        for function in functions.values():
            function()
        taken.append({n: Timing(draw.uniform(1, 9), draw.random()) for n in functions})
        return taken[-1]

    monkeypatch.setattr(speed, "measure", once)
    monkeypatch.setattr(speed, "DILATIONS", (1, 2))
    return taken


def test_the_librarys_gradients_are_right_where_torchs_may_be_anything():
    errors = precision.gradient_errors(torch.device("cpu"), (2,))
    assert [*errors] == ["torch", "library"] and [*errors["torch"]] == ["2"]
    assert errors["library"]["2"] < 0.01  # eight bits of mantissa


def test_the_command_records_medians_over_rounds(tmp_path, timings, monkeypatch):
    monkeypatch.setattr(speed, "gradient_errors", lambda *_: {"library": {}})
    out = tmp_path / "speed.json"
    speed.speed(out, seconds=0.5, rounds=3, data="shapes", small=True)
    rows = json.loads(out.read_text())
    names = [row["experiment"] for row in rows]
    assert set(names) == {
        *("speed/dilation", "speed/space_to_batch", "speed/voc", "speed/labels"),
        *("speed/context/basic", "speed/context/large"),
        *("speed/context/basic/training", "speed/context/large/training"),
        *("speed/dilation/training", "speed/detours/training", "speed/cliff"),
        *(["speed/gradients"] if bfloat16.has_bfloat16() else []),
    }
    labels = rows.pop()
    assert labels["config"]["pictures"] == 4
    assert 90 < labels["metrics"]["worst"] <= labels["metrics"]["same"] <= 100
    if bfloat16.has_bfloat16():
        assert rows.pop()["metrics"] == {"library": {}}

    assert len(timings) == 3 * len(rows)
    for n, row in enumerate(rows):
        rounds = timings[n :: len(rows)]  # each round is the whole series
        assert row["config"]["rounds"] == 3
        assert [*row["metrics"]] == [*rounds[0]]
        first = next(iter(rounds[0]))
        for name, one in row["metrics"].items():
            times = sorted(found[name].median_ms for found in rounds)
            ratios = [
                found[name].median_ms / found[first].median_ms for found in rounds
            ]
            assert one["median_ms"] == pytest.approx(times[1], abs=1e-4)
            assert one["ratios"] == pytest.approx(ratios, abs=1e-3)
            assert one["ratio"] == pytest.approx(sorted(ratios)[1], abs=1e-3)
            assert 0 < one["spread_ms"] < 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"seconds": 0.0}, "seconds must be a number above 0, got 0"),
        ({"seconds": float("nan")}, "seconds must be a number above 0, got nan"),
        ({"data": "nowhere"}, "data must be one of"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_is(
    tmp_path, timings, wrong, message
):
    asked = {"seconds": 0.5, "rounds": 1, "data": None, "small": True} | wrong
    with pytest.raises(ValueError, match=message):
        speed.speed(tmp_path / "speed.json", **asked)
    assert timings == [] and not any(tmp_path.iterdir())
