"""Context modules on stored logits: what is stored, learned, scored and recorded."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib import heads
from dilated_lib.architecture import small_network
from dilated_lib.changes import without_context
from dilated_lib.data.labelled import VOID
from dilated_lib.data.scenes import ShapeScenes

CLASSES = ("ground", "disc", "square", "triangle")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def test_stored_are_the_front_ends_logits_of_a_picture_and_its_mirror_image():
    network, data = small_network(), ShapeScenes(2, seed=3)
    stored = heads.store(network, data, mirrored=True)
    assert stored.maps.shape == (4, 11, 8, 12) and not stored.maps.requires_grad
    assert stored.labels.shape == (4, 64, 96) and stored.labels.dtype == torch.uint8
    mean = torch.tensor(network.mean)[:, None, None]
    for index in range(2):
        picture, labels = data[index]
        for place, flip in ((2 * index, False), (2 * index + 1, True)):
            image = picture.flip(2) if flip else picture
            beyond = np.pad(image, ((0, 0), (186, 186), (186, 186)), mode="reflect")
            margin = torch.tensor(beyond).flip(0)[None] - mean
            with torch.no_grad():
                wanted = network.front(margin)[0]
            torch.testing.assert_close(stored.maps[place], wanted)
            answer = labels.flip(1) if flip else labels
            assert torch.equal(stored.labels[place], answer)


def test_without_mirror_images_there_is_one_map_a_picture():
    stored = heads.store(small_network(), ShapeScenes(2))
    assert len(stored.maps) == len(stored.labels) == 2


def test_a_picture_must_have_whole_cells():
    data = [(torch.zeros(3, 64, 97), torch.zeros(64, 97))]
    with pytest.raises(ValueError, match="multiples of 8, got 64 × 97 pixels"):
        heads.store(small_network(), data)


def test_a_module_learns_from_the_pixel_next_to_the_centre_of_a_cell():
    maps = drawn(6, 4, 5, 7)
    labels = torch.full((6, 40, 56), VOID, dtype=torch.uint8)
    labels[:, 4::8, 4::8] = maps.argmax(1).to(torch.uint8)
    module = nn.Conv2d(4, 4, 1)
    data = heads.Logits(maps, labels)
    losses = heads.fit(
        module, data, steps=300, batch=3, learning_rate=0.1, generator=seeded()
    )
    assert len(losses) == 300 and losses[-1] < 0.2 * losses[0]
    with torch.no_grad():
        found = module(maps).argmax(1)
    assert (found == maps.argmax(1)).float().mean() > 0.9


def test_weights_of_classes_count():
    """Of two classes that cannot be told apart, the heavier one is said."""
    data = heads.Logits(torch.zeros(1, 2, 4, 4), torch.zeros(1, 32, 32).byte())
    data.labels[:, 16:] = 1
    for heavy in (0, 1):
        weights = torch.tensor([1.0, 1.0])
        weights[heavy] = 4
        module = nn.Conv2d(2, 2, 1)
        options = {"steps": 100, "learning_rate": 0.1, "generator": seeded()}
        heads.fit(module, data, weights=weights, **options)
        assert (module(data.maps).argmax(1) == heavy).all()


def test_training_depends_on_its_generator_alone():
    data = heads.Logits(drawn(9, 3, 4, 4), torch.randint(3, (9, 32, 32)))
    ends = []
    for seed in (0, 0, 1):
        module = dl.ContextModule(3, dilations=(1, 2))
        module.reset_parameters(generator=seeded())
        losses = heads.fit(module, data, steps=5, batch=4, generator=seeded(seed))
        ends.append(losses)
    assert ends[0] == ends[1] != ends[2]


def test_all_maps_are_used_before_one_comes_again():
    batches = [*heads._batches(10, 4, 5, seeded())]
    seen = torch.cat(batches)
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == [*range(10)]
    assert all(len(one) == 4 for one in batches)


def test_scores_are_those_of_predictions_up_to_the_last_cell():
    """``probabilities`` has one cell more to interpolate towards, at two borders."""
    network = without_context(small_network())
    data = ShapeScenes(3)
    found = heads.score(nn.Identity(), heads.store(network, data), (*network.palette,))
    network.upsampling = "half_pixel"
    wanted = dl.evaluate(
        lambda images: dl.segment.probabilities(network, images),
        data,
        (*network.palette,),
    )
    assert found.accuracy == pytest.approx(wanted.accuracy, abs=1.5)
    assert found.per_class.keys() == wanted.per_class.keys()


def test_void_does_not_count_and_a_batch_is_as_good_as_one():
    maps = drawn(11, 4, 3, 3)
    labels = torch.randint(4, (11, 24, 24), generator=seeded()).byte()
    labels[:, :5] = VOID
    with torch.no_grad():
        grown = F.interpolate(maps, scale_factor=8, mode="bilinear").argmax(1)
    right = (grown == labels)[:, 5:].float().mean().item()
    found = heads.score(nn.Identity(), heads.Logits(maps, labels), CLASSES)
    assert found.accuracy == pytest.approx(100 * right, abs=0.01)


def test_the_command_records_the_front_end_and_each_module(tmp_path):
    out = tmp_path / "heads.json"
    command = ["heads", str(out), "--data", "shapes", "--seeds", "1", "--steps", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "dilated_lib", *command],
        **{"capture_output": True, "text": True, "check": False},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert [one["experiment"] for one in found] == [
        *("heads/front", "heads/basic", "heads/no dilation 16"),
        *("heads/no dilation", "heads/no neighbours"),
    ]
    assert [one["metrics"].get("receptive_field") for one in found] == [
        None,
        67,
        15,
        35,
    ]
    for one in found:
        assert {"val", "test"} <= one["metrics"].keys()
