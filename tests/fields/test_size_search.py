"""The search for whole sizes, among networks that are only a rule on their input."""

import math

import pytest

from dilated_lib import ReceptiveField
from dilated_lib.fields import trial
from dilated_lib.fields.size_search import Search, fixed_pixels


class Traced(tuple):
    """What tracing gives: here the field along one axis, and the number of cells."""

    layers = ()


class Rule:
    """A network of one axis, whose cells own ``stride`` pixels each.

    ``takes`` says of a length whether it is whole. The lengths traced are kept.
    """

    def __init__(self, takes, stride=1):
        self.takes, self.stride, self.traced = takes, stride, []

    def tried(self, length):
        return (trial.WHOLE,) if self.takes(length) else None

    def trace(self, size):
        self.traced += size
        answer = Traced([ReceptiveField(self.stride, ((0, self.stride - 1),))])
        answer.lengths = (size[0] // self.stride,)
        return answer

    def search(self, at):
        (found,) = Search(self.tried, self.trace).around((at,))
        return found


def test_three_sizes_in_a_row_are_traced_and_no_more_are_needed():
    rule = Rule(lambda length: length in (32, 36, 40), stride=4)
    found = rule.search(33)
    assert (found.step, found.fixed, found.each, found.more) == (4, 0, 1, 0)
    assert found.least == 8
    assert rule.traced == [32, 36, 40]
    with pytest.raises(ValueError, match="takes 36 pixels, and no larger size near"):
        rule.search(37)


def test_steps_to_64_pixels_are_found_whatever_the_stride():
    found = Rule(lambda length: length % 64 == 0).search(70)
    assert (found.step, found.fixed, found.each, found.least) == (64, 0, 64, 1)
    with pytest.raises(ValueError, match="takes 65 pixels, and no larger size near"):
        Rule(lambda length: length % 65 == 0).search(65)
    found = Rule(lambda length: length % 160 == 0, stride=80).search(150)
    assert (found.step, found.each) == (160, 2)
    with pytest.raises(ValueError, match="takes 240 pixels, and no larger size near"):
        Rule(lambda length: length % 240 == 0, stride=80).search(240)


def test_a_step_is_a_multiple_of_the_strides():
    found = Rule(lambda length: length % 6 == 0, stride=4).search(36)
    assert (found.step, found.each) == (12, 3)


def test_tracing_says_why_no_size_is_taken_and_is_not_asked_where_one_is():
    class Refuses(Rule):
        def tried(self, length):
            return self.takes

        def trace(self, size):
            raise ValueError(f"not on {size[0]} pixels")

    with pytest.raises(ValueError, match=r"^not on 50 pixels$"):
        Refuses(None).search(50)
    with pytest.raises(ValueError, match=r"^no size near 50 pixels is whole"):
        Refuses((trial.REMAINDER,)).search(50)


def test_a_whole_size_is_looked_for_32_pixels_around():
    assert Rule(lambda length: length >= 65).search(33).least == 65
    with pytest.raises(ValueError, match=r"^no size near 32 pixels is whole"):
        Rule(lambda length: length >= 65).search(32)


def test_the_least_size_may_be_one_pixel():
    assert Rule(lambda length: True).search(33).least == 1


def test_a_size_without_padding_left_over_is_half_a_period_away_at_most():
    class Padded(Rule):
        def tried(self, length):
            return (trial.PADDING if length % 4 else trial.WHOLE,)

    found = Padded(None, stride=4).search(34)
    assert (found.fixed, found.step, found.least) == (0, 4, 1)


class Shifted(Rule):
    """Cells of 4 pixels, which see 8 beside their own, and ``over`` more after them."""

    def __init__(self, level, over):
        super().__init__(lambda length: length in range(12, 99, 4), stride=4)
        self.level, self.over = level, over

    def tried(self, length):
        return (self.level,) if self.takes(length) else None

    def trace(self, size):
        answer = Traced([ReceptiveField(4, ((-3, 14 - self.over),))])
        answer.lengths = (size[0] // 4 - 2,)
        return answer


@pytest.mark.parametrize(
    ("level", "over"),
    [(trial.WHOLE, 1), (trial.WHOLE, -1), (trial.PADDING, 4), (trial.PADDING, -1)],
)
def test_one_side_is_padded_more_than_the_other(level, over):
    with pytest.raises(ValueError, match=rf"see \{over:+} pixels more after the input"):
        Shifted(level, over).search(32)


def test_padding_that_a_stride_leaves_over_may_be_on_one_side():
    for level, over in ((trial.WHOLE, 0), (trial.PADDING, 1), (trial.PADDING, 3)):
        found = Shifted(level, over).search(32)
        # n counts the cells
        assert (found.fixed, found.step, found.each, found.more) == (8, 4, 1, 0)
        assert found.least == 1


@pytest.mark.parametrize("counted", [(5, 5, 5), (5, 6, 8)])
def test_cells_that_do_not_grow_along_a_line_are_refused(counted):
    class Uneven(Rule):
        def trace(self, size):
            answer = Traced([ReceptiveField(4, ((0, 0), (1, 9)))])
            answer.lengths = (counted[(size[0] - 32) // 4],)
            return answer

    told = "32, 36 and 40 pixels give {}, {} and {} cells: their number does not follow"
    with pytest.raises(ValueError, match=told.format(*counted)):
        Uneven(lambda length: length % 4 == 0).search(32)


@pytest.mark.parametrize(
    "field",
    [
        ReceptiveField(1, (None,)),
        ReceptiveField(0, ((0, 4),)),
        ReceptiveField(2, ((0, 4), (1, 5))),
    ],
)
def test_what_has_no_cells_that_are_alike_has_no_whole_sizes(field):
    with pytest.raises(ValueError, match=r"^cells must be alike and stand whole"):
        fixed_pixels(field)


def test_pixels_beside_those_of_the_cells_by_hand():
    assert fixed_pixels(ReceptiveField(1, ((0, 0),))) == 0
    assert fixed_pixels(ReceptiveField(8, ((0, 379),))) == 372
    assert fixed_pixels(ReceptiveField(2, ((-1, 1),))) == -1
    with pytest.raises(ValueError, match="sees the whole axis"):
        fixed_pixels(ReceptiveField(1, ((-math.inf, math.inf),)))
