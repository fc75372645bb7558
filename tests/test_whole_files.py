"""Files that appear whole or not at all: which calls make them so, and their mode."""

import os
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import dilated_lib as dl
from dilated_lib import records
from dilated_lib.networks.weights import save
from dilated_lib.training.checkpoints import write_checkpoint
from dilated_lib.whole_files import written_whole


def segmented(path):
    dl.predict(np.zeros((4, 5, 3), np.uint8), lambda images: images[:, :2]).save(path)


WRITERS = {
    "network.safetensors": lambda path: save(nn.Linear(2, 3), path),
    "record.json": lambda path: records.write(path, records.read("traps")),
    "step-00000007.pt": lambda path: write_checkpoint(path.parent, 7, {"step": 7}),
    "labels.png": segmented,
}


@pytest.fixture
def calls(monkeypatch):
    """The calls that a power failure may fall between, and the paths they had."""
    made = []
    sync, replace = os.fsync, os.replace

    def watched_sync(file):
        made.append(("sync", Path(os.readlink(f"/proc/self/fd/{file}"))))
        sync(file)

    def watched_replace(old, new):
        made.append(("replace", Path(old), Path(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return made


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="it reads /proc")
@pytest.mark.parametrize("name", WRITERS)
def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_call_ends(
    name, tmp_path, calls
):
    WRITERS[name](tmp_path / name)
    first, second, third = calls[-3:]
    new = first[1]
    assert first[0] == "sync" and new.parent == tmp_path and new.suffix == ".part"
    assert second == ("replace", new, tmp_path / name)
    assert third == ("sync", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_whoever_may_read_a_folder_may_read_what_is_written_there(name, tmp_path):
    before = os.umask(0o027)
    try:
        WRITERS[name](tmp_path / name)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_a_block_that_fails_leaves_the_file_that_was_there(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("before")

    def half():
        with written_whole(file) as new:
            new.write_text("half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        half()
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]
