"""The arithmetic against torch's own shapes, autograd, and sums done in another way."""

import math
from dataclasses import FrozenInstanceError
from fractions import Fraction
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib import ReceptiveField, Window
from dilated_lib.fields.arithmetic import Sampling, above, join, place

small = st.integers(1, 4)
pads = st.integers(0, 3)
ordinary = st.builds(
    Window,
    kernel_size=small,
    stride=small,
    dilation=small,
    padding=st.one_of(pads, st.tuples(pads, pads)),
)
transposed = st.builds(
    Window,
    kernel_size=small,
    stride=small,
    dilation=small,
    padding=st.tuples(pads, pads),
    transposed=st.just(True),
)


def run(window, signal):
    """One layer of positive weights over a float64 signal (1, 1, length)."""
    weight = torch.ones(1, 1, window.kernel_size, dtype=torch.float64)
    before, after = window.pads
    step = {"stride": window.stride, "dilation": window.dilation}
    if window.transposed:
        out = F.conv_transpose1d(
            signal, weight, output_padding=window.output_padding, **step
        )
        return out[..., before : max(out.shape[-1] - after, 0)]
    return F.conv1d(F.pad(signal, (before, after)), weight, **step)


def seen_by_torch(windows, length, count):
    """What autograd says of ``count`` units far from both ends.

    For each unit its first and last input with a gradient, None for none.
    """
    signal = torch.ones(1, 1, length, dtype=torch.float64, requires_grad=True)
    out = signal
    for window in windows:
        out = run(window, out)
    out = out.flatten() + 0 * signal.sum()
    middle = len(out) // 2
    hulls = {}
    for unit in range(middle, middle + count):
        (gradient,) = torch.autograd.grad(out[unit], signal, retain_graph=True)
        reached = gradient.flatten().nonzero().flatten().tolist()
        hulls[unit] = (reached[0], reached[-1]) if reached else None
    return hulls


# What a stack sees


@given(st.lists(st.one_of(ordinary, transposed), min_size=1, max_size=4))
def test_every_phase_sees_what_autograd_says(windows):
    field = dl.compose(windows)
    for unit, hull in seen_by_torch(windows, 4000, len(field.phases) + 2).items():
        if hull is None:
            assert field.phases[unit % len(field.phases)] is None
        else:
            assert (field.start(unit), field.end(unit)) == hull


@given(st.lists(ordinary, max_size=4), st.lists(ordinary, max_size=4), st.integers())
def test_what_a_stack_sees_is_what_its_lower_part_sees_of_its_upper_part(
    lower, upper, unit
):
    whole, below, above = (dl.compose(part) for part in (lower + upper, lower, upper))
    assert whole.start(unit) == below.start(above.start(unit))
    assert whole.end(unit) == below.end(above.end(unit))
    assert whole.stride == below.stride * above.stride


@given(st.lists(ordinary, max_size=6), st.integers(-50, 50))
def test_ordinary_stacks_follow_the_closed_form(windows, unit):
    below = [prod(w.stride for w in windows[:depth]) for depth in range(len(windows))]
    size = 1 + sum(
        w.dilation * (w.kernel_size - 1) * j
        for w, j in zip(windows, below, strict=True)
    )
    padding = sum(w.pads[0] * j for w, j in zip(windows, below, strict=True))
    stride = prod(w.stride for w in windows)
    field = dl.compose(windows)
    assert (field.size, field.stride, field.padding) == (size, stride, padding)
    assert type(field.stride) is int
    assert len(field.phases) == 1
    assert field.start(unit) == unit * stride - padding
    assert field.end(unit) == unit * stride - padding + size - 1
    assert field.centre(unit) == Fraction(2 * (unit * stride - padding) + size - 1, 2)


@given(st.lists(st.one_of(ordinary, transposed), max_size=4), st.integers(-20, 20))
def test_a_stack_sees_what_walking_down_its_taps_reaches(windows, unit):
    seen = {unit}
    for window in reversed(windows):
        taps = range(window.kernel_size)
        before, d, s = window.pads[0], window.dilation, window.stride
        if window.transposed:
            near = range(-200, 200)
            seen = {
                q
                for u in seen
                for q in near
                for t in taps
                if u + before == q * s + d * t
            }
        else:
            seen = {u * s - before + d * t for u in seen for t in taps}
        assume(all(abs(u) <= 150 for u in seen))  # inside the transposed search
    field = dl.compose(windows)
    if seen:
        assert (field.start(unit), field.end(unit)) == (min(seen), max(seen))
        assert field.centre(unit) == Fraction(min(seen) + max(seen), 2)
    else:
        with pytest.raises(ValueError, match=f"unit {unit} sees no input"):
            field.start(unit)


