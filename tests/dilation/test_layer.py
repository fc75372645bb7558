"""The dilated layer's own ways against torch's, in values, gradients and behaviour."""

import copy
import pickle
import random
from itertools import pairwise

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.dilation import layer as source
from dilated_lib.dilation.layer import DilatedConv2d, convolve
from dilated_lib.networks.architecture import Architecture


@pytest.fixture
def on_gpu(monkeypatch):
    """As if each input were half precision on a GPU; the products it comes to."""
    return products(monkeypatch, "cuda")


def products(monkeypatch, device):
    """Input and weight channels, and dilation, of each product, as if in half there."""
    seen, torchs = [], F.conv2d

    def counting(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        d = dilation if isinstance(dilation, int) else max(dilation)
        seen.append((*x.shape[-3:-2], len(weight), d))  # a wrong one may have two
        assert bias is None or len(bias) == len(weight)
        return torchs(x, weight, bias, stride, padding, dilation, groups)

    monkeypatch.setattr(source, "_half", lambda x: (device, x.dtype))
    monkeypatch.setattr(F, "conv2d", counting)
    return seen


def drawn(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def test_its_ways_compute_torchs_numbers_and_gradients():
    draw = random.Random(0)
    for case in range(150):
        d, taps = draw.randint(1, 6), (draw.randint(1, 4), draw.randint(1, 4))
        pads, (c, o) = draw.randint(0, 2), (draw.randint(1, 9), draw.randint(1, 9))
        least = [max(1, d * (k - 1) + 1 - 2 * pads * d) for k in taps]
        size = [side + draw.randint(0, 8) for side in least]
        x = drawn(draw.randint(1, 3), c, *size, seed=case).requires_grad_()
        if draw.random() < 0.5:
            x = x.detach().contiguous(memory_format=torch.channels_last)
            x.requires_grad_()
        weight = drawn(o, c, *taps, seed=case + 1).requires_grad_()
        bias = drawn(o, seed=case + 2).requires_grad_() if draw.random() < 0.5 else None
        inputs = [one for one in (x, weight, bias) if one is not None]
        wanted = F.conv2d(x, weight, bias, dilation=d, padding=pads * d)
        found = convolve(
            *(x, weight, bias),
            dilation=d,
            padding=pads * d,
            multiple=draw.choice((1, 4, 8)),
            split=draw.random() < 0.7,
        )
        seed = drawn(*wanted.shape, seed=case + 3)
        gradients = [torch.autograd.grad(one, inputs, seed) for one in (wanted, found)]
        for one, other in zip(
            (wanted, *gradients[0]), (found, *gradients[1]), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("split", [False, True])
def test_the_product_has_full_channels_and_keeps_channels_last(monkeypatch, split):
    seen, torchs = [], F.conv2d

    def conv(x, weight, bias, **options):
        out = torchs(x, weight, bias, **options)
        seen.extend((x, out))
        return out

    monkeypatch.setattr(F, "conv2d", conv)
    x = drawn(2, 11, 16, 20).contiguous(memory_format=torch.channels_last)
    weight = drawn(3, 11, 3, 3).contiguous(memory_format=torch.channels_last)
    convolve(x, weight, dilation=4, padding=4, multiple=8, split=split)
    for one, channels in zip(seen, (16, 8), strict=True):
        assert one.shape[1] == channels
        assert one.is_contiguous(memory_format=torch.channels_last)


def test_its_gradients_are_those_of_its_values():
    parts = [drawn(*shape).requires_grad_() for shape in ((1, 3, 5, 7), (2, 3, 3, 3))]
    for split in (False, True):

        def out(x, weight, split=split):
            options = {"dilation": 2, "padding": 2, "multiple": 4}
            return convolve(x, weight, **options, split=split)

        assert torch.autograd.gradcheck(out, parts)
        assert torch.autograd.gradgradcheck(out, parts)


def test_without_pixels_or_room_it_does_as_torch():
    out = convolve(
        torch.zeros(0, 3, 8, 8), torch.zeros(2, 3, 3, 3), dilation=2, padding=2, split=1
    )
    assert out.shape == (0, 2, 8, 8)
    with pytest.raises(RuntimeError, match=r"\(32 x 40\). Kernel size: \(33 x 33\)"):
        convolve(
            torch.zeros(1, 1, 32, 40),
            torch.zeros(1, 1, 3, 3),
            **{"dilation": 16, "padding": 0, "split": True},
        )


def test_the_rule_is_the_channels_and_the_dilation(on_gpu):
    for d in (1, 2, 8, 15, 16, 17, 32):
        layer = DilatedConv2d(21, 5, 3, padding=d, dilation=d).double()
        x = drawn(1, 21, 40, 34)
        torch.testing.assert_close(
            layer(x), F.conv2d(x, layer.weight, layer.bias, padding=d, dilation=d)
        )
        assert on_gpu.pop(0) == (24, 8, 1 if d >= 16 else d)
        assert on_gpu.pop() == (21, 5, d) and not on_gpu


OTHERS = [
    {"stride": 2},
    {"padding_mode": "reflect", "padding": 1},
    {"padding": "same"},
    {"padding": "valid", "bias": False},
    {"dilation": (16, 8)},
    {"dilation": (2, 1), "padding": (1, 0)},
    {"dilation": (1, 2)},
    {"dilation": 16, "padding": 15},
    {"dilation": 16, "padding": (16, 0)},
    {"dilation": 16, "padding": "same"},
    {"dilation": 16, "padding": 16, "padding_mode": "reflect"},
    {"dilation": 16, "padding": 16, "stride": 2},
]


@pytest.mark.parametrize("options", OTHERS)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_whatever_its_options_a_product_has_full_channels(on_gpu, options, batch):
    layer = DilatedConv2d(5, 9, 3, **options).double()
    plain = nn.Conv2d(5, 9, 3, **options).double()
    plain.load_state_dict(layer.state_dict())
    x = drawn(*batch, 5, 40, 40)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-12, atol=1e-12)
    d = options.get("dilation", 1)
    d = d if isinstance(d, int) else max(d)
    assert on_gpu == [(8, 16, d), (5, 9, d)]  # not split


@pytest.mark.parametrize("options", [{}, *OTHERS])
@pytest.mark.parametrize("d", [1, 2, 16])
def test_on_a_cpu_dilated_products_have_channels_in_sixteens(monkeypatch, options, d):
    """Where torch's gradients are wrong; also on CPUs on which they are right."""
    seen = products(monkeypatch, "cpu")
    layer = DilatedConv2d(21, 5, 3, **{"dilation": d} | options).double()
    layer(drawn(1, 21, 40, 40))
    ((inputs, outputs, dilation),) = seen
    full = max(layer.dilation) > 1
    assert (inputs, outputs) == ((32, 16) if full else (21, 5))
    assert dilation == max(layer.dilation)


def test_by_autocast_what_is_filled_is_in_half(monkeypatch):
    """Not filled in float32, and turned into half afterwards: twice the bytes."""
    seen, filled = [], source._filled

    def seeing(x, weight, bias, multiple):
        seen.extend((x.dtype, weight.dtype, bias.dtype))
        return filled(x, weight, bias, multiple)

    monkeypatch.setattr(source, "_filled", seeing)
    with torch.autocast("cpu", torch.bfloat16):
        DilatedConv2d(5, 7, 3, dilation=2)(torch.zeros(1, 5, 9, 9))
    assert seen == [torch.bfloat16] * 3


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_torchs(on_gpu, groups):
    layer = DilatedConv2d(4, 8, 3, groups=groups, dilation=16).double()
    assert layer(drawn(2, 4, 40, 40)).shape == (2, 8, 8, 8)
    assert on_gpu == [(4, 8, 16)]


def test_a_layer_of_one_tap_is_not_split(on_gpu):
    DilatedConv2d(8, 8, 1, dilation=16).double()(drawn(1, 8, 9, 9))
    assert on_gpu == [(8, 8, 16)]


def test_a_map_that_has_room_for_one_output_is_split(on_gpu):
    DilatedConv2d(8, 8, 3, dilation=16).double()(drawn(1, 8, 33, 33))
    assert on_gpu == [(8, 8, 1)]


def test_numbers_that_cannot_be_are_refused():
    parts = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3)
    given = {"dilation": 2, "padding": 2, "multiple": 1}
    for wrong, least in {"dilation": 1, "padding": 0, "multiple": 1}.items():
        with pytest.raises(ValueError, match=f"^{wrong} must be at least {least}, got"):
            convolve(*parts, **given | {wrong: least - 1})
        assert convolve(*parts, **given | {wrong: least}).shape[1] == 1


def test_a_split_needs_padding_in_multiples_of_the_dilation():
    x, weight = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3)
    with pytest.raises(ValueError, match="got padding 3 and dilation 2"):
        convolve(x, weight, dilation=2, padding=3, split=True)
    assert convolve(x, weight, dilation=2, padding=3).shape == (1, 1, 10, 10)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_with_full_channels_the_result_is_no_view(monkeypatch, device):
    """A ReLU in place, as the front end has, would have to copy a view's gradient."""
    products(monkeypatch, device)
    layer = DilatedConv2d(16, 32, 3, dilation=2).double()
    out = torch.relu_(layer(drawn(1, 16, 9, 9)))
    assert type(out.grad_fn).__name__ == "ReluBackward0"


