"""``python -m dilated_lib rf``: a table for people, JSON for programs."""

import json
import math
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn

import dilated_lib as dl
from dilated_lib.cli import rf, sizes, train
from dilated_lib.networks.architecture import Architecture
from dilated_lib.records import Record
from dilated_lib.training.config import MODERN, PAPER, Config


def halved():
    """A network of one's own, to be named on the command line."""
    return nn.Sequential(nn.Conv2d(1, 1, (3, 5), 2), nn.Upsample(scale_factor=2))


def halves():
    return nn.Sequential(nn.Conv2d(1, 1, (3, 5), 2), nn.Upsample(scale_factor=4))


def gaps():
    return nn.Sequential(nn.ConvTranspose2d(1, 1, 1, 2, padding=1))


def classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(81, 2))


def weighed():
    class Weighed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2)

        def forward(self, x):
            x = self.conv(x)
            return x * x.mean((2, 3), keepdim=True)

    return Weighed()


def askew():
    class Askew(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 2, padding=1)

        def forward(self, x):
            return x + self.conv(x)[..., 1:, 1:]

    return Askew()


def broken():
    raise KeyError("no such\nthing")


def typed(words, monkeypatch):
    """Run a command; its exit code."""
    monkeypatch.setattr(sys, "argv", ["dilated_lib", *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("dilated_lib", run_name="__main__")
    return stop.value.code


def table(capsys, *arguments, **options):
    rf(*arguments, **options)
    return capsys.readouterr().out.splitlines()


def test_a_row_for_each_layer_with_the_numbers_of_both_axes(capsys):
    lines = table(capsys, f"{__name__}:halved", size=(1, 20, 20))
    assert lines[0].split() == ["layer", "units", "size", "stride", "padding"]
    assert lines[1].split() == ["0", "conv2d", "9x8", "3x5", "2", "0"]
    assert lines[2].split() == ["1", "upsample_nearest2d", "18x16", "3x5", "1", "0"]
    assert lines[3].startswith("Traced in ") and " ms, analysed in " in lines[3]


@pytest.mark.parametrize(
    ("network", "rows"),
    [
        (
            halves,
            [
                "layer                      units        size    stride   padding",
                "0 conv2d                     9x8         3x5         2         0",
                "1 upsample_nearest2d       36x32         3x5       1/2         0",
            ],
        ),
        (  # the first unit sees nothing
            gaps,
            [
                "layer                    units        size    stride   padding",
                "0 conv_transpose2d       37x37           1       1/2         -",
            ],
        ),
    ],
)
def test_columns_stand_below_their_names(network, rows, capsys):
    name = f"{__name__}:{network.__name__}"
    answer = dl.receptive_field(network(), (1, 20, 20))
    vars(answer)["seconds"] = (1.5, 0.5)
    with patch("dilated_lib.cli.receptive_fields.receptive_field", return_value=answer):
        lines = table(capsys, name)
    assert lines == [*rows, "Traced in 1500 ms, analysed in 500.0 ms."]


def test_a_layer_without_axes_has_no_units_to_count(capsys):
    lines = table(capsys, f"{__name__}:classifier", size=(1, 9, 9))
    assert lines[1].split()[-4:] == ["-", "inf", "0", "-"]


def test_an_unbounded_field_is_named(capsys):
    lines = table(capsys, "resnet18", size=(3, 64, 64))
    assert (
        lines[-2]
        == "From avgpool (adaptive_avg_pool2d) on, units see positions at any distance."
    )
    assert "avgpool adaptive_avg_pool2d" in lines[-3]
    assert lines[-3].split()[-3:] == ["inf", "0", "-"]


def test_a_join_whose_centres_differ_is_marked(capsys):
    (line,) = [
        line
        for line in table(capsys, f"{__name__}:askew", size=(1, 9, 9))
        if "centres differ" in line
    ]
    assert line.split()[:3] == ["add", "add", "9x9"]
    assert line.endswith("  centres differ")


def test_json_for_programs(capsys):
    rf("resnet18", size=(3, 64, 64), to="layer1", json=True)
    told = json.loads(capsys.readouterr().out)
    field = {"size": 43, "stride": 4, "padding": 21, "phases": [[-21, 21]]}
    assert told["fields"] == [field, field]
    assert told["layers"][0]["module"] == "conv1" and told["unbounded_by"] is None
    assert told["seconds"]["analysis"] < told["seconds"]["tracing"]
    rf("resnet18", size=(3, 64, 64), json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["fields"][0]["size"] is None
    assert told["unbounded_by"] == "avgpool (adaptive_avg_pool2d)"


def test_json_has_each_layer_and_fractions_as_text(capsys):
    name = f"{__name__}:halves"
    rf(name, size=(1, 20, 20), json=True)
    text = capsys.readouterr().out
    assert text.startswith('{\n "network"')
    told = json.loads(text)
    assert set(told.pop("seconds")) == {"tracing", "analysis"}
    high, wide = {"padding": 0}, {"padding": 0}
    strided = [
        high | {"size": 3, "stride": 2, "phases": [[0, 2]]},
        wide | {"size": 5, "stride": 2, "phases": [[0, 4]]},
    ]
    enlarged = [
        high | {"size": 3, "stride": "1/2", "phases": [[0, 2]] * 4},
        wide | {"size": 5, "stride": "1/2", "phases": [[0, 4]] * 4},
    ]
    rows = [
        ("0", "conv2d", [1, 1, 9, 8], strided),
        ("1", "upsample_nearest2d", [1, 1, 36, 32], enlarged),
    ]
    keys = ("module", "operation", "shape", "fields")
    assert told == {
        "network": name,
        "input_size": [1, 20, 20],
        "fields": enlarged,
        "unbounded_by": None,
        "layers": [dict(zip(keys, row, strict=True), aligned=True) for row in rows],
    }
    rf(name, size=(1, 20, 20), of="0", json=True)
    (layer,) = json.loads(capsys.readouterr().out)["layers"]
    assert layer["fields"][0]["stride"] == "1/4"
    rf("torch.nn:Identity", json=True)
    assert json.loads(capsys.readouterr().out)["input_size"] == [3, 224, 224]
    rf(f"{__name__}:gaps", size=(1, 9, 9), json=True)
    field = json.loads(capsys.readouterr().out)["fields"][0]
    assert (field["padding"], field["phases"]) == (None, [None, [1, 1]])


REFUSED = {
    "resnet19": "torchvision has no network 'resnet19'; one of yours is",
    "resnet18.layer9": "resnet18 has no module 'layer9'",
    "nowhere:network": "nowhere:network cannot be loaded: No module named 'nowhere'",
    f"{__name__}:none": f"{__name__}:none cannot be loaded",
    "..:network": "..:network cannot be loaded",
    f"{__name__}:broken": f"{__name__}:broken cannot be built: 'no such\\nthing'",
    f"{__name__}:typed": f"{__name__}:typed cannot be built: typed() missing 2",
    "builtins:dict": "builtins:dict is no network, but a dict",
    "raft_small": "RAFT on 3 x 224 x 224 cannot be traced",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_analysed_is_refused_in_a_sentence(name, capsys):
    with pytest.raises(SystemExit) as stop:
        rf(name)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(REFUSED[name])
    assert printed.err.count("\n") == 1


def test_a_part_of_a_network(capsys):
    lines = table(capsys, "resnet18.layer1", size=(64, 20, 20))
    assert lines[-2].split()[:2] == ["1", "add_1"] or "add" in lines[-2]
    assert lines[-2].split()[-3:] == ["9", "1", "4"]


def test_the_command_as_it_is_typed():
    typed = [sys.executable, "-m", "dilated_lib", "rf", "alexnet", "--to", "features.2"]
    typed += ["--size", "3", "224", "224"]
    done = subprocess.run(typed, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[2].split()[-3:] == ["19", "8", "2"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words", [["rf", "vgg7"], ["traps", "--data", "no"], ["context", "--data", "no"]]
)
def test_a_command_that_fails_says_why_in_a_sentence(
    words, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys, "argv", ["dilated_lib", *words])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("dilated_lib", run_name="__main__")
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "inside", "again"),
    [
        ("train RUN modern --data shapes", "training.loop.train", "goes on where it"),
        ("plan small", "experiments.plan.execute", "goes on where it stopped"),
        ("download camvid", "data.sets.download", "goes on where it stopped"),
        ("rf alexnet", "cli.receptive_fields.receptive_field", "begins anew"),
        ("reach OUT", "experiments.context_reach.Maps.of", "begins anew"),
    ],
)
def test_an_interrupted_command_is_one_sentence(
    words, inside, again, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with patch(f"dilated_lib.{inside}", side_effect=KeyboardInterrupt):
        assert typed(words.split(), monkeypatch) == 130
    told = capsys.readouterr()
    assert told.err.startswith("Interrupted; the same command") and again in told.err
    assert told.err.count("\n") == 1 and not told.out


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nTried much"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes\nat 0x1"),
    ],
)
def test_too_little_memory_is_one_sentence(error, capsys):
    inside = "dilated_lib.cli.receptive_fields.receptive_field"
    with patch(inside, side_effect=error), pytest.raises(SystemExit):
        rf("alexnet")
    told = capsys.readouterr().err
    assert told.startswith("there is not enough memory: ") and told.count("\n") == 1
    mistake = RuntimeError("a mistake")  # of the library, which nobody should hide
    with patch(inside, side_effect=mistake), pytest.raises(RuntimeError):
        rf("alexnet")


def test_a_files_own_words_neither_break_the_line_nor_reach_the_terminal(capsys):
    inside = "dilated_lib.cli.receptive_fields.receptive_field"
    told = "é \x1b[31mred\n\udc80 \u200b"
    with patch(inside, side_effect=ValueError(told)), pytest.raises(SystemExit):
        rf("alexnet")
    assert capsys.readouterr().err == "é \\x1b[31mred\\n\\udc80 \\u200b\n"


def test_memory_that_cannot_be_had_is_told_in_gigabytes(capsys):
    inside = "dilated_lib.cli.receptive_fields.receptive_field"

    def vast(*_, **__):
        torch.empty(10**17, dtype=torch.float32)

    with patch(inside, vast), pytest.raises(SystemExit) as stop:
        rf("alexnet")
    told = "there is not enough memory: 400000000.0 GB more are needed at once\n"
    assert stop.value.code == 2 and capsys.readouterr().err == told


def test_a_network_without_layers_has_an_empty_table(capsys):
    lines = table(capsys, "torch.nn:Identity")
    assert lines[0].split() == ["layer", "units", "size", "stride", "padding"]
    assert lines[1].startswith("Traced in ")


def test_the_traceback_is_shown_on_demand(monkeypatch, capsys):
    assert typed(["rf", "resnet19"], monkeypatch) == 2
    plain = capsys.readouterr().err
    call = [sys.executable, "-m", "dilated_lib", "rf", "resnet19", "--debug"]
    full = subprocess.run(call, capture_output=True, text=True).stderr
    assert full.startswith("What happened:\nTraceback")
    assert full.endswith(plain) and plain.count("\n") == 1


def test_the_version_and_the_name_of_the_program(monkeypatch, capsys):
    assert typed(["--version"], monkeypatch) == 0
    assert capsys.readouterr().out == metadata.version("dilated-lib") + "\n"
    assert typed(["rf"], monkeypatch) == 2
    told = capsys.readouterr().err
    assert "python -m dilated_lib rf" in told and "__main__" not in told


@pytest.mark.parametrize("minutes", ["nan", "-1", "inf"])
def test_a_time_that_is_none_is_refused(minutes, monkeypatch, capsys):
    assert typed(["plan", "all", f"--minutes={minutes}"], monkeypatch) == 2
    assert "minutes must be 0 or more" in capsys.readouterr().err


def test_the_sizes_of_a_network_and_whether_one_is_whole(capsys):
    sizes("dilated_lib.networks:dilation7_kitti", at=(852, 1640))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "height: 372 + 8n pixels give n cells, 8 pixels apart"
    assert lines[2].endswith(": 186") and lines[3] == "  852 pixels are 60 whole cells"
    assert lines[4] == "width: 372 + 8n pixels give n cells, 8 pixels apart"
    assert "1636 (158 cells) or 1644 (159)" in lines[7]


def test_the_sizes_for_a_module_on_a_size_that_the_network_takes(capsys):
    inside = "dilated_lib.cli.receptive_fields.input_sizes"
    with patch(inside, wraps=dl.input_sizes) as called:
        sizes(f"{__name__}:halves", channels=1, to="0", at=(21, 24))
    assert called.call_args.kwargs == {"channels": 1, "to": "0", "at": (21, 24)}
    assert capsys.readouterr().out.splitlines() == [
        "height: 1 + 2n pixels give n cells, 2 pixels apart",
        "  a cell sees 3 pixels; of those that the first sees, 0 are padding",
        "  margin on each side, to centre it on its own pixels: 0.5",
        "  21 pixels are 10 whole cells",
        "width: 3 + 2n pixels give n cells, 2 pixels apart",
        "  a cell sees 5 pixels; of those that the first sees, 0 are padding",
        "  margin on each side, to centre it on its own pixels: 1.5",
        "  24 pixels do not give whole cells; sizes that do are 3 + 2n, such as 23 "
        "(10 cells) or 25 (11)",
    ]


def test_the_sizes_of_a_network_that_weighs_what_it_sees(capsys):
    sizes(f"{__name__}:weighed")
    one, seen, whole, *other = capsys.readouterr().out.splitlines()
    assert one == "height: 1 + 2n pixels give n cells, 2 pixels apart"
    assert seen == "  a cell sees the whole axis"
    assert whole.startswith("  512 pixels do not give whole cells")
    assert other == [one.replace("height", "width"), seen, whole]


def test_a_network_without_such_sizes_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as caught:
        sizes("resnet18")
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("a cell sees the whole axis")


def trained(monkeypatch, options):
    """The configuration that a training gets from words on the command line."""
    with patch("dilated_lib.training.loop.train", return_value=None) as called:
        monkeypatch.setattr(sys, "argv", ["dilated_lib", "train", "RUN", *options])
        runpy.run_module("dilated_lib", run_name="__main__")
    return called.call_args.args[0]


def test_a_network_is_described_among_the_options_of_a_run(monkeypatch):
    words = "modern --width 4 --fc-channels 8 --batch-norm --padding zeros --steps 3"
    words += " --stage joint --context large --dilations 1 2 --scale 0.5 --dropout 0.1"
    assert trained(monkeypatch, words.split()) == Config(
        stage="joint",
        architecture=Architecture(
            padding="zeros",
            width=4,
            fc_channels=8,
            batch_norm=True,
            context="large",
            dilations=(1, 2),
            scale=0.5,
        ),
        recipe=replace(MODERN, dropout=0.1),
        steps=3,
    )
    paper = Config().changed(recipe=PAPER, scale=4 / 3, steps=20_000)
    assert trained(monkeypatch, ["paper"]) == paper


def test_the_help_tells_the_recipes_apart(monkeypatch, capsys):
    assert typed(["train", "RUN", "--help"], monkeypatch) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert re.search("modern +AdamW, half a cosine, loss at all pixels, scale", told)
    assert re.search("paper +SGD, constant rate, loss at cells, mirror and", told)


def ended(capsys, config, losses, val, test=None):
    """What the command prints of a run with these losses and scores (IoU a class)."""
    metrics = {"loss": losses}
    for split, values in {"val": val, "test": test}.items():
        if values is not None:
            classes = dict(zip(("road", "sky", "sign"), values, strict=True))
            metrics[split] = {"miou": 41.26, "accuracy": 70.0, "per_class": classes}
    record = Record(
        experiment="e", seed=0, config={}, metrics=metrics, seconds=1.0, device="CPU"
    )
    with patch("dilated_lib.training.loop.train", return_value=record):
        train(Path("RUN"), config)
    return capsys.readouterr()


def test_a_run_ends_with_a_table_of_its_classes(capsys):
    told = ended(capsys, Config(), [0.9, 0.5], (91.24, 0.06, None), (80.0, 2.0, 7.25))
    assert [line.split() for line in told.out.splitlines()] == [
        ["IoU", "in", "percent", "val", "test"],
        ["road", "91.2", "80.0"],
        ["sky", "0.1", "2.0"],
        ["sign", "-", "7.2"],
        ["mean", "IoU", "41.3", "41.3"],
        ["accuracy", "70.0", "70.0"],
    ]
    assert len({len(line) for line in told.out.splitlines()}) == 1
    assert told.err == ""


def test_classes_that_are_never_predicted_are_named(capsys):
    told = ended(capsys, Config(), [0.9, 0.5], (91.2, 0.0, 0.0), (80.0, 1.0, 2.0))
    assert told.err.startswith("IoU 0.0 on the validation pictures: sky, sign. The net")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "losses", "diverged"),
    [
        ({}, [1.0] * 20 + [1.2] * 20, True),  # ln 3 is 1.10; the second half counts
        ({}, [9.0] * 20 + [1.05] * 20, False),
        ({}, [9.0] * 20 + [math.log(3)] * 20, False),
        ({}, [9.0] * 39 + [1.05], False),
        ({}, [1.2, 1.2], False),  # of two steps, by chance
        ({}, [1.2] * 18, False),
        ({}, [1.2] * 20, True),
        ({"stage": "joint", "context": "basic"}, [1.2] * 40, False),  # 1.4 ln 3
        ({"stage": "joint", "context": "basic"}, [1.6] * 40, True),
    ],
)
def test_a_loss_that_stays_above_that_of_guessing_is_told(
    changes, losses, diverged, capsys
):
    told = ended(capsys, Config().changed(**changes), losses, (50.0, 1.0, 2.0))
    assert ("The loss stays above" in told.err) == diverged == bool(told.err)