@given(st.lists(st.one_of(ordinary, transposed), max_size=4))
def test_phases_repeat_after_a_whole_number_of_positions(windows):
    field = dl.compose(windows)
    period = len(field.phases)
    move = field.stride * period
    assert move == int(move)
    assert field.stride == prod(
        (
            Fraction(1, w.stride) if w.transposed else Fraction(w.stride)
            for w in windows
        ),
        start=Fraction(1),
    )
    for unit, hull in enumerate(field.phases):
        if hull:
            assert field.start(unit) == hull[0]
            assert field.start(unit + 3 * period) == hull[0] + 3 * move
            assert field.end(unit - period) == hull[1] - move
    sizes = [last - first + 1 for first, last in filter(None, field.phases)]
    assert field.size == max(sizes, default=0)


@given(st.lists(st.one_of(ordinary, transposed), max_size=4))
def test_the_halo_is_what_a_period_of_units_reads_beyond_its_own(windows):
    field = dl.compose(windows)
    period, own = len(field.phases), int(field.stride * len(field.phases))
    units = [u for u in range(3 * period, 4 * period) if field.phases[u % period]]
    assume(units)
    first, last = min(map(field.start, units)), max(map(field.end, units))
    assert field.halo == (max(0, 3 * own - first), max(0, last - 4 * own + 1))


