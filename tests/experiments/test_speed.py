"""The command that measures speed: what it compares, and what stands in its records."""

import json
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from tiny_network import tiny
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import dilated_lib as dl
from dilated_lib.dilation.cost import Timing
from dilated_lib.experiments import speed

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EVERY = (1, 2, 4, 8, 16)  # the dilations of chapter 07
CHANNELS = ((21, 21), (24, 24), (64, 64), (336, 672))


class Convolutions(TorchDispatchMode):
    """Notes of every convolution: shapes, padding, dilation, precision and layout."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            x, weight, _, _, padding, dilation, *_ = args
            assert x.dtype == weight.dtype
            layouts = [
                layout  # of the map and of the weights; 1 x 1 weights have both
                for layout in ("contiguous_format", "channels_last")
                if all(
                    one.is_contiguous(memory_format=getattr(torch, layout))
                    for one in (x, weight)
                )
            ]
            self.seen.append(
                {
                    "map": tuple(x.shape),
                    "weights": tuple(weight.shape),
                    "padding": {*padding},
                    "dilation": {*dilation},
                    "dtype": str(x.dtype).removeprefix("torch."),
                    "layout": " or ".join(layouts).removesuffix("_format"),
                }
            )
        return function(*args, **(kwargs or {}))


class OnMeta(TorchFunctionMode):
    """Puts each tensor on the meta device, so that the wide layers cost nothing."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = "meta"
        args = ("meta" if isinstance(one, torch.device) else one for one in args)
        return function(*args, **kwargs)


class Paper(nn.Module):
    """Stands in for the paper's network, whose weights would be fetched."""

    sizes = (SimpleNamespace(size=lambda cells: 1000 + cells),)

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        assert not self.training
        return self.layer(x)


def convolutions(function):
    with Convolutions() as noted:
        function()
    return noted.seen


def convolution(width, outputs, side, batch, d, dtype="float32", last=False):
    """What a dilated 3 × 3 layer is that keeps the size of its map."""
    return {
        "map": (batch, width, side, side),
        "weights": (outputs, width, 3, 3),
        "padding": {d},
        "dilation": {d},
        "dtype": dtype,
        "layout": "channels_last" if last else "contiguous",
    }


@pytest.fixture(scope="module")
def compared():
    """Collect the experiments at their full size, as one after the other is built.

    Of each there are its name and config, and the first convolution of each of the
    things compared; nothing is computed. The modules that are trained come apart.
    """

    @cache
    def collect(device, bfloat16):
        trained = []

        def modules(module, x):
            weight = module.layers[0].weight
            assert weight.dtype == x.dtype
            trained.append((len(weight), tuple(x.shape), str(x.dtype)))
            return {"library": partial(module, x)}

        with pytest.MonkeyPatch.context() as replaced:
            replaced.setattr(speed, "_modules", modules)
            replaced.setattr(speed, "dilation8_pascal_voc", Paper)
            replaced.setattr(speed, "quick", lambda network: network.layer)
            replaced.setattr(speed, "has_bfloat16", lambda: bfloat16)
            with torch.device("meta"), OnMeta(), torch.no_grad():
                found = [
                    (
                        name,
                        config,
                        {way: convolutions(one)[0] for way, one in functions.items()},
                    )
                    for name, config, functions in speed._experiments(device, False)
                ]
        return found, trained

    return collect


@pytest.mark.parametrize(
    ("device", "has", "kinds", "trained", "batch"),
    [
        (CPU, True, ("float32", "bfloat16"), ("float32",), 1),
        (CPU, False, ("float32",), ("float32",), 1),
        (CUDA, False, ("float32", "bfloat16"), ("float32", "bfloat16"), 16),
    ],
)
def test_layers_of_four_widths_come_in_every_precision_and_layout(
    compared, device, has, kinds, trained, batch
):
    found, modules = compared(device, has)
    expected = []
    for channels in CHANNELS:
        config = {"channels": channels, "side": 64, "batch": batch}
        expected += [
            ("dilation", config | {"dtype": dtype, "layout": layout})
            for dtype in kinds
            for layout in ("contiguous", "channels_last")
        ]
        expected += [("space_to_batch", config | {"dilation": d}) for d in EVERY[1:]]
        for dtype in trained:
            last = config | {"dtype": dtype, "layout": "channels_last"}
            expected.append(("dilation/training", last))
            expected += [
                ("detours/training", last | {"dilation": d})
                for d in EVERY
                if d > 1 or channels == (21, 21)  # others need no padding
            ]
    for variant in ("basic", "large"):
        config = {"classes": 21, "side": 64, "batch": batch}
        expected.append((f"context/{variant}", config))
        expected += [
            (
                f"context/{variant}/training",
                config | {"dtype": dtype, "layout": "channels_last"},
            )
            for dtype in trained
        ]
    if device == CPU:
        edges = {"bfloat16": ((64, 64), 16), "float32": ((336, 672), 8)}
        expected += [
            ("cliff", {"channels": channels, "dtype": dtype, "edge": edge})
            for dtype, (channels, edge) in edges.items()
            if dtype in kinds
        ]
        expected.append(("voc", {"size": 1066}))  # 66 cells
    assert [(name, config) for name, config, _ in found] == expected
    assert modules == [
        (width, (batch, 21, 64, 64), f"torch.{dtype}")
        for width in (21, 42)  # basic, and large
        for dtype in trained
    ]


