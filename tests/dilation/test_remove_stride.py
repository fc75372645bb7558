"""Strides turned into dilation: the dense network holds the strided one."""

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

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


def difference_of(strided, dense, image, *factors):
    """Largest difference between the strided outputs and the dense ones, subsampled."""
    with torch.no_grad():
        wanted, found = (tree_leaves(net(image)) for net in (strided, dense))
    differences = [0.0]
    for one, other, factor in zip(wanted, found, factors, strict=True):
        assert other.shape[2] > one.shape[2] or factor == 1
        kept = other[:, :, ::factor, ::factor]
        assert kept.shape == one.shape
        differences.append(float((kept - one).abs().max() / one.abs().max()))
    return max(differences)


def apart(strided, image, output_stride, *factors):
    """The same for the dense network, which is returned as well."""
    dense = copy.deepcopy(strided)
    dl.remove_stride_(dense, output_stride)
    return difference_of(strided, dense, image, *factors), dense


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


def resnet(block, **options):
    """A ResNet of two blocks a stage: the first has the stride, one follows it."""
    return models.ResNet(block, [2, 2, 2, 2], **options)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("size", [(97, 128), (129, 130)])
def test_a_resnet_does_with_the_first_block_of_a_stage_right(block, size):
    network = resnet(block)
    body = spread(nn.Sequential(*list(network.children())[:-2]))
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    difference, dense = apart(body, image, 8, 4)
    assert difference < 1e-5
    first, second = dense[6][:2]
    last = "conv2" if block is Bottleneck else "conv1"
    assert getattr(first, last).dilation == (1, 1)  # it lost its stride
    assert second.conv2.dilation == (2, 2)


def test_torchvision_dilates_the_same_layers_and_computes_the_same():
    wanted = resnet(Bottleneck, replace_stride_with_dilation=[False, True, True])
    theirs = spread(nn.Sequential(*list(wanted.children())[:-2]).double())
    body = nn.Sequential(*list(resnet(Bottleneck).children())[:-2]).double().eval()
    body.load_state_dict(theirs.state_dict())
    dl.remove_stride_(body, 8)
    for one, other in zip(body.modules(), theirs.modules(), strict=True):
        if isinstance(one, nn.Conv2d) and one.kernel_size != (1, 1):
            assert one.dilation == other.dilation
            assert (one.stride, one.padding) == (other.stride, other.padding)
    image = torch.randn(1, 3, 65, 97, dtype=torch.double)
    assert difference_of(theirs, body, image, 1) < 1e-9


def trunk(network, *until):
    """A network of torchvision as a sequence of its parts, up to some of them."""
    return nn.Sequential(*(getattr(network, part) for part in until))