def test_a_tile_with_its_halo_gives_what_the_whole_gives():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv1d(1, 2, 3, 4, padding=1),
        torch.nn.Conv1d(2, 2, 5, dilation=3, padding=6),
        torch.nn.ConvTranspose1d(2, 1, 4, 2, padding=1),
    ).double()
    field = dl.receptive_field(network, (1, 160))[0]
    assert len(field.phases) == 2 and field.stride == 2
    period, (before, after) = 4, field.halo
    margin = -(-before // period) * period  # so that the tile begins on a period
    x = torch.randn(1, 1, 160, dtype=torch.double)
    with torch.no_grad():
        whole = network(x)[..., 30:42]  # the units of the positions 60 to 83
        tile = network(x[..., 60 - margin : 84 + after])
        short = network(x[..., 60 - margin : 84 + after - 1])
    kept = slice(margin // 2, margin // 2 + 12)
    torch.testing.assert_close(tile[..., kept], whole, rtol=0, atol=1e-12)
    assert (short[..., kept][..., -1] - whole[..., -1]).abs() > 1e-6


def test_no_layer_is_the_identity():
    field = dl.compose([])
    assert (field.size, field.stride, field.padding, field.phases) == (
        1,
        1,
        0,
        ((0, 0),),
    )


def test_a_dilated_layer_alone_sees_its_extent():
    assert dl.compose([Window(3, dilation=2)]).size == 5
    assert list(Window(3, dilation=2).inputs(0)) == [0, 2, 4]


def test_a_stride_and_its_transpose_leave_two_phases_at_stride_one():
    field = dl.compose([Window(3, 2), Window(3, 2, transposed=True)])
    assert (field.stride, field.phases) == (1, ((-2, 2), (0, 2)))
    assert repr(field) == "ReceptiveField(size=5, stride=1, phases=((-2, 2), (0, 2)))"


def test_an_ordinary_field_prints_its_padding():
    field = dl.compose([Window(3, 2, padding=1)])
    assert repr(field) == "ReceptiveField(size=3, stride=2, padding=1)"


def test_a_transposed_layer_has_a_fraction_for_its_stride():
    field = dl.compose([Window(16, 8, padding=4, transposed=True)])
    assert field.stride == Fraction(1, 8)
    assert field.phases == ((-1, 0),) * 4 + ((0, 1),) * 4
    assert repr(field).startswith("ReceptiveField(size=2, stride=1/8, phases=((-1, 0),")


def test_units_between_the_taps_of_a_transposed_layer_see_nothing():
    field = dl.compose([Window(1, 2, transposed=True)])
    assert field.phases == ((0, 0), None)
    assert (field.size, field.start(2), field.padding) == (1, 1, 0)
    for one in (field.start, field.end, field.centre):
        with pytest.raises(
            ValueError,
            match="unit 3 sees no input: it reads only gaps that the taps of a trans",
        ):
            one(3)


@pytest.mark.parametrize(("times", "crop"), [(2, 0), (2, 1), (3, 1)])
def test_a_drawing_puts_the_units_of_an_enlarged_map_side_by_side(times, crop):
    # together they cover what the map covered, so pixel 0 from -1/2 to 1/2
    layer = Window(times + 2 * crop, times, padding=crop, transposed=True)
    drawn = [place(dl.compose([layer]), unit) for unit in range(times)]
    assert drawn == pytest.approx([(n + 0.5) / times - 0.5 for n in range(times)])


def test_a_drawing_puts_a_unit_that_sees_nothing_between_those_that_see():
    field = dl.compose([Window(1, 2, transposed=True)])
    assert [place(field, unit) for unit in (2, 3, 4)] == [1, 1.5, 2]


def test_a_layer_that_reads_only_the_gaps_sees_nothing():
    field = dl.compose([Window(1, 2, padding=1, transposed=True), Window(1, 2)])
    assert (field.size, field.phases) == (0, (None,))
    assert repr(field) == "ReceptiveField(size=0, stride=1, empty)"


def test_holes_below_a_transposed_layer_are_kept_in_mind():
    # reading every second unit of a doubled signal: one phase, as if never doubled
    field = dl.compose([Window(2, 2, transposed=True), Window(2, dilation=2)])
    assert field.phases == ((0, 1), (0, 1))


def test_large_numbers_stay_exact():
    big = 10**12
    field = dl.compose([Window(big, big, dilation=big, padding=(big, 0))] * 3)
    assert field.size == 1 + sum(big * (big - 1) * big**n for n in range(3))
    assert field.stride == big**3
    assert field.padding == big + big**2 + big**3


def test_numpy_integers_do_not_overflow():
    n = np.int8(100)
    window = Window(n, n, dilation=n, padding=n, transposed=True, output_padding=n - 1)
    assert Window(n, padding=[n, n]) == Window(n, padding=100)
    for value in (*vars(window).values(), *Window(n, padding=[n, n]).pads):
        assert type(value) in (int, bool)
    assert dl.compose([Window(n, n, dilation=n)] * 5).size > 2**32


def test_a_deep_stack_with_upsampling_is_computed_unit_by_unit():
    windows = [Window(3, padding=1)] * 200 + [Window(2, 2)] * 3
    windows += [Window(16, 8, padding=4, transposed=True)]
    field = dl.compose(windows)
    assert len(field.phases) == 8
    assert field.size == 401 + 7 + 8


def test_upsampling_below_many_dilated_layers_costs_no_search_of_positions():
    # each unit keeps a hull, not the positions in it: 2**30 of them here
    windows = [Window(8, 4, padding=2, transposed=True)] * 4
    windows += [Window(3, dilation=2**n, padding=2**n) for n in range(30)]
    field = dl.compose(windows)
    assert len(field.phases) == 256
    # 2**31 - 1 units, 256 to an input position, and what the lowest four see
    assert field.size == 2**23 + dl.compose(windows[:4]).size


@pytest.mark.parametrize(("stride", "phases"), [(1, ()), (Fraction(1, 2), ((0, 1),))])
def test_a_field_whose_phases_fill_no_period_is_refused(stride, phases):
    with pytest.raises(
        ValueError, match=f"got {len(phases)} hulls at stride {stride}$"
    ):
        ReceptiveField(stride, phases)


def test_values_are_frozen_and_equal_by_value():
    assert Window(3, dilation=2) == Window(3, 1, dilation=2, padding=0)
    assert ReceptiveField(1, ((0, 2),)) == dl.compose([Window(3)])
    with pytest.raises(FrozenInstanceError):
        Window(3).stride = 2
    with pytest.raises(FrozenInstanceError):
        dl.compose([Window(3)]).stride = 2


def test_past_kernel_and_stride_a_window_takes_names_only():
    assert Window(3, 2) == Window(kernel_size=3, stride=2)
    with pytest.raises(TypeError, match="takes from 2 to 3 positional arguments"):
        Window(3, 2, 4)


# How many outputs


@given(st.one_of(ordinary, transposed), st.integers(1, 40), st.integers(0, 3))
def test_output_size_is_torchs_and_fails_where_torch_fails(window, length, extra):
    if window.transposed and extra < max(window.stride, window.dilation):
        window = Window(
            window.kernel_size,
            window.stride,
            dilation=window.dilation,
            padding=window.padding,
            transposed=True,
            output_padding=extra,
        )
    signal = torch.ones(1, 1, length, dtype=torch.float64)
    try:
        expected = run(window, signal).shape[-1]
    except RuntimeError:
        expected = 0
    if expected:
        assert window.output_size(length) == expected
    else:
        with pytest.raises(ValueError, match=f"input size {length}|padding .* crops"):
            window.output_size(length)


@given(small, small, small, pads, st.integers(0, 5), st.integers(1, 9))
def test_a_transposed_layer_is_torchs_and_refused_where_torch_refuses_it(
    kernel, stride, dilation, padding, extra, length
):
    step = {"stride": stride, "dilation": dilation, "padding": padding}
    signal, weight = torch.ones(1, 1, length), torch.ones(1, 1, kernel)
    try:
        out = F.conv_transpose1d(signal, weight, output_padding=extra, **step)
    except RuntimeError:
        with pytest.raises(
            ValueError, match=r"^output_padding must be|crops the whole"
        ):
            Window(kernel, **step, transposed=True, output_padding=extra).output_size(
                length
            )
    else:
        window = Window(kernel, **step, transposed=True, output_padding=extra)
        assert window.output_size(length) == out.shape[-1]


def test_the_last_output_still_fits_and_one_more_would_not():
    window = Window(3, 4, dilation=2, padding=(1, 2))
    for length in range(2, 60):
        last = window.inputs(window.output_size(length) - 1)[-1]
        assert last < length + 2 <= last + window.stride


# Bad input: one error that repeats the value and says what is right


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": 0}, ValueError, "kernel_size must be at least 1, got 0"),
        ({"kernel_size": -3}, ValueError, "kernel_size must be at least 1, got -3"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"stride": -2}, ValueError, "stride must be at least 1, got -2"),
        ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
        ({"dilation": -1}, ValueError, "dilation must be at least 1, got -1"),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"padding": (1, -7)}, ValueError, "padding must be at least 0, got -7"),
        (
            {"padding": (1, 2, 3)},
            ValueError,
            r"pair \(before, after\), got \(1, 2, 3\)",
        ),
        ({"padding": "same"}, TypeError, "padding must be a whole number, got 'same'"),
        ({"padding": {1, 2}}, TypeError, r"padding must be a whole number, got \{1, 2"),
        ({"kernel_size": True}, TypeError, "kernel_size must be a whole number, got T"),
        ({"padding": (False, 1)}, TypeError, "padding must be a whole number, got Fal"),
        ({"transposed": "no"}, TypeError, "transposed must be True or False, got 'no'"),
        ({"transposed": 1}, TypeError, "transposed must be True or False, got 1"),
        ({"padding": (1, 0.5)}, TypeError, "padding must be a whole number, got 0.5"),
        (
            {"kernel_size": 2.5},
            TypeError,
            "kernel_size must be a whole number, got 2.5",
        ),
        ({"kernel_size": None}, TypeError, "kernel_size must be a whole number, got N"),
        ({"stride": 1.5}, TypeError, "stride must be a whole number, got 1.5"),
        ({"dilation": 0.5}, TypeError, "dilation must be a whole number, got 0.5"),
        ({"padding": 1.5}, TypeError, "padding must be a whole number, got 1.5"),
        ({"padding": None}, TypeError, "padding must be a whole number, got None"),
        ({"padding": (None, 1)}, TypeError, "padding must be a whole number, got None"),
        (
            {"output_padding": 0.5, "transposed": True},
            TypeError,
            "output_padding must be a whole number, got 0.5",
        ),
        ({"kernel_size": (3, 3)}, TypeError, r"a whole number, got \(3, 3\)"),
        ({"stride": None}, TypeError, "stride must be a whole number, got None"),
        ({"dilation": "2"}, TypeError, "dilation must be a whole number, got '2'"),
        (
            {"output_padding": 1},
            ValueError,
            "belongs to transposed layers, got output_padding=1 with transposed=False",
        ),
        (
            {"output_padding": 2, "stride": 2, "transposed": True},
            ValueError,
            "smaller than stride or dilation, got output_padding=2 with stride=2, "
            "dilation=1",
        ),
        (
            {"output_padding": -1, "transposed": True},
            ValueError,
            "output_padding must be at least 0, got -1",
        ),
    ],
)
def test_an_impossible_layer_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Window(**{"kernel_size": 3} | arguments)


