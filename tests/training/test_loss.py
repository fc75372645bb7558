"""The loss of each stage, weights of classes, and recipes that cannot be."""

from collections import OrderedDict
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_runs import TINY

import dilated_lib as dl
from dilated_lib.networks.architecture import Architecture
from dilated_lib.networks.baselines import Baseline
from dilated_lib.training.config import MODERN, PAPER, Config
from dilated_lib.training.loss import Stage, layout, median_frequency_weights
from dilated_lib.training.setup import build_network

CELLS = replace(MODERN, loss_at="cells", auxiliary=0.0)
PIXELS = replace(MODERN, loss_at="pixels", auxiliary=0.0)
WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.25])


def tiny(context=True):
    """A network of cells of 8 pixels, in four layers: no margin, four classes."""
    torch.manual_seed(0)
    front = OrderedDict(
        conv=nn.Conv2d(3, 6, 8, stride=8),
        bn=nn.BatchNorm2d(6),
        relu=nn.ReLU(),
        drop=nn.Dropout(0.5),
        final=nn.Conv2d(6, 4, 1),
    )
    front["conv"].weight.data /= 20
    module = dl.ContextModule(4, dilations=(1, 2)) if context else None
    if module:
        module.reset_parameters(std=0.3)
    return dl.DilatedNetwork(
        nn.Sequential(front),
        module,
        palette={f"class {n}": (n, n, n) for n in range(4)},
        mean=(10.0, 20.0, 30.0),
        input_size=(64, 64),
    )


