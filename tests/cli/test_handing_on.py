"""What commands hand on to the library, and how they print what comes back."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, call, patch

import numpy as np
import pytest

from dilated_lib.cli import download, evaluate, plan, segment, throughput, train
from dilated_lib.data.palettes import VOC_ANIMALS
from dilated_lib.experiments.plan import planned
from dilated_lib.prediction.metric import Scores
from dilated_lib.prediction.segmentation import probabilities
from dilated_lib.training.config import Config


@pytest.fixture
def pictures():
    """All that the commands for pictures call, and a label map as their result."""
    labels = np.array([[0, 0, 0, 2]] * 2)
    palette = {"sky": (1, 1, 1), "road": (2, 2, 2), "car": (3, 3, 3)}
    names = ("open_network", "networks", "load", "bfloat16", "predict")
    inside = {name: Mock() for name in names}
    inside["open_network"].return_value = (Mock(palette=palette), "architecture")
    inside["networks"].photo_network.return_value.palette = {"cat": (4, 4, 4)}
    inside["networks"].street_network.return_value.palette = palette
    inside["predict"].return_value = Mock(labels=labels, palette=palette)
    with patch.multiple("dilated_lib.cli.pictures", **inside):
        yield SimpleNamespace(**inside)


USUAL = {"tile": None, "context": "whole", "upsampling": None, "scale": None}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "tile": (48, 64),
            "context": "tiles",
            "upsampling": "half_pixel",
            "scale": 2.0,
        },
    ],
)
def test_segment_hands_its_options_on_and_tells_what_it_saw(
    options, pictures, tmp_path, capsys
):
    image, output = tmp_path / "image.jpg", tmp_path / "labels.PNG"
    for file in (image, output):  # one that is there is replaced
        file.touch()
    segment(image, output=output, **options)
    pictures.predict.assert_called_once_with(
        image,
        pictures.networks.photo_network.return_value,
        **USUAL | options,
        probabilities=False,
        progress=True,
    )
    pictures.predict.return_value.save.assert_called_once_with(output)
    told = "sky             75.0 %\ncar             25.0 %\n"
    assert capsys.readouterr().out == told


def test_segment_takes_a_network_of_the_paper_or_a_file_or_one_that_is_there(
    pictures, tmp_path
):
    image, weights = tmp_path / "image.jpg", tmp_path / "weights"
    to = {"output": tmp_path / "labels.png"}
    paper = {"network": "dilation7_kitti", "weights": weights}
    segment(image, **to, **paper)
    segment(image, **to, **paper, fc_channels=8)
    built = pictures.networks.dilation7_kitti
    assert built.call_args_list == [call(fc_channels=4096), call(fc_channels=8)]
    pictures.load.assert_called_with(built.return_value, weights)
    segment(image, **to, weights=weights)
    pictures.open_network.assert_called_once_with(weights)
    for named in ({}, {"network": "photos"}, {"network": "streets"}):
        segment(image, **to, **named)
    taken = [called.args[1] for called in pictures.predict.call_args_list]
    file, _ = pictures.open_network.return_value
    photos = pictures.networks.photo_network.return_value
    streets = pictures.networks.street_network.return_value
    assert taken == [built.return_value] * 2 + [file, photos, photos, streets]


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("quick", [{}, {"quick": True}])
def test_segment_runs_on_a_gpu_or_quickly_on_a_cpu(gpu, quick, pictures, tmp_path):
    with patch("torch.cuda.is_available", return_value=gpu):
        segment(Path("image.jpg"), output=tmp_path / "labels.png", **quick)
    network = pictures.networks.photo_network.return_value
    if quick and not gpu:
        pictures.bfloat16.quick.assert_called_once_with(network)
        network = pictures.bfloat16.quick.return_value
    else:
        pictures.bfloat16.quick.assert_not_called()
    network.to.assert_called_once_with("cuda" if gpu else "cpu")
    assert pictures.predict.call_args.args[1] is network


@pytest.mark.parametrize(
    ("output", "options", "told"),
    [
        ("labels.jpg", {}, "labels.jpg must be a .png file in a folder that is there"),
        ("no/labels.png", {}, "labels.png must be a .png file in a folder that is"),
        ("image.png", {}, "image.png is the picture itself, which stays"),
        ("a.png", {"network": "dilation7_kitti"}, "kitti needs its weights: --weights"),
        (
            "a.png",
            {"network": "streets", "weights": Path("w")},
            "streets has weights of its own: leave out one of --network and --weights",
        ),
    ],
)
def test_segment_refuses_before_it_works(
    output, options, told, pictures, tmp_path, capsys
):
    image = tmp_path / "image.png"
    image.touch()
    with pytest.raises(SystemExit) as stop:
        segment(image, output=tmp_path / output, **options)
    assert stop.value.code == 2 and told in capsys.readouterr().err
    pictures.predict.assert_not_called()


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize(
    ("options", "classes", "split", "flip"),
    [
        ({}, ("sky", "car"), "val", False),
        ({}, (*VOC_ANIMALS,), "val", False),
        (
            {"split": "test", "flip": True, "weights": Path("w")},
            (*VOC_ANIMALS,),
            "test",
            True,
        ),
    ],
)
def test_evaluate_measures_a_network_on_a_split(
    gpu, options, classes, split, flip, pictures, capsys
):
    data = Mock(palette=dict.fromkeys(classes))
    scores = Scores(40.0, 62.5, {"sky": 40.0, "car": None})
    with (
        patch("torch.cuda.is_available", return_value=gpu),
        patch("dilated_lib.data.sets.open_data", return_value=data) as opened,
        patch("dilated_lib.prediction.metric.evaluate", return_value=scores) as measure,
    ):
        evaluate("shapes", **options)
    opened.assert_called_once_with("shapes")
    if "weights" in options:
        pictures.open_network.assert_called_once_with(options["weights"])
        network, _ = pictures.open_network.return_value
    elif "cow" in classes:
        network = pictures.networks.photo_network.return_value
    else:
        network = pictures.networks.street_network.return_value
    data.require_classes.assert_called_once_with((*network.palette,))
    data.split.assert_called_once_with(split)
    device = "cuda" if gpu else "cpu"
    network.to.assert_called_once_with(device)
    of, *rest = measure.call_args.args
    assert (of.func, of.args, of.keywords) == (probabilities, (network,), {})
    assert rest == [data.split.return_value, classes]
    assert measure.call_args.kwargs == {
        "device": device,
        "flip": flip,
        "progress": True,
    }
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["sky", "40.0"],
        ["car", "-"],
        ["mean", "IoU", "40.0"],
        ["accuracy", "62.5"],
    ]


def test_download_shows_how_far_it_is():
    with patch("dilated_lib.data.sets.download") as called:
        download("camvid")
    called.assert_called_once_with("camvid", progress=True)


@pytest.mark.parametrize("options", [{}, {"experiment": "mine"}])
def test_train_shows_how_far_it_is_and_names_its_record(options, capsys):
    config = Config(steps=3)
    with patch("dilated_lib.training.loop.train", return_value=None) as called:
        train(Path("RUN"), config, **options)
    usual = {"experiment": "own/run"}
    called.assert_called_once_with(
        config, Path("RUN"), **usual | options, progress=True
    )
    assert capsys.readouterr().out == ""


FOLDERS = {"runs": Path("runs"), "out": Path("book/results")}
CHANGES = {
    "weights": Path("weights"),
    "runs": Path("there"),
    "out": Path("results"),
    "minutes": 3,
    "rehearse": True,
    "progress": False,
}


@pytest.mark.parametrize("options", [{}, CHANGES])
def test_plan_carries_a_tier_out(options):
    with patch("dilated_lib.experiments.plan.execute") as execute:
        plan("small", **options)
    usual = {"weights": "imagenet", "minutes": 0, "rehearse": False, "progress": True}
    execute.assert_called_once_with("small", **usual | FOLDERS | options)


def run_of(tier, name, seed, tflop=0):
    return SimpleNamespace(
        tier=tier, name=name, config=SimpleNamespace(seed=seed), tflop=tflop
    )


@pytest.mark.parametrize(
    ("tier", "options", "deadline"), [(None, {}, None), ("small", CHANGES, 1180)]
)
def test_plan_carries_the_next_run_out(tier, options, deadline, capsys):
    one = run_of("small", "camvid/front", 3)
    inside = {"next_run": Mock(return_value=one), "carry_out": Mock()}
    states = Mock(side_effect=["ready", "done"])
    with (
        patch.multiple("dilated_lib.experiments.plan", **inside, state=states),
        patch("time.monotonic", return_value=1000),
    ):
        plan(tier, next=True, **options)
    all_options = FOLDERS | {"weights": "imagenet"} | options
    runs, out, weights = (all_options[key] for key in ("runs", "out", "weights"))
    inside["next_run"].assert_called_once_with(
        tier or "all", runs=runs, weights=weights
    )
    inside["carry_out"].assert_called_once_with(
        one,
        runs=runs,
        out=out,
        deadline=deadline,
        rehearse=options.get("rehearse", False),
        progress=options.get("progress", True),
    )
    assert states.call_args_list == [call(one, runs)] * 2
    assert capsys.readouterr().out == "camvid/front, seed 3: ready\nnow: done\n"


def test_plan_tells_when_nothing_is_left(capsys):
    with patch("dilated_lib.experiments.plan.next_run", return_value=None):
        plan(next=True)
    assert capsys.readouterr().out == "nothing is left to do\n"


@pytest.mark.parametrize(
    ("rate", "told", "hours"),
    [(2e12, "2.00", "1.0"), (1e24, "1000000000000.00", "0.0")],
)
def test_plan_lists_each_run_and_its_cost_below_its_question(rate, told, hours, capsys):
    runs = [
        run_of("a", "front", 0, tflop=7200),
        run_of("a", "front", 1),
        run_of("b", "x", 0),
    ]
    with patch.multiple(
        "dilated_lib.experiments.plan",
        planned=lambda: runs,
        rate=lambda: rate,
        state=lambda one, folder: f"{one.config.seed} in {folder}",
        TIERS={"a": "Why?", "b": "What?"},
    ):
        plan(runs=Path("there"))
    head, names, *rows = capsys.readouterr().out.splitlines()
    assert head == (f"{told} TFLOP/s in a training step of the padded front end, here")
    assert names == f"run{44 * ' '}seed    TFLOP   hours  state"
    assert rows == [
        "",
        "a: Why?",
        f"front{45 * ' '}0     7200     {hours}  0 in there",
        f"front{45 * ' '}1     7200     {hours}  1 in there",  # not counted again
        "",
        "b: What?",
        f"x{49 * ' '}0        0     0.0  0 in there",
    ]


@pytest.mark.parametrize("options", [(), (Path("here.json"),)])
def test_throughput_times_what_a_machine_can_train(options):
    runs = {one.name: one.config for one in planned()}
    zeros = runs["camvid/imagenet/padded front"]
    names = ("imagenet/front", "scratch/deeplabv3_resnet50")
    wanted = {
        False: ({"zeros": zeros, "margin": zeros.changed(padding="none")}, 4096),
        True: ({name: runs[f"camvid/{name}"] for name in names}, 8192),
    }
    for gpu, (configs, side) in wanted.items():
        with (
            patch("torch.cuda.is_available", return_value=gpu),
            patch("dilated_lib.experiments.throughput.throughput") as called,
        ):
            throughput(*options, compiled=bool(options))
            throughput(*options)
        out = options[0] if options else Path("book/results/throughput.json")
        assert called.call_args_list == [
            call(out, configs, compiled=compiled, side=side)
            for compiled in (bool(options), False)
        ]
