"""The answer for a network: its rows and times, what it covers, how it is asked."""

from math import inf

import pytest
import torch
from torch import nn

import dilated_lib as dl
from dilated_lib.fields.tracing import region


class Holes(nn.Module):
    """Two dilated layers, what decides by values, and a gate made of a mean."""

    def __init__(self, *, decides=False, gate=False):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, dilation=2)
        self.second = nn.Conv2d(2, 2, 3, dilation=4)
        self.decides, self.gate = decides, gate

    def forward(self, x):
        y = self.first(x)
        if self.gate:
            y = y * y.mean((2, 3), keepdim=True).sigmoid()
        if self.decides and y.sum() > 0:
            y = -y
        return self.second(y)


def read_along(axis):
    """Positions that are read along an axis, where rows and columns are independent."""
    return axis.nonzero()[0].tolist()


def test_a_row_names_the_module_the_operation_the_shape_and_the_field():
    found = dl.receptive_field(Holes(), (2, 19, 22))
    rows = [(row.module, row.operation, row.shape) for row in found.layers]
    assert rows == [
        ("first", "conv2d", (1, 2, 15, 18)),
        ("second", "conv2d", (1, 2, 7, 10)),
    ]
    assert [[one.size for one in row.fields] for row in found.layers] == [
        [5, 5],
        [13, 13],
    ]
    assert found.lengths == (7, 10) and found.aligned
    assert len(found.seconds) == 2 and min(found.seconds) > 0


def test_as_far_as_a_layer_what_follows_does_not_matter():
    model = Holes(decides=True)
    found = dl.receptive_field(model, (2, 19, 22), to="first", coverage=True)
    assert [one.size for one in found] == [5, 5]
    assert read_along(found.coverage.any(0)) == [0, 2, 4]
    reads = region(model, (2, 19, 22), (1, 2), to="first")
    assert read_along(reads.any(0)) == [2, 4, 6]


def test_a_layer_before_the_end_is_covered_as_it_is_itself():
    found = dl.receptive_field(Holes(), (2, 19, 22), to="first", coverage=True)
    assert found.coverage.shape == (5, 5) and found.coverage.sum() == 9
    later = dl.receptive_field(Holes(), (2, 19, 22), of="first", coverage=True)
    assert later.coverage.shape == (9, 9) and later.coverage.sum() == 9


def test_statistics_that_are_ignored_cover_nothing():
    plain = dl.receptive_field(Holes(), (2, 19, 22), coverage=True)
    gated = Holes(gate=True)
    found = dl.receptive_field(gated, (2, 19, 22), coverage=True, statistics="ignore")
    assert found.ignored and [one.size for one in found] == [13, 13]
    assert read_along(plain.coverage.any(0)) == [0, 2, 4, 6, 8, 10, 12]
    assert (found.coverage == plain.coverage).all()
    with pytest.raises(ValueError, match="the field is unbounded"):
        dl.receptive_field(gated, (2, 19, 22), coverage=True)


def test_one_of_several_maps_must_be_chosen():
    class Split(nn.Module):
        def forward(self, x):
            return torch.cat([part.relu() for part in x.split(1, 1)], 1)

    with pytest.raises(ValueError, match="split is several maps: choose one of them"):
        dl.receptive_field(Split(), (2, 9, 9), to="split")


def test_a_line_of_tokens_is_a_picture_again():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, stride=2)

        def forward(self, x):
            return self.conv(x).flatten(2).transpose(1, 2)

    found = dl.receptive_field(Tokens(), (2, 19, 23))
    assert [(one.size, one.stride) for one in found] == [(3, 2), (3, 2)]
    assert found.lengths == (9, 11)
    sequence = nn.Sequential(nn.Conv1d(2, 2, 3, stride=2), nn.Conv1d(2, 2, 2))
    (along,) = dl.receptive_field(sequence, (2, 19))
    assert (along.size, along.stride) == (5, 2)


def test_what_reads_everything_is_named_with_the_rows_before_it():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(2, 2, 3), nn.AdaptiveAvgPool2d(1)

        def forward(self, x):
            return self.pool(self.conv(x))

    found = dl.receptive_field(Pooled(), (2, 9, 9))
    assert found.unbounded.startswith("pool (")
    assert [row.module for row in found.layers] == ["conv", "pool"]
    assert [one.size for one in found] == [inf, inf]
