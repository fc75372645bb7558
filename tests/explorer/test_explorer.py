"""The explorer's Python side: its layers, their text, PyTorch modules, the still."""

import base64
import random
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib import Window
from dilated_lib.explorer import Explorer, Layer
from dilated_lib.fields.paths import ancestors

# random stacks whose module is traced, a third of a second each
MANY = (15, pytest.param(60, marks=pytest.mark.weekly))


def random_layers(draw, *, depth=5):
    """Layers of every kind, with padding that torch allows."""
    layers = []
    for _ in range(draw.randint(1, depth)):
        kind = draw.choice(("convolution", "convolution", "pooling", "transposed"))
        axes = []
        for _ in range(2):
            window = {
                "kernel_size": draw.randint(1, 4),
                "stride": draw.randint(1, 2),
                "dilation": draw.randint(1, 3),
            }
            most = window["kernel_size"] // 2  # of a pooling
            pads = draw.randint(0, most), draw.randint(0, most)
            axes.append(Window(**window, padding=pads, transposed=kind == "transposed"))
        if draw.random() < 0.5:
            axes[1] = axes[0]
        layers.append(Layer(*axes, pooling=kind == "pooling"))
    return layers


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Layer(Window(3)), "k3"),
        (Layer(Window(3, 2, dilation=4, padding=1)), "k3s2d4p1"),
        (Layer(Window(2, padding=(1, 0))), "k2p1:0"),
        (Layer(Window(3, padding=(0, 2))), "k3p0:2"),
        (Layer(Window(2, 2), pooling=True), "m2s2"),
        (Layer(Window(4, 2, padding=1, transposed=True)), "t4s2p1"),
        (Layer(Window(3), Window(1)), "k3xk1"),
        (Layer(Window(2, 2), Window(3, 3), pooling=True), "m2s2xm3s3"),
    ],
)
def test_a_layer_is_written_and_read(layer, text):
    assert str(layer) == text
    assert Explorer(text).layers == (layer,)


def test_random_layers_are_written_and_read():
    draw = random.Random(0)
    for _ in range(200):
        layers = random_layers(draw)
        assert Explorer(layers).layers == tuple(layers)


def test_an_explorer_shows_up_to_twenty_layers():
    assert len(Explorer(",".join(["k3"] * 20)).layers) == 20
    convolutions = nn.Sequential(*[nn.Conv2d(2, 2, 3) for _ in range(20)])
    assert Explorer.from_module(convolutions).stack == ",".join(["k3"] * 20)


def test_a_layer_is_alike_along_both_axes_unless_told():
    assert Layer(Window(3, dilation=2)).width == Window(3, dilation=2)


def test_output_padding_is_padding_that_crops_less():
    window = Window(3, 2, padding=1, transposed=True, output_padding=1)
    plain = Layer(window).height
    assert plain.pads == (1, 0)
    assert dl.compose([plain]) == dl.compose([window])
    assert plain.output_size(7) == window.output_size(7)
    with pytest.raises(ValueError, match="no units that no tap can reach"):
        Layer(Window(2, 2, transposed=True, output_padding=1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "layer 1, '', is none: write k3"),
        ("k3,q3", "layer 2, 'q3', is none"),
        ("k3,,k3", "layer 2, '', is none"),
        ("k3xk1xk1", "layer 1, 'k3xk1xk1', is none"),
        ("k3xm1", "layer 1, 'k3xm1', is none"),
        ("k3d-2", "layer 1, 'k3d-2', is none"),
        ("k0", "kernel_size must be at least 1, got 0"),
        (",".join(["k3"] * 21), "at most 20 layers, got 21"),
    ],
)
def test_text_that_is_no_stack_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Explorer(text)
    explorer = Explorer()
    with pytest.raises(ValueError, match=re.escape(message)):
        explorer.stack = text
    assert explorer.stack == "k3,k3d2,k3d4"


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match="height must be a Window, got 3"):
        Explorer([3])
    with pytest.raises(TypeError, match="width must be a Window, got 'k3'"):
        Layer(Window(3), "k3")
    with pytest.raises(ValueError, match="both windows of a layer must be transposed"):
        Layer(Window(3), Window(3, transposed=True))
    with pytest.raises(ValueError, match="pooling=True"):
        Layer(Window(3, transposed=True), pooling=True)
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        Explorer(channels=0)


