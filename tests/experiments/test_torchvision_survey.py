"""Torchvision: what the units of its networks see is what the record says.

Ten networks are analysed anew, and every one each week.
"""

import json
import runpy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision import models

from dilated_lib import records
from dilated_lib.experiments import torchvision_survey
from dilated_lib.experiments.torchvision_survey import (
    input_size,
    main,
    measured,
    networks,
    output,
    survey,
    verified,
)

RECORDS = {one.experiment: one for one in records.read("torchvision")}
# the quickest of each kind: plain, with squeeze-and-excitation, with channels shuffled
# or normalised, with a pyramid, with dilation and resizing; and two that are refused
FEW = {
    *("alexnet", "vgg11", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
    *("convnext_tiny", "retinanet_resnet50_fpn.backbone", "fcn_resnet50"),
    *("fasterrcnn_resnet50_fpn", "raft_small"),
}


def told(metrics):
    """What does not depend on the machine."""
    left_out = ("analysis_ms", "verified")
    kept = {key: value for key, value in metrics.items() if key not in left_out}
    return json.loads(json.dumps(kept))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FEW else pytest.mark.weekly)
        for name in networks()
    ],
)
def test_torchvision_is_as_recorded(name):
    found, _ = survey(name)
    assert told(found) == told(RECORDS[f"torchvision/{name}"].metrics)


def test_every_network_is_exact_or_unbounded_or_refused_for_a_reason():
    assert {name.split("/")[1].split(".")[0] for name in RECORDS} == set(
        models.list_models()
    )
    for name, one in RECORDS.items():
        assert one.metrics["outcome"] in ("exact", "unbounded", "refused")
        assert (one.metrics["outcome"] == "exact") != bool(one.metrics.get("reason"))
        if "backbone" in name:
            assert one.metrics["outcome"] != "refused"


def test_every_network_agreed_with_its_own_analysis():
    for name, one in RECORDS.items():
        if one.metrics["outcome"] != "refused":
            # of videos, through attention: a single run takes too long
            assert one.metrics["verified"] or "/mvit_" in name, name
            for outcome in one.metrics["verified"]:
                assert outcome.startswith("agrees, to "), name


def test_the_survey_reports_the_last_map_before_everything_is_read():
    outcome, _ = survey("resnet18")
    assert outcome["size"] == [435, 435] and outcome["module"] == "layer4.1"
    assert outcome["reason"].startswith("avgpool")


def test_the_records_are_those_of_every_network_and_in_the_order_of_names():
    assert [f"torchvision/{name}" for name in networks()] == [*RECORDS]
    assert {"resnet18", "ssd300_vgg16", "ssd300_vgg16.backbone"} <= {*networks()}
    assert "resnet18.backbone" not in networks()


def test_each_network_has_its_usual_input():
    for name in networks():
        recorded = RECORDS[f"torchvision/{name}"].config["input_size"]
        assert input_size(name) == tuple(recorded), name
    assert input_size("resnet18") == (3, 224, 224)
    assert input_size("inception_v3") == (3, 299, 299)
    assert input_size("fcn_resnet50") == (3, 520, 520)
    assert input_size("fcos_resnet50_fpn.backbone") == (3, 320, 320)
    assert input_size("r3d_18") == (3, 16, 224, 224)


def test_of_a_detectors_backbone_the_finest_map_is_asked_for():
    assert output("fcos_resnet50_fpn.backbone") == "0"
    assert output("fcos_resnet50_fpn") is None and output("resnet18") is None


def test_a_network_is_surveyed_at_its_own_input_and_output():
    found, seconds = survey("resnet18.conv1")
    assert found["size"] == [7, 7] and found["stride"] == ["2", "2"]
    assert seconds > 0


def test_of_a_backbone_the_field_of_its_finest_map_is_surveyed(monkeypatch):
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 5, 2)

        def forward(self, x):
            fine = self.fine(x)
            return {"1": self.coarse(fine), "0": fine}

    monkeypatch.setattr(torchvision_survey, "named_network", lambda _: Pyramid())
    found, _ = survey("fcos_resnet50_fpn.backbone")
    assert found["module"] == "fine" and found["size"] == [3, 3]


