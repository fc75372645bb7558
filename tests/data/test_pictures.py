"""Pictures of every mode that Pillow reads, and the ones that it does not."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from dilated_lib.data.pictures import opened, read_picture

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def saved(folder, picture, suffix=".png", **options):
    path = folder / f"picture{suffix}"
    picture.save(path, **options)
    return path


def as_grey(picture):
    """The one channel of a picture whose three are equal."""
    assert picture.dtype == np.uint8 and picture.shape[2:] == (3,)
    assert (picture == picture[..., :1]).all()
    return picture[..., 0]


def test_colours_come_as_they_are(tmp_path):
    picture = Image.fromarray(RGB)
    assert np.array_equal(read_picture(saved(tmp_path, picture)), RGB)
    assert np.array_equal(read_picture(picture), RGB)
    assert np.array_equal(read_picture(str(tmp_path / "picture.png")), RGB)
    for suffix in (".bmp", ".ppm", ".tif", ".webp"):
        file = saved(tmp_path, picture, suffix, lossless=True)
        assert np.array_equal(read_picture(file), RGB)
    grey = saved(tmp_path, Image.fromarray(GREY), ".gif")
    assert np.array_equal(as_grey(read_picture(grey)), GREY)


def test_arrays_and_tensors_of_bytes_are_pictures():
    assert np.array_equal(read_picture(RGB), RGB)
    assert np.array_equal(as_grey(read_picture(GREY)), GREY)
    tensor = torch.tensor(RGB).permute(2, 0, 1)
    assert np.array_equal(read_picture(tensor), RGB)


@pytest.mark.parametrize(
    "shape", [(), (3,), (4, 5), (4, 5, 3), (1, 4, 5), (1, 3, 4, 5)]
)
def test_a_tensor_of_another_shape_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"a tensor must be \(3, H, W\), got \("
    ) as told:
        read_picture(torch.zeros(shape, dtype=torch.uint8))
    assert str(told.value).endswith(f"got {shape}")


@pytest.mark.parametrize("shape", [(), (3,), (3, 4, 5), (4, 5, 4), (1, 4, 5, 3)])
def test_an_array_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"an array must be \(H, W, 3\), got") as told:
        read_picture(np.zeros(shape, np.uint8))
    assert str(told.value).endswith(f"got {shape}")


def test_grey_becomes_three_equal_channels(tmp_path):
    assert np.array_equal(as_grey(read_picture(Image.fromarray(GREY))), GREY)
    bits = Image.fromarray(GREY > 127)
    assert bits.mode == "1"
    assert np.array_equal(as_grey(read_picture(bits)), 255 * (GREY > 127))


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_become_eight_by_the_nearest(mode, tmp_path):
    values = np.arange(65536).reshape(128, 512)
    kind = {"I;16": "<u2", "I;16B": ">u2"}[mode]
    picture = Image.frombytes(mode, (512, 128), values.astype(kind).tobytes())
    wanted = (values + 128) // 257  # 65535 is 255 times 257
    assert np.array_equal(as_grey(read_picture(picture)), wanted)
    for suffix in (".png", ".tif"):
        if (mode, suffix) != ("I;16B", ".png"):  # Pillow writes no such file
            path = saved(tmp_path, picture, suffix)
            assert np.array_equal(as_grey(read_picture(path)), wanted)


def test_sixteen_bits_of_a_pgm_become_eight(tmp_path):
    values = np.array([[0, 257, 65535]], ">u2")
    (tmp_path / "picture.pgm").write_bytes(b"P5 3 1 65535\n" + values.tobytes())
    found = read_picture(tmp_path / "picture.pgm")
    assert found[..., 0].tolist() == [[0, 1, 255]]


def test_sixteen_bits_may_be_transparent(tmp_path):
    picture = Image.fromarray(np.array([[0, 25700], [0, 0]], "u2"))
    path = saved(tmp_path, picture, transparency=0)
    assert as_grey(read_picture(path)).tolist() == [[255, 100], [255, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "transparent P"])
def test_what_is_transparent_lies_on_white(mode):
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:, :4] = 0
    alpha[:, 4] = 128
    if mode == "transparent P":
        picture = Image.fromarray(np.where(alpha == 255, 1, 0).astype("u1"), "P")
        picture.putpalette([10, 20, 30, 40, 50, 60])
        picture.info["transparency"] = 0
        found = read_picture(picture)
        assert (found[:, :4] == 255).all() and (found[:, 5:] == (40, 50, 60)).all()
        return
    full = Image.fromarray(np.dstack([RGB, alpha]))
    picture = full if mode == "RGBA" else full.convert("LA")
    if mode == "PA":
        picture = Image.fromarray(GREY).convert("P")
        picture.putalpha(Image.fromarray(alpha))
    assert picture.mode == mode
    found = read_picture(picture)
    assert (found[:, :4] == 255).all()
    opaque = np.asarray(picture.convert("RGB"))
    assert np.array_equal(found[:, 5:], opaque[:, 5:])
    half = (opaque[:, 4].astype(int) * 128 + 255 * 127) / 255
    assert np.abs(found[:, 4] - half).max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
def test_other_colour_spaces_become_rgb(mode):
    picture = Image.fromarray(RGB).convert(mode)
    assert np.array_equal(read_picture(picture), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_set_upright(orientation, tmp_path):
    turned = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: np.rot90(RGB, 2).transpose(1, 0, 2),
        8: np.rot90(RGB),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(RGB), exif=exif)
    assert np.array_equal(read_picture(path), turned)


@pytest.mark.parametrize("values", [np.ones((2, 3), "f"), np.full((2, 3), 200, "i4")])
def test_values_without_a_range_are_refused(values):
    with pytest.raises(
        ValueError, match=r"the picture cannot be read .* mode [FI] have no"
    ):
        read_picture(Image.fromarray(values))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif"])
@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_truncated_picture_is_named(suffix, share, tmp_path):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), suffix)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        ValueError, match=f"picture{suffix} cannot be read as a picture"
    ):
        read_picture(path)


def test_what_is_no_picture_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no picture")
    with pytest.raises(ValueError, match=r"notes.txt cannot be read as a picture"):
        read_picture(path)
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*missing"):
        read_picture(tmp_path / "missing.png")
    os.mkfifo(tmp_path / "pipe.png")  # which would wait for somebody to write
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(ValueError, match=r"cannot be read .* it is no file, but"):
            read_picture(path)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match=r"no pixels, its size is \(0, 5\)"):
        read_picture(Image.new("RGB", (0, 5)))


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="exceeds limit"):
        read_picture(saved(tmp_path, Image.fromarray(RGB)))


@pytest.mark.parametrize(("content", "rows"), [(100, 4096), (2048, 8192)])
def test_a_size_that_the_file_cannot_hold_is_refused(content, rows, tmp_path):
    """Any file may claim 2**24 pixels, and 2**14 for each byte that it has."""
    path = tmp_path / "picture.pgm"
    path.write_bytes(f"P5 4096 {rows} 255\n".encode().ljust(content))
    with opened(path) as picture:
        assert picture.size == (4096, rows)
    path.write_bytes(f"P5 4096 {rows + 1} 255\n".encode().ljust(content))
    wanted = f"{content} bytes cannot hold the {4096 * (rows + 1)} pixels it claims"
    with pytest.raises(ValueError, match=f"^picture.pgm cannot .* picture: {wanted}$"):
        read_picture(path)


def test_what_is_no_picture_at_all_is_refused():
    with pytest.raises(TypeError, match=r"a path, a PIL image, an array .*, got int"):
        read_picture(7)


def test_a_picture_that_is_postscript_starts_no_program(tmp_path, monkeypatch):
    def started(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    file = tmp_path / "holiday.jpg"
    Image.new("RGB", (4, 3)).save(file, "EPS")
    with pytest.raises(ValueError, match=r"holiday.jpg cannot be read.*identify"):
        read_picture(file)
