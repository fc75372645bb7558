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

    Raises FileNotFoundError; ValueError for what is no picture or a truncated one, and
    for values without a known range (floats, integers beyond 16 bits).
    """
    name = "the picture" if isinstance(picture, Image.Image) else Path(picture).name
    try:
        if not isinstance(picture, Image.Image):
            with Image.open(picture) as file:
                file.load()
                picture = file
        picture = ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {picture}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as a picture: {error}") from error
    if picture.mode == "F" or picture.mode.startswith("I"):
        values = np.asarray(picture)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"{name} has values of mode {picture.mode} without a known range; "
                "convert it to 8 or 16 bits first"
            )
        eight = (values.astype(np.int64) * 255 + 32767) // 65535
        picture = Image.fromarray(eight.astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))
