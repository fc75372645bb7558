"""The comparison with other packages: its cases, its truth, and what it makes of them.

Stand-ins for the packages check what they are asked and answer in their own form.
"""

import logging
import sys
import warnings
from functools import cache
from math import inf
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

import dilated_lib as dl
from dilated_lib import records
from dilated_lib.experiments import other_tools
from dilated_lib.experiments.other_tools import SIDE, Net, compare, measured, ours

# the shape of each case's output, (channels, rows, columns), for 128 x 128 pixels
SHAPES = {
    "plain": (3, 61, 61),
    "max pooling": (3, 61, 61),
    "average pooling": (3, 61, 61),
    "dilated": (3, 126, 126),
    "context module": (3, 128, 128),
    "rectangular": (3, 62, 122),
    "same, even kernel": (3, 128, 128),
    "asymmetric padding": (3, 63, 64),
    "reflected": (3, 128, 128),
    "dilated pooling": (3, 61, 61),
    "stride above kernel": (3, 14, 14),
    "residual": (3, 64, 64),
    "concatenated": (6, 128, 128),
    "other order": (3, 57, 57),
    "shared layer": (3, 124, 124),
    "dead branch": (3, 126, 126),
    "functional": (3, 62, 62),
    "cropped": (3, 124, 124),
    "channels split": (1, 128, 128),
    "transposed": (3, 124, 124),
    "nearest": (3, 126, 126),
    "bilinear": (3, 254, 254),
    "pixel shuffle": (3, 252, 252),
    "pixel unshuffle": (3, 62, 62),
    "rolled": (3, 126, 126),
    "squeeze and excitation": (3, 128, 128),
    "instance norm": (3, 126, 126),
    "alexnet.features[:6]": (192, 7, 7),
    "vgg11.features[:11]": (256, 16, 16),
    "resnet18, to layer2": (128, 16, 16),
    "densenet121, first block": (256, 32, 32),
    "squeezenet1_0.features[:6]": (256, 30, 30),
    "shufflenet_v2_x0_5, to stage2": (48, 16, 16),
    "mobilenet_v3_small.features[:3]": (24, 16, 16),
}
RECORDS = {one.experiment: one for one in records.read("tools")}


class Head(nn.Linear):
    """One weight in place of millions: no case has a network's head."""

    def __init__(self, *_, **__):
        super().__init__(1, 1)


@cache
def cases():
    torch.manual_seed(5)  # the weights do not depend on it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn, "Linear", Head)
        built = other_tools.cases()
    return {name: network.eval() for name, network in built.items()}


@torch.no_grad()
def test_every_recorded_case_is_built_with_its_padding_and_strides():
    for record in RECORDS.values():
        assert [*cases()] == [*record.metrics]
    for name, network in cases().items():
        assert network(torch.zeros(1, 3, SIDE, SIDE)).shape[1:] == SHAPES[name], name


def test_a_case_of_some_layers_has_as_many_as_its_name_says():
    counted = {n: m for n, m in cases().items() if "[:" in n}
    assert len(counted) == 4
    for name, network in counted.items():
        assert name.endswith(f"[:{len(network)}]")


def test_the_weights_are_the_same_in_every_run():
    first = cases()["plain"][0]  # built before the seed is set here, by whichever test
    torch.manual_seed(0)
    assert torch.equal(first.weight, nn.Conv2d(3, 3, 3).weight)


SMALL = [*SHAPES][: [*SHAPES].index("alexnet.features[:6]")]


@pytest.mark.parametrize("name", [one for one in SMALL if one != "context module"])
def test_this_library_answers_what_was_measured(name):
    for record in RECORDS.values():
        assert ours(cases()[name]) == record.metrics[name]["measured"]


def test_the_context_module_is_the_papers():
    network = cases()["context module"]
    assert isinstance(network, dl.ContextModule)
    recorded = RECORDS["tools/dilated-lib"].metrics["context module"]
    assert recorded["measured"] == [dl.compose(network.windows).size] * 2


