"""Pictures of any mode as RGB arrays."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["read_picture"]


def read_picture(picture: Path | Image.Image) -> NDArray[np.uint8]:
    """A picture as an array (H, W, 3), RGB, 0 to 255, upright.

    A file's EXIF orientation is applied. Grey and palette pictures become RGB, 16 bits
    become 8, and transparent ones are laid on white.

    Raises FileNotFoundError; TypeError for another kind of object; ValueError for what
    is no picture or a truncated one, and for values without a known range (floats,
    32-bit integers).

    >>> read_picture(Image.new("L", (4, 3), 200))[0, 0]
    array([200, 200, 200], dtype=uint8)
    """
    if not isinstance(picture, str | Path | Image.Image):
        raise TypeError(
            "picture must be a path or a PIL image (Image.fromarray makes one of an "
            f"array), got {type(picture).__name__}"
        )
    name = "the picture" if isinstance(picture, Image.Image) else Path(picture).name
    try:
        if not isinstance(picture, Image.Image):
            with Image.open(picture) as file:
                file.load()
                picture = file
        kind = picture.format
        picture = ImageOps.exif_transpose(picture)
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
        pixels = np.asarray(picture.convert("RGB"))
        if not pixels.size:
            raise ValueError(f"it has no pixels, its size is {picture.size}")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {picture}") from None
    except Exception as error:  # decoders raise all kinds
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error
    return pixels


def _eight_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.int64)
    eight = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if isinstance(clear := picture.info.get("transparency"), int):
        eight.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype("u1")))
    return eight
