"""Trained numbers with their bounds: the claim, its margin, and the script."""

import importlib.util
import json
import math
import re
from threading import Lock

import nbformat
import pytest
import torch
from pages import ROOT

from dilated_lib import records
from dilated_lib.experiments.claims import Claim, claim, collected, table

SPEC = importlib.util.spec_from_file_location("margins", ROOT / "book" / "margins.py")
margins = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(margins)


@pytest.mark.parametrize(
    ("value", "bound"),
    [(0.9, {"above": 0.9}), (0.91, {"below": 0.9}), (math.nan, {"above": 0.0})],
)
def test_a_claim_on_its_bound_beyond_it_or_not_a_number_fails(value, bound):
    (side, limit), *_ = bound.items()
    with pytest.raises(AssertionError, match=rf"^accuracy is .*must be {side} {limit}"):
        claim("accuracy", value, **bound)


def test_a_claim_within_its_bound_says_nothing():
    assert claim("accuracy", 0.91, above=0.9) is claim("loss", 0.1, below=0.2) is None


@pytest.mark.parametrize("bounds", [{}, {"above": 0.1, "below": 0.9}])
def test_a_claim_has_one_bound(bounds):
    with pytest.raises(ValueError, match="accuracy must have one bound"):
        claim("accuracy", 0.5, **bounds)


def test_what_is_collected_does_not_stop_and_ends_with_its_block():
    with collected() as made:
        claim("accuracy", 0.1, above=0.9)
        claim("loss", torch.tensor(2.0), below=0.5)
    assert [round(one.margin, 6) for one in made] == [-0.8, -1.5]
    assert type(made[1].value) is float
    with pytest.raises(AssertionError):
        claim("accuracy", 0.1, above=0.9)


def test_the_table_has_the_range_over_all_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_HOME", tmp_path)
    rows = [
        records.Record(
            experiment="margins/09_x",
            seed=0,
            config={"chapter": chapter, "claim": name, side: 0.9, other: None},
            metrics={
                "values": {"AVX2": [0.95, 0.97], "native": [0.931, 1.0]},
                "untrained": [0.14],
            },
            seconds=1.0,
            device="CPU",
        )
        for chapter, name, side, other in (
            ("09", "accuracy", "above", "below"),
            ("10", "another", "below", "above"),
        )
    ]
    records.write(tmp_path / "results" / "margins.json", rows)
    lines = table("09").splitlines()
    assert lines[0].split() == ["claim", "bound", "trained", "untrained"]
    assert lines[1].split() == [
        *("accuracy", ">", "0.9"),
        *("0.93", "to", "1.00", "0.14", "to", "0.14"),
    ]
    assert "4 runs" in lines[-1] and "another" not in table("09")
    assert table("10").splitlines()[1].split()[:3] == ["another", "<", "0.9"]
    assert table("11").splitlines()[1:] == [
        "trained: 0 runs, five seeds per setting of the CPU"
    ]


def test_a_claim_has_none_for_the_bound_that_it_does_not_have():
    assert Claim(name="accuracy", value=0.97, above=0.9).below is None
    assert Claim(name="loss", value=0.1, below=0.2).above is None


# The script


def notebook(folder, *cells):
    """A notebook of code cells; the first one has the seeds."""
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    made.cells[0].metadata["tags"] = ["parameters"]
    path = folder / "09_tiny.ipynb"
    nbformat.write(made, path)
    return path


LEARNS = """\
import torch
import dilated_lib as dl
generator = torch.Generator().manual_seed(SEEDS[0])
x = torch.rand(4, generator=generator).requires_grad_()
for _ in range(50):
    loss = (x - 3).square().sum()
    loss.backward()
    adam = locals().get("adam") or torch.optim.Adam([x], lr=0.2)
    adam.step()
    adam.zero_grad()
assert False, "not asked here"
dl.plot.curves(range(3), {"no figure": [1, 2, 3]})
dl.claim("distance to 3", (x.detach() - 3).abs().max(), below=0.5)
dl.claim("always true", 1.0, above=0.5)
"""


