"""The effective receptive field: gradients of networks whose answer is known."""

from contextlib import ExitStack
from math import isclose, sqrt

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

import dilated_lib as dl
from dilated_lib import Window
from dilated_lib.evaluation_mode import evaluating
from dilated_lib.fields.tracing.export import TracingError


def stack(*dilations):
    return [Window(3, dilation=dilation) for dilation in dilations]


def linear(windows):
    """A network of equal weights along two axes, from windows."""
    layers = []
    for one in windows:
        conv = nn.Conv2d(
            1, 1, one.kernel_size, one.stride, dilation=one.dilation, bias=False
        )
        nn.init.ones_(conv.weight)
        layers.append(conv)
    return nn.Sequential(*layers).double()


def noise(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    "windows",
    [
        [Window(3)] * 4,
        [Window(3, 2), Window(2, dilation=3)],
        stack(2, 2),
        stack(1, 2, 4),
    ],
)
def test_a_linear_network_looks_along_its_paths(windows):
    seen = dl.effective_receptive_field(linear(windows), noise(3, 1, 40, 40))
    field, paths = dl.compose(windows), dl.coverage(windows)
    units = (40 - field.size) // field.stride + 1
    inside = slice(field.start(units // 2), field.end(units // 2) + 1)
    assert seen[inside, inside].tolist() == np.outer(paths, paths).tolist()
    assert seen.sum() == seen[inside, inside].sum()
    rows = seen[inside, inside].sum(1) / seen.sum()
    at = np.arange(len(rows)) - (len(rows) - 1) / 2
    assert isclose(sqrt(rows @ at**2), dl.deviation(windows))


def test_gradients_of_inputs_and_channels_are_averaged_by_size():
    class Scaled(nn.Module):
        def forward(self, x):
            return x[:, :1] * x[:, 1:]

    x = torch.tensor([[[[3.0]], [[-5.0]]], [[[1.0]], [[2.0]]]])
    seen = dl.effective_receptive_field(Scaled(), x)
    assert seen.item() == (3 + 5 + 1 + 2) / 4


def test_binary_counts_the_inputs_for_which_a_gradient_arrives():
    relu = nn.Sequential(nn.ReLU())
    x = torch.tensor([-1.0, 2.0, 3.0, -4.0])[:, None, None].expand(4, 1, 3)
    seen = dl.effective_receptive_field(relu, x, unit=(2,), binary=True)
    assert seen.tolist() == [0, 0, 0.5]


def test_the_signs_come_from_the_seed_and_from_nothing_else():
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    seen = []
    for state in (1, 2):
        torch.manual_seed(state)  # the caller's own draws
        seen.append(dl.effective_receptive_field(conv, torch.ones(1, 3, 7, 7)))
    np.testing.assert_array_equal(*seen)


def test_each_input_has_signs_of_its_own_counted_from_the_seed():
    conv = nn.Conv1d(1, 16, 1, bias=False)
    conv.weight.data = 2.0 ** torch.arange(16).view(16, 1, 1)  # a sum tells its signs
    one, two = torch.ones(1, 1, 1), torch.ones(2, 1, 1)
    first, second = (dl.effective_receptive_field(conv, one, seed=n) for n in (0, 1))
    assert first != second
    assert dl.effective_receptive_field(conv, two) == (first + second) / 2


def test_channels_do_not_cancel():
    conv = nn.Conv2d(1, 2, 1, bias=False)
    conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    seen = dl.effective_receptive_field(conv, torch.ones(400, 1, 1, 1)).item()
    assert 0.8 < seen < 1.2  # 0 or 2 by the signs drawn, and on average 1


def test_the_network_is_measured_in_evaluation_mode_and_left_as_it_was():
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Dropout(0.9), nn.BatchNorm1d(1))
    model[2].eval()
    seen = dl.effective_receptive_field(model, torch.ones(20, 1, 1), binary=True)
    assert seen.item() == 1
    assert [one.training for one in model] == [True, True, False]
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("model", "inputs", "unit", "message"),
    [
        (nn.Identity(), torch.ones(2, 3), None, r"\(N, C, one length an axis\)"),
        (nn.Identity(), torch.ones(0, 3, 4), None, r"none of them 0, got \(0, 3, 4\)"),
        (
            nn.Flatten(),
            torch.ones(2, 3, 4),
            None,
            r"^the output must be one map with 1 axes, got \(1, 12\)$",
        ),
        (nn.LSTM(4, 2), torch.ones(2, 3, 4), None, "one map with 1 axes, got tuple"),
        (nn.Identity(), torch.ones(2, 3, 4), (4,), r"within \(4,\), got \(4,\)"),
        (nn.Identity(), torch.ones(2, 3, 4), (1, 1), r"within \(4,\), got \(1, 1\)"),
    ],
)
def test_what_has_no_unit_to_look_at_is_refused(model, inputs, unit, message):
    with pytest.raises(ValueError, match=message):
        dl.effective_receptive_field(model, inputs, unit=unit)


