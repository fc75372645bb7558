"""What a run begins with: the loss of guessing, and the weights of a checkpoint."""

import os
from dataclasses import replace
from math import log

import pytest
import torch
from torch import nn

import dilated_lib as dl
from dilated_lib.training.checkpoints import restore_weights
from dilated_lib.training.config import Config
from dilated_lib.training.first_batch import guessing_loss
from dilated_lib.training.setup import build_network, torch_settings


@pytest.mark.parametrize(("stage", "parts"), [("context", 1), ("joint", 1.25)])
def test_guessing_costs_more_where_the_front_end_learns_too(stage, parts):
    config = Config().changed(stage=stage, context="basic")
    config = replace(config, recipe=replace(config.recipe, auxiliary=0.25))
    assert guessing_loss(config, 7) == pytest.approx(parts * log(7))


def test_a_baseline_starts_from_scratch_or_imagenet(tmp_path):
    config, data = Config().changed(network="fcn_resnet50"), dl.open_data("shapes")
    with torch.device("meta"):
        network, trained = build_network(config.changed(scale=1.5), data)
    assert (network.num_classes, network.scale, trained) == (4, 1.5, set())
    file = tmp_path / "front.safetensors"
    with pytest.raises(ValueError, match=r"from imagenet or from scratch, got .*front"):
        build_network(config.changed(start=file), data)


def test_weights_of_a_checkpoint_have_the_network_s_names(tmp_path):
    network = nn.Sequential(nn.Linear(2, 3))
    weights = {name: torch.ones_like(one) for name, one in network.state_dict().items()}
    restore_weights(network, weights, tmp_path)
    assert all(one.eq(1).all() for one in network.state_dict().values())
    with pytest.raises(
        ValueError, match=r"not hold the weights .*\"other\"\)?.*delete it"
    ):
        restore_weights(network, weights | {"other": torch.ones(1)}, tmp_path)


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_cublas_is_deterministic_with_a_workspace_of_its_own(given, monkeypatch):
    name = "CUBLAS_WORKSPACE_CONFIG"
    monkeypatch.delenv(name, raising=False)
    with torch_settings(False):
        assert name not in os.environ
    if given:
        monkeypatch.setenv(name, given)
    with torch_settings(True):
        assert os.environ[name] == (given or ":4096:8")
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("search", [True, False])
def test_the_search_of_cudnn_is_afterwards_what_it_was(search):
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = search
        with torch_settings(False):
            torch.backends.cudnn.benchmark = not search
        assert torch.backends.cudnn.benchmark is search
    finally:
        torch.backends.cudnn.benchmark = before