def test_output_padding_may_reach_the_larger_of_stride_and_dilation():
    for stride, dilation in ((4, 2), (2, 4)):
        window = Window(3, stride, dilation=dilation, transposed=True, output_padding=3)
        assert window.output_size(5) == 4 * stride + 2 * dilation + 1 + 3


@pytest.mark.parametrize(
    ("window", "size", "error", "message"),
    [
        (
            Window(3, dilation=4, padding=(0, 1)),
            7,
            ValueError,
            "larger than the padded input: kernel_size 3 with dilation 4 spans 9, but "
            r"input size 7 with padding \(0, 1\) has 8",
        ),
        (
            Window(3, padding=2, transposed=True),
            2,
            ValueError,
            r"padding \(2, 2\) crops the whole output of 4 for input size 2; it must "
            "leave at least 1",
        ),
        (Window(3), 0, ValueError, "input size must be at least 1, got 0"),
        (Window(3), -5, ValueError, "input size must be at least 1, got -5"),
        (Window(3), 9.5, TypeError, "input size must be a whole number, got 9.5"),
    ],
)
def test_a_layer_that_leaves_no_output_is_refused(window, size, error, message):
    with pytest.raises(error, match=message):
        window.output_size(size)


@pytest.mark.parametrize("wrong", [3, (3, 1), None, torch.nn.Conv1d(1, 1, 3)])
def test_compose_takes_windows_only(wrong):
    with pytest.raises(TypeError, match="layer 2 must be a Window, got "):
        dl.compose([Window(3), wrong])


