"""The context module against the paper's table, a chain of plain torch, and dirac_."""

from math import inf

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl

TABLE_1 = (1, 1, 2, 4, 8, 16, 1)
ALL = [(v, p) for v in ("basic", "large") for p in ("each", "once", "none")]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def logits(*shape):
    return torch.randn(*shape, generator=seeded())


# Structure


@pytest.mark.parametrize(
    ("variant", "channels"),
    [
        ("basic", (1, 1, 1, 1, 1, 1, 1, 1)),
        ("large", (2, 2, 4, 8, 16, 32, 32, 1)),
    ],
)
def test_table_1(variant, channels):
    module = dl.ContextModule(3, variant)
    assert [layer.out_channels for layer in module.layers] == [3 * c for c in channels]
    assert [layer.in_channels for layer in module.layers] == [
        3 * c for c in (1, *channels[:-1])
    ]
    assert [layer.kernel_size for layer in module.layers] == [(3, 3)] * 7 + [(1, 1)]
    assert [layer.dilation[0] for layer in module.layers] == [*TABLE_1, 1]
    assert [layer.bias is not None for layer in module.layers] == [True] * 8
    sizes = [dl.compose(module.windows[:n]).size for n in range(1, 9)]
    assert sizes == [3, 5, 9, 17, 33, 65, 67, 67]


def test_parameters():
    modules = {variant: dl.ContextModule(21, variant) for variant, _ in ALL}
    count = {v: sum(p.numel() for p in m.parameters()) for v, m in modules.items()}
    assert count == {
        "basic": 64 * 21**2 + 8 * 21,
        "large": 15422 * 21**2 + 97 * 21,
    }


@pytest.mark.parametrize(
    ("padding", "pads"),
    [
        ("each", [*TABLE_1, 0]),
        ("once", [33, 0, 0, 0, 0, 0, 0, 0]),
        ("none", [0] * 8),
    ],
)
def test_where_zeros_are_added(padding, pads):
    module = dl.ContextModule(2, padding=padding)
    assert [window.padding for window in module.windows] == pads
    assert [layer.padding for layer in module.layers] == [(p, p) for p in pads]


@pytest.mark.parametrize(("variant", "padding"), ALL)
@pytest.mark.parametrize("dilations", [(1,), (1, 2), (4, 1, 3), TABLE_1])
def test_any_list_of_dilations_and_the_size_it_promises(variant, padding, dilations):
    module = dl.ContextModule(2, variant, dilations=dilations, padding=padding)
    widest = [2 * 2 * max(dilations[: n + 1]) for n in range(len(dilations))]
    assert [layer.out_channels for layer in module.layers] == [
        *(widest if variant == "large" else [2] * len(dilations)),
        2,
    ]
    shrunk = 2 * sum(dilations) if padding == "none" else 0
    out = module(logits(1, 2, 70, 80))
    assert out.shape == (1, 2, 70 - shrunk, 80 - shrunk)


def test_it_is_a_chain_of_torchs_layers_with_relu_but_for_the_last():
    module = dl.ContextModule(3, dilations=(1, 2))
    for layer in module.layers:
        nn.init.normal_(layer.weight, generator=seeded(1))
        nn.init.normal_(layer.bias, generator=seeded(2))
    x = logits(2, 3, 9, 11)
    one, two, last = module.layers
    out = F.relu(F.conv2d(x, one.weight, one.bias, padding=1))
    out = F.relu(F.conv2d(out, two.weight, two.bias, padding=2, dilation=2))
    out = F.conv2d(out, last.weight, last.bias)
    assert torch.equal(module(x), out)
    assert (out < 0).any()


def pair(*paddings):
    """Modules with equal weights that are far from the identity."""
    modules = [dl.ContextModule(2, dilations=(1, 2, 1), padding=p) for p in paddings]
    for module in modules:
        module.reset_parameters(std=0.5, generator=seeded(3))
        for layer in module.layers:
            nn.init.constant_(layer.bias, 0.1)
    return modules


def test_padding_once_is_no_padding_on_a_map_with_a_margin_of_zeros():
    once, none = pair("once", "none")
    x = logits(1, 2, 12, 12)
    assert torch.allclose(once(x), none(F.pad(x, (4, 4, 4, 4))), atol=1e-5)


def test_padding_once_and_each_agree_where_no_layer_above_the_first_sees_the_border():
    each, once = pair("each", "once")
    x = logits(1, 2, 12, 12)
    differ = (each(x) - once(x)).abs().amax((0, 1)) > 1e-5
    assert not differ[3:-3, 3:-3].any()
    assert differ[:3].all()
    assert differ[:, -3:].all()


def test_the_smallest_input_without_padding_gives_one_position():
    module = dl.ContextModule(2, padding="none")
    assert module(logits(1, 2, 67, 68)).shape == (1, 2, 1, 2)


# Initialisation


