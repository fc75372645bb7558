"""Torchvision: what the units of its networks see is what the record says.

Ten networks are analysed anew, and every one each week.
"""

import json

import pytest
from torchvision import models

from dilated_lib import records
from dilated_lib.experiments.torchvision_survey import networks, survey

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