# few layers a stage: each stage has a stride, and something behind it to be dilated
KINDS = {
    "two outputs": (
        lambda: IntermediateLayerGetter(
            resnet(BasicBlock), {"layer3": "aux", "layer4": "out"}
        ),
        (8, 2, 4),
    ),
    "padding beyond half a kernel": (
        lambda: trunk(
            resnet(BasicBlock), "conv1", "bn1", "maxpool", "layer1", "layer2"
        ),
        (1, 8),
    ),
    "concatenation, poolings that round up": (
        lambda: models.squeezenet1_1().features,
        (4, 4),
    ),
    "average pooling": (lambda: models.DenseNet(8, (2, 2, 2, 2)).features, (8, 4)),
    "shuffled channels": (
        lambda: trunk(
            models.ShuffleNetV2([2, 2, 2], [24, 48, 96, 192, 1024]),
            *("conv1", "maxpool", "stage2", "stage3", "stage4"),
        ),
        (8, 4),
    ),
    "permutes": (
        lambda: (
            models.ConvNeXt(
                [CNBlockConfig(8 << n, 16 << n if n < 3 else None, 1) for n in range(4)]
            ).features
        ),
        (8, 4),
    ),
    "depthwise": (
        lambda: (
            models.MobileNetV2(
                inverted_residual_setting=[
                    [1, 16, 1, 1],
                    *([6, 24 << n, 2, 2] for n in range(4)),
                ]
            ).features
        ),
        (8, 4),
    ),
    "strides that stay behind one that goes": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 3, 6), nn.AvgPool2d((1, 2), 2), nn.Conv2d(4, 2, 3, 2)),
            nn.Conv2d(2, 2, 2),
        ),
        (4, 6),
    ),
    "padding in words": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 5, 2), nn.Conv2d(4, 2, (3, 5), padding="same")),
            nn.Conv2d(2, 2, (2, 4), padding="valid"),
        ),
        (1, 2),
    ),
    "context module": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, 3, 2, padding=1), nn.MaxPool2d(2), dl.ContextModule(5)
        ),
        (1, 4),
    ),
    "front end": (
        lambda: dl.front_end(5, width=4, fc_channels=8, padding="zeros"),
        (2, 4),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_keeps_its_units(kind):
    make, (output_stride, *factors) = KINDS[kind]
    network = spread(make().double())
    dense = copy.deepcopy(network)
    dl.remove_stride_(dense, output_stride)
    for size in ((97, 128), (130, 65)):
        image = torch.randn(1, 3, *size, dtype=torch.double)
        assert difference_of(network, dense, image, *factors) < 1e-9
    assert network.state_dict().keys() == dense.state_dict().keys()


def pools(layer, **options):
    return st.integers(1, 3).flatmap(
        lambda k: st.builds(
            lambda s, p, up, more: layer(k, s, p, ceil_mode=up, **more),
            st.integers(1, 3),
            st.integers(0, k // 2),
            st.booleans(),
            st.fixed_dictionaries(options),
        )
    )


LAYERS = st.one_of(
    st.builds(
        lambda k, s, d, p: nn.Conv2d(2, 2, k, s, dilation=d, padding=p),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(1, 2),
        st.integers(0, 2),
    ),
    pools(nn.MaxPool2d, dilation=st.integers(1, 2)),
    pools(
        nn.AvgPool2d,
        count_include_pad=st.booleans(),
        divisor_override=st.sampled_from([None, 3]),
    ),
    st.just(nn.ReLU()),
)


@settings(max_examples=40)
@given(
    first=st.integers(2, 3),
    layers=st.lists(LAYERS, min_size=2, max_size=4),
    height=st.integers(40, 60),
    width=st.integers(40, 60),
    output_stride=st.sampled_from([1, 1, 2, 4]),
)
def test_any_chain_does(first, layers, height, width, output_stride):
    """In most of them the first stride is removed, so what follows has to change."""
    strided = nn.Sequential(nn.Conv2d(2, 2, 1, first), *layers).double()
    dense = copy.deepcopy(strided)
    dl.remove_stride_(dense, output_stride)
    image = torch.randn(1, 2, height, width, dtype=torch.double)
    with torch.no_grad():
        try:
            wanted = strided(image)
        except RuntimeError:  # nothing is left of the image
            return
        found = dense(image)
    kept = removed = 1
    for layer in strided:
        stride = getattr(layer, "stride", 1)
        stride = stride if isinstance(stride, int) else stride[0]
        fits = kept * stride <= output_stride
        kept, removed = (kept * stride, removed) if fits else (kept, removed * stride)
    torch.testing.assert_close(
        found[:, :, ::removed, ::removed], wanted, equal_nan=True, rtol=1e-9, atol=1e-9
    )


def test_a_mode_stays_and_what_follows_the_trace_does_too():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Dropout(), nn.AvgPool2d(2))
    dl.remove_stride_(network.train(), 1)
    assert all(layer.training for layer in network.modules())
    assert network(torch.zeros(2, 3, 20, 21)).shape == (2, 4, 16, 17)
    field = dl.receptive_field(network, (3, 64, 64))[0]
    assert (field.size, field.stride) == (5, 1)


def test_a_shared_pooling_is_replaced_wherever_it_is():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one = nn.Conv2d(3, 2, 3, 2), nn.AvgPool2d(2, 1)
            self.same = self.one

        def forward(self, image):
            return self.same(self.one(self.stem(image)))

    difference, dense = apart(Two(), torch.randn(1, 3, 31, 32), 1, 2)
    assert difference < 1e-5 and dense.one is dense.same


def test_a_size_can_be_given():
    class OneSize(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, 2)

        def forward(self, image):
            assert image.shape[2] % 100 == 0
            return self.conv(image)

    network = OneSize()
    with pytest.raises(ValueError, match=r"input_size=.* names a size that it takes"):
        dl.remove_stride_(network, 1)
    dl.remove_stride_(network, 1, input_size=(4, 100, 200))
    assert network.conv.stride == (1, 1)


def test_a_size_has_channels_a_height_and_a_width():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, 2))
    for wrong in ((9, 9), (1, 9, 9, 9), (0, 9, 9), (1, 9, 0)):
        with pytest.raises(ValueError, match=r"^input_size"):
            dl.remove_stride_(network, 1, input_size=wrong)
    with pytest.raises(ValueError, match=r"list channels, a height and a width, got"):
        dl.remove_stride_(network, 1, input_size=(9, 9))
    dl.remove_stride_(network, 1, input_size=(1, 1, 1))
    assert network[0].stride == (1, 1)


