"""What the loop hands on: to its loader, to torch, to the log and into the record."""

import re
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock, patch

import pytest
import torch
from training_runs import RECIPE, TINY

import dilated_lib as dl
from dilated_lib.prediction.metric import Scores, evaluate_both
from dilated_lib.records import peak_gib, read_file
from dilated_lib.training import loop
from dilated_lib.training.optimizer import learning_rate


@pytest.fixture
def run(tmp_path):
    """A run as far as its end needs one: 51 losses, and a network that is not kept."""
    device = torch.device("cpu")
    return SimpleNamespace(
        config=TINY.changed(test=True, seed=3),
        fabric=Mock(global_rank=0, device=device),
        optimizer=SimpleNamespace(param_groups=[{"base": 0.5}]),
        stage=SimpleNamespace(network=None),
        identity={"config": {"steps": 6}, "data": {"train": "abc"}},
        data=dl.open_data("shapes"),
        losses=[number / 32 for number in range(51)],
        seconds=80.06,
        waited=1.234,
        out=tmp_path,
    )


def test_the_record_has_every_split_and_the_means_of_fifty_parts(run):
    def measured(run, split, measure):
        assert measure is evaluate_both
        return (Scores(n, 10 * n, {"sky": n}) for n in numbers[split])

    numbers = {"val": (1.0, 2.0), "test": (3.0, 4.0)}

    with patch.object(loop, "_measure", measured):
        record = loop._finish(run, "shapes/tiny")
    metrics = dict(record.metrics)
    assert metrics.pop("peak_gib") == peak_gib(torch.device("cpu"))
    # 51 losses in parts of two, for at most fifty of them
    means = [n / 32 + 1 / 64 for n in range(0, 50, 2)] + [50 / 32]
    assert metrics.pop("loss") == [round(one, 4) for one in means]
    assert metrics.pop("waited") == 1.5  # 1.234 of 80.06 seconds, in percent
    assert metrics == {
        name: {"miou": n, "accuracy": 10 * n, "per_class": {"sky": n}}
        for n, name in enumerate(("val", "val_flip", "test", "test_flip"), 1)
    }
    assert (record.experiment, record.seed, record.seconds) == ("shapes/tiny", 3, 80.1)
    assert (record.config, record.data) == ({"steps": 6}, {"train": "abc"})
    assert read_file(run.out / "record.json") == [record]


def test_every_tenth_loss_is_logged_and_all_are_kept(run):
    run.losses = []
    for step in range(22):
        loop._read_loss(run, step, torch.tensor(step + 0.123456), [0])
    assert run.losses == [round(step + 0.1235, 4) for step in range(22)]
    logged = run.fabric.log_dict.call_args_list
    assert [one.args[1] for one in logged] == [0, 10, 20]
    for one in logged:
        values, step = one.args
        rate = 0.5 * learning_rate(run.config, step)
        assert values == {
            "loss": pytest.approx(step + 0.123456),
            "learning_rate": pytest.approx(rate),
        }


@pytest.mark.parametrize("deterministic", [True, False])
def test_settings_go_to_the_loader_to_measuring_and_to_torch(tmp_path, deterministic):
    """Crops have one size, for which cuDNN may search; pictures that are scored not."""
    config = TINY.changed(
        steps=2, validate_every=1, workers=3, scale=1.25, deterministic=deterministic
    )
    searched = []

    def without_processes(function):
        def called(*given, workers, **options):
            searched.append(torch.backends.cudnn.benchmark)
            assert workers == 3
            return function(*given, workers=0, **options)

        return called

    class Seeds(list):
        def __call__(self, *numbers):
            self.append((numbers, torch.backends.cudnn.benchmark))

    seeds = Seeds()
    with (
        patch.object(loop, "_seed", seeds),
        patch.object(loop, "batches", without_processes(loop.batches)),
        patch.object(loop, "evaluate", without_processes(loop.evaluate)),
        patch.object(loop, "evaluate_both", without_processes(loop.evaluate_both)),
        patch.object(loop, "probabilities", wraps=loop.probabilities) as answers,
    ):
        dl.train(config.changed(seed=5), tmp_path)
    # the crops, a validation on the way, and the end
    assert searched == [torch.backends.cudnn.benchmark, False, False]
    assert {one.kwargs["scale"] for one in answers.call_args_list} == {1.25}
    drawn = [(5, 0)]  # new weights, and in each step two crops and the dropout
    for step in range(2):
        drawn += [(5, 1, step, 0), (5, 1, step, 1), (5, 2, step, 0)]
    assert [numbers for numbers, _ in seeds] == drawn
    for numbers, search in seeds:
        if numbers[1] == 2:
            assert search is not deterministic


def test_no_bar_is_shown_unless_it_is_asked_for(tmp_path, capfd):
    dl.train(TINY.changed(steps=1), tmp_path)
    assert "run:" not in capfd.readouterr().err


def test_the_bar_ends_with_the_loss_and_the_last_validation(tmp_path):
    told = []
    with patch.object(loop.tqdm, "set_postfix_str", lambda *one, **_: told.append(one)):
        dl.train(TINY.changed(steps=5, validate_every=3), tmp_path, progress=True)
    said = [text for bar, text in told if bar.desc == "run"]
    losses = r"loss \d\.\d{3}"
    assert re.fullmatch(losses, said[0])
    assert re.fullmatch(rf"{losses}, validation \d+\.\d mean IoU", said[-1])


def test_a_gradient_that_is_not_finite_is_told_as_a_loss(tmp_path):
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=1e30, clip=1.0, warmup=0)
    with pytest.raises(ValueError, match=r"loss of step \d is (nan|inf).*scene \d"):
        dl.train(TINY.changed(recipe=recipe), tmp_path)
