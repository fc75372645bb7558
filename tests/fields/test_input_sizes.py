"""Whole input sizes, against every layer of random stacks, one by one."""

import copy
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchvision import models

import dilated_lib as dl
from dilated_lib.fields import trial
from dilated_lib.fields.input_sizes import InputSizes
from dilated_lib.fields.tracing.export import TracingError

LAYERS = st.lists(
    st.builds(
        dl.Window,
        st.integers(1, 4),
        st.integers(1, 3),
        dilation=st.integers(1, 3),
        padding=st.integers(0, 2),
    ),
    min_size=1,
    max_size=5,
)


def whole_cells(layers, size):
    """How many units come out, if no layer leaves an input over; otherwise None."""
    for layer in layers:
        over = size + sum(layer.pads) - layer.extent
        if over % layer.stride:
            return None
        size = over // layer.stride + 1
    return size


def fits(layers, size):
    """Has every layer an output? The formula knows only the whole stack."""
    for layer in layers:
        if layer.extent > size + sum(layer.pads):
            return False
        size = layer.output_size(size)
    return True


@given(layers=LAYERS)
def test_a_size_is_whole_where_every_layer_of_the_stack_divides_it(layers):
    sizes = InputSizes(dl.compose(layers))
    for size in range(1, 150):
        cells = whole_cells(layers, size)
        if cells is not None and not fits(layers, size):
            continue
        if cells is None:
            with pytest.raises(ValueError, match="do not give whole cells"):
                sizes.cells(size)
        else:
            assert sizes.cells(size) == cells
            assert sizes.size(cells) == size


@given(layers=LAYERS, cells=st.integers(1, 20))
def test_with_its_margin_a_cell_sees_its_own_pixels_in_the_middle(layers, cells):
    field = dl.compose(layers)
    sizes = InputSizes(field)
    assert sizes.size(cells) == cells * field.stride + 2 * sizes.margin
    middle = cells // 2 * field.stride + Fraction(field.stride - 1, 2)
    assert field.centre(cells // 2) - Fraction(sizes.margin) == middle


@given(layers=LAYERS, size=st.integers(1, 60))
def test_the_sizes_that_an_error_names_are_whole(layers, size):
    sizes = InputSizes(dl.compose(layers))
    assume(whole_cells(layers, size) is None)
    with pytest.raises(ValueError, match="such as") as caught:
        sizes.cells(size)
    near = str(caught.value).rsplit("such as ", 1)[1].split()
    for pixels, cells in ((near[0], near[1][1:]), (near[4], near[5][1:-1])):
        assert sizes.cells(int(pixels)) == int(cells)


@pytest.mark.parametrize(
    ("each", "more", "count"),
    [(1, 0, "n"), (1, 1, "n + 1"), (3, -2, "3n - 2"), (4, 2, "4n + 2")],
)
def test_cells_are_counted_by_a_line_in_the_n_of_the_sizes(each, more, count):
    sizes = InputSizes(dl.ReceptiveField(8, ((0, 9),)), 8, each=each, more=more)
    assert (str(sizes), sizes.count) == ("8n", count)
    assert sizes.cells(40) == 5 * each + more
    assert sizes.stride == Fraction(8, each)
    assert isinstance(sizes.stride, Fraction if each == 3 else int)


def test_the_first_size_has_at_least_a_pixel():
    field = dl.ReceptiveField(8, ((0, 9),))
    assert InputSizes(field, 8, fixed=-15).cells(1) == 2
    with pytest.raises(ValueError, match=r"such as 8 \(3 cells\) or 16 \(4\)$"):
        InputSizes(field, 8, fixed=-16).cells(1)


def test_an_input_without_pixels_has_no_cells():
    sizes = InputSizes(dl.ReceptiveField(8, ((0, 379),)))
    with pytest.raises(ValueError, match=r"^size must be at least 1, got 0$"):
        sizes.cells(0)


def test_the_papers_numbers_follow_from_the_network():
    with torch.device("meta"):
        network = dl.networks.dilation8_pascal_voc()
    for axis in network.sizes:
        assert (axis.margin, axis.stride, str(axis)) == (186, 8, "372 + 8n")
        assert axis.cells(900) == 66 and axis.cells(1396) == 128
        with pytest.raises(
            ValueError, match=r"1640 pixels.*1636 \(158 cells\) or 1644"
        ):
            axis.cells(1640)  # KITTI's: pooling rounds up


@pytest.mark.parametrize(
    ("name", "cells"),
    [("dilation8_pascal_voc", "context"), ("dilation10_cityscapes", "context")],
)
def test_a_padded_context_module_changes_nothing(name, cells):
    with torch.device("meta"):
        network = getattr(dl.networks, name)(fc_channels=8)
    alone = dl.input_sizes(network.front)
    for axis, front in zip(dl.input_sizes(network, to=cells), alone, strict=True):
        assert (axis.margin, str(axis)) == (186, str(front))
        assert axis.field.size > front.field.size


def test_a_resnet_wants_one_pixel_more_than_a_multiple():
    height, _ = dl.input_sizes(models.resnet18(), to="layer4")
    assert str(height) == "32n - 31" and height.margin == -15.5
    assert height.cells(225) == 8 and height.cells(513) == 17


def test_zeros_on_one_side_that_no_cell_reads_do_not_count():
    for sizes in dl.input_sizes(keras_same(), at=(33, 33)):
        assert (str(sizes), sizes.margin, sizes.cells(33)) == ("1 + 2n", 0.5, 16)
    assert keras_same()(torch.zeros(1, 3, 33, 33)).shape[2:] == (16, 16)


class Lopsided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)

    def forward(self, image):
        return self.conv(nn.functional.pad(image, (0, 2, 0, 2)))


