"""A trained network in one file: weights, and of which network they are."""

import json
from dataclasses import asdict
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import dilated_lib as dl
from dilated_lib.data.palettes import CAMVID, VOC_ANIMALS
from dilated_lib.networks import architecture as files
from dilated_lib.networks.architecture import Architecture, open_network, save_network
from dilated_lib.networks.weights import save
from dilated_lib.records import results

PALETTE = {"flat ground": (1, 2, 3), "wall": (255, 0, 7), "Tür": (4, 5, 6)}
MEAN = (10.5, 20.25, 30.125)
SMALL = {"width": 1, "fc_channels": 5, "context": "basic"}
ALL = [
    SMALL,
    SMALL | {"context": "none", "padding": "zeros"},
    SMALL | {"context": "none", "padding": "zeros", "front": "fcn32s"},
    SMALL | {"padding": "zeros", "front": "fcn8s"},
    SMALL | {"padding": "zeros", "front": "largefov"},
    SMALL | {"context": "large", "dilations": (1, 2), "width": 2},
    SMALL | {"batch_norm": True, "dilations": (1, 1, 2, 4, 8, 1), "scale": 1.5},
    SMALL | {"front": "conv4", "padding": "reflect"},
]


def made(palette=PALETTE, **options):
    """A network of other weights, and other statistics, than a new one."""
    torch.manual_seed(5)
    architecture = Architecture(**SMALL | options)
    network = architecture.build(palette, MEAN)
    for one in network.state_dict().values():
        if one.is_floating_point():
            one.uniform_(0.1, 0.5)
    return network, architecture


@pytest.mark.parametrize("upsampling", ["released", "half_pixel"])
@pytest.mark.parametrize("options", ALL)
def test_a_network_comes_back_with_all_that_it_is(options, upsampling, tmp_path):
    network, architecture = made(**options)
    network.upsampling = upsampling
    save_network(network, architecture, tmp_path / "net.safetensors")
    found, same = open_network(tmp_path / "net.safetensors")
    assert same == architecture and type(same.dilations) is type(found.mean) is tuple
    before, after = network.state_dict(), found.state_dict()
    assert [*before] == [*after]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert found.palette == PALETTE and [*found.palette] == [*PALETTE]
    assert (found.mean, found.scale) == (MEAN, architecture.scale)
    assert found.upsampling == upsampling
    image = torch.rand(1, 3, 380, 388)
    assert torch.equal(network.eval()(image), found.eval()(image))


def test_what_it_builds_is_a_front_end_and_a_context_module():
    whole = Architecture(context="basic")
    with torch.device("meta"):
        network = whole.build(PALETTE, MEAN)
        paper = dl.networks.dilation8_camvid()
    wanted = {name: one.shape for name, one in paper.state_dict().items()}
    found = {name: one.shape for name, one in network.state_dict().items()}
    assert found.keys() == wanted.keys()
    for layer in ("conv1_1", "conv5_3", "fc7"):
        name = f"front.{layer}.weight"
        assert found[name] == wanted[name]
    assert network.scale == paper.scale
    dilations = [
        layer.dilation[0]
        for layer in network.context.layers
        if getattr(layer, "kernel_size", (1,))[0] == 3
    ]
    assert dilations == [1, 1, 2, 4, 8, 16, 1]
    narrow, _ = made(batch_norm=True, context="none")
    assert narrow.front.conv5_3.out_channels == 8 and narrow.front.fc6.out_channels == 5
    assert narrow.front.bn1_1.num_features == 1 and isinstance(
        narrow.context, nn.Identity
    )
    large, _ = made(context="large", dilations=(1, 2))
    first, second, _ = large.context.layers
    assert first.out_channels == 6 and second.dilation == (2, 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"fc_channels": 0}, "fc_channels must be at least 1, got 0"),
        ({"dilations": (1, 0)}, r"dilations\[1\] must be at least 1, got 0"),
    ],
)
def test_numbers_that_no_network_has_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**wrong)


def test_a_file_of_half_precision_opens_as_float32(tmp_path):
    path = tmp_path / "net.safetensors"
    for kind in (torch.half, torch.bfloat16):
        network, architecture = made(batch_norm=True)
        rounded = {
            name: one.to(kind).float() if one.is_floating_point() else one
            for name, one in network.state_dict().items()
        }
        save_network(network.to(kind), architecture, path)
        with safe_open(path, "pt") as file:
            assert file.get_tensor("final.weight").dtype == kind
        found = open_network(path)[0].state_dict()
        assert {one.dtype for one in found.values()} == {torch.float32, torch.int64}
        for name, one in found.items():
            assert torch.equal(one, rounded[name])


