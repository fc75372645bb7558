"""The survey of timm, on networks that need no timm: it sees what it should see.

A stand-in for timm has two families and tells how it is asked to build their members;
one for segmentation-models-pytorch tells the same of its decoders.
"""

import runpy
import sys
import warnings
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from dilated_lib import records
from dilated_lib.experiments import timm_survey
from dilated_lib.experiments.timm_survey import (
    Candidate,
    candidate,
    main,
    names,
    smallest,
    survey,
)
from dilated_lib.fields.tracing.verify import Disagreement


def stages():
    """Four maps: of 3 positions, of 7, one that has seen all, and one after it."""
    fine, coarse = (nn.Conv2d(1, 1, 3, 2, 1) for _ in range(2))
    head = nn.InstanceNorm2d(1)
    parts = ([fine], [fine, coarse], [fine, coarse, head], [coarse])
    return [partial(nn.Sequential, *some) for some in parts]


def classifier():
    return nn.Sequential(nn.Conv2d(1, 2, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_an_unbounded_network_names_its_layer_and_agrees_with_itself():
    found = survey(Candidate("small", classifier(), (1, 96, 96)))
    assert found["outcome"] == "unbounded" and found["reason"].startswith("1 (")
    assert (found["module"], found["size"]) == ("0", [5, 5])
    assert found["verified"] == ["agrees, to the output on 64 x 64"]
    assert "pyramid" not in found


def test_a_pyramid_is_asked_up_to_its_first_unbounded_map():
    found = survey(Candidate("small", classifier(), (1, 96, 96), stages()))
    fine, coarse, last = found["pyramid"]
    assert (fine["size"], coarse["size"]) == ([3, 3], [7, 7])
    assert (fine["stride"], coarse["stride"]) == (["2", "2"], ["4", "4"])
    assert fine["verified"] == ["agrees, to the output on 128 x 128"]
    assert last["outcome"] == "unbounded" and "verified" not in last


def test_a_disagreement_is_recorded_as_one(monkeypatch):
    told = Disagreement("NaN", (0, 0), (1, 1), measured=True)
    monkeypatch.setattr("dilated_lib.experiments.survey.verify", lambda *_, **__: told)
    found = survey(Candidate("wrong", nn.Conv2d(1, 1, 3), (1, 64, 64)))
    assert found["verified"] == [f"{told}, to the output on 64 x 64"]


def test_a_network_that_decides_by_values_is_refused():
    class Decides(nn.Module):
        def forward(self, x):
            return x if x.mean() > 0 else -x

    found = survey(Candidate("decides", Decides(), (1, 64, 64)))
    assert found["outcome"] == "refused" and "depends on the values" in found["reason"]
    assert "verified" not in found


def test_the_smallest_member_stands_for_a_family():
    widths = {"test_tiny": 1, "a_large": 9, "small": 2, "as_small": 2}
    chosen = smallest(widths, lambda name: nn.Linear(3, widths[name]))
    assert chosen == "as_small"
    with pytest.raises(ValueError, match="empty"):
        smallest([], nn.Identity)


class Member(nn.Module):
    """A network of timm's: it has as many weights as it is told, and a usual input."""

    def __init__(self, weights, options):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(weights))
        self.default_cfg = {"input_size": (3, 8 * weights, 8 * weights)}
        self.options = options
        self.feature_info = SimpleNamespace(out_indices=(1, 3))


FAMILIES = {"resnet": {"resnet50": 9, "resnet18": 4}, "vit": {"vit_tiny": 5}}
WEIGHTS = {"botnet26t_256": 6, **FAMILIES["resnet"], **FAMILIES["vit"]}
FLAT = ("vit_tiny",)  # timm makes no pyramid of it


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins for timm and segmentation-models-pytorch, and what they say."""
    timm, smp = ModuleType("timm"), ModuleType("segmentation_models_pytorch")
    timm.list_modules = lambda: [*FAMILIES]
    timm.list_models = lambda *, module: [*FAMILIES[module]]

    def create_model(name, **options):
        if options and name in FLAT:
            raise RuntimeError("feature extraction is not supported")
        return Member(WEIGHTS[name], options)

    class Decoder(nn.Linear):
        def __init__(self, encoder, *, encoder_weights):
            super().__init__(2, 2)
            self.asked = encoder, encoder_weights

    timm.create_model = create_model
    smp.DPT, smp.Unet = type("DPT", (Decoder,), {}), type("Unet", (Decoder,), {})
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", smp)


def test_every_family_six_networks_with_attention_and_twelve_decoders_are_asked(
    packages,
):
    listed = names()
    assert len(listed) == 2 + 6 + 12
    assert listed[:2] == ["timm/resnet", "timm/vit"]
    attentive = {"timm/botnet26t_256", "timm/samvit_base_patch16"}
    assert attentive <= {*listed[2:8]}
    assert all(name.startswith("timm/") for name in listed[:8])
    assert {"smp/DPT", "smp/Unet", "smp/UnetPlusPlus"} <= {*listed[8:]}
    recorded = {one.experiment for one in records.read("timm")}
    assert {*listed[2:]} <= recorded


def test_a_family_stands_for_its_smallest_member_and_its_pyramid(packages):
    one = candidate("timm/resnet")
    assert one.name == "resnet18" and one.input_size == (3, 32, 32)
    assert one.network.options == {}
    torch.manual_seed(0)
    assert torch.equal(one.network.weight, torch.rand(4))
    stages = [build().options for build in one.stages]
    assert stages == [
        {"features_only": True, "out_indices": (1,)},
        {"features_only": True, "out_indices": (3,)},
    ]


def test_a_network_can_be_named_itself(packages):
    one = candidate("timm/botnet26t_256")
    assert one.name == "botnet26t_256" and one.input_size == (3, 48, 48)
    assert len(one.stages) == 2


def test_a_network_of_which_timm_makes_no_pyramid_has_no_stages(packages):
    one = candidate("timm/vit")
    assert one.name == "vit_tiny" and one.stages == ()
    assert isinstance(one.network, Member) and one.input_size == (3, 40, 40)


@pytest.mark.parametrize(
    ("decoder", "encoder", "side"),
    [("Unet", "resnet18", 256), ("DPT", "tu-vit_tiny_patch16_224", 224)],
)
def test_a_decoder_stands_on_an_encoder_that_it_takes(packages, decoder, encoder, side):
    one = candidate(f"smp/{decoder}")
    assert one.name == f"{decoder} on {encoder}" and one.stages == ()
    assert one.input_size == (3, side, side)
    assert type(one.network).__name__ == decoder
    assert one.network.asked == (encoder, None)  # which has random weights
    torch.manual_seed(0)
    assert torch.equal(one.network.weight, nn.Linear(2, 2).weight)


@pytest.fixture
def asked(monkeypatch):
    """What is compared, and on which sides; all of it agrees."""
    calls = []

    def agreement(network, usual, to, sides):
        calls.append((network, usual, to, tuple(sides)))
        return "agrees"

    monkeypatch.setattr(timm_survey, "agreement", agreement)
    return calls


def test_a_network_is_compared_on_small_inputs_before_its_usual_one(asked):
    network = nn.Conv2d(1, 1, 3)
    found = survey(Candidate("small", network, (1, 200, 224)))
    assert found["verified"] == ["agrees"]
    assert asked == [(network, (1, 200, 224), None, (64, 96, 128, 224))]


def test_the_maps_of_a_pyramid_are_compared_on_128_pixels_or_the_usual_input(asked):
    one = Candidate("small", classifier(), (1, 200, 224), stages()[:2])
    assert [stage["verified"] for stage in survey(one)["pyramid"]] == 2 * [["agrees"]]
    assert [call[1:] for call in asked[1:]] == 2 * [((1, 200, 224), None, (128, 224))]
    assert [len(call[0]) for call in asked[1:]] == [1, 2]


def test_a_pyramid_ends_at_a_map_that_is_refused(asked):
    class Decides(nn.Module):
        def forward(self, x):
            return x if x.mean() > 0 else -x

    some = [stages()[0], Decides, stages()[1]]
    found = survey(Candidate("decides", classifier(), (1, 64, 64), some))
    assert [stage["outcome"] for stage in found["pyramid"]] == ["exact", "refused"]
    assert "verified" not in found["pyramid"][1]


@pytest.mark.parametrize(("side", "compared"), [(1023, True), (1024, False)])
def test_an_input_of_1024_pixels_is_too_large_to_compare(
    asked, monkeypatch, side, compared
):
    monkeypatch.setattr(
        timm_survey, "outcome", lambda *_: ({"outcome": "exact"}, 0.012345)
    )
    found = survey(Candidate("wide", nn.Conv2d(1, 1, 3), (1, 64, side)))
    verified = {"verified": ["agrees"]} if compared else {}
    assert found == {"outcome": "exact", "analysis_ms": 12.3, **verified}


@pytest.fixture
def surveyed(tmp_path, monkeypatch):
    """A survey of two names whose second one fails; versions are made up."""

    def outcome(one):
        warnings.warn("timm will rename this", stacklevel=1)
        if one.name == "resnet18":
            raise KeyError("a fault")
        return {"outcome": "exact", "weights": one.network.weight.numel()}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm_survey, "names", lambda: ["timm/vit", "timm/resnet"])
    monkeypatch.setattr(timm_survey, "survey", outcome)
    monkeypatch.setattr(
        "dilated_lib.experiments.recorder.version", lambda name: f"{name} 1.0"
    )
    with warnings.catch_warnings():
        yield tmp_path / "book" / "results" / "timm.json"


def test_a_fault_is_recorded_and_the_survey_goes_on(packages, surveyed):
    main()
    failed, exact = records.read_file(surveyed)
    assert [failed.experiment, exact.experiment] == ["timm/resnet", "timm/vit"]
    assert failed.config == {"network": "resnet18", "input_size": [3, 32, 32]}
    assert failed.metrics == {"outcome": "failed", "reason": "KeyError('a fault')"}
    assert exact.config == {"network": "vit_tiny", "input_size": [3, 40, 40]}
    assert exact.metrics == {"outcome": "exact", "weights": 5}
    assert exact.versions["timm"] == "timm 1.0"
    name = "segmentation-models-pytorch"
    assert exact.versions[name] == f"{name} 1.0"


def test_some_are_surveyed_anew_and_the_other_records_stay(packages, surveyed):
    main(surveyed)
    main(surveyed, only=("timm/botnet26t_256",))
    kept = [one.experiment for one in records.read_file(surveyed)]
    assert kept == ["timm/botnet26t_256", "timm/resnet", "timm/vit"]
    main(surveyed)
    kept = [one.experiment for one in records.read_file(surveyed)]
    assert kept == ["timm/resnet", "timm/vit"]


def test_the_command_says_what_it_surveys(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["timm_survey", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(timm_survey.__file__, run_name="__main__")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "What the units of timm's networks see" in printed
    assert "--only" in printed and "book/results" in printed
