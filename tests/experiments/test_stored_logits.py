"""Context modules on stored logits: what is stored, learned and scored."""

import copy
from hashlib import sha256
from itertools import chain
from math import log

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.data.labelled import VOID
from dilated_lib.data.scenes import ShapeScenes
from dilated_lib.experiments import stored_logits
from dilated_lib.experiments.context_effect import without_context
from dilated_lib.networks.architecture import Architecture, small_network
from dilated_lib.prediction.segmentation import probabilities

CLASSES = ("ground", "disc", "square", "triangle")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def as_stored(maps, labels):
    """Logits with labels, each picture a drive of its own."""
    return stored_logits.Logits(
        maps, labels, tuple(f"drive{n}_0" for n in range(len(maps)))
    )


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def test_stored_are_the_front_ends_logits_of_a_picture_and_its_mirror_image():
    network, data = small_network(), ShapeScenes(2, seed=3)
    stored = stored_logits.store(network, data, mirrored=True)
    assert len(stored.maps) == len(stored.labels) == 4
    assert {one.shape for one in stored.maps} == {(11, 8, 12)}
    assert not any(one.requires_grad for one in stored.maps)
    assert {one.dtype for one in stored.labels} == {torch.uint8}
    assert stored.names == [data.name(index) for index in (0, 0, 1, 1)]
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
    stored = stored_logits.store(small_network(), ShapeScenes(2))
    assert len(stored.maps) == len(stored.labels) == 2


def test_a_picture_is_continued_to_whole_cells_which_have_no_label():
    """Of a front end that pads, and one with a margin, as in ``probabilities``."""
    draw = np.random.default_rng(0)
    picture = torch.tensor(draw.integers(0, 256, (3, 61, 90), np.uint8))
    labels = torch.zeros(61, 90, dtype=torch.uint8)

    class One(list):
        def name(self, index):
            return "a_0"

    two = {"road": (128, 64, 128), "sky": (128, 128, 128)}
    for padding in ("none", "zeros"):
        torch.manual_seed(0)
        kind = Architecture(padding=padding, width=4, fc_channels=8)
        network = kind.build(two, (1.0, 2.0, 3.0))
        network.upsampling = "half_pixel"
        nn.init.normal_(network.front.final.weight)
        stored = stored_logits.store(network, One([(picture, labels)]), mirrored=True)
        assert [one.shape for one in stored.maps] == [(2, 8, 12)] * 2
        cells = stored_logits._of_cells(stored.labels[0])
        # of the last row pixel 60 is inside the picture, of the last column 92 is not
        assert cells.tolist() == [[0] * 11 + [VOID]] * 8
        shares = probabilities(network, torch.stack([picture, picture.flip(2)]))
        meter = stored_logits.measure(nn.Identity(), stored, (*two,))
        assert meter.confusion.sum() == 2 * labels.numel()
        if padding == "zeros":  # without it there is a cell more to interpolate to
            assert meter.confusion[0, 0] == (shares.argmax(1) == 0).sum()


def test_a_module_learns_from_the_pixel_next_to_the_centre_of_a_cell():
    maps = drawn(6, 4, 5, 7)
    labels = torch.full((6, 40, 56), VOID, dtype=torch.uint8)
    labels[:, 4::8, 4::8] = maps.argmax(1).to(torch.uint8)
    module = nn.Conv2d(4, 4, 1)
    data = as_stored(maps, labels)
    losses = stored_logits.fit(
        module, data, steps=300, batch=3, learning_rate=0.1, generator=seeded()
    )
    assert len(losses) == 300 and losses[-1] < 0.2 * losses[0]
    with torch.no_grad():
        found = module(maps).argmax(1)
    assert (found == maps.argmax(1)).float().mean() > 0.9


def test_weights_of_classes_count():
    """Of two classes that cannot be told apart, the heavier one is said."""
    data = as_stored(torch.zeros(1, 2, 4, 4), torch.zeros(1, 32, 32).byte())
    data.labels[:, 16:] = 1
    for heavy in (0, 1):
        weights = torch.tensor([1.0, 1.0])
        weights[heavy] = 4
        module = nn.Conv2d(2, 2, 1)
        options = {"steps": 100, "learning_rate": 0.1, "generator": seeded()}
        stored_logits.fit(module, data, weights=weights, **options)
        assert (module(data.maps).argmax(1) == heavy).all()


