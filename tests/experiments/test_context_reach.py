"""The experiment on reach, its command, and the records that it writes."""

import json
import math
import re
import runpy

import pytest
import torch

import dilated_lib as dl
from dilated_lib import records
from dilated_lib.data.shapes import Shapes
from dilated_lib.experiments import context_reach
from dilated_lib.experiments.context_reach import STACKS, reach
from dilated_lib.experiments.shape_training import deepened
from dilated_lib.records import Record

# Records


def record(**values):
    good = {"experiment": "a", "seed": 1, "config": {}, "metrics": {}, "seconds": 0.5}
    good["device"] = records.device_name(torch.device("cpu"))
    return Record(**good | values)


def test_a_record_says_where_it_was_made():
    one = record()
    assert one.command.startswith("python ")
    assert one.versions["torch"] == torch.__version__.split("+")[0]
    assert re.fullmatch(r"CPU \(\w+, \w+, threads: \d+\)", one.device)
    assert one.commit


def test_records_come_back_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_HOME", tmp_path)
    ours = [record(), record(seed=2, metrics={"accuracy": [1.0, 2.5]})]
    path = tmp_path / "results" / "trial.json"
    records.write(path, ours)
    assert records.read("trial") == ours
    records.write(path, ours[:1])
    assert records.read("trial") == ours[:1]
    assert [one.name for one in path.parent.iterdir()] == ["trial.json"]


