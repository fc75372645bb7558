"""Crops and batches: what is drawn, and that picture and labels stay together."""

from colorsys import rgb_to_hsv
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision import tv_tensors

from dilated_lib.data.batches import batches
from dilated_lib.data.scenes import ShapeScenes
from dilated_lib.data.transforms import CropWithMargin, RandomScale, augmentation


def sample(height, width, seed=0):
    """A picture and labels that say the same: its red, halved."""
    draw = np.random.default_rng(seed)
    pixels = torch.from_numpy(draw.integers(0, 256, (3, height, width), "u1"))
    return tv_tensors.Image(pixels), tv_tensors.Mask(pixels[0] // 2)


def drawn(transform, pair, seed):
    torch.manual_seed(seed)
    return transform(*pair)


# the crop


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    cells=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    margin=st.integers(0, 50),
    stride=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_a_crop_is_a_slice_of_the_picture_reflected_by_numpy(
    height, width, cells, margin, stride, seed
):
    pair = sample(height, width, seed)
    crop = CropWithMargin(cells, margin, stride)
    torch.manual_seed(seed)
    top, left = crop.make_params([*pair])["first"]
    rows, columns = (stride * count for count in cells)
    picture, labels = drawn(crop, pair, seed)
    assert (type(picture), type(labels)) == (tv_tensors.Image, tv_tensors.Mask)
    around = margin + max(rows, columns)
    inside = slice(around + top, around + top + rows)
    across = slice(around + left, around + left + columns)
    # the labels: void outside
    padded = np.pad(np.asarray(pair[1]), around, constant_values=255)
    assert np.array_equal(labels, padded[inside, across])
    # the picture: a margin more on each side
    sides = ((0, 0), (around, around), (around, around))
    padded = np.pad(np.asarray(pair[0]), sides, mode="reflect")
    inside = slice(inside.start - margin, inside.stop + margin)
    across = slice(across.start - margin, across.stop + margin)
    assert np.array_equal(picture, padded[:, inside, across])
    # and without it, the pixels under the labels
    centre = picture[:, margin:, margin:][:, :rows, :columns]
    assert centre.shape[1:] == labels.shape
    there = labels != 255
    assert torch.equal(centre[0][there] // 2, labels[there])
    # a crop has as much of the picture as it can
    assert there.sum() == min(rows, height) * min(columns, width)


def test_a_crop_may_lie_anywhere_and_no_place_is_left_out():
    places = {
        (length, tuple(CropWithMargin((1, 1), 7, 4).make_params([pair])["first"]))
        for length in (4, 6, 2)
        for pair in [sample(length, 5)[0]]
        for _ in range(200)
    }
    assert places == {
        *((4, (0, left)) for left in (0, 1)),
        *((6, (top, left)) for top in (0, 1, 2) for left in (0, 1)),
        *((2, (top, left)) for top in (-2, -1, 0) for left in (0, 1)),
    }


def test_a_crop_is_made_where_the_sample_lies():
    pair = [one.to("meta") for one in sample(9, 9)]
    picture, labels = CropWithMargin((1, 1), 2, 4)(*pair)
    assert picture.device.type == labels.device.type == "meta"


# the scale


@given(
    width=st.integers(20, 200),
    factor=st.floats(0.3, 2.5),
)
def test_a_scaled_label_is_that_of_the_pixel_under_its_centre(width, factor):
    labels = torch.arange(width, dtype=torch.uint8).expand(3, width)
    picture = tv_tensors.Image(labels.expand(3, -1, -1).clone())
    _, found = RandomScale(factor, factor)(picture, tv_tensors.Mask(labels.clone()))
    assert type(found) is tv_tensors.Mask and found.dtype == torch.uint8
    size = round(width * factor)
    assert found.shape == (max(1, round(3 * factor)), size)
    centres = (np.arange(size) + 0.5) * width / size
    # where a centre lies between two pixels it may be either's
    low, high = np.floor(centres - 1e-3), np.floor(centres + 1e-3)
    assert ((found[0].numpy() == low) | (found[0].numpy() == high)).all()


@pytest.mark.parametrize("factor", [0.37, 0.7, 0.9, 1.1, 1.3, 1.7, 2.0])
def test_scaled_labels_lie_where_the_scaled_picture_does(factor):
    ramp = torch.arange(200, dtype=torch.uint8).expand(40, 200)
    for turn in (False, True):
        values = ramp.T if turn else ramp
        picture = tv_tensors.Image(values.expand(3, -1, -1).float())
        picture, labels = RandomScale(factor, factor)(picture, tv_tensors.Mask(values))
        assert picture.shape[1:] == labels.shape
        ahead = (labels - picture[0]).as_subclass(torch.Tensor)
        ahead = ahead.T if turn else ahead
        # in pixels of the result; what torch calls nearest is 0.45 behind
        assert abs(ahead[:, 9:-9].mean() * factor) < 0.1


def test_a_scaled_picture_is_the_one_that_prediction_sees():
    pair = sample(30, 45)
    for factor in (0.6, 1.5):
        size = [round(30 * factor), round(45 * factor)]
        wanted = F.interpolate(
            pair[0][None].float(), size, mode="bilinear", antialias=True
        )[0]
        found = RandomScale(factor, factor)(*pair)[0]
        assert found.dtype == torch.uint8
        assert (found.float() - wanted).abs().max() <= 1
    picture, labels = RandomScale(1.0, 1.0)(*pair)
    assert torch.equal(picture, pair[0]) and torch.equal(labels, pair[1])


def test_scales_are_spread_evenly_over_their_logarithms():
    torch.manual_seed(0)
    scale = RandomScale(0.5, 4.0)
    picture = [torch.zeros(1, 2000, 1000)]
    sizes = [scale.make_params(picture)["size"] for _ in range(3000)]
    for high, wide in sizes:
        assert abs(high - 2 * wide) <= 1
    logs = np.log2(np.array(sizes)[:, 0] / 2000)
    assert -1 <= logs.min() < -0.99 and 1.99 < logs.max() <= 2
    counts, _ = np.histogram(logs, 6)
    assert (abs(counts - 500) < 75).all()  # 3.7 deviations
    assert RandomScale(0.001, 0.001).make_params([torch.zeros(9, 9)])["size"] == [1, 1]


# all of it


def test_without_options_a_sample_is_mirrored_or_not_and_cut():
    pair = sample(24, 32)
    change = augmentation(cells=(3, 4), margin=5)
    mirrored = 0
    for seed in range(60):
        picture, labels = drawn(change, pair, seed)
        assert picture.shape == (3, 34, 42) and labels.shape == (24, 32)
        assert picture.dtype == labels.dtype == torch.uint8
        assert torch.equal(picture[0, 5:-5, 5:-5] // 2, labels)
        flipped = torch.equal(labels, pair[1].flip(1))
        assert flipped or torch.equal(labels, pair[1])
        mirrored += flipped
    assert 15 < mirrored < 45


EVERYTHING = {
    "cells": (3, 4),
    "margin": 9,
    "scale": (0.5, 2.0),
    "rotation": 10.0,
    "colour": 0.3,
}


def test_a_seed_gives_the_same_crop_and_another_seed_another():
    pair = sample(40, 50)
    change = augmentation(**EVERYTHING)
    every = []
    for seed in range(20):
        picture, labels = drawn(change, pair, seed)
        assert picture.shape == (3, 42, 50) and labels.shape == (24, 32)
        for one, two in zip(drawn(change, pair, seed), (picture, labels), strict=True):
            assert torch.equal(one, two)
        every.append(picture.numpy().tobytes())
    assert len({*every}) == 20


def test_nothing_else_than_torchs_generator_is_drawn_from():
    pair = sample(40, 50)
    change = augmentation(**EVERYTHING)
    np.random.seed(0)
    one = drawn(change, pair, 3)[0]
    np.random.seed(1)
    assert torch.equal(drawn(change, pair, 3)[0], one)


def test_colour_changes_the_picture_and_not_the_labels():
    pair = sample(40, 50)
    plain = augmentation(**EVERYTHING | {"colour": 0.0})
    coloured = augmentation(**EVERYTHING)
    for seed in range(5):
        before, labels = drawn(plain, pair, seed)
        after, found = drawn(coloured, pair, seed)
        assert torch.equal(found, labels)
        assert not torch.equal(after, before) and after.shape == before.shape


def test_a_margin_changes_nothing_inside_it_and_no_draw():
    """So front ends with and without it learn from the same window, colours drawn."""
    pair = sample(40, 50)
    for seed in range(9):
        for change, colour in ((EVERYTHING | {"colour": 0.0}, 0.0), (EVERYTHING, 0.3)):
            wide, labels = drawn(augmentation(**change), pair, seed)
            state = torch.get_rng_state()
            none, same = drawn(augmentation(**change | {"margin": 0}), pair, seed)
            assert torch.equal(labels, same)
            assert torch.equal(state, torch.get_rng_state())
            assert colour or torch.equal(wide[:, 9:-9, 9:-9], none)


def test_hue_turns_by_a_fifth_of_the_other_changes():
    red = torch.tensor([0.4, 0.24, 0.24]).view(3, 1, 1)  # no change makes it 1
    pair = tv_tensors.Image(red.expand(3, 8, 8)), tv_tensors.Mask(torch.zeros(8, 8))
    change = augmentation(cells=(1, 1), margin=0, colour=0.5)
    pixels = [drawn(change, pair, seed)[0][:, 0, 0].tolist() for seed in range(40)]
    hues = [rgb_to_hsv(*pixel)[0] for pixel in pixels]  # of a circle, and red's is 0
    turned = [min(hue, 1 - hue) for hue in hues]
    assert 0.095 < max(turned) < 0.1001


@pytest.mark.parametrize(
    ("options", "fill"),
    [({"fill": (10.0, 120.0, 230.0)}, [10, 120, 230]), ({}, [0, 0, 0])],
)
def test_what_a_rotation_leaves_empty_is_void_and_filled(options, fill):
    white = tv_tensors.Image(torch.full((3, 64, 64), 255, dtype=torch.uint8))
    labels = tv_tensors.Mask(torch.full((64, 64), 7, dtype=torch.uint8))
    change = augmentation(cells=(8, 8), margin=0, rotation=20.0, **options)
    voids = []
    for seed in range(10):
        picture, found = drawn(change, (white, labels), seed)
        assert {*found.unique().tolist()} <= {7, 255}
        void = (found == 255).as_subclass(torch.Tensor)
        # off the edge between the two, whose colours mix
        around = F.pad(torch.stack([void, ~void]).float(), (2, 2, 2, 2), value=1)
        near = F.max_pool2d(around, 5, 1) > 0
        inside, outside = ~near[0], ~near[1]
        assert (picture[:, inside] == 255).all()
        assert (picture[:, outside] == torch.tensor(fill)[:, None]).all()
        voids.append(int(void.sum()))
    assert max(voids) > 300 and len({*voids}) > 5
    assert 2 <= voids.count(0) <= 8  # half of them are not turned
    still = augmentation(cells=(8, 8), margin=0, **options)
    assert (drawn(still, (white, labels), 0)[1] == 7).all()


def test_turned_and_scaled_labels_still_lie_on_their_picture():
    rows, columns = torch.meshgrid(*2 * [torch.arange(160)], indexing="ij")
    discs = ((rows % 40 - 20) ** 2 + (columns % 40 - 18) ** 2 < 150).to(torch.uint8)
    pair = tv_tensors.Image(255 * discs.expand(3, -1, -1)), tv_tensors.Mask(discs)
    change = augmentation(cells=(16, 16), margin=11, scale=(0.6, 1.9), rotation=15.0)
    wrong = pixels = 0
    for seed in range(20):
        picture, labels = drawn(change, pair, seed)
        seen = picture[0, 11:-11, 11:-11] > 127
        there = labels != 255
        wrong += ((seen != (labels == 1)) & there).sum()
        pixels += there.sum()
    # the discs' edges; half a pixel aside it were 2.3 %
    assert pixels > 200_000 and wrong < 0.016 * pixels


# batches


class Numbers(Dataset):
    """Whose sample is its index."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return index


def indices(count, size, **options):
    options = {"seed": 0, "steps": range(7)} | options
    loader = batches(Numbers(count), size, **options)
    assert loader.num_workers == 0
    found = [*loader]
    assert len(found) == len(loader) == len(options["steps"])
    assert all(number == samples for number, samples in found)
    return [number for number, _ in found]


ORDER = {
    "count": st.integers(1, 30),
    "size": st.integers(1, 12),
    "seed": st.integers(0, 2**31),
}


@settings(max_examples=60)
@given(**ORDER)
def test_every_index_comes_once_before_any_comes_twice(count, size, seed):
    found = indices(count, size, seed=seed, steps=range(-(-4 * count // size)))
    assert {len(batch) for batch in found} == {size}
    order = [*chain(*found)]
    for begin in range(0, 4 * count, count):
        assert sorted(order[begin : begin + count]) == [*range(count)]


@settings(max_examples=60)
@given(first=st.integers(0, 20), **ORDER)
def test_a_run_that_begins_later_gets_the_same_batches(count, size, seed, first):
    whole = indices(count, size, seed=seed, steps=range(22))
    torch.manual_seed(first)
    assert indices(count, size, seed=seed, steps=range(first, 22)) == whole[first:]


@settings(max_examples=60)
@given(parts=st.integers(1, 5), **ORDER)
def test_the_parts_of_all_processes_are_the_whole_batch(count, size, seed, parts):
    whole = indices(count, size, seed=seed)
    each = [
        indices(count, size, seed=seed, part=part, parts=parts) for part in range(parts)
    ]
    assert [[*chain(*step)] for step in zip(*each, strict=True)] == whole
    lengths = {len(part) for step in each for part in step}
    assert max(lengths) - min(lengths) <= 1


def test_the_order_is_another_in_every_epoch_and_for_every_seed():
    orders = [
        tuple(batch) for seed in range(10) for batch in indices(12, 12, seed=seed)
    ]
    assert len({*orders}) == 70
    # which it stays in later versions, so that a run can be repeated
    draw = torch.Generator().manual_seed(1_000_003 * 9 + 6)
    assert orders[-1] == tuple(torch.randperm(12, generator=draw).tolist())
    first = [order[0] for order in orders]
    assert {*first} == {*range(12)}


# newer versions of Python warn of forking where torch has threads
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_give_the_same_samples():
    scenes = ShapeScenes(5)
    alone, together = (
        [*batches(scenes, 3, seed=1, steps=range(2, 6), workers=workers)]
        for workers in (0, 2)
    )
    for (numbers, samples), (others, same) in zip(alone, together, strict=True):
        assert numbers == others and len(samples) == 3
        for number, one, two in zip(numbers, samples, same, strict=True):
            picture, labels = one
            assert torch.equal(picture, scenes[number][0])
            assert torch.equal(picture, two[0]) and torch.equal(labels, two[1])
            kinds = (tv_tensors.Image, tv_tensors.Mask)
            assert (type(picture), type(labels)) == kinds
            assert (type(two[0]), type(two[1])) == kinds


def test_samples_of_a_batch_may_differ_in_size():
    class Growing(Numbers):
        def __getitem__(self, index):
            return sample(index + 1, 2 * index + 1)

    (found,) = batches(Growing(4), 4, seed=0, steps=range(1))
    for number, (picture, labels) in zip(*found, strict=True):
        assert picture.shape[1:] == labels.shape == (number + 1, 2 * number + 1)