def test_training_depends_on_its_generator_alone():
    data = as_stored(drawn(9, 3, 4, 4), torch.randint(3, (9, 32, 32)))
    ends = []
    for seed in (0, 0, 1):
        module = dl.ContextModule(3, dilations=(1, 2))
        module.reset_parameters(generator=seeded())
        losses = stored_logits.fit(
            module, data, steps=5, batch=4, generator=seeded(seed)
        )
        ends.append(losses)
    assert ends[0] == ends[1] != ends[2]


def test_all_maps_are_used_before_one_comes_again():
    batches = [*stored_logits._batches(10, 4, 5, seeded())]
    seen = [*chain.from_iterable(batches)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == [*range(10)]
    assert all(len(one) == 4 for one in batches)


def test_scores_are_those_of_predictions_up_to_the_last_cell():
    """``probabilities`` has one cell more to interpolate towards, at two borders."""
    network = without_context(small_network())
    data = ShapeScenes(3)
    found = stored_logits.measure(
        nn.Identity(), stored_logits.store(network, data), (*network.palette,)
    ).compute()
    network.upsampling = "half_pixel"
    wanted = dl.evaluate(
        lambda images: probabilities(network, images),
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
    found = stored_logits.measure(
        nn.Identity(), as_stored(maps, labels), CLASSES
    ).compute()
    assert found.accuracy == pytest.approx(100 * right, abs=0.01)
    for number, drive in enumerate(found.drives.values()):
        right = (grown == labels)[number, 5:].float().mean().item()
        assert drive.accuracy == pytest.approx(100 * right, abs=0.01)
    assert number == 10 and drive.pictures == 1


def test_a_front_end_is_asked_about_splits_and_train_has_mirror_images(shapes, capfd):
    front = stored_logits.FrontEnd(shapes.parent / "front.safetensors", str(shapes))
    for split, names in (("train", [0, 0, 1, 1, 2, 2, 3, 3]), ("val", [4])):
        found = front.logits(split)
        assert found.names == [f"{number}.png" for number in names]
        assert "logits: 100%|" in capfd.readouterr().err
    pixels = torch.cat([labels.flatten() for _, labels in front.data.split("train")])
    shares = pixels.long().bincount(minlength=3).double()
    wanted = (shares.median() / shares).sqrt().float()
    torch.testing.assert_close(front.weights(), wanted)
    assert front.classes == ("background", "cat", "dog")
    whole = (shapes.parent / "front.safetensors").read_bytes()
    assert front.digest == sha256(whole).hexdigest()[:16]


def test_the_loss_is_a_mean_over_the_cells_of_all_sizes():
    """Without weights yet a module gives all three classes the same: ln 3 a cell."""
    maps = [drawn(3, 4, 5), drawn(3, 2, 2), drawn(3, 2, 3)]
    labels = [torch.zeros(8 * h, 8 * w).byte() for _, h, w in (m.shape for m in maps)]
    module = nn.Conv2d(3, 3, 1)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    data = as_stored(maps, labels)
    for weights in (None, torch.tensor([0.5, 2.0, 7.0])):
        first, *_ = stored_logits.fit(
            copy.deepcopy(module), data, weights=weights, steps=1, generator=seeded()
        )
        assert first == pytest.approx(log(3))


def test_a_network_that_enlarges_its_pictures_is_refused():
    network = small_network()
    network.scale = 1.5
    with pytest.raises(ValueError, match=r"scale must be 1, got 1\.5"):
        stored_logits.store(network, ShapeScenes(1))


def test_no_maps_are_refused():
    nothing = as_stored(torch.zeros(0, 3, 4, 5), torch.zeros(0, 32, 40))
    with pytest.raises(ValueError, match="maps to train on, got none"):
        stored_logits.fit(nn.Conv2d(3, 3, 1), nothing, steps=3, generator=seeded())
