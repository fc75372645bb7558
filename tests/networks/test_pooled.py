"""Front ends that keep the classifier's poolings: against the classifier, and by hand.

The kinds differ in a few layers. So most of the tests compute each of them anew, from
its weights, with torch's functions and without a layer of the library.
"""

from collections import OrderedDict
from dataclasses import replace
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.networks.architecture import Architecture
from dilated_lib.networks.pooled import Pooled, pooled_front_end
from dilated_lib.networks.vgg import _CONVOLUTIONS
from dilated_lib.prediction.segmentation import probabilities
from dilated_lib.training.config import Config
from dilated_lib.training.optimizer import build_optimizer
from dilated_lib.training.setup import build_network

KINDS = get_args(Pooled)


def narrow(kind, classes=3):
    """A front end with random weights in all layers but those that upsample."""
    torch.manual_seed(0)
    front = pooled_front_end(kind, classes, fc_channels=10, width=4).double().eval()
    for layer in front.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(layer.bias, std=0.3)
    return front


def image(height, width):
    generator = torch.Generator().manual_seed(height + width)
    return torch.randn(1, 3, height, width, generator=generator, dtype=torch.double)


def computed(front, kind, images):
    """The logits at stride 32 or 8, pool3 and pool4, by torch's functions alone."""
    state = front.state_dict()

    def conv(x, name, dilation=1, more=0):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        around = dilation * (weight.shape[2] // 2) + more
        return F.conv2d(x, weight, bias, dilation=dilation, padding=around)

    strided = kind.startswith("fcn")
    x, maps = images, []
    for stage, count in enumerate((2, 2, 3, 3, 3), 1):
        for number in range(1, count + 1):
            first = 12 if (stage, number, strided) == (1, 1, False) else 0
            dilation = 2 if stage == 5 and not strided else 1
            x = conv(x, f"conv{stage}_{number}", dilation, first).relu()
        if strided or stage < 4:
            x = F.max_pool2d(x, 2, ceil_mode=True)
        else:
            step = stage - 3  # units apart, and the maximum of every pair of them
            x = torch.maximum(x[:, :, step:], x[:, :, :-step])
            x = torch.maximum(x[..., step:], x[..., :-step])
        maps.append(x)
    fc6 = {"dense": 4, "largefov": 12}.get(kind, 1)
    x = conv(conv(x, "fc6", fc6).relu(), "fc7").relu()
    return conv(x, "final"), maps[2], maps[3]


def twice(logits, like):
    """Twice as many cells, as torch interpolates, and no more than a map has."""
    grown = F.interpolate(logits, scale_factor=2, mode="bilinear")
    return grown[:, :, : like.shape[2], : like.shape[3]]


@pytest.mark.parametrize("size", [(48, 64), (40, 72)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_computes_what_its_layers_say(kind, size):
    front, images = narrow(kind), image(*size)
    wanted, pool3, pool4 = computed(front, kind, images)
    if kind == "fcn32s":
        wanted = F.interpolate(wanted, scale_factor=4, mode="bilinear")
        wanted = wanted[:, :, : size[0] // 8, : size[1] // 8]
    if kind == "fcn8s":
        scores = (
            factor * F.conv2d(one, layer.weight) + layer.bias[:, None, None]
            for one, factor, layer in (
                (pool4, 0.01, front.score_pool4),
                (pool3, 0.0001, front.score_pool3),
            )
        )
        wanted = twice(wanted, pool4) + next(scores)
        wanted = twice(wanted, pool3) + next(scores)
    with torch.no_grad():
        found = front(images)
    assert found.shape == (1, 3, size[0] // 8, size[1] // 8)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-9, atol=1e-9)


def strided(front):
    """VGG-16 with its poolings of stride 2 and no dilation, and a front end's weights.

    Its conv1_1 pads 12 more, so that it stands over the image as the dense one does.
    """
    layers = OrderedDict()
    for name, layer in front.named_children():
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0]
            more = 12 if name == "conv1_1" else 0
            layers[name] = nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                kernel,
                padding=kernel // 2 + more,
            )
        elif isinstance(layer, nn.MaxPool2d):
            layers[name] = nn.MaxPool2d(2)
        else:
            layers[name] = layer
    network = nn.Sequential(layers).double().eval()
    network.load_state_dict(front.state_dict())
    return network


def test_every_fourth_cell_is_the_strided_classifier_s():
    """In both directions, at the border too: 8 pixels apart, not 32."""
    front = narrow("dense")
    images = image(8 * 13, 8 * 18)
    with torch.no_grad():
        found, wanted = front(images), strided(front)(images)
    assert found.shape == (1, 3, 13, 18) and wanted.shape == (1, 3, 4, 5)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found[:, :, ::4, ::4], wanted, rtol=1e-9, atol=1e-12)


def test_it_is_what_becomes_of_the_classifier_without_its_strides():
    front = narrow("dense")
    network = strided(front)
    dl.remove_stride_(network, 8)
    images = image(40, 72)
    with torch.no_grad():
        torch.testing.assert_close(front(images), network(images))
    for name, layer in network.named_children():
        own = getattr(front, name)
        for key in ("stride", "dilation", "padding", "kernel_size"):
            pairs = (
                (one, one) if isinstance(one, int) else one
                for one in (getattr(layer, key, 0), getattr(own, key, 0))
            )
            assert len(set(pairs)) == 1, (name, key)


# By hand, along one axis. VGG-16 sees 212 pixels up to pool5, and 6 · 32 more by fc6:
# 404. Its convolutions pad half of what they span, so at stride 32 it sees 201.5 to
# either side of 32j + 15.5. The dense ones see as much of 8i + 3.5, where fc6 reads
# 24 · 8 = 192 more with either kernel.
# A cell of the FCN-32s reads the two coarse cells next to it, from 218 pixels before
# the first cell's corner or 186 before. Those of the FCN-8s read two cells of stride
# 16, which read two coarse ones: where these are not the same two, three in all.
SEES = {
    "dense": (404, ((-198, 205),)),
    "largefov": (404, ((-198, 205),)),
    "fcn32s": (436, ((-218, 217), (-218, 217), (-186, 249), (-186, 249))),
    "fcn8s": (468, ((-218, 217), (-218, 249), (-218, 249), (-186, 249))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_cell_sees(kind):
    front = pooled_front_end(kind, 2, fc_channels=1, width=1)
    fields = dl.receptive_field(front, (3, 320, 352))
    assert fields.lengths == (40, 44)
    size, hulls = SEES[kind]
    for field in fields:
        assert (field.size, field.stride, field.phases) == (size, 8, hulls)


@pytest.mark.parametrize("kind", ["fcn8s", "fcn32s"])
def test_deconvolutions_start_bilinear(kind):
    """Logits that grow with the position of a coarse cell do so for the fine ones."""

    def ramp(count, stride):  # down, across, and both
        middles = stride * torch.arange(count, dtype=torch.double) + (stride - 1) / 2
        rows = middles[:, None].expand(count, count)
        return torch.stack([rows, rows.T, rows + rows.T])[None]

    torch.manual_seed(0)
    front = pooled_front_end(kind, 3, fc_channels=2, width=1).double()
    front.final.register_forward_hook(lambda *_: ramp(10, 32))
    with torch.no_grad():
        found = front(image(304, 304))
    inside = (..., slice(3, -1), slice(3, -1))  # beyond it, the last cells are repeated
    torch.testing.assert_close(found[inside], ramp(38, 8)[inside], rtol=1e-12, atol=0)
    corner = found[0, :, 0, 0]
    assert corner.tolist() == [15.5, 15.5, 31]  # those of the coarse cell there


def test_unless_it_is_said_otherwise_it_is_as_wide_as_vgg_16():
    with torch.device("meta"):
        layers = dict(pooled_front_end("largefov", 21).named_modules())
    assert layers["conv1_1"].out_channels == 64
    assert layers["fc6"].out_channels == layers["fc7"].out_channels == 4096


def weights_of_vgg(path):
    """A file of VGG-16's convolutions, with weights that a start does not draw."""
    torch.manual_seed(3)
    with torch.device("meta"):
        state = dl.front_end(2, fc_channels=1).state_dict()
    drawn = {
        name: torch.randn(one.shape)
        for name, one in state.items()
        if name.split(".")[0] in _CONVOLUTIONS
    }
    save_file(drawn, path.with_suffix(".safetensors"))
    torch.save(drawn, path)
    return drawn


@pytest.mark.parametrize("kind", KINDS)
def test_each_starts_from_the_same_convolutions(kind, tmp_path):
    drawn = weights_of_vgg(tmp_path / "vgg.pth")
    config = Config(
        data="shapes",
        start=tmp_path / "vgg.pth",
        architecture=Architecture(front=kind, padding="zeros", fc_channels=3),
    )
    torch.manual_seed(0)
    network, trained = build_network(config, dl.open_data("shapes"))
    torch.manual_seed(0)
    paper, before = build_network(config.changed(front="paper"), dl.open_data("shapes"))
    assert trained == before == {f"front.{name}" for name in drawn}
    state, other = network.front.state_dict(), paper.front.state_dict()
    assert len(drawn) == 26
    assert all(torch.equal(state[name], one) for name, one in drawn.items())
    own = {
        name
        for name in other
        if name not in state or state[name].shape != other[name].shape
    }
    assert own == ({"fc6.weight"} if kind == "largefov" else set())
    assert all(torch.equal(state[name], other[name]) for name in other.keys() - own)
    recipe = replace(config.recipe, learning_rate=1.0, trained_rate=0.25)
    groups = build_optimizer(network, replace(config, recipe=recipe), trained)
    slow = [
        one for g in groups.param_groups if g["base"] == 0.25 for one in g["params"]
    ]
    fast = [one for g in groups.param_groups if g["base"] == 1.0 for one in g["params"]]
    assert {id(one) for one in slow} == {
        id(network.front.get_parameter(name)) for name in drawn
    }
    new = {"fc6", "fc7", "final"}
    if kind == "fcn8s":
        new |= {"score_pool3", "score_pool4", "upscore2", "upscore_pool4"}
    assert {id(one) for one in fast} == {
        id(one)
        for name, one in network.front.named_parameters()
        if name.split(".")[0] in new
    }


@pytest.mark.parametrize(
    ("kind", "step", "tiles"), [("dense", 8, 6), ("fcn8s", 32, 10)]
)
def test_tiles_of_a_picture_give_what_the_whole_gives(kind, step, tiles):
    """At odd sizes. The cells of an FCN are alike only 32 pixels apart."""
    architecture = Architecture(front=kind, padding="zeros", width=2, fc_channels=4)
    network = architecture.build({"sky": (1, 2, 3), "road": (3, 2, 1)}, (1.0, 2.0, 3.0))
    network.front = narrow(kind, 2)
    network.upsampling = "half_pixel"
    for axis in network.sizes:
        assert (axis.step, axis.stride, axis.margin) == (step, 8, 0)
        assert axis.cells(step) == step // 8
    sizes = []
    network.front.conv1_1.register_forward_hook(
        lambda _, args, __: sizes.append(args[0].shape[2])
    )
    pictures = 10 * torch.rand(1, 3, 603, 45, dtype=torch.double)
    more = [-side % step for side in (603, 45)]
    continued = F.pad(pictures, (0, more[1], 0, more[0]), mode="reflect")
    with torch.no_grad():
        logits = F.interpolate(network(continued), scale_factor=8, mode="bilinear")
    wanted = logits.softmax(1)[:, :, :603, :45].float()
    assert wanted.std() > 0.01
    for tile, count in (((900, 900), 1), ((520, 520), tiles)):
        sizes.clear()
        found = probabilities(network, pictures, tile=tile).float()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
        assert (len(sizes), max(sizes) <= tile[0]) == (count, True)
