"""Differences between runs, against values by hand and against other ways to them."""

from itertools import combinations, product
from math import comb, sqrt

import numpy as np
import pytest
from scipy import stats

import dilated_lib as dl
from dilated_lib.experiments.run_differences import Difference, difference

BEFORE, AFTER = [70.1, 70.9, 71.4], [70.8, 71.7, 71.9]


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(50, 1, shape)


def test_pairs_by_hand():
    """Differences 1, 2, 3: their deviation is 1, and t of two degrees is 4.3027."""
    found = difference([10, 20, 30], [11, 22, 33], paired=True)
    half = 4.3027 / sqrt(3)
    assert (found.mean, found.n, found.paired) == (2, (3, 3), True)
    assert found.low == pytest.approx(2 - half, abs=1e-4)
    assert found.high == pytest.approx(2 + half, abs=1e-4)
    assert found.p == 0.25  # all of one sign: two of the eight ways to flip them
    assert str(found) == "+2.00 [-0.48, 4.48], n = 3 pairs, p = .25"


def test_two_groups_by_hand():
    """Variances 1 and 4, three runs each: Welch has 25/(1 + 16) · 2 = 50/17 degrees."""
    found = difference([1, 2, 3], [6, 8, 10])
    half = stats.t(50 / 17).isf(0.025) * sqrt(5 / 3)
    assert found.mean == 6 and not found.paired
    assert found.high - found.mean == pytest.approx(half)
    assert found.mean - found.low == pytest.approx(half)
    assert found.p == pytest.approx(0.1)  # two of the twenty ways to choose three
    assert found.excludes_zero


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (5, 5), (3, 6), (7, 2)])
def test_welchs_interval_is_scipys(n, m):
    one, other = drawn(n), 2 * drawn(m, seed=1) - 50
    wanted = stats.ttest_ind(other, one, equal_var=False).confidence_interval()
    found = difference(one, other)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.n == (n, m)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_the_paired_interval_is_scipys(n):
    one, other = drawn(2, n)
    wanted = stats.ttest_rel(other, one).confidence_interval()
    found = difference(one, other, paired=True)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 3), (4, 5)])
@pytest.mark.parametrize("digits", [9, 0])  # whole numbers have ties
def test_p_counts_every_regrouping(n, m, digits):
    one, other = (np.round(drawn(k, seed=k), digits) for k in (n, m + 10))
    one, other = one[:n], np.round(drawn(m, seed=7), digits)
    pool = np.concatenate([one, other])
    gaps = []
    for chosen in combinations(range(n + m), n):
        rest = [k for k in range(n + m) if k not in chosen]
        gaps.append(pool[rest].mean() - pool[[*chosen]].mean())
    observed = gaps[0]
    tails = [np.mean([s * (gap - observed) > -1e-9 for gap in gaps]) for s in (1, -1)]
    assert len(gaps) == comb(n + m, n)
    assert difference(one, other).p == pytest.approx(min(1, 2 * min(tails)))


@pytest.mark.parametrize("digits", [9, 0])
def test_p_of_pairs_flips_every_sign(digits):
    one, other = np.round(drawn(2, 6, seed=3), digits)
    gaps = other - one
    means = [np.mean(gaps * signs) for signs in product((1, -1), repeat=6)]
    wanted = np.mean([abs(mean) > abs(gaps.mean()) - 1e-9 for mean in means])
    assert difference(one, other, paired=True).p == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("n", "paired", "least"),
    [
        *((3, True, 0.25), (5, True, 0.0625), (3, False, 0.1), (5, False, 2 / 252)),
        (8, False, 2 / 12870),  # more than scipy deals unless it is told to
    ],
)
def test_p_has_a_least_value_that_no_effect_gets_below(n, paired, least):
    one = drawn(n)
    assert difference(one, one + 1000, paired=paired).p == pytest.approx(least)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("unit", [0.01, 1e-12])
