"""From a network to its graph: what is followed, how it is named, what is refused."""

import warnings

import pytest
import torch
from torch import nn

import dilated_lib as dl
from dilated_lib.fields.tracing import export
from dilated_lib.fields.tracing.export import TracingError, by_place, trace


class Net(nn.Module):
    """A network from a function of the input and two layers, of 3 and 5 positions."""

    def __init__(self, function):
        super().__init__()
        self.narrow = nn.Conv2d(2, 2, 3, padding=1)
        self.wide = nn.Conv2d(2, 2, 5, padding=2)
        self.function = function

    def forward(self, x):
        return self.function(x, self.narrow, self.wide)


def sizes(function, **asked):
    return [one.size for one in dl.receptive_field(Net(function), (2, 19, 19), **asked)]


def added_to_a_view(x, narrow, wide):
    y = x.clone()
    y[:, :1].add_(narrow(x)[:, :1])
    return y


def without_gradients(x, narrow, wide):
    with torch.no_grad():
        y = narrow(x)
    return y.relu()


def decides(x, narrow, wide):
    return narrow(x) if x.mean() > 0 else wide(x)


@pytest.mark.parametrize("function", [added_to_a_view, without_gradients])
def test_what_changes_its_input_or_calls_a_graph_is_taken_apart(function):
    assert sizes(function) == [3, 3]


def test_a_module_that_is_called_twice_has_one_name():
    found = dl.receptive_field(Net(lambda x, a, b: a(b(a(x)))), (2, 19, 19))
    assert [layer.module for layer in found.layers] == ["narrow", "wide", "narrow"]
    assert found.layers[-1].operation == "conv2d"
    assert sizes(lambda x, a, b: a(b(a(x))), to="narrow") == [9, 9]  # its last result


def test_results_are_named_by_where_they_lie():
    assert by_place(5) == {"output": 5}
    assert by_place({"a": (1, [2]), 3: 4}) == {"a.0": 1, "a.1.0": 2, "3": 4}
    assert sizes(lambda x, a, b: a(x), to="output") == [3, 3]
    assert sizes(lambda x, a, b: [a(x), {"wide": b(x)}], to="1.wide") == [5, 5]


def test_a_wrong_name_is_answered_with_three_that_exist():
    def several(x, narrow, wide):
        return {name: narrow(x) for name in ("nar1", "nar2", "nar3", "nar4")}

    graph = trace(Net(several), [(2, 9, 9)], lambda _: True)
    with pytest.raises(ValueError, match="nothing named 'nar'; near to it: ") as wrong:
        graph.find("nar")
    assert str(wrong.value).count("'nar") == 4  # and the wrong one itself
    with pytest.raises(ValueError, match=r"near to it: 'nar1', 'nar2', 'nar3'$"):
        graph.find("qqq")
    with pytest.raises(TypeError, match="told by its name, got 3"):
        graph.find(3)


@pytest.mark.parametrize("to", [None, "nowhere"])
def test_the_call_that_stops_the_tracing_is_quoted(to):
    with pytest.raises(TracingError) as refusal:
        sizes(decides, to=to)
    assert str(refusal.value) == (
        "Net on 2 x 19 x 19 cannot be traced at decides, "
        "`return narrow(x) if x.mean() > 0 else wide(x)`: "
        "what it does depends on the values, not only on the size, of its input"
    )


def test_as_far_as_a_module_a_network_may_decide():
    def decides_later(x, narrow, wide):
        return decides(wide(x), narrow, wide)

    assert sizes(decides_later, to="wide") == [5, 5]


def test_a_network_that_returns_nothing_is_refused():
    with pytest.raises(ValueError, match="the network returns nothing: choose one"):
        sizes(lambda x, narrow, wide: None)


class Packed(nn.Module):
    """A network whose first parameter is of whole numbers."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
        self.layer = nn.Conv2d(2, 2, 3)

    def forward(self, x):
        return self.layer(x)


def test_inputs_are_of_the_kind_of_the_weights():
    for model, kind in (
        (nn.ReLU(), torch.float32),
        (Packed(), torch.float32),
        (nn.Conv2d(2, 2, 3).half(), torch.float16),
        (nn.Conv2d(2, 2, 3, device="meta"), torch.float32),
    ):
        first, second = export.example_inputs(model, [(2, 9, 9), (4,)])
        assert (first.shape, second.shape) == ((1, 2, 9, 9), (1, 4))
        device = next(iter(model.parameters()), torch.empty(0)).device
        assert (first.dtype, first.device) == (kind, device)
    assert [one.size for one in dl.receptive_field(Packed(), (2, 9, 9))] == [3, 3]


def test_a_script_among_the_layers_works_as_before():
    with warnings.catch_warnings(action="ignore"):  # scripts are deprecated
        script = torch.jit.script(nn.Conv2d(2, 2, 3))
    model = nn.Sequential(script, nn.Conv2d(2, 2, 5))
    x = torch.rand(1, 2, 9, 9)
    before = model(x)
    assert [one.size for one in dl.receptive_field(model, (2, 9, 9))] == [7, 7]
    assert torch.equal(model(x), before)


def test_an_error_that_says_nothing_is_told_by_its_kind():
    told = "Identity on 1 x 9 and 2 x 8 cannot be traced: "
    sizes = [(1, 9), (2, 8)]
    assert export.why(nn.Identity(), sizes, KeyError()) == f"{told}KeyError"
    assert export.why(nn.Identity(), sizes, KeyError("a\nb")) == f"{told}'a\\nb'"
    assert export.why(nn.Identity(), sizes, ValueError("a\nb")) == f"{told}a"