def test_a_plain_case_has_a_relu_and_branches_differ_in_their_kernels():
    kinds = [type(layer) for layer in cases()["plain"]]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    kernels = {"residual": [(5, 5), (1, 1)], "dead branch": [(3, 3), (9, 9)]}
    for name, wanted in kernels.items():
        assert [layer.kernel_size for layer in cases()[name].layers] == wanted


@torch.no_grad()
def test_branches_meet_as_their_case_says():
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    some = {name: cases()[name] for name in SMALL}
    a, b = some["residual"].layers
    assert torch.equal(some["residual"](x), a(x) + b(x))
    (a,) = some["cropped"].layers
    assert torch.equal(some["cropped"](x), a(x) + x[:, :, 2:-2, 1:-3])
    (a,) = some["concatenated"].layers
    assert torch.equal(some["concatenated"](x), torch.cat([a(x), x], 1))
    (a,) = some["squeeze and excitation"].layers
    scale = a(x.mean((2, 3), keepdim=True))
    assert torch.equal(some["squeeze and excitation"](x), x * scale)
    assert torch.equal(some["channels split"](x), x[:, :1])


def test_a_rolled_map_is_moved_by_five_rows_and_three_columns():
    rows, columns = dl.receptive_field(cases()["rolled"], (3, SIDE, SIDE))
    assert (rows.start(0), columns.start(0)) == (-5, 3)


@pytest.fixture
def small(monkeypatch):
    """Pictures of 24 x 24 pixels in place of 128 x 128, so that measuring is quick."""
    monkeypatch.setattr(other_tools, "SIDE", 24)


@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        (nn.Conv2d(3, 3, (3, 5), (1, 2)), [3, 5]),
        # of four neighbours two read three positions, and two read two
        (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 4)), [3, 3]),
        (nn.ConvTranspose2d(3, 3, 1, 3), [1, 1]),  # with gaps that read nothing
        (nn.InstanceNorm2d(3), [24, 24]),
    ],
)
def test_a_unit_s_field_is_measured_with_nan(small, network, sizes):
    assert measured(network) == sizes


def test_the_largest_field_of_four_units_from_the_middle_on_is_measured(small):
    """All rows but a few read 13 rows, and those few read their own alone."""

    def widened(x, first, last):
        rows = torch.arange(24)[:, None]
        wide = (x + x.roll(6, 2) + x.roll(-6, 2))[:, :1]
        return torch.where((rows < first) | (rows > last), wide, x[:, :1])

    def field(first, last):
        return measured(Net(lambda x: widened(x, first, last)))

    assert field(12, 15) == [1, 1]
    assert field(13, 15)[0] == field(12, 14)[0] == 13


def test_one_channel_that_loses_its_value_is_enough(small):
    def first_channel_reads_more(x):
        return torch.cat([x[..., 2:, 2:] + x[..., :-2, :-2], x[..., 2:, 2:]], 1)

    assert measured(Net(first_channel_reads_more)) == [3, 3]


def test_an_unbounded_field_is_as_large_as_the_picture():
    assert ours(nn.Conv2d(3, 3, (3, 5))) == [3, 5]
    assert ours(nn.InstanceNorm2d(3)) == [SIDE, SIDE] == [128, 128]


@pytest.fixture
def torchlens(monkeypatch):
    """A stand-in for torchlens: the size and the status that it gives of a network."""
    module, told = ModuleType("torchlens"), {}

    def trace(network, x):
        assert x.shape == (1, 3, 128, 128) and x.std() > 0.5
        told["network"] = network
        view = SimpleNamespace(size=told["size"], status=told["status"])
        layers = [SimpleNamespace(), SimpleNamespace(receptive_field=view)]
        return SimpleNamespace(layers=layers)

    module.trace = trace
    monkeypatch.setitem(sys.modules, "torchlens", module)
    return told


