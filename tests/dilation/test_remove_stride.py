"""Strides turned into dilation: the dense network holds the strided one."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import models

import dilated_lib as dl


def spread(network):
    """Random weights whose signal neither dies nor explodes; no running statistics."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return network.eval()


def apart(strided, image, output_stride, factor):
    """Largest difference between the strided output and the dense one, subsampled."""
    dense = copy.deepcopy(strided)
    dl.remove_stride_(dense, output_stride)
    with torch.no_grad():
        wanted, found = strided(image), dense(image)
    assert found.shape[2] > wanted.shape[2]
    kept = found[:, :, ::factor, ::factor]
    assert kept.shape == wanted.shape
    return float((kept - wanted).abs().max() / wanted.abs().max()), dense


@pytest.mark.parametrize("output_stride", [16, 8])
def test_vgg_16_computes_what_it_did_between_as_well(output_stride):
    with torch.device("meta"):  # not the classifier's 124 million weights
        vgg = models.vgg16()
        vgg.classifier[0] = nn.Linear(512 * 49, 16)
        vgg.classifier[3] = nn.Linear(16, 16)
        vgg.classifier[6] = nn.Linear(16, 5)
    slid = spread(dl.fully_convolutional(vgg.to_empty(device="cpu")))
    image = torch.randn(1, 3, 256, 230, generator=torch.Generator().manual_seed(0))
    difference, _ = apart(slid, image, output_stride, 32 // output_stride)
    assert difference < 1e-5


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("size", [(97, 128), (129, 130)])
def test_a_resnet_does_with_the_first_block_of_a_stage_right(name, size):
    network = models.get_model(name)
    body = spread(nn.Sequential(*list(network.children())[:-2]))
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    difference, dense = apart(body, image, 8, 4)
    assert difference < 1e-5
    first, second = dense[6][:2]
    last = "conv2" if name == "resnet50" else "conv1"
    assert getattr(first, last).dilation == (1, 1)  # it lost its stride
    assert second.conv2.dilation == (2, 2)


def test_torchvision_dilates_the_same_layers():
    wanted = models.resnet50(replace_stride_with_dilation=[False, True, True])
    body = nn.Sequential(*list(models.resnet50().children())[:-2])
    dl.remove_stride_(body, 8)
    theirs = nn.Sequential(*list(wanted.children())[:-2])
    for one, other in zip(body.modules(), theirs.modules(), strict=True):
        if isinstance(one, nn.Conv2d) and one.kernel_size != (1, 1):
            assert one.dilation == other.dilation
            assert (one.stride, one.padding) == (other.stride, other.padding)


LAYERS = st.one_of(
    st.builds(
        lambda k, s, d, p: nn.Conv2d(2, 2, k, s, dilation=d, padding=p),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(1, 2),
        st.integers(0, 2),
    ),
    st.builds(
        lambda k, s, d: nn.MaxPool2d(k, s, dilation=d),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(1, 2),
    ),
    st.just(nn.ReLU()),
)


@settings(max_examples=80)
@given(
    layers=st.lists(LAYERS, min_size=1, max_size=5),
    height=st.integers(40, 60),
    width=st.integers(40, 60),
    output_stride=st.integers(1, 9),
)
def test_any_chain_does(layers, height, width, output_stride):
    strided = nn.Sequential(*layers).double()
    dense = copy.deepcopy(strided)
    dl.remove_stride_(dense, output_stride)
    image = torch.randn(1, 2, height, width, dtype=torch.double)
    with torch.no_grad():
        try:
            wanted = strided(image)
        except RuntimeError:  # nothing is left of the image
            return
        found = dense(image)
    removed = 1
    for layer, one in zip(strided, dense, strict=True):
        if not isinstance(layer, nn.ReLU):
            now = one.stride if isinstance(one.stride, int) else one.stride[0]
            was = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
            removed *= was // now
    torch.testing.assert_close(found[:, :, ::removed, ::removed], wanted)


class Meeting(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.same = nn.Conv2d(1, 1, 1, 2), nn.Conv2d(1, 1, 1)

    def forward(self, image):
        return self.wide(image)[..., :1, :1] + self.same(image)[..., :1, :1]


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.same = nn.Conv2d(1, 1, 1, 2), nn.Conv2d(1, 1, 1)

    def forward(self, image):
        return self.wide(image) + self.same(image)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, 2)

    def forward(self, image):
        return self.conv(self.conv(image))


class Asking(nn.Module):
    def forward(self, image):
        return image if image.sum() > 0 else -image


class View(nn.Module):
    def forward(self, image):
        return image.flip(2)


def hooked():
    layer = nn.Conv2d(1, 1, 3)
    layer.register_forward_hook(lambda _, __, output: output.flip(2))
    return layer


def test_a_layer_that_stays_as_it_is_may_round_up_or_reflect():
    network = nn.Sequential(
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(1, 1, 3, 2),
        nn.Conv2d(1, 1, 3),
    )
    image = torch.randn(1, 1, 31, 33)
    difference, dense = apart(network, image, 2, 2)
    assert difference < 1e-5
    assert dense[0].ceil_mode and dense[3].dilation == (2, 2)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.AvgPool2d(2), r"0 \(AvgPool2d\) has no dense form"),
        (nn.MaxPool2d(2, ceil_mode=True), "0 rounds its size up"),
        (nn.MaxPool2d(3, 1, padding=1), "1 would be padded by 2, and torch pads"),
        (hooked(), "0 has hooks"),
        (nn.Conv2d(1, 1, 3, (1, 2)), "one stride for both axes"),
        (nn.Conv2d(1, 1, 3, 2, padding="valid"), "padded by a number of zeros"),
        (nn.Conv2d(1, 1, 3, 2, padding=1, padding_mode="reflect"), "number of zeros"),
        (Meeting(), "getitem has no dense form"),
        (Sum(), "maps of different spacing meet in add"),
        (Twice(), "conv is used twice"),
        (Asking(), "cannot be traced"),
        (View(), "the method flip has no dense form"),
    ],
)
def test_what_has_no_dense_form_is_refused_and_left_alone(network, message):
    whole = nn.Sequential(network, nn.Conv2d(1, 1, 3, 2))
    if isinstance(network, nn.MaxPool2d) and network.padding:
        whole.insert(0, nn.Conv2d(1, 1, 3, 2))
    before = repr(whole)
    with pytest.raises(ValueError, match=message):
        dl.remove_stride_(whole, 1)
    assert repr(whole) == before


def test_an_output_stride_below_one_is_refused():
    with pytest.raises(ValueError, match="output_stride must be a whole number above"):
        dl.remove_stride_(nn.Sequential(), 0)
