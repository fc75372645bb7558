"""Training: the loop, its checks, and runs that are killed."""

import errno
import json
import os
import random
import re
import shutil
import signal
import stat
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from math import exp, log
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from training_runs import RECIPE, TINY, launch, process

import dilated_lib as dl
from dilated_lib.data.transforms import augmentation
from dilated_lib.experiments.plan import planned
from dilated_lib.networks.weights import file_state, read_weights
from dilated_lib.prediction.segmentation import probabilities
from dilated_lib.records import Record
from dilated_lib.training import checkpoints, loop, setup
from dilated_lib.training.checkpoints import (
    latest,
    remove_checkpoints,
    write_checkpoint,
)
from dilated_lib.training.config import PAPER, read_config
from dilated_lib.training.first_batch import check_start
from dilated_lib.training.loss import Stage
from dilated_lib.training.optimizer import build_optimizer, learning_rate
from dilated_lib.training.setup import build_network

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*num_workers.*", "ignore:.*is_cuda_available.*"
)


def weights(out):
    return read_weights(out / "network.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) for name in one
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a run of TINY, to its end."""
    folder = tmp_path_factory.mktemp("tiny") / "runs" / "tiny"
    dl.train(TINY, folder, experiment="shapes/tiny")
    return folder


def test_a_run_leaves_a_network_and_a_record(tiny):
    done = Record(**json.loads((tiny / "record.json").read_text())[0])
    assert done.experiment == "shapes/tiny" and done.config["cells"] == [3, 4]
    assert len(done.metrics["loss"]) == 6
    assert done.seconds > 0 and done.device.startswith("CPU (")
    assert set(done.metrics) == {"val", "val_flip", "loss", "waited", "peak_gib"}
    network, architecture = dl.open_network(tiny / "network.safetensors")
    assert architecture.width == 4 and network.scale == 1
    found = dl.evaluate(
        lambda images: probabilities(network, images),
        torch.utils.data.Subset(dl.open_data("shapes").split("val"), range(6)),
        tuple(network.palette),
    )
    assert found.miou == done.metrics["val"]["miou"]
    assert dl.train(TINY, tiny) == done  # done is done


def test_the_test_split_is_read_only_when_asked_for(tmp_path, monkeypatch):
    read = []
    split = dl.data.labelled.DataSet.split

    def watched(self, name):
        read.append(name)
        return split(self, name)

    monkeypatch.setattr(dl.data.labelled.DataSet, "split", watched)
    dl.train(TINY.changed(steps=1), tmp_path / "a")
    assert "test" not in read
    done = dl.train(TINY.changed(steps=1, test=True), tmp_path / "b")
    assert "test" in read and 0 <= done.metrics["test"]["miou"] <= 100


def test_it_learns_black_from_white(tmp_path):
    for name in ("pictures", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("black\nwhite\n")
    for number in range(10):
        size = (48, 40)
        white = number % 2
        picture = Image.new("RGB", size, (255 * white,) * 3)
        picture.save(tmp_path / "pictures" / f"{number}.png")
        Image.new("L", size, white).save(tmp_path / "labels" / f"{number}.png")
    (tmp_path / "train.txt").write_text("0 1 2 3 4 5".replace(" ", "\n"))
    (tmp_path / "val.txt").write_text("6\n7\n8\n9")
    recipe = replace(RECIPE, dropout=0.0, rotation=0.0, colour=0.0)
    config = TINY.changed(
        data=str(tmp_path), padding="none", recipe=recipe, steps=40, pictures=0
    )
    done = dl.train(config, tmp_path / "run")
    assert done.metrics["loss"][0] == pytest.approx(np.log(2), abs=0.05)
    assert np.mean(done.metrics["loss"][-5:]) < 0.2
    assert done.metrics["val"]["miou"] > 90


@pytest.mark.parametrize("recipe", [RECIPE, PAPER])
def test_the_three_stages_go_on_from_each_other(tiny, tmp_path, recipe):
    run = TINY.changed(recipe=recipe)
    folder = tiny if run == TINY else tmp_path / "front"
    dl.train(run, folder)
    front, start = weights(folder), folder / "network.safetensors"
    head = run.changed(stage="context", context="basic", start=start)
    dl.train(head, tmp_path / "head")
    after = weights(tmp_path / "head")
    assert all(torch.equal(after[name], front[name]) for name in front)  # frozen
    new = after.keys() - front.keys()
    assert new and all(name.startswith("ctx_") for name in new)
    start = tmp_path / "head" / "network.safetensors"
    dl.train(head.changed(stage="joint", start=start), tmp_path / "joint")
    both = weights(tmp_path / "joint")
    assert both.keys() == after.keys()
    assert not any(torch.equal(both[n], after[n]) for n in ("final.weight", "fc6.bias"))


def test_a_stage_starts_where_the_one_before_ended(tiny):
    start = tiny / "network.safetensors"
    head = TINY.changed(stage="context", context="basic", start=start)
    network, trained = build_network(head, dl.open_data("shapes"))
    front = weights(tiny)
    assert {network.file_name(name) for name in trained} == front.keys()
    state = file_state(network)
    assert all(torch.equal(state[name], front[name]) for name in front)


def test_a_run_that_stops_and_goes_on_ends_in_the_same_bits(tiny, tmp_path):
    late = time.monotonic()  # stops after every step
    stops = 0
    while dl.train(TINY, tmp_path / "parts", deadline=late) is None:
        stops += 1
    assert stops == 5
    assert same(weights(tiny), weights(tmp_path / "parts"))
    read = [
        json.loads((folder / "record.json").read_text())
        for folder in (tiny, tmp_path / "parts")
    ]
    for one in read:
        assert 0 <= one[0]["metrics"].pop("waited") < 100
        assert one[0]["metrics"].pop("peak_gib") > 0.1
    assert read[0][0]["metrics"] == read[1][0]["metrics"]


def newest(out):
    files = [*(out / "checkpoints").glob("*.pt")] if out.exists() else []
    return max((int(file.stem.removeprefix("step-")) for file in files), default=0)


def test_processes_that_read_pictures_change_no_bit(tmp_path):
    for workers in (0, 2):
        begun = process(tmp_path / str(workers), steps=4, workers=workers)
        ended(begun, tmp_path / f"{workers}.log")
    assert same(weights(tmp_path / "0"), weights(tmp_path / "2"))


def ended(begun, log):
    begun.join()
    assert begun.exitcode == 0, log.read_text()


def test_a_run_that_is_killed_goes_on_and_ends_in_the_same_bits(tmp_path):
    changes = {"steps": 30, "checkpoint_every": 1}
    out, log = tmp_path / "killed", tmp_path / "killed.log"
    ended(process(tmp_path / "whole", **changes), tmp_path / "whole.log")
    draw = random.Random(0)
    for kill in range(3):
        begun = process(out, **changes)
        while newest(out) < 8 * kill + 2:
            assert begun.is_alive(), log.read_text()
            time.sleep(0.005)  # until it has got on
        time.sleep(draw.uniform(0, 0.05))  # in the middle of something
        begun.kill()
        begun.join()
        assert begun.exitcode == -signal.SIGKILL
    ended(process(out, **changes), log)
    assert same(weights(tmp_path / "whole"), weights(out))


def test_two_processes_train_as_one(tmp_path):
    recipe = replace(RECIPE, dropout=0.0, optimizer="sgd", learning_rate=1e-3)
    one = dl.train(TINY.changed(recipe=recipe, batch=4), tmp_path / "one")
    launch(2, tmp_path / "two", recipe=recipe, batch=4)
    two = Record(**json.loads((tmp_path / "two" / "record.json").read_text())[0])
    assert two.metrics["loss"] == pytest.approx(one.metrics["loss"], abs=1e-4)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in first:
        assert torch.allclose(first[name], second[name], atol=1e-5), name


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    dl.train(TINY, tmp_path, deadline=0)
    another = f"{re.escape(str(tmp_path))} holds another run, with other"
    with pytest.raises(ValueError, match=f"{another} batch, seed"):
        dl.train(TINY.changed(batch=4, seed=1), tmp_path)
    dl.train(TINY, tmp_path)
    with pytest.raises(ValueError, match=f"{another} steps"):
        dl.train(TINY.changed(steps=7), tmp_path)


@pytest.mark.parametrize(
    ("padding", "margin"), [("none", 186), ("zeros", 0), ("reflect", 0)]
)
def test_crops_have_the_margin_that_the_front_end_does_not_pad(
    padding, margin, tmp_path
):
    cells = (13, 14)  # as few as reflection allows
    config = TINY.changed(padding=padding, cells=cells, steps=2, pictures=2)
    with patch.object(
        Stage, "forward", autospec=True, side_effect=Stage.forward
    ) as loss:
        done = dl.train(config, tmp_path)
    shapes = [tuple(one.shape for one in call.args[1:]) for call in loss.call_args_list]
    crop = (2, 3, 104 + 2 * margin, 112 + 2 * margin)
    assert shapes == [(crop, (2, 104, 112))] * 3  # one is the first check
    assert done.config["architecture"]["padding"] == padding
    network, architecture = dl.open_network(tmp_path / "network.safetensors")
    assert architecture.padding == padding and network.sizes[0].margin == margin


@pytest.mark.parametrize("unknown", [[], ["padding"]])
def test_a_run_whose_configuration_was_flat_goes_on(unknown, tmp_path):
    """The oldest checkpoints and records do not mention padding: they had none."""

    def older(config):
        flat = config | config["architecture"]
        return {key: flat[key] for key in flat.keys() - {"architecture", *unknown}}

    config = TINY.changed(padding="none")
    dl.train(config, tmp_path, deadline=0)
    (file,) = (tmp_path / "checkpoints").iterdir()
    state = torch.load(file, weights_only=True)
    state["config"] = older(state["config"])
    torch.save(state, file)
    with pytest.raises(
        ValueError, match="holds another run, with other padding, width"
    ):
        dl.train(config.changed(padding="zeros", width=5), tmp_path)
    done = dl.train(config, tmp_path)
    rows = json.loads((tmp_path / "record.json").read_text())
    rows[0]["config"] = older(rows[0]["config"])
    (tmp_path / "record.json").write_text(json.dumps(rows))
    assert dl.train(config, tmp_path).metrics == done.metrics
    with pytest.raises(ValueError, match="holds another run, with other fc_channels"):
        dl.train(config.changed(fc_channels=5), tmp_path)


def test_the_records_of_the_book_say_which_runs_they_are():
    """Of flat configurations; the last of these does not mention padding."""
    runs = {
        one.experiment: read_config(one.config) for one in dl.records.read("camvid")
    }
    padded = next(one for one in planned() if one.tier == "padded").config
    found = runs["camvid/imagenet/padded front"].changed(seed=0)
    same = {"start": padded.start, "precision": padded.precision}  # of the machine
    assert found.changed(**same) == padded
    small = runs["camvid/small"]
    assert (small.architecture.width, small.architecture.context) == (16, "basic")
    assert small.recipe.zoom == (0.7, 1.5) and small.stage == "joint"
    (epoch,) = dl.records.read("epoch_cpu")
    assert "padding" not in epoch.config
    assert read_config(epoch.config).architecture == dl.Architecture(fc_channels=1024)


@pytest.mark.parametrize("found", [{}, {"recipe": {}}, {"recipe": None}, {"depth": 3}])
def test_what_is_no_configuration_is_refused(found, tmp_path):
    whole = dl.records.read("camvid")[0].config
    with pytest.raises(ValueError, match="this is no configuration of a run: "):
        read_config(whole | found if found else found)


def test_a_call_reads_at_most_six_files_of_the_rooms(tmp_path):
    """So many has to open who follows it: fresh, with all it can do, on, and done."""
    room = Path(loop.__file__).parent

    def files(config, out, **options):
        read = set()

        def watch(frame, event, _):
            if event == "call" and Path(frame.f_code.co_filename).parent == room:
                read.add(Path(frame.f_code.co_filename).stem)

        sys.setprofile(watch)
        try:
            dl.train(config, out, **options)
        finally:
            sys.setprofile(None)
        return read

    every = TINY.changed(validate_every=2, test=True)
    fresh = files(every, tmp_path / "whole")
    common = {"checkpoints", "loop", "loss", "optimizer", "setup"}
    assert fresh == common | {"first_batch"}
    files(every, tmp_path / "parts", deadline=0)
    assert files(every, tmp_path / "parts") == common | {"config"}
    done = files(every, tmp_path / "whole")
    assert {"loop"} < done < common | {"config"}


def test_the_bar_shows_the_loss_and_the_validation_score(tmp_path, capsys):
    done = dl.train(TINY.changed(validate_every=4), tmp_path, progress=True)
    last = re.findall(r"run: 100%[^\r\n]*", capsys.readouterr().err)[-1]
    assert f"loss {done.metrics['loss'][-1]:.3f}, validation " in last
    assert re.search(r"validation \d+\.\d mean IoU", last)


def test_a_truncated_checkpoint_is_named_and_the_one_before_it_works(tmp_path):
    for _ in range(3):
        dl.train(TINY, tmp_path, deadline=0)
    old, new = sorted((tmp_path / "checkpoints").iterdir())
    new.write_bytes(new.read_bytes()[:-500])
    with pytest.raises(ValueError, match=rf"{new.name} is damaged.*from {old.name}"):
        dl.train(TINY, tmp_path)
    new.unlink()
    done = dl.train(TINY, tmp_path)
    assert len(done.metrics["loss"]) == 6


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1, {"step": 1})

    def full(state, stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left.*before it are whole"):
        write_checkpoint(tmp_path, 2, {"step": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert latest(tmp_path) == {"step": 1}


def test_a_checkpoint_from_a_gpu_is_read_where_there_is_none(tmp_path, monkeypatch):
    with monkeypatch.context() as once:
        once.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        write_checkpoint(tmp_path, 1, {"network": torch.ones(2)})
    weights = latest(tmp_path)["network"]
    assert weights.device.type == "cpu" and weights.tolist() == [1, 1]


def test_the_last_two_checkpoints_are_kept(tmp_path):
    assert latest(tmp_path) is None
    for step in (5, 10, 100):
        write_checkpoint(tmp_path, step, {"step": step})
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["step-00000010.pt", "step-00000100.pt"]
    assert latest(tmp_path) == {"step": 100}


def test_a_finished_run_deletes_its_own_files_alone(tmp_path):
    kept = tmp_path / "checkpoints"
    (kept / "step-of-mine").mkdir(parents=True)
    for name in ("thesis.pt", "step-1.pt", "notes.part"):
        (kept / name).write_text("mine")
    (kept / "step-00000003.part").touch()  # of a run that was killed
    dl.train(TINY.changed(steps=2), tmp_path)
    names = {file.name for file in kept.iterdir()}
    assert names == {"step-of-mine", "thesis.pt", "step-1.pt", "notes.part"}


def test_one_folder_is_for_one_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_PATIENCE", 0.1)
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(ValueError, match=rf"another run is writing into {tmp_path}"),
    ):
        dl.train(TINY, tmp_path)
    assert dl.train(TINY.changed(steps=1), tmp_path)  # it is free again


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """Before the first step, and not in TensorBoard's words."""
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", Path("/proc/run")):
        with pytest.raises(OSError, match=f"a run cannot write into {out}: "):
            dl.train(TINY, out)


def test_a_finished_run_in_a_folder_that_is_read_only_by_now_is_done(tiny, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(tiny, out)
    write_checkpoint(out / "checkpoints", 6, {"step": 6})  # killed before it went
    before = sorted(out.rglob("*"))
    refused = PermissionError(errno.EACCES, "Permission denied")
    with (
        patch.object(FileLock, "acquire", side_effect=refused),
        patch.object(os, "unlink", side_effect=refused),
    ):
        done = dl.train(TINY, out)
        (out / "record.json").rename(tmp_path / "record.json")
        with pytest.raises(OSError, match=f"a run cannot write into {out}: "):
            dl.train(TINY, out)
    assert done.experiment == "shapes/tiny"
    (tmp_path / "record.json").rename(out / "record.json")
    assert sorted(out.rglob("*")) == before


def test_a_finished_run_whose_network_is_not_whole_is_not_done(tmp_path):
    run = TINY.changed(steps=1)
    done = dl.train(run, tmp_path)
    network = tmp_path / "network.safetensors"
    content = network.read_bytes()
    for broken in (content[:-100], bytes(len(content)), None):
        network.write_bytes(broken) if broken else network.unlink()
        message = r"network.safetensors is missing or damaged .*delete record.json"
        with pytest.raises(ValueError, match=message):
            dl.train(run, tmp_path)
    (tmp_path / "record.json").unlink()
    assert dl.train(run, tmp_path).metrics["loss"] == done.metrics["loss"]


@pytest.mark.parametrize("left", ["record.json", "checkpoints"])
def test_what_a_killed_run_left_half_written_is_cleared(tiny, tmp_path, left):
    """Killed after the record, or in the middle of the network or a checkpoint."""
    out = tmp_path / "run"
    if left == "record.json":
        shutil.copytree(tiny, out)
        write_checkpoint(out / "checkpoints", 6, {"step": 6})
    else:
        dl.train(TINY, out, deadline=0)
    for name in ("network.safetensors", "record.json", "checkpoints/step-00000001.pt"):
        (out / f"{name}.7-7.part").touch()
    (out / "mine.part").touch()
    dl.train(TINY, out)
    assert [file.name for file in out.rglob("*.part")] == ["mine.part"]
    assert not (out / "checkpoints").exists()


def own_data(folder, names=("a", "b", "c", "d")):
    """Pictures of one class beside another; the last one is for validation."""
    for kind in ("pictures", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("ground\nroad\n")
    for name in names:
        Image.new("RGB", (48, 40), "white").save(folder / "pictures" / f"{name}.png")
        ids = np.zeros((40, 48), np.uint8)
        ids[20:] = 1
        Image.fromarray(ids).save(folder / "labels" / f"{name}.png")
    (folder / "train.txt").write_text("\n".join(names[:-1]))
    (folder / "val.txt").write_text(names[-1])


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("classes.txt", "road\nground\n", "classes"),
        ("classes.txt", "ground\nroad\nsky\n", "classes"),
        ("train.txt", "a\nb\n", "pictures"),
        ("val.txt", "e", "pictures"),
        ("labels/b.png", "other classes", "label maps"),
        ("labels/d.png", "other classes", "label maps"),
    ],
)
def test_data_that_changed_since_a_run_began_are_refused(file, text, what, tmp_path):
    folder = tmp_path / "data"
    own_data(folder, ("a", "b", "c", "e", "d"))
    (folder / "train.txt").write_text("a\nb\nc")
    config = TINY.changed(data=str(folder), steps=2, pictures=0)
    dl.train(config, tmp_path / "run", deadline=0)
    before = (folder / file).read_bytes()
    (folder / file).write_text(text)
    message = f"the {what} of {folder} are not those with which the run in .* began"
    with pytest.raises(ValueError, match=message):
        dl.train(config, tmp_path / "run")
    (folder / file).write_bytes(before)
    assert dl.train(config, tmp_path / "run")


def test_what_changes_no_number_makes_no_other_run(tmp_path):
    dl.train(TINY, tmp_path, deadline=0)
    faster = TINY.changed(checkpoint_every=1, workers=0)
    assert dl.train(faster, tmp_path, deadline=0) is None
    done = dl.train(TINY, tmp_path)
    assert dl.train(TINY.changed(workers=2, checkpoint_every=7), tmp_path) == done


RECORDS = {
    "": "Expecting value",
    "{}": "it holds a dict",
    "null": "it holds a NoneType",
    "[]": "must hold the record of one run, got 0",
    "[null]": "must be a mapping",
    '[{"seed": 1}]': "missing 5 required keyword-only arguments",
    "\xff": "can't decode",
}


@pytest.mark.parametrize("text", RECORDS)
def test_a_record_that_is_none_is_refused_by_its_name(text, tmp_path):
    file = tmp_path / "record.json"
    file.write_text(text, "latin1")
    with pytest.raises(ValueError, match=RECORDS[text]) as caught:
        dl.train(TINY, tmp_path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("spoil", ["list", "empty", "config alone", "no tensor"])
def test_a_checkpoint_of_something_else_is_refused(spoil, tmp_path):
    dl.train(TINY, tmp_path, deadline=0)
    (file,) = (tmp_path / "checkpoints").iterdir()
    state = torch.load(file, weights_only=True)
    del state["network"]["fc6.weight"]
    others = {"list": [1], "empty": {}, "config alone": {"config": state["config"]}}
    torch.save(others.get(spoil, state), file)
    with pytest.raises(ValueError, match=r"checkpoint.*; delete it") as caught:
        dl.train(TINY, tmp_path)
    assert "\n" not in str(caught.value)


class Disk:
    """What a power failure would leave: synced contents, under synced names."""

    def __init__(self, monkeypatch):
        self.contents, self.folders, self.lost = {}, {}, []
        self.kept = []  # names that must be safe whenever a checkpoint goes
        sync, unlink = os.fsync, os.unlink

        def watched_sync(file):
            sync(file)
            status = os.fstat(file)
            if stat.S_ISDIR(status.st_mode):
                names = {one.name: one.inode() for one in os.scandir(file)}
                self.folders[status.st_ino] = names
            else:
                self.contents[status.st_ino] = status.st_size

        def watched_unlink(path, **options):
            if Path(path).suffix == ".pt":
                self.lost += [one for one in self.kept if not self.safe(one)]
            unlink(path, **options)

        monkeypatch.setattr(os, "fsync", watched_sync)
        monkeypatch.setattr(os, "unlink", watched_unlink)

    def safe(self, path):
        status = path.stat()
        named = self.folders.get(path.parent.stat().st_ino, {}).get(path.name)
        written = self.contents.get(status.st_ino)
        return named == status.st_ino and written == status.st_size


def test_checkpoints_go_only_when_what_replaces_them_is_on_the_disk(
    tmp_path, monkeypatch
):
    """The power may fail at any moment."""
    disk = Disk(monkeypatch)
    disk.kept = [tmp_path / "network.safetensors", tmp_path / "record.json"]
    dl.train(TINY.changed(steps=2), tmp_path)
    assert all(map(disk.safe, disk.kept)) and not disk.lost
    assert not [*tmp_path.rglob("*.p*t")]
    for step in range(3):
        disk.kept = [tmp_path / f"step-{step:08d}.pt"]
        write_checkpoint(tmp_path, step, {"step": step})
    assert disk.safe(disk.kept[0]) and not disk.lost


def test_a_folder_that_holds_checkpoints_alone_goes_with_them(tmp_path):
    for folder in ("checkpoints", "elsewhere"):
        write_checkpoint(tmp_path / folder, 1, {"step": 1})
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for folder in ("checkpoints", "link"):
        remove_checkpoints(tmp_path / folder)
    assert {file.name for file in tmp_path.iterdir()} == {"elsewhere", "link"}
    assert not [*(tmp_path / "elsewhere").iterdir()]


@pytest.mark.parametrize("out", ["", ".", Path()])
def test_the_working_folder_is_no_folder_of_a_run(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"a folder of its own.*got '\.?'"):
        dl.train(TINY, out)
    assert not [*tmp_path.iterdir()]


def test_a_checkpoint_in_which_a_bit_has_changed_is_refused(tmp_path):
    """Somewhere in its weights, where nothing else would tell."""
    write_checkpoint(tmp_path, 1, {"weight": torch.zeros(1000)})
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[content.index(bytes(2000)) + 1000] = 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or truncated"):
        latest(tmp_path)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    torch.save({"step": Path("x")}, tmp_path / "step-00000001.pt")
    with pytest.raises(ValueError, match=r"damaged.*go on from the beginning"):
        latest(tmp_path)


def test_a_loss_that_is_not_finite_stops_and_names_its_pictures(tmp_path):
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1e30, clip=None, warmup=0)
    with pytest.raises(ValueError, match=r"loss of step \d is (nan|inf).*scene \d"):
        dl.train(TINY.changed(recipe=recipe, checkpoint_every=1), tmp_path)
    for file in (tmp_path / "checkpoints").iterdir():
        state = torch.load(file, weights_only=True)
        assert all(np.isfinite(state["losses"]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_kind_of_loss_that_is_not_finite_is_noted(value):
    run = SimpleNamespace(data=dl.open_data("shapes"), losses=[])
    with pytest.raises(ValueError, match=f"loss of step 7 is {value}; .* scene 3 of"):
        loop._read_loss(run, 7, torch.tensor(value), [3])
    assert run.losses == []


def test_whatever_a_run_draws_has_a_seed_of_its_own(tmp_path):
    """Each step's dropout, and each picture's crop; what a turn leaves is the mean."""
    own_data(tmp_path / "data")
    config = TINY.changed(data=str(tmp_path / "data"), steps=3, pictures=0, scale=1.5)
    config = replace(config, recipe=replace(RECIPE, rotation=4.0, colour=0.25))
    with (
        patch.object(loop, "_seed", wraps=loop._seed) as seed,
        patch.object(setup, "augmentation", wraps=augmentation) as augment,
    ):
        dl.train(config, tmp_path / "run")
    seeds = [call.args for call in seed.call_args_list]
    assert len(seeds) == len({*seeds}) == 1 + 3 * (2 + 1)
    given = augment.call_args.kwargs
    assert given.pop("fill") == (123.68, 116.779, 103.939)  # ImageNet's mean, in RGB
    assert given.pop("scale") == pytest.approx((1.5 * 0.9, 1.5 * 1.1))
    assert given == {"cells": (3, 4), "margin": 0, "rotation": 4.0, "colour": 0.25}


def stage(**changes):
    config = TINY.changed(**changes)
    torch.manual_seed(0)
    network, _ = build_network(config, dl.open_data("shapes"))
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, 396, 404), generator=draw).float()
    labels = torch.randint(4, (2, 24, 32), generator=draw)
    return Stage(network, config.recipe), images, labels, config


@pytest.mark.parametrize(
    "changes", [{}, {"stage": "joint", "context": "large"}, {"recipe": PAPER}]
)
def test_a_good_start_is_let_through(changes):
    check_start(*stage(**changes))


def test_a_first_loss_far_from_ln_c_is_refused():
    one, images, labels, config = stage()
    nn.init.normal_(one.network.front.final.weight, std=30)
    with pytest.raises(ValueError, match=r"first loss is .* ln C = 1\.39"):
        check_start(one, images, labels, config)


@pytest.mark.parametrize(("logit", "far"), [(-1.0, False), (-1.5, True), (3.0, True)])
def test_a_first_loss_may_be_1_away_unless_an_earlier_stage_ended_there(logit, far):
    """All pixels are of class 0, whose logit is given and those of three others 0."""
    one, images, labels, config = stage()
    nn.init.zeros_(one.network.front.final.weight)
    one.network.front.final.bias.data = torch.tensor([logit, 0.0, 0.0, 0.0])
    away = log(3 + exp(logit)) - logit - log(4)
    assert (abs(away) > 1) == far
    message = rf"first loss is {log(4) + away:.2f};"
    with pytest.raises(ValueError, match=message) if far else nullcontext():
        check_start(one, images, 0 * labels, config)
    check_start(one, images, 0 * labels + 255, config)  # without labels, without loss
    check_start(
        one, images, 0 * labels, config.changed(start=Path("front.safetensors"))
    )


def test_a_dead_layer_is_named():
    one, images, labels, config = stage()
    nn.init.constant_(one.network.front.conv3_2.bias, -1e4)
    with pytest.raises(ValueError, match="relu3_2 is 0 everywhere"):
        check_start(one, images, labels, config)


def test_a_class_that_never_occurs_is_told(tmp_path):
    for name in ("pictures", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("ground\nroad\nunicorn\n")
    draw = np.random.default_rng(0)
    for number in range(5):
        pixels = draw.integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
        ids = draw.integers(0, 2, (40, 50), np.uint8)
        Image.fromarray(ids).save(tmp_path / "labels" / f"{number}.png")
    config = TINY.changed(data=str(tmp_path), steps=1, pictures=0)
    with pytest.warns(UserWarning, match="no training picture has unicorn"):
        done = dl.train(config, tmp_path / "run")
    assert done.metrics["val"]["per_class"]["unicorn"] in (None, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"cells": (0, 4)}, r"cells must be above 0, got \(0, 4\)"),
        ({"stage": "joint"}, "with context none the stage must be front, got joint"),
        ({"context": "large"}, "stage must be context or joint, got front"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.changed(**changes)


def test_a_context_module_needs_a_front_end(tmp_path):
    run = TINY.changed(stage="context", context="basic")
    with pytest.raises(ValueError, match=r"start must be its \.safetensors, got None"):
        dl.train(run, tmp_path)


def test_a_start_of_another_network_is_refused(tmp_path):
    dl.train(TINY.changed(steps=1, batch_norm=True), tmp_path / "one")
    start = tmp_path / "one" / "network.safetensors"
    with pytest.raises(ValueError, match="is for another network"):
        dl.train(TINY.changed(start=start), tmp_path / "two")
    with pytest.raises(ValueError, match="for another network"):
        dl.train(TINY.changed(start=start, fc_channels=5), tmp_path / "three")


def test_what_torch_was_set_to_comes_back(tmp_path):
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(123)
    threads = threading.active_count()
    try:
        for number in range(2):
            dl.train(TINY.changed(steps=1), str(tmp_path / f"{number}"))
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        recipe = replace(RECIPE, learning_rate=1e30, clip=None, warmup=0)
        with pytest.raises(ValueError, match="loss of step"):
            dl.train(TINY.changed(recipe=recipe), tmp_path / "broken")
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.initial_seed() == 123
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.manual_seed(123)))
    assert threading.active_count() == threads  # no log is left open