@pytest.mark.parametrize(
    ("size", "status", "answer"),
    [
        ((1, 3, 5.0, 7.0), "Status.EXACT", [5, 7]),
        ((5, inf), "exact", [5, 128]),
        ((5, inf), "Status.UPPER_BOUND", ["≤ 5", "≤ 128"]),
    ],
)
def test_torchlens_is_asked_for_its_last_layer(torchlens, size, status, answer):
    torchlens |= {"size": size, "status": status}
    network = nn.Conv2d(3, 3, 3)
    assert other_tools.by_torchlens(network) == answer
    assert torchlens["network"] is network


@pytest.mark.parametrize("size", [(1, None, 3), (1, 3, None), (None, None)])
def test_what_torchlens_does_not_know_is_an_error(torchlens, size):
    torchlens |= {"size": size, "status": "unknown layer"}
    with pytest.raises(ValueError, match=r"^unknown layer$"):
        other_tools.by_torchlens(nn.Identity())


def test_of_a_size_with_channels_only_the_axes_must_be_known(torchlens):
    torchlens |= {"size": (None, 3, 5), "status": "exact"}
    assert other_tools.by_torchlens(nn.Identity()) == [3, 5]


def test_receptivefield_is_given_the_map_and_calls_rows_w(monkeypatch):
    class PytorchReceptiveField:
        def __init__(self, build):
            self.network = build()

        def compute(self, *, input_shape):
            assert input_shape == [128, 128, 3]
            x = torch.zeros(1, 3, 16, 16)
            result = self.network(x)
            (one,) = self.network.feature_maps
            assert one is result and torch.equal(one, network(x))
            size = SimpleNamespace(w=5.0, h=7.0)
            return [SimpleNamespace(rf=SimpleNamespace(size=size))]

    network = nn.Conv2d(3, 3, (5, 7))
    module = ModuleType("receptivefield.pytorch")
    module.PytorchReceptiveField = PytorchReceptiveField
    package = ModuleType("receptivefield")
    monkeypatch.setitem(sys.modules, "receptivefield", package)
    monkeypatch.setitem(sys.modules, "receptivefield.pytorch", module)
    answer = other_tools.by_receptivefield(network)
    assert answer == [5, 7] and {type(one) for one in answer} == {int}


def test_each_package_s_answers_are_recorded_beside_the_truth(
    small, tmp_path, monkeypatch, capsys
):
    def loud(network):
        print("computing")
        print("still computing", file=sys.stderr)
        warnings.warn("this will change", stacklevel=1)
        logging.getLogger("package").info("busy")
        if isinstance(network, nn.Sequential):
            raise KeyError("no such layer")
        return ["≤ 9", "≤ 9"]

    dropped = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Dropout())
    chosen = {"dropped": dropped, "plain": nn.Conv2d(3, 3, (3, 5))}
    assert [*other_tools.TOOLS] == ["dilated-lib", "torchlens", "receptivefield"]
    assert [f"tools/{name}" for name in other_tools.TOOLS] == [*RECORDS]
    assert [*other_tools.TOOLS.values()] == [
        ours,
        other_tools.by_torchlens,
        other_tools.by_receptivefield,
    ]
    monkeypatch.setattr(other_tools, "cases", lambda: chosen)
    monkeypatch.setattr(other_tools, "TOOLS", {"dilated-lib": ours, "loud": loud})
    monkeypatch.setattr(other_tools, "version", lambda name: f"{name} 1.0")
    monkeypatch.chdir(tmp_path)
    disabled = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            compare()
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(disabled)
    assert capsys.readouterr() == ("", "")
    mine, other = records.read_file(tmp_path / "book" / "results" / "tools.json")
    assert (mine.experiment, other.experiment) == ("tools/dilated-lib", "tools/loud")
    assert mine.config == {"version": "dilated-lib 1.0", "side": 24}
    assert other.config == {"version": "loud 1.0", "side": 24}
    assert mine.metrics == {
        "dropped": {"measured": [3, 3], "answered": [3, 3]},
        "plain": {"measured": [3, 5], "answered": [3, 5]},
    }
    assert other.metrics == {
        "dropped": {"measured": [3, 3], "answered": "KeyError"},
        "plain": {"measured": [3, 5], "answered": ["≤ 9", "≤ 9"]},
    }
    assert not dropped.training  # in which Dropout would do nothing to the answer