def test_a_checkout_has_its_records_in_the_book(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_HOME", tmp_path / "dilated_lib")
    records.write(tmp_path / "book" / "results" / "trial.json", [record()])
    assert records.read("trial") == [record()]


def test_a_missing_or_broken_file_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_HOME", tmp_path)
    records.write(tmp_path / "results" / "trial.json", [record()])
    with pytest.raises(
        FileNotFoundError, match=r"no records called 'other'; there are \['trial'\]"
    ):
        records.read("other")
    for text in ("[{", '[{"experiment": "a"}]', "[3]"):
        (tmp_path / "results" / "trial.json").write_text(text)
        with pytest.raises(ValueError, match=r"trial\.json is no list of records: "):
            records.read("trial")


def test_the_books_records_have_seeds_and_a_clean_commit():
    runs = records.read("reach")
    seeds = {}
    for run in runs:
        seeds.setdefault(run.experiment, []).append(run.seed)
        assert run.command == "python -m dilated_lib reach"
        assert len(run.commit) == 40
        assert run.seconds > 0
    assert list(seeds) == [f"reach/{name}" for name in STACKS]
    assert len(seeds) == 8
    assert all(sorted(group) == [0, 1, 2, 3, 4] for group in seeds.values())


# The command


def test_the_command_trains_every_stack_and_none_sees_beyond_its_field(tmp_path):
    out = tmp_path / "results" / "reach.json"
    reach(out, seeds=1, steps=2, scenes=2, test_scenes=8)
    runs = [Record(**run) for run in json.loads(out.read_text())]
    assert [(run.experiment, run.seed) for run in runs] == [
        (f"reach/{name}", 0) for name in STACKS
    ]
    for run in runs:
        assert run.config["steps"] == 2
        assert run.config["scenes"] == 2
        correct = run.metrics["accuracy_by_distance"]
        assert len(correct) == 21
        dilations, _ = STACKS[run.experiment.removeprefix("reach/")]
        assert run.experiment.startswith("reach/" + ",".join(map(str, dilations)))
        edge = sum(dilations)
        assert run.metrics["receptive_field"] == 2 * edge + 1
        assert max(correct[edge + 1 :]) <= 14.29
    losses = {run.experiment: run.metrics["loss"] for run in runs}
    # the 1 × 1 layers are there
    assert losses["reach/1,1,2,4,1"] != losses["reach/1,1,2,4,1 + four 1x1"]


@pytest.fixture
def replaced(monkeypatch, tmp_path):
    """Scenes, trainings and measurements of nothing, and what was asked of them."""
    asked = {"scenes": [], "fits": []}

    class Stored:
        def __init__(self, name):
            self.name = name

        def through(self, front):
            assert front == "front end"
            return Stored(f"{self.name}, through the front end")

    def of(shapes):
        return Stored(shapes)

    def scenes(count, *, size, seed=0, split="train"):
        asked["scenes"].append((count, size, seed, split))
        return split

    def front_end(data, *, generator):
        assert data.name == "train"
        assert generator.initial_seed() == 0
        return "front end"

    def fit(network, data, *, steps, learning_rate, generator):
        assert data.name == "train, through the front end"
        drawn = torch.rand(1, generator=generator).item()
        asked["fits"].append((network, drawn, steps, learning_rate))
        return [100.0, *[0.123456] * 25, *[0.2] * 25]

    def accuracies(network, data, *, farthest):
        assert network is asked["fits"][-1][0]
        assert data.name == "test, through the front end"
        return [distance / 21 for distance in range(farthest + 1)]

    scenes.classes = Shapes.classes
    monkeypatch.setattr(context_reach, "Shapes", scenes)
    monkeypatch.setattr(context_reach.Maps, "of", of)
    for one in (front_end, fit, accuracies):
        monkeypatch.setattr(context_reach, one.__name__, one)
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_command_measures_on_scenes_that_it_did_not_train_on(replaced):
    reach(seeds=1, scenes=2, test_scenes=3, size=20)
    assert replaced["scenes"] == [(2, 20, 0, "train"), (3, 20, 1, "test")]


def test_the_long_version_trains_each_stack_with_five_seeds(replaced, tmp_path):
    reach()
    stacks = {
        "1,1,1,1,1": ((1, 1, 1, 1, 1), 0, 11),
        "1,1,2,2,1": ((1, 1, 2, 2, 1), 0, 15),
        "1,1,2,4,1": ((1, 1, 2, 4, 1), 0, 19),
        "1,2,4,4,1": ((1, 2, 4, 4, 1), 0, 25),
        "1,2,4,8,1": ((1, 2, 4, 8, 1), 0, 33),
        "2,2,2,2,2": ((2, 2, 2, 2, 2), 0, 21),
        "1,1,1,1,1,1,1,1,1": ((1,) * 9, 0, 19),
        "1,1,2,4,1 + four 1x1": ((1, 1, 2, 4, 1), 4, 19),
    }
    assert replaced["scenes"] == [(512, 52, 0, "train"), (200, 52, 1, "test")]
    made = json.loads((tmp_path / "book" / "results" / "reach.json").read_text())
    assert [(one["experiment"], one["seed"]) for one in made] == [
        (f"reach/{name}", seed) for name in stacks for seed in range(5)
    ]
    pairs = [(stack, seed) for stack in stacks.values() for seed in range(5)]
    for (stack, seed), record, fitted in zip(
        pairs, made, replaced["fits"], strict=True
    ):
        dilations, pointwise, field = stack
        assert record["config"] == {
            "steps": 1500,
            "learning_rate": 0.001,
            "scenes": 512,
            "test_scenes": 200,
            "size": 52,
        }
        assert record["metrics"] == {
            "receptive_field": field,
            "loss": 0.1617,  # of the last 50 steps, without the first one
            "accuracy_by_distance": [round(100 * d / 21, 2) for d in range(21)],
        }
        network, drawn, steps, learning_rate = fitted
        assert (steps, learning_rate) == (1500, 0.001)
        # one generator, with the record's seed, draws the weights and then the scenes
        draw = torch.Generator().manual_seed(seed)
        module = dl.ContextModule(8, dilations=dilations)
        module.reset_parameters(generator=draw)
        wanted = deepened(module, pointwise, generator=draw).state_dict()
        assert network.state_dict().keys() == wanted.keys()
        for name, weights in network.state_dict().items():
            assert torch.equal(weights, wanted[name])
        assert drawn == torch.rand(1, generator=draw).item()


def test_settings_of_ones_own_reach_the_training_and_the_record(replaced, tmp_path):
    reach(tmp_path / "mine.json", seeds=1, steps=7, learning_rate=3.0)
    assert [fit[2:] for fit in replaced["fits"]] == [(7, 3.0)] * 8
    made = json.loads((tmp_path / "mine.json").read_text())
    assert {one["config"]["steps"] for one in made} == {7}
    assert {one["config"]["learning_rate"] for one in made} == {3.0}
    assert {one["seed"] for one in made} == {0}


def test_the_command_explains_itself_and_refuses_what_it_does_not_know(
    monkeypatch, capsys
):
    for words, code in ((["--help"], 0), (["--steps", "many"], 2)):
        monkeypatch.setattr("sys.argv", ["dilated_lib", "reach", *words])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("dilated_lib", run_name="__main__")
        assert stop.value.code == code
        printed = capsys.readouterr()
        if code:
            assert "many" in printed.err
        for word in ("--seeds", "--steps", "The long version of chapter 10"):
            assert code or word in printed.out


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"seeds": 0}, "0 and 0.001"),
        ({"learning_rate": math.nan}, "5 and nan"),
        ({"learning_rate": math.inf}, "5 and inf"),
        ({"learning_rate": 0}, "5 and 0"),
        ({"learning_rate": -1}, "5 and -1"),
    ],
)
def test_impossible_trainings_are_refused_before_the_work(
    options, values, replaced, tmp_path
):
    said = "seeds must be at least 1, and learning_rate a number above 0, got "
    with pytest.raises(ValueError, match=f"^{re.escape(said + values)}$"):
        reach(tmp_path / "reach.json", **options)
    assert replaced["scenes"] == [] and not any(tmp_path.iterdir())
