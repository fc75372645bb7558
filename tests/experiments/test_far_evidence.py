"""Far cells are replaced by another picture's: which, where, and what is counted."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dilated_lib as dl
from dilated_lib.experiments import far_evidence
from dilated_lib.experiments.context_evidence import MODULES, context
from dilated_lib.experiments.far_evidence import RADII, far, replaced
from dilated_lib.experiments.stored_logits import Logits
from dilated_lib.networks.architecture import Architecture

FAR = "evidence/far/"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("radius", [0, 2, 9])
def test_what_is_near_stays_and_all_else_is_replaced(radius):
    own, other = torch.ones(2, 8, 9), torch.zeros(2, 8, 9)
    mixed = replaced(own, other, (1, 6), radius)
    for row in range(8):
        for column in range(9):
            near = max(abs(row - 1), abs(column - 6)) <= radius
            assert mixed[:, row, column].tolist() == [float(near)] * 2
    assert not other.any()


def streets(pictures=4, classes=3):
    """Logits that say the truth, of two drives."""
    labels = [
        torch.randint(classes, (40, 56), generator=seeded(n)).byte()
        for n in range(pictures)
    ]
    maps = [
        nn.functional.one_hot(one[4::8, 4::8].long(), classes).permute(2, 0, 1).float()
        for one in labels
    ]
    names = [f"drive{n % 2}_{n}.png" for n in range(pictures)]
    return Logits(maps, labels, names)


def test_replacements_come_from_the_same_drive_and_from_another():
    stored = streets(6)
    stored.labels[2][:, :] = 255
    drawn = [*far_evidence._drawn(stored, 5, seeded())]
    assert len(drawn) == 5 * 5 and {index for index, *_ in drawn} == {0, 1, 3, 4, 5}
    for index, (row, column), label, others in drawn:
        assert label == stored.labels[index][8 * row + 4, 8 * column + 4]
        assert others["same drive"] != index
        assert others["same drive"] % 2 == index % 2 != others["other drive"] % 2
    assert drawn == [*far_evidence._drawn(stored, 5, seeded())]
    for index in (0, 1):
        cells = [cell for one, cell, *_ in drawn if one == index]
        assert len({*cells}) == 5


@pytest.mark.parametrize("reach", [1, 3])
def test_a_module_loses_what_it_reads_and_nothing_else(reach):
    """One that reads a cell to the right, and one that reads its own."""
    stored = streets()
    drawn = [*far_evidence._drawn(stored, 20, seeded())]
    own = far_evidence._hidden(nn.Identity(), stored, drawn)
    assert own["whole"] == 100
    assert own["same drive"] == own["other drive"] == [100.0] * len(RADII)
    right = nn.Conv2d(3, 3, 7, padding=3, bias=False)
    with torch.no_grad():
        right.weight.zero_()
        right.weight[:, :, 3, 3 + reach] = torch.eye(3)
    moved = Logits([right(one[None])[0].detach() for one in stored.maps], [], [])
    labels = [
        one.argmax(0).repeat_interleave(8, 0).repeat_interleave(8, 1)
        for one in moved.maps
    ]
    shifted = Logits(stored.maps, labels, stored.names)
    drawn = [*far_evidence._drawn(shifted, 20, seeded())]
    found = far_evidence._hidden(right, shifted, drawn)
    assert found["whole"] == 100
    for kind in ("same drive", "other drive"):
        near = sum(radius < reach for radius in RADII)
        assert near == (reach + 1) // 2 and max(found[kind][:near]) < 80
        assert found[kind][near:] == [100.0] * (6 - near)
        hits = [share * len(drawn) / 100 for share in found[kind]]  # whole numbers
        assert hits == pytest.approx([round(one) for one in hits], abs=0.01)


def test_the_books_records_are_those_of_the_command_as_it_stands():
    defaults = far.__kwdefaults__
    config = {key: defaults[key] for key in ("data", "cells")}
    found = [r for r in dl.records.read("evidence") if r.experiment.startswith(FAR)]
    assert all(config.items() <= one.config.items() for one in found)
    assert {one.experiment for one in found} == {f"{FAR}camvid/basic"}
    assert "basic" in defaults["modules"]
    assert {one.seed for one in found} == {*range(defaults["seeds"])}
    assert (defaults["runs"], defaults["out"].name) == (Path("runs"), "evidence.json")
    assert {len(one.metrics["same drive"]) for one in found} == {len(RADII)}
    assert RADII == (0, 1, 3, 7, 15, 33)  # for which the records were made


def test_the_command_reads_the_modules_that_were_kept(tmp_path, monkeypatch):
    draw, root = np.random.default_rng(0), tmp_path / "streets"
    for kind in ("pictures", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(8):
        name = f"drive{number % 2}_{number}.png"
        labels = draw.integers(0, 3, (24, 32), np.uint8)
        Image.fromarray(np.repeat(80 * labels[..., None], 3, 2)).save(
            root / "pictures" / name
        )
        Image.fromarray(labels).save(root / "labels" / name)
    (root / "classes.txt").write_text("road\nsky\ntree")
    for split, numbers in (("train", (0, 1)), ("val", (2, 3)), ("test", (4, 5, 6, 7))):
        listed = [f"drive{n % 2}_{n}" for n in numbers]
        (root / f"{split}.txt").write_text("\n".join(listed))
    kind = Architecture(padding="zeros", width=4, fc_channels=8)
    palette = dl.open_data(str(root)).palette
    torch.manual_seed(0)
    front, out = tmp_path / "front.safetensors", tmp_path / "e.json"
    dl.save_network(kind.build(palette, (1.0, 2.0, 3.0)), kind, front)
    names = ("basic", "no dilation")
    two = {name: MODULES[name] for name in names}
    monkeypatch.setattr("dilated_lib.experiments.context_evidence.MODULES", two)
    both = {"data": str(root), "runs": tmp_path, "out": out}
    context(front, seeds=2, steps=2, **both)
    for asked in (names[:1], names, names):  # a record that is there is not made again
        far(front, modules=asked, seeds=2, cells=3, **both)
    found = json.loads(out.read_text())[5:]
    assert [(one["experiment"], one["seed"]) for one in found] == [
        (f"{FAR}streets/{name}", seed) for name in names for seed in (0, 1)
    ]
    digest = sha256(front.read_bytes()).hexdigest()[:16]
    for one in found:
        assert one["config"] == {"data": "streets", "front": digest, "cells": 3}
        assert one["metrics"]["same drive"][-1] == one["metrics"]["whole"]
        assert len(one["metrics"]["other drive"]) == len(RADII)
        shares = {round(100 * right / 12, 2) for right in range(13)}  # of 4 · 3 cells
        assert {one["metrics"]["whole"], *one["metrics"]["same drive"]} <= shares
    for file in tmp_path.glob("evidence/context/**/seed-1.safetensors"):
        file.unlink()
    out.unlink()
    with pytest.raises(FileNotFoundError, match=r"seed-1\.safetensors"):
        far(front, modules=("basic",), seeds=2, cells=3, **both)
