"""Modules behind trained front ends: what each can do, and what is recorded of it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import dilated_lib as dl
from dilated_lib.experiments.context_evidence import MODULES, context, mistakes
from dilated_lib.networks.architecture import Architecture

SEES = {  # cells to each side that a module reads
    "1 x 1": 0,
    "1 x 1 with coordinates": 0,
    "no dilation": 7,
    "no dilation 16": 17,
    "basic": 33,
    "basic, reflection": 33,
}


def built(name, classes=4, seed=0):
    return MODULES[name](classes, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "sees"), SEES.items())
def test_a_module_sees_as_far_as_it_should_and_starts_as_the_identity(name, sees):
    module = built(name)
    logits = torch.rand(1, 4, 67, 67, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    found = module(logits)
    assert torch.corrcoef(torch.stack([found, logits]).flatten(1))[0, 1] > 0.8
    found[0, 0, 33, 33].backward()
    rows, columns = logits.grad[0].abs().sum(0).nonzero(as_tuple=True)
    for places in (rows, columns):
        assert (33 - places.min(), places.max() - 33) == (sees, sees)


def test_each_has_eight_layers_but_the_one_without_dilation_16():
    counts = {
        name: sum(isinstance(one, nn.Conv2d) for one in built(name).modules())
        for name in MODULES
    }
    assert counts.pop("no dilation 16") == 7
    assert counts.pop("1 x 1 with coordinates") == 9  # of rows and columns
    assert {*counts.values()} == {8}


def test_coordinates_tell_above_from_below_and_left_from_right():
    module = built("1 x 1 with coordinates", 2)
    with torch.no_grad():
        module[0].linear.weight.copy_(torch.eye(2)[..., None, None])
        moved = module[0](torch.zeros(1, 2, 3, 5))[0]
    assert moved[0].tolist() == [[-1.0] * 5, [0.0] * 5, [1.0] * 5]
    assert moved[1].tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 3


def test_mistakes_between_objects_are_told_from_those_at_the_border():
    confusion = torch.tensor([[50, 3, 1], [5, 20, 2], [1, 4, 8]])
    assert mistakes(confusion) == {"another object": 15.0, "border": 25.0}
    objects = 40
    assert 100 * (2 + 4) / objects == 15 and 100 * (3 + 1 + 5 + 1) / objects == 25


@pytest.fixture
def shapes(tmp_path):
    """Pictures of two sizes with an object on a background, and a front end."""
    draw, root = np.random.default_rng(0), tmp_path / "shapes"
    for kind in ("pictures", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(6):
        size = (24, 31) if number % 2 else (32, 24)
        labels = draw.integers(0, 3, size, np.uint8)
        picture = np.repeat(80 * labels[..., None], 3, 2)
        Image.fromarray(picture).save(root / "pictures" / f"{number}.png")
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
    names = ("background", "cat", "dog")
    (root / "classes.txt").write_text("\n".join(names))
    for split, numbers in (("train", "0123"), ("val", "4"), ("test", "5")):
        (root / f"{split}.txt").write_text("\n".join(numbers))
    kind = Architecture(padding="zeros", width=4, fc_channels=8)
    palette = dict.fromkeys(names, (0, 0, 0)) | dl.open_data(str(root)).palette
    torch.manual_seed(0)
    dl.save_network(
        kind.build(palette, (1.0, 2.0, 3.0)), kind, tmp_path / "front.safetensors"
    )
    return root


def test_every_module_is_recorded_once_and_kept(shapes, tmp_path, monkeypatch):
    small = {name: MODULES[name] for name in ("1 x 1", "no dilation")}
    monkeypatch.setattr("dilated_lib.experiments.context_evidence.MODULES", small)
    front, out, runs = tmp_path / "front.safetensors", tmp_path / "e.json", tmp_path
    options = {"data": str(shapes), "steps": 2, "runs": runs, "out": out}
    context(front, seeds=1, **options)
    first = json.loads(out.read_text())
    context(front, seeds=2, **options)
    found = json.loads(out.read_text())
    assert found[:3] == first  # not trained anew
    about = [(one["experiment"].rpartition("/")[2], one["seed"]) for one in found]
    assert about == [
        *(("nothing", 0), ("1 x 1", 0), ("no dilation", 0)),
        *(("1 x 1", 1), ("no dilation", 1)),
    ]
    assert len({one["config"]["front"] for one in found}) == 1
    for one in found:
        for split in ("val", "test"):
            scores = one["metrics"][split]
            assert {*scores} == {"miou", "accuracy", "per_class", "mistakes"}
            assert {*scores["mistakes"]} == {"another object", "border"}
    assert "loss" in found[1]["metrics"] and "loss" not in found[0]["metrics"]
    kept = sorted(runs.glob("evidence/**/*.safetensors"))
    assert [file.name for file in kept] == [
        "seed-0.safetensors",
        "seed-1.safetensors",
    ] * 2
    weights = load_file(next(file for file in kept if "no dilation" in str(file)))
    assert built("no dilation", 3).load_state_dict(weights)
