"""Where the units of a layer stand on the map that they read."""

from fractions import Fraction

import pytest
import torch
from torch.nn import functional as F

from dilated_lib import Window
from dilated_lib.fields.layers import along
from dilated_lib.fields.size_search import _outwards


@pytest.mark.parametrize("padding", [0, 3, (1, 4)])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("taps", [1, 2, 5])
def test_a_unit_is_centred_on_what_it_reads(taps, dilation, padding):
    """A mean over the taps of a ramp is the position of their centre."""
    window = Window(taps, 2, dilation=dilation, padding=padding)
    kernel = torch.full((1, 1, taps), 1 / taps, dtype=torch.float64)
    before, after = window.pads
    ramp = torch.arange(-before, 20 + after, dtype=torch.float64)[None, None]
    positions = F.conv1d(ramp, kernel, stride=2, dilation=dilation).flatten()
    (centre,) = along(window).centres
    assert positions.tolist() == pytest.approx(
        [centre + 2 * n for n in range(len(positions))]
    )


@pytest.mark.parametrize("stride", [2, 4, 6])
def test_a_bilinear_deconvolution_stands_where_interpolation_does(stride):
    window = Window(2 * stride, stride, padding=stride // 2, transposed=True)
    ramp = torch.arange(9, dtype=torch.float64)[None, None]
    places = F.interpolate(ramp, scale_factor=stride, mode="linear").flatten()
    found = along(window).centres
    away = 4 * stride  # from the border, where torch repeats it
    assert places[away : away + stride].tolist() == pytest.approx(
        [4 + one for one in found]
    )
    assert along(window).layer.step == 1 and all(
        isinstance(one, Fraction) for one in found
    )


def test_lengths_around_one_come_by_their_distance():
    assert _outwards(9, 2) == [9, 8, 10, 7, 11]
    assert _outwards(2, 3) == [2, 1, 3, 4, 5]
