"""What people ask of the analysis: options, several inputs, what it leaves alone."""

import gc
import math
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.fields.tracing.export import TracingError


class Net(nn.Module):
    """A network from layers and a function of them and the inputs."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def conv(k=3, s=1, p=0, c=4, out=4):
    return nn.Conv2d(c, out, k, s, p)


def size_of(model, size=(4, 24, 24), **options):
    return [field.size for field in dl.receptive_field(model, size, **options)]


# --- statistics -----------------------------------------------------------------------

STATISTICS = {
    "instance norm": (lambda n, x: n.b(n.norm(n.a(x))), nn.InstanceNorm2d(4), "norm"),
    "group norm": (lambda n, x: n.b(n.norm(n.a(x))), nn.GroupNorm(2, 4), "norm"),
    "layer norm": (lambda n, x: n.b(n.norm(n.a(x))), nn.LayerNorm((4, 22, 22)), "norm"),
    "squeeze and excitation": (
        lambda n, x: n.b(n.a(x) * n.norm(n.a(x).mean((2, 3), keepdim=True)).sigmoid()),
        conv(1),
        "mul",
    ),
    "global context": (
        lambda n, x: n.b(
            torch.cat(
                [n.a(x), n.norm(F.adaptive_avg_pool2d(x, 1)).expand(1, 4, 22, 22)]
            )
        ),
        conv(1),
        "cat",
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_over_positions_can_be_left_out(name):
    function, norm, where = STATISTICS[name]
    model = Net(function, a=conv(), norm=norm, b=conv(5))
    assert size_of(model) == [math.inf, math.inf]
    answer = dl.receptive_field(model, (4, 24, 24), statistics="ignore")
    assert [field.size for field in answer] == [7, 7]
    assert any(where in layer for layer in answer.ignored), answer.ignored
    # a unit reads then what the two convolutions read
    assert answer.region(9, 9).sum() == 49 and answer.region(9, 9)[9:16, 9:16].all()


def test_attention_is_no_statistic():
    model = Net(lambda n, x: x + _attended(n.a(x)), a=conv(p=1))
    for statistics in ("read", "ignore"):
        assert size_of(model, statistics=statistics) == [math.inf, math.inf]


def _attended(x):
    tokens = x.flatten(2).mT
    mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
    return mixed.mT.unflatten(2, x.shape[2:])


def test_statistics_are_read_or_ignored():
    with pytest.raises(ValueError, match="must be one of read, ignore; got 'skip'"):
        dl.receptive_field(conv(), (4, 9, 9), statistics="skip")


# --- a part of a network --------------------------------------------------------------

AFTERWARDS = {
    "a recurrent layer": lambda n, y: n.lstm(y.flatten(2).mT)[0],
    "a running sum": lambda n, y: y.cumsum(-1),
    "the largest": lambda n, y: y.topk(2, 1).values,
    "sorted": lambda n, y: y.sort(1).values,
    "a Fourier transform": lambda n, y: torch.fft.rfft(y).abs(),
    "turned round": lambda n, y: y.flip(2),
    "a decision": lambda n, y: y if y.sum() > 0 else -y,
    "places that values decide": lambda n, y: F.grid_sample(y, y[:, :2].movedim(1, -1)),
}


@pytest.mark.parametrize("name", AFTERWARDS)
def test_what_comes_after_the_layer_asked_for_does_not_matter(name):
    after = AFTERWARDS[name]
    lstm = nn.LSTM(4, 4, batch_first=True)
    model = Net(lambda n, x: after(n, n.c(x)), c=conv(7, 2, 3), lstm=lstm)
    assert size_of(model, to="c") == [7, 7]


# --- several inputs -------------------------------------------------------------------


def test_each_of_several_inputs_has_its_field():
    model = Net(lambda n, x, y: n.a(x) + n.b(y), a=conv(p=1), b=conv(7, 2, 3))
    near, far = dl.receptive_field(model, [(4, 12, 12), (4, 24, 24)])
    assert [field.size for field in near] == [3, 3]
    assert [(field.size, field.stride) for field in far] == [(7, 2), (7, 2)]
    with pytest.raises(TracingError, match="missing 1 required positional argument"):
        dl.receptive_field(model, (4, 12, 12))


def test_an_input_that_is_not_read_is_told():
    model = Net(lambda n, x, y: n.a(x), a=conv())
    with pytest.raises(ValueError, match="does not depend on"):
        dl.receptive_field(model, [(4, 12, 12), (4, 12, 12)])


@pytest.mark.parametrize("number", [int, np.int64, np.int32])
def test_numbers_of_numpy_are_numbers(number):
    size = tuple(map(number, (4, 24, 24)))
    assert size_of(conv(5), size) == [5, 5]
    assert size_of(conv(5), np.array([4, 24, 24])) == [5, 5]


# --- units without a field in common --------------------------------------------------


def test_where_units_share_no_field_each_has_a_region():
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    model = Net(lambda n, x: x + n.up(n.a(x[..., ::2, ::2])), a=conv(p=1), up=up)
    with pytest.raises(TracingError, match=r"align_corners=True.*region\(…\)"):
        dl.receptive_field(model, (4, 12, 12))
    found = dl.region(model, (4, 12, 12), (5, 5))
    assert (found == _by_nan(model.double(), (4, 12, 12), (5, 5))).all()
    with pytest.raises(
        ValueError, match=r"unit must be within \(12, 12\), got \(12, 0"
    ):
        dl.region(model, (4, 12, 12), (12, 0))


def _by_nan(model, size, unit):
    """The network itself: which positions make the unit NaN."""
    found = np.zeros(size[1:], bool)
    for place in np.ndindex(*size[1:]):
        x = torch.zeros(1, *size, dtype=torch.float64)
        x[(0, slice(None), *place)] = math.nan
        with torch.no_grad():
            found[place] = model(x)[(0, slice(None), *unit)].isnan().any()
    return found


# --- networks that were saved or exported ---------------------------------------------


def test_networks_of_jit_and_export_are_taken():
    model = nn.Sequential(conv(3, 2), nn.ReLU(), conv()).eval()
    x = torch.zeros(1, 4, 24, 24)
    with warnings.catch_warnings(action="ignore"):
        saved = [torch.jit.script(model), torch.jit.trace(model, x)]
    saved.append(torch.export.export(model, (x,)).module())
    for one in saved:
        assert size_of(one) == [7, 7]


def test_a_part_may_be_a_script():
    parts = nn.Sequential(nn.ReLU(), conv()).eval()
    with warnings.catch_warnings(action="ignore"):
        saved = torch.jit.script(parts), torch.jit.trace(parts, torch.zeros(1, 4, 9, 9))
    for one in saved:
        assert size_of(nn.Sequential(conv(3, 2), one)) == [7, 7]


def test_a_script_that_values_steer_is_refused():
    class Steered(nn.Module):
        def forward(self, x):
            if bool(x.sum() > 0):
                return x
            return -x

    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(TracingError, match="goes one of two ways, as values decide"),
    ):
        size_of(torch.jit.script(Steered()))


# --- what the analysis leaves alone ---------------------------------------------------


class Building(nn.Module):
    """A network that makes, at its first call, what ``way`` says."""

    def __init__(self, way):
        super().__init__()
        self.way, self.conv, self.cache = way, conv(), {}

    def forward(self, x):
        if self.way == "buffer" and "grid" not in dict(self.named_buffers()):
            self.register_buffer("grid", torch.arange(24.0) + 0 * x[0, 0, 0])
        if self.way == "module" and "late" not in dict(self.named_children()):
            self.late = nn.Identity()
        if self.way == "entry":
            self.cache.setdefault(x.shape, x * 2)
        if self.way == "attribute":
            self.last = x
        if self.way == "list":
            self.__dict__.setdefault("seen", []).append(x)
        return self.conv(x)


@pytest.mark.parametrize("way", ["buffer", "module", "entry", "attribute", "list"])
def test_a_network_that_builds_something_works_afterwards(way):
    model, x = Building(way), torch.randn(1, 4, 24, 24)
    wanted = model.conv(x)
    assert size_of(model) == [3, 3]
    assert dict(model.named_buffers()) == {} and not hasattr(model, "late")
    assert model.cache == {} and not hasattr(model, "last")
    found = model(x)
    assert type(found) is torch.Tensor and torch.equal(found, wanted)
    assert dl.verify(model, (4, 24, 24)) is None


class Masked(nn.Conv2d):
    """A convolution that masks its weights when called, as PixelCNNs have it."""

    def forward(self, x):
        self.weight.data *= self.weight.data > 0
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Masked(4, 4, 3), r"torch cannot follow, as by \.data"),
        (nn.LazyConv2d(4, 3), "lazy layers have no weights yet; run the network once"),
    ],
)
def test_a_network_that_is_refused_works_afterwards(model, message):
    with pytest.raises(TracingError, match=message):
        size_of(model)
    assert model(torch.zeros(1, 4, 9, 9)).shape == (1, 4, 7, 7)


def test_the_state_of_the_process_is_left_as_it_was():
    model = nn.Sequential(conv(), nn.Dropout(), nn.BatchNorm2d(4))
    model[1].eval()
    model.register_forward_hook(lambda *_: None)
    hooks, stderr = dict(model._forward_hooks), sys.stderr
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    gc.disable()
    try:
        with torch.no_grad():
            assert size_of(model) == [3, 3]
            assert dl.verify(model, (4, 24, 24)) is None
        assert torch.get_default_dtype() is torch.float64
        assert not gc.isenabled() and torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        gc.enable()
    assert [one.training for one in model] == [True, False, True] and model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model._forward_hooks == hooks and sys.stderr is stderr


def test_eight_threads_at_once_get_right_answers():
    shared, stderr, answers = nn.Sequential(conv(5, 2), conv()), sys.stderr, []
    own = [nn.Sequential(*[conv(p=1)] * (n + 1)) for n in range(8)]

    def ask(n):
        answers.append((n, size_of(own[n]), size_of(shared)))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(n, [2 * n + 3] * 2, [9, 9]) for n in range(8)]
    assert sys.stderr is stderr
    assert not any(type(one).__name__ == "FakeTensor" for one in shared.parameters())


def test_layers_nested_without_end_are_refused_in_a_sentence():
    model = conv()
    for _ in range(1200):
        model = nn.Sequential(model)
    with pytest.raises(TracingError, match="nested deeper than Python's limit"):
        dl.receptive_field(model, (4, 24, 24))
