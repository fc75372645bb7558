"""The released networks, layer by layer, against their definitions."""

import random
from collections import OrderedDict
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from caffe_files import write
from hypothesis import given, settings
from hypothesis import strategies as st
from released import NETWORKS
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.networks.dilated import _least, bilinear_deconvolution
from dilated_lib.networks.weights import Loaded, file_state

KINDS = (nn.Conv2d, nn.ConvTranspose2d)


def random_layer(draw):
    kernel, stride = draw.randint(1, 4), draw.randint(1, 4)
    if draw.random() < 0.5:
        return nn.MaxPool2d(
            kernel,
            stride,
            padding=draw.randint(0, kernel // 2),
            ceil_mode=draw.random() < 0.7,
        )
    return nn.Conv2d(
        *(1, 1, kernel, stride),
        padding=draw.randint(0, 3),
        dilation=draw.randint(1, 2),
        padding_mode=draw.choice(["zeros", "reflect"]),
    )


def works(network, size):
    try:
        network(torch.zeros(1, 1, size, 99))
    except (RuntimeError, AssertionError):  # no output, or a map too small to reflect
        return False
    return True


def test_the_least_size_is_the_first_that_works():
    draw = random.Random(0)
    for _ in range(150):
        network = nn.Sequential(
            *(random_layer(draw) for _ in range(draw.randint(1, 3)))
        )
        sizes = (size for size in range(1, 99) if works(network, size))
        assert _least(network, 0) == next(sizes), network


def built(name, device="meta", **options):
    with torch.device(device):
        return getattr(dl.networks, name)(**options).eval()


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("dilation8_pascal_voc", (102.93, 111.36, 116.52)),
        ("dilation8_camvid", (110.70313206, 108.77808759, 105.41212523)),
        ("dilation7_kitti", (96.19429688, 95.55136972, 91.34692262)),
        ("dilation10_cityscapes", (72.39, 82.91, 73.16)),
    ],
)
def test_means_are_the_released_ones_in_bgr(name, mean):
    assert built(name, fc_channels=1).mean == mean


@pytest.mark.parametrize("name", NETWORKS)
def test_cityscapes_alone_upsamples_by_itself(name):
    network = built(name, fc_channels=1)
    assert network.scale == 1
    own = name == "dilation10_cityscapes"
    assert network.upsampling == ("deconvolution" if own else "released")
    assert (network.upsample is not None) == own


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_for_the_front_end_reaches_it(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*front\.pth"):
        built(name, weights=tmp_path / "front.pth", fc_channels=1)


def small(name, seed=0):
    """A network with narrow fc6 and fc7 whose logits differ from class to class."""
    torch.manual_seed(seed)
    network = built(name, "cpu", fc_channels=8)
    nn.init.normal_(network.front[-1].weight, std=0.1)
    for layer in network.context.layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias, std=0.1)
    return network


# one whose module is large and padded once, one with a deconvolution
FEW = ("dilation8_pascal_voc", "dilation10_cityscapes")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_as_released(name):
    network = built(name)
    found = [
        (
            network.file_name(f"{key}.weight").removesuffix(".weight"),
            *(one.out_channels, one.kernel_size, one.dilation, one.padding),
        )
        for key, one in network.named_modules()
        if isinstance(one, KINDS)
    ]
    released = [
        (key, channels, *((number,) * 2 for number in numbers))
        for key, channels, *numbers in NETWORKS[name].layers()
    ]
    assert found == released
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == NETWORKS[name].parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_the_released_input_gives_the_released_cells(name):
    network, released = built(name), NETWORKS[name]
    assert network.input_size == released.input_size
    image = torch.zeros(1, 3, *released.input_size, device="meta")
    classes = len(network.palette)
    cells = network.context(network.front(image)).shape
    assert cells == (1, classes, *released.cells)
    pixels = 8 if network.upsample else 1
    assert network(image).shape[2:] == tuple(pixels * n for n in released.cells)


