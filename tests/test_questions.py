"""The page of questions: its form, its links, and every answer computed again."""

import copy
import itertools
import json
import math
import re
import warnings
from fractions import Fraction

import pytest
import torch
from myst_parser.mdit_to_docutils.base import default_slugify
from pages import CONFIG, ROOT
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision import models
from torchvision.models.segmentation.deeplabv3 import ASPPPooling, DeepLabHead
from torchvision.ops import deform_conv2d

import dilated_lib as dl
from dilated_lib import Window
from dilated_lib.dilation.cost import cost
from dilated_lib.training.loss import median_frequency_weights

BOOK = ROOT / "book"
PAGE = (BOOK / "questions.md").read_text()
QUESTION = r"^\(question-(\S+)\)=\n### ([^\n]+)\n\n(.+?)(?=^\(question|^## |\Z)"
ANSWERS = {
    label: (heading, answer)
    for label, heading, answer in re.findall(QUESTION, PAGE, re.M | re.S)
}
CHECKS = {}


def check(label):
    """Register a function that gives, computed, phrases of the answer ``label``."""

    def register(function):
        CHECKS[label] = function
        return function

    return register


def headings(path):
    """Anchors of the sections of a page or a notebook, as the book makes them."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
    depth = CONFIG["sphinx"]["config"]["myst_heading_anchors"]
    titles = re.findall(rf"^#{{1,{depth}}} (.+)$", text, re.M)
    return {default_slugify(title) for title in titles}


# The form


def test_five_groups_of_questions_each_with_a_check_of_its_numbers():
    groups = re.findall(r"^## (.+)$", PAGE, re.M)
    assert groups == ["The operation", "Sizes", "Fields", "Training", "Running"]
    assert len(ANSWERS) == PAGE.count("\n### ") == PAGE.count("(question-")
    assert all("?" in heading for heading, _ in ANSWERS.values())
    assert CHECKS.keys() == ANSWERS.keys()


@pytest.mark.parametrize("label", ANSWERS)
def test_an_answer_leads_to_one_section_that_exists(label):
    _, answer = ANSWERS[label]
    ((path, anchor),) = re.findall(r"\]\((\.\./\S+?\.ipynb)#(\S+?)\)", answer)
    *_, last = answer.strip().splitlines()
    assert last.startswith("In the book: [")
    assert anchor in headings((BOOK / path).resolve())


def test_words_of_the_glossary_lead_to_questions():
    glossary = (BOOK / "notation.md").read_text()
    linked = re.findall(r"\]\(#question-(\S+?)\)", glossary)
    assert len(linked) >= 10 and set(linked) <= ANSWERS.keys()
    terms = glossary.split("```{glossary}\n")[1]
    for word in (
        *("ASPP", "batch normalisation", "ceil mode", "checkerboard artefact", "DCLS"),
        *("DUC", "multi-grid", "pointwise convolution", "streaming"),
        *("Dice coefficient", "poly schedule", "shift and stitch", "transformer"),
        *("à trous algorithm", "atrous convolution", "cuDNN", "deformable convolution"),
        *("depthwise convolution", "dilation rate", "effective kernel size", "ONNX"),
        *("output stride", "TCN", "U-Net", "WaveNet"),
    ):
        assert re.search(rf'^{word}\n  <span lang="zh-CN">', terms, re.M), word


@pytest.mark.parametrize("label", ANSWERS)
def test_an_answer_says_what_comes_out(label):
    _, answer = ANSWERS[label]
    for phrase in CHECKS[label]():
        assert phrase in answer


# The numbers: each function computes its phrases


def stack(*dilations, kernel_size=3):
    return [Window(kernel_size, dilation=d) for d in dilations]


def size(windows, length):
    for window in windows:
        length = window.output_size(length)
    return length


def row(n, **options):
    """Outputs of torch for a row of n positions."""
    kind = options.pop("kind", nn.Conv1d)
    return kind(1, 1, **options)(torch.zeros(1, 1, n)).shape[2]


@check("names")
def _():
    layer = Window(3, dilation=2)
    yield f"3 taps with dilation 2 span {layer.extent} positions"
    yield f"read {len(layer.inputs(0))} of them"
    with pytest.raises(RuntimeError, match="dilation should be greater than zero"):
        row(9, kernel_size=3, dilation=0)


@check("parameters")
def _():
    doubling = stack(*(2**i for i in range(8)))
    yield f"have {8 * nn.Conv2d(1, 1, 3, bias=False).weight.numel()} weights"
    yield f"they see {dl.compose(doubling).size} pixels a side"
    yield f"without dilation {dl.compose(stack(*[1] * 8)).size}."


@check("transposed")
def _():
    yield f"| ordinary | $n - (k - 1)$ | {row(32, kernel_size=3)} |"
    yield f"| $n - d(k - 1)$ | {row(32, kernel_size=3, dilation=2)} |"
    yield f"+ 1$ | {row(32, kernel_size=3, stride=2)} |"
    up = row(32, kernel_size=3, stride=2, kind=nn.ConvTranspose1d)
    yield f"| $(n - 1)s + k$ | {up} |"


@check("stride")
def _():
    strided, dilated = [Window(3, 2)] * 3, stack(1, 2, 4)
    fields = dl.compose(strided), dl.compose(dilated)
    assert fields[0].size == fields[1].size and fields[1].stride == 1
    yield f"see {fields[0].size} positions either way"
    yield f"one output is left for every {fields[0].stride} positions"


def read_by(block):
    """Count the positions of a map of 56 × 56 that any output depends on."""
    x = torch.rand(1, 256, 56, 56, requires_grad=True)
    block.eval()(x).sum().backward()
    return x.grad[0].abs().sum(0).count_nonzero()


@check("pointwise-stride")
def _():
    torchvision = models.resnet50().layer2[0]
    keras = copy.deepcopy(torchvision)
    keras.conv1.stride, keras.conv2.stride = (2, 2), (1, 1)
    everywhere, skipping = read_by(torchvision), read_by(keras)
    shortcut = read_by(torchvision.downsample)
    assert everywhere == 56**2 and skipping == shortcut == everywhere // 4
    yield f"it reads {shortcut} of {everywhere} positions"
    x, layer = torch.rand(1, 1, 9, 9), nn.Conv2d(1, 1, 1, 2)
    strided = layer(x)
    layer.stride, layer.dilation = (1, 1), (2, 2)
    dilated = layer(x)
    layer.dilation = (1, 1)
    assert torch.equal(layer(x), dilated)
    assert torch.equal(dilated[..., ::2, ::2], strided)


@check("wavenet")
def _():
    units, needed = {0}, []
    for dilation in (8, 4, 2, 1):
        layer = Window(2, dilation=dilation)
        units = {position for unit in units for position in layer.inputs(unit)}
        needed.append(len(units))
    two, four, eight, samples = needed
    yield f"needs {samples} samples and then {eight}, {four} and {two} units"
    causal = [Window(2, dilation=d, padding=(d, 0)) for d in (1, 2, 4, 8)]
    yield f"each of these layers makes {size(causal, 100)} units"
    yield f"four strided ones would make {size([Window(2, 2)] * 4, 100)}."


@check("stride-dilation")
def _():
    x, w = torch.randn(1, 1, 32).double(), torch.randn(1, 1, 3).double()
    both = F.conv1d(x, w, stride=2, dilation=2)
    assert torch.allclose(both, F.conv1d(x[..., ::2], w))
    # unit i reads i·s + t·d − p, also with a padding
    x.requires_grad_()
    out = F.conv1d(x, w.abs() + 1, stride=2, dilation=3, padding=1)[0, 0, 4]
    (gradient,) = torch.autograd.grad(out, x)
    reads = [4 * 2 + t * 3 - 1 for t in range(3)]
    assert gradient.flatten().nonzero().flatten().tolist() == reads
    yield f"3 such taps give {both.shape[2]} outputs"


@check("axes")
def _():
    x = torch.zeros(1, 1, 9, 9, 9, dtype=torch.float64, requires_grad=True)
    out = F.conv3d(x, torch.ones(1, 1, 3, 3, 3).double(), dilation=2)[0, 0, 2, 2, 2]
    read = torch.autograd.grad(out, x)[0][0, 0].nonzero()
    spans = (read.amax(0) - read.amin(0) + 1).prod()
    yield f"spans {spans} voxels and reads {len(read)} of them"
    layers = (nn.Conv3d(1, 1, 3, padding=d, dilation=d) for d in (1, 2, 4, 8))
    fields = dl.receptive_field(nn.Sequential(*layers), (1, 40, 40, 40))
    (along,) = {field.size for field in fields}
    yield f"see {along} voxels along each axis"
    flat = dl.receptive_field(nn.Conv3d(1, 1, 3, dilation=(1, 2, 2)), (1, 9, 9, 9))
    assert [field.size for field in flat] == [3, 5, 5]


@check("dense")
def _():
    layers, pools = [], []
    for channels in (2, 2, 3, 3, 3):
        layers += [nn.Conv2d(1, 1, 3, padding=1) for _ in range(channels)]
        pools.append(nn.MaxPool2d(2, 2))
        layers.append(pools[-1])
    network = nn.Sequential(*layers, nn.Conv2d(1, 1, 7)).double()
    x = torch.rand(1, 1, 288, 288).double()
    before = network(x)
    dl.remove_stride_(network, 8)
    after = network(x)
    assert torch.allclose(after[..., ::4, ::4], before)
    assert (after.shape[2] - 1) // 4 + 1 == before.shape[2] > 1
    conv5, fc6 = (network[index].dilation[0] for index in (-3, -1))
    yield f"conv5 dilation {conv5} and the 7 taps of fc6 dilation {fc6}"
    wide, few = torch.zeros(1, 1, 7, 7).double(), torch.rand(1, 1, 3, 3).double()
    wide[..., ::3, ::3] = few
    for rate in (2, 4):
        assert torch.allclose(
            F.conv2d(x, wide, dilation=rate), F.conv2d(x, few, dilation=3 * rate)
        )
    yield f"3 taps with dilation {3 * fc6}; SSD"
    yield f"hence its {3 * 2}."


@check("duc")
def _():
    channels = {r: r * r * 19 for r in (8, 32)}
    for r, count in channels.items():
        cells = torch.zeros(1, count, 3, 3)
        cells[..., 1, 1] = 1
        pixels = nn.PixelShuffle(r)(cells)
        assert pixels.shape == (1, 19, 3 * r, 3 * r)
        assert pixels[..., r : 2 * r, r : 2 * r].all() and pixels.sum() == count
    yield f"$8^2 \\cdot 19 = {channels[8]}$ channels at stride 8"
    yield f"it would be {channels[32]:,}, for {32**2} pixels a cell"


@check("deformable")
def _():
    x, w = torch.randn(1, 2, 9, 9).double(), torch.randn(3, 2, 3, 3).double()
    wanted = F.conv2d(x, w, dilation=2)
    still = torch.zeros(1, 18, 5, 5).double()
    assert torch.allclose(deform_conv2d(x, still, w, dilation=2), wanted)
    taps = torch.tensor([[i, j] for i in range(3) for j in range(3)])
    moved = taps.reshape(1, 18, 1, 1).expand(1, 18, 7, 7).double()
    assert torch.allclose(deform_conv2d(x, moved, w)[..., :5, :5], wanted)
    yield f"takes {taps.numel()} offsets for each output"
    quarter = torch.tensor([0, 0.25]).double().reshape(1, 2, 1, 1).expand(1, 2, 1, 2)
    one_tap = torch.ones(1, 1, 1, 1).double()
    reads = [
        deform_conv2d(cells[None, None, None], quarter, one_tap)[0, 0, 0, 0]
        for cells in torch.eye(2).double()
    ]
    yield "reads {:.2f} of one and {:.2f} of the other".format(*reads)


@check("gridding")
def _():
    holes, whole = dl.coverage(stack(2, 2, 2)), dl.coverage(stack(1, 2, 5))
    yield f"span {len(holes)} positions along an axis and read {(holes > 0).sum()}"
    assert (whole > 0).all()
    yield f"they span {len(whole)} and read all {len(whole)}"


@check("choose")
def _():
    fields = [dl.coverage(stack(*d)) for d in ((1, 2, 4, 8), (1, 3, 9, 27), (2, 4, 8))]
    doubled, tripled, even = fields
    assert (doubled > 0).all() and set(tripled.tolist()) == {1}
    yield f"1, 2, 4, 8 see {len(doubled)} positions and read all"
    yield f"the rule allows, it is {len(tripled)}, each by a single path"
    yield f"2, 4, 8 span {len(even)} and read {(even > 0).sum()}."
    plain, doubling = (
        next(n for n in range(99) if dl.compose(stack(*d[:n])).size >= 65)
        for d in ([1] * 99, [2**i for i in range(9)])
    )
    assert doubling == 6
    yield f"{plain} plain layers, or six with the dilations 1, 2, 4, …, {2**5}."
    for rates in itertools.product(range(1, 8), repeat=3):
        low, middle, high = sorted(rates)
        obeys = low == 1 and middle <= 1 + 2 * low and high <= 1 + 2 * (low + middle)
        assert obeys == (dl.coverage(stack(*rates)) > 0).all()


@check("checkerboard")
def _():
    ones = torch.ones(1, 1, 9, 9).double()
    found = {}
    for taps in (3, 4):
        kernel = torch.ones(1, 1, taps, taps).double()
        sums = F.conv_transpose2d(ones, kernel, stride=2)[..., 4:-4, 4:-4]
        found[taps] = [int(n) for n in sums.unique()]
    yield "adds up {}, {} or {} of them".format(*found[3])
    yield "with 4 × 4 taps it is always {}.".format(*found[4])
    kernel = torch.rand(1, 1, 4, 4).double()
    apart = F.conv_transpose2d(ones, kernel, stride=2)[..., 4:-4, 4:-4]
    alike = F.conv2d(F.interpolate(ones, scale_factor=2, mode="bilinear"), kernel)
    assert len(apart.unique()) == 4 and torch.allclose(alike, kernel.sum())


@check("output-size")
def _():
    found = [row(32, kernel_size=3, dilation=2, padding=p) for p in (1, 2)]
    yield f"padding 1 gives {found[0]} outputs and padding 2 gives {found[1]}"
    strided = row(32, kernel_size=3, dilation=2, padding=2, stride=2)
    yield f"padding 2 with stride 2 gives {strided}."
    with pytest.raises(RuntimeError) as refused:
        row(8, kernel_size=3, dilation=4)
    *_, padded, extent, message = str(refused.value).split(". ")
    assert f"*{message}*" in ANSWERS["output-size"][0]
    yield "span {} positions".format(*re.findall(r"\((\d+)\)", extent))
    yield "do not fit on {}.".format(*re.findall(r"\((\d+)\)", padded))
    for n in range(9, 30):
        for s, d, p in ((1, 2, 0), (2, 3, 1), (3, 4, 2), (4, 1, 0)):
            formula = (n + 2 * p - d * 2 - 1) // s + 1
            options = {"kernel_size": 3, "stride": s, "dilation": d, "padding": p}
            assert row(n, **options) == formula


@check("resolution")
def _():
    x = torch.zeros(1, 1, 7, 7)
    bare = nn.Conv2d(1, 1, 3, dilation=2)(x).shape[2]
    yield f"$d(k - 1) = {7 - bare}$ rows"
    yield f"7 × 7 becomes {bare} × {bare}"
    kept = nn.Conv2d(1, 1, 3, dilation=2, padding=2)(x).shape[2]
    yield f"with padding 2 it stays {kept} × {kept}"


@check("keep-shape")
def _():
    (kept,) = (
        p for p in range(9) if row(32, kernel_size=5, dilation=3, padding=p) == 32
    )
    yield f"5 × 5 with dilation 3 that is {kept}."
    even = [row(32, kernel_size=4, dilation=3, padding=p) for p in range(9)]
    assert 32 not in even


@check("even-kernel")
def _():
    layer = nn.Conv1d(1, 1, 4, dilation=3, padding="same", bias=False)
    x = torch.randn(1, 1, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = layer(x)
    pads = {
        (a, 9 - a)
        for a in range(10)
        if torch.allclose(
            same, F.conv1d(F.pad(x, (a, 9 - a)), layer.weight, dilation=3)
        )
    }
    ((before, after),) = pads
    yield f"the {before + after} zeros become {before} in front and {after} behind"
    middle = dl.compose([Window(4, dilation=3, padding=(before, after))]).centre(0)
    assert middle == Fraction(1, 2)
    yield "looks half a position to the right"


def same_padding(n, k, s, d=1):
    """The padding of TensorFlow, before and after, by its documentation."""
    total = max(0, (math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n)
    return total // 2, total - total // 2


@check("same-stride")
def _():
    with pytest.raises(ValueError, match="not supported for strided convolutions"):
        nn.Conv1d(1, 1, 3, stride=2, padding="same")
    for n in range(20, 40):
        for k, s, d in ((3, 1, 2), (3, 2, 1), (7, 2, 1), (3, 2, 2), (4, 3, 1)):
            layer = Window(k, s, dilation=d, padding=same_padding(n, k, s, d))
            assert layer.output_size(n) == math.ceil(n / s)
    before, after = same_padding(224, 7, 2)
    assert same_padding(225, 7, 2) != (before, after)
    yield f"that is {before} in front and {after} behind"
    lopsided = dl.compose([Window(7, 2, padding=(before, after))])
    yield f"unit 0 is centred on pixel {lopsided.centre(0)}"
    even = dl.compose([Window(7, 2, padding=3)])
    yield f"padding of 3 centres it on pixel {even.centre(0)}"


@check("transposed-size")
def _():
    down = [row(n, kernel_size=3, stride=2, padding=1) for n in (31, 32)]
    assert down[0] == down[1]
    yield f"both 31 and 32 positions become {down[0]}"
    up = [
        row(
            *(down[0],),
            kind=nn.ConvTranspose1d,
            **{"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": extra},
        )
        for extra in (0, 1)
    ]
    yield f"{down[0]} become {up[0]}, or {up[1]} with `output_padding=1`"
    with pytest.raises(RuntimeError) as refused:
        row(5, kernel_size=3, stride=2, output_padding=2, kind=nn.ConvTranspose1d)
    message, _ = str(refused.value).split(", but")
    yield f"refuses others: *{message}*"
    accepted = {"stride": 1, "dilation": 3, "output_padding": 2}
    assert row(5, kernel_size=3, kind=nn.ConvTranspose1d, **accepted) == 13
    for n, k, s, d, p in ((5, 3, 2, 2, 1), (7, 4, 3, 1, 0), (66, 16, 8, 1, 4)):
        options = {"kernel_size": k, "stride": s, "dilation": d, "padding": p}
        formula = (n - 1) * s + d * (k - 1) + 1 - 2 * p
        assert row(n, kind=nn.ConvTranspose1d, **options) == formula
    yield f"(16 taps, stride 8, padding 4) makes {formula} of 66"


@check("tile-sizes")
def _():
    with torch.device("meta"):
        sizes, _ = dl.input_sizes(dl.front_end(21))
    assert sizes.field.stride == 8
    yield f"sees {sizes.field.size} pixels"
    yield f"need ${sizes.fixed} + {sizes.step}n$ pixels"
    cells = [sizes.cells(side) for side in (900, 1396)]
    yield f"{cells[0]} cells of 900 pixels and {cells[1]} cells of 1396"
    yield f"the margin on each side, {sizes.margin}."


RESNET = [Window(7, 2, padding=3)] + [Window(3, 2, padding=1)] * 4


@check("ceil-mode")
def _():
    def pooled(n, *shape):
        return [
            nn.MaxPool1d(*shape, ceil_mode=up)(torch.zeros(1, 1, n)).shape[2]
            for up in (False, True)
        ]

    down, up = pooled(112, 3, 2, 1)
    assert down == row(112, kernel_size=3, stride=2, padding=1)
    yield f"makes {down} of 112 in PyTorch and {up} in Caffe"
    yield "makes {} or {} of 5.".format(*pooled(5, 2, 2))


@check("divisible")
def _():
    sides = [350]
    for _ in range(4):
        sides.append(size([Window(2, 2)], sides[-1]))
    assert UNet(4)(torch.zeros(1, 1, 352, 352)).shape[2:] == (352, 352)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        UNet(4)(torch.zeros(1, 1, 350, 352))
    *_, wanted, last = sides
    yield "make {}, {}, {} and {} of 350 pixels".format(*sides[1:])
    yield f"{last} doubles to {2 * last} where {wanted} are wanted"
    yield f"here {-(-350 // 2**4) * 2**4},"
    pair, pool, up = [Window(3)] * 2, Window(2, 2), Window(2, 2, transposed=True)
    original = [*pair, pool] * 4 + pair + [up, *pair] * 4
    yield f"of 572 pixels it labels {size(original, 572)}."


@check("513")
def _():
    assert [n % 32 for n in (513, 321, 769)] == [1, 1, 1]
    units = [size(RESNET[:n], 513) for n in range(6)]
    yield "At each halving {} becomes {}, {}, {}, {} and {},".format(*units)
    field = dl.compose(RESNET)
    assert (field.centre(0), field.stride, field.centre(units[-1] - 1)) == (0, 32, 512)
    last = field.centre(size(RESNET, 512) - 1)
    yield f"end at {last}, so the last {511 - last} pixels"


@check("full-size")
def _():
    y, x = torch.meshgrid(*[torch.arange(512) + 0.5] * 2, indexing="ij")
    disc = ((y - 250) ** 2 + (x - 262) ** 2).sqrt() < 100
    known = F.avg_pool2d(disc.double()[None, None], 8)
    logits = torch.cat([1 - known, known], 1)
    labels = logits.argmax(1, keepdim=True).double()
    late = F.interpolate(logits, size=disc.shape, mode="bilinear").argmax(1)
    early = F.interpolate(labels, size=disc.shape)[0]
    wrong = [(pixels != disc).sum() for pixels in (late, early)]
    yield "{} pixels come out wrong, and {} if you enlarge".format(*wrong)


@check("align-corners")
def _():
    index = torch.arange(66.0).double()[None, None]

    def last(align):
        """The pixel of unit 65, from two pixels that are far from the border."""
        found = F.interpolate(index, size=528, mode="linear", align_corners=align)
        one, other = found[0, 0, [100, 400]].tolist()
        return 100 + 300 * (65 - one) / (other - one)

    yield f"the last one at pixel {last(True):.0f} instead of {last(False):.1f}"
    units = size(RESNET[:3], 513)
    yield f"between its {units} units exactly {(513 - 1) // (units - 1)} pixels"
    assert (513 - 1) % (units - 1) == 0


def fcn(padding):
    """FCN-32s down to fc7; Caffe's pooling rounds up."""
    windows = []
    for layers in (2, 2, 3, 3, 3):
        windows += [Window(3, padding=1)] * layers
        windows.append(Window(2, 2, padding=(0, 1)))
    return [Window(3, padding=padding), *windows[1:], Window(7), Window(1)]


