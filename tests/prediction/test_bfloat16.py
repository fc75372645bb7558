"""The network for CPUs: the labels of the one that it was made from."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dilated_lib as dl
from dilated_lib.networks.architecture import (
    photo_network,
    small_network,
    street_network,
)
from dilated_lib.prediction import bfloat16


@pytest.fixture
def photo():
    draw = np.random.default_rng(0)
    small = Image.fromarray(draw.integers(0, 256, (6, 8, 3), np.uint8))
    return small.resize((80, 64), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("own", [photo_network, small_network, street_network])
@pytest.mark.parametrize("has", [False, True])
def test_the_quick_network_predicts_the_same(monkeypatch, photo, has, own):
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: has)
    network = own()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    ready = dl.quick(network)
    assert not ready.training
    last = torch.channels_last
    assert ready.front.conv1_1.weight.is_contiguous(memory_format=last)
    shares = [dl.predict(photo, one) for one in (network, ready)]
    close = 0.05 if has else 1e-5
    assert shares[1].probabilities.dtype == torch.float32
    gap = (shares[0].probabilities - shares[1].probabilities).abs().max()
    assert gap < close
    assert (gap > 1e-4) == has
    assert (shares[0].labels == shares[1].labels).mean() > 0.98
    # the network itself is as it was, and the copy has its names and numbers
    after, copied = network.state_dict(), ready.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(copied) == list(before)
    for name, one in copied.items():
        torch.testing.assert_close(
            one.to(before[name]), before[name], rtol=0.01, atol=1e-3
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_quick_network_of_one_in_another_precision(monkeypatch, photo, dtype):
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: True)
    wanted = dl.predict(photo, dl.quick(small_network())).labels
    found = dl.predict(photo, dl.quick(small_network().to(dtype))).labels
    assert (found == wanted).mean() > 0.99


def test_only_the_middle_of_the_front_end_is_in_bfloat16(monkeypatch):
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: True)
    ready = dl.quick(small_network())
    low = [
        name
        for name, layer in ready.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.weight.dtype == torch.bfloat16
    ]
    assert low[0] == "front.conv1_2" and low[-1] == "front.final" and len(low) == 15
    assert ready.front.conv1_1.weight.dtype == torch.float32
    assert not any(name.startswith("context") for name in low)


@pytest.mark.parametrize(
    ("found", "has"),
    [
        ({}, False),
        ({"avx512_bf16": False, "avx512_f": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
    ],
)
def test_bfloat16_is_asked_of_the_cpu(monkeypatch, found, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert bfloat16.has_bfloat16() is has


def test_without_the_question_there_is_no_bfloat16(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert bfloat16.has_bfloat16() is False