def batch(count=3):
    """Crops of 4 × 5 cells, a third of whose labels are void."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 32, 40), generator=draw).float()
    labels = torch.randint(0, 6, (count, 32, 40), generator=draw)
    return images, labels.where(labels < 4, torch.tensor(255)).to(torch.uint8)


def logits_of(network, images):
    bgr = images[:, [2, 1, 0]] - torch.tensor([10.0, 20.0, 30.0])[:, None, None]
    return network.context(network.front(bgr))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("context", [True, False])
def test_at_cells_a_label_is_the_one_at_the_top_left_of_its_block(context, weights):
    network = tiny(context)
    stage = Stage(network, CELLS, class_weights=weights).eval()
    images, labels = batch()
    wanted = F.cross_entropy(
        logits_of(network, images),
        labels[:, 0::8, 0::8].long(),
        weights,
        ignore_index=255,
    )
    found = stage(images, labels) / stage.weight(labels)
    torch.testing.assert_close(found, wanted)
    # the others are not looked at
    other = torch.full_like(labels, 3)
    other[:, ::8, ::8] = labels[:, ::8, ::8]
    assert torch.equal(stage(images, other), stage(images, labels))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("context", [True, False])
def test_at_pixels_logits_are_interpolated_between_the_centres_of_cells(
    context, weights
):
    network = tiny(context)
    stage = Stage(network, PIXELS, class_weights=weights).eval()
    images, labels = batch()
    logits = F.interpolate(
        logits_of(network, images),
        scale_factor=8,
        mode="bilinear",
        align_corners=False,
    )
    wanted = F.cross_entropy(logits, labels.long(), weights, ignore_index=255)
    found = stage(images, labels) / stage.weight(labels)
    torch.testing.assert_close(found, wanted)


def test_what_to_divide_by_counts_labels_or_sums_their_weights():
    _, labels = batch()
    for recipe, seen in ((CELLS, labels[:, ::8, ::8]), (PIXELS, labels)):
        counts = [int((seen == number).sum()) for number in range(4)]
        stage = Stage(tiny(), recipe)
        assert stage.weight(labels) == sum(counts)
        stage = Stage(tiny(), recipe, class_weights=WEIGHTS)
        wanted = sum(n * w for n, w in zip(counts, WEIGHTS.tolist(), strict=True))
        assert stage.weight(labels).item() == pytest.approx(wanted)


def test_a_batch_may_be_spread_over_processes():
    network = tiny()
    stage = Stage(network, PIXELS, class_weights=WEIGHTS).eval()
    images, labels = batch()
    labels[0, :20] = 255  # so that the parts differ
    whole = stage(images, labels)
    parts = [stage(images[n : n + 1], labels[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(sum(parts), whole)
    weights = [stage.weight(labels[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(sum(weights), stage.weight(labels))


@pytest.mark.parametrize("recipe", [CELLS, PIXELS])
def test_a_batch_without_labels_has_no_loss_and_no_gradient(recipe):
    network = tiny()
    stage = Stage(network, recipe, class_weights=WEIGHTS)
    images, labels = batch()
    labels.fill_(255)
    loss = stage(images, labels)
    assert loss == 0 and stage.weight(labels) == 0
    loss.backward()
    assert all((one.grad == 0).all() for one in network.parameters())


def state(network):
    return {name: one.clone() for name, one in network.state_dict().items()}


@pytest.mark.parametrize("begun", [False, True])
def test_a_frozen_front_end_stays_as_it_is(begun):
    network = tiny()
    stage = Stage(network, PIXELS, frozen=True)
    if begun:
        stage.train()
    before = state(network)
    images, labels = batch()
    one, two = stage(images, labels), stage(images, labels)
    assert one == two  # no dropout either
    one.backward()
    after = state(network)
    assert all(torch.equal(after[name], before[name]) for name in before)
    for name, parameter in network.named_parameters():
        if name.startswith("context."):
            assert parameter.requires_grad and parameter.grad.any()
        else:
            assert not parameter.requires_grad and parameter.grad is None
    stage.eval()
    assert not any(module.training for module in stage.modules())


def test_a_front_end_that_is_not_frozen_learns_and_its_batch_norm_follows():
    network = tiny()
    stage = Stage(network, PIXELS).train()
    before = state(network)
    images, labels = batch()
    stage(images, labels).backward()
    assert network.front.bn.num_batches_tracked == 1
    assert not torch.equal(
        network.front.bn.running_mean, before["front.bn.running_mean"]
    )
    assert all(one.grad.any() for one in network.front.conv.parameters())
    assert stage(images, labels) != stage(images, labels)  # dropout


def test_the_loss_of_the_front_ends_logits_adds():
    images, labels = batch()
    network = tiny()
    main = Stage(network, PIXELS).eval()(images, labels)
    front = tiny(context=False)
    front.load_state_dict(network.state_dict(), strict=False)
    own = Stage(front, PIXELS).eval()(images, labels)
    both = Stage(network, replace(PIXELS, auxiliary=0.4)).eval()
    torch.testing.assert_close(both(images, labels), main + 0.4 * own)
    assert abs(main - own) > 1
    # not where it cannot learn from it, and not twice where it is the only one
    alone = Stage(front, replace(PIXELS, auxiliary=0.4)).eval()
    torch.testing.assert_close(alone(images, labels), own)
    frozen = Stage(network, replace(PIXELS, auxiliary=0.4), frozen=True).eval()
    torch.testing.assert_close(frozen(images, labels), main)


def test_a_recipe_sets_dropout_and_class_weights_are_no_part_of_the_network():
    stage = Stage(tiny(), replace(PIXELS, dropout=0.125), class_weights=WEIGHTS)
    assert stage.network.front.drop.p == 0.125
    assert not any("class_weights" in name for name in stage.state_dict())
    assert stage.double().class_weights.dtype == torch.double  # it moves along


class OwnBaseline(Baseline):
    """One layer in place of a ResNet."""

    def __init__(self):
        nn.Module.__init__(self)
        self.front, self.context = nn.Conv2d(3, 4, 1), nn.Identity()

    def normalised(self, images):
        return images / 255


@pytest.mark.parametrize("recipe", [CELLS, PIXELS])
def test_a_peer_sees_rgb_and_is_measured_at_all_pixels(recipe):
    peer = OwnBaseline()
    stage = Stage(peer, recipe, class_weights=WEIGHTS)
    images, labels = batch()
    wanted = F.cross_entropy(peer(images), labels.long(), WEIGHTS, ignore_index=255)
    found = stage(images, labels) / stage.weight(labels)
    torch.testing.assert_close(found, wanted)


# weights of classes


@pytest.mark.parametrize(
    ("counts", "weights"),
    [
        ([4, 1, 16], [1, 2, 0.5]),
        ([16, 0, 4, 1, 0], [0.5, 0, 1, 2, 0]),
        ([3, 0, 0], [1, 0, 0]),
        ([1, 4, 5, 16], [4.5**0.5, 4.5**0.5 / 2, 0.9**0.5, 4.5**0.5 / 4]),
    ],
)
def test_weights_of_classes_by_hand(counts, weights):
    found = median_frequency_weights(torch.tensor(counts))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(weights).float())
    more = median_frequency_weights(10**9 * torch.tensor(counts))
    torch.testing.assert_close(more, found)


def test_without_labels_there_are_no_weights():
    with pytest.raises(ValueError, match="no pixel has a label"):
        median_frequency_weights(torch.zeros(3, dtype=torch.long))


# recipes


def test_the_papers_recipe_is_the_papers():
    """Section 5 of the paper, urban scenes; rates of biases as in the code."""
    assert PAPER.optimizer == "sgd" and PAPER.schedule == "constant"
    assert (PAPER.learning_rate, PAPER.momentum) == (1e-4, 0.99)
    assert (PAPER.bias_rate, PAPER.weight_decay, PAPER.dropout) == (2.0, 5e-4, 0.5)
    assert PAPER.loss_at == "cells" and not PAPER.class_weights
    assert (PAPER.zoom, PAPER.rotation, PAPER.colour) == ((1.0, 1.0), 0.0, 0.0)
    with pytest.raises(FrozenInstanceError):
        PAPER.learning_rate = 1.0
    off = "trained_rate", "warmup", "clip", "auxiliary"
    assert [getattr(PAPER, name) for name in off] == [1.0, 0.0, None, 0.0]


def test_the_modern_recipe_is_what_runs_do_unless_more_is_said():
    """Another value would make another run of everyone's that relies on it."""
    assert replace(MODERN) == MODERN and asdict(MODERN) == {
        "optimizer": "adamw",
        "learning_rate": 4e-4,
        "bias_rate": 1.0,
        "trained_rate": 0.2,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup": 0.05,
        "clip": 1.0,
        "loss_at": "pixels",
        "class_weights": True,
        "auxiliary": 0.4,
        "dropout": 0.2,
        "zoom": (0.5, 2.0),
        "rotation": 5.0,
        "colour": 0.3,
    }
    assert asdict(Config()) == {
        "data": "camvid",
        "stage": "front",
        "frozen": 0,
        "network": "dilated",
        "start": None,
        "architecture": asdict(Architecture()),
        "recipe": asdict(MODERN),
        "steps": 2000,
        "batch": 8,
        "cells": (32, 32),
        "pictures": 0,
        "seed": 0,
        "precision": "32-true",
        "compile": False,
        "deterministic": False,
        "checkpoint_every": 500,
        "validate_every": 0,
        "workers": 0,
        "test": False,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "^optimizer must be one of sgd, adamw; got 'adam'$"),
        (
            {"schedule": "step"},
            "^schedule must be one of constant, cosine; got 'step'$",
        ),
        ({"loss_at": "pixel"}, "^loss_at must be one of cells, pixels; got 'pixel'$"),
        ({"zoom": (0.0, 1.0)}, "^zoom must be .* above 0, got 0.0 and 1.0$"),
        ({"zoom": (2.0, 0.5)}, "^zoom must be a least and a largest scale .* 2.0 and"),
        ({"zoom": (1.0, float("inf"))}, "^zoom must be .*, got 1.0 and inf$"),
        ({"zoom": (1.0, float("nan"))}, "^zoom must be .*, got 1.0 and nan$"),
        ({"dropout": 1.0}, "^dropout must be from 0 to below 1, got 1.0$"),
        ({"warmup": 5.0}, "^warmup must be from 0 to below 1, got 5.0$"),
        ({"momentum": 1}, "^momentum must be from 0 to below 1, got 1$"),
        ({"rotation": -5.0}, "^rotation must be from 0 to below inf, got -5.0$"),
        ({"learning_rate": float("nan")}, "^learning_rate must be .*, got nan$"),
        ({"clip": -1.0}, "^clip must be from 0 to below inf, got -1.0$"),
        ({"clip": 0.0}, "^clip must be above 0, or None, got 0$"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(MODERN, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "^steps must be at least 1, got 0$"),
        ({"batch": -3}, "^batch must be at least 1, got -3$"),
        ({"seed": -1}, "^seed must be at least 0, got -1$"),
        ({"validate_every": -1}, "^validate_every must be at least 0, got -1$"),
        ({"cells": (4, 0)}, r"^cells must be above 0, got \(4, 0\)$"),
        ({"scale": 0.0}, "^scale must be a number above 0, got 0.0$"),
        ({"scale": float("nan")}, "^scale must be a number above 0, got nan$"),
        ({"padding": "same"}, "^padding must be one of none, zeros, reflect; got 'sam"),
        ({"width": 0}, "^width must be at least 1, got 0$"),
        ({"stage": "back"}, "^stage must be one of front, context, joint; got 'back'$"),
        ({"context": "small"}, "^context must be one of none, basic, large; got 'sma"),
        ({"network": "unet"}, "^network must be one of dilated, fcn_resnet50, deep"),
        ({"precision": "16"}, "^precision must be one of 32-true, bf16-mixed, 16-mi"),
        ({"stage": "joint"}, "^with context none the stage must be front, got joint$"),
        (
            {"context": "basic"},
            "^with context basic the stage must be context or joint, got front$",
        ),
        (
            {"network": "fcn_resnet50", "stage": "joint", "context": "basic"},
            "^fcn_resnet50 has no context module: its stage is front, got joint$",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config().changed(**options)


def test_weights_lie_channels_last_on_a_gpu_in_any_precision():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for device, precision in ((gpu, "32-true"), (gpu, "bf16-mixed"), (cpu, "16-mixed")):
        assert layout(device, precision) is torch.channels_last
    assert layout(cpu, "32-true") is torch.contiguous_format


@pytest.mark.parametrize("stage", ["front", "joint"])
@pytest.mark.parametrize(
    ("precision", "wanted"), [("32-true", False), ("bf16-mixed", True)]
)
def test_weights_and_gradients_lie_channels_last_but_in_float32_on_a_cpu(
    monkeypatch, tmp_path, stage, precision, wanted
):
    """From the first convolution on, whose input is three maps of colour."""
    networks, seen = [], []

    def channels_last(one):
        return one.is_contiguous(memory_format=torch.channels_last)

    def watched(config, data):
        def keep(layer, inputs, output):
            if layer.training:
                seen.append(channels_last(output))

        network, trained = build_network(config, data)
        network.front.conv1_1.register_forward_hook(keep)
        networks.append(network)
        return network, trained

    monkeypatch.setattr("dilated_lib.training.setup.build_network", watched)
    context = "basic" if stage == "joint" else "none"
    config = TINY.changed(stage=stage, context=context, precision=precision, steps=1)
    dl.train(config, tmp_path)
    weight = networks[0].front.conv1_2.weight
    assert len(seen) == 1
    assert {*seen, channels_last(weight), channels_last(weight.grad)} == {wanted}
