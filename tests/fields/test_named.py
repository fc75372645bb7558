"""Networks by name: which one a name stands for, and what is said of a wrong name."""

import pytest
import torch
from torch import nn

from dilated_lib.fields.tracing.export import TracingError
from dilated_lib.fields.tracing.named import named_network


def nested():
    return nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3)))


def drop_rates():
    """A network that computes a number with tensors, as many with stochastic depth."""
    rates = [rate.item() for rate in torch.linspace(0, 0.5, 3)]
    return nn.Sequential(*map(nn.Dropout, rates))


def copied_rates():
    return nn.Sequential(*map(nn.Dropout, torch.linspace(0, 0.5, 3).tolist()))


def fails():
    raise RuntimeError("no such\n   thing")


def fails_without_a_word():
    raise KeyError


def test_a_network_of_torchvision_has_no_values_unless_they_are_asked_for():
    assert named_network("alexnet").features[0].weight.is_meta
    assert not named_network("alexnet.features.0", device="cpu").weight.is_meta


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("offline")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    first = named_network("fcn_resnet50.backbone.conv1")
    assert (first.out_channels, first.kernel_size) == (64, (7, 7))


def test_a_function_of_a_module_and_a_part_of_what_it_returns():
    part = named_network(f"{__name__}:nested.1.1")
    assert isinstance(part, nn.Conv2d) and part.weight.is_meta
    assert len(named_network(f"{__name__}:nested")) == 2
    assert isinstance(named_network("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize("name", ["drop_rates", "copied_rates"])
def test_a_network_that_computes_with_tensors_is_built_with_values(name):
    assert [one.p for one in named_network(f"{__name__}:{name}")] == [0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet19.conv1",
            "torchvision has no network 'resnet19'; one of yours is 'module:function'",
        ),
        ("resnet18.layer9.0", "resnet18 has no module 'layer9.0'"),
        (f"{__name__}:nested.2.1", f"{__name__}:nested has no module '2.1'"),
        (
            "nowhere.at.all:network",
            "nowhere.at.all:network cannot be loaded: No module named 'nowhere'",
        ),
        (
            f"{__name__}:none.part",
            f"{__name__}:none cannot be loaded: "
            f"module '{__name__}' has no attribute 'none'",
        ),
        (
            f"{__name__}:fails.part",
            f"{__name__}:fails.part cannot be built: no such thing",
        ),
        (
            f"{__name__}:fails_without_a_word",
            f"{__name__}:fails_without_a_word cannot be built: KeyError",
        ),
        (":nested", ":nested cannot be loaded: Empty module name"),
        ("builtins:dict", "builtins:dict is no network, but a dict"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_a_sentence(name, message):
    with pytest.raises(TracingError) as refusal:
        named_network(name)
    assert str(refusal.value) == message
