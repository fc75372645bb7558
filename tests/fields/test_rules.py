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


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("steps_first", [True, False])
def test_states_stay_beside_the_sequence_that_they_sum_up(part, steps_first):
    def rows(x, layer):
        lines = x[0].permute(2, 1, 0) if steps_first else x[0].permute(1, 2, 0)
        _, states = layer(lines)
        return x + states[part].permute(0, 2, 1)[:, :2, :, None]

    layer = nn.LSTM(2, 3, batch_first=not steps_first)
    assert sizes(rows, layer) == [1, inf]


def test_a_layer_with_one_state_has_it_too():
    def rows(x, layer):
        _, last = layer(x[0].permute(1, 2, 0))
        return x + last.permute(0, 2, 1)[:, :2, :, None]

    assert sizes(rows, nn.GRU(2, 3, batch_first=True)) == [1, inf]


def test_norms_read_what_they_take_statistics_of_and_no_other_picture():
    def rows(x, norm):  # each row is a picture of its own
        return norm(x[0].transpose(0, 1)).transpose(0, 1)[None]

    assert sizes(rows, nn.GroupNorm(2, 2)) == [1, inf]
    assert sizes(rows, nn.InstanceNorm1d(2)) == [1, inf]
    mean, variance = torch.zeros(2), torch.ones(2)
    for own, size in ((True, inf), (False, 1)):

        def kept(x, own=own):
            return F.instance_norm(x, mean, variance, use_input_stats=own)

        assert sizes(kept) == [size, size]


def test_of_a_network_that_sees_everything_each_result_keeps_its_shape():
    def factors(x):  # torch.linalg.qr has no rule
        whole = x.mean((2, 3)).expand(4, 2)
        one, other = torch.linalg.qr(whole)
        return x[:, :, :4, :2] + one, x[:, :, :2, :2] + other

    for part in (0, 1):
        assert sizes(lambda x, part=part: factors(x)[part]) == [inf, inf]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: F.prelu(x, x[0, :, 0, 0]), "prelu takes its weight from the input"),
        (
            lambda x: torch.gather(x, 3, x.long()),
            "gather takes places that the input decides",
        ),
        (
            lambda x: x[:, :, x[0, 0, :, 0].long()],
            "index takes places that the input decides",
        ),
        (
            lambda x: torch.fused_moving_avg_obs_fake_quant(
                x, *torch.ones(2, 1), *torch.ones(4, 1), 0.1, 0, 255, 0
            ),
            "rounds by the range of all values that it has met; to=… names a layer bef",
        ),
    ],
)
def test_what_values_decide_is_refused_in_a_sentence(function, said):
    with pytest.raises(TracingError, match=said):
        dl.receptive_field(Net(function), (2, 12, 12))


def test_a_product_with_a_vector_that_the_input_makes():
    assert sizes(lambda x: x @ x.mean((0, 1, 2))) == [inf, inf]
    assert sizes(lambda x: x @ torch.ones(12)) == [1, inf]
    assert sizes(lambda x: torch.ones(3, 12) @ x.mean((0, 1, 2))) == [inf, inf]
    assert sizes(lambda x: x[0, 0, :, 5]) == [1, 1]


def test_a_spectrum_reads_all_along_its_dimension():
    for transform in (torch.fft.fft, torch.fft.rfft, torch.fft.irfft):
        for dim, wanted in ((2, [inf, 1]), (3, [1, inf])):

            def spectrum(x, transform=transform, dim=dim):
                return transform(x, dim=dim).abs()

            assert sizes(spectrum) == wanted


def test_an_index_of_words_is_read_where_it_stands():
    def words(x, table):
        return table(x[:, 0].long()).permute(0, 3, 1, 2)

    assert sizes(words, nn.Embedding(5, 2)) == [1, 1]


def test_what_takes_only_a_shape_or_a_kind_reads_nothing_else():
    kinds = (torch.Tensor.expand_as, torch.Tensor.type_as, torch.Tensor.to)
    for kind in kinds:
        assert sizes(lambda x, wide, kind=kind: kind(x, wide(x)), wide()) == [1, 1]


def test_places_that_are_computed_keep_how_they_are_rounded():
    def doubled(x):
        return x[:, :, torch.div(torch.arange(12), 2, rounding_mode="floor")]

    assert [one.stride for one in fields(doubled)] == [Fraction(1, 2), 1]


def test_complex_numbers_are_pairs_of_the_last_dimension():
    pairs = [(2, 2), (1, Fraction(1, 2))]  # size and stride along the columns
    for function, along in zip(
        (
            lambda x: torch.view_as_complex(x.unflatten(3, (6, 2))).abs(),
            lambda x: torch.view_as_real(x.to(torch.complex64)).flatten(3),
        ),
        pairs,
        strict=True,
    ):
        rows, columns = fields(function)
        assert (rows.size, rows.stride) == (1, 1)
        assert (columns.size, columns.stride) == along


def test_what_is_normalised_together_is_read_together():
    assert sizes(lambda x: x.softmax(3)) == [1, inf]
    assert sizes(lambda x: x.softmax(1)) == [1, 1]
    mean, variance = torch.zeros(2), torch.ones(2)
    for training, size in ((True, inf), (False, 1)):

        def norm(x, training=training):
            return F.batch_norm(x, mean, variance, training=training)

        assert sizes(norm) == [size, size]

    def rows(x):  # as channels, each with statistics of its own
        return F.batch_norm(x.transpose(1, 2), None, None, training=True)

    assert sizes(lambda x: rows(x).transpose(1, 2)) == [1, inf]


def test_attention_reads_its_mask_and_if_causal_nothing_ahead():
    def causal(x):
        tokens = x.permute(0, 2, 3, 1)
        seen = F.scaled_dot_product_attention(tokens, tokens, tokens, is_causal=True)
        return seen.permute(0, 3, 1, 2)

    found = fields(causal)
    assert [one.size for one in found] == [1, inf]
    assert [*found.region(3, 5).nonzero()[1]] == [*range(6)]

    def masked(x):
        same = torch.ones(1, 1, 12, 2)
        return F.scaled_dot_product_attention(same, same, same, x[:, :1])[..., 0]

    assert sizes(masked) == [1, inf]


def test_factors_of_a_product_that_is_added_are_no_maps():
    def added(x):
        return torch.addmm(x[0, 1], x[0, 0], torch.ones(12, 12), beta=0.5, alpha=2.0)

    assert sizes(added) == [1, inf]


@pytest.mark.parametrize(("count", "first"), [(5, 7), (20, 0)])
def test_a_slice_from_the_end_begins_within_the_map(count, first):
    found = fields(lambda x: x[:, :, -count:])
    assert [one.size for one in found] == [1, 1]
    assert [*zip(*found.region(0, 3).nonzero(), strict=True)] == [(first, 3)]


def test_running_sums_read_along_their_dimension():
    assert sizes(lambda x: x.cumsum(2)) == [inf, 1]
    assert sizes(lambda x: x.cumsum(3)) == [1, inf]


@pytest.mark.parametrize(("part", "size"), [(0, 1), (1, 3)])
def test_maps_that_are_stacked_keep_what_they_see(part, size):
    def stacked(x, wide):
        return torch.stack([x, wide(x)], 1)[:, part]

    assert sizes(stacked, wide()) == [size, size]


def test_what_is_overwritten_sees_what_was_written():
    def written(x, wide):
        return torch.zeros_like(x).copy_(wide(x))

    assert sizes(written, wide()) == [3, 3]
