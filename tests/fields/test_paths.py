"""Paths against autograd with weights of one, sets of sums, and the literature."""

import itertools
from math import comb, isclose, prod, sqrt

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib import Window

small = st.integers(1, 4)
window = st.builds(
    Window,
    kernel_size=small,
    stride=st.integers(1, 3),
    dilation=small,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    transposed=st.booleans(),
)
ordinary = st.builds(
    Window, kernel_size=small, stride=st.integers(1, 3), dilation=small
)


def stack(*dilations):
    return [Window(3, dilation=dilation) for dilation in dilations]


def paths_by_autograd(windows, from_middle):
    """A unit far from both ends, and its derivative by each input, weights all one."""
    signal = torch.ones(1, 1, 1500, dtype=torch.float64, requires_grad=True)
    out = signal
    for one in windows:
        weight = torch.ones(1, 1, one.kernel_size, dtype=torch.float64)
        step = {"stride": one.stride, "dilation": one.dilation}
        before, after = one.pads
        if one.transposed:
            out = F.conv_transpose1d(out, weight, **step)
            out = out[..., before : out.shape[-1] - after]
        else:
            out = F.conv1d(F.pad(out, one.pads), weight, **step)
    unit = out.shape[-1] // 2 + from_middle
    (gradient,) = torch.autograd.grad(out[0, 0, unit], signal, allow_unused=True)
    return unit, gradient.flatten().long().numpy()


@given(st.lists(window, min_size=1, max_size=4), st.integers(0, 5))
def test_paths_are_autograds(windows, from_middle):
    unit, gradient = paths_by_autograd(windows, from_middle)
    field = dl.compose(windows)
    if not gradient.any():
        with pytest.raises(ValueError, match=f"unit {unit} sees no input"):
            dl.coverage(windows, unit=unit)
        return
    start, end = field.start(unit), field.end(unit)
    assume(start >= 0 and end < len(gradient))
    counts = dl.coverage(windows, unit=unit)
    assert counts.tolist() == gradient[start : end + 1].tolist()
    assert gradient.sum() == counts.sum()


@given(st.lists(ordinary, max_size=5))
def test_the_paths_of_ordinary_layers_are_all_choices_of_taps(windows):
    counts = dl.coverage(windows)
    assert counts.dtype == np.int64
    assert counts.shape == (dl.compose(windows).size,)
    assert counts.sum() == prod(one.kernel_size for one in windows)
    assert (counts == counts[::-1]).all()
    assert dl.coverage(windows, unit=7).tolist() == counts.tolist()


def test_padding_moves_the_field_and_changes_no_count():
    padded = [Window(3, dilation=d, padding=(d, 0)) for d in (1, 2)]
    assert dl.coverage(padded).tolist() == [1, 1, 2, 1, 2, 1, 1]


def test_no_layer_is_one_path():
    assert dl.coverage([]).tolist() == [1]
    assert dl.deviation([]) == 0


def test_a_unit_of_a_transposed_layer_has_paths_of_its_own():
    up = [Window(3, 2, transposed=True), Window(2)]
    assert dl.coverage(up, unit=1).tolist() == [2, 1]
    assert dl.coverage(up, unit=2).tolist() == [1, 2]
    gap = [Window(1, 2, transposed=True)]
    assert dl.coverage(gap).tolist() == [1]  # of unit 0
    with pytest.raises(ValueError, match="unit 1 sees no input"):
        dl.coverage(gap, unit=1)


@pytest.mark.parametrize(
    ("dilations", "reached", "size"),
    [
        ((2,), 3, 5),
        ((2, 2, 2), 7, 13),
        ((2, 4, 8), 15, 29),
        ((1, 2, 9), 21, 25),
        ((1, 2, 5), 17, 17),
        ((1, 3, 9), 27, 27),
        ((1, 1, 2, 4, 8, 16, 1), 67, 67),
    ],
)
def test_the_literatures_holes(dilations, reached, size):
    counts = dl.coverage(stack(*dilations))
    assert ((counts > 0).sum(), counts.size) == (reached, size)