def test_layers_are_read_and_set():
    explorer = Explorer([Window(3), Layer(Window(2, 2), pooling=True)])
    assert explorer.stack == "k3,m2s2"
    seen = []
    explorer.observe(lambda change: seen.append(change["new"]), "stack")
    explorer.layers = [Window(3, dilation=d) for d in (1, 2, 5)]
    assert seen == ["k3,k3d2,k3d5"]
    assert [layer.height.dilation for layer in explorer.layers] == [1, 2, 5]
    assert repr(explorer) == "Explorer('k3,k3d2,k3d5')"


@pytest.mark.parametrize("count", MANY)
def test_the_module_sees_what_the_layers_say(count):
    draw = random.Random(1)
    for _ in range(count):
        explorer = Explorer(random_layers(draw, depth=4), channels=1)
        axes = zip(*((one.height, one.width) for one in explorer.layers), strict=True)
        wanted = [dl.compose(axis) for axis in axes]
        size = 120
        try:
            found = dl.receptive_field(explorer.module(), (1, size, size))
        except ValueError:  # a crop that leaves nothing, or a field of nothing
            assert any("t" in str(one) for one in explorer.layers)
            continue
        assert list(found) == wanted, explorer


def test_the_module_pads_with_what_cannot_win_or_add():
    pool, conv = Explorer("m2p1:0,k2p1:0", channels=1).module()[1::2]
    assert isinstance(pool, nn.MaxPool2d)
    x = -torch.ones(1, 1, 5, 5)
    assert torch.equal(Explorer("m2p1:0", channels=1).module()(x), x)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    with torch.no_grad():
        padded = F.conv2d(F.pad(x, (1, 0, 1, 0)), torch.ones(1, 1, 2, 2))
        assert torch.equal(Explorer("k2p1:0").module()[0](x), F.pad(x, (1, 0, 1, 0)))
        assert torch.equal(conv(F.pad(x, (1, 0, 1, 0))), padded)


@pytest.mark.parametrize(
    ("text", "height", "width", "modules"),
    [
        ("t4s2p1", (1, 1), (1, 1), 1),
        ("t4s2p2:1", (2, 1), (2, 1), 1),
        ("t4s2p2:0", (2, 0), (2, 0), 2),  # torch gives back less than the stride
        ("t2d3p2:0", (2, 0), (2, 0), 1),  # or than the dilation
        ("t2d3p0:1", (0, 1), (0, 1), 2),
        ("t4s2p0:3xt4s2p1:2", (0, 3), (1, 2), 2),
        ("t4s2p1xt2", (1, 1), (0, 0), 1),
    ],
)
def test_a_transposed_layer_crops_each_side_by_its_padding(
    text, height, width, modules
):
    down, across = Explorer(text).layers[0].height, Explorer(text).layers[0].width
    whole = nn.ConvTranspose2d(
        1,
        1,
        (down.kernel_size, across.kernel_size),
        (down.stride, across.stride),
        dilation=(down.dilation, across.dilation),
    )
    module = Explorer(text, channels=1).module()
    assert len(module) == modules
    module[0].load_state_dict(whole.state_dict())
    x = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = whole(x)
        rows, columns = result.shape[2:]
        rows = slice(height[0], rows - height[1])
        columns = slice(width[0], columns - width[1])
        assert torch.allclose(module(x), result[:, :, rows, columns], atol=1e-6)


def test_a_network_is_opened():
    with torch.device("meta"):
        front = dl.front_end(21)
    assert len(Explorer.from_module(front).layers) == 19
    context = Explorer.from_module(dl.ContextModule(11, padding="once"))
    assert context.stack == "k3p33,k3,k3d2,k3d4,k3d8,k3d16,k3,k1"
    assert context.channels == 11
    causal = nn.Sequential(
        nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(4, 4, 2, dilation=2)
    )
    assert Explorer.from_module(causal).stack == "k2d2p2:0"
    mixed = nn.Sequential(
        nn.ZeroPad2d((2, 0, 1, 0)),
        nn.Conv2d(3, 8, (3, 2), padding="same"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, 1),
        nn.ConvTranspose2d(8, 8, 4, 2, 1, output_padding=1),
    )
    assert Explorer.from_module(mixed).stack == "k3p2:1xk2p2:1,m3s2p1,t4s2p1:0"


