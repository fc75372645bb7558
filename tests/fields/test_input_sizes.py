"""Whole input sizes, against every layer of random stacks, one by one."""

from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torchvision import models

import dilated_lib as dl
from dilated_lib.fields.input_sizes import InputSizes

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
    [("dilation8_pascal_voc", "ct_final"), ("dilation10_cityscapes", "ctx_final")],
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


class Lopsided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)

    def forward(self, image):
        return self.conv(nn.functional.pad(image, (0, 2, 0, 2)))


def keras_same():
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Lopsided(), "pads one side more than the other"),
        (keras_same(), "pads one side more than the other"),
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
