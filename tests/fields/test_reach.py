"""What is seen, carried as data: sums, views of tokens, borders, maps side by side."""

from fractions import Fraction
from math import inf, nan

import pytest
import torch
from nets import Net
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.fields.tracing.export import TracingError
from dilated_lib.fields.tracing.reach import Axis


def fields(function):
    """Fields of a function of the input and of a layer of 3 x 3."""
    net = Net(function, nn.Conv2d(2, 2, 3, padding=1))
    return dl.receptive_field(net, (2, 12, 12))


def sizes(function):
    return [one.size for one in fields(function)]


def test_a_running_sum_takes_together_what_lies_before_it():
    assert sizes(lambda x, conv: conv(x).cumsum(1)) == [3, 3]
    assert sizes(lambda x, conv: conv(x).cumsum(2)) == [inf, 3]
    assert sizes(lambda x, conv: conv(x).cumsum(-1)) == [3, inf]
    wide_first = fields(lambda x, conv: torch.cat([conv(x), x], 1).cumsum(1)[:, 3:])
    wide_last = fields(lambda x, conv: torch.cat([x, conv(x)], 1).cumsum(1)[:, :2])
    assert [one.size for one in (*wide_first, *wide_last)] == [3, 3, 1, 1]


def test_a_running_sum_down_the_rows_has_the_columns_of_all_rows_above():
    def every_other(x, conv):
        rows = torch.stack([x, conv(x)], 3).flatten(2, 3)  # every other one sees more
        return rows.cumsum(2)[:, :, ::2]

    assert sizes(every_other) == [inf, 3]


def test_a_map_without_its_first_dimensions_meets_a_map_that_has_them():
    assert sizes(lambda x, conv: x + conv(x)[0]) == [3, 3]
    assert sizes(lambda x, conv: x[:, :1] + conv(x)[0, 0].T) == [inf, inf]


def test_units_look_where_those_of_their_period_do_and_halves_between():
    """Two units a period, at 0 and 3, and eight positions to the next period."""
    centres = torch.tensor([0.0, 3.0]).double()
    axis = Axis(torch.zeros(3, 2).double(), Fraction(4), 0, centres)
    units = torch.tensor([-1, 0, 0.5, 1, 1.5, 2, 3, -inf]).double()
    wanted = torch.tensor([-5, 0, 1.5, 3, 5.5, 8, 11, nan]).double()
    torch.testing.assert_close(axis.looks(units), wanted, equal_nan=True)


def tokens(x, *sides):
    """All positions in one row, which is cut in pieces."""
    return x.flatten(2).unflatten(2, sides)


# of 12 x 12 positions: which of the cut row are taken together, and added to each
@pytest.mark.parametrize(
    ("sides", "dim", "size"),
    [
        ((4, 36), 2, [inf, 1]),  # every third row
        ((6, 24), 3, [2, inf]),  # two whole rows
        ((24, 6), 2, [inf, inf]),  # every half row
        ((72, 2), 2, [inf, inf]),  # every other position
    ],
)
def test_positions_all_over_the_picture_are_taken_together(sides, dim, size):
    def added(x, _):
        pieces = tokens(x, *sides)
        whole = pieces + pieces.mean(dim, keepdim=True)
        return whole.flatten(2).unflatten(2, (12, 12))

    assert sizes(added) == size


def test_zeros_between_positions_all_over_the_picture_change_nothing():
    def every_third_row(x, _):
        pieces = [*x.cumsum(3).flatten(2).split(36, 2)]
        pieces.insert(2, torch.zeros(1, 2, 36))
        mean = torch.stack(pieces, 2).mean(2, keepdim=True)
        return x + mean.expand(1, 2, 4, 36).flatten(2).unflatten(2, (12, 12))

    assert sizes(every_third_row) == [inf, inf]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, _: tokens(x, 9, 16).mean(2),  # a row and a third apart
        lambda x, _: tokens(x, 9, 16).mean(3),  # a row and a third
        lambda x, _: x.flatten(2)[..., :140].unflatten(2, (7, 20)).mean(2),
    ],
)
def test_a_part_of_an_axis_that_no_unit_shares_is_refused(function):
    with pytest.raises(TracingError, match="a part of an axis together, unevenly"):
        fields(function)


def test_a_position_repeated_beyond_the_border_is_read():
    for mode, first in (("replicate", [0]), ("reflect", [2]), ("circular", [10])):
        found = fields(lambda x, _, mode=mode: F.pad(x, (2, 0, 2, 0), mode=mode))
        assert [*found.region(0, 0).any(1).nonzero()[0]] == first
        assert [*found.region(0, 0).any(0).nonzero()[0]] == first
    assert not fields(lambda x, _: F.pad(x, (2, 0, 2, 0))).region(0, 0).any()


@pytest.mark.parametrize("turned", [False, True])
def test_maps_that_repeat_every_2_and_every_3_units_repeat_every_6(turned):
    def blocks(x, side):
        return F.interpolate(F.avg_pool2d(x, side), scale_factor=side)

    def both(x, _):
        parts = [blocks(x, 2), blocks(x, 3)]
        return parts[turned] + parts[not turned]

    wanted = []
    for unit in range(6):  # the blocks in which it lies
        starts = [unit // side * side for side in (2, 3)]
        ends = [start + side - 1 for start, side in zip(starts, (2, 3), strict=True)]
        wanted.append((min(starts) - unit, max(ends) - unit))
    for found in fields(both):
        hulls = [(found.start(unit), found.end(unit)) for unit in range(6)]
        assert [(a - n, b - n) for n, (a, b) in enumerate(hulls)] == wanted


def test_of_four_million_pairs_nobody_asks_which_is_which():
    def pairs(x, row):
        every = x.flatten(2)[..., :row]
        return (every.mT @ every).softmax(-1).unflatten(1, (row, 1)).flatten(1, 2)

    def strides(row):
        net = Net(lambda x: pairs(x, row))
        return [one.stride for one in dl.receptive_field(net, (1, 48, 48))]

    assert strides(2048) == [1, 1]
    assert strides(2049) == [0, 0]


def test_units_that_see_everything_still_run():
    beside = fields(lambda x, _: torch.cat([x.cumsum(2), x], 1)[:, :2])
    assert [(one.size, one.stride) for one in beside] == [(inf, 1), (1, 1)]


@pytest.mark.parametrize(
    ("function", "read"),
    [
        (lambda x: x[:, :, :1].transpose(2, 3) + x, [(0, 3), (3, 5)]),
        (lambda x: x[:, :, :, :1].transpose(2, 3) + x, [(3, 5), (5, 0)]),
        (
            lambda x: x.transpose(2, 3).amax(2, keepdim=True) + x,
            [(3, 5), *((5, column) for column in range(12))],
        ),
    ],
)
def test_a_map_beside_a_part_of_it_that_was_turned_keeps_its_units(function, read):
    found = fields(lambda x, conv: function(x))
    assert [one.size for one in found] == [inf, inf]
    assert [*zip(*found.region(3, 5).nonzero(), strict=True)] == read


def test_a_unit_that_no_diagonal_has_is_refused():
    found = fields(lambda x, conv: x.amax(3) + x.amax(2))
    assert found.region(3, 3).sum() == 23  # a row and a column
    with pytest.raises(ValueError, match=r"there is no unit \(3, 5\): units run along"):
        found.region(3, 5)
