"""Where the units of a layer stand on the map that they read."""

from fractions import Fraction

import pytest
import torch
from torch.nn import functional as F

from dilated_lib import Window
from dilated_lib.fields.layers import along, resampled
from dilated_lib.fields.size_search import _outwards
from dilated_lib.fields.windows import Sampling


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


@pytest.mark.parametrize(("kind", "mode"), [("linear", "bilinear"), ("bicubic",) * 2])
@pytest.mark.parametrize(
    ("size", "out"),
    [(4, 4), (5, 10), (5, 15), (6, 4), (12, 3), (5, 2), (5, 1), (9, 3), (13, 4)],
)
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_resized_map_reads_what_torch_weights(kind, mode, size, out, corners, smooth):
    def resized(x):
        options = {"align_corners": corners, "antialias": smooth}
        return F.interpolate(x, (out, size), mode=mode, **options)[0, 0, :, 0]

    how = resampled(size, out, kind, None, corners, smooth)
    x = torch.zeros(1, 1, size, size, dtype=torch.float64)
    weights = torch.autograd.functional.jacobian(resized, x)[:, 0, 0, :, 0]
    marked = [x.index_fill(2, torch.tensor([n]), torch.nan) for n in range(size)]
    touched = torch.stack([resized(one).isnan() for one in marked], 1)
    positions, pads = torch.arange(size).double()[None, None], 0
    if how.border != "blank":
        positions, pads = F.pad(positions, (3, 3), mode=how.border), 3
    stands_for = dict(enumerate(positions.flatten().tolist(), -pads))
    for unit in range(out):
        weighted, passed = (
            {stands_for[n] for n in layer.inputs(unit) if n in stands_for}
            for layer in (how.weighted or how.layer, how.idle or how.layer)
        )
        heavy = weights[unit].abs() > 1e-12
        assert weighted == {*heavy.nonzero().flatten().tolist()}
        theirs = {*touched[unit].nonzero().flatten().tolist()}
        assert theirs == passed if out < size else theirs <= passed
    units = range(len(how.centres))
    ratio = size / out
    if corners:
        ratio = (size - 1) / (out - 1) if out > 1 else 0
    middles = [(n + 0.5) * ratio - 0.5 for n in units]
    if corners and not smooth:
        middles = [n * ratio for n in units]
    assert how.centres == pytest.approx(middles)


@pytest.mark.parametrize("kind", ["nearest", "nearest_exact"])
@pytest.mark.parametrize(
    ("size", "out", "scale"), [(9, 3, 0.4), (6, 9, 1.5), (9, 6, None), (5, 7, None)]
)
def test_nearest_pixels_are_those_that_torch_takes(kind, size, out, scale):
    by = {"size": out} if scale is None else {"scale_factor": scale}
    line = torch.arange(size).double()[None, None]
    theirs = F.interpolate(line, **by, mode=kind.replace("_", "-")).flatten()
    layer = resampled(size, out, kind, scale, False, False).layer
    assert [[*layer.inputs(unit)] for unit in range(out)] == theirs[:, None].tolist()


def test_nearest_pixels_that_torch_rounds_otherwise_are_not_told():
    # pixel 20 stands at 20.5 · 4 / 41, which is 2, and in single precision just below
    line = torch.arange(4.0)[None, None]
    assert F.interpolate(line, 41, mode="nearest-exact")[0, 0, 20] == 1
    assert resampled(4, 41, "nearest_exact", None, False, False) is None


@pytest.mark.parametrize("kind", ["nearest", "linear", "bicubic"])
def test_a_factor_of_one_changes_nothing(kind):
    assert resampled(6, 6, kind, 1.0, False, False).layer == Sampling(1, ((0,),))
    # torch may or may not take positions 1.05 apart, and there are six of them again
    assert resampled(6, 6, kind, 1.05, False, False) is None


def test_lengths_around_one_come_by_their_distance():
    assert _outwards(9, 2) == [9, 8, 10, 7, 11]
    assert _outwards(2, 3) == [2, 1, 3, 4, 5]
