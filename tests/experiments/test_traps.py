"""The mistakes of chapter 16: each is the one that it says, and the record is made."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_network import picture, tiny
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.data.labelled import DataSet, LabelledPictures
from dilated_lib.experiments.context_effect import without_context
from dilated_lib.experiments.traps import TRAPS, measure, probabilities
from dilated_lib.prediction.segmentation import upsampled

NETWORK = tiny(classes=11)
NETWORK.upsampling = "half_pixel"  # as the small network's
PHOTO = picture(192, 240)
RIGHT = probabilities(NETWORK, PHOTO)


def apart(one, other):
    return float((one - other).abs().max())


def logits():
    """What the front end says of the photograph's 24 x 30 cells."""
    bgr = torch.tensor(np.asarray(PHOTO)[..., ::-1].copy()).permute(2, 0, 1)[None]
    values = bgr - torch.tensor(NETWORK.mean)[:, None, None]
    with torch.no_grad():
        return NETWORK.front(F.pad(values, (186,) * 4, mode="reflect"))


def answer(cells):
    """The library's own way from a context module's logits to probabilities."""
    with torch.no_grad():
        return upsampled(cells, "half_pixel", 8)[0]


def test_the_correct_version_is_one_tile_of_the_picture():
    tile = (192 + 372, 240 + 372)
    one = dl.predict(PHOTO, NETWORK, tile=tile, context="tiles").probabilities
    assert apart(RIGHT, one) < 1e-6


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_changes_the_answer_and_not_the_network(trap):
    before = {name: one.clone() for name, one in NETWORK.state_dict().items()}
    pads = [getattr(layer, "padding", None) for layer in NETWORK.modules()]
    wrong = probabilities(NETWORK, PHOTO, trap)
    assert wrong.shape == RIGHT.shape == (11, 192, 240)
    torch.testing.assert_close(wrong.sum(0), torch.ones(192, 240))
    assert apart(wrong, RIGHT) > 1e-4
    assert pads == [getattr(layer, "padding", None) for layer in NETWORK.modules()]
    assert not wrong.requires_grad
    for name, one in NETWORK.state_dict().items():
        assert torch.equal(one, before[name])


@pytest.mark.parametrize("trap", [None, "zeros around every layer"])
def test_a_network_in_training_is_asked_in_evaluation_and_stays_in_training(trap):
    network = copy.deepcopy(NETWORK).train()  # with dropout behind fc6 and fc7
    wanted = probabilities(NETWORK, PHOTO, trap)
    assert torch.equal(probabilities(network, PHOTO, trap), wanted)
    assert network.training and network.front.training


def test_an_unknown_trap_is_refused():
    with pytest.raises(ValueError, match=r"one of RGB instead of BGR, .* got 'rgb'"):
        probabilities(NETWORK, PHOTO, "rgb")


def test_a_network_with_a_deconvolution_is_refused():
    with pytest.raises(ValueError, match="must be those of cells"):
        probabilities(tiny(upsample=True), PHOTO)


def test_swapped_channels_are_a_swapped_picture_with_the_mean_swapped_too():
    network = copy.deepcopy(NETWORK)
    network.mean = NETWORK.mean[::-1]
    swapped = Image.fromarray(np.asarray(PHOTO)[..., ::-1].copy())
    wrong = probabilities(NETWORK, PHOTO, "RGB instead of BGR")
    assert apart(wrong, probabilities(network, swapped)) < 1e-5


def test_without_its_mean_a_network_is_one_whose_mean_is_zero():
    network = copy.deepcopy(NETWORK)
    network.mean = (0.0, 0.0, 0.0)
    wrong = probabilities(NETWORK, PHOTO, "mean not subtracted")
    assert torch.equal(wrong, probabilities(network, PHOTO))


def test_zeros_reach_as_far_as_the_field_and_no_further():
    """A cell in the middle of a large picture sees no border: nothing changes there."""
    large, front = picture(448, 448), without_context(NETWORK)
    right, wrong = (
        probabilities(front, large, one) for one in (None, "zeros around every layer")
    )
    off = (right - wrong).abs().amax(0)
    assert off[8 * 26 : 8 * 29, 8 * 26 : 8 * 29].max() < 1e-6 < off[:100].max()


