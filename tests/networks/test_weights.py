"""Weights in and out: whole or not at all, and one sentence where they do not fit."""

import errno
import pickle

import numpy as np
import pytest
import torch
from caffe_files import write
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import dilated_lib as dl
from dilated_lib.networks.dilated import bilinear_deconvolution
from dilated_lib.networks.weights import Loaded, converted, fits, read_weights


def network(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1)
    )


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_what_was_saved_comes_back_bit_for_bit(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        dl.save(network(), path)
    else:
        torch.save(network().state_dict(), path)
    read = network(seed=1)
    assert not same(read, network())
    assert dl.load(read, path) == Loaded((), ())
    assert same(read, network())


def test_a_networks_weights_keep_their_precision(tmp_path):
    path = tmp_path / "net.safetensors"
    dl.save(network().half(), path)
    read = network(seed=1)
    dl.load(read, path)
    assert read[0].weight.dtype == torch.float32
    assert torch.equal(read[0].weight, network().half()[0].weight.float())


def test_in_int8_a_weight_is_off_by_half_a_step_at_most(tmp_path):
    path = tmp_path / "net.safetensors"
    made, read = (nn.Sequential(nn.Conv2d(64, 64, 1)) for _ in range(2))
    with torch.no_grad():
        made[0].weight[0] = 0.0  # a channel without a largest weight
        made[0].weight[1] *= 100.0  # and one whose steps are coarse
    dl.save(made, path, int8=True)
    dl.load(read, path)
    for before, after in zip(made.parameters(), read.parameters(), strict=True):
        if before.dim() == 1:
            assert torch.equal(before, after)
            continue
        step = before.detach().flatten(1).abs().amax(1) / 127
        off = (before - after).detach().flatten(1).abs().amax(1)
        assert torch.all(off <= 0.501 * step)
        assert off.max() > 0.2 * step.max()  # so it was rounded


@pytest.mark.parametrize(("rows", "kind"), [(63, torch.float16), (64, torch.int8)])
def test_small_layers_beside_those_in_int8_are_in_half_precision(rows, kind, tmp_path):
    made, read = nn.Linear(64, rows), nn.Linear(64, rows)
    dl.save(made, tmp_path / "net.safetensors", int8=True)
    assert load_file(tmp_path / "net.safetensors")["weight"].dtype == kind
    dl.load(read, tmp_path / "net.safetensors")
    same = torch.equal(read.weight, made.weight.half().float())
    assert same == (kind == torch.float16) and read.weight.dtype == torch.float32


@pytest.mark.parametrize("layer", [nn.Conv2d(64, 64, 3), nn.Linear(576, 64)])
def test_a_network_in_int8_takes_a_byte_a_weight(layer, tmp_path):
    path = tmp_path / "net.safetensors"
    dl.save(layer, path, int8=True)
    assert path.stat().st_size < 1.05 * layer.weight.numel()


def test_scales_of_another_number_of_channels_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    dl.save(nn.Conv2d(64, 64, 1), path, int8=True)
    state = load_file(path)
    save_file(state | {"weight.scale": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"weight has shape \(64, 64, 1, 1\), .*2"):
        dl.load(nn.Conv2d(64, 64, 1), path)


def test_what_only_looks_like_int8_is_read_as_it_is(tmp_path):
    path, ones = tmp_path / "net.safetensors", torch.ones(2, 2)
    state = {"gain": ones, "gain.scale": 3 * ones[0], "steps": ones.to(torch.int8)}
    save_file(state, path)
    found = read_weights(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_file_that_was_saved_on_a_gpu_is_read_onto_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    torch.save({"one": torch.ones(2)}, tmp_path / "net.pth")
    assert read_weights(tmp_path / "net.pth")["one"].device.type == "cpu"


def test_saving_fails_without_a_trace(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    dl.save(network(), path)
    before = path.read_bytes()

    def full(state, beside, metadata):
        beside.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dilated_lib.networks.weights.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        dl.save(network(seed=1), path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def test_saving_under_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"as .safetensors, got net.pth"):
        dl.save(network(), tmp_path / "net.pth")


def test_saving_into_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        dl.save(network(), tmp_path / "nowhere" / "net.safetensors")


def test_a_path_may_be_text(tmp_path):
    path, one, other = str(tmp_path / "net.safetensors"), network(seed=1), network()
    dl.save(one, path)
    dl.load(other, path)
    assert same(one, other)


def test_a_network_without_memory_cannot_be_loaded_into(tmp_path):
    dl.save(network(), tmp_path / "net.safetensors")
    with torch.device("meta"):
        empty = network()
    with pytest.raises(ValueError, match=r"no memory: network\.to_empty"):
        dl.load(empty, tmp_path / "net.safetensors")


@pytest.mark.parametrize("layout", ["layer", "layers", "double"])
def test_caffe_files_of_all_ages_are_read(layout, tmp_path):
    draw = np.random.default_rng(0)
    blobs = {
        "conv1": [draw.normal(size=(4, 3, 3, 3)).astype("f"), draw.normal(size=4)],
        "fc": [draw.normal(size=(2, 36)).astype("f")],
    }
    path = tmp_path / "net.caffemodel"
    write(path, blobs, old=layout == "layers", double=layout == "double")
    found = read_weights(path)
    assert [*found] == ["conv1.weight", "conv1.bias", "fc.weight"]
    for name, array in zip(found, [*blobs["conv1"], *blobs["fc"]], strict=True):
        assert found[name].dtype == torch.float32
        assert np.array_equal(found[name].numpy().ravel(), array.astype("f").ravel())
    ones = (1, 1, 1) if layout == "layers" else ()
    assert found["conv1.bias"].shape == (*ones, 4)
    assert found["fc.weight"].shape == (*ones[:2], 2, 36)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3, bias=False)

    read = Net()
    dl.load(read, path)
    assert np.array_equal(read.fc.weight.detach().flatten(1), blobs["fc"][0])


# in another order, and twice what they would be as Caffe's matrix
SHAPES = (4, 2, 3, 3), (2, 9, 4), (3, 24), (72,), (2, 4, 9, 1), (1, 2, 2, 36)


def test_shapes_that_hold_as_many_numbers_in_another_order_do_not_fit(tmp_path):
    path = tmp_path / "net.safetensors"
    conv = nn.Conv2d(4, 2, 3, bias=False)
    for shape in SHAPES:
        save_file({"weight": torch.zeros(shape)}, path)
        with pytest.raises(ValueError, match="instead of"):
            dl.load(conv, path)


def test_ones_that_a_shape_has_itself_are_not_taken_for_caffes():
    assert fits(torch.zeros(1, 1, 1, 8), torch.zeros(1, 8))
    assert not fits(torch.zeros(1, 1, 1, 8), torch.zeros(2, 4))
    assert not fits(torch.zeros(8, 1), torch.zeros(8))  # they stand in front
    assert fits(torch.zeros(1, 12), torch.zeros(1, 3, 2, 2))


def test_complex_numbers_do_not_become_whole_ones():
    with pytest.raises(ValueError, match=r"must hold torch.int64, got torch.complex64"):
        converted(torch.ones(1, dtype=torch.cfloat), torch.zeros(1).long(), "steps")


def test_names_that_do_not_fit_are_listed_and_nothing_is_changed(tmp_path):
    path = tmp_path / "net.safetensors"
    state = network().state_dict()
    state["extra.weight"] = state.pop("3.weight")
    save_file(state, path)
    read = network(seed=1)
    with pytest.raises(ValueError, match=r"lacks 3.weight; left over: extra.weight"):
        dl.load(read, path)
    assert same(read, network(seed=1))
    assert dl.load(read, path, strict=False) == Loaded(("3.weight",), ("extra.weight",))
    assert torch.equal(read[0].weight, network()[0].weight)
    assert torch.equal(read[3].weight, network(seed=1)[3].weight)


@pytest.mark.parametrize("strict", [True, False])
def test_weights_for_other_classes_are_refused_and_nothing_is_changed(strict, tmp_path):
    path = tmp_path / "net.safetensors"
    dl.save(network(classes=5), path)
    read = network(seed=1)
    with pytest.raises(
        ValueError, match=r"other classes: 3.bias \(5,\) instead of \(3"
    ):
        dl.load(read, path, strict=strict)
    assert same(read, network(seed=1))


def test_a_fixed_deconvolution_may_be_missing(tmp_path):
    path = tmp_path / "net.safetensors"

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)
            self.upsample = bilinear_deconvolution(2, 8)

    state = Net().state_dict()
    kept = state.pop("upsample.weight").clone()
    save_file(state, path)
    read = Net()
    assert dl.load(read, path) == Loaded(("upsample.weight",), ())
    assert torch.equal(read.upsample.weight, kept)


def test_files_call_a_deconvolution_by_its_released_name(tmp_path):
    front = dl.front_end(1, width=1, fc_channels=1)
    options = {"palette": {"sky": (0, 0, 0)}, "mean": (0, 0, 0), "upsample": True}
    made = dl.DilatedNetwork(front, None, **options, input_size=(900, 900))
    dl.save(made, tmp_path / "net.safetensors")
    state = load_file(tmp_path / "net.safetensors")
    name = made.file_name("upsample.weight")
    del state[name]
    save_file(state, tmp_path / "net.safetensors")
    assert dl.load(made, tmp_path / "net.safetensors") == Loaded((name,), ())
    assert name == "ctx_upsample.weight"


@pytest.mark.parametrize("more", [0, 1, 2])
def test_of_many_names_the_first_four_are_told(more, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({f"extra{n}": torch.zeros(1) for n in range(4 + more)}, path)
    told = "left over: (extra., ){3}extra." + (f" and {more} more" if more else "")
    with pytest.raises(ValueError, match=f"lacks nothing; {told}$"):
        dl.load(nn.Identity(), path)


def test_a_frozen_network_still_needs_its_weights(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({}, path)
    with pytest.raises(ValueError, match=r"lacks 0.bias, 0.weight, "):
        dl.load(network().requires_grad_(False), path)


def test_a_network_of_one_class_comes_back(tmp_path):
    path = tmp_path / "net.safetensors"
    dl.save(nn.Conv2d(1, 1, 3), path)
    dl.load(nn.Conv2d(1, 1, 3), path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.full((3,), torch.nan), "3.bias of net.pth must be finite"),
        (
            torch.full((3,), 1e300, dtype=torch.double),
            "must be finite in torch.float32",
        ),
        (torch.ones(3, dtype=torch.int8), "must hold torch.float32, got torch.int8"),
        (torch.ones(3, dtype=torch.complex64), "got torch.complex64"),
        (torch.ones(3, device="meta"), "holds no plain numbers"),
    ],
)
def test_what_are_no_finite_numbers_is_refused_and_nothing_is_changed(
    values, message, tmp_path
):
    torch.save(network().state_dict() | {"3.bias": values}, tmp_path / "net.pth")
    read = network(seed=1)
    with pytest.raises(ValueError, match=message):
        dl.load(read, tmp_path / "net.pth")
    assert same(read, network(seed=1))


@pytest.mark.parametrize("old", [True, False])
def test_a_damaged_state_dict_is_named_or_still_one(old, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=not old)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        spoilt = bytearray(whole)
        for place in draw.integers(0, 600, 3):
            spoilt[place] = draw.integers(0, 256)
        path.write_bytes(spoilt)
        try:
            read_weights(path)
        except ValueError as error:
            refused += "net.pth" in str(error)
    assert refused > 50


class Code:
    def __reduce__(self):
        return (open, ("owned", "w"))


def a_pickle(path):
    torch.save({"weight": Code()}, path)


def a_bare_pickle(path):
    path.write_bytes(pickle.dumps({"weight": Code()}, protocol=2))


def a_whole_module(path):
    torch.save(nn.Conv2d(1, 1, 1), path)


@pytest.mark.parametrize("made", [a_pickle, a_bare_pickle, a_whole_module])
def test_code_in_a_file_never_runs(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net.pth is refused.*code in it would run"):
        dl.load(network(), tmp_path / "net.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".caffemodel"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_named(suffix, share, tmp_path):
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        dl.save(network(), path)
    elif suffix == ".pth":
        torch.save(network().state_dict(), path)
    else:
        write(path, {"conv": [np.ones((4, 3, 3, 3), "f"), np.ones(4, "f")]})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"^net{suffix} (cannot be|is ref|holds no)"):
        read_weights(path)


@pytest.mark.parametrize(
    "other",
    [{"epoch": 3}, {"net": {"bias": torch.ones(1)}}, torch.ones(1), {3: torch.ones(1)}],
)
def test_a_state_dict_may_hold_tensors_only(other, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(other, path)
    with pytest.raises(ValueError, match=r"net.pth must hold a state dict"):
        read_weights(path)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "net.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"net.h5 must end in one of .safetensors, "):
        read_weights(tmp_path / "net.h5")
    with pytest.raises(FileNotFoundError, match=r"no file .*net.pth"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ({"bn": [np.ones(1, "f")] * 3}, "layer bn has 3 blobs"),
        ({}, "holds no weights"),
    ],
)
def test_a_caffe_model_of_another_kind_is_refused(blobs, message, tmp_path):
    path = write(tmp_path / "net.caffemodel", blobs)
    with pytest.raises(ValueError, match=message):
        read_weights(path)


def test_a_blob_whose_shape_lies_is_refused(tmp_path):
    path = write(tmp_path / "net.caffemodel", {"conv": [np.ones((4, 3), "f")]})
    raw = path.read_bytes()
    lie = raw.replace(b"\x0a\x02\x04\x03", b"\x0a\x02\x04\x05")
    assert lie != raw
    path.write_bytes(lie)
    with pytest.raises(ValueError, match=r"conv.weight has shape \(4, 5\), but 12"):
        read_weights(path)


def test_two_layers_of_one_name_are_refused(tmp_path):
    path = write(tmp_path / "net.caffemodel", {"conv": [np.ones(2, "f")]})
    path.write_bytes(2 * path.read_bytes())  # messages in a row are merged
    with pytest.raises(ValueError, match="two layers are called conv"):
        read_weights(path)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("dilated_lib.networks.weights.save_file", full)
    with pytest.raises(OSError, match=r"net.safetensors cannot be written: No space"):
        dl.save(nn.Linear(2, 3), tmp_path / "net.safetensors")
    assert not [*tmp_path.iterdir()]
