"""Torchvision: what the units of its networks see is what the record says.

One network of each family is analysed anew, but of the slowest families; with
TORCHVISION=all every one is.
"""

import json
import os

from survey import all_records, networks, survey
from torchvision import models

from dilated_lib import records

RECORDS = {one.experiment: one for one in records.read("torchvision")}


def told(metrics):
    """What does not depend on the machine."""
    left_out = ("analysis_ms", "verified")
    kept = {key: value for key, value in metrics.items() if key not in left_out}
    return json.loads(json.dumps(kept))


def family(name):
    """Where torchvision defines it; backbones apart, refused detectors as one."""
    network, _, backbone = name.partition(".")
    module = models.get_model_builder(network).__module__
    if RECORDS[f"torchvision/{name}"].metrics["outcome"] == "refused":
        module = module.rpartition(".")[0]
    return module, backbone


def quickest(names):
    """Of each family the one recorded in the least time, if that was under 45 s."""
    seconds = {name: RECORDS[f"torchvision/{name}"].seconds for name in names}
    names = sorted(names, key=seconds.get, reverse=True)
    chosen = {family(name): name for name in names}.values()
    return sorted(name for name in chosen if seconds[name] < 45)


def test_torchvision_is_as_recorded():
    every = os.environ.get("TORCHVISION") == "all"
    names = networks() if every else quickest(networks())
    found = {one.experiment: told(one.metrics) for one in all_records(names)}
    assert len(found) == (len(RECORDS) if every else 25)
    assert found == {name: told(RECORDS[name].metrics) for name in found}


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
            assert one.metrics["verified"], name
            for outcome in one.metrics["verified"]:
                assert outcome.startswith("agrees, to "), name


def test_the_survey_reports_the_last_map_before_everything_is_read():
    outcome, _ = survey("resnet18")
    assert outcome["size"] == [435, 435] and outcome["module"] == "layer4.1"
    assert outcome["reason"].startswith("avgpool")
