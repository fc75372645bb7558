"""Scenes of shapes: outlines by their geometry, colours as they were published."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

import dilated_lib as dl
from dilated_lib.data.scenes import ShapeScenes, _inside
from dilated_lib.data.shapes import Shapes
from dilated_lib.data.transforms import augmentation

OKABE_ITO = {  # Color Universal Design, 2008
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "bluish green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "reddish purple": "#CC79A7",
}
ROWS, COLUMNS = np.indices((61, 61)) - 30


def as_hex(colour):
    return "#" + bytes(int(value) for value in colour).hex().upper()


def test_shapes_have_the_colours_of_okabe_and_ito():
    colours = (255 * Shapes.colours).round()
    found = dict(zip(Shapes.classes[1:], map(as_hex, colours), strict=True))
    assert [*found.items()] == [*OKABE_ITO.items()]


def test_scenes_have_three_of_them_on_a_light_ground():
    names = {"disc": "vermillion", "square": "blue", "triangle": "bluish green"}
    wanted = {shape: OKABE_ITO[name] for shape, name in names.items()}
    found = {shape: as_hex(colour) for shape, colour in ShapeScenes.palette.items()}
    assert [*found.items()] == [("ground", "#EEEEEE"), *wanted.items()]


@pytest.mark.parametrize("side", [8, 13, 19])
def test_outlines_are_a_disc_a_square_and_a_triangle(side):
    disc, square, triangle = (_inside(kind, ROWS, COLUMNS, side) for kind in (1, 2, 3))
    assert np.array_equal(disc, np.hypot(ROWS, COLUMNS) < side)
    middle = slice(30 - side + 1, 30 + side)
    assert square[middle, middle].all() and square.sum() == (2 * side - 1) ** 2
    # the triangle's tip is above, and each row below is wider by half a pixel a side
    widths = triangle.sum(1)
    assert widths[middle].tolist() == [n // 2 * 2 + 1 for n in range(2 * side - 1)]
    assert widths.sum() == widths[middle].sum()
    assert np.array_equal(triangle, triangle[:, ::-1])


def test_a_scene_stays_the_same_in_later_versions():
    """Since the scores in the book are those of these very pictures."""
    picture, labels = ShapeScenes(3)[2]
    assert labels.flatten().bincount().nonzero().flatten().tolist() == [0, 1, 2, 3, 255]
    counts = [int((labels == kind).sum()) for kind in range(4)]
    assert counts == [3872, 776, 875, 305]
    sums = picture.sum((1, 2), dtype=torch.int64)
    assert sums.tolist() == [1091988, 1166725, 1091078]
    assert picture[:, 0, 0].tolist() == [242, 255, 220]


def test_colours_vary_from_shape_to_shape_and_ground_to_ground():
    grounds, squares = [], []
    for picture, labels in ShapeScenes(150):
        grounds.append(picture[0][labels == 0].float().median())
        if (labels == 2).sum() > 300:
            squares.append(picture[1][labels == 2].float().median())
    assert np.quantile(grounds, 0.1) < 222 and np.quantile(grounds, 0.5) < 246
    assert abs(np.mean(squares) - 0x72) < 6  # blue's green, of about 80 shapes
    assert 14 < np.std(squares) < 24


def test_the_data_set_of_scenes_has_three_different_splits():
    data = dl.open_data("shapes")
    assert (data.name, data.mean) == ("shapes", (128, 128, 128))
    splits = [data.split(name) for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [400, 50, 50]
    firsts = [split[0][0] for split in splits]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not torch.equal(firsts[one], firsts[other])


def test_brightness_contrast_and_saturation_change_up_to_the_same_share():
    change = augmentation(cells=(1, 2), margin=0, colour=0.5)
    grey = torch.full((3, 8, 16), 100, dtype=torch.uint8)
    halves, coloured = grey.clone(), grey.clone()
    halves[..., 8:] = coloured[0] = 140

    def seen(picture):
        both = tv_tensors.Image(picture), tv_tensors.Mask(torch.zeros(8, 16))
        for seed in range(60):
            torch.manual_seed(seed)
            yield change(*both)[0].float()

    brightness = [one.mean() / 100 for one in seen(grey)]
    assert 0.49 < min(brightness) < 0.6 and 1.4 < max(brightness) < 1.51
    # brightness leaves the ratio of two halves as it is, which is 1.4
    ratios = [one.amax() / one.amin() for one in seen(halves)]
    assert min(ratios) < 1.25 and max(ratios) > 1.55
    # contrast alone would leave less than half of the mean between two channels
    spread = [(one.amax() - one.amin()) / one.mean() for one in seen(coloured)]
    assert max(spread) > 0.6