def keras_same():
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2))


def padded_before():
    return nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(3, 4, 3, 2))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Lopsided(), "pads one side more than the other"),
        (keras_same(), "pads one side more than the other"),
        (padded_before(), "pads one side more than the other"),
        (nn.ConvTranspose2d(3, 3, 4, 2), "before the upsampling"),
        (nn.AdaptiveAvgPool2d(1), "sees the whole axis"),
    ],
)
def test_what_has_no_whole_sizes_says_why(network, message):
    with pytest.raises(ValueError, match=message):
        dl.input_sizes(network)


@pytest.mark.parametrize(
    "layers",
    [
        [
            nn.Conv2d(3, 2, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2, 2, 3, dilation=4),
        ],
        [nn.Conv2d(3, 2, (3, 5), (2, 1), dilation=(1, 3)), nn.MaxPool2d((2, 3), 2)],
        [nn.MaxPool2d(2, 2, ceil_mode=True), nn.Conv2d(3, 1, 2), nn.BatchNorm2d(1)],
        [
            nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(2, 2, (3, 7), padding=(4, 12), dilation=4),
        ],
    ],
)
def test_a_plain_chain_needs_no_tracing_and_has_the_traced_sizes(layers, monkeypatch):
    chain = nn.Sequential(*layers)
    traced = dl.input_sizes(nn.Sequential(chain, nn.Identity()))  # no flat chain
    monkeypatch.setattr("dilated_lib.fields.input_sizes.receptive_field", None)
    assert dl.input_sizes(chain) == traced


def test_a_chain_that_pads_to_other_sizes_is_traced():
    chain = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 2, 5, padding=1))
    height, _ = dl.input_sizes(chain)
    assert (str(height), height.margin) == ("2 + 1n", 1)


def test_a_chain_that_pads_late_takes_no_size_below_its_first_kernel():
    # by the arithmetic of the stack alone n pixels would give n cells for any n
    chain = nn.Sequential(nn.Conv2d(3, 2, 5), nn.Conv2d(2, 2, 1, padding=2))
    for sizes in dl.input_sizes(chain):
        assert (str(sizes), sizes.size(5)) == ("1n", 5)
        with pytest.raises(ValueError, match=r"4 cells.*such as 5 \(5 cells\)"):
            sizes.size(4)
    assert chain(torch.zeros(1, 3, 5, 5)).shape[2:] == (5, 5)


def test_layers_after_the_cells_may_leave_pixels_over():
    network = nn.Sequential(nn.Conv2d(3, 1, 3), nn.MaxPool2d(4))
    for sizes in dl.input_sizes(network, to="0", at=(9, 9)):
        assert (str(sizes), sizes.size(4)) == ("2 + 1n", 6)
        with pytest.raises(ValueError, match=r"3 cells.*such as 6 \(4 cells\)"):
            sizes.size(3)  # the pooling would have no output


@pytest.mark.parametrize("step", [(200, 1), (1, 200)])
def test_the_search_begins_at_512_pixels_and_does_not_go_far(step):
    network = nn.Sequential(nn.MaxPool2d(step))
    with pytest.raises(ValueError, match=r"^no size near 512 pixels is whole"):
        dl.input_sizes(network, to="0")
    height, width = dl.input_sizes(network, to="0", at=(400, 400))
    assert (height.step, width.step) == step