def test_every_layer_of_the_front_end_is_padded_so_that_sizes_stay():
    front = tiny(classes=11, front="zeros").front  # which draws the same weights
    bgr = torch.tensor(np.asarray(PHOTO)[..., ::-1].copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        cells = front(bgr - torch.tensor(NETWORK.mean)[:, None, None])
        wanted = answer(NETWORK.context(cells))
    assert cells.shape == (1, 11, 24, 30)
    wrong = probabilities(NETWORK, PHOTO, "zeros around every layer")
    assert apart(wrong, wanted) < 1e-6


def test_the_relu_stands_between_final_and_the_context_module():
    wrong = probabilities(NETWORK, PHOTO, "ReLU after final")
    assert apart(wrong, answer(NETWORK.context(logits().relu()))) < 1e-6


def test_zeros_put_in_front_once_differ_near_the_border_alone():
    """The tiny module sees 4 cells around: farther inside nothing changes."""
    wrong = probabilities(NETWORK, PHOTO, "context padded once")
    off = (wrong - RIGHT).abs().amax(0)
    inside = off[8 * 5 : -8 * 5, 8 * 5 : -8 * 5]
    assert inside.max() < 1e-6 < off.max()
    context = dl.ContextModule(11, dilations=(1, 2, 1), padding="once")
    for new, old in zip(
        context.layers,
        [layer for layer in NETWORK.context.layers if isinstance(layer, nn.Conv2d)],
        strict=True,
    ):
        new.load_state_dict(old.state_dict())
    assert apart(wrong, answer(context(logits()))) < 1e-6


@pytest.mark.parametrize(
    ("trap", "tile"),
    [("context in two tiles", (192, 120)), ("context in nine tiles", (64, 80))],
)
def test_tiles_are_those_of_the_released_procedure(trap, tile):
    tile = tuple(side + 372 for side in tile)
    tiles = dl.predict(PHOTO, NETWORK, tile=tile, context="tiles").probabilities
    assert apart(probabilities(NETWORK, PHOTO, trap), tiles) < 1e-6


@pytest.mark.parametrize("own", ["half_pixel", "released"])
def test_shifted_cells_are_those_of_the_other_convention(own):
    network = copy.deepcopy(NETWORK)
    network.upsampling = own
    other = {"half_pixel": "released", "released": "half_pixel"}[own]
    wrong = probabilities(network, PHOTO, "cells 3.5 pixels off")
    network.upsampling = other
    assert torch.equal(wrong, probabilities(network, PHOTO))


@pytest.mark.parametrize("own", ["half_pixel", "released"])
def test_aligned_corners_put_the_last_cell_at_the_last_pixel(own):
    network = copy.deepcopy(NETWORK)
    network.upsampling = own
    wrong = probabilities(network, PHOTO, "align_corners=True")
    with torch.no_grad():
        cells = NETWORK.context(logits()).softmax(1)[0]
    assert apart(wrong[:, -1, -1], cells[:, -1, -1]) < 1e-6
    assert apart(wrong[:, 0, 0], cells[:, 0, 0]) < 1e-6


def hat(cells, pixels):
    """Weights of cells for each pixel where the corners of both grids coincide."""
    at = torch.arange(pixels) * (cells - 1) / (pixels - 1)
    return (1 - (at[:, None] - torch.arange(cells)).abs()).clamp(min=0)


@pytest.mark.parametrize("own", ["half_pixel", "released"])
def test_aligned_corners_interpolate_what_the_network_does(own):
    """The small network interpolates logits, the released one probabilities."""
    network = copy.deepcopy(NETWORK)
    network.upsampling = own
    with torch.no_grad():
        cells = NETWORK.context(logits())
    if own == "released":
        cells = cells.softmax(1)
    grown = torch.einsum("yi,ncij,xj->ncyx", hat(24, 192), cells, hat(30, 240))
    wanted = grown.softmax(1) if own == "half_pixel" else grown
    wrong = probabilities(network, PHOTO, "align_corners=True")
    assert apart(wrong, wanted[0]) < 1e-5


@pytest.mark.parametrize("size", [(192, 203), (203, 192), (184, 200), (200, 184)])
def test_a_picture_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match=r"multiples of 8 above 186, got \d+ x \d+"):
        probabilities(NETWORK, Image.new("RGB", size))


