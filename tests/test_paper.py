"""Numbers that the paper, its code and its neighbours state."""

import pytest

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
CONTEXT = [Window(3, dilation=d, padding=d) for d in (1, 1, 2, 4, 8, 16, 1)]


def units(windows, size):
    for window in windows:
        size = window.output_size(size)
    return size


def test_figure_1():
    stack = [Window(3, dilation=d) for d in (1, 2, 4)]
    assert [dl.compose(stack[:n]).size for n in (1, 2, 3)] == [3, 7, 15]


def test_receptive_fields_double_with_the_dilation():
    for i in range(30):
        stack = [Window(3, dilation=2**n) for n in range(i + 1)]
        assert dl.compose(stack).size == 2 ** (i + 2) - 1


def test_table_1():
    rows = [dl.compose([*CONTEXT, Window(1)][:n]).size for n in range(1, 9)]
    assert rows == [3, 5, 9, 17, 33, 65, 67, 67]


def test_the_context_module_keeps_the_size_and_the_place():
    assert units(CONTEXT, 66) == 66
    assert dl.compose(CONTEXT).centre(20) == 20


def test_the_front_end_sees_380_with_stride_8():
    field = dl.compose(FRONT_END)
    assert (field.size, field.stride, field.padding) == (380, 8, 0)


def test_the_margin_is_186():
    field = dl.compose(FRONT_END)
    assert (field.size - field.stride) / 2 == 186
    assert field.centre(5) - 186 == 8 * 5 + 3.5
    for n in (1, 2, 66, 91):
        assert units(FRONT_END, 372 + 8 * n) == n


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
    assert units(FRONT_END, 1640) == 158  # Caffe rounds up and has 159


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