def said(path, kind=ValueError):
    with pytest.raises(kind) as caught:
        open_network(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_missing_or_no_safetensors_is_named(tmp_path):
    told = said(tmp_path / "net.safetensors", FileNotFoundError)
    assert told == f"there is no file {tmp_path}/net.safetensors"
    for content in (b"", b"not a network, but a text that is longer", b"\0" * 100):
        (tmp_path / "net.safetensors").write_bytes(content)
        told = said(tmp_path / "net.safetensors")
        assert told.startswith("net.safetensors is no network of this library, or ")
    torch.save(made()[0].state_dict(), tmp_path / "net.pth")
    assert said(tmp_path / "net.pth").startswith("net.pth is no network of this lib")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_weights_that_do_not_say_of_which_network_are_refused(metadata, tmp_path):
    path = tmp_path / "net.safetensors"
    dl.save(made()[0], path, metadata=metadata)
    assert said(path) == (
        "net.safetensors has weights, but does not say of which network; build it "
        "first, and load them into it"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "unexpected keyword argument 'depth'"),
        ({"mean": None}, "mean must be three numbers from 0 to 255, got None"),
        ({"palette": [1, 2]}, "no attribute 'items'"),
        ({"palette": {}}, "num_classes must be at least 1, got 0"),
        ({"width": "wide"}, "width must be a whole number, got 'wide'"),
        ({"context": "huge"}, "context must be one of none, basic, large; got 'huge'"),
        ({"scale": -1}, "scale must be a number above 0, got -1"),
        ({"dilations": [1, "2"]}, "dilation"),
        ({"dilations": []}, "dilations must list one number for each layer"),
        ({"dilations": [1, 2.0]}, "dilations[1] must be a whole number, got 2.0"),
        ({"dilations": [1, 10**9]}, "dilations must be whole numbers up to 32768"),
        ({"palette": {"": [0, 0, 0]}}, "name of a class must be readable, got ''"),
        ({"palette": {"\x1b[31mwall": [0, 0, 0]}}, r"be readable, got '\x1b[31mwall'"),
        ({"palette": {"wall": [0, 0]}}, "from 0 to 255, got [0, 0] for 'wall'"),
        ({"palette": {"wall": [0, 0, 256]}}, "three whole numbers from 0 to 255"),
        ({"palette": {"wall": [0, 0, True]}}, "three whole numbers from 0 to 255"),
        ({"palette": {"wall": "red"}}, "three whole numbers from 0 to 255, got"),
        ({"mean": [1, 2]}, "mean must be three numbers from 0 to 255, got [1, 2]"),
        ({"mean": [1, 2, float("nan")]}, "mean must be three numbers from 0 to 255"),
        ({"mean": [1, 2, 1e38]}, "mean must be three numbers from 0 to 255"),
        ({"mean": "123"}, "mean must be three numbers from 0 to 255"),
        ({"width": True}, "width must be a whole number, got True"),
        ({"fc_channels": 8.0}, "fc_channels must be a whole number, got 8.0"),
        ({"batch_norm": "no"}, "batch_norm must be true or false, got 'no'"),
        ({"padding": "some"}, "padding must be one of none, zeros, reflect; got"),
        (
            {"front": "unet"},
            "front must be one of paper, conv4, dense, fcn8s, fcn32s, large",
        ),
        ({"front": "dense"}, "padding none and batch_norm=False"),
        (
            {"front": "fcn8s", "padding": "zeros", "batch_norm": True},
            "front fcn8s has zeros as padding and no batch norm, got padding zeros and",
        ),
        ({"scale": 1e-9}, "scale must be a number from 0.001 to 1000, got 1e-09"),
        ({"scale": float("inf")}, "scale must be a number above 0, got inf"),
        (
            {"upsampling": "best"},
            "upsampling must be one of released, deconvolution, half_pixel; got 'best'",
        ),
    ],
)
def test_an_architecture_that_is_none_is_named(change, message, tmp_path):
    path = tmp_path / "net.safetensors"
    network, architecture = made()
    save_network(network, architecture, path)
    whole = described(path)
    assert whole["width"] == 1 and whole["dilations"] == [1, 1, 2, 4, 8, 16, 1]
    dl.save(network, path, metadata={"dilated_lib": json.dumps(whole | change)})
    told = said(path)
    assert told.startswith(
        "net.safetensors is no network of this library, or damaged: "
    )
    assert message in told


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("mean", [0, 0.5, 255], [0, 0.5, 255.5]),
        ("mean", [0, 1, 2], [-0.5, 1, 2]),
        ("scale", 1e-3, 0.0009),
        ("scale", 1e3, 1000.5),
        ("dilations", [2**15], [2**15 + 1]),
        ("palette", {"x": [0, 255, 0]}, {"x": [0, 256, 0]}),
        ("palette", {"x": [0, 0, 0]}, {"x": [-1, 0, 0]}),
    ],
)
def test_a_file_may_say_all_that_can_be_and_no_more(name, taken, refused, tmp_path):
    path = tmp_path / "net.safetensors"
    network, architecture = made({"x": (1, 2, 3)}, dilations=(1,))
    save_network(network, architecture, path)
    whole = described(path)
    told = [json.dumps(whole | {name: value}) for value in (taken, refused)]
    dl.save(network, path, metadata={"dilated_lib": told[0]})
    assert open_network(path)[0].input_size == (900, 900)
    dl.save(network, path, metadata={"dilated_lib": told[1]})
    assert said(path).startswith("net.safetensors is no network of this library")