@pytest.mark.parametrize("count", MANY)
def test_a_module_of_layers_gives_the_layers_back(count):
    draw = random.Random(2)
    back = 0
    for _ in range(count):
        layers = random_layers(draw, depth=4)
        cropping = any(  # a layer behind, not padding before the next
            one.height.transposed and isinstance(module[1], nn.ZeroPad2d)
            for one in layers
            if len(module := Explorer([one]).module()) > 1
        )
        try:
            module = Explorer(layers, channels=2).module()
            found = Explorer.from_module(module, (2, 120, 120))
        except ValueError:
            assert cropping or any(one.height.transposed for one in layers)
            continue
        assert found.layers == tuple(layers)
        back += 1
    assert back > count / 2


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Upsample(scale_factor=2)], "no chain of convolutions"),
        ([nn.AdaptiveAvgPool2d(1)], "no chain of convolutions"),
        ([nn.ZeroPad2d(1)], "no convolution or pooling reads it"),
        ([nn.Conv2d(3, 3, 3)] * 20, "at most 20 layers, and Sequential has 21"),
    ],
)
def test_a_network_that_is_no_chain_is_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        Explorer.from_module(nn.Sequential(nn.Conv2d(3, 3, 3), *layers))


def test_a_network_without_convolutions_must_say_its_input():
    with pytest.raises(
        ValueError, match="no Conv1d or Conv2d to tell its input's size"
    ):
        Explorer.from_module(nn.MaxPool2d(2))
    assert Explorer.from_module(nn.MaxPool2d(2), (3, 8, 8)).stack == "m2s2"


def test_a_network_is_opened_at_512_positions_a_side_unless_told():
    largest = nn.Sequential(nn.Conv1d(1, 1, 1), nn.MaxPool1d(512))
    assert Explorer.from_module(largest).stack == "k1,m512s512"
    largest[1] = nn.MaxPool1d(513)
    with pytest.raises(ValueError, match="on 1 x 512 cannot be traced"):
        Explorer.from_module(largest)
    assert Explorer.from_module(largest, (1, 513)).stack == "k1,m513s513"


def test_a_branch_is_named():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)

        def forward(self, x):
            return self.one(x) + self.two(x)

    with pytest.raises(ValueError, match="takes 2 maps together"):
        Explorer.from_module(Branch())
    with pytest.raises(ValueError, match="one or two axes, and Conv3d has 3"):
        Explorer.from_module(nn.Conv3d(1, 1, 3), (1, 8, 8, 8))


# What stands there without a script


def pictured(html):
    (source,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    return ET.fromstring(base64.b64decode(source))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("k3,k3xk1", [("1", "k3", "3"), ("2", "k3xk1", "5 × 3")]),
        ("k1xk5", [("1", "k1xk5", "1 × 5")]),
        ("t1s2,k1s2p1", [("1", "t1s2", "1"), ("2", "k1s2p1", "0")]),  # reads gaps
    ],
)
def test_the_table_tells_what_each_layer_spans(text, rows):
    html = Explorer(text)._repr_html_()
    table = "".join(
        f"<tr><td>{depth}</td><td>{layer}</td><td>{spans}</td></tr>"
        for depth, layer, spans in rows
    )
    head = "<tr><th>layer</th><th></th><th>spans</th></tr>"
    assert f"<table>{head}{table}</table>" in html
    assert ("<img" in html) == (rows[-1][2] != "0")
    assert f'data-stack="{text}" data-channels="21"' in html


SKY_BLUE, GREY, GREEN = "#56B4E9", "#999999", "#009E73"


@pytest.mark.parametrize(
    ("text", "size", "lines", "cells"),
    [
        (  # 5 positions of 24, and rows of 34
            "k2,k2",
            ("120", "102"),
            "M48.0 51L36.0 85M48.0 51L60.0 85M72.0 51L60.0 85M72.0 51L84.0 85"
            "M60.0 17L48.0 51M60.0 17L72.0 51",
            [
                (SKY_BLUE, "M26.0 77h20v16h-20zM50.0 77h20v16h-20zM74.0 77h20v16h-20z"),
                (GREY, "M38.0 43h20v16h-20zM62.0 43h20v16h-20z"),
                (GREEN, "M50.0 9h20v16h-20z"),
            ],
        ),
        (  # 83 positions on 690
            "k3d40",
            ("690", "68"),
            "M345.0 17L12.5 51M345.0 17L345.0 51M345.0 17L677.5 51",
            [
                (
                    SKY_BLUE,
                    "M8.9 43h7.1v16h-7.1zM341.4 43h7.1v16h-7.1zM674.0 43h7.1v16h-7.1z",
                ),
                (GREEN, "M341.4 9h7.1v16h-7.1z"),
            ],
        ),
        (  # the first unit reads nothing, the next one position 1
            "t1s2d2p1",
            ("72", "68"),
            "M36.0 17L36.0 51",
            [(SKY_BLUE, "M26.0 43h20v16h-20z"), (GREEN, "M26.0 9h20v16h-20z")],
        ),
    ],
)
def test_the_still_has_units_over_the_middle_of_what_they_read(
    text, size, lines, cells
):
    svg = pictured(Explorer(text)._repr_html_())
    ground, taps, *rows = svg
    assert (svg.get("width"), svg.get("height")) == size
    assert ground.attrib == {"width": size[0], "height": size[1], "fill": "#fff"}
    assert (taps.get("stroke"), taps.get("fill")) == ("#D55E00", "none")
    assert taps.get("d") == lines
    assert [(row.get("fill"), row.get("d")) for row in rows] == cells
    assert {row.get("stroke") for row in rows} == {"#000"}
    assert "".join(svg.itertext()) == ""