@pytest.mark.parametrize(("variant", "padding"), ALL)
def test_without_noise_it_computes_max_x_0(variant, padding):
    module = dl.ContextModule(3, variant, dilations=(1, 4, 2), padding=padding)
    module.reset_parameters(std=0)
    x = logits(2, 3, 20, 20)
    cut = 7 if padding == "none" else 0
    expected = x.clamp(min=0)[..., cut : 20 - cut, cut : 20 - cut]
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_it_is_born_with_the_identity_and_noise_of_the_released_code():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        born = dl.ContextModule(4)
    for layer in born.layers:
        assert not layer.bias.any()
        assert layer.weight.requires_grad
    weights = torch.cat([layer.weight.flatten() for layer in born.layers])
    noise = weights[weights != 1]
    assert 0.009 < noise.std().item() < 0.011
    assert (weights == 1).sum() == 8 * 4


def test_the_noise_of_a_wide_layer_is_divided_by_its_width():
    module = dl.ContextModule(6, "large")
    module.reset_parameters(generator=seeded())
    for layer, width in zip(module.layers, (2, 2, 4, 8, 16, 32, 32, 1), strict=True):
        assert layer.out_channels == 6 * width
        noise = layer.weight[layer.weight != 1 / width].std().item()
        assert noise == pytest.approx(0.01 / width, rel=0.2)


def test_without_noise_eq_4_is_dirac():
    conv = nn.Conv2d(5, 5, (3, 5))
    dl.identity_(conv, 5, std=0)
    assert torch.equal(conv.weight, nn.init.dirac_(torch.empty(5, 5, 3, 5)))


def test_a_layer_is_filled_where_it_is_wherever_new_tensors_are_made():
    conv = nn.Conv2d(2, 2, 1)
    with torch.device("meta"):
        dl.identity_(conv, 2, std=0)
    assert conv.weight.flatten(1).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 12), (12, 6), (3, 6), (24, 3)])
def test_eq_5_word_by_word(inputs, outputs):
    conv = nn.Conv2d(inputs, outputs, 3)
    nn.init.ones_(conv.bias)
    dl.identity_(conv, 3, std=1e-9, generator=seeded())
    for b in range(outputs):
        for a in range(inputs):
            same = (a * 3) // inputs == (b * 3) // outputs
            tap = conv.weight[b, a, 1, 1].item()
            assert tap == pytest.approx(3 / outputs if same else 0, abs=1e-7)
            around = conv.weight[b, a].flatten()[[0, 1, 2, 3, 5, 6, 7, 8]]
            assert (around != 0).all()
            assert around.abs().max() < 1e-7
    assert not conv.bias.any()


def test_a_layer_may_have_no_bias_and_the_generator_decides():
    convs = [nn.Conv2d(4, 4, 3, bias=False) for _ in range(2)]
    for conv in convs:
        dl.identity_(conv, 2, std=0.5, generator=seeded(7))
    assert torch.equal(convs[0].weight, convs[1].weight)
    dl.identity_(convs[1], 2, std=0.5, generator=seeded(8))
    assert not torch.equal(convs[0].weight, convs[1].weight)
    default = nn.Conv2d(64, 64, 3)
    dl.identity_(default, 64, generator=seeded())
    noise = default.weight[default.weight != 1]
    assert noise.std().item() == pytest.approx(0.01, rel=0.02)


# The border, and features in place of logits


@pytest.mark.parametrize("padding", ["each", "once"])
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_the_border_is_continued_as_torch_pads(mode, padding):
    module = dl.ContextModule(3, dilations=(1, 4), padding=padding, padding_mode=mode)
    x, first = logits(2, 3, 11, 12), 1 if padding == "each" else 5
    wanted = F.pad(x, (first,) * 4, mode=mode)
    wanted = F.conv2d(wanted, module.layers[0].weight, module.layers[0].bias).relu()
    if padding == "each":
        wanted = F.pad(wanted, (4,) * 4, mode=mode)
    one, last = module.layers[1], module.layers[2]
    wanted = F.conv2d(wanted, one.weight, one.bias, dilation=4).relu()
    wanted = F.conv2d(wanted, last.weight, last.bias)
    torch.testing.assert_close(module(x), wanted)


@pytest.mark.parametrize(("padding", "least"), [("each", 17), ("once", 34)])
def test_a_map_smaller_than_its_reflection_is_refused(padding, least):
    module = dl.ContextModule(2, padding=padding, padding_mode="reflect")
    assert module(logits(1, 2, least, least)).shape[2:] == (least, least)
    message = f"with padding_mode='reflect' both sides must have at least {least} pos"
    with pytest.raises(ValueError, match=message):
        module(logits(1, 2, least, least - 1))