def test_layers_of_a_classifier_learn_slowly_where_they_fit(tmp_path):
    weights = dl.front_end(4, fc_channels=8).state_dict()
    del weights["final.weight"], weights["final.bias"]
    torch.save(weights, tmp_path / "vgg.pt")
    for channels, there in ((8, True), (9, False)):
        start = tmp_path / "vgg.pt"
        config = TINY.changed(width=64, fc_channels=channels, start=str(start))
        assert config.start == start
        network, trained = build_network(config, dl.open_data("shapes"))
        assert ("front.fc6.weight" in trained) == ("front.fc7.bias" in trained) == there
        assert torch.equal(network.front.conv3_1.weight, weights["conv3_1.weight"])
        assert "front.conv1_1.bias" in trained
        assert "front.final.weight" not in trained


def test_layers_trained_before_learn_more_slowly(tiny):
    start = tiny / "network.safetensors"
    config = TINY.changed(start=start, stage="joint", context="basic")
    network, trained = build_network(config, dl.open_data("shapes"))
    optimizer = build_optimizer(network, config, trained)
    rates = {
        name: group["base"]
        for name, parameter in network.named_parameters()
        for group in optimizer.param_groups
        if any(parameter is one for one in group["params"])
    }
    assert rates["front.fc6.weight"] == pytest.approx(0.2 * RECIPE.learning_rate)
    assert rates["context.layers.0.weight"] == RECIPE.learning_rate
    decay = {
        tuple(g["params"][0].shape): g["weight_decay"] for g in optimizer.param_groups
    }
    assert decay[(4,)] == 0 and decay[(4, 3, 3, 3)] == RECIPE.weight_decay


