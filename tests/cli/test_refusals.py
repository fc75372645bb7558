"""Commands that measure: what they refuse, in one sentence and before the work."""

from unittest.mock import patch

import pytest

from dilated_lib.cli import throughput
from dilated_lib.experiments.vgg_erf import erf


def test_what_throughput_cannot_do_is_one_sentence(tmp_path, capsys):
    inside = "dilated_lib.experiments.throughput.throughput"
    with patch(inside, side_effect=ValueError("no")), pytest.raises(SystemExit) as stop:
        throughput(tmp_path / "throughput.json")
    assert stop.value.code == 2 and capsys.readouterr().err == "no\n"


@pytest.mark.parametrize("crops", [0, -1])
def test_no_crops_are_refused_before_anything_is_fetched(crops, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"crops must be at least 1, got {crops}"):
        erf(tmp_path / "erf.json", crops=crops)
    assert not [*tmp_path.iterdir()]