def test_behind_features_the_first_layer_is_drawn_and_the_others_are_the_identity():
    module = dl.ContextModule(4, "large", in_channels=6, dilations=np.array([1, 2]))
    first, drawn = module.layers[0], []
    for seed in (1, 0, 0):
        nn.init.ones_(first.bias)
        module.reset_parameters(std=0, generator=seeded(seed))
        drawn.append(first.weight.clone())
    assert torch.equal(*drawn[1:]) and not torch.equal(*drawn[:2])
    assert not first.bias.any()
    x = logits(1, 6, 9, 9)
    hidden = first(x).relu()
    spread = first.weight.std().item()
    assert first.in_channels == 6 and abs(spread / (2 / 54) ** 0.5 - 1) < 0.2
    per_class = hidden.unflatten(1, (4, 2)).sum(2)
    torch.testing.assert_close(module(x), per_class)
    with pytest.raises(ValueError, match=r"features must have shape \(N, 6, H, W\)"):
        module(logits(1, 4, 9, 9))


# Bad input: one error that repeats the value and says what is right


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "^num_classes must be at least 1, got 0$"),
        ({"num_classes": 2.0}, TypeError, r"^num_classes must be .*, got 2\.0$"),
        (
            {"variant": "huge"},
            ValueError,
            "^variant must be one of basic, large; got 'huge'$",
        ),
        (
            {"padding": "same"},
            ValueError,
            "^padding must be one of each, once, none; got 'same'$",
        ),
        ({"num_classes": True}, TypeError, "^num_classes must be .*, got True$"),
        ({"in_channels": 0}, ValueError, "^in_channels must be at least 1, got 0$"),
        (
            {"padding_mode": "circular"},
            ValueError,
            "^padding_mode must be one of zeros, reflect, replicate; got 'circular'$",
        ),
        (
            {"dilations": ()},
            ValueError,
            r"^dilations must list one number for each layer, got \(\)$",
        ),
        ({"dilations": 4}, ValueError, "^dilations must list one .*, got 4$"),
        ({"dilations": "12"}, ValueError, "^dilations must list one .*, got '12'$"),
        ({"dilations": (1, 0)}, ValueError, r"^dilations\[1\] .* at least 1, got 0$"),
        ({"dilations": (1, -2)}, ValueError, r"^dilations\[1\] .* least 1, got -2$"),
        (
            {"dilations": (1, 1.5)},
            TypeError,
            r"^dilations\[1\] must be a whole number, got 1\.5$",
        ),
    ],
)
def test_an_impossible_module_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        dl.ContextModule(**{"num_classes": 3} | arguments)


def test_one_class_is_enough_and_one_feature():
    for options in ({}, {"in_channels": 1}):
        module = dl.ContextModule(1, **options)
        assert module(logits(1, 1, 5, 5)).shape == (1, 1, 5, 5)


@pytest.mark.parametrize(
    ("padding", "shape", "message"),
    [
        (
            "each",
            (1, 4, 9, 9),
            r"^logits must have shape \(N, 3, H, W\), got \(1, 4, 9, 9\)$",
        ),
        ("each", (3, 9, 9), r"shape \(N, 3, H, W\), got \(3, 9, 9\)$"),
        (
            "none",
            (1, 3, 67, 66),
            r"^with padding='none' both sides must have at least 67 positions, "
            r"got \(67, 66\)$",
        ),
        (
            "each",
            (1, 3, 0, 9),
            r"padding='each' .* at least 1 positions, got \(0, 9\)$",
        ),
    ],
)
def test_logits_that_do_not_fit_are_refused(padding, shape, message):
    with pytest.raises(ValueError, match=message):
        dl.ContextModule(3, padding=padding)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("conv", "groups", "std", "error", "message"),
    [
        (
            nn.Conv2d(6, 8, 3),
            4,
            0,
            ValueError,
            "^6 channels in and 8 out must both divide into 4 groups$",
        ),
        (nn.Conv2d(8, 6, 3), 4, 0, ValueError, "^8 channels in and 6 out must both"),
        (nn.Conv2d(8, 8, 3), 0, 0, ValueError, "^groups must be at least 1, got 0$"),
        (nn.Conv2d(8, 8, 3), 2.0, 0, TypeError, r"^groups must be .*, got 2\.0$"),
        (
            nn.Conv2d(8, 8, 3, groups=2),
            4,
            0,
            ValueError,
            "^conv must not be grouped, got groups=2$",
        ),
        (
            nn.Conv2d(8, 8, (3, 4)),
            4,
            0,
            ValueError,
            r"needs a centre: its sides must be odd, got \(3, 4\)$",
        ),
        (
            nn.Conv2d(8, 8, 3),
            4,
            -0.1,
            ValueError,
            "^std must be at least 0, got -0.1$",
        ),
        (nn.Conv2d(8, 8, 3), 4, inf, ValueError, "^std must be at least 0, got inf$"),
        (nn.Conv1d(8, 8, 3), 4, 0, TypeError, "^conv must be an nn.Conv2d, got Conv1d"),
    ],
)
def test_a_layer_that_cannot_be_the_identity_is_refused(
    conv, groups, std, error, message
):
    before = conv.weight.clone()
    with pytest.raises(error, match=message):
        dl.identity_(conv, groups, std=std)
    assert torch.equal(conv.weight, before)
