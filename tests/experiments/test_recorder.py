"""The recorder: what it keeps, what it replaces, and what it does not write."""

import inspect
from pathlib import Path

import pytest
import torch

from dilated_lib import records
from dilated_lib.experiments import (
    context_initialisation,
    other_tools,
    timm_survey,
    torchvision_survey,
    traps,
)
from dilated_lib.experiments.context_effect import changes
from dilated_lib.experiments.context_evidence import context
from dilated_lib.experiments.context_reach import reach
from dilated_lib.experiments.far_evidence import far
from dilated_lib.experiments.real_starts import real_starts
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.speed import speed
from dilated_lib.experiments.vgg_erf import erf


def named(path):
    return [(one.experiment, one.seed, one.metrics) for one in records.read_file(path)]


def test_each_record_is_in_the_file_at_once_with_its_time(tmp_path, monkeypatch):
    clock = iter([10.0, 12.34, 20.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    out = tmp_path / "folder" / "mine.json"
    recorder = Recorder(out)
    with recorder.record("a", config={"steps": 3}) as metrics:
        metrics["score"] = 1
        assert not out.exists()
    (first,) = records.read_file(out)
    assert (first.seconds, first.seed, first.config) == (2.3, 0, {"steps": 3})
    assert first.device == records.device_name(torch.device("cpu"))
    with recorder.record("a", seed=1, config={}):
        pass
    assert named(out) == [("a", 0, {"score": 1}), ("a", 1, {})]


def test_a_block_that_raises_leaves_no_record(tmp_path):
    recorder = Recorder(tmp_path / "mine.json")

    def fails():
        with recorder.record("a", config={}) as metrics:
            metrics["score"] = 1
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert recorder.records == [] and not any(tmp_path.iterdir())


def test_records_do_not_change_with_the_config_that_they_were_given(tmp_path):
    recorder, config = Recorder(tmp_path / "mine.json"), {"rate": 1}
    for rate in (1, 2):
        config["rate"] = rate
        recorder.add("a", config=config, metrics={}, seconds=1)
    assert [one.config for one in recorder.records] == [{"rate": 1}, {"rate": 2}]


def test_what_is_in_the_file_stays_only_if_it_is_kept(tmp_path):
    out = tmp_path / "mine.json"
    for keep, count in ((True, 1), (True, 2), (False, 1)):  # at first there is no file
        Recorder(out, keep=keep).add("a", config={}, metrics={}, seconds=1)
        assert len(records.read_file(out)) == count


def test_a_record_is_there_with_its_name_seed_and_settings_or_not_at_all(tmp_path):
    recorder = Recorder(tmp_path / "mine.json")
    assert not recorder.has("a", config={})
    for name, seed in (("a", 0), ("b", 3)):
        recorder.add(name, seed=seed, config={"rate": 2}, metrics={}, seconds=1)
    assert recorder.has("a", config={"rate": 2})
    assert recorder.has("b", seed=3, config={"rate": 2})
    assert not recorder.has("b", config={"rate": 2})
    assert not recorder.has("a", seed=3, config={"rate": 2})
    assert not recorder.has("a", config={"rate": 3})
    # another recorder begins anew unless it is told otherwise
    assert Recorder(tmp_path / "mine.json").records == []


def test_by_name_the_newest_of_each_experiment_is_held_in_order(tmp_path):
    out = tmp_path / "mine.json"
    for name, score in (("b", 1), ("a", 2), ("b", 3)):
        recorder = Recorder(out, keep=True, by_name=True)
        recorder.add(name, config={}, metrics={"score": score}, seconds=1)
    assert named(out) == [("a", 0, {"score": 2}), ("b", 0, {"score": 3})]


def test_versions_of_other_packages_stand_beside_torchs(tmp_path):
    recorder = Recorder(tmp_path / "mine.json", packages=("numpy",))
    recorder.add("a", config={}, metrics={}, seconds=1)
    assert {*recorder.records[0].versions} == {"python", "torch", "numpy"}


COMMANDS = (
    *(changes, context, context_initialisation.measure, erf, far, reach, real_starts),
    *(speed, traps.measure, other_tools.compare, timm_survey.main),
    torchvision_survey.main,
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_adds_to_the_books_record_of_its_name(command):
    usual = inspect.signature(command).parameters
    out = usual["out"].default
    assert (
        out.parent == Path("book/results") and (records.results() / out.name).is_file()
    )
    if "data" in usual:
        assert usual["data"].default in (None, "camvid", inspect.Parameter.empty)
