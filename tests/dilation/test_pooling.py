"""Dilated pooling against torch's layers, on maps whose units stand further apart."""

import copy

import pytest
import torch
from torch import nn

from dilated_lib.dilation.pooling import dilated_pool, pair
from dilated_lib.dilation.remove_stride import _Change, _changed

WINDOWS = {
    "alike along both axes": ((3, 2, 1), {}),
    "without padding": (((2, 3), (1, 2)), {}),
    "padded along one axis": (((2, 4), (3, 2), (0, 2)), {}),
    "padded along the other": (((4, 1), (2, 3), (2, 0)), {}),
    "rounded up": ((2, (3, 2)), {"ceil_mode": True}),
    "padded and rounded up": (((3, 2), (2, 3), 1), {"ceil_mode": True}),
}
LAYERS = {
    "maximum": (nn.MaxPool2d, {}),
    "dilated maximum": (nn.MaxPool2d, {"dilation": (1, 2)}),
    "average": (nn.AvgPool2d, {}),
    "average that leaves out padding": (nn.AvgPool2d, {"count_include_pad": False}),
    "sum in fifths": (nn.AvgPool2d, {"divisor_override": 5}),
}


@pytest.mark.parametrize("rate", [1, 2, 3])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_so_many_units_are_those_of_the_layer(kind, window, rate):
    (make, options), (sizes, more) = LAYERS[kind], WINDOWS[window]
    layer = make(*sizes, **options, **more)
    maps = torch.randn(2, 3, 29, 32, generator=torch.Generator().manual_seed(0))
    wanted = layer(maps[:, :, ::rate, ::rate])
    for removed in (False, True):
        dense = _changed(copy.deepcopy(layer), _Change(removed, rate))
        down, right = pair(layer.stride) if removed else (1, 1)
        found = dense(maps)[:, :, :: down * rate, :: right * rate]
        torch.testing.assert_close(found, wanted)


def test_what_torch_can_do_is_left_to_it():
    for layer in (nn.AvgPool2d(3, 2, 1), nn.MaxPool2d((2, 4), 2, (1, 2))):
        assert dilated_pool(layer, (1, 1), 1) is None
    assert dilated_pool(nn.MaxPool2d((4, 1), 2, (1, 0)), (1, 1), 2) is None