def test_a_notebook_makes_its_claims_with_the_seed_that_it_gets(tmp_path):
    path = notebook(tmp_path, "SEEDS = (0, 1)", LEARNS, "raise RuntimeError('later')")
    first, second = (margins.claims(path, seed, trained=True) for seed in (0, 1))
    assert [one.name for one in first] == ["distance to 3", "always true"]
    assert first[0].margin > 0 and first[0].value != second[0].value
    untrained = margins.claims(path, 0, trained=False)
    assert untrained[0].margin < 0 < untrained[1].margin


ONE_AT_A_TIME = Lock()


def here(path, instructions, threads, seeds, *, trained):
    """What another process would give, without the seconds of starting it."""
    with ONE_AT_A_TIME:  # the script's threads share this process's folder and figures
        return margins.measure(path, seeds, trained=trained)


@pytest.mark.parametrize(
    ("instructions", "known", "onednn"),
    [("SSE4.1", "DEFAULT", "SSE41"), ("AVX2", "AVX2", "AVX2")],
)
def test_another_process_gives_the_same_claims(instructions, known, onednn, tmp_path):
    """It is held to its instruction set: torch would ignore an unknown name."""
    assert margins.INSTRUCTIONS[instructions]["ONEDNN_MAX_CPU_ISA"] == onednn
    asked = "dl.claim(torch.backends.cpu.get_cpu_capability(), 1.0, above=0.5)"
    path = notebook(tmp_path, "SEEDS = (0, 1)", LEARNS, asked)
    (found,) = margins.elsewhere(path, instructions, 1, 1, trained=True)
    ((wanted, *_),) = here(path, "native", 1, 1, trained=True)
    assert [one["name"] for one in found] == [wanted["name"], "always true", known]
    assert found[0]["value"] == pytest.approx(wanted["value"], abs=0.01)


def test_the_script_writes_each_claim_and_tells_what_needs_no_training(
    tmp_path, monkeypatch, capsys
):
    path = notebook(tmp_path, "SEEDS = (0, 1)", LEARNS)
    monkeypatch.setattr(records, "_HOME", tmp_path / "dilated_lib")
    monkeypatch.setattr(margins, "INSTRUCTIONS", {"native": {}})
    monkeypatch.setattr(margins, "elsewhere", here)
    monkeypatch.setattr("sys.argv", ["margins.py", str(path), "--seeds", "2"])
    assert margins.main() == 1  # one of the claims holds without training
    lines = capsys.readouterr().out.splitlines()
    assert "<-" not in lines[0] and "<- holds without training" in lines[1]
    learnt, _ = json.loads((tmp_path / "book" / "results" / "margins.json").read_text())
    assert learnt["config"]["below"] == 0.5 and learnt["config"]["chapter"] == "09"
    values = learnt["metrics"]["values"]
    assert sorted(values) == ["native, threads: 1", "native, threads: 2"]
    assert all(len(seeds) == 2 for seeds in values.values())
    assert min(learnt["metrics"]["untrained"]) > 1


def test_the_books_margins_are_those_of_its_notebooks():
    """Every claim has its row, under its name and with its bound, and holds."""
    rows = {
        (one.config["chapter"], one.config["claim"]): one
        for one in records.read("margins")
    }
    paths = margins.training_notebooks()
    assert {chapter for chapter, _ in rows} == {path.name[:2] for path in paths}
    for path in paths:
        text = "\n".join(cell.source for cell in margins._code(path))
        assert f'claims.table("{path.name[:2]}")' in text
        call = r'dl\.claim\(\s*"([^"]+)",.*?\b(above|below)=([\d.]+)'
        named = re.findall(call, text, re.DOTALL)
        assert named
        for name, side, bound in named:
            assert rows[path.name[:2], name].config[side] == float(bound), name
    for one in rows.values():
        assert len(one.metrics["values"]) == 6
        assert all(len(seeds) == 5 for seeds in one.metrics["values"].values())
        bound = {key: one.config[key] for key in ("above", "below")}
        for seeds in one.metrics["values"].values():
            for value in seeds:
                assert Claim(name="", value=value, **bound).margin > 0
        for value in one.metrics["untrained"]:
            assert not Claim(name="", value=value, **bound).margin > 0
