"""What a model card tells of a network: its classes, its bytes, and ten pictures."""

import json
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

import dilated_lib as dl
from dilated_lib.data.labelled import VOID
from dilated_lib.data.palettes import CAMVID
from dilated_lib.experiments.model_card import card
from dilated_lib.networks.architecture import Architecture
from dilated_lib.prediction.segmentation import probabilities

CLASSES = ("background", "cat", "dog", "horse")
# what each picture shows: nothing but background and void, or more of one animal
SHOWS = [None, "cat", "dog", "dog", None, "horse", *["cat"] * 9]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("animals")
    for kind in ("pictures", "labels"):
        (folder / kind).mkdir()
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    (folder / "train.txt").write_text("")
    (folder / "val.txt").write_text("\n".join(map(str, range(len(SHOWS)))))
    draw = np.random.default_rng(2)
    for name, shows in enumerate(SHOWS):
        pixels = draw.integers(0, 255, (16, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{name}.png")
        ids = np.zeros((16, 24), np.uint8)
        ids[:2] = VOID
        if shows:  # and a little of another
            ids[8:, :12], ids[15:, 20:] = CLASSES.index(shows), 3 - (shows == "horse")
        Image.fromarray(ids).save(folder / "labels" / f"{name}.png")
    return str(folder)


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """A network whose labels vary, in float32 and in bytes."""
    kind = Architecture(width=4, fc_channels=8, padding="zeros")
    network = kind.build(dl.open_data(data).palette, (100.0, 100.0, 100.0))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in network.parameters():
            one.normal_(0, 0.2, generator=draw)
        network.front.final.bias.zero_()
    folder = tmp_path_factory.mktemp("networks")
    stored, original = folder / "bytes.safetensors", folder / "original.safetensors"
    dl.save_network(network, kind, original)
    with patch("dilated_lib.networks.weights._FEW", 0):  # these are narrow layers
        dl.save_network(network, kind, stored, int8=True)
    return stored, original


@pytest.fixture(scope="module")
def record(data, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "cards.json"
    for seed in (3, 0):  # the second run replaces the first
        card(*files, data=data, split="val", out=out, seed=seed)
    (record,) = json.loads(out.read_text())
    return record


@pytest.fixture(scope="module")
def maps(data, files):
    """Each picture's labels, and those that both networks give."""
    networks = [dl.open_network(one)[0] for one in files]
    return [
        (
            truth.numpy(),
            *(probabilities(n, picture[None])[0].argmax(0).numpy() for n in networks),
        )
        for picture, truth in dl.open_data(data).split("val")
    ]


def test_the_record_says_of_what_it_is(record, data, files):
    assert record["experiment"] == f"cards/{data}" and record["seed"] == 0
    wanted = {"network": files[0].name, "data": data, "split": "val"}
    assert record["config"] == wanted


def test_scores_are_those_of_the_network_in_bytes(record, data, files):
    network, _ = dl.open_network(files[0])
    wanted = dl.evaluate(
        lambda images: probabilities(network, images),
        dl.open_data(data).split("val"),
        CLASSES,
    )
    assert record["metrics"]["scores"] == asdict(wanted)


def test_each_class_says_what_its_pixels_are_called(record, maps):
    truth, found, other = (np.stack(one) for one in zip(*maps, strict=True))
    for label, name in enumerate(CLASSES):
        called = found[truth == label]
        shares = [100 * (called == one).mean() for one in range(len(CLASSES))]
        told = record["metrics"]["called"][name]
        assert [*told] == [*CLASSES]
        assert [*told.values()] == pytest.approx(shares, abs=0.051)
    assert 0 < 100 - record["metrics"]["same_as_original"] < 50
    same = 100 * (found == other).mean()
    assert record["metrics"]["same_as_original"] == pytest.approx(same, abs=6e-4)


def test_pictures_are_named_by_what_most_of_their_largest_class_is_called(record, maps):
    metrics = record["metrics"]
    shown = {str(n): name for n, name in enumerate(SHOWS) if name}
    named = []
    for name, shows in shown.items():
        truth, found, _ = maps[int(name)]
        called = np.bincount(found[truth == CLASSES.index(shows)], minlength=4)
        named.append(called.argmax() == CLASSES.index(shows))
    assert metrics["pictures"] == len(shown) == 13
    assert metrics["named"] == sum(named) and 0 < sum(named) < 13
    drawn = {one["name"]: one for one in metrics["drawn"]}
    assert len(drawn) == 10 and [*drawn] != sorted(drawn, key=int)
    for name, one in drawn.items():
        truth, found, _ = maps[int(name)]
        called = found[truth == CLASSES.index(shown[name])]
        assert one["shows"] == shown[name]
        right = 100 * (called == CLASSES.index(shown[name])).mean()
        assert one["right"] == pytest.approx(right, abs=0.051)
        assert one["called"] == CLASSES[np.bincount(called, minlength=4).argmax()]


def test_another_seed_lists_others(record, data, files, tmp_path):
    card(*files, data=data, split="val", out=tmp_path / "cards.json", seed=1)
    (other,) = json.loads((tmp_path / "cards.json").read_text())
    names = [one["name"] for one in record["metrics"]["drawn"]]
    assert names != [one["name"] for one in other["metrics"]["drawn"]]
    assert other["metrics"]["called"] == record["metrics"]["called"]


def test_networks_of_other_classes_are_refused_before_anything_is_measured(
    data, files, tmp_path
):
    kind = Architecture(width=4, fc_channels=8, padding="zeros")
    street = tmp_path / "street.safetensors"
    dl.save_network(kind.build(CAMVID, (1.0, 2.0, 3.0)), kind, street)
    for pair in ((street, files[1]), (files[0], street)):
        with pytest.raises(ValueError, match="the network's classes are"):
            card(*pair, data=data, split="val", out=tmp_path / "cards.json")
    assert not Path(tmp_path / "cards.json").exists()