def test_the_paper_doubles_the_rate_of_biases():
    config = TINY.changed(recipe=PAPER)
    network, trained = build_network(config, dl.open_data("shapes"))
    groups = build_optimizer(network, config, trained).param_groups
    assert {g["base"]: g["weight_decay"] for g in groups} == {1e-4: 5e-4, 2e-4: 0.0}
    assert {g["momentum"] for g in groups} == {0.99}


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_adamw_is_fused_unless_the_loss_is_scaled(precision):
    config = TINY.changed(precision=precision)
    optimizer = build_optimizer(nn.Linear(2, 3), config, set())
    assert optimizer.defaults["fused"] is (precision == "32-true")
    # weights decay, of two dimensions too
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.0]


def test_the_rate_warms_up_and_falls_to_zero():
    config = TINY.changed(steps=100)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 6) and max(rates) == rates[5] == 1
    assert rates == sorted(rates[:6]) + sorted(rates[6:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert learning_rate(config.changed(recipe=PAPER), 99) == 1


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ChildFailedError) as caught:
        launch(2, tmp_path / "run", batch=3)
    for failure in caught.value.failures.values():
        assert "a batch of 3 does not divide into 2 parts" in str(failure.message)


def test_the_log_has_losses_scores_and_label_maps(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    dl.train(TINY.changed(validate_every=2), tmp_path)
    log = EventAccumulator(str(tmp_path / "log"))
    log.Reload()
    assert {"loss", "learning_rate", "val/miou"} <= {*log.Tags()["scalars"]}
    assert [one.step for one in log.Scalars("val/miou")] == [2, 4]
    images = log.Images("val/0")
    assert (images[0].width, images[0].height) == (2 * 96, 64)  # picture, label map
    assert log.Tags()["images"] == [f"val/{index}" for index in range(4)]
