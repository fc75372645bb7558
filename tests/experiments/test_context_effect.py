"""What the context module changes, pixel by pixel and drive by drive."""

import json
from dataclasses import asdict
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

import dilated_lib as dl
from dilated_lib.data.palettes import CAMVID
from dilated_lib.experiments import context_effect as module
from dilated_lib.experiments.context_effect import (
    as_text,
    changes,
    label_map,
    without_context,
)
from dilated_lib.networks.architecture import Architecture
from dilated_lib.networks.dilated import DilatedNetwork
from dilated_lib.prediction.segmentation import probabilities

# the third picture of test has no label, so nothing can be said of it
SPLITS = {"train": ["a_0"], "val": ["b_0"], "test": ["a_1", "c_0", "c_1"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise with labels of CamVid's classes, from three drives; the folder."""
    folder = tmp_path_factory.mktemp("data")
    for kind in ("pictures", "labels"):
        (folder / kind).mkdir()
    (folder / "classes.txt").write_text("\n".join(CAMVID))
    draw = np.random.default_rng(1)
    for split, names in SPLITS.items():
        (folder / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            pixels = draw.integers(0, 255, (24, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / f"{name}.png")
            ids = draw.integers(0, 11, (24, 32), np.uint8)
            ids[: 24 if name == "c_1" else 1] = 255
            Image.fromarray(ids).save(folder / "labels" / f"{name}.png")
    return str(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network whose context module changes many labels: it is far from identity."""
    kind = Architecture(width=4, fc_channels=8, context="basic")
    network = kind.build(CAMVID, (1.0, 2.0, 3.0))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in network.parameters():
            one.normal_(0, 0.3, generator=draw)
    path = tmp_path_factory.mktemp("network") / "wild.safetensors"
    dl.save_network(network, kind, path)
    return path


@pytest.fixture(scope="module")
def answers(weights):
    network, _ = dl.open_network(weights)
    return {"front": without_context(network), "context": network}


@pytest.fixture(scope="module")
def recorded(data, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "changes.json"
    changes(out, data=data, weights=weights, every=1)
    (record,) = json.loads(out.read_text())
    assert record["experiment"] == f"changes/{data}"
    assert record["config"] == {"data": data, "every": 1}
    return record["metrics"]


def predicted(network, picture):
    return probabilities(network, picture[None])[0].argmax(0)


def test_scores_are_those_of_each_split_without_and_with_the_module(
    recorded, data, answers
):
    assert [*recorded] == ["val", "test"]
    for split, found in recorded.items():
        for name, network in answers.items():
            wanted = dl.evaluate(
                lambda images, one=network: probabilities(one, images),
                dl.open_data(data).split(split),
                tuple(network.palette),
            )
            score = dict(found[name])
            drives = score.pop("drives")
            assert score == asdict(wanted)
            assert [*drives] == (["b"] if split == "val" else ["a", "c"])
            assert all(one["pictures"] == 1 for one in drives.values())


def test_changes_are_counted_pixel_by_pixel_in_a_split_and_in_each_drive(
    recorded, data, answers
):
    whole = torch.zeros(4)
    kinds = ("wrong to right", "right to wrong", "wrong to wrong")
    samples = dl.open_data(data).split("test")
    for drive, index in (("a", 0), ("c", 1)):
        picture, labels = samples[index]
        known = labels != 255
        front, both = (predicted(one, picture) for one in answers.values())
        other = (front != both) & known
        counted = [
            (other & (both == labels)).sum(),
            (other & (front == labels)).sum(),
            (other & (both != labels) & (front != labels)).sum(),
        ]
        whole += torch.stack([*counted, known.sum()])
        found = recorded["test"]["changed_by_drive"][drive]
        for kind, count in zip(kinds, counted, strict=True):
            share = 100 * count / known.sum()
            assert found[kind] == pytest.approx(share.item(), abs=1e-3)
    assert [*recorded["test"]["changed_by_drive"]] == ["a", "c"]
    for kind, count in zip(kinds, whole, strict=False):
        share = 100 * count / whole[-1]
        assert recorded["test"]["changed"][kind] == pytest.approx(
            share.item(), abs=1e-3
        )
    assert tuple(recorded["test"]["changed"]) == kinds
    assert whole[:3].min() > 0  # there are pixels of every kind


def test_pictures_have_their_accuracy_and_the_best_and_the_worst_their_maps(
    recorded, data, answers
):
    samples = dl.open_data(data).split("test")
    pictures = recorded["test"]["pictures"]
    assert [one["name"] for one in pictures] == ["a_1", "c_0"]
    for index, one in enumerate(pictures):
        picture, labels = samples[index]
        known = labels != 255
        maps = {name: predicted(network, picture) for name, network in answers.items()}
        for found, answer in zip(one["accuracy"], maps.values(), strict=True):
            wanted = 100 * (answer == labels)[known].float().mean().item()
            assert found == pytest.approx(wanted, abs=0.01)
        kinds = [
            kind
            for kind, stored in recorded["test"]["maps"].items()
            if stored["name"] == one["name"]
        ]
        assert len(kinds) == 1
        stored = recorded["test"]["maps"][kinds[0]]
        assert torch.equal(label_map(stored["labels"]), labels.long())
        for name, answer in maps.items():
            assert torch.equal(label_map(stored[name]), answer)
    assert pictures[0]["accuracy"][1] > pictures[1]["accuracy"][1]
    stored = recorded["test"]["maps"]
    assert (stored["best"]["name"], stored["worst"]["name"]) == ("a_1", "c_0")


@pytest.mark.parametrize("gpu", [True, False])
def test_the_gpu_compares_if_there_is_one(gpu, data, weights, tmp_path):
    with (
        patch.object(torch.cuda, "is_available", lambda: gpu),
        patch.object(module, "Recorder") as recorder,
        patch.object(DilatedNetwork, "to") as moved,
        patch.object(module, "_compare") as compared,
    ):
        changes(tmp_path / "changes.json", data=data, weights=weights)
    device = torch.device("cuda" if gpu else "cpu")
    moved.assert_called_once_with(device)
    recorder.assert_called_once_with(tmp_path / "changes.json", device=device)
    assert [call.kwargs for call in compared.call_args_list] == 2 * [
        {"device": device, "every": 4}
    ]


def test_pictures_go_to_the_device_and_labels_come_back(data, answers):
    seen = []

    def answer(network, images):
        seen.append(images.device.type)
        return torch.zeros(1, 11, 24, 32)

    with patch.object(module, "probabilities", answer):
        module._compare(
            answers["context"],
            dl.open_data(data).split("val"),
            device=torch.device("meta"),
            every=1,
        )
    assert seen == ["meta", "meta"]


def test_a_label_is_one_character_up_to_36_classes():
    labels = torch.tensor([[*range(36), 255]])
    assert as_text(labels) == ["0123456789abcdefghijklmnopqrstuvwxyz."]
    assert torch.equal(label_map(as_text(labels)), labels)


def test_a_data_set_of_other_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"classes are .* those of shapes are ground"):
        changes(tmp_path / "changes.json", data="shapes")
    assert not any(tmp_path.iterdir())


def test_the_books_record_has_both_splits_and_their_three_drives():
    (record,) = dl.records.read("changes")
    assert record.command == "python -m dilated_lib changes"
    assert len(record.commit) == 40
    found = {split: one["front"]["drives"] for split, one in record.metrics.items()}
    assert {split: [*drives] for split, drives in found.items()} == {
        "val": ["0016E5"],
        "test": ["0001TP", "Seq05VD"],
    }