def test_it_can_be_made_like_torchs():
    layer = nn.utils.skip_init(DilatedConv2d, 3, 5, 3, dilation=2)
    assert layer.weight.shape == (5, 3, 3, 3)


def test_wrong_inputs_get_torchs_own_words(on_gpu):
    layer, plain = DilatedConv2d(21, 21, 3), nn.Conv2d(21, 21, 3)
    for shape in ((1, 20, 9, 9), (9, 9), (1, 21, 2, 9)):
        words = []
        for one in (layer, plain):
            with pytest.raises(RuntimeError) as error:
                one(torch.zeros(shape))
            words.append(str(error.value).replace("24", "21"))
        assert words[0] == words[1]
    for height in (9, 21):  # one without a batch
        assert layer(torch.zeros(21, height, 9)).shape == (21, height - 2, 7)


class Somewhere:
    """What the rule asks of a tensor, without a GPU."""

    def __init__(self, device, dtype):
        self.device, self.dtype = torch.device(device), dtype


@pytest.mark.parametrize(
    ("device", "dtype", "mixed", "half"),
    [
        ("cuda:1", torch.float16, None, torch.float16),
        ("cuda:1", torch.bfloat16, None, torch.bfloat16),
        ("cuda:1", torch.float32, None, None),
        ("cuda:1", torch.float64, None, None),
        ("cuda:1", torch.float32, torch.bfloat16, torch.bfloat16),
        ("cuda:1", torch.float32, torch.float16, torch.float16),
        ("cuda:1", torch.float64, torch.float16, None),  # autocast leaves it
        ("cpu", torch.float32, None, None),
        ("cpu", torch.bfloat16, None, torch.bfloat16),
        ("cpu", torch.float32, torch.bfloat16, torch.bfloat16),
        ("meta", torch.bfloat16, None, None),
        ("mps", torch.float16, None, None),
    ],
)
def test_half_is_the_precision_of_the_product(monkeypatch, device, dtype, mixed, half):
    asked = []

    def enabled(kind):
        asked.append(kind)
        return mixed is not None

    monkeypatch.setattr(torch, "is_autocast_enabled", enabled)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: mixed)
    kind = device.split(":")[0]
    assert source._half(Somewhere(device, dtype)) == (kind, half)
    known = kind in ("cuda", "cpu") and dtype != torch.float64
    assert asked == ([kind] if known else [])


