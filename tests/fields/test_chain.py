"""A network that is one chain of layers, read as windows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dilated_lib.fields.tracing.chain import chain
from dilated_lib.fields.windows import Window


def test_layers_come_in_order_and_each_axis_has_its_window():
    network = nn.Sequential(
        nn.Conv2d(1, 4, (3, 5), (1, 2), padding=(0, 3), dilation=(2, 1)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, 1, padding=1),
        nn.ConvTranspose2d(4, 2, 4, 2, 1),
    )
    first, pool, mean, up = chain(network, (1, 33, 37))
    assert first.windows == (Window(3, dilation=2), Window(5, 2, padding=3))
    assert pool.windows == (Window(2, 2), Window(2, 2))
    assert mean.windows == (Window(3, padding=1), Window(3, padding=1))
    assert up.windows == 2 * (Window(4, 2, padding=1, transposed=True),)
    assert [one.pooling for one in (first, pool, mean, up)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("padding", "height", "width"),
    [
        (nn.ZeroPad2d((1, 2, 3, 4)), (3, 4), (2, 3)),
        (nn.ReflectionPad2d((1, 0, 0, 2)), (0, 2), (2, 1)),
        (nn.ReplicationPad2d(2), (2, 2), (3, 3)),
        (nn.ZeroPad2d((0, 3, 0, 0)), (0, 0), (1, 4)),
    ],
)
@pytest.mark.parametrize("pools", [False, True])
def test_a_padding_belongs_to_the_layer_that_reads_it(padding, height, width, pools):
    layer = nn.MaxPool2d(3, padding=(0, 1)) if pools else nn.Conv2d(1, 1, 3, 3, (0, 1))
    (link,) = chain(nn.Sequential(padding, nn.ReLU(), layer), (1, 24, 24))
    assert link.windows == (
        Window(3, 3, padding=height),
        Window(3, 3, padding=width),
    )
    assert link.pooling is pools


def test_a_causal_layer_is_padded_before_alone():
    layers = nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(1, 1, 3, dilation=2)
    (link,) = chain(nn.Sequential(*layers), (1, 40))
    assert link.windows == (Window(3, dilation=2, padding=(4, 0)),)


def test_an_even_kernel_keeps_its_uneven_padding():
    layers = nn.ZeroPad2d((1, 3, 0, 2)), nn.Conv2d(1, 1, (2, 4), padding="same")
    (link,) = chain(nn.Sequential(*layers), (1, 20, 20))
    assert link.windows == (Window(2, padding=(0, 3)), Window(4, padding=(2, 5)))


def test_two_paddings_add_and_only_the_last_axis_may_be_padded():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, 2, padding=(1, 0))

        def forward(self, x):
            x = torch.ops.aten.reflection_pad2d(x, [0, 0, 0, 1])
            return self.conv(F.pad(x, (2, 5)))

    (link,) = chain(Padded(), (1, 16, 16))
    assert link.windows == (Window(3, 2, padding=(1, 2)), Window(3, 2, padding=(2, 5)))


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ((nn.Conv2d(1, 1, 3), nn.ZeroPad2d(1)), r"^\S+ .*pads \(1, 1, 1, 1\), and no "),
        ((nn.ZeroPad2d(-1), nn.Conv2d(1, 1, 3)), r"pads \(-1, -1, -1, -1\), and no "),
        (
            (nn.ZeroPad2d((2, 0, 0, 0)), nn.ConvTranspose2d(1, 1, 3, 2)),
            r"^0 \(pad\) pads \(2, 0, 0, 0\), and no convolution or pooling reads it",
        ),
        ((nn.ReLU(),), "^Sequential is no chain of convolutions and poolings"),
        ((nn.Conv2d(1, 1, 3), nn.Upsample(scale_factor=2)), "it also resizes, crops"),
        ((nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1)), "or reads whole axes"),
    ],
)
def test_what_no_window_says_is_refused(layers, told):
    with pytest.raises(ValueError, match=told):
        chain(nn.Sequential(*layers), (1, 16, 16))


def test_one_of_several_results_and_maps_that_meet():
    class Split(nn.Module):
        def __init__(self, meet):
            super().__init__()
            self.conv, self.meet = nn.Conv2d(4, 2, 3, bias=False), meet

        def forward(self, x):
            one, other = torch.split(self.conv(x), 1, dim=1)
            return one + other if self.meet else one

    (link,) = chain(Split(meet=False), (4, 9, 9))
    assert link.windows == (Window(3), Window(3))
    with pytest.raises(ValueError, match=r"^add takes 2 maps together, and a "):
        chain(Split(meet=True), (4, 9, 9))