def test_equal_deals_are_equal_in_any_unit(paired, unit):
    """36.03 + 36.05 and 36.04 + 36.04 are one value here, not for the machine."""
    draw = np.random.default_rng(0)
    for _ in range(10):
        one, other = draw.integers(3600, 3606, (2, 4))
        wanted = difference(one, other, paired=paired).p
        found = difference(unit * one, unit * other, paired=paired).p
        assert found == pytest.approx(wanted)


def test_many_runs_take_random_deals_and_the_same_ones_each_time(monkeypatch):
    monkeypatch.setattr("dilated_lib.experiments.run_differences._REGROUPINGS", 5000)
    one = drawn(12)
    assert comb(24, 12) > 5000
    found = [difference(one, one + 0.5) for _ in range(2)]
    assert found[0] == found[1]
    by_t = stats.ttest_ind(one + 0.5, one).pvalue
    assert found[0].p == pytest.approx(by_t, abs=0.03)


def test_whole_numbers_of_a_byte_are_subtracted_as_numbers():
    one, other = np.uint8([[3, 4, 200], [1, 5, 9]])
    for paired in (False, True):
        wanted = difference([3, 4, 200], [1, 5, 9], paired=paired)
        assert difference(one, other, paired=paired) == wanted


def test_to_turn_the_sides_turns_the_signs():
    there, back = difference(BEFORE, AFTER), difference(AFTER, BEFORE)
    turned = (-back.mean, -back.high, -back.low, back.p)
    assert (there.mean, there.low, there.high, there.p) == pytest.approx(turned)


def test_pairs_cancel_what_both_runs_share():
    shared = 10 * drawn(5)
    one, other = shared + drawn(5, seed=1), shared + 2 + drawn(5, seed=2)
    wide, narrow = (difference(one, other, paired=kind) for kind in (False, True))
    assert wide.mean == pytest.approx(narrow.mean)
    assert not wide.excludes_zero
    assert narrow.high - narrow.low < 0.3 * (wide.high - wide.low)


@pytest.mark.parametrize("paired", [False, True])
def test_runs_without_spread_give_an_interval_without_width(paired):
    found = difference([14.3] * 5, [100] * 5, paired=paired)
    assert (found.low, found.high) == (found.mean, found.mean)
    assert found.p == pytest.approx(0.0625 if paired else 2 / 252)
    same = difference([100] * 5, [100] * 5, paired=paired)
    assert (same.low, same.mean, same.high, same.p) == (0, 0, 0, 1)
    assert not same.excludes_zero


@pytest.mark.parametrize(
    ("p", "text"),
    [
        *((0.0079, "p = .008"), (0.0625, "p = .0625"), (0.25, "p = .25")),
        *((1.0, "p = 1"), (0.00001, "p < .001"), (0.3571, "p = .357")),
        *((0.001, "p = .001"), (0.01, "p = .01")),
    ],
)
def test_the_text_has_n_interval_and_p(p, text):
    found = Difference(mean=-0.094, low=-0.3, high=0.12, p=p, n=(5, 4))
    assert str(found) == f"-0.09 [-0.30, 0.12], n = 5 and 4, {text}"
    assert not found.excludes_zero


@pytest.mark.parametrize(
    ("one", "other", "paired", "message"),
    [
        ([1.0], [1, 2], False, r"at least two runs, got \[1\.0\]"),
        ([1, 2], [], False, r"at least two runs, got \[\]"),
        ([[1, 2]], [1, 2], False, "a list of at least two runs"),
        ([1, 2, 3], [1, 2], True, "as many runs on each side, got 3 and 2"),
        ([1, np.nan], [1, 2], True, "must be finite numbers, got .*nan"),
    ],
)
def test_impossible_runs_are_refused(one, other, paired, message):
    with pytest.raises(ValueError, match=message):
        difference(one, other, paired=paired)


def test_it_is_there_by_its_short_name():
    assert dl.difference is difference
