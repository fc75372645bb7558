"""Trials: what each kind of layer leaves over, and the sizes near one that fails."""

import sys
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dilated_lib.fields import trial
from dilated_lib.fields.tracing import TracingError
from dilated_lib.fields.trial import PADDING, REMAINDER, UNEVEN, WHOLE


@pytest.mark.parametrize(
    ("layer", "lengths"),
    [
        # three pixels, every second: 9 hold four windows, 10 one pixel more
        (nn.Conv2d(1, 1, 3, 2), {9: WHOLE, 10: REMAINDER}),
        # padded by one: of 10 + 2 the last window leaves one, which is padding
        (nn.Conv2d(1, 1, 3, 2, 1), {9: WHOLE, 10: PADDING}),
        # padded by three, every fourth: more than the padding is left over, or as much
        (nn.Conv2d(1, 1, 1, 4, 3), {15: WHOLE, 16: PADDING}),
        (
            nn.Conv2d(1, 1, 5, 8, 2),
            {17: WHOLE, 19: PADDING, 22: PADDING, 23: REMAINDER},
        ),
        # two pixels, every fourth: two between windows are read by nobody anyway
        (nn.Conv2d(1, 1, 2, 4), {10: WHOLE, 11: PADDING, 12: PADDING, 13: REMAINDER}),
        (nn.Conv2d(1, 1, 3, 2, dilation=2), {9: WHOLE, 10: REMAINDER}),
        (nn.MaxPool2d(2), {8: WHOLE, 9: REMAINDER}),
        (nn.AvgPool2d(3, 2), {9: WHOLE, 10: REMAINDER}),
        (nn.ConvTranspose2d(1, 1, 3, 2, 1), {8: WHOLE, 9: WHOLE}),
        (nn.AdaptiveAvgPool2d(4), {9: WHOLE}),
        (nn.AdaptiveMaxPool2d(4), {9: WHOLE}),
        (nn.BatchNorm2d(1), {9: WHOLE}),
        (nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2)), {8: WHOLE, 9: PADDING}),
        (nn.Sequential(nn.ReflectionPad2d(1), nn.MaxPool2d(2)), {9: PADDING}),
        (nn.Sequential(nn.ZeroPad2d(-1), nn.MaxPool2d(2)), {9: REMAINDER}),
        (nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(1, 1, 1)), {9: REMAINDER}),
    ],
)
def test_what_a_layer_leaves_over(layer, lengths):
    for length, level in lengths.items():
        assert trial.attempt(layer, (1, length, length)) == (level, level)


def test_each_axis_has_its_own():
    layer = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 0)), nn.Conv2d(1, 1, 2, (1, 2)))
    assert trial.attempt(layer, (1, 9, 9)) == (WHOLE, WHOLE)
    assert trial.attempt(layer, (1, 9, 8)) == (WHOLE, PADDING)
    assert trial.attempt(nn.Conv3d(1, 1, 2, 2), (1, 8, 9, 8)) == (WHOLE, REMAINDER, 0)
    assert trial.attempt(nn.Conv1d(1, 1, 2, 2), (1, 9)) == (REMAINDER,)
    assert trial.attempt(nn.Upsample(size=3), (1, 2)) == (REMAINDER,)
    tokens = nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 1, 2, 2))  # no axis of these
    assert trial.attempt(tokens, (1, 3, 3)) == (WHOLE, WHOLE)


@pytest.mark.parametrize(
    ("sizes", "corners", "level"),
    [
        ((2, 6), False, WHOLE),
        ((6, 2), False, WHOLE),
        ((2, 3), False, REMAINDER),
        ((4, 5), False, REMAINDER),
        ((4, 7), True, WHOLE),  # three steps between corners become six
        ((4, 8), True, WHOLE),
        ((4, 7), False, REMAINDER),
        ((4, 6), True, REMAINDER),
        ((1, 5), True, WHOLE),
        ((2, 3, 6), False, REMAINDER),  # once is enough
    ],
)
def test_resizing_by_a_factor_that_is_not_whole(sizes, corners, level):
    first, *rest = sizes
    layers = [
        nn.Upsample((size, size), mode="bilinear", align_corners=corners)
        for size in rest
    ]
    assert trial.attempt(nn.Sequential(*layers), (1, first, first)) == (level, level)


