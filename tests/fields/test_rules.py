"""What single operations read: channels, attention, recurrence, lists and masks."""

from fractions import Fraction
from math import inf

import pytest
import torch
from nets import Net
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.fields.tracing import chain
from dilated_lib.fields.tracing.export import TracingError

aten = torch.ops.aten


def wide():
    return nn.Conv2d(2, 2, 3, padding=1)


def fields(function, *layers, side=12):
    return dl.receptive_field(Net(function, *layers), (2, side, side))


def sizes(function, *layers):
    return [one.size for one in fields(function, *layers)]


@pytest.mark.parametrize(("part", "size"), [(0, 3), (1, 3), (2, 1), (3, 1)])
def test_a_channel_of_a_group_reads_its_group_alone(part, size):
    def grouped(x, wide, group):
        channels = torch.cat([x[:, :1], wide(x)[:, :1], x], 1)
        return group(channels)[:, part : part + 1]

    assert sizes(grouped, wide(), nn.Conv2d(4, 4, 1, groups=2)) == [size, size]


def test_attention_along_rows_takes_the_values_channel_by_channel():
    def rows(part):
        def attention(x, wide):
            pixels = x[:, :1].expand(-1, 2, -1, -1).permute(0, 2, 3, 1)
            values = torch.cat([x[:, :1], wide(x)[:, :1]], 1).permute(0, 2, 3, 1)
            seen = F.scaled_dot_product_attention(pixels, pixels, values)
            return seen[..., part].permute(0, 3, 1, 2)

        return attention

    assert sizes(rows(slice(0, 1)), wide()) == [1, inf]
    assert sizes(rows(slice(1, 2)), wide()) == [3, inf]


@pytest.mark.parametrize("several", [True, False])
def test_the_last_states_of_a_recurrent_layer_read_all_tokens(several):
    def states(x, layer):
        _, (last, _) = layer(x.flatten(2).transpose(1, 2))
        return x + last.permute(1, 0, 2).flatten(1)[:, :2, None, None]

    layer = nn.LSTM(2, 3, batch_first=True, bidirectional=several)
    found = fields(states, layer)
    assert [(one.size, one.stride) for one in found] == [(inf, 1)] * 2
    assert found.region(3, 4).all()


def test_a_number_where_a_constant_mask_says_lets_nothing_through():
    def blanked(x):
        first = torch.zeros(1, 2, 12, 12, dtype=torch.bool)
        first[..., 0, :] = True
        y = x.clone()
        y[first] = 0.0
        return y

    found = fields(blanked)
    assert [one.size for one in found] == [1, 1]
    assert not found.region(0, 5).any() and found.region(1, 5).sum() == 1


def test_a_linear_layer_reads_the_last_dimension():
    def last(x, linear):
        return linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert sizes(last, nn.Linear(2, 5)) == [1, 1]
    assert sizes(lambda x, linear: linear(x), nn.Linear(12, 5)) == [1, inf]


@pytest.mark.parametrize(
    ("resize", "rates"),
    [
        (lambda x: aten.upsample_nearest2d.default(x, [18, 17], 1.5, 1.45), (18, 17)),
        (lambda x: F.interpolate(x, scale_factor=(1.5, 1.45)), (18, 17)),
        (lambda x: F.interpolate(x, (18, 18)), (18, 18)),
    ],
)
def test_a_resized_map_keeps_the_factors_that_it_is_given(resize, rates):
    found = fields(resize)
    factors = {18: Fraction(2, 3), 17: Fraction(20, 29)}  # 17 is 12 times 1.45, cut off
    assert [one.stride for one in found] == [factors[out] for out in rates]
    (along,) = dl.receptive_field(
        Net(lambda x: aten.upsample_nearest1d.default(x, [17], 1.45)), (2, 12)
    )
    assert along.stride == Fraction(20, 29)


def test_places_by_a_list_are_read_on_any_device():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(2, 2, 3, device="meta")

        def forward(self, x):
            y = self.layer(x)
            return y[:, torch.arange(2, device=y.device).flip(0)]

    assert [one.size for one in dl.receptive_field(Turned(), (2, 12, 12))] == [3, 3]


def test_places_by_a_list_that_is_learned_are_refused():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.moved = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return x[:, torch.arange(2) + self.moved.long()]

    with pytest.raises(TracingError, match="index takes places by a list that is comp"):
        dl.receptive_field(Learned(), (2, 12, 12))


def test_the_window_of_a_transposed_layer_has_its_output_padding():
    layers = nn.Sequential(nn.ConvTranspose2d(2, 2, 3, 2, output_padding=1))
    (link,) = chain(layers, (2, 9, 9))
    assert link.windows == (dl.Window(3, 2, output_padding=1, transposed=True),) * 2