def test_a_chain_is_refused_what_a_traced_network_is():
    chain = nn.Sequential(nn.Conv2d(1, 1, 3))
    assert [one.size(1) for one in dl.input_sizes(chain, channels=1)] == [3, 3]
    for wrong, message in [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"at": (0, 8)}, r"at\[0\] must be at least 1, got 0"),
        ({"at": (8,)}, r"at must list a height and a width, got \(8,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            dl.input_sizes(chain, **wrong)


def twice(channels, out, padding):
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=padding),
        nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=padding),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Two or more levels of pooling, and as many of upsampling with skips.

    ``pad`` is that of its convolutions: with 0, skips are cropped. ``up`` tells how it
    upsamples: "transposed", or as torch's resizing.
    """

    def __init__(self, levels=2, pad=1, up="nearest", pool=None):
        super().__init__()
        self.pool = pool or nn.MaxPool2d(2)
        self.down = nn.ModuleList(twice(2 if n else 3, 2, pad) for n in range(levels))
        self.middle = twice(2, 2, pad)
        by = nn.ConvTranspose2d(2, 2, 2, 2)
        if up != "transposed":
            by = nn.Upsample(scale_factor=2, mode=up)
        self.ups = nn.ModuleList(copy.deepcopy(by) for _ in range(levels))
        self.up = nn.ModuleList(twice(4, 2, pad) for _ in range(levels))

    def forward(self, x):
        skips = []
        for down in self.down:
            skips.append(down(x))
            x = self.pool(skips[-1])
        x = self.middle(x)
        for by, up in zip(self.ups, self.up, strict=True):
            x, skip = by(x), skips.pop()
            crop = (x.shape[-1] - skip.shape[-1]) // 2
            x = up(torch.cat([F.pad(skip, [crop] * 4), x], 1))
        return x


def strided():
    """The pooling of a ResNet's stem, which leaves a row of padding at even sizes."""
    return nn.MaxPool2d(3, 2, padding=1)


def assert_runs(network, sizes, *, to=None):
    """The network itself gives the cells of three whole sizes, and fails below them."""
    cells = {}
    module = network.get_submodule(to) if to else network
    hook = module.register_forward_hook(lambda *one: cells.update(now=one[2].shape[2]))
    for n in (sizes.least, sizes.least + 1, sizes.least + 4):
        size = sizes.fixed + n * sizes.step
        network(torch.zeros(1, 3, size, size))
        assert cells["now"] == sizes.cells(size) and sizes.size(cells["now"]) == size
    below = sizes.fixed + (sizes.least - 1) * sizes.step
    if below > 0:
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 3, below, below))
    hook.remove()


@pytest.mark.parametrize(
    ("to", "cells", "stride"), [(None, 388, 1), ("middle", 28, 16), ("down.1", 280, 2)]
)
def test_the_first_unet_has_its_papers_sizes_wherever_it_is_asked(to, cells, stride):
    network = UNet(levels=4, pad=0, up="transposed")
    for sizes in dl.input_sizes(network, to=to):  # 512 pixels are none of them
        assert (sizes.size(cells), sizes.step, sizes.stride) == (572, 16, stride)
        assert sizes.least * 16 + sizes.fixed == 188
        assert_runs(network, sizes, to=to)
        with pytest.raises(ValueError, match=r"such as 252 \(.*\) or 268"):
            sizes.cells(256)
    if to != "down.1":
        assert str(sizes) == "124 + 16n"


@pytest.mark.parametrize(
    ("up", "pool"), [("nearest", None), ("bilinear", strided()), ("transposed", None)]
)
@pytest.mark.parametrize(("to", "stride"), [(None, 1), ("middle", 4), ("down.1", 2)])
def test_a_unet_that_pads_has_the_sizes_at_which_all_of_it_runs(up, pool, to, stride):
    network = UNet(up=up, pool=pool)
    for sizes in dl.input_sizes(network, to=to, at=(33, 47)):
        assert (str(sizes), sizes.stride, sizes.size(32)) == ("4n", stride, 32 * stride)
        assert_runs(network, sizes, to=to)