def test_a_module_can_be_named_as_for_the_receptive_field():
    network = models.resnet18().eval()
    seen = dl.effective_receptive_field(
        network, noise(1, 3, 96, 96).float(), to="layer1"
    )
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    field = dl.receptive_field(network, (3, 96, 96), to="layer1")
    for axis, found in zip(field, (rows, columns), strict=True):
        unit = 24 // 2
        assert (found[0], found[-1]) == (axis.start(unit), axis.end(unit))
    assert not network.layer1._forward_hooks


class ChannelsLast(nn.Module):
    """A patch of 4 × 4 pixels to a token of 8 channels, which come last."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.patches(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("side", [32, 64])  # 8 tokens along an axis, and 8 channels
def test_channels_may_come_last(side):
    torch.manual_seed(0)
    network = ChannelsLast()
    x = noise(1, 3, side, side).float()
    seen = dl.effective_receptive_field(network, x)
    wanted = np.zeros((side, side), bool)
    middle = side // 4 // 2 * 4
    wanted[middle : middle + 4, middle : middle + 4] = True
    assert ((seen > 0) == wanted).all()
    corner = dl.effective_receptive_field(network, x, unit=(0, side // 4 - 1)) > 0
    assert corner.sum() == 16 and corner[:4, -4:].all()


class Tokens(nn.Module):
    """A row of tokens, one for each patch, and perhaps one more for the class."""

    def __init__(self, *, classed=False):
        super().__init__()
        self.patches, self.norm, self.classed = ChannelsLast(), nn.LayerNorm(8), classed

    def forward(self, x):
        tokens = self.patches(x).flatten(1, 2)
        if self.classed:
            tokens = torch.cat([torch.zeros(len(x), 1, 8), tokens], 1)
        return self.norm(tokens)


def test_units_may_be_a_row_of_tokens():
    torch.manual_seed(0)
    x = noise(2, 3, 24, 32).float()  # 6 x 8 patches
    seen = dl.effective_receptive_field(Tokens(), x, unit=(1, 6))
    wanted = np.zeros((24, 32), bool)
    wanted[4:8, 24:28] = True
    assert ((seen > 0) == wanted).all()
    with pytest.raises(ValueError, match=r"unit must be within \(6, 8\), got \(6, 0\)"):
        dl.effective_receptive_field(Tokens(), x, unit=(6, 0))


def test_a_row_of_tokens_can_be_named():
    network = nn.Sequential(Tokens(), nn.Flatten())
    seen = dl.effective_receptive_field(
        network, noise(1, 3, 8, 8).float(), to="0", unit=(0, 1)
    )
    assert (seen > 0).tolist() == [[False] * 4 + [True] * 4] * 4 + [[False] * 8] * 4


def test_a_mean_leaves_one_unit_along_its_axis():
    class Rows(nn.Module):
        def forward(self, x):
            return x.mean(2)

    x = torch.ones(1, 1, 2, 3)
    seen = dl.effective_receptive_field(Rows(), x, unit=(0, 2))
    assert seen.tolist() == [[0, 0, 0.5], [0, 0, 0.5]]
    with pytest.raises(ValueError, match=r"within \(1, 3\), got \(1, 2\)"):
        dl.effective_receptive_field(Rows(), x, unit=(1, 2))


def test_a_network_that_decides_by_values_is_measured_without_tracing():
    class Cropped(nn.Module):
        def forward(self, x):
            sign = 1 if x.sum() > 0 else -1
            return sign * x[..., 4:]

    with pytest.raises(TracingError, match="depends on the values"):
        dl.receptive_field(Cropped(), (2, 1, 10))
    for height in (1, 3):
        x = torch.ones(1, 2, height, 10)
        seen = dl.effective_receptive_field(Cropped(), x, unit=(0, 5))
        assert np.argwhere(seen).tolist() == [[0, 9]]


def test_tokens_beside_other_things_are_refused_by_name():
    with pytest.raises(ValueError, match="puts positions beside other things"):
        dl.effective_receptive_field(Tokens(classed=True), noise(1, 3, 24, 32).float())
    attended = nn.Sequential(Tokens(classed=True), nn.TransformerEncoderLayer(8, 2))
    attended[1].self_attn.batch_first = True
    with pytest.raises(ValueError, match=r"^the output, \(1, 49, 8\), must be a map"):
        dl.effective_receptive_field(attended, noise(1, 3, 24, 32).float())


class Keeping(Tokens):
    """Tokens, whose module keeps their mean as well, which it computes last."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def forward(self, x):
        tokens = super().forward(x)
        self.kept["mean"] = tokens.mean(1, keepdim=True)
        return tokens


