"""Damaged files at every door where one is read: refused in a sentence, or usable.

Each example is drawn from a seed and its number alone. In the weekly job the seed is
another each time; a failure tells it, and FUZZ_SEED=… brings the same examples again.
"""

import io
import json
import os
import random
import re
import secrets
import signal
import struct
import time
import zlib
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_files import write as write_caffe
from damage import damaged, damaged_json, damaged_network, damaged_png
from PIL import Image

import dilated_lib as dl
from dilated_lib.data.folder import folder
from dilated_lib.data.labelled import LabelledPictures
from dilated_lib.data.pictures import read_picture
from dilated_lib.networks.architecture import Architecture, open_network, save_network
from dilated_lib.networks.weights import read_weights
from dilated_lib.records import Record, read_file, write
from dilated_lib.training.checkpoints import finished, latest
from dilated_lib.training.config import Config

FEW, MINUTES = 60, 2  # examples in every run of the tests; minutes in the weekly one
MOST_BYTES, MOST_SECONDS = 2**28, 10  # of memory and of a CPU, for a small file
PEAK = Path("/proc/self/clear_refs")  # Linux forgets the highest memory on demand
CONFIG = Config(network="fcn_resnet50", data="shapes")  # its runs leave no network


def networks(path):
    built = Architecture(width=1, fc_channels=1, context="basic", padding="zeros")
    palette = {"road": (1, 2, 3), "Tür": (4, 5, 6)}
    save_network(built.build(palette, (7.0, 8.0, 9.0)), built, path)
    yield path.read_bytes()


def segment(path):
    """Open a network and use it, at a scale that its file cannot exaggerate."""
    network, _ = open_network(path)
    photo = np.full((8, 9, 3), 100, np.uint8)
    try:
        found = dl.predict(photo, network, scale=1.0, probabilities=False)
    except ValueError as error:  # of a network, which has no file's name
        if "logits that are not finite" not in str(error):
            raise
        raise ValueError(f"{path.name}: {error}") from error
    assert found.labels.shape == (8, 9) and found.labels.max() < len(network.palette)


def caffe_models(path):
    weights = np.arange(12, dtype="f").reshape(2, 3, 2)
    for how in ({}, {"old": True}, {"double": True}):
        write_caffe(path, {"conv": [weights, weights[0]], "fc": [weights]}, **how)
        yield path.read_bytes()


def state_dicts(path):
    state = {"a.weight": torch.zeros(3, 4), "a.bias": torch.ones(3).half()}
    for zipped in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        yield path.read_bytes()


def load(path):
    for name, tensor in read_weights(path).items():
        assert isinstance(name, str) and isinstance(tensor, torch.Tensor)


def resume(path):
    assert isinstance(latest(path.parent), dict)


def label_maps(path):
    ids = np.tile(np.array([[0, 1, 2, 255]], np.uint8), (30, 5))
    for mode in ("L", "P"):
        image = Image.fromarray(ids, mode)
        if mode == "P":
            image.putpalette([*range(256)] * 3)
        image.save(path)
        yield path.read_bytes()


def read_labels(path):
    labels = LabelledPictures([(path, path)], ["a", "b", "c"]).labels(0)
    assert labels.dtype == np.uint8 and {*np.unique(labels)} <= {0, 1, 2, 255}


def pictures(path):
    image = Image.fromarray(np.arange(576, dtype=np.uint8).reshape(12, 16, 3))
    turned = Image.Exif()
    turned[274] = 6
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"):
        image.save(path, kind, exif=turned)
        yield path.read_bytes()
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        image.save(path, "TIFF", compression=compression)
        yield path.read_bytes()
    image.convert("I;16").save(path, "PNG")
    yield path.read_bytes()


def look(path):
    pixels = read_picture(path)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and pixels.size


def lists_of_classes(path):
    yield "road 128 64 128\nTür\nclass 7\nsky 1 2 3\r\n".encode()


def open_folder(path):
    (path.parent / "pictures").mkdir(exist_ok=True)
    for name in "abcde":
        (path.parent / "pictures" / f"{name}.png").touch()
    data = folder(path.parent)
    assert all(name.isprintable() and name.strip() for name in data.palette)
    assert all(0 <= part <= 255 for one in data.palette.values() for part in one)
    assert len({*data.palette.values()}) == len(data.palette)


def records(path):
    scores = {"miou": 1.0, "accuracy": 2.0, "per_class": {"a": 1.0, "b": None}}
    plain = json.loads(json.dumps(asdict(CONFIG), default=str))
    measured = {"val": scores, "loss": [1.0, 2.0]}
    where = {"seconds": 2.0, "device": "CPU"}
    one = Record(experiment="a", seed=0, config=plain, metrics=measured, **where)
    write(path, [one])
    yield path.read_bytes()


def end(path):
    """Read a record as what it is, and as that of a run in its folder."""
    for one in read_file(path):
        assert type(one.config) is type(one.metrics) is dict
    assert finished(CONFIG, path.parent)


# the file's name, whole contents, what damages them, and who reads them
DOORS = {
    "network": ("net.safetensors", networks, damaged_network, segment),
    "Caffe model": ("net.caffemodel", caffe_models, damaged, load),
    "state dict": ("net.pt", state_dicts, damaged, load),
    "checkpoint": ("step-00000001.pt", state_dicts, damaged, resume),
    "label map": ("labels.png", label_maps, damaged_png, read_labels),
    "picture": ("photo.jpg", pictures, damaged_png, look),
    "list of classes": ("classes.txt", lists_of_classes, damaged, open_folder),
    "record": ("record.json", records, damaged_json, end),
}


class Hang(BaseException):
    """No Exception, which a door might take for that of a decoder."""


