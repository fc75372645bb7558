"""How far bfloat16 is from float64, and how many labels it changes."""

import pickle
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dilated_lib.dilation.layer import DilatedConv2d
from dilated_lib.experiments import precision

CPU = torch.device("cpu")
noted = []  # what the layer below was given


class Scaled(nn.Conv2d):
    """A layer whose result is exact, but in bfloat16 larger by a factor."""

    factor = 1.37

    def forward(self, x):
        noted.append((x, self.weight, self.bias, self.padding, self.dilation))
        exact = self._conv_forward(x.double(), self.weight.double(), self.bias.double())
        factor = self.factor if x.dtype == torch.bfloat16 else 1
        return (factor * exact).to(x.dtype)


def bfloat16(shape, draw):
    return torch.randn(shape, generator=draw).bfloat16()


def test_an_error_is_the_largest_one_relative_to_the_largest_gradient():
    noted.clear()
    with torch.no_grad():
        found = precision._gradient_error(Scaled, 3, CPU)
    draw = torch.Generator().manual_seed(0)
    shapes = (1, 21, 64, 64), (21, 21, 3, 3), (1, 21, 64, 64)
    x, weight, gradient = (bfloat16(shape, draw) for shape in shapes)
    exact = nn.grad.conv2d_weight(
        x.double(), shapes[1], gradient.double(), padding=3, dilation=3
    )
    off = (1.37 * exact).bfloat16().double() - exact
    assert found == round(float(off.abs().max() / exact.abs().max()), 4)
    assert 0.36 < found < 0.38

    assert [one[0].dtype for one in noted] == [torch.bfloat16, torch.float64]
    for maps, weights, bias, padding, dilation in noted:
        assert padding == dilation == (3, 3)
        assert torch.equal(maps, x.to(maps.dtype))
        assert torch.equal(weights, weight.to(maps.dtype))
        assert not bias.any()
        assert maps.is_contiguous(memory_format=torch.channels_last)
        assert weights.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:for bias. copying from a non-meta parameter")
def test_layer_and_map_are_on_the_device_that_is_measured():
    """The meta device computes nothing, so that there is no error to return."""
    noted.clear()
    with pytest.raises(RuntimeError, match="meta"):
        precision._gradient_error(Scaled, 1, torch.device("meta"))
    kinds = [(x.device.type, x.dtype, weight.device.type) for x, weight, *_ in noted]
    assert kinds == [
        ("meta", torch.bfloat16, "meta"),
        ("meta", torch.float64, "meta"),
    ]


@pytest.mark.parametrize("factor", ["inf", "nan"])
def test_an_error_without_end_is_a_word(monkeypatch, factor):
    monkeypatch.setattr(Scaled, "factor", float(factor))
    assert precision._gradient_error(Scaled, 1, CPU) in ("inf", "nan")


def test_the_librarys_gradients_are_within_eight_bits_of_mantissa():
    assert 0 < precision._gradient_error(DilatedConv2d, 2, CPU) < 0.01


def test_torchs_layer_has_a_process_of_its_own_for_each_dilation(monkeypatch):
    """A stand-in for the process: that of dilation 4 ends before it has an answer."""
    begun, measured = [], []

    class Pool:
        def __init__(self, workers, *, mp_context):
            begun.append((workers, mp_context.get_start_method()))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            begun.append("ended")

        def submit(self, function, *arguments):
            arguments = pickle.loads(pickle.dumps(arguments))  # as on the way there

            def result():
                if arguments[1] == 4:
                    raise BrokenProcessPool
                return function(*arguments)

            return SimpleNamespace(result=result)

    def error(layer, d, device):
        measured.append((layer, d, device))
        return d / (8 if layer is nn.Conv2d else 100)

    monkeypatch.setattr(precision, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(precision, "_gradient_error", error)
    assert precision.gradient_errors(CPU, (1, 4, 8)) == {
        "torch": {"1": 0.125, "4": "process ended", "8": 1.0},
        "library": {"1": 0.01, "4": 0.04, "8": 0.08},
    }
    assert begun == 3 * [(1, "spawn"), "ended"]
    assert measured == [
        (nn.Conv2d, 1, CPU),
        *((DilatedConv2d, d, CPU) for d in (1, 4)),
        (nn.Conv2d, 8, CPU),
        (DilatedConv2d, 8, CPU),
    ]


def test_labels_are_compared_on_the_first_pictures(monkeypatch):
    """Two networks label the four pixels of a picture; the quick one is off in some."""
    truth = torch.tensor([[0, 1], [2, 1]])
    pictures = [(torch.full((3, 2, 2), float(wrong)), truth) for wrong in (1, 0, 2, 3)]

    def probabilities(network, image):
        assert image.shape == (1, 3, 2, 2)
        labels = truth.clone().flatten()
        if network == "quick":
            wrong = int(image[0, 0, 0, 0])
            labels[:wrong] = (labels[:wrong] + 1) % 3
        one_hot = nn.functional.one_hot(labels, 3).view(1, 2, 2, 3)
        return one_hot.permute(0, 3, 1, 2).float()

    monkeypatch.setattr(precision, "small_network", lambda: "exact")
    monkeypatch.setattr(precision, "quick", {"exact": "quick"}.get)
    monkeypatch.setattr(precision, "probabilities", probabilities)
    assert precision.same_labels(pictures, 3) == [75.0, 100.0, 50.0]