def test_a_module_whose_last_value_is_not_its_result_is_refused():
    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Keeping()

        def forward(self, x):
            return self.body(x) + self.body.kept["mean"]

    with pytest.raises(ValueError, match=r"^the output, \(1, 4, 8\), must be a map"):
        dl.effective_receptive_field(Added(), noise(1, 3, 8, 8).float(), to="body")


class Global(nn.Module):
    """A map with its channels last, which a mean over all positions scales."""

    def __init__(self):
        super().__init__()
        self.patches = ChannelsLast()

    def forward(self, x):
        tokens = self.patches(x)
        return tokens * (1 + tokens.mean((1, 2), keepdim=True))


def test_channels_last_are_found_where_every_unit_sees_everything():
    torch.manual_seed(0)
    x = noise(1, 3, 32, 32).float()
    seen = dl.effective_receptive_field(Global(), x, unit=(6, 1))
    assert seen.all()
    own = seen[24:28, 4:8].mean()  # a patch counts most for its own unit
    assert own > 4 * np.delete(seen.flatten(), seen.argmax()).mean()


def test_where_every_unit_sees_everything_channels_come_first():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Softmax(3))
    everything = nn.Sequential(network, nn.Conv2d(4, 4, 6, padding=(5, 5)))
    x = noise(1, 1, 6, 6).float()
    assert dl.effective_receptive_field(everything, x, unit=(10, 10)).any()


def test_channels_that_see_more_than_others_come_first():
    class Joined(nn.Module):
        def forward(self, x):
            return torch.cat([x, F.avg_pool1d(x, 3, 1, padding=1)], 1)

    seen = dl.effective_receptive_field(Joined(), noise(1, 1, 9), unit=(7,))
    assert np.flatnonzero(seen).tolist() == [6, 7, 8]


def test_an_input_without_any_gradient_is_told():
    closed = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU())
    with pytest.raises(ValueError, match=r"^no gradient") as told:
        dl.effective_receptive_field(closed, torch.zeros(1, 3, 32, 32))
    assert str(told.value) == (
        "no gradient of unit (15, 15) arrives at the input: it reads nothing, or every "
        "ReLU on its way is closed, as for inputs of zeros; try torch.randn"
    )


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("conv", "the model has no module 'conv'"),
        ("spare", "spare is not called, so it has no output"),
        ("both", "the output of both must be one map with 2 axes, got tuple"),
    ],
)
def test_a_module_without_one_map_is_refused(to, message):
    class Both(nn.Module):
        def forward(self, x):
            return x, x

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.both, self.spare = Both(), nn.ReLU()

        def forward(self, x):
            return self.both(x)[0]

    with pytest.raises(ValueError, match=message):
        dl.effective_receptive_field(Network(), torch.ones(1, 1, 4, 4), to=to)


def test_a_network_that_another_thread_evaluates_gets_its_own_mode_back():
    network = nn.Sequential(nn.Conv1d(1, 1, 3), nn.Dropout()).train()
    with ExitStack() as other:
        other.enter_context(evaluating(network))
        # the other thread leaves while this one measures
        network.register_forward_hook(lambda *_: other.close())
        dl.effective_receptive_field(network, torch.ones(1, 1, 7))
    assert all(module.training for module in network.modules())
