"""Verification asks the real network: which units, how often, and what it reports."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.fields.tracing.report import Fields
from dilated_lib.fields.tracing.verify import Disagreement

SIZE = (1, 10, 11)  # of which a layer of 3 x 3 makes 8 x 9 units


kinds_seen = []  # of all inputs with numbers that a network or a copy of it was given


class Noted(nn.Module):
    """A layer that notes the kind of each input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        if type(x) is torch.Tensor:
            kinds_seen.append(x.dtype)
        return self.layer(x)


def test_corners_the_middle_and_four_random_units_are_asked_in_float64(monkeypatch):
    asked, region = [], Fields.region

    def noted(self, *unit, idle=False):
        asked.append(unit)
        return region(self, *unit, idle=idle)

    monkeypatch.setattr(Fields, "region", noted)
    kinds_seen.clear()
    assert dl.verify(Noted(), SIZE) is None
    draw = np.random.default_rng(0)
    drawn = [tuple(int(draw.integers(0, n)) for n in (8, 9)) for _ in range(4)]
    units = {(0, 0), (7, 8), (3, 4), *drawn}
    assert asked == [unit for unit in sorted(units) for _ in range(2)]
    # each with NaN all around, at both ends of both axes and at two more positions; and
    # once without NaN
    assert kinds_seen == [torch.float64] * (1 + len(units) * (1 + 4 + 2))
    asked.clear()
    dl.verify(Noted(), SIZE, units=0, seed=1)
    assert {*asked} == {(0, 0), (7, 8), (3, 4)}


@pytest.mark.parametrize("weights", [True, False])
def test_a_network_that_insists_on_its_own_precision_is_asked_in_that(weights):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1) if weights else nn.Identity()

        def forward(self, x):
            fixed = torch.ones(1, 1, 3, 3, dtype=torch.float32)
            return F.conv2d(self.layer(x), fixed)

    assert dl.verify(Own(), SIZE) is None


@pytest.mark.parametrize(
    ("position", "measured", "said"),
    [
        (
            (1, 2),
            True,
            "by NaN, unit (0, 0) reads position (1, 2); the analysis denies it",
        ),
        (
            (9, 10),
            False,
            "by NaN, unit (0, 0) ignores position (9, 10); the analysis not",
        ),
    ],
)
def test_a_wrong_analysis_is_told_by_unit_and_position(
    position, measured, said, monkeypatch
):
    region = Fields.region

    def wrong(self, *unit, idle=False):
        found = region(self, *unit, idle=idle)
        found[position] = not measured
        return found

    monkeypatch.setattr(Fields, "region", wrong)
    found = dl.verify(nn.Conv2d(1, 1, 3), SIZE)
    assert found == Disagreement("NaN", (0, 0), position, measured)
    assert str(found) == said
