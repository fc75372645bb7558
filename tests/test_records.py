"""Records: of which source they are."""

import platform
import subprocess

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