@contextmanager
def bounded():
    """Fail where the block takes too much memory or time, or does not end."""

    def ring(*_):
        raise Hang

    before = _memory("VmRSS")
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 6 * MOST_SECONDS)
    since = time.process_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert time.process_time() - since < MOST_SECONDS
    assert _memory("VmHWM") - before < MOST_BYTES


def _memory(kind):
    """Bytes that this process has now (VmRSS), or had at most since the last asking."""
    if not PEAK.exists():
        return 0
    if kind == "VmRSS":
        PEAK.write_text("5")
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{kind}:")[1].split()[0])


def usable(use, path):
    """Use a file; return whether it was good. Fail for an error without its name."""
    try:
        with bounded():
            use(path)
    except (ValueError, FileNotFoundError) as error:
        refused = error
    else:
        return True
    assert type(refused) in (ValueError, FileNotFoundError), repr(refused)
    told = str(refused)
    assert path.name in told or str(path.parent) in told, told
    return False


@pytest.mark.filterwarnings("ignore")  # decoders warn of what they refuse, or mend
@pytest.mark.parametrize(
    "minutes", [0, pytest.param(MINUTES, marks=pytest.mark.weekly)]
)
@pytest.mark.parametrize("door", DOORS)
def test_a_damaged_file_is_refused_by_its_name_or_usable(door, minutes, tmp_path):
    name, contents, spoil, use = DOORS[door]
    path = tmp_path / name
    whole = [*contents(path)]
    for content in whole:
        path.write_bytes(content)
        assert usable(use, path) or (door, content) == ("checkpoint", whole[1])
    seed = int(os.environ.get("FUZZ_SEED", secrets.randbits(32) if minutes else 0))
    number, good, stop = 0, 0, time.monotonic() + 60 * minutes
    while number < FEW or time.monotonic() < stop:
        draw = random.Random(f"{seed} {number}")
        path.write_bytes(spoil(draw.choice(whole), draw))
        try:
            good += usable(use, path)
        except BaseException as error:
            error.add_note(f"This is example {number} of the seed {seed}.")
            raise
        number += 1
    print(f"{door}, seed {seed}: {number} examples, of which {good} were usable")
    assert 0 < good < number


def claiming(width, height):
    """A PNG of one pixel, whose header tells another size."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    content = file.getvalue()
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def recorded(**changes):
    """A record of a run, in which a field is another, or one of its recipe."""
    recipe = changes.pop("zoom", None)
    config = json.loads(json.dumps(asdict(CONFIG), default=str))
    if recipe is not None:
        config["recipe"]["zoom"] = recipe
    fields = {"experiment": "a", "seed": 0, "metrics": {}, "seconds": 1, "device": "a"}
    return json.dumps([fields | {"config": config} | changes]).encode()


def zipped(name):
    """A checkpoint in whose archive a file has another name."""
    file = io.BytesIO()
    torch.save({"step": 1}, file)
    return file.getvalue().replace(b"data.pkl", name)


# files like those that the long runs have found, and what is said of them now
FOUND = [
    ("record", b"[" * 100_000, "is no list of records: maximum recursion"),
    ("record", recorded(metrics=[]), "metrics must be a dict, got []"),
    ("record", recorded(seed=True), "seed must be a int, got True"),
    ("record", recorded(zoom=[]), "least and a largest scale above 0, got nothing"),
    ("record", recorded(zoom=[1]), "least and a largest scale above 0, got 1"),
    ("list of classes", "a\nsk\u200by".encode(), "line 2 of "),
    ("list of classes", "a\nsk\u200by".encode(), "nobody can see, '\\u200b'"),
    ("list of classes", b"\x1b[31mroad", "nobody can see, '\\x1b'"),
    ("label map", claiming(9000, 9000), "bytes cannot hold the 81000000 pixels it"),
    ("picture", claiming(2**13, 2**13), "bytes cannot hold the 67108864 pixels it"),
    ("checkpoint", zipped(b"\xe1ata.pkl"), "is damaged or truncated; delete it"),
]


@pytest.mark.parametrize(
    ("door", "content", "message"), FOUND, ids=[one[2] for one in FOUND]
)
def test_what_was_found_is_refused_in_a_sentence(door, content, message, tmp_path):
    name, _, _, use = DOORS[door]
    (tmp_path / name).write_bytes(content)
    assert not usable(use, tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(message)):
        use(tmp_path / name)


def test_a_map_of_one_class_is_not_taken_for_a_claim(tmp_path):
    """Nothing packs more tightly; so many pixels take a thousandth of a byte each."""
    Image.new("L", (4100, 4100), 1).save(tmp_path / "labels.png")
    read_labels(tmp_path / "labels.png")
    look(tmp_path / "labels.png")


def foreign(path):
    json.loads(path.read_text())["name"]


def wasteful(path):
    np.ones(2**29, np.uint8)


def endless(path):
    while True:
        try:
            time.sleep(1)
        except Exception:
            continue


@pytest.mark.parametrize(
    ("use", "fails"),
    [
        (foreign, (AssertionError, KeyError)),
        (wasteful, AssertionError),
        (endless, Hang),
    ],
)
def test_a_door_with_a_mistake_is_noticed(use, fails, tmp_path, monkeypatch):
    if use is wasteful and not PEAK.exists():
        pytest.skip("only Linux tells the highest memory")
    monkeypatch.setitem(globals(), "MOST_BYTES", 2**25)
    monkeypatch.setitem(globals(), "MOST_SECONDS", 0.05 if use is endless else 10)
    for content in ("{}", "{"):
        (tmp_path / "file").write_text(content)
        with pytest.raises(fails):
            usable(use, tmp_path / "file")
