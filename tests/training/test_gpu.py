"""What can be known of a GPU without one: torch's fake tensors have device and shape.

A tensor that stayed on the CPU is an error there, as on a real GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.networks.architecture import Architecture
from dilated_lib.networks.baselines import Baseline
from dilated_lib.prediction import any_network, segmentation
from dilated_lib.prediction.segmentation import probabilities
from dilated_lib.training.config import MODERN, PAPER
from dilated_lib.training.loss import Stage

TWO = {"road": (128, 64, 128), "sky": (128, 128, 128)}


@pytest.fixture
def gpu(monkeypatch):
    for room in (any_network, segmentation):  # fake tensors have no values to look at
        monkeypatch.setattr(room, "check_finite", lambda *_: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("cuda")


def narrow(gpu, **options):
    kind = Architecture(width=4, fc_channels=8, **options)
    with gpu:
        return kind.build(TWO, (1.0, 2.0, 3.0))


def test_a_tensor_on_the_cpu_is_noticed(gpu):
    with pytest.raises(RuntimeError, match="device"):
        torch.empty(3, device=gpu) + torch.empty(3)


@pytest.mark.parametrize("recipe", [MODERN, PAPER])
@pytest.mark.parametrize("context", ["none", "basic", "large"])
def test_the_loss_of_a_stage(gpu, recipe, context):
    weights = torch.ones(2, device=gpu) if recipe.class_weights else None
    network = narrow(gpu, context=context)
    with gpu:
        stage = Stage(network, recipe, class_weights=weights)
    images = torch.empty(2, 3, 388, 396, device=gpu)
    labels = torch.empty(2, 16, 24, dtype=torch.uint8, device=gpu)
    loss = stage(images, labels) / stage.weight(labels).clamp(1e-6)
    assert loss.device.type == "cuda" and loss.dtype == torch.float32


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("upsampling", ["released", "deconvolution", "half_pixel"])
def test_probabilities_of_a_picture_that_lies_elsewhere(gpu, scale, upsampling):
    network = narrow(gpu, scale=scale, context="basic")
    network.upsampling = upsampling
    for place in (gpu, torch.device("cpu")):
        picture = torch.empty(1, 3, 48, 64, dtype=torch.uint8, device=place)
        shares = probabilities(network, picture, tile=(420, 440))
        assert shares.shape == (1, 2, 48, 64) and shares.device.type == "cuda"


def test_probabilities_of_a_peer(gpu):
    with gpu:
        peer = Baseline("deeplabv3_resnet50", 2, scale=1.5)
    picture = torch.empty(1, 3, 64, 96, dtype=torch.uint8, device=gpu)
    assert probabilities(peer, picture, scale=1.5).device.type == "cuda"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_the_context_modules_products_have_full_channels_in_half(
    gpu, monkeypatch, kind
):
    seen, torchs = [], F.conv2d

    def conv(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        seen.append((x.shape[1], len(weight), max(_pair(dilation))))
        return torchs(x, weight, bias, stride, padding, dilation, groups)

    monkeypatch.setattr(F, "conv2d", conv)
    torch.set_default_dtype(kind)
    try:
        with gpu:
            module = dl.ContextModule(21, "large")
    finally:
        torch.set_default_dtype(torch.float32)
    out = module(torch.empty(2, 21, 64, 64, device=gpu, dtype=kind))
    assert out.shape == (2, 21, 64, 64) and out.dtype == kind
    full = all(c % 8 == o % 8 == 0 for c, o, _ in seen)
    assert full == (kind != torch.float32)
    sixth = seen[5]
    assert sixth == ((336, 672, 1) if full else (336, 672, 16))  # split, or not


def _pair(dilation):
    return (dilation, dilation) if isinstance(dilation, int) else dilation