@pytest.mark.parametrize("wrong", [Window(3), None, 3])
def test_compose_takes_a_list_only(wrong):
    with pytest.raises(TypeError, match="windows must be a list of Windows, got "):
        dl.compose(wrong)


def test_a_unit_is_a_whole_number_of_any_kind():
    field = dl.compose([Window(3, 100)])
    assert field.start(np.int8(100)) == 10_000
    assert list(Window(3, 100).inputs(np.int8(100))) == [10_000, 10_001, 10_002]
    for ask in (field.start, field.end, field.centre, Window(3).inputs):
        with pytest.raises(TypeError, match=r"unit must be a whole number, got 1\.5"):
            ask(1.5)


def test_a_table_of_reads_repeats_itself():
    layer = Sampling(3, ((0,), (1, 2)))
    assert [[*layer.inputs(unit)] for unit in range(-1, 4)] == [
        [-2, -1], [0], [1, 2], [3], [4, 5],
    ]  # fmt: skip


@given(st.lists(st.one_of(ordinary, transposed), max_size=3), st.integers(1, 3))
def test_a_window_is_a_table_of_reads(stack, unit):
    field = dl.compose(stack)
    layer = Window(3, 2, dilation=unit, padding=1)
    table = Sampling(2, (tuple(layer.inputs(0)),))
    assert above(field, layer) == above(field, table)


def test_a_join_is_the_hull_of_the_union():
    left, right = (
        dl.compose([Window(3, padding=3)]),
        dl.compose([Window(2, dilation=4)]),
    )
    both = join([left, right])
    assert (both.start(5), both.end(5)) == (2, 9) and both.size == 8
    assert join([left]) is left and join([left, left]) is left


def test_a_join_of_phases_has_the_common_period():
    twice = dl.compose([Window(2, 2), Window(2, 2, transposed=True)])
    thrice = dl.compose([Window(3, 3), Window(3, 3, transposed=True)])
    both = join([twice, thrice])
    assert len(both.phases) == 6
    for unit in range(12):
        assert both.start(unit) == min(twice.start(unit), thrice.start(unit))
        assert both.end(unit) == max(twice.end(unit), thrice.end(unit))


def test_a_join_skips_what_reads_nothing():
    gaps = dl.compose([Window(1, 2, transposed=True), Window(1, 2)])
    odd = dl.compose([Window(1, 2, transposed=True), Window(1, 2, padding=1)])
    assert gaps.phases == ((0, 0),) and odd.phases == (None,)
    assert join([gaps, odd]) == gaps


def test_maps_of_different_strides_do_not_join():
    maps = [dl.compose([Window(1, stride)]) for stride in (2, 4, 2)]
    with pytest.raises(ValueError, match=r"different strides meet.*: 2 and 4$"):
        join(maps)


def test_a_whole_axis_swallows_what_it_joins():
    whole = dl.ReceptiveField(0, ((-math.inf, math.inf),))
    some = dl.compose([Window(3, 4)])
    both = join([some, whole])
    assert both.size == math.inf and both.stride == 4
    assert above(both, Window(3, 2)).stride == 8
    assert above(both, Window(3, 2)).size == math.inf
    assert repr(both) == "ReceptiveField(size=inf, stride=4, unbounded)"
    for ask in (both.start, both.end, both.centre, lambda _: both.padding):
        with pytest.raises(ValueError, match="unit 0 sees the whole axis"):
            ask(0)
    coarse = dl.ReceptiveField(8, whole.phases)  # at any distance from the others
    for maps in ([some, coarse], [coarse, some]):
        assert join(maps).stride == 4
    half = join([dl.ReceptiveField(Fraction(1, 2), ((0, 0), (0, 0))), whole])
    assert half.stride == Fraction(1, 2) and half.size == math.inf
