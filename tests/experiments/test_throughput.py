"""What a step of training costs: the step itself, its operations, and its record."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch.nn import functional as F

from dilated_lib.data.palettes import CAMVID, PASCAL_VOC, VOC_ANIMALS
from dilated_lib.data.sets import open_data
from dilated_lib.dilation.cost import Timing
from dilated_lib.experiments import throughput as module
from dilated_lib.experiments.throughput import operations, throughput, training_step
from dilated_lib.training.config import MODERN, Config

STILL = replace(MODERN, dropout=0.0, clip=None)  # nothing is drawn in a step
NARROW = Config(recipe=STILL).changed(
    data="shapes", width=4, fc_channels=8, padding="zeros", batch=2, cells=(2, 3)
)


# The step


@pytest.fixture
def built(monkeypatch):
    """Note networks and crops; plain descent with the rate 1 stands in for AdamW."""
    noted = {}

    def optimizer(network, config, trained):
        assert trained == set()
        noted.update(network=network, config=config)
        noted["before"] = copy.deepcopy(network)
        return torch.optim.SGD(network.parameters(), lr=1.0)

    def crops(config, device):
        assert device.type == "cpu"
        noted["crops"] = made(config, device)
        return noted["crops"]

    made = module._crops
    monkeypatch.setattr(module, "build_optimizer", optimizer)
    monkeypatch.setattr(module, "_crops", crops)
    return noted


def gradients(network, images, labels):
    """The gradients of the mean loss over all pixels, in torch's own words."""
    network = copy.deepcopy(network)
    network.zero_grad()
    cells = network.front(network.normalised(images))
    logits = F.interpolate(cells, labels.shape[1:], mode="bilinear")
    F.cross_entropy(logits, labels.long()).backward()
    return [one.grad for one in network.parameters()]


def test_a_step_goes_down_the_gradient_of_the_mean_loss(built):
    step = training_step(NARROW)
    network, config = built["network"], built["config"]
    assert config == NARROW
    for _ in range(2):  # the second does not go down the first one's gradient again
        before = copy.deepcopy(network)
        assert step() is None
        for old, new, gradient in zip(
            before.parameters(),
            network.parameters(),
            gradients(before, *built["crops"]),
            strict=True,
        ):
            torch.testing.assert_close(old - new, gradient)


def test_the_gradient_is_clipped_as_in_the_run(built):
    recipe = replace(STILL, clip=0.001)
    step = training_step(replace(NARROW, recipe=recipe))
    step()
    moved = [
        (old - new).detach().flatten()
        for old, new in zip(
            built["before"].parameters(), built["network"].parameters(), strict=True
        )
    ]
    assert float(torch.cat(moved).norm()) == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize(
    ("precision", "dtype", "order"),
    [
        ("32-true", torch.float32, torch.contiguous_format),
        ("bf16-mixed", torch.bfloat16, torch.channels_last),
    ],
)
def test_a_step_has_the_precision_and_layout_of_the_run(built, precision, dtype, order):
    step = training_step(replace(NARROW, precision=precision))
    found = []
    built["network"].front.conv1_2.register_forward_hook(
        lambda layer, inputs, output: found.append(output.dtype)
    )
    step()
    assert found == [dtype]
    weight = built["network"].front.conv1_2.weight
    assert weight.is_contiguous(memory_format=order)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_network_is_compiled_only_if_that_is_asked_for(
    built, monkeypatch, compiled
):
    done = []
    monkeypatch.setattr(module.Stage, "compile", lambda stage: done.append(stage))
    training_step(NARROW, **({"compiled": True} if compiled else {}))
    assert len(done) == compiled


@pytest.mark.parametrize(("there", "kind"), [(False, "cpu"), (True, "cuda")])
def test_a_step_takes_one_gpu_where_there_is_one(built, monkeypatch, there, kind):
    asked = []

    def fabric(**options):
        asked.append(options)
        return Fabric(accelerator="cpu", devices=1)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(module, "Fabric", fabric)
    training_step(NARROW)
    assert asked == [{"accelerator": kind, "devices": 1, "precision": "32-true"}]


# Crops and classes