class Resized(nn.Module):
    """A network of stride 4 whose result is brought back to the input's size."""

    def __init__(self, corners, pool=True):
        super().__init__()
        self.corners = corners
        self.body = nn.Sequential(
            nn.Conv2d(3, 2, 3, 2, padding=1), nn.Conv2d(2, 2, 3, 2, padding=1)
        )
        self.pool = nn.AdaptiveAvgPool2d(1) if pool else None

    def forward(self, x):
        y = self.body(x)
        if self.pool:
            y = y + self.pool(y)
        return F.interpolate(
            y, x.shape[2:], mode="bilinear", align_corners=self.corners
        )


@pytest.mark.parametrize("to", [None, "body"])
@pytest.mark.parametrize("pool", [True, False])
def test_a_map_is_resized_by_whole_factors(pool, to):
    network = Resized(False, pool)
    for sizes in dl.input_sizes(network, to=to, at=(30, 45)):
        assert (str(sizes), sizes.stride) == ("4n", 4 if to else 1)
        assert_runs(network, sizes, to=to)


def test_corners_that_are_aligned_want_one_pixel_more_than_a_multiple():
    network = Resized(True)
    for sizes in dl.input_sizes(network, to="body", at=(32, 32)):
        assert str(sizes) == "4n - 3" and sizes.cells(33) == 9


class Explicit(nn.Module):
    """Padding before the strided layer, by a function of its own; one tall pooling."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 1, 3, 2), nn.MaxPool2d((2, 1))
        self.up = nn.Upsample(scale_factor=(4, 2))

    def forward(self, x):
        y = self.up(self.pool(self.conv(F.pad(x, (1, 1, 1, 1)))))
        return x + y


def test_padding_apart_from_its_layer_counts_as_padding_and_axes_may_differ():
    height, width = dl.input_sizes(Explicit(), at=(40, 50))
    assert (str(height), str(width)) == ("4n", "2n")
    Explicit()(torch.zeros(1, 3, height.size(24), width.size(26)))


def test_what_follows_may_need_values_but_not_what_comes_before():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 1, 3, 2)

        def forward(self, x):
            y = self.body(x)
            return y[y > 0] if y.sum() > 0 else y

    levels = trial.attempt(Decides(), (3, 31, 32), to="body")
    assert levels == (trial.WHOLE, trial.REMAINDER)
    with pytest.raises(TracingError, match="depends on the values"):
        dl.input_sizes(Decides(), at=(32, 32))


@pytest.mark.parametrize(
    ("size", "near"),
    [
        ((3, 256, 256), "3 x 252 x 252 and 3 x 268 x 268"),
        ((3, 257, 572), "3 x 252 x 572 and 3 x 268 x 572"),
        ((3, 150, 150), "3 x 188 x 188"),
    ],
)
def test_a_size_that_a_network_does_not_take_is_told_with_those_nearby(
    size, near, monkeypatch
):
    monkeypatch.setattr(trial, "PATIENCE", 60)  # on a machine with much else to do
    network = UNet(levels=4, pad=0, up="transposed")
    with pytest.raises(TracingError, match=f"sizes that fit are {near}$"):
        dl.receptive_field(network, size)


def test_no_size_is_named_where_the_size_is_not_what_is_wrong():
    with pytest.raises(TracingError) as caught:
        dl.receptive_field(UNet(), (4, 32, 32))
    assert "sizes" not in str(caught.value)


def test_a_size_that_no_network_gives_is_refused():
    height, _ = dl.input_sizes(UNet(), at=(32, 32))
    with pytest.raises(ValueError, match=r"30 cells.*28 \(28 cells\) or 32 \(32\)"):
        height.size(30)
    assert height.count == "4n"


class OnlyOne(nn.Module):
    """A network that, like a vision transformer, asserts the size of its input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 4, 4)

    def forward(self, x):
        assert x.shape[2:] == (32, 32), "expected 32 x 32"
        return self.conv(x)


def test_one_cell_is_the_least_and_one_pixel_the_smallest_start():
    sizes = InputSizes(dl.ReceptiveField(8, ((0, 379),)))
    assert (sizes.size(1), sizes.cells(380)) == (380, 1)
    with pytest.raises(ValueError, match=r"0 cells.*such as 380 \(1 cells\) or 388"):
        sizes.size(0)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return x + self.conv(x)

    assert [one.size(1) for one in dl.input_sizes(Residual(), at=(1, 1))] == [1, 1]
    for wrong in ({"at": (0, 1)}, {"at": (1,)}, {"channels": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            dl.input_sizes(Residual(), **wrong)


def test_a_network_of_one_size_has_no_others():
    with pytest.raises(ValueError, match="takes 32 pixels, and no larger size"):
        dl.input_sizes(OnlyOne(), at=(30, 40))
