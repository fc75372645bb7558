"""Costs counted against torch, times against a clock, and the network for CPUs."""

import json
import random
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dilated_lib as dl
from dilated_lib.dilation.cost import Cost, Timing, activations, cost, measure
from dilated_lib.experiments import precision, speed
from dilated_lib.networks.architecture import small_network
from dilated_lib.prediction import bfloat16


def test_operations_are_those_that_torch_counts():
    draw = random.Random(0)
    for _ in range(50):
        groups = draw.choice((1, 1, 2))
        conv = nn.Conv2d(
            4 * groups,
            2 * groups,
            (draw.randint(1, 4), draw.randint(1, 4)),
            draw.randint(1, 3),
            padding=(draw.randint(0, 3), draw.randint(0, 3)),
            dilation=draw.randint(1, 4),
            groups=groups,
        )
        x = torch.zeros(3, conv.in_channels, 19, 23)
        with FlopCounterMode(display=False) as counter:
            out = conv(x)
        counted = cost(conv, (19, 23), batch=3)
        assert counted.operations == counter.get_total_flops()
        assert counted.bytes == 4 * (x.numel() + conv.weight.numel() + out.numel())
        assert cost(conv, (19, 23), batch=3, number=2).bytes * 2 == counted.bytes


def test_the_dilation_changes_no_operation():
    costs = {
        cost(nn.Conv2d(21, 21, 3, padding=d, dilation=d), (64, 64))
        for d in (1, 2, 4, 8, 16)
    }
    assert costs == {Cost(32_514_048, 704_004)}


def test_what_has_no_cost_is_refused():
    with pytest.raises(ValueError, match="padding must be in numbers, got 'same'"):
        cost(nn.Conv2d(1, 1, 3, padding="same"), (8, 8))
    with pytest.raises(ValueError, match="larger than the padded input"):
        cost(nn.Conv2d(1, 1, 3, dilation=4), (8, 9))


def test_times_are_told_apart():
    found = measure(
        {"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.006)},
        seconds=0.2,
        turns=2,
    )
    assert list(found) == ["short", "long"]
    assert found["short"].median_ms >= 2
    assert found["long"].median_ms > 2 * found["short"].median_ms
    assert found["short"].spread_ms < found["short"].median_ms


def test_activations_are_what_the_layers_give():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, dilation=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 1)
    )
    x, counted = torch.zeros(1, 3, 12, 14), 0
    for layer in net:
        x = layer(x)
        counted += x.numel() * (not isinstance(layer, nn.ReLU))
    assert activations(net.to("meta"), (3, 12, 14)) == counted
    assert not any(layer._forward_hooks for layer in net)


@pytest.fixture
def photo():
    draw = np.random.default_rng(0)
    small = Image.fromarray(draw.integers(0, 256, (6, 8, 3), np.uint8))
    return small.resize((80, 64), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("has", [False, True])
def test_the_quick_network_predicts_the_same(monkeypatch, photo, has):
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: has)
    network = small_network()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    ready = dl.quick(network)
    assert not ready.training
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
    assert low[0] == "conv1_2" and low[-1] == "final" and len(low) == 15
    assert ready.conv1_1.weight.dtype == torch.float32
    assert not any(name.startswith("ctx_") for name in low)


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


@pytest.fixture
def timings(monkeypatch):
    """What the command measures, in order: each thing runs once, and times are drawn.

    The times themselves are tested above, and would only take long here.
    """
    taken, draw = [], random.Random(0)

    def once(functions, *, seconds, turns):
        assert seconds == 0.5 and turns > 1
        for function in functions.values():
            function()
        taken.append({n: Timing(draw.uniform(1, 9), draw.random()) for n in functions})
        return taken[-1]

    monkeypatch.setattr(speed, "measure", once)
    monkeypatch.setattr(speed, "DILATIONS", (1, 2))
    return taken


def test_the_librarys_gradients_are_right_where_torchs_may_be_anything():
    errors = precision.gradient_errors(torch.device("cpu"), (2,))
    assert [*errors] == ["torch", "library"] and [*errors["torch"]] == ["2"]
    assert errors["library"]["2"] < 0.01  # eight bits of mantissa


def test_the_command_records_medians_over_rounds(tmp_path, timings, monkeypatch):
    monkeypatch.setattr(speed, "gradient_errors", lambda *_: {"library": {}})
    out = tmp_path / "speed.json"
    speed.speed(out, seconds=0.5, rounds=3, data="shapes", small=True)
    rows = json.loads(out.read_text())
    names = [row["experiment"] for row in rows]
    assert set(names) == {
        *("speed/dilation", "speed/space_to_batch", "speed/voc", "speed/labels"),
        *("speed/context/basic", "speed/context/large"),
        *("speed/context/basic/training", "speed/context/large/training"),
        *("speed/dilation/training", "speed/detours/training", "speed/cliff"),
        *(["speed/gradients"] if bfloat16.has_bfloat16() else []),
    }
    labels = rows.pop()
    assert labels["config"]["pictures"] == 4
    assert 90 < labels["metrics"]["worst"] <= labels["metrics"]["same"] <= 100
    if bfloat16.has_bfloat16():
        assert rows.pop()["metrics"] == {"library": {}}

    assert len(timings) == 3 * len(rows)
    for n, row in enumerate(rows):
        rounds = timings[n :: len(rows)]  # each round is the whole series
        assert row["config"]["rounds"] == 3
        assert [*row["metrics"]] == [*rounds[0]]
        first = next(iter(rounds[0]))
        for name, one in row["metrics"].items():
            times = sorted(found[name].median_ms for found in rounds)
            ratios = [
                found[name].median_ms / found[first].median_ms for found in rounds
            ]
            assert one["median_ms"] == pytest.approx(times[1], abs=1e-4)
            assert one["ratios"] == pytest.approx(ratios, abs=1e-3)
            assert one["ratio"] == pytest.approx(sorted(ratios)[1], abs=1e-3)
            assert 0 < one["spread_ms"] < 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"seconds": 0.0}, "seconds must be a number above 0, got 0"),
        ({"seconds": float("nan")}, "seconds must be a number above 0, got nan"),
        ({"data": "nowhere"}, "data must be one of"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_is(
    tmp_path, timings, wrong, message
):
    asked = {"seconds": 0.5, "rounds": 1, "data": None, "small": True} | wrong
    with pytest.raises(ValueError, match=message):
        speed.speed(tmp_path / "speed.json", **asked)
    assert timings == [] and not any(tmp_path.iterdir())