def test_the_layers_compared_keep_the_size_of_their_map(compared):
    for name, config, ways in compared(CPU, True)[0]:
        if name == "dilation":
            assert [*ways] == ["1", "2", "4", "8", "16"]
            for d, found in ways.items():
                assert found == convolution(
                    *config["channels"],
                    *(64, 1, int(d), config["dtype"]),
                    last=config["layout"] == "channels_last",
                )
        elif name == "space_to_batch":
            d = config["dilation"]
            assert [*ways] == ["direct", "space_to_batch"]
            assert ways["direct"] == convolution(*config["channels"], 64, 1, d)
            by_parts = ways["space_to_batch"]
            batch, width, *sides = by_parts["map"]
            assert (batch, width) == (d * d, config["channels"][0])
            assert sides == [64 // d + 2] * 2  # a cell of zeros on each side
            assert by_parts["dilation"] == {1}


def test_training_goes_by_dilation_and_then_by_the_detours(compared):
    for name, config, steps in compared(CPU, True)[0]:
        width, outputs = config.get("channels", (0, 0))
        if name == "dilation/training":
            assert [*steps] == ["1", "2", "4", "8", "16"]
            for d, found in steps.items():
                assert found == convolution(width, outputs, 64, 1, int(d), last=True)
        if name == "detours/training":
            d = config["dilation"]
            ways = {"direct": (width, outputs, 1, d)}
            if width == 21:
                ways["padded"] = (24, 24, 1, d)
            if d > 1:
                ways["space_to_batch"] = (width, outputs, d * d, 1)
            assert [*steps] == [*ways]
            for way, (inside, outside, batch, rate) in ways.items():
                found = steps[way]
                assert found["map"][:2] == (batch, inside)
                assert found["weights"] == (outside, inside, 3, 3)
                assert found["dilation"] == {rate}


def test_the_cliffs_are_looked_for_at_the_dilation_and_at_the_padding(compared):
    cliffs = [one for one in compared(CPU, True)[0] if one[0] == "cliff"]
    for _, config, ways in cliffs:
        edge = config["edge"]
        assert [*ways] == ["1", str(edge - 1), str(edge), "padded before"]
        for name, found in ways.items():
            d = edge if name == "padded before" else int(name)
            wanted = convolution(*config["channels"], 64, 1, d, config["dtype"])
            if name == "padded before":  # the zeros are in the map already
                wanted["map"] = (*wanted["map"][:2], *[64 + 2 * edge] * 2)
                wanted["padding"] = {0}
            assert found == wanted


def test_a_picture_goes_through_the_papers_network_in_three_ways(compared):
    *_, (name, _, ways) = compared(CPU, False)[0]
    assert name == "voc"
    assert [(way, found["layout"]) for way, found in ways.items()] == [
        ("plain", "contiguous"),
        ("channels_last", "channels_last"),
        ("quick", "contiguous"),
    ]
    assert {found["map"] for found in ways.values()} == {(1, 3, 1066, 1066)}


# What is compared gives the same


@pytest.fixture(scope="module")
def small():
    """The small experiments on a CPU that has bfloat16, and what each of them gives.

    The gradients that steps go back from are ones, so that ways can be compared.
    """
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as replaced, torch.no_grad():
        replaced.setattr(speed, "has_bfloat16", lambda: True)
        replaced.setattr(speed, "small_network", lambda: tiny(classes=3))
        replaced.setattr(torch, "randn_like", torch.ones_like)
        replaced.setattr(speed, "DILATIONS", (1, 2))
        return [
            (
                name,
                config,
                {way: one() for way, one in functions.items()},
                {way: convolutions(one) for way, one in functions.items()},
            )
            for name, config, functions in speed._experiments(CPU, True)
        ]


def test_small_experiments_are_the_same_ones_on_narrow_layers(small):
    layer = {"channels": (3, 3), "side": 16, "batch": 1}
    last = {"dtype": "float32", "layout": "channels_last"}
    context = {"classes": 3, "side": 16, "batch": 1}
    assert [(name, config) for name, config, *_ in small] == [
        *(
            ("dilation", layer | {"dtype": dtype, "layout": layout})
            for dtype in ("float32", "bfloat16")
            for layout in ("contiguous", "channels_last")
        ),
        ("space_to_batch", layer | {"dilation": 2}),
        ("dilation/training", layer | last),
        *(("detours/training", layer | last | {"dilation": d}) for d in (1, 2)),
        ("context/basic", context),
        ("context/basic/training", context | last),
        ("context/large", context),
        ("context/large/training", context | last),
        ("cliff", {"channels": (3, 3), "dtype": "bfloat16", "edge": 16}),
        ("cliff", {"channels": (3, 3), "dtype": "float32", "edge": 8}),
        ("voc", {"size": 380}),  # 8 pixels of a cell, and 186 around them
    ]


def test_ways_that_are_compared_compute_the_same(small):
    compared = {
        "space_to_batch": ["direct", "space_to_batch"],
        "detours/training": ["direct", "padded", "space_to_batch"],
        "context/basic": ["contiguous", "channels_last"],
        "context/large": ["contiguous", "channels_last"],
        "voc": ["plain", "channels_last"],
    }
    for name, config, results, _ in small:
        if name in compared:
            first, *others = compared[name]
            if config.get("dilation") == 1:
                others.remove("space_to_batch")
            for way in others:
                torch.testing.assert_close(
                    results[way], results[first], rtol=1e-4, atol=1e-4
                )


def test_both_layouts_are_those_that_they_are_called(small):
    for name, _, _, noted in small:
        if name in ("context/basic", "context/large", "voc"):
            plain, last, *_ = noted.values()
            assert plain[0]["layout"] == "contiguous"
            assert last[0]["layout"] == "channels_last"


def test_a_step_gives_the_gradients_to_the_map_and_to_the_parameters():
    layer = nn.Conv2d(3, 2, 3, padding=1)
    x = torch.randn(1, 3, 5, 6)
    torch.manual_seed(7)
    with torch.no_grad():
        step = speed._step(lambda x: 2 * layer(x), x, layer)
        found = step()
    torch.manual_seed(7)
    towards = torch.randn(1, 2, 5, 6)
    wanted = x.clone().requires_grad_()
    (2 * layer(wanted)).backward(towards)
    assert [one.shape for one in found] == [x.shape, (2, 3, 3, 3), (2,)]
    torch.testing.assert_close(found[0], wanted.grad)
    torch.testing.assert_close(found[1], layer.weight.grad)
    torch.testing.assert_close(found[2], layer.bias.grad)
    assert not x.requires_grad


def test_the_context_module_is_trained_in_four_forms(monkeypatch):
    """Without dilation, with torch's layers, as it is, and with channels in eights."""
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    torch.manual_seed(0)
    module = dl.ContextModule(3, dilations=(1, 2))
    for layer in module.layers:
        nn.init.normal_(layer.weight, std=0.3)
        nn.init.normal_(layer.bias)
    x = torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        steps = speed._modules(module, x)
        assert [*steps] == ["undilated", "plain", "library", "full channels"]
        found = {name: step() for name, step in steps.items()}
        noted = {name: convolutions(step) for name, step in steps.items()}

    parameters = [one.detach().clone().requires_grad_() for one in module.parameters()]
    for name, rates in (("plain", (1, 2)), ("library", (1, 2)), ("undilated", (1, 1))):
        inside = x.clone().requires_grad_()
        out = inside
        for weight, bias, d in zip(
            parameters[:4:2], parameters[1:4:2], rates, strict=True
        ):
            out = F.conv2d(out, weight, bias, padding=d, dilation=d).relu()
        out = F.conv2d(out, *parameters[4:])
        wanted = torch.autograd.grad(out.sum(), [inside, *parameters])
        torch.testing.assert_close(list(found[name]), list(wanted))
    for name, seen in noted.items():
        width = 8 if name == "full channels" else 3
        rates = (1, 1, 1) if name == "undilated" else (1, 2, 1)
        assert {one["layout"] for one in seen[:2]} == {"channels_last"}
        assert [one["dilation"] for one in seen] == [{d} for d in rates]
        assert [one["padding"] for one in seen] == [{rates[0]}, {rates[1]}, {0}]
        assert [one["map"] for one in seen] == [(1, width, 9, 9)] * 3
        assert [one["weights"][2:] for one in seen] == [(3, 3), (3, 3), (1, 1)]
    assert found["full channels"][0][:, 3:].shape == (1, 5, 9, 9)


def test_channels_of_the_large_module_are_filled_up_layer_by_layer():
    """Of 3 classes it has 6 and 12 channels; they become 8 and 16."""
    module = dl.ContextModule(3, "large", dilations=(1, 2))
    with torch.no_grad():
        steps = speed._modules(module, torch.randn(1, 3, 9, 9))
        noted = convolutions(steps["full channels"])
    assert [one["weights"][:2] for one in noted] == [(8, 8), (16, 8), (8, 16)]


def test_the_fewest_channels_in_eights_are_taken():
    module = dl.ContextModule(9, dilations=(1, 2))
    with torch.no_grad():
        steps = speed._modules(module, torch.randn(1, 9, 5, 5))
        noted = convolutions(steps["full channels"])
    assert [one["weights"][:2] for one in noted] == [(16, 16)] * 3


def test_torchs_layers_are_torchs_and_the_others_are_the_librarys():
    """Only the library's layers fill up channels in bfloat16, where they are dilated.

    To build the steps each module is called, but nothing goes backward: torch's own
    gradients may be anything here.
    """
    module = dl.ContextModule(3, dilations=(2, 2)).bfloat16()
    x = torch.randn(1, 3, 9, 9).bfloat16()
    with torch.no_grad():
        noted = convolutions(lambda: speed._modules(module, x))
    assert {one["dtype"] for one in noted} == {"bfloat16"}
    first = [one["map"][1] for one in noted[::3]]  # of three layers
    checked, steps = first[:2], first[2:]
    assert checked == [3, 16]  # torch's, and the library's
    assert steps == [3, 3, 16, 16]  # undilated, torch's, the library's, in eights


@pytest.mark.parametrize("factor", [1.04, 1.06])
def test_a_module_that_is_off_torchs_layers_is_not_timed(factor):
    class Off(dl.ContextModule):
        def forward(self, logits):
            wide = self.num_classes == 8
            torchs = type(self.layers[0]) is nn.Conv2d
            return super().forward(logits) * (1 if torchs or wide else factor)

    module, x = Off(3, dilations=(1, 2)), torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        if factor < 1.05:
            assert len(speed._modules(module, x)) == 4
            return
        message = r"^the context module is off torch's layers by 0\.06$"
        with pytest.raises(RuntimeError, match=message):
            speed._modules(module, x)


# The records


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Two experiments whose times are known; the command runs in an empty folder."""
    asked, clock = [], iter(range(1000))
    times = iter(
        # of the first round, of the second, of the third
        [
            {"a": Timing(2.0, 0.12345), "b": Timing(3.0, 0.5)},
            {"c": Timing(1.0, 0.0)},
            {"a": Timing(4.0, 0.22222), "b": Timing(4.0, 0.7)},
            {"c": Timing(2.0, 0.0)},
            {"a": Timing(3.00006, 0.98765), "b": Timing(8.0, 0.9)},
            {"c": Timing(4.0, 0.0)},
        ]
    )

    def experiments(device, small):
        asked.append((device.type, small))
        yield "first", {"side": 3}, {"a": None, "b": None}
        next(clock)  # to build the next takes a second
        yield "second", {}, {"c": None}

    def measure(functions, *, seconds, turns):
        assert not torch.is_grad_enabled()
        asked.append(([*functions], seconds, turns))
        for _ in range(5):
            next(clock)
        return next(times)

    monkeypatch.setattr(speed, "_experiments", experiments)
    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(speed, "has_bfloat16", lambda: False)
    monkeypatch.chdir(tmp_path)
    return asked


def rows(path):
    keys = "experiment", "config", "metrics", "seconds"
    return [tuple(row[key] for key in keys) for row in json.loads(path.read_text())]


def test_the_command_records_medians_over_three_rounds(measured, tmp_path):
    speed.speed()
    round_ = [("cpu", False), (["a", "b"], 0.5, 2), (["c"], 0.5, 2)]
    assert measured == 3 * round_
    first, second = rows(tmp_path / "book" / "results" / "speed_cpu.json")
    assert first == (
        "speed/first",
        {"side": 3, "rounds": 3},
        {
            "a": {
                "median_ms": 3.0001,
                "spread_ms": 0.2222,
                "ratio": 1.0,
                "ratios": [1.0, 1.0, 1.0],
            },
            "b": {
                "median_ms": 4.0,
                "spread_ms": 0.7,
                "ratio": 1.5,
                "ratios": [1.5, 1.0, 2.667],
            },
        },
        18.0,  # three times what to measure takes, and one from clock to clock
    )
    assert second[:2] == ("speed/second", {"rounds": 3})
    assert second[2]["c"]["median_ms"] == 2.0
    assert second[3] == 21.0  # and one to build it


def test_the_median_ratio_has_three_digits():
    rounds = [{"a": Timing(3.0, 0), "b": Timing(2.0, 0)}] * 2
    assert speed._over_rounds(rounds)["b"] == {
        "median_ms": 2.0,
        "spread_ms": 0,
        "ratio": 0.667,
        "ratios": [0.667, 0.667],
    }


def test_one_short_round_of_small_experiments_can_be_asked_for(measured, tmp_path):
    speed.speed(tmp_path / "mine.json", seconds=0.01, rounds=1, small=True)
    assert measured[0] == ("cpu", True)
    assert measured[1:] == [(["a", "b"], 0.01, 2), (["c"], 0.01, 2)]
    assert [row[1]["rounds"] for row in rows(tmp_path / "mine.json")] == [1, 1]


def test_gradients_are_measured_where_there_is_bfloat16(
    measured, tmp_path, monkeypatch
):
    def errors(device, dilations):
        assert device == CPU and dilations == EVERY
        return {"library": {"1": 0.5}}

    monkeypatch.setattr(speed, "gradient_errors", errors)
    monkeypatch.setattr(speed, "has_bfloat16", lambda: True)
    speed.speed(tmp_path / "mine.json", rounds=1)
    *_, last = rows(tmp_path / "mine.json")
    assert last[:3] == (
        "speed/gradients",
        {"channels": [21, 21], "side": 64, "dtype": "bfloat16"},
        {"library": {"1": 0.5}},
    )


def test_a_gpu_is_measured_where_there_is_one(measured, tmp_path, monkeypatch):
    devices = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        speed, "gradient_errors", lambda device, _: devices.append(device) or {}
    )
    monkeypatch.setattr(
        "dilated_lib.experiments.recorder.device_name", lambda device: str(device)
    )
    speed.speed(tmp_path / "mine.json", rounds=1)
    assert measured[0] == ("cuda", False)
    assert devices == [CUDA]
    made = json.loads((tmp_path / "mine.json").read_text())
    assert {row["device"] for row in made} == {"cuda"}
    assert made[-1]["experiment"] == "speed/gradients"


@pytest.mark.parametrize(("small", "count"), [(False, 6), (True, 4)])
def test_labels_that_bfloat16_leaves_are_counted(
    measured, tmp_path, monkeypatch, small, count
):
    opened = []
    shares = [99.0, 98.0, 97.1116, 100.0, 100.0, 100.0][:count]

    def open_data(name):
        opened.append(name)
        return SimpleNamespace(split=lambda split: [split] * 6)

    def same_labels(pictures, number):
        assert (pictures, number) == (["val"] * 6, count)
        return shares

    monkeypatch.setattr(speed, "open_data", open_data)
    monkeypatch.setattr(speed, "same_labels", same_labels)
    speed.speed(tmp_path / "mine.json", rounds=1, data="streets", small=small)
    assert opened == ["streets"]
    *_, last = rows(tmp_path / "mine.json")
    assert last[:3] == (
        "speed/labels",
        {"data": "streets", "split": "val", "pictures": count},
        {"same": {4: 98.528, 6: 99.019}[count], "worst": 97.112},
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, r"^rounds must be at least 1, got 0$"),
        ({"seconds": 0.0}, r"^seconds must be a number above 0, got 0\.0$"),
        ({"seconds": float("nan")}, r"^seconds must be a number above 0, got nan$"),
        ({"seconds": float("inf")}, r"^seconds must be a number above 0, got inf$"),
        ({"data": "nowhere"}, "data must be one of"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_is(
    tmp_path, measured, wrong, message
):
    with pytest.raises(ValueError, match=message):
        speed.speed(tmp_path / "speed.json", **({"rounds": 1} | wrong))
    assert measured == [] and not any(tmp_path.iterdir())
