"""Scenes of shapes: a procedural data set that a small network learns in seconds."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision import tv_tensors

from dilated_lib.data.labelled import VOID, Sample
from dilated_lib.data.palettes import Colour

__all__ = ["ShapeScenes"]


class ShapeScenes(Dataset[Sample]):
    """Draws discs, squares and triangles on a plain ground.

    A picture is (3, 64, 96) and its labels are (64, 96), both of uint8. A scene has six
    shapes, the later ones in front. Each class has a colour of its own, which varies
    from shape to shape, and noise lies over all pixels. The picture's outermost pixels
    are labelled 255 (void).

    Nothing is stored. Scene n is drawn when asked for, by a generator of its own,
    seeded with (``seed``, n).

    >>> picture, labels = ShapeScenes(4)[0]
    >>> picture.shape, labels.shape
    (torch.Size([3, 64, 96]), torch.Size([64, 96]))
    """

    palette: dict[str, Colour] = {  # noqa: RUF012
        "ground": (238, 238, 238),
        "disc": (213, 94, 0),
        "square": (0, 114, 178),
        "triangle": (0, 158, 115),
    }
    size = (64, 96)

    def __init__(self, scenes: int, *, seed: int = 0) -> None:
        for name, value, least in (("scenes", scenes, 1), ("seed", seed, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"{name} must be a whole number, at least {least}; got {value!r}"
                )
        self.scenes, self.seed = scenes, seed

    def __len__(self) -> int:
        return self.scenes

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.scenes:
            raise IndexError(f"scene {index} of {self.scenes}")
        draw = np.random.default_rng((self.seed, index))
        colours = np.array([*self.palette.values()])
        labels = np.zeros(self.size, np.uint8)
        pixels = np.tile(colours[0] + draw.normal(0, 20, 3), (*self.size, 1))
        rows, columns = np.indices(self.size)
        for _ in range(6):
            kind = int(draw.integers(1, 4))
            y, x = draw.integers(self.size)
            side = int(draw.integers(8, 20))
            inside = _inside(kind, rows - y, columns - x, side)
            pixels[inside] = colours[kind] + draw.normal(0, 20, 3)
            labels[inside] = kind
        labels[[0, -1]] = labels[:, [0, -1]] = VOID
        noisy = (pixels + draw.normal(0, 25, pixels.shape)).clip(0, 255).astype("u1")
        picture = tv_tensors.Image(torch.from_numpy(noisy).permute(2, 0, 1))
        return picture, tv_tensors.Mask(torch.from_numpy(labels))

    def name(self, index: int) -> str:
        """Return what messages call a scene."""
        return f"scene {index} of seed {self.seed}"


def _inside(
    kind: int, down: NDArray[np.intp], right: NDArray[np.intp], side: int
) -> NDArray[np.bool_]:
    if kind == 1:
        return down**2 + right**2 < side**2
    if kind == 2:
        return np.maximum(abs(down), abs(right)) < side
    return (down < side) & (down > 2 * abs(right) - side)
