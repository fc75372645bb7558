"""The analysis of traced networks: against the networks themselves, and by hand."""

import copy
import math
import pickle
import runpy
from collections import OrderedDict
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
import torch
from nets import Net
from random_networks import RandomNetwork
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib import Window
from dilated_lib.fields.tracing import reach, rules
from dilated_lib.fields.tracing.export import TracingError


def conv(k=3, s=1, *, d=1, p=0, c=2, **options):
    return nn.Conv2d(c, options.pop("out", c), k, s, p, d, **options)


def size_of(model, input_size, **options):
    return [field.size for field in dl.receptive_field(model, input_size, **options)]


def two(x):
    """The channels of a map, and those of the map moved by one."""
    return torch.cat([x, F.pad(x, (1, -1))], 1)


def beside(x, one):
    """A map, and a unit of it for all places, side by side."""
    return torch.cat([x, one.expand_as(x)], 1)


def everywhere(x):
    """A map whose every unit sees all."""
    return x + x.mean((2, 3), keepdim=True)


def unshuffled(x):
    return F.pixel_unshuffle(x[:, :, 1:], 2)


def four():
    """A layer that keeps four channels apart."""
    return conv(c=4, out=4, groups=4)


# every construct once; what is wanted is the network's own answer
CONSTRUCTS = {
    "sequential": nn.Sequential(conv(), nn.ReLU(), conv(5, 2, p=2), nn.MaxPool2d(2)),
    "anisotropic": nn.Sequential(conv((1, 5), (2, 1), d=(3, 2), p=(0, 4))),
    "same, even kernel": nn.Sequential(conv(4, p="same", d=3), conv(2, p="same")),
    "valid": conv(3, p="valid"),
    "reflected": conv(3, p=2, padding_mode="reflect"),
    "replicated": nn.Sequential(conv(3, 2), conv(3, p=1, padding_mode="replicate")),
    "circular": conv(5, p=2, padding_mode="circular"),
    "asymmetric": nn.Sequential(nn.ZeroPad2d((3, 0, 1, 2)), conv(4)),
    "negative padding": nn.Sequential(nn.ZeroPad2d((-2, 1, 0, -3)), conv(4)),
    "dilated pooling, rounded up": nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
    "average pooling, rounded up": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "stride above the kernel": nn.Sequential(conv(2, 3), conv(1, 2)),
    "depthwise": nn.Sequential(conv(3, groups=2), conv(1)),
    "transposed": nn.ConvTranspose2d(2, 2, 3, 2, 1, output_padding=1),
    "transposed, dilated": nn.ConvTranspose2d(2, 2, 2, 3, dilation=2),
    "transposed, padding more than it needs": nn.ConvTranspose2d(2, 2, 3, 1, 2),
    "down and up": nn.Sequential(conv(3, 2), nn.ConvTranspose2d(2, 2, 3, 2), conv()),
    "adaptive to 5": nn.AdaptiveAvgPool2d(5),
    "adaptive maximum": nn.AdaptiveMaxPool2d((5, 7)),
    "pixel shuffle": nn.Sequential(conv(3, out=8), nn.PixelShuffle(2), conv()),
    "pixel unshuffle": Net(
        lambda x, a: a(F.pixel_unshuffle(x[:, :, 1:], 2)), conv(c=8)
    ),
    "unshuffled, then a channel": Net(
        lambda x: F.pixel_unshuffle(x[:, :, 1:], 2)[:, 1:3]
    ),
    "channel shuffle": Net(
        lambda x, a: F.channel_shuffle(torch.cat([x, a(x)], 1), 2)[:, :2], conv(p=1)
    ),
    "halves": Net(lambda x, a: torch.cat([x[:, :1], a(x)[:, 1:]], 1)[:, 1:], conv(p=1)),
    "residual": Net(lambda x, a, b: a(x) + b(x), conv(5, 2, p=2), conv(1, 2)),
    "concatenated": Net(lambda x, a, b: torch.cat([a(x), b(x)], 1), conv(p=1), conv(1)),
    "shared": Net(lambda x, a: a(torch.relu(a(x))), conv()),
    "dead branch": Net(lambda x, a, b: (a(x), b(x))[0], conv(), conv(9)),
    "functional": Net(lambda x: F.max_pool2d(F.relu(x) * 2 + 1, 3, 2)),
    "in place": Net(lambda x, a: F.relu_(a(x)).add_(1).mul_(2), conv()),
    "written into": Net(lambda x, a: _written_into(a(x), x), conv(p=1)),
    "cropped": Net(lambda x, a: x[..., 1:-1, 1:-1] + a(x), conv()),
    "every other": Net(lambda x: x[:, :, 1::2, ::3]),
    "centred crop": Net(lambda x, a: a(x).narrow(2, 3, 5), conv()),
    "rolled": Net(lambda x, a: a(x.roll((3, -2), (2, 3))), conv()),
    "channels last": Net(lambda x, a: a(x.permute(0, 2, 3, 1)), nn.Linear(2, 3)),
    "unfold": Net(lambda x: F.unfold(x, 3, 2, 1, 2).sum(1)),
    "unfolded along": Net(lambda x: x.unfold(2, 3, 2).amax(-1)),
    "flattened and back": Net(lambda x: x.flatten(2).mul(3).unflatten(2, (19, 22))),
    "windows": Net(lambda x: _windows(x[..., :18, :18], 6)),
    "windows with a halo": Net(lambda x: _blocks(x[..., :16, :20], 4, 1)),
    "windows with a halo, unfolded along": Net(
        lambda x: _blocks(x[..., :16, :20], 4, 1, along=True)
    ),
    "nearest": nn.Upsample(scale_factor=2),
    "nearest, to a size": nn.Upsample((30, 31)),
    "nearest exact": nn.Upsample((30, 31), mode="nearest-exact"),
    "bilinear": nn.Sequential(nn.Upsample(scale_factor=3, mode="bilinear"), conv()),
    "bilinear, by 1.5": nn.Upsample(scale_factor=1.5, mode="bilinear"),
    "bilinear, corners": nn.Upsample((39, 40), mode="bilinear", align_corners=True),
    "bilinear, down": nn.Upsample((7, 8), mode="bilinear"),
    "bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
    "bicubic, corners": nn.Upsample((25, 43), mode="bicubic", align_corners=True),
    "area": nn.Sequential(conv(), nn.AdaptiveAvgPool2d((11, 9))),
    "batch norm": nn.Sequential(conv(), nn.BatchNorm2d(2), nn.Dropout()),
    "layer norm over channels": Net(
        lambda x, a: a(x.movedim(1, -1)).movedim(-1, 1), nn.LayerNorm(2)
    ),
    "constants beside": Net(lambda x: torch.cat([torch.zeros(1, 2, 19, 4), x], 3)),
    "softmax over channels": Net(lambda x, a: a(x).softmax(1), conv()),
    "gated": Net(lambda x, a: F.glu(torch.cat([a(x), x], 1), 1), conv(p=1)),
    "the larger of two": Net(lambda x, a: torch.max(a(x), x), conv(p=1)),
    "one by a condition": Net(lambda x, a: torch.where(a(x) > 0, x, a(x)), conv(p=1)),
    "channels turned round": Net(lambda x, a: a(two(x).flip(1))[:, :1], four()),
    "channels by a list": Net(lambda x, a: a(two(x)[:, [3, 1, 0, 2]])[:, :1], four()),
    "channels by a tensor": Net(
        lambda x, a: a(two(x).index_select(1, torch.tensor([2, 3, 3, 0])))[:, :1],
        four(),
    ),
    "channels repeated": Net(lambda x, a: a(two(x)[:, 1:3].repeat(1, 2, 1, 1)), four()),
    "written into a channel": Net(lambda x, a: _one_written(a(x), x), conv(p=1)),
    "normalised over near channels": Net(
        lambda x, a: a(two(x))[:, 2:], nn.LocalResponseNorm(2)
    ),
    "a layer over channels": Net(
        lambda x, a: a(two(x)[:, None])[:, 0],
        nn.Conv3d(1, 1, (2, 3, 1), (3, 1, 1), (1, 0, 0)),
    ),
    "taken apart by torch": Net(lambda x: F.logsigmoid(x.diff(dim=2))),
    "constants of its own": Net(
        lambda x, a: a(x) + a(torch.ones(1, 2, 19, 22)), conv()
    ),
    "without gradients": Net(
        lambda x, a: torch.no_grad()(a)(x) + x[..., 2:, 2:], conv()
    ),
    "a mean beside a map, then apart": Net(
        lambda x, a: a(beside(x, x.mean((2, 3), keepdim=True))), four()
    ),
    "a row beside a map, then pooled": Net(
        lambda x: F.avg_pool2d(beside(x, x[:, :, 4:5]), 2)
    ),
    "all, padded, then unshuffled": Net(
        lambda x: F.pixel_unshuffle(F.pad(everywhere(x), (0, 0, 1, 0)), 2)[:, 1:2]
    ),
    "a coarse mean, then unshuffled": Net(
        lambda x: unshuffled(x + x[:, :, ::3, ::3].mean((2, 3), keepdim=True))
    ),
    "shuffled at the end": nn.Sequential(conv(out=8), nn.PixelShuffle(2)),
    "shuffled, beside a map": Net(
        lambda x, a: torch.cat(
            [F.pixel_shuffle(a(x), 2), F.interpolate(x, scale_factor=2)], 1
        ),
        conv(1, out=8),
    ),
    "each position twice": Net(lambda x: x.repeat_interleave(2, 2)),
    "rolled twice": Net(lambda x: x.roll((1, 2), (2, 2))),
    "a channel blanked": Net(lambda x, a: _blanked(a(x)), conv()),
    "running statistics": nn.InstanceNorm2d(2, track_running_stats=True),
    "a tuple of one": Net(lambda x, a: (a(x),), conv()),
    "single precision inside": Net(lambda x, a: a(x.float()), conv()),
    "signs": Net(lambda x, a: a(x).sign(), conv()),
    "mixed by a matrix": Net(
        lambda x: torch.einsum("nchw,dc->ndhw", x, torch.ones(3, 2).to(x))
    ),
}


