"""Weights that torchvision publishes: checked at every use, and never unpickled."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights, VGG16_Weights, resnet50

import dilated_lib as dl
from dilated_lib.experiments.vgg_erf import erf
from dilated_lib.networks.imagenet import published_weights
from dilated_lib.networks.released import dilation8_camvid
from dilated_lib.training.config import Config
from dilated_lib.training.setup import build_network

ran = []


class Code:
    """Where it is unpickled, it calls a function."""

    def __reduce__(self):
        return ran.append, ("code of a stranger",)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of torch.hub, empty; nothing can be fetched."""

    def offline(*_, **__):
        raise OSError("offline")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    ran.clear()
    return folder


def plant(cache, weights, content, monkeypatch, *, right=True):
    """Put a file where torchvision's lies; its name has its digits if it is right."""
    file = cache / "planted.pth"
    torch.save(content, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if right:
        address = f"https://download.pytorch.org/models/net-{digest[:8]}.pth"
        monkeypatch.setattr(weights.value, "url", address)
    return file.rename(cache / weights.url.rpartition("/")[2])


def start_of(network):
    options = {"network": network, "start": "imagenet", "fc_channels": 8}
    config = Config().changed(data="shapes", **options)
    return build_network(config, dl.open_data("shapes"))[0]


DOORS = {
    "front_end": lambda: dl.front_end(4, "imagenet", fc_channels=8),
    "a released network": lambda: dilation8_camvid("imagenet", fc_channels=8),
    "train": lambda: start_of("dilated"),
    "train, a baseline": lambda: start_of("fcn_resnet50"),
    "erf": lambda: erf(Path("never.json"), crops=1),
}


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("door", DOORS)
def test_code_in_the_cache_does_not_run(cache, door, right, monkeypatch):
    """Neither under another file's digits, nor under its own."""
    for weights in (VGG16_Weights.IMAGENET1K_FEATURES, ResNet50_Weights.IMAGENET1K_V1):
        plant(cache, weights, {"features.0.weight": Code()}, monkeypatch, right=right)
    message = "would run" if right else r"must begin with [0-9a-f]{8}, got"
    with pytest.raises(ValueError, match=message) as caught:
        DOORS[door]()
    assert not ran
    assert "\n" not in str(caught.value) and ".pth" in str(caught.value)


def test_a_file_that_changes_after_its_first_use_is_refused(cache, monkeypatch):
    """Also where the digits of its name are still its own."""
    weights = VGG16_Weights.IMAGENET1K_FEATURES
    file = plant(cache, weights, {"one": torch.ones(2)}, monkeypatch)
    for _ in range(2):
        assert published_weights(weights.url)["one"].tolist() == [1, 1]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    whole = file.with_name(f"{file.name}.sha256")
    assert whole.read_text() == digest
    whole.write_text(digest[:8] + 56 * "0")  # that of another file with these digits
    with pytest.raises(ValueError, match="has changed since its first use"):
        published_weights(weights.url)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"must begin with {digest[:8]}, got"):
        published_weights(weights.url)


def test_weights_of_another_network_are_called_by_their_published_name(
    cache, monkeypatch
):
    weights = VGG16_Weights.IMAGENET1K_FEATURES
    for number in (0, 2):
        foreign = {f"features.{number}.weight": torch.ones(2)}
        plant(cache, weights, foreign, monkeypatch)
        with pytest.raises(ValueError, match=r"^IMAGENET1K_FEATURES must hold the 13"):
            dl.front_end(4, "imagenet", fc_channels=8)


def test_a_file_is_fetched_once_and_quietly(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.save({"one": torch.ones(2)}, tmp_path / "net.pth")
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    there, wrong = (tmp_path / f"net-{d}.pth" for d in (digest[:8], "0" * 8))
    for file in (there, wrong):
        file.write_bytes((tmp_path / "net.pth").read_bytes())
    for _ in range(2):
        assert published_weights(there.as_uri())["one"].tolist() == [1, 1]
        there.unlink(missing_ok=True)
    with pytest.raises(OSError, match="cannot be fetched: invalid hash"):
        published_weights(wrong.as_uri())
    assert capfd.readouterr() == ("", "")


def test_a_cache_that_cannot_be_written_is_read(cache, monkeypatch):
    def readonly(path):
        raise PermissionError(path)

    monkeypatch.setattr("dilated_lib.networks.imagenet.written_whole", readonly)
    weights = VGG16_Weights.IMAGENET1K_FEATURES
    file = plant(cache, weights, {"one": torch.ones(2)}, monkeypatch)
    assert published_weights(weights.url)["one"].tolist() == [1, 1]
    assert [*cache.iterdir()] == [file]


def test_a_file_that_cannot_be_fetched_is_one_sentence(cache):
    with pytest.raises(OSError, match=r"net-01234567\.pth cannot be fetched: offline"):
        published_weights("https://download.pytorch.org/models/net-01234567.pth")
    with pytest.raises(ValueError, match=r"net\.pth must end in -DIGITS\.pth"):
        published_weights("https://download.pytorch.org/models/net.pth")


def test_a_baseline_starts_from_the_backbone_that_is_published(cache, monkeypatch):
    torch.manual_seed(1)
    theirs = resnet50().state_dict()
    plant(cache, ResNet50_Weights.IMAGENET1K_V1, theirs, monkeypatch)
    baseline = start_of("fcn_resnet50")
    mine = baseline.front.body.backbone.state_dict()
    assert {*theirs} - {*mine} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert isinstance(baseline.front.body.classifier[-1], nn.Conv2d)
