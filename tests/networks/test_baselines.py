"""torchvision's networks behind the paper's interface: only the interface is new."""

import pytest
import torch
from torchvision.models import ResNet50_Weights, segmentation
from torchvision.transforms.v2 import functional

from dilated_lib.networks.baselines import Baseline

PUBLISHED = ResNet50_Weights.IMAGENET1K_V1.transforms()


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_it_computes_what_torchvisions_network_does(name):
    torch.manual_seed(0)
    baseline = Baseline(name, 3).eval()
    theirs = getattr(segmentation, name)(
        weights=None, weights_backbone=None, num_classes=3
    )
    prefix = "front.body."
    state = baseline.state_dict()
    assert all(key.startswith(prefix) for key in state)  # its file has weights alone
    theirs.load_state_dict({key.removeprefix(prefix): state[key] for key in state})
    images = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)
    inputs = functional.normalize(images / 255, PUBLISHED.mean, PUBLISHED.std)
    with torch.no_grad():
        found, wanted = baseline(images), theirs.eval()(inputs)["out"]
        logits = baseline.context(baseline.front(baseline.normalised(images)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(logits, found)
    assert found.shape == (2, 3, 33, 40)  # the pixels', without a margin around them
    assert (baseline.stride, baseline.margin, baseline.scale) == (1, 0, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "resnet50"}, "name must be one of fcn_resnet50, deeplabv3_resnet50"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"scale": 0}, "scale must be a number above 0, got 0"),
    ],
)
def test_what_is_no_baseline_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Baseline(**{"name": "fcn_resnet50", "num_classes": 2} | wrong)


def test_one_class_is_enough():
    with torch.device("meta"):
        assert Baseline("fcn_resnet50", 1).num_classes == 1