def test_on_a_cpu_in_float32_it_is_torchs_layer():
    layer = DilatedConv2d(21, 21, 3, padding=16, dilation=16)
    plain = nn.Conv2d(21, 21, 3, padding=16, dilation=16)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 21, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("channels", [(21, 21), (17, 40), (24, 21), (5, 7)])
@pytest.mark.parametrize("d", [1, 2, 4, 8, 16])
def test_on_a_cpu_in_bfloat16_its_gradients_are_right(mixed, channels, d):
    """Where torch's own are wrong, or end the process: see chapter 07."""
    layer = DilatedConv2d(*channels, 3, padding=d, dilation=d)
    layer = layer.to(memory_format=torch.channels_last)
    x = drawn(1, channels[0], 64, 64).float()
    x = x.contiguous(memory_format=torch.channels_last)
    if mixed:
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x.requires_grad_())
    else:
        out = layer.bfloat16()(x := x.bfloat16().requires_grad_())
    gradient = drawn(*out.shape).bfloat16()
    found = out, *torch.autograd.grad(out, [x, *layer.parameters()], gradient)
    exact, x = layer.double(), x.detach().double().requires_grad_()
    out = exact(x)
    gradient = gradient.double()
    wanted = out, *torch.autograd.grad(out, [x, *exact.parameters()], gradient)
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() < 0.02 * other.abs().max()