@pytest.fixture
def compared(monkeypatch):
    """A network of ten weights, the sizes of its layers' fields, and what is asked."""
    layers = nn.Conv2d(1, 1, 3), *(nn.ReLU() for _ in range(4))
    network, sizes, asked = nn.Sequential(*layers), {}, []
    field = SimpleNamespace

    def named(name, *, device):
        assert device == "cpu"  # on the meta device it has no weights
        asked.append(name)
        return network

    def receptive_field(model, size, *, to):
        assert model is network
        asked.append((size, to))
        rows = [
            SimpleNamespace(module=name, fields=[field(size=one) for one in axes])
            for name, axes in sizes.items()
        ]
        return SimpleNamespace(layers=rows)

    def agreement(model, usual, to, sides):
        assert model is network
        return f"agrees, to {to} of {usual} on one of {sides}"

    monkeypatch.setattr(torchvision_survey, "named_network", named)
    monkeypatch.setattr(torchvision_survey, "receptive_field", receptive_field)
    monkeypatch.setattr(torchvision_survey, "agreement", agreement)
    monkeypatch.setattr(torchvision_survey, "MANY_WEIGHTS", 11)
    return sizes, asked


PICTURE = (3, 224, 224)
SIDES = (64, 96, 128, 224)


def test_the_output_and_the_last_layer_that_sees_100_positions_are_compared(compared):
    sizes, asked = compared
    sizes |= {"1": (3, 3), "2": (100, 100), "3": (100, 101), "4": (400, 400)}
    sizes["div"] = (100, 100)  # which is no module
    assert verified("resnet18", None) == [
        f"agrees, to None of {PICTURE} on one of {SIDES}",
        f"agrees, to 2 of {PICTURE} on one of (160, 224)",
    ]
    assert asked == ["resnet18", (PICTURE, None)]


def test_the_last_layer_before_everything_is_read_is_compared_too(compared):
    sizes, asked = compared
    sizes |= {"1": (3, 3), "2": (400, 400)}
    assert verified("resnet18", "2") == [
        f"agrees, to None of {PICTURE} on one of {SIDES}",
        f"agrees, to 2 of {PICTURE} on one of {SIDES}",
        f"agrees, to 1 of {PICTURE} on one of (160, 224)",
    ]
    assert asked == ["resnet18", (PICTURE, "2")]


def test_no_layer_is_compared_twice(compared):
    sizes, _ = compared
    sizes |= {"1": (3, 3), "2": (50, 50)}
    assert verified("resnet18", "2") == [
        f"agrees, to None of {PICTURE} on one of {SIDES}",
        f"agrees, to 2 of {PICTURE} on one of {SIDES}",
    ]


def test_a_video_is_compared_on_squares_up_to_its_usual_side(compared):
    sizes, _ = compared
    sizes |= {"1": (3, 3, 3), "2": (9, 50, 400)}
    size = (3, 16, 224, 224)
    assert verified("r3d_18", "2") == [
        f"agrees, to None of {size} on one of {SIDES}",
        f"agrees, to 2 of {size} on one of {SIDES}",
        f"agrees, to 1 of {size} on one of (160, 224)",
    ]


def test_of_a_backbone_the_finest_map_is_compared(compared):
    sizes, asked = compared
    sizes["1"] = (101, 101)
    size, name = (3, 320, 320), "fcos_resnet50_fpn.backbone"
    sides = (64, 96, 128, 320)
    assert verified(name, None) == [f"agrees, to 0 of {size} on one of {sides}"]
    assert asked == [name, (size, "0")]


def test_a_network_with_too_many_weights_is_not_compared_at_its_output(
    compared, monkeypatch
):
    sizes, _ = compared
    sizes["1"] = (3, 3)
    monkeypatch.setattr(torchvision_survey, "MANY_WEIGHTS", 10)
    assert verified("resnet18", None) == [
        f"agrees, to 1 of {PICTURE} on one of (160, 224)"
    ]


