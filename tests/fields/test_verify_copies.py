"""Verification runs a copy of the network, which not every network allows."""

import threading

import pytest
from torch import nn

import dilated_lib as dl


def test_a_network_that_holds_a_lock_is_refused_in_a_sentence():
    model = nn.Sequential(nn.Conv2d(2, 2, 3))
    model.lock = threading.Lock()
    assert [one.size for one in dl.receptive_field(model, (2, 9, 9))] == [3, 3]
    with pytest.raises(ValueError, match="or as a copy: cannot pickle"):
        dl.verify(model, (2, 9, 9))


class Strict(nn.Module):
    def forward(self, x):
        assert not x.isnan().any()
        return x


def test_what_follows_the_layer_asked_for_meets_no_nan():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2), Strict())
    assert dl.verify(model, (1, 8, 8), to="0") is None


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.layer(self.layer(x)).relu()


def test_of_a_layer_that_is_called_twice_the_last_call_counts():
    model = Twice()
    assert dl.receptive_field(model, (1, 8, 8), to="layer")[0].size == 5
    assert dl.verify(model, (1, 8, 8), to="layer") is None


def test_calls_of_a_layer_with_two_names_cannot_be_told_apart():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    model = nn.Sequential(layer, layer)
    for name, size in (("0", 3), ("1", 5)):
        assert dl.receptive_field(model, (1, 8, 8), to=name)[0].size == size
        with pytest.raises(ValueError, match="0, 1 are one module: give it one name"):
            dl.verify(model, (1, 8, 8), to=name)