def test_fx_copies_and_pickles_take_it_for_a_layer(on_gpu):
    chain = nn.Sequential(DilatedConv2d(3, 3, 3, padding=1), nn.ReLU()).double()
    x = drawn(1, 3, 9, 9)
    for one in (chain, copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        graph = fx.symbolic_trace(one)
        assert [(n.op, n.target) for n in graph.graph.nodes] == [
            *(("placeholder", "input"), ("call_module", "0"), ("call_module", "1")),
            ("output", "output"),
        ]
        assert torch.equal(graph(x), chain(x))
        assert type(one[0]) is DilatedConv2d
    assert len(on_gpu) == 6


@pytest.mark.parametrize("dilation", [2, 16])
def test_pictures_without_a_batch_and_under_vmap(on_gpu, dilation):
    layer = DilatedConv2d(3, 5, 3, padding=dilation, dilation=dilation).double()
    x = drawn(4, 3, 40, 37)
    wanted = layer(x)
    torch.testing.assert_close(layer(x[0]), wanted[0], rtol=1e-12, atol=1e-12)
    found = torch.vmap(layer)(x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_export_and_compile_go_through_it(monkeypatch):
    monkeypatch.setattr(source, "_half", lambda x: ("cuda", x.dtype))
    layer = DilatedConv2d(3, 5, 3, padding=16, dilation=16).double()
    x = drawn(1, 3, 40, 37)
    for one in (
        torch.export.export(layer, (x,)).module(),
        torch.compile(layer, fullgraph=True, backend="eager"),
    ):
        torch.testing.assert_close(one(x), layer(x), rtol=1e-12, atol=1e-12)


def test_hooks_see_the_layers_own_shapes(on_gpu):
    seen = []
    module = dl.ContextModule(21, "large").double()
    for layer in module.layers:
        layer.register_forward_hook(lambda _, x, y: seen.append((x[0].shape, y.shape)))
    module(drawn(1, 21, 12, 10))
    widths = [21, 42, 42, 84, 168, 336, 672, 672, 21]
    assert seen == [((1, c, 12, 10), (1, o, 12, 10)) for c, o in pairwise(widths)]


@pytest.mark.parametrize("variant", ["basic", "large"])
@pytest.mark.parametrize("padding", ["each", "once", "none"])
def test_the_context_module_is_the_same(on_gpu, monkeypatch, variant, padding):
    module = dl.ContextModule(3, variant, padding=padding).double()
    x = drawn(2, 3, 70, 75).requires_grad_()
    found = module(x)
    fast = torch.autograd.grad(found.square().sum(), [x, *module.parameters()])
    assert [d for _, _, d in on_gpu] == [1, 1, 2, 4, 8, 1, 1, 1]  # 16 is split
    assert all(c % 8 == o % 8 == 0 for c, o, _ in on_gpu)
    monkeypatch.setattr(source, "_half", lambda x: ("cuda", None))
    wanted = module(x)
    plain = torch.autograd.grad(wanted.square().sum(), [x, *module.parameters()])
    for one, other in zip((found, *fast), (wanted, *plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_network_trains_through_it(on_gpu):
    """ReLUs in place, as the released networks have them, write into a view."""
    palette = {"a": (0, 0, 0), "b": (1, 1, 1), "c": (2, 2, 2)}
    kind = Architecture(width=2, fc_channels=4, context="basic")
    network = kind.build(palette, (0.0, 0.0, 0.0))
    network.double()(drawn(1, 3, 396, 404)).sum().backward()
    assert all(one.grad is not None for one in network.parameters())
    assert on_gpu[-14:] == [
        *[(16, 16, 2)] * 3,  # conv5
        *((16, 8, 4), (4, 4, 1), (4, 3, 1)),  # fc6; fc7 and final are torch's
        *[(8, 8, d) for d in (1, 1, 2, 4, 8, 1, 1, 1)],  # 16 is split
    ]


def test_all_dilated_layers_of_a_network_are_such():
    with torch.device("meta"):
        network = dl.networks.dilation8_pascal_voc()
    dilated = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.dilation != (1, 1)
    }
    assert [layer.dilation[0] for layer in dilated.values()] == [
        *(2, 2, 2, 4),  # conv5, fc6
        *(2, 4, 8, 16),  # the context module
    ]
    assert all(isinstance(layer, DilatedConv2d) for layer in dilated.values())
