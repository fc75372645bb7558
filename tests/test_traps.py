"""The mistakes of chapter 16: each is the one that it says, and the record is made."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_segment import picture, tiny
from torch import nn

import dilated_lib as dl
from dilated_lib.traps import TRAPS, measure, probabilities

NETWORK = tiny(classes=11)
PHOTO = picture(192, 200)


def apart(one, other):
    return float((one - other).abs().max())


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_changes_the_answer_and_not_the_network(trap):
    before = {name: one.clone() for name, one in NETWORK.state_dict().items()}
    right, wrong = probabilities(NETWORK, PHOTO), probabilities(NETWORK, PHOTO, trap)
    assert wrong.shape == right.shape == (11, 192, 200)
    torch.testing.assert_close(wrong.sum(0), torch.ones(192, 200))
    assert apart(wrong, right) > 1e-4
    assert torch.equal(right, dl.predict(PHOTO, NETWORK).probabilities)
    for name, one in NETWORK.state_dict().items():
        assert torch.equal(one, before[name])


def test_an_unknown_trap_is_refused():
    with pytest.raises(ValueError, match=r"one of RGB instead of BGR, .* got 'rgb'"):
        probabilities(NETWORK, PHOTO, "rgb")


def test_swapped_channels_are_a_swapped_picture_with_the_mean_swapped_too():
    network = tiny(classes=11)
    network.mean = NETWORK.mean[::-1]
    swapped = Image.fromarray(np.asarray(PHOTO)[..., ::-1].copy())
    wrong = probabilities(NETWORK, PHOTO, "RGB instead of BGR")
    network.conv1_1.weight.data = NETWORK.conv1_1.weight.data
    assert apart(wrong, dl.predict(swapped, network).probabilities) < 1e-5


def test_the_relu_stands_between_final_and_the_context_module():
    network = tiny(classes=11)
    network.ctx_conv1_1.register_forward_pre_hook(lambda _, given: (given[0].relu(),))
    wrong = probabilities(NETWORK, PHOTO, "ReLU after final")
    assert apart(wrong, dl.predict(PHOTO, network).probabilities) < 1e-6


def test_tiles_are_those_of_predict():
    tiles = dl.predict(PHOTO, NETWORK, tile=(532, 532), context="tiles")
    wrong = probabilities(NETWORK, PHOTO, "context tile by tile")
    assert torch.equal(wrong, tiles.probabilities)


@pytest.mark.parametrize("size", [(192, 203), (184, 200)])
def test_a_picture_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match=r"multiples of 8 above 186, got \("):
        probabilities(NETWORK, Image.new("RGB", size))


def test_the_command_fits_the_network_and_records_every_trap(tmp_path, monkeypatch):
    """With pictures whose left half is sky and whose right half is road."""
    monkeypatch.setattr("dilated_lib.traps.dilation8_camvid", lambda *_, **__: NETWORK)
    ids = np.full((192, 208), 3, np.uint8)
    ids[:, :104] = 0
    ids[:8] = 11  # void
    colours = np.where(ids == 0, 250, 20).astype(np.uint8)
    for split in ("train", "val"):
        for folder, pixels in ((split, colours), (f"{split}annot", ids)):
            (tmp_path / folder).mkdir()
            for number in range(3):
                Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    out, keep = tmp_path / "traps.json", tmp_path / "net.safetensors"
    measure(tmp_path, out, train=2, val=2, keep=keep)
    done = json.loads(out.read_text())
    assert [one["experiment"] for one in done] == [
        f"traps/{n}" for n in ("none", *TRAPS)
    ]
    right = done[0]["metrics"]
    assert right["changed"] == 0 and right["val"]["accuracy"] > 80  # two classes, found
    assert len(right["labels"]) == 48 and {*map(len, right["labels"])} == {52}
    assert (
        right["labels"][20][:10] == 10 * "2" and right["labels"][20][-10:] == 10 * "5"
    )
    assert dl.load(tiny(classes=11), keep).missing == ()


def test_every_layer_may_be_changed_by_name():
    """A VOC network calls its last front layer otherwise."""
    with torch.device("meta"):
        network = dl.networks.dilation8_pascal_voc(fc_channels=4)
    TRAPS["ReLU after final"](network, PHOTO)
    place = [*network._modules].index("fc-final")
    assert isinstance([*network.children()][place], nn.Sequential)