def test_the_still_begins_where_the_padding_does():
    plain, padded = (
        ET.tostring(pictured(Explorer(text)._repr_html_()))
        for text in ("k2,k2", "k2,k2p1")
    )
    assert plain == padded  # the unit reads as much, one position before


def test_the_still_of_a_wide_stack_saves_outlines_and_lines():
    for text, outlined in (("k3d93", "#000"), ("k3d97", None)):  # cells of 3.1 and 3
        *_, top = pictured(Explorer(text)._repr_html_())
        assert top.get("stroke") == outlined
    for taps, shown in ((1999, 1999), (2000, 1000), (4000, 1334)):
        _, lines, *_ = pictured(Explorer(f"k{taps}")._repr_html_())
        assert lines.get("d").count("L") == shown


def test_without_scripts_there_is_a_picture_and_a_table():
    html = Explorer("k3,k3d2,k3d4")._repr_html_()
    still = html[: html.index("<style>")]
    assert re.findall(r"spans</th></tr>.*?(?=</table>)", still)
    assert re.findall(r"<td>(\w+)</td></tr>", still) == ["3", "7", "15"]
    (alt,) = re.findall(r'alt="([^"]+)"', still)
    assert "of 3 layers" in alt and "positions 0 to 14" in alt
    lines, *rows = pictured(html)[1:]
    assert lines.get("d").count("L") == 3 + 9 + 21
    assert [row.get("d").count("M") for row in rows] == [15, 7, 3, 1]


def test_the_still_of_large_and_of_odd_stacks():
    with torch.device("meta"):
        front = dl.front_end(21)
    vgg = Explorer.from_module(front)._repr_html_()
    assert [row.get("d").count("M") for row in pictured(vgg)[1:]][1] == 380
    assert len(vgg) - len(Explorer._esm) - len(Explorer._css) < 150_000
    anisotropic = Explorer("k3xk1,k1xk5")._repr_html_()
    assert "<td>k3xk1</td><td>3 × 1</td>" in anisotropic
    phases = Explorer("t4s2p1")._repr_html_()
    assert [row.get("d").count("M") for row in pictured(phases)[1:]][1:] == [2, 1]


def test_the_html_is_the_same_every_time_and_needs_nothing_else():
    html = Explorer()._repr_html_()
    assert html == Explorer()._repr_html_()
    assert html.count("</script") == 1 and "<!--" not in Explorer._esm
    for word in (
        "\nimport ",
        "import(",
        "fetch(",
        "http://",
        "https://",
        "eval(",
        "url(",
    ):
        assert word not in Explorer._esm, word
        assert word not in Explorer._css, word


def test_a_notebook_gets_the_widget_and_the_page_the_html():
    data, _ = Explorer()._repr_mimebundle_()
    assert data["text/plain"] == "Explorer('k3,k3d2,k3d4')"
    assert data["text/html"] == Explorer()._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in data


def test_the_screen_and_python_share_the_stack_and_the_channels():
    assert Explorer().channels == 21
    shared = Explorer("k3d2", channels=5).get_state()
    assert (shared["stack"], shared["channels"]) == ("k3d2", 5)


def test_ancestors_are_where_gradients_arrive():
    draw = random.Random(3)
    for _ in range(40):
        windows = [
            Window(
                draw.randint(1, 4),
                draw.randint(1, 3),
                dilation=draw.randint(1, 3),
                transposed=draw.random() < 0.3,
            )
            for _ in range(3)
        ]
        x = torch.ones(1, 1, 150, requires_grad=True)
        y = x
        for w in windows:
            conv = F.conv_transpose1d if w.transposed else F.conv1d
            y = conv(
                y, torch.ones(1, 1, w.kernel_size), stride=w.stride, dilation=w.dilation
            )
        unit = y.shape[2] // 2
        try:
            seen = ancestors(windows, unit)[0]
        except ValueError:
            seen = set()
        (gradient,) = torch.autograd.grad(y[0, 0, unit], x)
        assert seen == set(np.flatnonzero(gradient[0, 0]).tolist())