def test_behind_the_module_asked_for_only_resizing_counts():
    layers = nn.Sequential(nn.MaxPool2d((1, 2)), nn.MaxPool2d(2), nn.Upsample((3, 4)))
    assert trial.attempt(layers, (1, 5, 8), to="0") == (UNEVEN, WHOLE)
    assert trial.attempt(layers, (1, 5, 9), to="0") == (UNEVEN, REMAINDER)
    assert trial.attempt(layers, (1, 5, 13), to="0") == (UNEVEN, REMAINDER)
    assert trial.attempt(layers, (1, 6, 8), to="2") == (WHOLE, WHOLE)


class Late(nn.Module):
    """It reads values before ``body``, and decides by values behind it."""

    def __init__(self, decides):
        super().__init__()
        self.body, self.decides = nn.Conv2d(1, 1, 3), decides

    def forward(self, x):
        x = self.body(x * x.mean().item())
        if self.decides and x.sum() > 0:
            x = x + 1
        return x


def test_where_a_trial_needs_values_tracing_may_get_further():
    assert trial.attempt(Late(decides=False), (1, 9, 9)) is not None
    assert trial.attempt(Late(decides=True), (1, 9, 9), to="body") is not None
    with pytest.raises(TracingError, match="depends on the values"):
        trial.attempt(Late(decides=True), (1, 9, 9))


class Slope(nn.Module):
    """It converts to float64, and differentiates by its input."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 1, 3, 2).double()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        with torch.enable_grad():
            x = (self.scale.float() * x).double().requires_grad_()
            return torch.autograd.grad(F.max_pool2d(self.body(x), 2).sum(), x)[0]


def test_gradients_within_a_network_are_no_layers():
    assert trial.attempt(Slope(), (1, 9, 11)) == (WHOLE, REMAINDER)
    assert trial.attempt(Slope(), (1, 9, 10), to="body") == (WHOLE, REMAINDER)


class Takes(nn.Module):
    """It takes lengths of which a function says that they fit."""

    def __init__(self, fits):
        super().__init__()
        self.fits = fits

    def forward(self, x):
        assert all(map(self.fits, x.shape[2:])), "does not fit"
        return x


@pytest.mark.parametrize(
    ("fitting", "sizes", "told"),
    [
        ({8, 16}, (3, 10, 10), "3 x 8 x 8 and 3 x 16 x 16"),
        ({8, 16}, (3, 8, 11), "3 x 8 x 8 and 3 x 8 x 16"),
        ({8, 16}, (3, 10, 20), "3 x 8 x 16"),
        ({8, 16}, (3, 11), "3 x 8 and 3 x 16"),
        ({1}, (3, 5), "3 x 1"),
        ({9 + 63}, (3, 9), "3 x 72"),
        ({9 + 64}, (3, 9), ""),
        ({70 - 63}, (3, 70), "3 x 7"),
        ({70 - 64}, (3, 70), ""),
        ({8}, (3, 8, 8), ""),
    ],
)
def test_sizes_nearby_are_looked_for_64_pixels_to_either_side(fitting, sizes, told):
    with patch.object(trial, "PATIENCE", 60):
        found = trial.near(Takes(fitting.__contains__), [sizes])
    assert found == (told and f"; sizes that fit are {told}")


def test_no_sizes_are_told_for_several_inputs_or_where_values_are_needed():
    assert trial.near(Takes({8}.__contains__), [(3, 9), (3, 9)]) == ""
    assert trial.near(Late(decides=True), [(1, 2, 2)]) == ""


def test_no_sizes_are_told_for_a_network_that_is_nested_too_deeply():
    network = nn.Conv2d(1, 1, 3)
    for _ in range(sys.getrecursionlimit()):
        network = nn.Sequential(network)
    assert trial.near(network, [(1, 2, 2)]) == ""


@pytest.mark.parametrize(("taken", "told"), [(5.0, "3 x 8"), (5.5, "")])
def test_the_search_ends_after_five_seconds(taken, told):
    clock = iter([100.0, 100.0])
    with patch.object(trial.time, "monotonic", lambda: next(clock, 100.0 + taken)):
        found = trial.near(Takes({8}.__contains__), [(3, 10)])
    assert found == (told and f"; sizes that fit are {told}")
