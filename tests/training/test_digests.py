"""What a run read is in its checkpoints and in its record, as digests."""

import hashlib
import json

import pytest
from training_runs import TINY

import dilated_lib as dl
from dilated_lib.records import read_file
from dilated_lib.training.checkpoints import identity, latest

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*num_workers.*", "ignore:.*is_cuda_available.*"
)


def test_the_record_has_the_digests_of_the_checkpoints(tmp_path):
    dl.train(TINY, tmp_path, deadline=0)
    noted = latest(tmp_path / "checkpoints")["data"]
    assert {*noted} == {"classes", "pictures", "label maps"}
    palette = json.dumps([*dl.open_data("shapes").palette.items()]).encode()
    assert noted["classes"] == hashlib.sha256(palette).hexdigest()
    assert dl.train(TINY, tmp_path).data == noted
    (record,) = read_file(tmp_path / "record.json")
    assert record.data == noted


def test_what_the_test_split_holds_counts_where_it_is_scored():
    data = dl.open_data("shapes")
    without, scored = (
        identity(TINY.changed(test=test), data)["data"]["pictures"]
        for test in (False, True)
    )
    assert without != scored


def test_a_record_without_digests_is_that_of_an_older_run(tmp_path):
    done = dl.train(TINY.changed(steps=1), tmp_path)
    file = tmp_path / "record.json"
    (row,) = json.loads(file.read_text())
    assert row.pop("data") == done.data
    file.write_text(json.dumps([row]))
    again = dl.train(TINY.changed(steps=1), tmp_path)
    assert again.data == {} and again.metrics == done.metrics


def test_a_run_goes_on_only_with_the_weights_that_it_started_from(tmp_path):
    once = TINY.changed(steps=1, pictures=2)
    dl.train(once, tmp_path / "front")
    dl.train(once.changed(seed=1), tmp_path / "other")
    start = tmp_path / "front" / "network.safetensors"
    config = once.changed(stage="context", context="basic", start=start, steps=2)
    dl.train(config, tmp_path / "run", deadline=0)
    before = start.read_bytes()
    (tmp_path / "other" / "network.safetensors").replace(start)
    told = "the starting weights of shapes are not those with which the run in .* began"
    for _ in range(2):
        with pytest.raises(ValueError, match=told):
            dl.train(config, tmp_path / "run")
        start.unlink(missing_ok=True)
    start.write_bytes(before)
    done = dl.train(config, tmp_path / "run")
    assert done.data["starting weights"] == hashlib.sha256(before).hexdigest()
