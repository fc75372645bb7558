"""Numbers that the paper, its code and its neighbours state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dilated_lib as dl
from dilated_lib import Window


def group(convolutions, pool=True, dilation=1):
    """Some 3-tap layers without padding, and a two-tap pool with stride 2."""
    return [Window(3, dilation=dilation)] * convolutions + [Window(2, 2)] * pool


FRONT_END = [
    *group(2),
    *group(2),
    *group(3),
    *group(3, pool=False),
    *group(3, pool=False, dilation=2),
    Window(7, dilation=4),
    Window(1),
    Window(1),
]
DILATIONS = (1, 1, 2, 4, 8, 16, 1)
CONTEXT = [Window(3, dilation=d, padding=d) for d in DILATIONS]


def units(windows, size):
    for window in windows:
        size = window.output_size(size)
    return size


# Caffe's pools round up: one more unit where a last pair is cut in half
CAFFE = [
    Window(2, 2, padding=(0, 1)) if layer == Window(2, 2) else layer
    for layer in FRONT_END
]


def reached(dilations):
    """How many inputs a unit of a stack of 3-tap layers is connected to."""
    seen = {0}
    for d in reversed(dilations):
        layer = Window(3, dilation=d)
        seen = {position for unit in seen for position in layer.inputs(unit)}
    return len(seen)


def test_figure_1():
    stack = [Window(3, dilation=d) for d in (1, 2, 4)]
    assert [dl.compose(stack[:n]).size for n in (1, 2, 3)] == [3, 7, 15]


def test_receptive_fields_double_with_the_dilation():
    for i in range(30):
        stack = [Window(3, dilation=2**n) for n in range(i + 1)]
        assert dl.compose(stack).size == 2 ** (i + 2) - 1


@given(
    st.lists(
        st.builds(
            Window,
            kernel_size=st.integers(1, 3),
            stride=st.integers(1, 2),
            dilation=st.integers(1, 3),
        ),
        max_size=5,
    )
)
def test_the_notes_formula_holds_while_layers_that_widen_have_stride_1_below(stack):
    p0 = 1
    for layer in stack:
        p0 = layer.extent + (p0 - 1)
    holds = all(
        layer.extent == 1 or all(below.stride == 1 for below in stack[:depth])
        for depth, layer in enumerate(stack)
    )
    assert (dl.compose(stack).size == p0) is holds


def test_one_2_dilated_layer_sees_5_and_not_7():
    assert (dl.compose([Window(3, dilation=2)]).size, reached([2])) == (5, 3)


@pytest.mark.parametrize(
    ("dilations", "inputs", "size"),
    [
        ((2, 2, 2), 7, 13),
        ((2, 4, 8), 15, 29),
        ((1, 2, 9), 21, 25),
        ((1, 2, 5), 17, 17),
        ((1, 3, 9), 27, 27),
        (DILATIONS, 67, 67),
    ],
)
def test_gridding_leaves_holes_where_it_is_said_to(dilations, inputs, size):
    assert reached(dilations) == inputs
    assert dl.compose([Window(3, dilation=d) for d in dilations]).size == size


def test_table_1():
    rows = [dl.compose([*CONTEXT, Window(1)][:n]).size for n in range(1, 9)]
    assert rows == [3, 5, 9, 17, 33, 65, 67, 67]


def test_the_context_module_keeps_the_size_and_the_place():
    assert units(CONTEXT, 66) == 66
    assert dl.compose(CONTEXT).centre(20) == 20


def test_padding_once_keeps_the_size_and_the_place_too():
    once = [
        Window(3, dilation=d, padding=0 if depth else 33)
        for depth, d in enumerate(DILATIONS)
    ]
    assert units(once, 66) == 66
    assert dl.compose(once) == dl.compose(CONTEXT)


def test_the_context_of_cityscapes_sees_259_cells_and_more_than_its_input():
    context = [Window(3, dilation=d) for d in (1, 1, 2, 4, 8, 16, 32, 64, 1)]
    assert dl.compose(context).size == 259
    assert dl.compose([*FRONT_END, *context]).size == 380 + 8 * 258


def test_the_front_end_sees_380_with_stride_8():
    field = dl.compose(FRONT_END)
    assert (field.size, field.stride, field.padding) == (380, 8, 0)
    assert [field.centre(i) for i in (0, 1, 65)] == [189.5, 197.5, 709.5]


def test_the_margin_is_186():
    field = dl.compose(FRONT_END)
    assert (field.size - field.stride) / 2 == 186
    assert field.centre(5) - 186 == 8 * 5 + 3.5
    for n in (1, 2, 66, 91):
        assert units(FRONT_END, 372 + 8 * n) == units(CAFFE, 372 + 8 * n) == n


@pytest.mark.parametrize(
    ("name", "size", "cells"),
    [
        ("pascal_voc", (900, 900), (66, 66)),
        ("camvid", (900, 1100), (66, 91)),
        ("cityscapes", (1396, 1396), (128, 128)),
    ],
)
def test_the_maps_of_the_released_networks(name, size, cells):
    assert tuple(units(FRONT_END, side) for side in size) == cells


def test_kittis_width_is_where_rounding_up_matters():
    assert (units(FRONT_END, 852), units(CAFFE, 852)) == (60, 60)
    assert (units(FRONT_END, 1640), units(CAFFE, 1640)) == (158, 159)


def test_the_deconvolution_of_cityscapes_puts_units_in_the_middle_of_their_blocks():
    up = dl.compose([Window(16, 8, padding=4, transposed=True)])
    assert {up.size} == {2}
    # the middle pixels 8i + 3 and 8i + 4 change neighbours: 8i + 3.5 is unit i itself
    assert [up.start(8 * 7 + pixel) for pixel in (3, 4)] == [6, 7]


def test_vgg_16_and_alexnet_of_araujo_norris_and_sim():
    vgg = [*group(2), *group(2), *group(3), *group(3), *group(3)]
    assert dl.compose(vgg).size == 212
    pool = Window(3, 2)
    alexnet = [Window(11, 4), pool, Window(5), pool, *[Window(3)] * 3, pool]
    assert (dl.compose(alexnet).size, dl.compose(alexnet).stride) == (195, 32)
