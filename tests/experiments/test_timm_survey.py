"""The survey of timm, on networks that need no timm: it sees what it should see."""

from functools import partial

import pytest
from torch import nn

from dilated_lib.experiments.timm_survey import Candidate, smallest, survey
from dilated_lib.fields.tracing.verify import Disagreement


def stages():
    """Four maps: of 3 positions, of 7, one that has seen all, and one after it."""
    fine, coarse = (nn.Conv2d(1, 1, 3, 2, 1) for _ in range(2))
    head = nn.InstanceNorm2d(1)
    parts = ([fine], [fine, coarse], [fine, coarse, head], [coarse])
    return [partial(nn.Sequential, *some) for some in parts]


def classifier():
    return nn.Sequential(nn.Conv2d(1, 2, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_an_unbounded_network_names_its_layer_and_agrees_with_itself():
    found = survey(Candidate("small", classifier(), (1, 96, 96)))
    assert found["outcome"] == "unbounded" and found["reason"].startswith("1 (")
    assert (found["module"], found["size"]) == ("0", [5, 5])
    assert found["verified"] == ["agrees, to the output on 64 x 64"]
    assert "pyramid" not in found


def test_a_pyramid_is_asked_up_to_its_first_unbounded_map():
    found = survey(Candidate("small", classifier(), (1, 96, 96), stages()))
    fine, coarse, last = found["pyramid"]
    assert (fine["size"], coarse["size"]) == ([3, 3], [7, 7])
    assert (fine["stride"], coarse["stride"]) == (["2", "2"], ["4", "4"])
    assert fine["verified"] == ["agrees, to the output on 128 x 128"]
    assert last["outcome"] == "unbounded" and "verified" not in last


def test_a_disagreement_is_recorded_as_one(monkeypatch):
    told = Disagreement("NaN", (0, 0), (1, 1), measured=True)
    monkeypatch.setattr("dilated_lib.experiments.survey.verify", lambda *_, **__: told)
    found = survey(Candidate("wrong", nn.Conv2d(1, 1, 3), (1, 64, 64)))
    assert found["verified"] == [f"{told}, to the output on 64 x 64"]


def test_a_network_that_decides_by_values_is_refused():
    class Decides(nn.Module):
        def forward(self, x):
            return x if x.mean() > 0 else -x

    found = survey(Candidate("decides", Decides(), (1, 64, 64)))
    assert found["outcome"] == "refused" and "depends on the values" in found["reason"]
    assert "verified" not in found


def test_the_smallest_member_stands_for_a_family():
    widths = {"test_tiny": 1, "large": 9, "small": 2, "as_small": 2}
    chosen = smallest(widths, lambda name: nn.Linear(3, widths[name]))
    assert chosen == "as_small"
    with pytest.raises(ValueError, match="empty"):
        smallest([], nn.Identity)