@check("crop-19")
def _():
    assert size(fcn(100), 1) == 1
    with pytest.raises(ValueError, match="larger than the padded input"):
        size(fcn(1), 100)
    field = dl.compose(fcn(100))
    yield f"sees {field.size} pixels from −{field.padding} on"
    yield f"its centre is at {float(field.centre(0))}"
    middle = (0 + 63) / 2
    yield f"${middle} - {float(field.centre(0))} = {middle - field.centre(0):.0f}$"
    up = Window(64, 32, transposed=True)
    assert all(size([*fcn(100), up], n) >= n + 19 for n in range(1, 600))


@check("tool")
def _():
    dilations = 1, 1, 2, 4, 8, 16, 1
    assert dl.compose(stack(*[1] * 7)).size == 1 + 7 * 2 == 15
    assert dl.compose(stack(*dilations)).size == 1 + 2 * sum(dilations) == 67
    yield "$1 + 7 \\cdot 2 = 15$"
    yield f"$1 + 2 \\cdot {sum(dilations)} = 67$"


@check("vgg")
def _():
    groups, doubled = [], 1
    for layers in (2, 2, 3, 3, 3):
        groups += [Window(3)] * layers + [Window(2, 2)]
        doubled = 2 * (doubled + 2 * layers)
    pool5, fc6 = dl.compose(groups).size, dl.compose([*groups, Window(7)]).size
    yield f"sees {pool5} pixels up to pool5, and {fc6} with fc6"
    yield f"you get {doubled} and {doubled + 7 - 1}."
    stem, blocks = [Window(7, 2), Window(3, 2)], (3, 4, 6, 3)
    first = [
        Window(3, 1 + (i == 0 < n)) for n, b in enumerate(blocks) for i in range(b)
    ]
    last = [
        Window(3, 1 + (i == 1 and n < 3))
        for n, b in enumerate(blocks)
        for i in range(b, 0, -1)
    ]
    torchvision, slim = (dl.compose(stem + layers).size for layers in (first, last))
    assert f"a field of {torchvision} pixels" in ANSWERS["larger"][1]
    yield f"sees {torchvision} in torchvision and {slim} where"


