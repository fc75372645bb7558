"""The embedded data set: labels that only the outline tells."""

import pytest
import torch

from dilated_lib.data.shapes import Shapes

SHAPES = Shapes(40, seed=3)


def test_a_picture_and_its_label():
    for index in range(0, len(SHAPES), 23):
        picture, label = SHAPES[index]
        assert (picture.shape, picture.dtype) == ((3, 36, 36), torch.float32)
        assert (label.shape, label.dtype) == ((36, 36), torch.int64)
        assert 0 <= picture.min() <= picture.max() <= 1
        assert set(label.unique().tolist()) == {0, index % 7 + 1}


def test_the_outline_alone_has_the_colour_of_the_class():
    for index in range(len(SHAPES)):
        picture, label = SHAPES[index]
        distances = SHAPES.distances(index // 7)
        outline = picture[:, distances == 0].T
        assert (outline == SHAPES.colours[index % 7]).all()
        assert (picture[:, distances > 0] == 0.5).all()
        assert (picture[:, distances < 0] == 0).all()
        assert torch.equal(label > 0, distances >= 0) and distances.min() == -1


def test_twins_differ_in_the_outline_and_nowhere_else():
    for scene in range(SHAPES.scenes):
        pictures = torch.stack([SHAPES[7 * scene + colour][0] for colour in range(7)])
        differ = (pictures != pictures[:1]).any(1).any(0)
        assert torch.equal(differ, SHAPES.distances(scene) == 0)


def test_distances_are_chebyshevs_to_the_nearest_pixel_of_the_outline():
    places = torch.cartesian_prod(torch.arange(36), torch.arange(36))
    for scene in range(0, SHAPES.scenes, 3):
        distances = SHAPES.distances(scene)
        outline = (distances == 0).nonzero()
        nearest = torch.cdist(places.double(), outline.double(), p=torch.inf).amin(1)
        inside = distances >= 0
        assert torch.equal(nearest.reshape(36, 36)[inside].long(), distances[inside])
        rows, columns = inside.any(1).sum(), inside.any(0).sum()
        assert inside.sum() == rows * columns  # a rectangle, and all of it
        assert min(rows, columns) >= 19


def test_a_scene_depends_on_its_seed_and_number_only():
    other = Shapes(10, seed=3)
    for index in (69, 0, 35):
        assert torch.equal(other[index][0], SHAPES[index][0])
    assert not torch.equal(Shapes(1, seed=4).distances(0), SHAPES.distances(0))
    assert torch.equal(Shapes(1).distances(0), Shapes(1, seed=0).distances(0))
    assert len({tuple(SHAPES.distances(n).flatten().tolist()) for n in range(40)}) > 35


@pytest.mark.parametrize("size", [8, 36, 52])
def test_no_scene_of_the_test_split_is_one_of_the_training_split(size):
    """All rectangles of many seeds, drawn as they are; both splits get their share."""
    seen = {
        split: {
            tuple(shapes.distances(n).flatten().tolist())
            for shapes in (
                Shapes(200, size=size, seed=seed, split=split) for seed in range(3)
            )
            for n in range(200)
        }
        for split in ("train", "test")
    }
    assert not seen["train"] & seen["test"]
    assert min(map(len, seen.values())) > (3 if size == 8 else 300)


@pytest.mark.parametrize(
    ("split", "corners"),
    [
        ("train", [[1, 0, 23, 18], [9, 1, 35, 35], [0, 7, 34, 25]]),
        ("test", [[2, 2, 34, 30], [3, 3, 25, 35], [6, 2, 24, 28]]),
    ],
)
def test_rectangles_stay_in_their_split_in_later_versions(split, corners):
    """Those whose last row and last column add up to a multiple of 4 are for tests."""
    shapes, found = Shapes(40, split=split), []
    for scene in range(40):
        inside = (shapes.distances(scene) >= 0).nonzero()
        first, last = inside.amin(0).tolist(), inside.amax(0).tolist()
        assert (sum(last) % 4 == 0) == (split == "test")
        found.append([*first, *last])
    assert found[:3] == corners


def test_nearer_pixels_can_be_made_void():
    near, all_ = Shapes(5, nearest=4), Shapes(5)
    for index in range(35):
        distances = near.distances(index // 7)
        void = (distances >= 0) & (distances < 4)
        label = near[index][1]
        assert Shapes.void == 255 and torch.equal(label == 255, void)
        assert torch.equal(label[~void], all_[index][1][~void])
        assert torch.equal(near[index][0], all_[index][0])


def test_it_is_a_sequence_with_an_end():
    assert len(SHAPES) == 280
    assert len(list(Shapes(2))) == 14
    for index in (280, 300, -1):
        with pytest.raises(IndexError, match=f"scene {index // 7} of 40"):
            SHAPES[index]
    assert Shapes.classes[0] == "background"
    assert len(Shapes.classes) == 8


def test_every_size_from_the_smallest_fits_its_picture():
    for size in (8, 9, 64):
        shapes = Shapes(30, size=size)
        assert all((shapes.distances(n) == 0).any() for n in range(30))
        assert shapes[0][0].shape == (3, size, size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenes": 0}, "^scenes must be a whole number, at least 1; got 0$"),
        ({"scenes": 1.5}, r"^scenes must be a whole number, at least 1; got 1\.5$"),
        ({"size": 7}, "^size must be a whole number, at least 8; got 7$"),
        ({"nearest": -1}, "^nearest must be a whole number, at least 0; got -1$"),
        ({"split": "val"}, "^split must be train or test, got 'val'$"),
        ({"seed": True}, "^seed must be a whole number, at least 0; got True$"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Shapes(**{"scenes": 1} | arguments)
