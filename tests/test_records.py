"""Records: of which source they are, where they lie, and which are none."""

import json
import platform
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dilated_lib import records


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The library inside a repository of somebody else's, which has a tag."""
    monkeypatch.setattr(records, "_HOME", tmp_path)
    (tmp_path / "records.py").touch()
    (tmp_path / "theirs.py").touch()

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        call = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    git("add", "theirs.py")
    git("commit", "-q", "-m", "one")
    git("tag", "-a", "v1", "-m", "one")
    records._commit.cache_clear()
    yield git
    records._commit.cache_clear()


def test_the_commit_is_not_that_of_a_repository_around_it(installed):
    assert records._commit() == "unknown"


def test_the_commit_is_a_hash_beside_a_tag_and_says_where_files_changed(
    installed, tmp_path
):
    installed("add", "records.py")
    installed("commit", "-q", "-m", "two")
    installed("tag", "-a", "v2", "-m", "two")
    assert records._commit() == installed("rev-parse", "HEAD").strip()
    (tmp_path / "theirs.py").write_text("x")
    records._commit.cache_clear()
    assert records._commit() == installed("rev-parse", "HEAD").strip() + "+"


def test_what_is_read_is_written_as_it_was(tmp_path):
    file = tmp_path / "not" / "there" / "traps.json"
    records.write(file, records.read("traps"))
    assert file.read_bytes() == (records.results() / "traps.json").read_bytes()


def test_a_cpu_is_named_by_its_vectors_and_threads():
    kind, vectors, threads = records.device_name(torch.device("cpu")).split(", ")
    assert kind == f"CPU ({platform.machine()}"
    assert vectors == torch.backends.cpu.get_cpu_capability()
    assert threads == f"threads: {torch.get_num_threads()})"


def test_a_gpu_is_named_by_its_maker(monkeypatch):
    names = {torch.device("cuda:1"): "H200"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert records.device_name(torch.device("cuda:1")) == "H200"


def test_the_most_memory_is_that_of_the_device_or_of_the_process(monkeypatch):
    cpu = torch.device("cpu")
    before = records.peak_gib(cpu)
    much = torch.ones(int((before + 0.25) * 2**28))  # four bytes each
    assert before + 0.2 < records.peak_gib(cpu) < 2 * before + 0.5
    del much
    assert records.peak_gib(cpu) > before + 0.2
    taken = {torch.device("cuda:1"): 1.236 * 2**30}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", taken.__getitem__)
    assert records.peak_gib(torch.device("cuda:1")) == 1.24
    monkeypatch.setattr(
        "resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=2**22)
    )
    for system, peak in (("linux", 4), ("darwin", 0), ("win32", 0)):
        monkeypatch.setattr(sys, "platform", system)  # a Mac tells bytes
        assert records.peak_gib(cpu) == peak


def test_what_is_not_given_is_filled_in(monkeypatch):
    """The command as one would type it, whatever the interpreter's path is."""
    typed = ["/usr/bin/python3.12", "-m", "dilated_lib", "train", "a picture"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    done = {"config": {}, "metrics": {}}
    made = records.Record(experiment="a", seed=1, seconds=2.0, device="CPU", **done)
    assert made.command == "python -m dilated_lib train 'a picture'"
    python, pytorch = (made.versions.pop(key) for key in ("python", "torch"))
    assert python == sys.version.split()[0] and not made.versions
    # the name of a build, such as +cpu, is not always part of the version
    assert pytorch.split("+")[0] == torch.__version__.split("+")[0]
    assert made.commit == records._commit()
    assert made.data == {}


def test_records_lie_in_the_package_where_they_came_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_HOME", tmp_path / "dilated_lib")
    assert records.results() == tmp_path / "book" / "results"
    inside = tmp_path / "dilated_lib" / "results"
    inside.mkdir(parents=True)
    assert records.results() == inside
    for name in ("two.json", "one.json", "small.safetensors"):
        (inside / name).write_text("[]")
    assert records.read("one") == []
    message = r"^no records called 'three'; there are \['one', 'two'\]$"
    with pytest.raises(FileNotFoundError, match=message):
        records.read("three")


def test_a_file_can_be_written_anew_and_keeps_what_a_training_read(tmp_path):
    file = tmp_path / "mine.json"
    first = records.read("traps")[0]
    data = {"labels": "0123"}
    for record in (first, replace(first, data=data)):
        records.write(file, [record])
        assert records.read_file(file) == [record]
    assert json.loads(file.read_text())[0]["data"] == data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": True}, "seed must be a int, got True"),
        ({"seed": 1.0}, "seed must be a int, got 1.0"),
        ({"seconds": "2"}, "seconds must be a float, got '2'"),
        ({"seconds": None}, "seconds must be a float, got None"),
        ({"seconds": True}, "seconds must be a float, got True"),
        ({"metrics": []}, r"metrics must be a dict, got \[\]"),
        ({"config": None}, "config must be a dict, got None"),
        ({"experiment": 3}, "experiment must be a str, got 3"),
        ({"unknown": 3}, "unknown"),
    ],
)
def test_a_field_of_another_kind_is_refused(tmp_path, change, message):
    file = tmp_path / "mine.json"
    rows = json.loads((records.results() / "traps.json").read_text())
    file.write_text(json.dumps([*rows, rows[0] | change]))
    with pytest.raises(
        ValueError, match=f"mine.json is no list of records: .*{message}"
    ):
        records.read_file(file)
    file.write_text(json.dumps([rows[0] | {"seconds": 2}]))  # a whole number will do
    assert records.read_file(file)[0].seconds == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "it holds a dict"), ("3", "it holds a int"), ("[3]", ""), ("[", "")],
)
def test_what_is_no_list_of_records_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"mine.json is no list of records: {message}"):
        records.read_file(file)
