"""Costs counted against torch, and times against a clock."""

import random
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dilated_lib.dilation.cost import Cost, Timing, activations, cost, measure


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


def test_padding_in_words_costs_what_its_numbers_cost():
    for word, dilation, pads in (("same", 3, 6), ("valid", 3, 0), ("same", 1, 2)):
        named, numbered = (
            nn.Conv2d(2, 3, 5, padding=padding, dilation=dilation)
            for padding in (word, pads)
        )
        assert cost(named, (19, 23)) == cost(numbered, (19, 23))


def test_what_has_no_cost_is_refused():
    with pytest.raises(ValueError, match="larger than the padded input"):
        cost(nn.Conv2d(1, 1, 3, dilation=4), (8, 9))


def test_sizes_and_counts_that_cannot_be_are_refused():
    conv = nn.Conv2d(1, 1, 1, device="meta")
    for size in ((0, 1), (1, 0), (1,), (1, 1, 1), 1):
        with pytest.raises((TypeError, ValueError), match=r"^size"):
            cost(conv, size)
    for size in ((0, 1, 1), (1, 0, 1), (1, 1), (1, 1, 1, 1)):
        with pytest.raises(ValueError, match=r"^size"):
            activations(conv, size)
    for wrong in ({"batch": 0}, {"number": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            cost(conv, (1, 1), **wrong)
    for wrong in ({"seconds": 0}, {"turns": 1}):
        with pytest.raises(ValueError, match="must be"):
            measure({}, **wrong)
    assert cost(conv, (1, 1), batch=1, number=1) == Cost(operations=2, bytes=3)
    assert activations(conv, (1, 1, 1)) == 1


def test_times_are_told_apart():
    found = measure(
        {"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.006)},
        seconds=0.2,
        turns=2,
    )
    assert list(found) == ["short", "long"]
    assert all(one == round(one, 4) for one in vars(found["long"]).values())
    assert found["short"].median_ms >= 2
    assert found["long"].median_ms > 2 * found["short"].median_ms
    assert found["short"].spread_ms < found["short"].median_ms


def test_times_are_taken_by_turns_and_summed_up_by_quartiles(monkeypatch):
    calls, times = [], {"one": (0.001, 0.002, 0.004), "other": (0.5,) * 3}

    class Clock:
        """As torch's timer: each call gives it three times, in seconds."""

        def __init__(self, call, *, num_threads, **names):
            assert num_threads == torch.get_num_threads()
            self.function = lambda: eval(call, names["globals"])

        def blocked_autorange(self, *, min_run_time):
            calls.append((self.function(), min_run_time))
            return SimpleNamespace(times=times[self.function()])

    monkeypatch.setattr("torch.utils.benchmark.Timer", Clock)
    functions = {name: lambda name=name: name for name in times}
    found = measure(functions, seconds=6, turns=3)
    # of nine sorted times, the quartiles are the 2.5th and the 7.5th
    assert found == {"one": Timing(2.0, 3.0), "other": Timing(500.0, 0.0)}
    assert calls == [("one", 2), ("other", 2)] * 3
    calls.clear()
    times["one"] = (0.1 / 3,) * 2 + (0.2 / 3,)  # one call of three was slower
    assert measure(functions)["one"] == Timing(33.3333, 33.3333)
    seconds = [time for name, time in calls if name == "one"]
    assert len(seconds) == 5 and sum(seconds) == pytest.approx(1)


def test_activations_are_what_the_layers_give():
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, dilation=2), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(4, 5, 1)),
    )
    x, counted, devices = torch.zeros(1, 3, 12, 14), 0, []
    for layer in net:
        x = layer(x)
        counted += x.numel() * isinstance(layer, nn.Conv2d | nn.MaxPool2d)
    net.register_forward_pre_hook(lambda _, x: devices.append(x[0].device.type))
    assert activations(net.to("meta"), (3, 12, 14)) == counted
    assert devices == ["meta"]  # nothing is computed
    assert not any(layer._forward_hooks for layer in net)