@pytest.fixture
def streets(tmp_path, monkeypatch):
    """Three pictures in val and two in test, labelled by the network, a row of void."""
    files = {}
    for split, drives in (("val", "aaa"), ("test", "ab")):
        (tmp_path / split).mkdir()
        for number, drive in enumerate(drives):
            image = picture(192, 192)
            labels = probabilities(NETWORK, image).argmax(0).byte().numpy()
            labels[0] = 255
            labels[96:] = (labels[96:] + (split == "test")) % 11  # half of test wrong
            pair = [
                tmp_path / split / f"{drive}_{number}{end}.png" for end in ("", "l")
            ]
            image.save(pair[0])
            Image.fromarray(labels).save(pair[1])
            files.setdefault(split, []).append(tuple(pair))
    data = DataSet(
        "streets",
        NETWORK.palette,
        NETWORK.mean,
        {
            split: lambda pairs=pairs: LabelledPictures(pairs, [*NETWORK.palette])
            for split, pairs in files.items()
        },
    )
    monkeypatch.setattr("dilated_lib.experiments.traps.small_network", lambda: NETWORK)
    monkeypatch.setattr(
        "dilated_lib.experiments.traps.open_data", lambda name: {"camvid": data}[name]
    )
    return data


def test_every_version_is_measured_on_both_splits_and_each_drive(streets, tmp_path):
    out = tmp_path / "traps.json"
    measure(out)
    done = {one["experiment"]: one["metrics"] for one in json.loads(out.read_text())}
    assert [*done] == [f"traps/{name}" for name in ("none", *TRAPS)]
    right = done["traps/none"]
    assert right["val"]["accuracy"] == right["val"]["miou"] == 100
    assert right["val"]["changed"] == right["test"]["changed"] == 0
    assert 49 < right["test"]["accuracy"] < 51  # the row of void does not count
    assert {name: one["pictures"] for name, one in right["test"]["drives"].items()} == {
        "a": 1,
        "b": 1,
    }
    assert right["picture"] == "a_1"
    with Image.open(tmp_path / "val" / "a_1l.png") as labels:
        wanted = np.asarray(labels)[4::4, ::4].tolist()
    assert [[int(one, 16) for one in row] for row in right["labels"][1:]] == wanted
    wrong = done["traps/mean not subtracted"]["val"]  # the row of void changes, too
    assert wrong["accuracy"] < 99
    assert wrong["changed"] == pytest.approx(100 - wrong["accuracy"], abs=1)


def test_what_is_recorded_of_a_version_is_what_it_says_of_each_picture(
    streets, tmp_path, monkeypatch
):
    """And the front end computes equal cells once: four kinds, of five pictures."""
    calls, clock = [], iter([10.0, 13.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.chdir(tmp_path)
    counted = NETWORK.front.register_forward_hook(lambda *_: calls.append(1))
    measure()
    counted.remove()
    assert len(calls) == 5 * 4
    done = json.loads((tmp_path / "book" / "results" / "traps.json").read_text())
    assert len(done) == 10
    val = streets.split("val")
    photos = [Image.fromarray(val[n][0].permute(1, 2, 0).numpy()) for n in range(3)]
    known = [val[n][1] != 255 for n in range(3)]
    own = [probabilities(NETWORK, photo).argmax(0) for photo in photos]
    for record in done:
        assert record["config"] == {"data": "camvid", "network": "small"}
        assert record["seconds"] == 3.5
        name = record["experiment"].removeprefix("traps/")
        found = own
        if name != "none":
            found = [probabilities(NETWORK, photo, name).argmax(0) for photo in photos]
        metrics = record["metrics"]
        off = [
            100 * float((one != other).float().mean())
            for one, other in zip(found, own, strict=True)
        ]
        assert metrics["val"]["changed"] == round(np.mean(off), 2)
        right = [
            (one == val[n][1])[known[n]].float().mean() for n, one in enumerate(found)
        ]
        assert metrics["val"]["accuracy"] == pytest.approx(
            100 * np.mean(right), abs=0.006
        )
        assert metrics["picture"] == "a_1"
        text = [[int(one, 16) for one in row] for row in metrics["labels"]]
        assert text == found[1][::4, ::4].tolist()


def test_a_data_set_of_other_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the network's classes are building"):
        measure(tmp_path / "traps.json", data="shapes")
    assert not [*tmp_path.iterdir()]