def described(path):
    """What a network's file says of it, in JSON."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["dilated_lib"])


def test_metadata_that_are_no_architecture_are_refused(tmp_path):
    path, (network, architecture) = tmp_path / "net.safetensors", made()
    save_network(network, architecture, path)
    without_mean = described(path)
    del without_mean["mean"]
    for other in ("[]", "3", "{", "{}"):
        dl.save(network, path, metadata={"dilated_lib": other})
        assert said(path).startswith("net.safetensors is no network of this library")
    dl.save(network, path, metadata={"dilated_lib": json.dumps(without_mean)})
    assert said(path).endswith("missing 1 required keyword-only argument: 'mean'")


@pytest.mark.parametrize(
    "claim", [{"width": 10**4}, {"fc_channels": 10**6}, {"context": "large"}]
)
def test_what_a_file_merely_claims_takes_no_memory(claim, tmp_path):
    """The layers that it describes would take terabytes."""
    network, architecture = made(context="none")
    path = tmp_path / "net.safetensors"
    save_network(network, architecture, path)
    claimed = json.dumps(described(path) | claim)
    dl.save(network, path, metadata={"dilated_lib": claimed})
    with patch.object(nn.Module, "to_empty", side_effect=AssertionError):
        told = said(path)
    assert told.startswith("net.safetensors is for another network, or for other")


def test_opening_a_file_changes_nothing_of_the_callers(tmp_path):
    network, architecture = made(batch_norm=True)
    save_network(network, architecture, tmp_path / "net.safetensors")
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found, _ = open_network(tmp_path / "net.safetensors")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.manual_seed(7)))
    state = network.state_dict()
    for name, one in found.state_dict().items():
        assert one.device.type == "cpu" and one.dtype == state[name].dtype
        assert torch.equal(one, state[name])


def test_weights_of_another_network_than_the_file_says_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    network, _ = made()

    def written(other, palette=PALETTE):
        told = {"palette": palette, "mean": MEAN, **asdict(other)}
        save(network, path, metadata={"dilated_lib": json.dumps(told)})

    written(made()[1], palette={"wall": (0, 0, 0)})
    assert said(path).startswith("net.safetensors is for another network, or for other")
    written(made(context="none")[1])
    assert "left over: ctx_" in said(path)
    written(made()[1])
    state, metadata = load_file(path), {"dilated_lib": json.dumps(described(path))}
    del state["conv1_1.bias"]
    save_file(state, path, metadata)
    assert said(path).endswith("of conv1_1.bias it has nothing, not [1]")
    network.front.final.weight.data[0] = torch.nan
    save_network(network, made()[1], path)
    assert said(path).startswith("final.weight of net.safetensors must be finite")


def test_a_file_that_does_not_mention_padding_has_none(tmp_path):
    with safe_open(results() / "small.safetensors", "pt") as file:
        assert "padding" not in json.loads(file.metadata()["dilated_lib"])
    network, architecture = open_network(results() / "small.safetensors")
    assert architecture.padding == "none" and network.margin == 186


def test_a_file_of_before_tells_the_same_when_it_is_saved_again(tmp_path):
    """But for what the small network's file does not mention yet."""
    network, architecture = open_network(results() / "small.safetensors")
    save_network(network, architecture, tmp_path / "again.safetensors")
    described = []
    for path in (results() / "small.safetensors", tmp_path / "again.safetensors"):
        with safe_open(path, "pt") as file:
            described.append(json.loads(file.metadata()["dilated_lib"]))
    before, after = described
    assert (after.pop("front"), after.pop("padding")) == ("paper", "none")
    assert [*after.items()] == [*before.items()]  # in the same order
    again, _ = open_network(tmp_path / "again.safetensors")
    image = 255 * torch.rand(1, 3, 380, 388)
    assert torch.equal(network(image), again(image))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_how_a_front_end_pads_is_part_of_its_file(padding, tmp_path):
    network, architecture = made(padding=padding)
    save_network(network, architecture, tmp_path / "net.safetensors")
    found, same = open_network(tmp_path / "net.safetensors")
    assert same.padding == padding and found.sizes[0].margin == 0
    image = torch.rand(1, 3, 104, 112)
    assert torch.equal(network.eval()(image), found(image))
    plain, other = made()
    for one, kind in ((plain, architecture), (network, other)):
        with pytest.raises(ValueError, match="its front pads otherwise"):
            save_network(one, kind, tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("how", [{"padding": "once"}, {"padding_mode": "reflect"}])
def test_a_context_module_whose_padding_no_file_tells_is_not_saved(how, tmp_path):
    network, architecture = made()
    network.context = dl.ContextModule(3, **how)
    with pytest.raises(ValueError, match="its context pads otherwise"):
        save_network(network, architecture, tmp_path / "net.safetensors")


def test_an_architecture_of_another_network_is_not_saved(tmp_path):
    path, (network, _) = tmp_path / "net.safetensors", made()
    for other, message in (
        ({"fc_channels": 4}, r"no fc6.weight with shape \(5, "),
        ({"context": "none"}, r"no ctx_conv1_1.weight with"),
        ({"batch_norm": True}, r"the network lacks bn1_1.weight of"),
    ):
        with pytest.raises(ValueError, match=message):
            save_network(network, made(**other)[1], path)
    assert not path.exists()


def test_a_damaged_file_is_named_or_still_a_network(tmp_path):
    path = tmp_path / "net.safetensors"
    save_network(*made(), path)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    begin = whole.index(b"dilated_lib")
    refused = []
    for turn in range(120):
        spoilt = bytearray(whole)
        for place in draw.integers(begin, begin + 500, 2):
            spoilt[place] = draw.integers(32, 127)
        if turn % 4 == 0:
            spoilt = whole[: draw.integers(len(whole))]
        path.write_bytes(spoilt)
        try:
            open_network(path)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 60 and all("net.safetensors" in told for told in refused)


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    network, architecture = made()
    save_network(network, architecture, path)
    before = path.read_bytes()

    def full(state, beside, metadata):
        save_file(state, beside, metadata)
        raise OSError("No space left on device")

    monkeypatch.setattr("dilated_lib.networks.weights.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_network(network.half(), architecture, path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    with pytest.raises(ValueError, match=r"saved as .safetensors, got net.pt$"):
        save_network(network, architecture, tmp_path / "net.pt")


def test_a_network_in_int8_opens_as_any_other(tmp_path):
    network, architecture = made()
    for name, options in {"whole": {}, "int8": {"int8": True}}.items():
        save_network(network, architecture, tmp_path / f"{name}.safetensors", **options)
    whole, small = (
        open_network(tmp_path / f"{name}.safetensors")[0] for name in ("whole", "int8")
    )
    one, other = whole.front.final.weight, small.front.final.weight
    assert 0 < (one - other).abs().max() <= one.abs().max() / 250


def test_the_network_for_photographs_fits_what_is_promised_of_it():
    network = files.photo_network()
    assert [*network.palette.items()] == [*VOC_ANIMALS.items()]
    assert sum(one.numel() for one in network.parameters()) <= 24e6
    file = results() / "photos.safetensors"
    assert file.stat().st_size <= 25e6
    with safe_open(file, "pt") as one:
        assert one.get_tensor("conv5_3.weight").dtype == torch.int8
    assert network.margin == 0 and network.upsampling == "half_pixel"
    network.front.final.bias.data += 100  # the caller's own
    other = files.photo_network().front.final.bias
    assert not torch.equal(network.front.final.bias, other)


def test_the_network_for_streets_ends_with_conv4_in_ten_megabytes():
    network = files.street_network()
    assert [*network.palette.items()] == [*CAMVID.items()]
    assert network.margin == 0 and network.upsampling == "half_pixel"
    named = [name for name, _ in network.front.named_children()]
    assert "conv4_3" in named and "conv5_1" not in named
    file = results() / "streets.safetensors"
    assert file.stat().st_size <= 10e6
    with safe_open(file, "pt") as one:
        assert one.get_tensor("conv4_3.weight").dtype == torch.int8


def test_the_small_network_is_built_like_the_papers_and_the_callers_own():
    network = files.small_network()
    other = files.small_network()
    other.front.final.bias.data += 100
    other.mean = (0.0, 0.0, 0.0)
    again = files.small_network()
    assert torch.equal(again.front.final.bias, network.front.final.bias)
    assert again.mean == network.mean
    assert [*network.palette.items()] == [*CAMVID.items()]
    assert network.mean == dl.networks.dilation8_camvid(fc_channels=1).mean
    assert network.front.final.weight.dtype == torch.float32
    with safe_open(results() / "small.safetensors", "pt") as file:
        assert file.get_tensor("final.weight").dtype == torch.float16