@pytest.mark.parametrize(
    ("changes", "margin"),
    [
        ({"padding": "none"}, 372),
        ({"padding": "zeros"}, 0),
        ({"padding": "reflect"}, 0),
        ({"padding": "none", "network": "fcn_resnet50"}, 0),
    ],
)
def test_crops_have_the_size_the_margin_and_the_number_of_the_run(changes, margin):
    torch.manual_seed(0)
    images, labels = module._crops(NARROW.changed(**changes), torch.device("cpu"))
    assert images.shape == (2, 3, 16 + margin, 24 + margin)
    assert images.min() >= 0 and 250 < images.max() <= 255
    assert labels.shape == (2, 16, 24)
    assert labels.dtype == torch.uint8
    assert set(labels.unique().tolist()) == {0, 1, 2, 3}


def test_crops_lie_on_the_device_that_is_measured():
    crops = module._crops(NARROW, torch.device("meta"))
    assert [one.device.type for one in crops] == ["meta", "meta"]


@pytest.mark.parametrize(
    ("data", "palette"),
    [
        ("camvid", CAMVID),
        ("voc2012", PASCAL_VOC),
        ("voc_animals", VOC_ANIMALS),
        ("shapes", open_data("shapes").palette),
    ],
)
def test_the_classes_are_the_runs_though_its_data_need_not_be_there(
    data, palette, monkeypatch
):
    monkeypatch.setenv("DILATED_DATA", "/nowhere")
    config = replace(NARROW, data=data)
    network = module._stage(config).network
    assert dict(network.palette) == dict(palette)
    _, labels = module._crops(replace(config, batch=64), torch.device("cpu"))
    assert labels.max() == len(palette) - 1


def test_weights_are_drawn_whatever_the_start(monkeypatch):
    monkeypatch.setattr("dilated_lib.training.setup.fill", None)  # it would download
    stage = module._stage(replace(NARROW, start="imagenet"))
    assert stage.recipe == STILL and not stage.frozen


# Operations

FRONT = [  # channels in and out, side of the kernel, units of a crop of 16 x 24 pixels
    (3, 4, 3, 16 * 24),
    (4, 4, 3, 16 * 24),
    (4, 8, 3, 8 * 12),
    (8, 8, 3, 8 * 12),
    (8, 16, 3, 4 * 6),
    *[(16, 16, 3, 4 * 6)] * 2,
    (16, 32, 3, 2 * 3),
    *[(32, 32, 3, 2 * 3)] * 5,
    (32, 8, 7, 2 * 3),
    (8, 8, 1, 2 * 3),
    (8, 4, 1, 2 * 3),
]
CONTEXT = [*[(4, 4, 3, 2 * 3)] * 2, (4, 4, 1, 2 * 3)]


def forward(layers):
    return sum(2 * i * o * side**2 * units for i, o, side, units in layers)


def test_operations_are_those_of_the_pass_forward_and_of_both_gradients():
    """The first layer has one gradient: nothing asks for that of the pictures."""
    once = 3 * forward(FRONT) - forward(FRONT[:1])
    assert operations(replace(NARROW, batch=1)) == once
    assert operations(NARROW) == 2 * once


def test_a_frozen_front_end_only_goes_forward():
    """The context stage needs its start in training, but not for its operations."""
    joint = NARROW.changed(context="basic", dilations=(1, 2), stage="joint")
    whole = 3 * forward(FRONT + CONTEXT) - forward(FRONT[:1])
    assert operations(joint) == 2 * whole
    frozen = replace(joint, stage="context", start=Path("nowhere.safetensors"))
    learned = 3 * forward(CONTEXT) - forward(CONTEXT[:1])
    assert operations(frozen) == 2 * (forward(FRONT) + learned)


# The record


@pytest.fixture
def timed(monkeypatch):
    """Known times and counts: 3 ms for the product, 5 and 12.3477 for the steps."""
    asked, clock = {"compiled": []}, iter([10.0, 16.0])
    times = {
        "product": Timing(3.0, 0.1),
        "one": Timing(5.0, 0.2),
        "two": Timing(12.3477, 0.3),
    }

    def measure(functions, *, seconds):
        assert seconds == 2
        asked["functions"] = functions
        return {name: times[name] for name in functions}

    def step(config, *, compiled):
        asked["compiled"].append(compiled)
        return config

    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "training_step", step)
    monkeypatch.setattr(module, "operations", lambda config: 123_456_789 * config.batch)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    return asked