@pytest.mark.parametrize("name", NETWORKS)
def test_between_convolutions_stand_only_relus_two_dropouts_and_three_poolings(name):
    network = built(name)
    layers = [*network.front]
    for layer, after in pairwise(layers):
        if isinstance(layer, nn.Conv2d):
            assert isinstance(after, nn.ReLU)
        if isinstance(after, nn.ReLU):
            assert isinstance(layer, nn.Conv2d)
    others = [one for one in layers if not isinstance(one, (*KINDS, nn.ReLU))]
    assert [type(one) for one in others] == [nn.MaxPool2d] * 3 + [nn.Dropout] * 2
    for pool in others[:3]:
        assert (pool.kernel_size, pool.stride, pool.ceil_mode) == (2, 2, True)
    assert [drop.p for drop in others[3:]] == [0.5, 0.5]
    assert all(
        layer.bias is not None
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FEW else pytest.mark.weekly)
        for name in NETWORKS
    ],
)
def test_opencv_computes_the_same_with_caffe_files(name, tmp_path):
    """Another reader of the weights, and another implementation of every layer."""
    network = small(name)
    sides = (380, 396 if name == "dilation7_kitti" else 388)
    if name == "dilation7_kitti":
        sides = (380, 392)  # no whole size: pooling rounds up
    blobs = {}
    for key, one in file_state(network).items():
        blobs.setdefault(key.rpartition(".")[0], []).append(one.numpy())
    weights = write(tmp_path / "net.caffemodel", blobs, old=name == "dilation8_camvid")
    lines = NETWORKS[name].prototxt(*sides, fc_channels=8)
    (tmp_path / "net.prototxt").write_text("\n".join(lines))
    peer = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(weights))
    peer.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    for key, arrays in blobs.items():
        assert np.array_equal(peer.getParam(key, 0), arrays[0])

    read = built(name, "cpu", fc_channels=8)
    assert dl.load(read, weights) == Loaded((), ())
    image = 255 * torch.rand(1, 3, *sides)
    with torch.no_grad():
        logits = read(image)
    bgr = image.numpy()[:, ::-1] - np.reshape(read.mean, (3, 1, 1))
    peer.setInput(bgr.astype(np.float32))
    assert logits.std() > 0.1
    np.testing.assert_allclose(peer.forward(), logits.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant", ["basic", "large"])
def test_without_noise_the_context_module_cuts_off_below_zero_and_nothing_else(variant):
    context = dl.ContextModule(21, variant, padding="once")
    context.reset_parameters(std=0)
    logits = torch.randn(2, 21, 66, 66, generator=torch.Generator().manual_seed(0))
    wanted = logits.clamp(min=0)
    with torch.no_grad():
        error = (context(logits) - wanted).abs()
    assert (error <= 1e-6 * wanted).all()  # and exactly 0 where the logit is negative


@pytest.mark.parametrize("fc_channels", [128, 512])
def test_a_new_network_says_nothing_so_its_loss_is_ln_c(fc_channels):
    torch.manual_seed(0)
    network = built("dilation8_camvid", "cpu", fc_channels=fc_channels)
    image = 255 * torch.rand(1, 3, 380, 388) - 128
    with torch.no_grad():
        hidden = network.front[:-1](image)
        logits = network(image)
    assert 0.3 < hidden.square().mean().sqrt() < 5  # neither dead nor exploded
    labels = torch.tensor([[[0, 10]]])
    assert abs(F.cross_entropy(logits, labels) - np.log(11)) < 0.1


@pytest.mark.parametrize("stride", [2, 8])
def test_the_deconvolution_is_half_pixel_interpolation_away_from_the_border(stride):
    logits = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    layer = bilinear_deconvolution(3, stride)
    found = layer(logits)
    wanted = F.interpolate(logits, scale_factor=stride, mode="bilinear")
    inside = (
        ...,
        slice(stride // 2, -(stride // 2)),
        slice(stride // 2, -(stride // 2)),
    )
    assert found.shape == wanted.shape
    torch.testing.assert_close(found[inside], wanted[inside])
    assert not torch.allclose(found, wanted)
    assert not any(one.requires_grad for one in layer.parameters())


def test_parts_share_their_layers_with_the_whole():
    network = small("dilation10_cityscapes")
    image = 255 * torch.rand(1, 3, 380, 388) - 128
    with torch.no_grad():
        bgr = image.flip(1) - torch.tensor(network.mean)[:, None, None]
        steps = network.upsample(network.context(network.front(bgr)))
        assert torch.equal(steps, network(image))
    assert [*network._modules] == ["front", "context", "upsample"]
    assert network.file_name("context.layers.9.bias") == "ctx_final.bias"


@settings(max_examples=20)
@given(
    dilations=st.lists(st.sampled_from([1, 2, 4]), min_size=2, max_size=6),
    variant=st.sampled_from(["basic", "large"]),
)
def test_any_context_module_keeps_its_layers_in_order_under_names_of_their_own(
    dilations, variant
):
    with torch.device("meta"):
        context = dl.ContextModule(3, variant, dilations=dilations)
        network = dl.DilatedNetwork(
            dl.front_end(3, fc_channels=4),
            context,
            palette=dict.fromkeys("abc", (0, 0, 0)),
            mean=(0, 0, 0),
            input_size=(380, 380),
        )
    assert network.context is context
    names = [one for one in file_state(network) if one.startswith("ctx_")]
    assert len(set(names)) == len(names) == 2 * len(context.layers)
    depths = [names.index(f"ctx_{last}.weight") // 2 for last in ("fc1", "final")]
    assert depths == [len(dilations) - 1, len(dilations)]


def test_parts_for_other_classes_are_refused():
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=r"11 logits.*, 0 colours, 21 classes"),
    ):
        dl.DilatedNetwork(
            dl.front_end(11, fc_channels=4),
            dl.ContextModule(21),
            palette={},
            mean=(0, 0, 0),
            input_size=(380, 380),
        )


def test_a_front_end_ends_with_a_convolution():
    front = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    with pytest.raises(ValueError, match=r"got None logits .*, 2 colours"):
        with_front(front)


def other_front(**layers):
    return nn.Sequential(OrderedDict(layers, final=nn.Conv2d(4, 2, 1)))


def with_front(front, **options):
    given = {"palette": {"a": (0, 0, 0), "b": (1, 1, 1)}, "mean": (0, 0, 0)}
    given |= {"input_size": (64, 64)} | options
    return dl.DilatedNetwork(front, dl.ContextModule(2, dilations=(1,)), **given)


def test_tiles_have_a_height_and_a_width_of_a_pixel_or_more():
    front = other_front(c1=nn.Conv2d(3, 4, 3))
    assert with_front(front, input_size=(1, 1)).input_size == (1, 1)
    for wrong in ((0, 9), (9, 0), (9,), (9, 9, 9)):
        with pytest.raises(ValueError, match=r"^input_size"):
            with_front(front, input_size=wrong)
    with pytest.raises(ValueError, match=r"list a height and a width, got \(9,\)"):
        with_front(front, input_size=(9,))


def test_images_are_normalised_on_their_device_and_in_float32():
    """Wherever, and in whatever precision, new tensors are made."""
    network = with_front(other_front(c1=nn.Conv2d(3, 4, 3)), mean=(110.7, 1.1, 20.3))
    images = 255 * torch.rand(1, 3, 5, 6)
    wanted = images.flip(1) - torch.tensor(network.mean)[:, None, None]
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            found = network.normalised(images)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, wanted)
    assert torch.equal(network.half().normalised(images), wanted.half())


def test_a_layer_may_stand_in_the_front_end_twice():
    pool = nn.MaxPool2d(2)
    front = other_front(c1=nn.Conv2d(3, 4, 3), p1=pool, c2=nn.Conv2d(4, 4, 3), p2=pool)
    network = with_front(front)
    image = torch.randn(1, 3, 30, 34)
    assert torch.equal(network.front(image), front(image))
    assert network(image).shape[2:] == front(image).shape[2:] == (6, 7)
    assert str(network.sizes[0]) == "6 + 4n"


def test_two_layers_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two layers would be called final"):
        with_front(other_front(c1=nn.Conv2d(3, 4, 3)), prefix="")


@pytest.mark.parametrize(
    "layers",
    [
        {"c1": nn.Conv2d(3, 4, 5, padding=2)},
        {"c1": nn.Conv2d(3, 4, 3, 2), "p1": nn.MaxPool2d((2, 2))},
        {"c1": nn.Conv2d(3, 4, (3, 5), dilation=(2, 1))},
        {"c1": nn.Conv2d(3, 4, (2, 5))},
        {"c1": nn.Conv2d(3, 4, (5, 2))},
        {
            "inner": nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, ceil_mode=True)
            )
        },
    ],
)
def test_the_smallest_input_of_another_front_end_is_the_smallest(layers):
    network = with_front(other_front(**layers))
    works = {}
    for height in range(1, 12):
        for width in range(1, 12):
            try:
                network(torch.zeros(1, 3, height, width))
                works[height, width] = True
            except ValueError:
                works[height, width] = False
    assert True in works.values()
    for (height, width), found in works.items():
        try:
            network.front(torch.zeros(1, 3, height, width))
            assert found
        except RuntimeError:
            assert not found


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 372, 500), r"at least 373 x 373 pixels.*got \(372, 500\)"),
        ((1, 1, 500, 500), r"shape \(N, 3, H, W\), got \(1, 1, 500, 500\)"),
        ((3, 500, 500), r"shape \(N, 3, H, W\)"),
    ],
)
def test_an_input_that_cannot_work_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        built("dilation8_camvid")(torch.zeros(shape, device="meta"))


def test_the_smallest_input_is_the_smallest():
    network = built("dilation8_camvid")
    assert network(torch.zeros(1, 3, 373, 373, device="meta")).shape[2:] == (1, 1)


@pytest.mark.parametrize(
    ("channels", "stride", "message"),
    [
        (2, 3, "stride must be even, got 3"),
        (2, 0, "stride must be at least 2, got 0"),
        (0, 2, "channels must be at least 1, got 0"),
    ],
)
def test_there_is_no_such_deconvolution(channels, stride, message):
    with pytest.raises(ValueError, match=message):
        bilinear_deconvolution(channels, stride)


def test_colours_are_the_data_sets_own():
    voc = built("dilation8_pascal_voc").palette
    assert voc["background"] == (0, 0, 0) and voc["person"] == (192, 128, 128)
    assert [*voc][20] == "tv monitor" and voc["tv monitor"] == (0, 64, 128)
    camvid = built("dilation8_camvid").palette
    assert [*camvid][:3] == ["building", "tree", "sky"] and len(camvid) == 11
    assert built("dilation10_cityscapes").palette["rider"] == (255, 0, 0)