def _written_into(y, x):
    y = y.clone()
    y[:, :1] = x[:, 1:]
    return y


def _blanked(y):
    y[:, 0] = 0
    return y


def _one_written(y, x):
    y = y.clone()
    y[:, 1] = x[:, 0]
    return y


def _windows(x, side):
    """Attention between the pixels of each window, as Swin has it."""
    n, c, h, w = x.shape
    x = x.view(n, c, h // side, side, w // side, side)
    tokens = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, c)
    mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
    mixed = mixed.view(n, h // side, w // side, side, side, c)
    return mixed.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


def _blocks(x, side, halo, *, along=False):
    """Attention from the pixels of a block to it and its border, as HaloNet has it."""
    n, c, h, w = x.shape
    queries = x.view(n, c, h // side, side, w // side, side)
    queries = queries.permute(0, 2, 4, 3, 5, 1).flatten(3, 4)
    wide = side + 2 * halo
    if along:
        keys = F.pad(x, (halo,) * 4).unfold(2, wide, side).unfold(3, wide, side)
        keys = keys.permute(0, 2, 3, 4, 5, 1).flatten(3, 4)
    else:
        keys = F.unfold(x, wide, padding=halo, stride=side)
        keys = keys.view(n, c, wide**2, h // side, w // side).permute(0, 3, 4, 2, 1)
    mixed = (queries @ keys.transpose(-1, -2)).softmax(-1) @ keys
    mixed = mixed.unflatten(3, (side, side)).permute(0, 5, 1, 3, 2, 4)
    return mixed.reshape(n, c, h, w)


def test_a_block_sees_its_own_pixels_and_the_halo():
    model = Net(lambda x: _blocks(x, 4, 1))
    for field in dl.receptive_field(model, (2, 16, 20)):
        assert field.phases == ((-1, 4),) * 4 and field.stride == 1


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_each_construct_reads_what_the_network_reads(name):
    assert dl.verify(CONSTRUCTS[name], (2, 19, 22), units=6) is None


ONE_AND_THREE = {
    "1-D": (nn.Conv1d(2, 2, 5, 2, 3, 2), (2, 40)),
    "1-D, resized": (nn.Upsample(scale_factor=3, mode="linear"), (2, 15)),
    "causal": (
        nn.Sequential(nn.ConstantPad1d((6, 0), 0.0), nn.Conv1d(2, 2, 4, dilation=2)),
        (2, 30),
    ),
    "3-D": (nn.Sequential(nn.Conv3d(2, 2, (1, 3, 2), (1, 2, 1)), nn.MaxPool3d(2)), 0),
    "3-D, transposed": (nn.ConvTranspose3d(2, 2, 3, (2, 1, 3)), 0),
    "3-D, resized": (nn.Upsample(scale_factor=2, mode="trilinear"), 0),
}


@pytest.mark.parametrize("name", ONE_AND_THREE)
def test_one_axis_and_three_as_well(name):
    model, size = ONE_AND_THREE[name]
    size = size or (2, 6, 9, 8)
    assert len(dl.receptive_field(model, size)) == len(size) - 1
    assert dl.verify(model, size) is None


GLOBAL = {
    "adaptive pooling to 1": nn.AdaptiveAvgPool2d(1),
    "mean": Net(lambda x: x.mean((2, 3))),
    "maximum": Net(lambda x: x.amax((2, 3), keepdim=True)),
    "flattened into a linear layer": nn.Sequential(nn.Flatten(), nn.Linear(836, 3)),
    "squeeze and excitation": Net(lambda x, a: x * a(x.mean((2, 3), True)), conv(1)),
    "squeeze by a window": Net(lambda x: x * F.avg_pool2d(x, x.shape[2:])),
    "instance norm": nn.InstanceNorm2d(2),
    "group norm, of a channel that reads nothing itself": Net(
        lambda x: F.group_norm(torch.cat([torch.zeros_like(x), x], 1), 1)[:, :2]
    ),
    "layer norm over all": nn.LayerNorm((2, 19, 22)),
    "batch norm without statistics": nn.BatchNorm2d(2, track_running_stats=False),
    "softmax over positions": Net(lambda x: x.flatten(2).softmax(-1)),
    "attention": Net(lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3)),
    "values of an attention": Net(
        lambda x: F.scaled_dot_product_attention(
            *[torch.zeros(1, 418, 2)] * 2, x.flatten(2).mT
        )
    ),
    "attention by products": Net(
        lambda x: (x.flatten(2).mT @ x.flatten(2)).softmax(-1) @ x.flatten(2).mT
    ),
    "attention with biases by relative position": Net(lambda x: _related(x)),
    "attention with a token": Net(
        lambda x: F.scaled_dot_product_attention(
            *[torch.cat([torch.zeros(1, 1, 2), x.flatten(2).mT], 1)] * 3
        )[:, 0]
    ),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_what_reads_everything_is_unbounded_and_named(name):
    answer = dl.receptive_field(GLOBAL[name], (2, 19, 22))
    assert [field.size for field in answer] == [math.inf, math.inf]
    assert answer.unbounded
    assert answer.region(*(0 * one for one in answer.lengths)).all()
    assert dl.verify(GLOBAL[name], (2, 19, 22)) is None


def test_an_index_depends_on_what_was_compared():
    model = Net(lambda x, a: a(x).max(1).indices * 1.0, conv())
    assert size_of(model, (2, 19, 22)) == [3, 3]


def test_a_mean_over_one_axis_leaves_the_other():
    model = Net(lambda x, a: a(x).mean(3), conv(5))
    assert size_of(model, (2, 19, 22)) == [5, math.inf]
    assert dl.verify(model, (2, 19, 22)) is None


ANSWERED = {  # what no rule was written for: moves are torch's own
    "positions one by one": Net(lambda x: torch.stack(x.unbind(2), 2)),
    "a list that is computed": Net(lambda x: x[:, torch.arange(2).flip(0)]),
    "turned round twice": Net(lambda x, a: a(x.flip(2)).flip(2), conv(p=1)),
    "a shift in time": Net(lambda x, a: a(_shifted(x)), conv(1)),
    "folded": Net(lambda x: F.fold(F.unfold(x, 3, 1, 0, 2), (19, 22), 3, 1, 0, 2)),
    "smoothed, down by 3": Net(
        lambda x: F.interpolate(
            x[..., :18, :21], (6, 7), mode="bilinear", antialias=True
        )
    ),
    "a running sum": Net(lambda x: x.cumsum(2)),
    "causal attention": Net(
        lambda x: F.scaled_dot_product_attention(*[x[:, 0]] * 3, is_causal=True)
    ),
    "a padded layer within each patch": Net(
        lambda x, a: _within(x[..., :16, :20], a), conv(p=1)
    ),
    "attention between every other position": Net(lambda x: _apart(x[..., :18, :])),
    "a map times itself turned round": Net(
        lambda x: torch.einsum("nchw,ncwh->nchw", x[..., :19], x[..., :19])
    ),
    "a mask from the input": Net(
        lambda x: F.scaled_dot_product_attention(
            *[x.flatten(2).mT] * 3, attn_mask=x[:, :1, 0, :1] * 0
        )
    ),
    "every row with every row": Net(
        lambda x: x.mean(3, keepdim=True) + x.mean(3)[:, :, None]
    ),
    "a recurrent layer": Net(
        lambda x, a: a(x.mean(2).mT)[0], nn.GRU(2, 2, batch_first=True)
    ),
    "a recurrent layer in both directions": Net(
        lambda x, a: a(x.mean(2).mT)[0],
        nn.LSTM(2, 2, batch_first=True, bidirectional=True),
    ),
    "a Fourier transform and back": Net(
        lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=(19, 22))
    ),
    "a Fourier transform in windows": Net(
        lambda x: torch.stft(
            x[:, 0, :, 0], 4, 2, window=torch.ones(4), return_complex=True
        )
    ),
    "all in one row": Net(lambda x, a: a(x).flatten(), conv()),
    "a row times a map": Net(lambda x, a: torch.ones(17) @ a(x), conv()),
    "a map times a column": Net(lambda x, a: a(x) @ torch.ones(20), conv()),
    "blanks put over a row": Net(
        lambda x, a: a(x.index_put((torch.tensor([0]), torch.tensor([1])), x[:, 0])),
        conv(1),
    ),
    "a kernel from the input": Net(lambda x: F.conv2d(x, x[:, :, :3, :3])),
    "a kernel for each group from the input": Net(
        lambda x, a: F.conv2d(x, a(x).mean((2, 3)).view(2, 1, 3, 3), groups=2),
        conv(out=18),
    ),
    "complex numbers": Net(
        lambda x, a, b: torch.view_as_real(torch.complex(a(x), b(x)).conj() * 1j),
        conv(p=1),
        conv(5, p=2),
    ),
    "pairs as complex numbers": Net(
        lambda x, a: torch.view_as_complex(a(x).unflatten(3, (-1, 2))).abs(), conv()
    ),
    "a number where a mask says": Net(lambda x, a: _filled(a(x), x), conv(p=1)),
    "put together from every other one": Net(
        lambda x, a: _interleaved(a(x[..., :18, :])), conv(s=2, p=1)
    ),
    "biases by relative position": Net(lambda x: _relative(x)),
    "whole numbers beside a map": Net(
        lambda x, a: a(torch.cat([x, torch.arange(22).expand(1, 1, 19, 22)], 1)),
        conv(c=3),
    ),
}


def test_words_are_looked_up_one_by_one():
    model = Net(lambda x, a: a(x[:, 0].long()).movedim(3, 1), nn.Embedding(4, 2))
    assert size_of(model, (2, 19, 22)) == [1, 1]


def test_an_unknown_operation_on_what_sees_everything_sees_everything():
    model = Net(lambda x: torch.linalg.matrix_exp(everywhere(x)[..., :19]))
    answer = dl.receptive_field(model, (2, 19, 22))
    assert [field.size for field in answer] == [math.inf, math.inf]
    assert answer.region(0, 0).all()


def _by_distance(x):
    """One bias for each pair of a row, of those that each position has by distance.

    (N, H, W, C) to (N, H, W, W); pads and views shift each row of biases by one more.
    """
    n, h, w, c = x.shape
    biases = F.pad(x @ torch.ones(c, 2 * w - 1), (0, 1)).flatten(2)
    return F.pad(biases, (0, w - 1)).view(n, h, w + 1, -1)[:, :, :w, w - 1 :]


def _relative(x):
    """Biases between all pairs of positions, by rows and columns, as in BoTNet."""
    along = _by_distance(x.permute(0, 2, 3, 1))[:, :, :, None]
    down = _by_distance(x.permute(0, 3, 2, 1)).transpose(1, 2)[..., None]
    return along + down


def _related(x):
    tokens, biases = x.flatten(2).mT, _relative(x).flatten(3).flatten(1, 2)
    return (tokens @ x.flatten(2) + biases).softmax(-1) @ tokens


def _filled(x, y):
    x = x.clone()
    x[y > 0] = 0
    return x


def _interleaved(x):
    out = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    for n, part in enumerate([x, x * 2, F.avg_pool2d(x, 3, 1, 1), -x]):
        out[:, :, n // 2 :: 2, n % 2 :: 2] = part
    return out


def _apart(x):
    """Attention between the pixels at one place of all blocks, as MobileViT has it."""
    n, c, h, w = x.shape
    blocks = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 2, 4, 1)
    tokens = blocks.reshape(n, 4, -1, c)
    mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
    mixed = mixed.view(n, 2, 2, h // 2, w // 2, c).permute(0, 5, 3, 1, 4, 2)
    return mixed.reshape(n, c, h, w)


def _patches(x):
    """The patches of a map as a batch, as TNT has them."""
    _, c, h, w = x.shape
    return x.view(c, h // 4, 4, w // 4, 4).permute(1, 3, 0, 2, 4).reshape(-1, c, 4, 4)


def _within(x, layer):
    y = layer(_patches(x)).view(x.shape[2] // 4, x.shape[3] // 4, -1, 4, 4)
    return y.permute(2, 0, 3, 1, 4).reshape(x.shape)


def test_a_layer_over_each_patch_of_a_batch_keeps_the_patches_apart():
    model = Net(lambda x, a: a(_patches(x)), conv(p=1, s=2))
    assert size_of(model, (2, 16, 20)) == [4, 4]


def test_attention_between_every_other_position_is_unbounded():
    answer = dl.receptive_field(Net(_apart), (2, 18, 22))
    assert [field.size for field in answer] == [math.inf, math.inf]
    assert answer.region(4, 5).sum() == 9 * 11


def _unpacked():
    """Fail as torch does where layers of whole numbers are traced."""
    raise RuntimeError("LinearPackedParams has no field with name '__obj_flatten__'")


@dataclass
class Holder:
    """What some networks return."""

    logits: torch.Tensor


def _shifted(x):
    out = torch.zeros_like(x)
    out[:, :1, :-1], out[:, 1:, 1:] = x[:, :1, 1:], x[:, 1:, :-1]
    return out


@pytest.mark.parametrize("name", ANSWERED)
def test_what_is_only_moved_needs_no_rule(name):
    assert dl.verify(ANSWERED[name], (2, 19, 22)) is None


REFUSED = {
    "an operation without a rule": (
        Net(lambda x: torch.linalg.matrix_exp(x[..., :19])),
        "calls aten.linalg_matrix_exp.default, and it is not known which positions",
    ),
    "a turned axis": (Net(lambda x: x.flip(2)), "flip turns an axis round"),
    "positions by a list": (Net(lambda x: x[:, :, [3, 1]]), "index turns an axis"),
    "places that values decide": (
        Net(lambda x: F.grid_sample(x, x.movedim(1, -1))),
        "reads positions that values decide",
    ),
    "values put where values decide": (
        Net(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
        "max_unpool2d puts values at positions that other values decide; to=… names",
    ),
    "windows drawn at random": (
        nn.FractionalMaxPool2d(2, output_ratio=0.5),
        "fractional_max_pool2d draws its windows at random",
    ),
    "values added at a place": (
        Net(lambda x: x.index_put((torch.tensor([0]),), x, accumulate=True)),
        "index_put adds up what it puts at one place",
    ),
    "the map twice": (
        Net(lambda x: x.repeat(1, 1, 2, 1)),
        "repeat puts positions beside other things along one dimension",
    ),
    "a diagonal": (
        Net(lambda x: torch.einsum("nchh->nch", x[..., :19])),
        "out of order, .*so that its units are no longer those of a map",
    ),
    "cropped in circles": (
        Net(lambda x: F.pad(x, (-1, 2, 0, 0), mode="circular")),
        "pad crops, and repeats what is left in circles",
    ),
    "slopes from the input": (
        Net(lambda x: F.prelu(x, x.mean((0, 2, 3)))),
        "prelu takes its weight from the input",
    ),
    "halves swapped": (
        Net(lambda x: torch.cat([x[:, :, 9:], x[:, :, :9]], 2)),
        "cat puts positions beside other things .*, or out of order",
    ),
    "a factor that is no simple fraction": (
        nn.Upsample(scale_factor=math.pi / 2, mode="bilinear"),
        r"resizes 19 to 29 by 1\.5707963267948966",
    ),
    "values decide": (
        Net(lambda x: x if x.sum() > 0 else -x),
        r"at <lambda>, `.*x\.sum\(\) > 0.*`: .* depends on the values",
    ),
    "strides that differ": (
        Net(
            lambda x: (
                F.interpolate(x[..., :7, :7], size=(19, 19), mode="nearest")
                + x[..., :19]
            )
        ),
        r"add takes maps of different strides together.* 7/19 and 1; region",
    ),
    "corners aligned": (
        Net(
            lambda x: (
                x
                + F.interpolate(
                    x[..., ::2, ::2], size=(19, 22), mode="bilinear", align_corners=True
                )
            )
        ),
        r"9/18 and 1.*resizes with align_corners=True.*region\(…\)|align_corners=True",
    ),
    "cut across": (
        Net(lambda x: x.flatten(2).unflatten(2, (22, 19))),
        "out of order, .*so that its units are no longer those of a map",
    ),
    "positions beside positions": (
        Net(lambda x, a: a(torch.cat([x, x], 3)), conv()),
        r"layers\.0 \(conv2d\) puts positions beside other things",
    ),
    "a sum of all before, by a loop": (
        Net(lambda x: torch.stack([*accumulate(x.unbind(2))], 2)),
        r"or adds them up one by one.*region\(…\) gives what one of them reads",
    ),
    "a number of a tensor": (
        Net(lambda x: x / x.max().item()),
        r"makes a number of a tensor, as \.item\(\) does; to=… names a layer",
    ),
    "whole numbers wanted": (
        Net(lambda x, a: a(x[:, 0]), nn.Embedding(4, 2)),
        r"wrap it in a module that begins with x\.long\(\)",
    ),
    "an object returned": (Net(lambda x: Holder(x)), "to=… names a layer whose result"),
    "packed weights": (
        Net(lambda x: _unpacked()),
        "its weights are packed as whole numbers",
    ),
    "units in two orders": (
        Net(lambda x: x.flatten(2) + x.mT.flatten(2)),
        "add takes units together that run in different orders",
    ),
    "a map smaller than its period": (
        Net(lambda x: F.interpolate(x[:, :, :7], size=(5, 22))[:, :, :3].flatten(2)),
        "a larger input may help",
    ),
    "two inputs": (Net(lambda x, y: x + y), "missing 1 required positional argument"),
    "smaller than the kernel": (conv(40), "can't be greater than actual input size"),
    "other channels": (conv(c=3), "expected input.* to have 3 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_in_a_sentence(name):
    model, message = REFUSED[name]
    with pytest.raises(TracingError, match=message) as refusal:
        dl.receptive_field(model, (2, 19, 22))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("size", [(), (3,), 224, (3, 0, 5), (3, 2.5, 5), None, "3x5"])
def test_an_impossible_input_size_is_repeated(size):
    with pytest.raises((ValueError, TypeError), match=r"input_size must be \(channels"):
        dl.receptive_field(conv(), size)


STACKS = [
    [Window(3, padding=1), Window(3, 2, dilation=2), Window(2, 2)],
    [Window(3, dilation=d, padding=d) for d in (1, 1, 2, 4, 8, 16, 1)],
    [Window(3, 2, padding=1), Window(4, 2, padding=1, transposed=True)],
    [Window(2, 3, dilation=2, transposed=True), Window(3)],
]


@pytest.mark.parametrize("windows", STACKS)
def test_a_stack_is_what_compose_says(windows):
    layers = [
        (nn.ConvTranspose1d if w.transposed else nn.Conv1d)(
            1, 1, w.kernel_size, w.stride, w.pads[0], dilation=w.dilation
        )
        for w in windows
    ]
    answer = dl.receptive_field(nn.Sequential(*layers), (1, 120), coverage=True)
    assert answer == (dl.compose(windows),)
    assert answer.coverage.tolist() == (dl.coverage(windows) > 0).tolist()


def test_the_context_module_sees_67():
    module = dl.ContextModule(3)
    answer = dl.receptive_field(module, (3, 66, 66), coverage=True)
    assert answer == (dl.compose(module.windows),) * 2
    assert answer[0].size == 67 and answer.coverage.all()
    assert [layer.fields[0].size for layer in answer.layers] == [
        3,
        5,
        9,
        17,
        33,
        65,
        67,
    ]
    assert {layer.module for layer in answer.layers} == {
        f"layers.{n}" for n in range(7)
    }


def test_holes_of_branches_are_no_product_of_axes():
    model = Net(
        lambda x, a, b: a(x) + b(x), conv((1, 5), p=(0, 2)), conv((5, 1), p=(2, 0))
    )
    answer = dl.receptive_field(model, (2, 19, 22), coverage=True)
    cross = np.zeros((5, 5), bool)
    cross[2] = cross[:, 2] = True
    assert [field.size for field in answer] == [5, 5]
    assert answer.coverage.tolist() == cross.tolist()
    assert answer.region(9, 9).sum() == 9 and answer.region(0, 0).sum() == 5


def test_between_two_modules():
    layers = [("a", conv(5)), ("b", conv(3, 2)), ("c", conv(3, d=2)), ("d", conv(7))]
    model = nn.Sequential(OrderedDict(layers))
    assert size_of(model, (2, 60, 60), to="b") == [7, 7]
    assert size_of(model, (2, 60, 60), of="b", to="c") == [5, 5]
    assert size_of(model, (2, 60, 60), of="a") == [3 + 2 * 4 + 2 * 6] * 2
    with pytest.raises(ValueError, match="nothing named 'bb'; near to it: 'b'"):
        dl.receptive_field(model, (2, 60, 60), to="bb")
    with pytest.raises(ValueError, match="a does not depend on c"):
        dl.receptive_field(model, (2, 60, 60), of="c", to="a")
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(8, 2), nn.ReLU())
    with pytest.raises(ValueError, match=r"has shape \(1, 8\), and so no axis"):
        dl.receptive_field(classifier, (2, 2, 2), of="0")


def test_one_output_of_several_is_chosen_by_name():
    model = Net(lambda x, a: {"out": a(x), "aux": x}, conv())
    with pytest.raises(ValueError, match=r"returns 'out', 'aux': choose one with to=…"):
        dl.receptive_field(model, (2, 19, 22))
    assert size_of(model, (2, 19, 22), to="out") == [3, 3]
    assert size_of(model, (2, 19, 22), to="aux") == [1, 1]
    with pytest.raises(ValueError, match="the output does not depend on the input"):
        dl.receptive_field(Net(lambda x: torch.ones(1, 2, 4, 4)), (2, 9, 9))


def test_units_above_a_resized_map_come_in_phases():
    (height, width) = dl.receptive_field(
        nn.Upsample(scale_factor=(2, 1.5), mode="bilinear"), (1, 10, 10)
    )
    assert (height.stride, height.size, height.padding) == (Fraction(1, 2), 2, 1)
    assert height.phases == ((-1, 0), (0, 1))
    # units look at −1/6, 1/2 and 7/6
    assert width.phases == ((-1, 0), (0, 1), (1, 2)) and width.stride == Fraction(2, 3)


def test_a_position_with_weight_zero_is_not_read():
    (field,) = dl.receptive_field(nn.Upsample(scale_factor=3, mode="linear"), (1, 10))
    assert field.phases == ((-1, 0), (0, 0), (0, 1))


def test_a_smoothed_field_ends_where_torch_reads_and_a_region_where_weights_do():
    model = Net(
        lambda x, a: a(F.interpolate(x, (8, 8), mode="bilinear", antialias=True)),
        conv(p=1),
    )
    answer = dl.receptive_field(model, (2, 24, 24))
    assert (answer[0].start(4), answer[0].end(4)) == (8, 19)
    for idle, last in ((False, 18), (True, 19)):
        seen = answer.region(4, 4, idle=idle).any(1).nonzero()[0]
        assert (seen[0], seen[-1]) == (8, last)
    assert dl.verify(model, (2, 24, 24)) is None


def test_joins_name_where_centres_differ():
    good = Net(lambda x, a, b: a(x) + b(x), conv(3, 2, p=1), conv(1, 2))
    bad = Net(lambda x, a, b: a(x)[..., 1:, 1:] + b(x), conv(3, 2, p=1), conv(2, 2))
    size = (2, 21, 21)
    assert dl.receptive_field(good, size).aligned
    answer = dl.receptive_field(bad, size)
    assert not answer.aligned
    assert [one.operation for one in answer.layers if not one.aligned] == ["add"]
    # units i + 1 of one, around 2i + 2, and units i of the other, around 2i + 1/2
    assert (answer[0].start(0), answer[0].end(0)) == (0, 3)


@pytest.mark.parametrize(
    "joined",
    [
        lambda x: torch.stack([x, x.roll(1, 3)], 1).sum(1),
        lambda x: torch.einsum("nchw,nchw->nhw", x, x.roll(1, 2)),
        lambda x: torch.cat([x, x.roll(1, 2)], 1),
    ],
)
def test_misaligned_maps_are_named_however_they_are_joined(joined):
    answer = dl.receptive_field(Net(joined), (2, 9, 9))
    assert not answer.aligned


def test_tokens_are_misaligned_if_any_of_those_before_them_are():
    def misaligned_as_tokens(x):
        rows = x.flatten(2)
        apart = rows + x.roll(1, 3).flatten(2)
        return (apart + rows).unflatten(2, x.shape[2:])

    answer = dl.receptive_field(Net(misaligned_as_tokens), (2, 9, 9))
    assert [field.size for field in answer] == [1, 2] and not answer.aligned


def test_coverage_begins_where_something_is_read():
    layer = nn.ConvTranspose1d(2, 2, 1, 3, padding=2)
    (field,) = answer = dl.receptive_field(layer, (2, 9), coverage=True)
    assert field.phases == (None, (1, 1), None) and answer.coverage.tolist() == [True]


def uncopied():
    model = conv()
    model.half = model.weight / 2  # torch copies no tensor that was computed
    return model


NOT_RUN = {
    "NaN of its own": (Net(lambda x: x.sqrt()), "gives NaN of itself"),
    "indices": (
        Net(lambda x: F.max_pool2d(x, 2, return_indices=True)[1] * 1.0),
        "indices or truths",
    ),
    "not to be copied": (uncopied(), "does not run on noise, or as a copy: Only"),
}


@pytest.mark.parametrize("name", NOT_RUN)
def test_what_cannot_be_verified_says_so(name):
    model, message = NOT_RUN[name]
    with pytest.raises(ValueError, match=message):
        dl.verify(model, (2, 9, 9))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda x: x, {}, "must be a torch.nn.Module, got <function"),
        (conv(), {"to": 3}, "told by its name, got 3"),
    ],
)
def test_what_is_no_network_or_name_is_repeated(model, options, message):
    with pytest.raises(TypeError, match=message):
        dl.receptive_field(model, (2, 9, 9), **options)


def test_a_map_of_one_unit_goes_on_when_its_channels_are_shuffled():
    def shuffled(x, a, b):
        return b(a(x).view(1, 2, 1, 1, 1).transpose(1, 2).reshape(1, 2, 1, 1))

    model = Net(shuffled, conv((19, 22)), conv(p=1))
    assert size_of(model, (2, 19, 22)) == [19 + 2, 22 + 2]


def test_one_unit_for_all_places_is_at_any_distance():
    model = Net(lambda x, a: a(x) + x[:, :, 5:6, 1:-1], conv((1, 3)))
    answer = dl.receptive_field(model, (2, 19, 22))
    assert [field.size for field in answer] == [math.inf, 3]
    assert answer.region(17, 0).sum(1).nonzero()[0].tolist() == [5, 17]
    assert dl.verify(model, (2, 19, 22)) is None


# between them these noticed each of ten rules that were broken on purpose
FEW = {1, 2, 3, 4, 6, 9, 13, 16, 67}
SEEDS = [
    pytest.param(seed, marks=() if seed in FEW else pytest.mark.weekly)
    for seed in range(80)
]
REFUSED_SEEDS = {72}  # maps of different strides meet


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks_read_what_the_analysis_says(seed):
    rank = (1, 2, 2, 3)[seed % 4]
    small = {"size": 10, "depth": 4} if rank == 3 else {}
    network = RandomNetwork(seed, rank=rank, **small)
    if seed in REFUSED_SEEDS:
        with pytest.raises(TracingError, match="different strides"):
            dl.receptive_field(network, network.size)
    else:
        assert dl.verify(network, network.size) is None


def changed(call, **other):
    return replace(call, args={**call.args, **other})


def wrong(rule, **other):
    """The rule, with other arguments than those of the call."""
    return lambda call: rule(changed(call, **other))


BROKEN = {
    "dilation forgotten": (
        "conv2d",
        wrong(rules.convolution, dilation=[1, 1]),
        conv(d=2),
    ),
    "padding forgotten": (
        "conv2d",
        wrong(rules.convolution, padding=[0, 0]),
        conv(p=1),
    ),
    "pooling taken for pointwise": (
        "max_pool2d",
        wrong(rules.pool, stride=[1, 1]),
        nn.MaxPool2d(1, 2),
    ),
    "one position too many": (
        "conv2d",
        wrong(rules.convolution, weight=torch.empty(2, 2, 4, 3)),
        conv(p=1),
    ),
    "a branch forgotten": (
        "add",
        lambda call: call.union(*call.maps[:1]),
        Net(lambda x, a: x + a(x), conv(p=1)),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_verify_notices_a_wrong_rule(name, monkeypatch):
    operation, rule, model = BROKEN[name]
    assert dl.verify(model, (2, 19, 22)) is None
    right = rules.rule_of

    def wrong_of(target):
        return rule if rules.name_of(target) == operation else right(target)

    monkeypatch.setattr(rules, "rule_of", wrong_of)
    found = dl.verify(model, (2, 19, 22))
    assert found is not None and found.method == "NaN"
    assert f"unit {found.unit}" in str(found) and str(found.position) in str(found)


class Keeping(nn.Module):
    """A network that keeps what it computed, as hooks and recurrent ones do."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = conv(), None

    def forward(self, x):
        self.last = self.conv(x)
        return self.last


def test_the_network_is_left_as_it_was():
    keeping = Keeping()
    assert dl.verify(keeping, (2, 19, 22)) is None and keeping.last is None
    model = nn.Sequential(conv(), nn.BatchNorm2d(2), nn.Dropout())
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dl.verify(model, (2, 19, 22))
    assert [module.training for module in model] == [True, False, True]
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_network_without_weights_is_analysed_but_not_verified():
    with torch.device("meta"):
        model = conv()
    assert size_of(model, (2, 19, 22)) == [3, 3]
    with pytest.raises(ValueError, match="meta device has no weights"):
        dl.verify(model, (2, 19, 22))


def test_the_default_device_is_not_where_a_network_is_analysed():
    model, size = nn.Conv2d(1, 1, 3, padding=4), (1, 11, 13)
    with torch.device("meta"):  # with numbers that no other test asks for
        inside = dl.receptive_field(model, size, coverage=True)
        seen = inside.region(5, 5), dl.region(model, size, (5, 5))
    assert inside == dl.receptive_field(model, size) and inside.coverage.all()
    assert all(one.sum() == one[1:4, 1:4].sum() == 9 for one in seen)


def test_a_library_imported_below_another_default_device_has_its_numbers():
    with torch.device("meta"):
        fresh = runpy.run_path(reach.__file__)
    axis = fresh["Axis"](torch.zeros(3, 1), Fraction(1))
    assert axis.centres.tolist() == [0]
    assert axis.gone().data.tolist() == [[0], [0], [-math.inf]]


def test_copies_and_pickles_are_plain_tuples_of_the_fields():
    answer = dl.receptive_field(conv(), (2, 19, 22))
    for one in (copy.deepcopy(answer), pickle.loads(pickle.dumps(answer))):
        assert type(one) is tuple and one == tuple(answer)


def test_a_region_is_asked_of_a_unit_that_exists():
    answer = dl.receptive_field(conv(), (2, 19, 22))
    with pytest.raises(ValueError, match=r"within \(17, 20\), got \(17, 0\)"):
        answer.region(17, 0)
    with pytest.raises(ValueError, match=r"got \(1,\)"):
        answer.region(1)


def test_of_an_unbounded_field_there_is_no_coverage():
    with pytest.raises(ValueError, match="unbounded: a layer reads a whole axis"):
        dl.receptive_field(nn.AdaptiveAvgPool2d(1), (2, 9, 9), coverage=True)
