"""What a run begins with: devices, weights of classes, what an earlier part left."""

from dataclasses import replace
from unittest.mock import Mock, patch

import pytest
import torch
from torch import nn
from training_runs import RECIPE, TINY

import dilated_lib as dl
from dilated_lib.training import setup
from dilated_lib.training.config import Config
from dilated_lib.training.loss import median_frequency_weights


def begun(config, out):
    return setup.begin(config, setup.launch(config, Mock()), out, False)


@pytest.mark.parametrize("weighted", [True, False])
def test_rare_classes_count_more_if_the_recipe_says_so(tmp_path, weighted):
    run = begun(TINY.changed(recipe=replace(RECIPE, class_weights=weighted)), tmp_path)
    if weighted:
        counts = run.identity["counts"]
        assert len(set(counts.tolist())) == 4
        wanted = median_frequency_weights(counts)
        assert torch.equal(run.stage.class_weights, wanted)
    else:
        assert run.stage.class_weights is None


def test_a_run_that_goes_on_counts_no_labels_again(tmp_path):
    assert dl.train(TINY, tmp_path, deadline=0.0) is None  # it stops after a step
    state = setup.checkpoints.latest(tmp_path / "checkpoints")
    scaled = state["precision"] = {"scale": 8.0, "steps": 3}
    fabric, taken = setup.launch(TINY, Mock()), []
    precision = type(fabric.strategy.precision)
    with (
        patch.object(setup.checkpoints, "resumed", return_value=state),
        patch.object(setup, "class_counts", side_effect=AssertionError),
        patch.object(precision, "load_state_dict", lambda _, one: taken.append(one)),
    ):
        run = setup.begin(TINY, fabric, tmp_path, False)
    assert torch.equal(run.identity["counts"], state["counts"])
    assert (run.step, run.losses) == (state["step"], state["losses"])
    assert taken == [scaled]


@pytest.mark.parametrize("gpu", [True, False])
def test_processes_are_as_torchrun_says_on_the_gpu_if_there_is_one(gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "6")
    logger, config = Mock(), TINY.changed(precision="bf16-mixed", batch=12)
    with (
        patch.object(setup, "Fabric") as fabric,
        patch.object(torch.cuda, "is_available", lambda: gpu),
    ):
        fabric.return_value.world_size = 6
        assert setup.launch(config, logger) is fabric.return_value
        with pytest.raises(ValueError, match="a batch of 8 does not divide into 6 par"):
            setup.launch(config.changed(batch=8), logger)
    fabric.return_value.launch.assert_called()
    assert fabric.call_args.kwargs == {
        "accelerator": "cuda" if gpu else "cpu",
        "devices": 2,
        "num_nodes": 3,
        "precision": "bf16-mixed",
        "loggers": logger,
    }
    assert isinstance(fabric.call_args.kwargs["num_nodes"], int)


@pytest.mark.parametrize("start", ["imagenet", None])
def test_of_a_baseline_the_body_was_trained_before_and_its_head_not(start):
    class Small(nn.Module):
        def __init__(self, kind, classes, start, *, scale):
            super().__init__()
            assert (kind, classes, scale) == ("fcn_resnet50", 4, 1.25)
            assert start == config.start
            self.backbone, self.classifier = nn.Linear(2, 2), nn.Linear(2, classes)

    config = Config(data="shapes", network="fcn_resnet50", start=start)
    with patch.object(setup, "Baseline", Small):
        network, trained = setup.build_network(
            config.changed(scale=1.25), dl.open_data("shapes")
        )
    assert isinstance(network, Small)
    body = {"backbone.weight", "backbone.bias"}
    assert trained == (body if start else set())


@pytest.mark.parametrize(
    ("loss_at", "upsampling"), [("pixels", "half_pixel"), ("cells", "released")]
)
def test_a_network_predicts_where_its_loss_was(loss_at, upsampling):
    config = TINY.changed(recipe=replace(RECIPE, loss_at=loss_at))
    network, _ = setup.build_network(config, dl.open_data("shapes"))
    assert network.upsampling == upsampling
    assert network.input_size == (1200, 1200)  # 480 x 360 at 1.5 is one tile


@pytest.mark.parametrize("tested", [True, False])
def test_labels_of_the_splits_that_are_read_are_counted_with_a_bar(tmp_path, tested):
    config, counted = TINY.changed(pictures=1, test=tested), []

    def count(data, classes, *, progress):
        counted.append((len(data), classes, progress))
        return torch.ones(classes)

    with patch.object(setup, "class_counts", count):
        setup.begin(config, setup.launch(config, Mock()), tmp_path, True)
    assert counted == (3 if tested else 2) * [(1, 4, True)]


def test_the_smallest_crop_is_one_cell():
    assert TINY.changed(cells=(1, 1)).cells == (1, 1)
    with pytest.raises(ValueError, match=r"cells must be above 0, got \(3, 0\)"):
        TINY.changed(cells=(3, 0))


@pytest.mark.parametrize("frozen", [0, 2])
def test_the_first_stages_keep_their_weights_if_they_are_frozen(frozen):
    config = TINY.changed(frozen=frozen)
    network, _ = setup.build_network(config, dl.open_data(config.data))
    kept = {
        name.split("_")[0]
        for name, one in network.front.named_parameters()
        if not one.requires_grad
    }
    assert kept == {f"conv{stage}" for stage in range(1, frozen + 1)}
    groups = setup.build_optimizer(network, config, set()).param_groups
    learned = sum(len(group["params"]) for group in groups)
    assert learned == sum(one.requires_grad for one in network.parameters())


def test_a_baseline_has_no_stages_to_freeze():
    with pytest.raises(ValueError, match=r"fcn_resnet50 has no stages .*, got 2"):
        Config(network="fcn_resnet50", frozen=2)
