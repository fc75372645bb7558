"""The experiment on reach, its command, and the records that it writes."""

import json
import math
import re
import runpy

import pytest
import torch
from torch import nn

import dilated_lib as dl
from dilated_lib import records
from dilated_lib.data.shapes import Shapes
from dilated_lib.experiments.context_reach import STACKS, reach
from dilated_lib.experiments.shape_training import (
    Maps,
    accuracies,
    deepened,
    fit,
    front_end,
)
from dilated_lib.records import Record


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


PICTURES = Maps.of(Shapes(24))


def test_maps_hold_the_data_set_in_its_order():
    shapes = Shapes(24)
    assert PICTURES.maps.shape == (168, 3, 36, 36)
    for index in (0, 6, 7, 100):
        picture, label = shapes[index]
        assert torch.equal(PICTURES.maps[index], picture)
        assert torch.equal(PICTURES.labels[index], label)
        assert torch.equal(PICTURES.distances[index], shapes.distances(index // 7))


def test_the_front_end_sees_one_pixel_and_knows_the_outline():
    front = front_end(PICTURES, generator=seeded())
    assert dl.compose([dl.Window(front.kernel_size[0])]).size == 1
    shares = accuracies(front, PICTURES, farthest=8)
    assert shares[0] > 0.95
    assert max(shares[1:]) <= 1 / 7 + 1e-9
    maps = PICTURES.through(front)
    assert torch.equal(maps.maps, front(PICTURES.maps))
    assert not maps.maps.requires_grad
    assert torch.equal(maps.labels, PICTURES.labels)
    assert torch.equal(maps.distances, PICTURES.distances)


def test_training_learns_to_the_edge_of_the_field_and_no_further():
    maps = PICTURES.through(front_end(PICTURES, generator=seeded()))
    module = dl.ContextModule(8, dilations=(1, 2))
    module.reset_parameters(generator=seeded())
    losses = fit(module, maps, steps=150, generator=seeded())
    assert len(losses) == 150
    assert losses[-1] < losses[0]
    shares = accuracies(module, maps, farthest=6)
    assert min(shares[:3]) > 0.9
    assert max(shares[4:]) <= 1 / 7 + 1e-9


def test_training_repeats_itself():
    runs = []
    for _ in range(2):
        layer = nn.Conv2d(3, 8, 1)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        runs.append(fit(layer, PICTURES, steps=5, generator=seeded(1)))
    assert runs[0] == runs[1]
    assert runs[0][0] == pytest.approx(math.log(8))


def test_void_pixels_do_not_count():
    data = Maps.of(Shapes(4, nearest=99))
    layer = nn.Conv2d(3, 8, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    fit(layer, data, steps=60, learning_rate=0.3, generator=seeded())
    # all that is left is background
    assert (layer(data.maps).argmax(1)[data.labels == 0] == 0).all()
    assert layer.bias[0] > layer.bias[1:].max()


def test_the_control_is_as_deep_as_nine_layers_and_sees_what_five_see():
    nine = dl.ContextModule(8, dilations=(1,) * 9)
    five = dl.ContextModule(8, dilations=(1, 1, 2, 4, 1))
    network = deepened(five, 4, generator=seeded())
    convs, relus = (
        sum(isinstance(part, kind) for part in network.modules())
        for kind in (nn.Conv2d, nn.ReLU)
    )
    assert convs == len(nine.layers) == 10
    assert relus == 5  # four, and one that the layers of the module share
    sizes = [axis.size for axis in dl.receptive_field(network, (8, 36, 36))]
    assert sizes == [19, 19] == [dl.compose(five.windows).size] * 2
    # the new layers start as the identity: only their ReLU changes anything
    with torch.no_grad():
        logits = torch.randn(2, 8, 9, 9, generator=seeded())
        assert (network(logits) - five(logits).relu()).abs().max() < 0.5
    again = deepened(five, 4, generator=seeded())
    assert torch.equal(again[-1].weight, network[-1].weight)


def test_accuracies_are_shares_of_pixels_at_one_distance():
    class Cheat(nn.Module):
        def forward(self, maps):
            right = nn.functional.one_hot(PICTURES.labels, 9).movedim(-1, 1)
            return torch.where((PICTURES.distances == 2)[:, None], 0, right)

    shares = accuracies(Cheat(), PICTURES, farthest=3)
    assert shares == [1, 1, 0, 1]


def test_a_distance_that_no_pixel_has_is_refused():
    farthest = int(PICTURES.distances.max())
    front = nn.Conv2d(3, 8, 1)
    assert len(accuracies(front, PICTURES, farthest=farthest)) == farthest + 1
    with pytest.raises(ValueError, match=f"^no pixel is {farthest + 1} pixels from"):
        accuracies(front, PICTURES, farthest=farthest + 1)


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


def test_the_command_writes_a_record_for_each_module_and_seed(tmp_path):
    out = tmp_path / "results" / "reach.json"
    reach(out, seeds=2, steps=2, scenes=2, test_scenes=8)
    runs = [Record(**run) for run in json.loads(out.read_text())]
    assert [(run.experiment, run.seed) for run in runs] == [
        (f"reach/{name}", seed) for name in STACKS for seed in (0, 1)
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
    # the seed decides, and the 1 × 1 layers are there
    losses = {(run.experiment, run.seed): run.metrics["loss"] for run in runs}
    assert losses["reach/1,1,2,4,1", 0] != losses["reach/1,1,2,4,1", 1]
    assert losses["reach/1,1,2,4,1", 0] != losses["reach/1,1,2,4,1 + four 1x1", 0]


def test_the_command_measures_on_scenes_that_it_did_not_train_on(monkeypatch, tmp_path):
    made = []

    def keep(scenes, **others):
        made.append(Shapes(scenes, **others))
        return made[-1]

    monkeypatch.setattr("dilated_lib.experiments.context_reach.Shapes", keep)
    monkeypatch.setattr("dilated_lib.experiments.context_reach.STACKS", {})
    keep.classes = Shapes.classes
    reach(tmp_path / "reach.json", scenes=2, test_scenes=3)
    assert [(shapes.scenes, shapes.split) for shapes in made] == [
        (2, "train"),
        (3, "test"),
    ]


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
    "options", [{"seeds": 0}, {"learning_rate": math.nan}, {"learning_rate": -1}]
)
def test_impossible_trainings_are_refused_before_the_work(options, tmp_path):
    with pytest.raises(ValueError, match="seeds must be at least 1, and learning_rate"):
        reach(tmp_path / "reach.json", **options)