@check("patchgan")
def _():
    field = dl.compose([Window(4, 2, padding=1)] * 3 + [Window(4, padding=1)] * 2)
    yield f"(1 + 2 + 4 + 8 + 8) = {field.size}$"
    yield f"patches are {field.stride} pixels apart"


@check("residual")
def _():
    network = models.resnet18()
    block = dl.receptive_field(network.layer1[0], (64, 32, 32))[0]
    yield f"so it sees {block.size};"
    layer1 = dl.receptive_field(network, (3, 224, 224), to="layer1")[0]
    yield f"the field is {layer1.size} pixels"


class UNet(nn.Module):
    """A U-Net of one channel a map, with two 3 × 3 layers at each level."""

    def __init__(self, poolings):
        super().__init__()
        self.down = nn.ModuleList(self.pair(1) for _ in range(poolings + 1))
        self.widen = nn.ModuleList(
            nn.ConvTranspose2d(1, 1, 2, 2) for _ in range(poolings)
        )
        self.up = nn.ModuleList(self.pair(2) for _ in range(poolings))

    @staticmethod
    def pair(channels):
        return nn.Sequential(
            nn.Conv2d(channels, 1, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(1, 1, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x):
        kept = []
        for level, layers in enumerate(self.down):
            x = layers(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        kept.pop()
        for widen, layers in zip(self.widen, self.up, strict=True):
            x = layers(torch.cat((kept.pop(), widen(x)), 1))
        return x


@check("unet")
def _():
    assert dl.verify(UNet(2), (1, 32, 32), units=2) is None
    bottom = dl.receptive_field(UNet(4), (1, 256, 256), to="down.4")[0]
    yield f"a unit at the bottom sees {bottom.size} pixels"
    field = dl.receptive_field(UNet(4), (1, 256, 256))[0]
    assert field.stride == 1
    least, most = sorted({last - first + 1 for first, last in field.phases})
    yield f"units see {least} or {most} pixels"


@check("larger")
def _():
    network = models.resnet50()
    field = dl.receptive_field(network, (3, 224, 224), to="layer4")[0]
    yield f"has a field of {field.size} pixels"


@check("effective")
def _():
    dilations = 1, 1, 2, 4, 8, 16, 1
    paths = dl.coverage(stack(*dilations))
    yield f"spans {len(paths)} positions"
    share = [int(n) / int(paths.sum()) for n in paths]
    middle = (len(paths) - 1) / 2
    spread = math.sqrt(sum(p * (i - middle) ** 2 for i, p in enumerate(share)))
    yield f"standard deviation of {spread:.1f}"


@check("measure")
def _():
    x = torch.zeros(1, 1, 900, dtype=torch.float64, requires_grad=True)
    dilations = [2**i for i in range(7) for _ in range(2)]
    out = x
    for d in dilations:
        out = F.pad(out, (3 * d, 0))
        out = F.conv1d(out, torch.rand(1, 1, 4).double() + 0.5, dilation=d)
    (gradient,) = torch.autograd.grad(out[0, 0, -1], x)
    read = gradient.count_nonzero()
    assert read == dl.compose(stack(*dilations, kernel_size=4)).size
    yield f"has a gradient at {read} samples"
    norm = nn.BatchNorm1d(1).double()
    (gradient,) = torch.autograd.grad(norm(torch.rand_like(x) + x)[0, 0, -1], x)
    assert gradient.count_nonzero() == 900


@check("transformer")
def _():
    fields = {d: dl.compose(stack(*d, kernel_size=7)) for d in ((1, 1, 1), (1, 8, 1))}
    near, far = (field.size for field in fields.values())
    assert near == 1 + 3 * (7 - 1)
    yield f"see {near} positions, or {far} with the dilations 1, 8, 1"
    back = dl.compose([Window(4096, padding=(4095, 0))] * 32)
    assert back.end(0) == 0
    yield f"see {back.size:,}."


@check("tcn")
def _():
    fields = {
        m: dl.compose(stack(*(1, 2, 4, 8) * 3 * m, kernel_size=8)).size for m in (1, 2)
    }
    assert fields[2] == 1 + 2 * 3 * 7 * (1 + 2 + 4 + 8)
    yield f"it is {fields[2]} with two convolutions a block and {fields[1]} with one"
    seven, eight = (
        dl.compose(stack(*[2**i for i in range(n)] * 2)).size for n in (7, 8)
    )
    assert seven < 1000 <= eight
    yield f"1, 2, …, 128, which see {eight}."


@check("tcn-cnn")
def _():
    doubling = [2**i for i in range(8) for _ in range(2)]
    plain, dilated = (dl.compose(stack(*d)).size for d in ([1] * 16, doubling))
    assert len(doubling) == 16
    weights = nn.Sequential(*(nn.Conv1d(1, 1, 3, bias=False) for _ in doubling))
    yield f"with {sum(p.numel() for p in weights.parameters())} weights for one"
    yield f"see {plain} samples without it, and {dilated} as eight blocks"


@check("stacks")
def _():
    once = dl.coverage(stack(*(2**i for i in range(8)), kernel_size=2))
    twice = dl.coverage(stack(*[2**i for i in range(7)] * 2, kernel_size=2))
    assert set(once.tolist()) == {1}
    yield f"see {len(once)} samples, each by exactly one path"
    yield f"see {len(twice)}, some of them by {twice.max()} paths"
    block = [2**i for i in range(10)]
    one, three = (dl.compose(stack(*block * n, kernel_size=2)).size for n in (1, 3))
    yield f"sees {one} samples and three of them see {three}"
    front = dl.compose(stack(1, *block, kernel_size=2))
    yield f"in front, which makes it {front.size}."


@check("causal")
def _():
    layer = nn.Conv1d(1, 1, 3, dilation=4).double()
    x = torch.randn(1, 1, 20, dtype=torch.float64, requires_grad=True)
    front = layer(F.pad(x, (8, 0)))
    chomped = layer(F.pad(x, (8, 8)))[..., :-8]
    assert torch.equal(front, chomped)
    yield f"that is {4 * (3 - 1)}; on 20 samples"
    yield f"the same {front.shape[2]} outputs"
    (gradient,) = torch.autograd.grad(front[0, 0, 10], x)
    reads = gradient.flatten().nonzero().flatten().tolist()
    yield "output 10 reads the samples {}, {} and {}.".format(*reads)
    layers = [nn.Conv1d(1, 1, 3, dilation=d).double() for d in (1, 2, 4, 8)]
    behind = F.pad(x, (0, 40))
    for layer in layers:  # positive, so that no ReLU hides a change
        nn.init.uniform_(layer.weight, 0.5, 1)
        nn.init.uniform_(layer.bias, 0.5, 1)

    def outputs(x, ahead):
        for layer in layers:
            total = 2 * layer.dilation[0]
            pads = (total // 2, total // 2) if ahead else (total, 0)
            x = layer(F.pad(x, pads)).relu()
        return x[..., :20]

    assert torch.allclose(outputs(x.abs(), False), outputs(behind.abs(), False))
    pair = (outputs(signal.abs(), True) for signal in (x, behind))
    changed = ~torch.isclose(*pair).flatten()
    assert changed[-changed.sum() :].all()
    yield f"dilations 1, 2, 4, 8 the last {changed.sum()} do."


@check("rates")
def _():
    head = DeepLabHead(1, 2).modules()
    rates = {m.dilation[0] for m in head if isinstance(m, nn.Conv2d)} - {1}
    yield "has the rates {}, {}, {}.".format(*sorted(rates))
    assert 6 * 16 == 12 * 8 == 96
    last = []
    for removed in ([False, False, True], [False, True, True]):
        with torch.device("meta"):
            network = models.resnet50(replace_stride_with_dilation=removed)
        rate = network.layer4[-1].conv2.dilation[0]
        last.append(", ".join(str(rate * factor) for factor in (1, 2, 4)))
    yield "blocks: {} at output stride 16, and {} at 8.".format(*last)
    side = size(RESNET[:3], 224)
    yield f"has a map of {side} × {side}"
    x, w = torch.randn(1, 1, side, side).double(), torch.randn(1, 1, 3, 3).double()
    wide = F.conv2d(x, w, padding=36, dilation=36)
    assert torch.allclose(wide, w[..., 1:2, 1:2] * x)


@check("first-block")
def _():
    with torch.device("meta"):
        network = models.resnet50(replace_stride_with_dilation=[False, True, True])
    used = [[b.conv2.dilation[0] for b in s] for s in (network.layer3, network.layer4)]
    assert [set(rest) for _, *rest in used] == [{2}, {4}]
    yield f"dilation {used[0][0]} in the first 3 × 3 layer of `layer3` and 2 in"
    yield f"then {used[1][0]} in the first of `layer4` and 4 in the others"


@check("resnet18")
def _():
    with pytest.raises(NotImplementedError) as refused:
        models.resnet18(replace_stride_with_dilation=[False, True, True])
    yield f'refuses with "{refused.value}"'
    network = models.resnet18().eval()
    trunk = nn.Sequential(*list(network.children())[:-2])
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        before = trunk(x)
        dl.remove_stride_(trunk, 8)
        after = trunk(x)
    assert torch.allclose(after[..., ::4, ::4], before, atol=1e-4)
    yield "has a last map of {} × {} instead of {} × {}".format(
        *after.shape[2:], *before.shape[2:]
    )


@check("identity")
def _():
    layer = nn.Conv2d(21, 21, 3)
    dl.identity_(layer, 21, std=0)
    weights = layer.weight[0].flatten()
    assert (weights == 1).sum() == 1 and (weights != 0).sum() == 1
    yield f"3 × 3 layer has {weights.numel()} weights, of which one is 1"


@check("loss-climbs")
def _():
    yield f"{F.cross_entropy(torch.zeros(1, 21), torch.tensor([3])):.2f} for 21 classes"
    moved = []
    for momentum in (0.9, 0.99):
        weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=1e-3, momentum=momentum)
        for _ in range(4000):
            weight.grad = torch.ones_like(weight)
            before = weight.item()
            optimizer.step()
        moved.append(before - weight.item())
    yield f"that is {moved[0]:.2f} with momentum 0.9 and {moved[1]:.1f} with"


@check("loss-sum")
def _():
    yield f"a mean of {1100 / (512 * 384):.4f}"
    labels = torch.zeros(1, 384, 512, dtype=torch.long)
    logits = torch.zeros(1, 21, 384, 512)
    total = F.cross_entropy(logits.double(), labels, reduction="sum")
    yield f"a sum of {total:,.0f}."


@check("nan")
def _():
    void = torch.full((1, 2, 2), 255)
    loss = F.cross_entropy(torch.zeros(1, 21, 2, 2), void, ignore_index=255)
    assert loss.isnan()
    yield "with `ignore_index=255` returns NaN"


@check("one-class")
def _():
    labels = torch.arange(100).clamp(min=72) - 72  # 73 of class 0, then each once
    labels = torch.where(labels > 20, 20, labels)
    background = (labels == 0).float().mean().item()
    metric = MulticlassJaccardIndex(21)
    found = metric(torch.zeros_like(labels), labels).item()
    assert found == pytest.approx(background / 21) == pytest.approx(0.0348, abs=1e-4)
    yield f"$0.03469 \\cdot 21 = {0.03469 * 21:.2f}$"


@check("absent")
def _():
    labels, answers = torch.tensor([0, 1, 0, 0]), torch.tensor([0, 1, 0, 1])
    parts = MulticlassJaccardIndex(3, average="none")(answers, labels)[:2].double()
    assert torch.allclose(parts, torch.tensor([2 / 3, 1 / 2]).double())
    mean = MulticlassJaccardIndex(3)(answers, labels).item()
    assert mean == pytest.approx(parts.mean().item())
    yield f"so the mean is {mean:.3f}."
    yield f"it would be {parts.sum() / 3:.3f}, with a 1 it would be"
    yield f"with a 1 it would be {(parts.sum() + 1) / 3:.3f}."
    yield f"`MulticlassJaccardIndex` gives {mean:.3f}."


@check("dice")
def _():
    labels = torch.tensor([[0, 1, 1, 1, 1] * 2, [0] * 9 + [1]])
    answers = torch.stack([labels[0], torch.zeros(10, dtype=torch.long)])
    metric = MulticlassJaccardIndex(2)
    together = metric(answers, labels).item()
    each = [metric(*pair).item() for pair in zip(answers, labels, strict=True)]
    yield f"score {together:.1%} together and".replace("%", " %")
    yield f"and {sum(each) / 2:.1%} as a mean of two".replace("%", " %")
    both, only = 8, 2  # pixels in both sets, and in one of them
    iou, dice = both / (both + only), 2 * both / (2 * both + only)
    assert dice == pytest.approx(2 * iou / (1 + iou))
    yield f"An IoU of {iou} is a Dice of {dice:.3f},"


@check("labels")
def _():
    with pytest.raises(IndexError) as refused:
        F.cross_entropy(torch.zeros(1, 21, 1, 1), torch.full((1, 1, 1), 192))
    assert ANSWERS["labels"][0].startswith(f"*{str(refused.value).rstrip('.')}*")
    aeroplane = Image.new("P", (1, 1), 1)
    aeroplane.putpalette([0, 0, 0, 128, 0, 0])
    assert aeroplane.getpixel((0, 0)) == 1
    yield f"(128, 0, 0), becomes {aeroplane.convert('L').getpixel((0, 0))}."


@check("batch-norm")
def _():
    pooling = ASPPPooling(4, 256)
    with pytest.raises(ValueError, match="more than 1 value") as refused:
        pooling(torch.zeros(1, 4, 9, 9))
    message, _ = str(refused.value).split(", got")
    assert ANSWERS["batch-norm"][0].startswith(f"*{message}*")
    assert pooling(torch.zeros(2, 4, 9, 9)).shape == (2, 256, 9, 9)
    assert pooling.eval()(torch.zeros(1, 4, 9, 9)).shape == (1, 256, 9, 9)
    norm = nn.BatchNorm1d(1, affine=False)
    for pair in ([3.0, 3.1], [40.0, -7.0]):
        out = norm(torch.tensor(pair)[:, None]).flatten()
        assert out.sign().tolist() == [1, -1] or out.sign().tolist() == [-1, 1]
        assert torch.allclose(out.abs(), torch.ones(2), atol=0.01)
    norm = nn.BatchNorm1d(1)
    norm.running_mean.fill_(1)
    for _ in range(10):
        norm(torch.tensor([[-1.0], [1.0]]))
    yield f"they still hold {100 * norm.running_mean.item():.0f} % of"


@check("poly")
def _():
    def after(calls, total):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total, power=0.9)
        for _ in range(calls):
            optimizer.step()
            schedule.step()
        return schedule.get_last_lr()[0]

    assert after(50, 100) == pytest.approx((1 - 50 / 100) ** 0.9)
    yield f"Half way it is {after(50, 100):.3f} of the first rate"
    yield f"after nine tenths {after(90, 100):.3f}."
    yield f"40 epochs lower the rate only to {after(40, 20000):.3f} of it."


@check("class-weights")
def _():
    root = median_frequency_weights(torch.tensor([1600, 400, 100]))
    assert root.tolist() == [0.5, 1, 2] and (root**2).tolist() == [0.25, 1, 4]
    yield "For 1600, 400 and 100 pixels the weights are 1/4, 1 and 4, or 1/2, 1 and 2"
    loss = F.cross_entropy(torch.zeros(4, 3), torch.tensor([0, 1, 2, 2]), root.float())
    assert loss.item() == pytest.approx(math.log(3))
    yield f"still has the loss $\\ln 3 = {loss.item():.2f}$."


def front_end_numbers(side):
    """Numbers in the maps of the front end, and its cells along an axis."""
    total = 0
    for channels, layers, dilation in (
        *((64, 2, 1), (128, 2, 1), (256, 3, 1)),
        *((512, 3, 1), (512, 3, 2)),
    ):
        for _ in range(layers):
            side = Window(3, dilation=dilation).output_size(side)
            total += channels * side**2
        if channels < 512:  # Caffe's pooling rounds up
            side = Window(2, 2, padding=(0, 1)).output_size(side)
            total += channels * side**2
    side = Window(7, dilation=4).output_size(side)
    return total + 2 * 4096 * side**2, side


@check("memory")
def _():
    tile, _ = front_end_numbers(1396)
    yield f"are {tile / 1e6:.0f} million numbers, {4 * tile / 1e9:.1f} GB;"
    crop, cells = front_end_numbers(628)
    yield f"628 pixels has {cells} × {cells} cells"
    yield f"its maps take {4 * crop / 1e9:.1f} GB."
    spent = []
    for removed in ((False, False), (False, True), (True, True)):
        with torch.device("meta"):
            network = models.resnet50(replace_stride_with_dilation=[False, *removed])
            trunk = nn.Sequential(*list(network.children())[:-2]).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                trunk(torch.zeros(1, 3, 512, 512))
        spent.append(counter.get_total_flops() / 1e9)
    few, some, many = spent
    yield f"takes {few:.0f} GFLOP at output stride 32, {some:.0f} at 16"
    yield f"and {many:.0f} at 8."


@check("weights")
def _():
    with torch.device("meta"):
        network = dl.networks.dilation8_pascal_voc()
    count = sum(p.numel() for p in network.parameters())
    yield f"has {count:,} parameters, so the file has at least {4 * count / 1e6:.0f} MB"


@check("converted")
def _():
    records = json.loads((BOOK / "results" / "traps.json").read_text())
    val = {r["experiment"].split("/", 1)[1]: r["metrics"]["val"] for r in records}
    lost = [
        val["none"]["miou"] - val[name]["miou"]
        for name in ("RGB instead of BGR", "mean not subtracted")
    ]
    yield "cost {:.1f} points of mean IoU and a forgotten mean {:.1f}.".format(*lost)
    # TensorFlow's sum has the terms filters[h, w, in, out] · value[i + h, j + w, in]
    value, filters = torch.zeros(1, 5, 6, 2).double(), torch.rand(3, 3, 2, 4).double()
    value[0, 2, 1, 1] = 1
    moved = value.permute(0, 3, 1, 2)
    out = F.conv2d(moved, filters.permute(3, 2, 0, 1))
    assert torch.equal(out[0, :, 0, 1], filters[2, 0, 1])


@check("cudnn")
def _():
    counts = {
        cost(
            nn.Conv2d(21, 21, 3, padding=d, dilation=d, device="meta"), (64, 64)
        ).operations
        for d in (1, 2, 4, 8, 16)
    }
    (count,) = counts
    yield f"takes {count:,} operations at any dilation"
    columns = F.unfold(torch.zeros(1, 21, 64, 64), 3, dilation=2, padding=2)
    yield f"{columns.numel() // (21 * 64 * 64)} numbers for each one of the map"


@check("deterministic")
def _():
    large, one = torch.tensor(1e8), torch.tensor(1.0)
    yield f"$(10^8 + 1) - 10^8$ is {((large + one) - large).item():.0f}"
    yield f"$(10^8 - 10^8) + 1$ is {((large - large) + one).item():.0f}."


@check("depthwise")
def _():
    def layer(channels, groups):
        options = {"padding": 2, "dilation": 2, "groups": groups, "device": "meta"}
        return cost(nn.Conv2d(channels, channels, 3, **options), (2000, 2000))

    one, many = layer(64, 64), layer(512, 512)
    assert round(one.intensity, 2) == round(many.intensity, 2)
    yield f"which makes {one.intensity:.2f} operations a byte"
    full = layer(64, 1)
    assert full.intensity == pytest.approx(2.25 * 64, rel=1e-3)
    yield f"has {full.operations // one.operations} times fewer operations"


@check("onnx")
def _():
    extent = Window(3, dilation=2).extent
    yield f"takes {extent**2} products instead of 9, {extent**2 / 9:.1f} times as many"


@check("tflite")
def _():
    x, w = torch.randn(1, 1, 8, 8).double(), torch.randn(1, 1, 3, 3).double()
    parts = x.reshape(4, 2, 4, 2).permute(1, 3, 0, 2).reshape(4, 1, 4, 4)
    out = F.conv2d(parts, w).reshape(2, 2, 2, 2).permute(2, 0, 3, 1).reshape(4, 4)
    assert torch.allclose(out, F.conv2d(x, w, dilation=2)[0, 0])
    yield f"sorted into {len(parts)} sub-maps"
    yield f"with dilation 2 then makes {64 * 2**3} small volumes"


@check("tiles")
def _():
    with torch.device("meta"):
        sizes, _ = dl.input_sizes(dl.front_end(21))
    yield f"needs {sizes.margin} pixels on each side"
    yield f"a tile of 900 pixels answers for {900 - 2 * sizes.margin}"


@check("streaming")
@torch.no_grad()
def _():
    dilations = [2**i for i in range(10)]
    layers = [nn.Conv1d(1, 1, 2, dilation=d).double() for d in dilations]

    def maps(x):
        """The input and the output of each layer, over the whole sequence."""
        found = [x]
        for layer, d in zip(layers, dilations, strict=True):
            found.append(layer(F.pad(found[-1], (d, 0))).tanh())
        return found

    x = torch.randn(1, 1, 1120, dtype=torch.float64)
    *inputs, _ = maps(x[..., :1100])
    kept = [whole[..., -d:] for whole, d in zip(inputs, dilations, strict=True)]
    stored = sum(queue.numel() for queue in kept)
    streamed = []
    for sample in x[..., 1100:].split(1, 2):
        for number, layer in enumerate(layers):
            read = torch.cat([kept[number], sample], 2)
            kept[number] = read[..., 1:]
            sample = layer(read).tanh()
            assert sample.numel() == 1
        streamed.append(sample)
    assert torch.allclose(torch.cat(streamed, 2), maps(x)[-1][..., 1100:])
    yield f"means {stored} stored numbers a channel and {len(layers)} new units a"
    units, needed = {0}, 0
    for d in reversed(dilations):
        needed += len(units)
        units = {i for unit in units for i in Window(2, dilation=d).inputs(unit)}
    yield f"one output needs {needed} units."


@check("spots")
def _():
    changed = []
    for dilations in ((2, 2, 2), (1, 2, 5)):
        out = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
        out[..., 20, 20] = 1
        for d in dilations:
            ones = torch.ones(1, 1, 3, 3, dtype=torch.float64)
            out = F.conv2d(out, ones, padding=d, dilation=d)
        changed.append(out[0, 0] > 0)
    dots, square = changed
    around = F.conv2d(dots.double()[None, None], torch.ones(1, 1, 3, 3).double())
    assert (around[0, 0][dots[1:-1, 1:-1]] == 1).all()
    side = int(square.any(0).sum())
    assert square.sum() == side**2 == square.any(1).sum() ** 2
    yield f"changes {dots.sum()} outputs, no two of them neighbours"
    yield f"a solid square of {square.sum()}."
    cells = torch.full((1, 1, 9, 9), -1.0, dtype=torch.float64)
    cells[..., 4, 4] = 1
    late = F.interpolate(cells, scale_factor=8, mode="bilinear") > 0
    early = F.interpolate((cells > 0).double(), scale_factor=8) > 0
    yield f"leaves {late.sum()} wrong pixels if [logits"
    yield f"and {early.sum()} if labels are."