def test_the_sizes_tried_are_those_documented():
    sides = []

    class NoSize(nn.Module):
        def forward(self, image):
            sides.append(image.shape[2:])
            raise ValueError("not this one")

    with pytest.raises(ValueError, match=r"input_size=.* names a size that it takes"):
        dl.remove_stride_(NoSize(), 1)
    (documented,) = re.findall(r"squares of (.*) pixels", dl.remove_stride_.__doc__)
    numbers = [int(number) for number in re.findall(r"\d+", documented)]
    assert [*dict.fromkeys(sides)] == [(number, number) for number in numbers]


class Meeting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 1, 1, 2), nn.Conv2d(1, 1, 1, 4))
        self.second = nn.Sequential(nn.Conv2d(1, 1, 1, 4), nn.Conv2d(1, 1, 1, 2))

    def forward(self, image):
        return self.first(image) + self.second(image)


class Then(nn.Module):
    """A function behind a layer whose stride is removed."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv2d(1, 4, 1, 2), function

    def forward(self, image):
        return self.function(self.conv(image))[:, :1]


class Same(nn.Conv2d):
    """A layer that pads by itself, as its stride decides."""

    def forward(self, image):
        step = self.stride[0]
        more = (-(-image.shape[2] // step) - 1) * step + 3 - image.shape[2]
        return super().forward(F.pad(image, (more // 2, more - more // 2) * 2))


class Other(nn.Conv2d):
    """A layer that dilates by itself."""

    def forward(self, image):
        return F.conv2d(image, self.weight, stride=self.stride, dilation=2)


class Seen(nn.Module):
    """A function behind a removed stride, where each unit has seen everything."""

    def __init__(self, function):
        super().__init__()
        self.then = Then(function)

    def forward(self, image):
        return self.then(image * image.mean((2, 3), keepdim=True))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, 2)

    def forward(self, image):
        return self.conv(self.conv(image))


class Asking(nn.Module):
    def forward(self, image):
        return image if image.sum() > 0 else -image


def hooked(kind):
    layer = nn.Conv2d(1, 1, 3)
    getattr(layer, f"register_{kind}")(lambda *call: call[-1])
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


def test_what_a_pooling_has_for_both_axes_is_a_pair_afterwards():
    network = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2))
    dl.remove_stride_(network, 1)
    assert [layer.dilation for layer in network] == [(1, 1), (2, 2)]
    assert [layer.stride for layer in network] == [(1, 1), (1, 1)]


def numbered(x):
    """Maps, and others of their size that hold the number of each column."""
    return x, torch.arange(x.shape[3]).float().expand(x.shape)


EVEN = nn.Conv2d(1, 1, (3, 4), padding="same")
AFTER = "give the part of the network before it, or a larger output_stride"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (hooked("forward_hook"), "0 has hooks"),
        (hooked("forward_pre_hook"), "0 has hooks"),
        (nn.Conv2d(1, 1, 3, (1, 2)), "one stride for both axes"),
        (nn.Conv2d(1, 1, 3, 2, padding=1, padding_mode="reflect"), "number of zeros"),
        (Same(1, 1, 3, 2), "0 computes pad, too, .* a number of zeros"),
        (Other(1, 1, 3, 2), "0 must use its own stride and dilation"),
        (
            nn.Sequential(nn.Conv2d(1, 1, 1, 2), EVEN),
            "0.1 pads an even kernel unevenly",
        ),
        (Twice(), "0.conv is used twice, at different spacings; give each"),
        (Asking(), "cannot be traced"),
        (Then(lambda x: F.max_pool2d(x, 3)), "0 calls max_pool2d .* nn.MaxPool2d"),
        (Then(lambda x: F.conv2d(x, torch.ones(4, 4, 3, 3))), "0 calls conv2d"),
        (Then(lambda x: x.mean((2, 3), keepdim=True) * x), f"0 .mean.*{AFTER}"),
        (Then(lambda x: x.flip(2)), f"0 .flip.*{AFTER}"),
        (Then(lambda x: x[..., 1:, 1:]), f"0 .slice.*{AFTER}"),
        (Then(lambda x: x[..., :-1, :]), f"0 .slice.*{AFTER}"),
        (Then(lambda x: x.roll(1, 2)), f"0 .roll.*{AFTER}"),
        (Seen(lambda x: x.roll(1)), f"0.then .roll.*{AFTER}"),
        (Then(lambda x: x.softmax(3)), f"0 .softmax.*{AFTER}"),
        (Then(lambda x: x + torch.arange(x.shape[3])), f"0 .add.*{AFTER}"),
        (Then(lambda x: torch.cat(numbered(x), 1)), f"0 .cat.*{AFTER}"),
        (Then(lambda x: torch.concatenate(numbered(x), 1)), f"0 .conc.*{AFTER}"),
        (Then(lambda x: torch.stack(numbered(x)).amax(0)), f"0 .stack.*{AFTER}"),
        (Then(lambda x: F.pixel_shuffle(x, 2)), f"0 .pixel_shuffle.*{AFTER}"),
        (Then(lambda x: F.group_norm(x, 1)), f"0 .group_norm.*{AFTER}"),
        (Then(lambda x: F.interpolate(x, scale_factor=2)), f"0 .upsample.*{AFTER}"),
        (nn.Upsample(scale_factor=0.5), f"0 .upsample.*{AFTER}"),
        (nn.ConvTranspose2d(1, 1, 2, 2), None),
    ],
)
def test_what_has_no_dense_form_is_refused_and_left_alone(network, message):
    whole = nn.Sequential(network, nn.Conv2d(1, 1, 3, 2))
    before = repr(whole)
    if message is None:  # nothing in front of it is removed
        return dl.remove_stride_(whole, 1)
    with pytest.raises(ValueError, match=message):
        dl.remove_stride_(whole, 1)
    assert repr(whole) == before


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(0, 2, 3, 1).softmax(3).permute(0, 3, 1, 2),
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
        lambda x: x * torch.ones(4, 1, 1) + x.mean(1, keepdim=True),
        lambda x: torch.cat([x[:, 2:], x[:, 1:2] / 2, x[:, :2]], 1),
        lambda x: (
            x.view(*x[:, 0, 0, 0].shape, 2, 2, *x.shape[2:])
            .transpose(1, 2)
            .flatten(1, 2)
        ),
    ],
)
def test_what_is_computed_of_each_unit_alone_stays_as_it_is(function):
    class Following(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.last = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 2, 3)

        def forward(self, image):
            return self.last(function(self.stem(image))[:, :4])

    difference, dense = apart(Following(), torch.randn(1, 3, 35, 30), 1, 2)
    assert difference < 1e-5 and dense.last.dilation == (2, 2)


def test_a_gate_from_before_a_removed_stride_may_come_after_it():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.last = nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 2, 3)

        def forward(self, image):
            gate = image.mean((2, 3), keepdim=True).sigmoid()
            return self.last(self.stem(image) * gate)

    difference, dense = apart(Gated(), torch.randn(1, 1, 35, 30), 1, 2)
    assert difference < 1e-5 and dense.last.dilation == (2, 2)


def test_maps_of_different_spacing_do_not_meet():
    with pytest.raises(ValueError, match=r"meet in Meeting \(add\): .* of 2 and 4"):
        dl.remove_stride_(Meeting(), 4)
    difference, _ = apart(Meeting(), torch.randn(1, 1, 30, 41), 1, 8)
    assert difference < 1e-5


def test_maps_whose_sizes_would_no_longer_agree_are_refused():
    class Differing(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.conv = nn.MaxPool2d(2), nn.Conv2d(3, 3, 3, 2, padding=1)

        def forward(self, image):
            return self.pool(image) + self.conv(image)

    network = Differing()
    assert network(torch.zeros(1, 3, 64, 64)).shape[2] == 32
    before = repr(network), vars(network.conv).copy()
    with pytest.raises(ValueError, match="without its strides the network would fail"):
        dl.remove_stride_(network, 1)
    assert (repr(network), vars(network.conv)) == before


def test_a_pooling_alone_is_told_where_to_be():
    with pytest.raises(ValueError, match=r"put it in nn\.Sequential"):
        dl.remove_stride_(nn.AvgPool2d(2), 1)


def test_an_output_stride_below_one_is_refused():
    with pytest.raises(ValueError, match="output_stride must be at least 1, got 0"):
        dl.remove_stride_(nn.Sequential(), 0)
