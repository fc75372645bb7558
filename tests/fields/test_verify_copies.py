"""Verification needs a copy of the network, which not every network allows."""

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