def test_counts_are_exact_beyond_64_bits_too():
    # layers of two taps at one place: binomials
    for layers, kind in ((62, np.int64), (66, np.int64), (67, object), (200, object)):
        counts = dl.coverage([Window(2)] * layers)
        assert counts.dtype == kind
        assert counts.tolist() == [comb(layers, n) for n in range(layers + 1)]
    # both units that are read repeat the same position, so each pair doubles its paths
    twice = [Window(2, 2, transposed=True), Window(2, 2)]
    for doubled, kind in ((62, np.int64), (63, object), (64, object)):
        (count,) = counts = dl.coverage(twice * doubled)
        assert (count, counts.dtype) == (2**doubled, kind)
    shares = dl.coverage([Window(3)] * 60)
    shares = (shares / shares.sum()).astype(float)
    place = np.arange(121) - 60
    assert isclose(sqrt(shares @ place**2), dl.deviation([Window(3)] * 60))
    dl.plot.bars({"sixty layers": shares, "their paths": dl.coverage([Window(3)] * 60)})


@pytest.mark.parametrize("wrong", [Window(3), None, [3]])
def test_what_is_no_stack_is_refused(wrong):
    for function in (dl.coverage, dl.deviation):
        with pytest.raises(TypeError, match=r"must be a|not iterable"):
            function(wrong)


# The width of the paths


@given(st.lists(ordinary, max_size=5))
def test_the_deviation_is_that_of_the_counted_paths(windows):
    counts = dl.coverage(windows).astype(float)
    at = np.arange(len(counts))
    mean = np.average(at, weights=counts)
    spread = sqrt(np.average((at - mean) ** 2, weights=counts))
    assert isclose(dl.deviation(windows), spread, abs_tol=1e-9)


def test_deviations_by_hand():
    assert dl.deviation(stack(1)) == sqrt(2 / 3)
    assert dl.deviation([Window(2, 2), Window(2)]) == sqrt((1 + 4) * 3 / 12)
    context = stack(1, 1, 2, 4, 8, 16, 1)
    assert isclose(dl.deviation(context) ** 2, 8 / 12 * (1 + 1 + 4 + 16 + 64 + 256 + 1))


def test_a_transposed_layer_has_no_one_deviation():
    windows = [Window(3), Window(3, 2, transposed=True)]
    with pytest.raises(
        ValueError,
        match=r"^layer 2 is transposed: its units differ by phase, and so do their",
    ):
        dl.deviation(windows)


# Hybrid dilated convolution


@pytest.mark.parametrize(
    ("dilations", "distances"),
    [
        ((1, 2, 5), (1, 2, 5)),
        ((1, 2, 9), (3, 5, 9)),
        ((2, 2, 2), (2, 2, 2)),
        ((1, 1, 1), (1, 1, 1)),
        ((3, 4, 1), (3, 7, 1)),
        ((4,), (4,)),
        ((1, 9), (7, 9)),
    ],
)
def test_hdc_distances(dilations, distances):
    assert dl.hdc_distances(dilations) == distances
    assert dl.hdc_distances(list(dilations)) == distances


def test_hdc_is_neither_sufficient_nor_necessary_and_the_sorted_rule_is_both():
    for dilations in itertools.product(range(1, 8), repeat=3):
        no_hole = bool(dl.coverage(stack(*dilations)).all())
        passes = dl.hdc_distances(dilations)[1] <= 3
        if dilations == (2, 2, 2):
            assert passes
            assert not no_hole
        if dilations == (1, 3, 1):
            assert no_hole
            assert not passes
        if passes and dilations[0] == 1:
            assert no_hole
        ordered = sorted(dilations)
        fits = all(d <= 1 + 2 * sum(ordered[:n]) for n, d in enumerate(ordered))
        assert fits == no_hole


@pytest.mark.parametrize(
    ("dilations", "error", "message"),
    [
        ((), ValueError, r"dilations must list one number for each layer, got \(\)"),
        ((1, 0), ValueError, r"dilations\[1\] must be at least 1, got 0"),
        ((1, 1.5), TypeError, r"dilations\[1\] must be a whole number, got 1\.5"),
    ],
)
def test_impossible_dilations_have_no_hdc_distances(dilations, error, message):
    with pytest.raises(error, match=message):
        dl.hdc_distances(dilations)