TWO = {
    "one": NARROW,
    "two": NARROW.changed(batch=3, cells=(4, 5), padding="none", precision="16-mixed"),
}


def test_a_record_sets_the_step_beside_the_product_and_the_first_step(timed, tmp_path):
    throughput(tmp_path / "steps.json", TWO, side=100)
    one, two = json.loads((tmp_path / "steps.json").read_text())
    assert [row["experiment"] for row in (one, two)] == [
        "speed/step/one",
        "speed/step/two",
    ]
    assert [row["seconds"] for row in (one, two)] == [2.0, 2.0]  # six for three
    assert one["config"] == {
        "batch": 2,
        "cells": [2, 3],
        "padding": "zeros",
        "precision": "32-true",
        "compiled": False,
        "product": 100,
    }
    assert two["config"] == {
        "batch": 3,
        "cells": [4, 5],
        "padding": "none",
        "precision": "16-mixed",
        "compiled": False,
        "product": 100,
    }
    # the product takes 2 · 100³ operations, in 3 ms
    assert one["metrics"] == {
        "median_ms": 5.0,
        "spread_ms": 0.2,
        "images_per_second": 400.0,
        "labelled_pixels": 2 * 16 * 24,
        "tera_operations": 0.0002,
        "tera_operations_per_second": 0.0494,
        "ceiling": 0.0007,
        "ratio": 74.074,
        "relative": 1.0,
    }
    assert two["metrics"] == {
        "median_ms": 12.3477,
        "spread_ms": 0.3,
        "images_per_second": 242.96,
        "labelled_pixels": 3 * 32 * 40,
        "tera_operations": 0.0004,
        "tera_operations_per_second": 0.03,
        "ceiling": 0.0007,
        "ratio": 44.993,
        "relative": 2.47,
    }
    assert timed["compiled"] == [False, False]
    assert [*timed["functions"]] == ["product", "one", "two"]
    assert timed["functions"]["two"] == TWO["two"]
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.bfloat16),
        ("16-mixed", torch.bfloat16),
    ],
)
def test_the_product_is_that_of_two_matrices_in_the_runs_precision(
    timed, tmp_path, monkeypatch, precision, dtype
):
    drawn, randn = [], torch.randn
    monkeypatch.setattr(
        torch, "randn", lambda *a, **k: drawn.append(randn(*a, **k)) or drawn[-1]
    )
    configs = {"one": replace(NARROW, precision=precision), "two": NARROW}
    throughput(tmp_path / "steps.json", configs, compiled=True, side=7)
    product = timed["functions"]["product"]()
    left, right = drawn
    assert left.shape == right.shape == (7, 7)
    assert product.dtype == left.dtype == dtype
    assert torch.equal(product, torch.mm(left, right))
    assert timed["compiled"] == [True, True]
    rows = json.loads((tmp_path / "steps.json").read_text())
    assert all(row["config"]["compiled"] for row in rows)
    assert {row["device"][:5] for row in rows} == {"CPU ("}


def test_on_a_gpu_the_record_has_the_most_memory_that_was_taken(
    timed, tmp_path, monkeypatch
):
    devices, randn = [], torch.randn

    def most(device):
        devices.append(device.type)
        return int(1.236 * 2**30)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", most)
    monkeypatch.setattr(
        torch,
        "randn",
        lambda *shape, device, dtype: (
            devices.append(device.type) or randn(*shape, dtype=dtype)
        ),
    )
    monkeypatch.setattr(
        "dilated_lib.experiments.recorder.device_name", lambda device: str(device)
    )
    throughput(tmp_path / "steps.json", {"one": NARROW}, side=3)
    (row,) = json.loads((tmp_path / "steps.json").read_text())
    assert row["metrics"]["peak_gib"] == 1.24
    assert row["device"] == "cuda"
    assert devices == ["cuda"] * 3
