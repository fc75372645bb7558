"""Pictures of any kind as RGB arrays."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps
from torch import Tensor

__all__ = ["Picture", "opened", "read_picture", "upright"]

# Pillow knows more, and for some of them it starts another program
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
_FREE, _RATIO = 2**24, 2**14  # pixels that any file may have, and more for each byte

Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor


def read_picture(picture: Picture) -> NDArray[np.uint8]:
    """Read a picture as an array (H, W, 3), RGB, 0 to 255, upright.

    It is a path, a PIL image, an array (H, W) or (H, W, 3) or a tensor (3, H, W), both
    of bytes. A file's EXIF orientation is applied. Grey and palette pictures become
    RGB, 16 bits become 8, and transparent ones are laid on white.

    Raises FileNotFoundError; TypeError for another kind of object; ValueError for a
    file that is not a picture or is truncated, for an array of another shape, and for
    values without a known range (floats, 32-bit integers).

    >>> read_picture(Image.new("L", (4, 3), 200))[0, 0]
    array([200, 200, 200], dtype=uint8)
    """
    return upright(picture)[0]


def upright(picture: Picture) -> tuple[NDArray[np.uint8], int]:
    """Read a picture as ``read_picture`` does, and tell which EXIF orientation it had.

    This is a number from 1 to 8; 1 turns nothing.

    >>> upright(Image.new("L", (4, 3)))[1]
    1
    """
    if isinstance(picture, np.ndarray | Tensor):
        picture = _from_array(picture)
    if not isinstance(picture, str | Path | Image.Image):
        raise TypeError(
            "picture must be a path, a PIL image, an array (H, W, 3) or a tensor "
            f"(3, H, W), got {type(picture).__name__}"
        )
    name = "the picture" if isinstance(picture, Image.Image) else Path(picture).name
    try:
        if isinstance(picture, Image.Image):
            kind, orientation = picture.format, _orientation(picture)
            picture = ImageOps.exif_transpose(picture)
        else:
            if Path(picture).exists() and not Path(picture).is_file():
                raise ValueError("it is no file, but a folder, a pipe or a device")
            with opened(Path(picture)) as file:
                file.load()
                picture, kind, orientation = file, file.format, _orientation(file)
            ImageOps.exif_transpose(picture, in_place=True)  # large ones are not copied
        if picture.mode.startswith("I;16") or (
            picture.mode == "I" and kind in ("PNG", "PPM")  # 16 bits, in a wider mode
        ):
            picture = _eight_bits(picture)
        if picture.mode in ("F", "I"):
            raise ValueError(
                f"values of mode {picture.mode} have no known range; convert them to "
                "8 or 16 bits first"
            )
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        if picture.mode != "RGB":
            picture = picture.convert("RGB")
        pixels = np.asarray(picture)
        if not pixels.size:
            raise ValueError(f"it has no pixels, its size is {picture.size}")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {picture}") from None
    except Exception as error:  # decoders raise all kinds
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error
    return pixels, orientation


def opened(file: Path) -> ImageFile.ImageFile:
    """Open a file of a picture, whose pixels are not read yet.

    The content tells the format, which is one of seven, and not the name. Memory for
    the pixels is taken before the first is read, so a size that is only claimed is
    refused: no format packs a photograph or a label map so tightly. Raises ValueError
    for such a file, and whatever Pillow's decoders raise.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("L", (4, 3)).save(Path(folder) / "photo.jpg", "PNG")
    ...     with opened(Path(folder) / "photo.jpg") as picture:
    ...         picture.format, picture.size
    ('PNG', (4, 3))
    """
    picture = Image.open(file, formats=_FORMATS)
    pixels, content = math.prod(picture.size), file.stat().st_size
    if pixels > max(_FREE, _RATIO * content):
        picture.close()
        raise ValueError(f"{content} bytes cannot hold the {pixels} pixels it claims")
    return picture


def _from_array(picture: NDArray[np.uint8] | Tensor) -> Image.Image:
    shape, kind = tuple(picture.shape), str(picture.dtype).removeprefix("torch.")
    tensor = isinstance(picture, Tensor)
    channels = shape[:1] if tensor else shape[-1:]
    if kind != "uint8":
        raise ValueError(
            f"values of type {kind} have no known range; make them uint8, 0 to 255"
        )
    if not ((len(shape) == 3 and channels == (3,)) or (len(shape) == 2 and not tensor)):
        wanted = (
            "a tensor must be (3, H, W)" if tensor else "an array must be (H, W, 3)"
        )
        raise ValueError(f"{wanted}, got {shape}")
    if isinstance(picture, Tensor):
        picture = picture.permute(1, 2, 0).cpu().numpy()
    if not picture.size:
        raise ValueError(f"the picture has no pixels, its shape is {shape}")
    return Image.fromarray(picture)


def _orientation(picture: Image.Image) -> int:
    told = picture.getexif().get(ExifTags.Base.Orientation)
    return told if isinstance(told, int) and 1 <= told <= 8 else 1


def _eight_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    # 65535 is 257 times 255
    eight = Image.fromarray((values / 257).round().astype(np.uint8))
    if isinstance(clear := picture.info.get("transparency"), int):
        eight.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype("u1")))
    return eight