def test_a_network_with_too_many_pairs_of_tokens_is_not_compared(compared):
    assert torchvision_survey.MANY_PAIRS in networks()
    assert verified(torchvision_survey.MANY_PAIRS, "blocks.0.attn") == []
    assert compared[1] == []


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows 10 and then 12.5 seconds."""
    times = iter((10.0, 12.5))
    clock = SimpleNamespace(perf_counter=lambda: next(times))
    monkeypatch.setattr(torchvision_survey, "time", clock)


@pytest.mark.parametrize(
    ("found", "compare", "wanted"),
    [
        ({"outcome": "exact", "module": "2"}, True, ["resnet18", None]),
        (
            {"outcome": "unbounded", "reason": "mean", "module": "2"},
            True,
            ["resnet18", "2"],
        ),
        ({"outcome": "unbounded", "reason": "mean"}, True, ["resnet18", None]),
        ({"outcome": "exact", "module": "2"}, False, None),
        ({"outcome": "refused", "reason": "too many outputs"}, True, None),
    ],
)
def test_what_is_not_refused_is_compared_on_demand(
    found, compare, wanted, clock, monkeypatch
):
    def outcome(name):
        assert name == "resnet18"
        return dict(found), 0.012345

    monkeypatch.setattr(torchvision_survey, "survey", outcome)
    monkeypatch.setattr(torchvision_survey, "verified", lambda *asked: [*asked])
    metrics, seconds = measured("resnet18", compare)
    assert seconds == 2.5
    compared = {} if wanted is None else {"verified": wanted}
    assert metrics == found | compared | {"analysis_ms": 12.3}


@pytest.fixture
def pools(tmp_path, monkeypatch):
    """The pools of processes that are asked for; each works here, in this process."""
    opened = []

    class Pool:
        def __init__(self, workers, context, initializer, arguments):
            opened.append((workers, context.get_start_method()))
            torch.set_num_threads(2)
            initializer(*arguments)
            opened.append(torch.get_num_threads())

        def __enter__(self):
            return self

        def __exit__(self, *_):
            opened.append("closed")

        def map(self, function, *arguments):
            return map(function, *arguments)

    def networks():
        return ["r3d_18", "alexnet"]

    def measured(name, compare):
        return {"name": name, "compared": compare}, 1.25

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision_survey, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(torchvision_survey, "networks", networks)
    monkeypatch.setattr(torchvision_survey, "measured", measured)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield opened
    torch.set_num_threads(threads)


def written(path):
    return {
        one.experiment: (one.config["input_size"], one.metrics, one.seconds)
        for one in records.read_file(path)
    }


def test_all_networks_are_surveyed_by_two_processes_of_one_thread(pools, tmp_path):
    main()
    assert pools == [(2, "spawn"), 1, "closed"]
    path = tmp_path / "book" / "results" / "torchvision.json"
    found = written(path)
    assert [*found] == ["torchvision/alexnet", "torchvision/r3d_18"]
    metrics = {"name": "r3d_18", "compared": False}
    assert found["torchvision/r3d_18"] == ([3, 16, 224, 224], metrics, 1.2)
    assert all("threads: 1)" in one.device for one in records.read_file(path))


def test_networks_are_surveyed_anew_and_the_other_records_stay(pools, tmp_path):
    path = tmp_path / "some.json"
    main(path, verify=True)
    main(path, only=("vgg11", "alexnet"))
    compared = {
        name.removeprefix("torchvision/"): metrics["compared"]
        for name, (_, metrics, _) in written(path).items()
    }
    assert compared == {"alexnet": False, "r3d_18": True, "vgg11": False}
    main(path)
    assert [*written(path)] == ["torchvision/alexnet", "torchvision/r3d_18"]


def test_the_command_says_what_it_surveys(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["torchvision_survey", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(torchvision_survey.__file__, run_name="__main__")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "What the units of every network of torchvision see" in printed
    assert "--verify" in printed and "book/results" in printed
