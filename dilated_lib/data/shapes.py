"""Shapes whose class only their outline tells: the embedded, procedural data set.

A blank grey rectangle lies on black. Its outline, one pixel wide, has a colour, and the
colour is the class of the whole shape. So the label of a pixel depends on a cue at a
known distance, and on nothing nearer: who does not see the outline can only guess.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["Shapes"]

# Okabe and Ito's colours, which stay apart for colour-blind eyes
_COLOURS = {
    "orange": (230, 159, 0),
    "sky blue": (86, 180, 233),
    "bluish green": (0, 158, 115),
    "yellow": (240, 228, 66),
    "blue": (0, 114, 178),
    "vermillion": (213, 94, 0),
    "reddish purple": (204, 121, 167),
}


class Shapes(Dataset[tuple[Tensor, Tensor]]):
    """Draws shapes whose class only their outline tells.

    A picture is (3, size, size), of float32 in [0, 1], and its labels are (size, size),
    of int64. A label is 0 for the background and 1 … 7 for a shape, in the order of
    ``classes``. ``distances`` gives how far a pixel inside is from the outline. Pixels
    of the shape that are less than ``nearest`` pixels from it are labelled 255 (void).

    A scene is a rectangle: its place and its sides. Each of the ``scenes`` comes in
    every colour: picture i shows scene i // 7 in colour i % 7. Without the outline all
    seven are alike, so a network that does not see it is right on one in seven at most.

    ``split`` is "train" or "test". Every fourth rectangle that can be drawn belongs to
    the test split and all others to the training split, so no scene of one is a scene
    of the other, whatever the seeds are. Within a split a rectangle may occur twice.

    Nothing is stored. Scene n is drawn when asked for, by a generator of its own,
    seeded with (``seed``, n): it depends neither on the order of asking nor on
    ``scenes``.

    Raises TypeError or ValueError for numbers out of range, IndexError past the end.

    >>> picture, label = Shapes(10)[0]
    >>> picture.shape, label.shape
    (torch.Size([3, 36, 36]), torch.Size([36, 36]))
    """

    classes = ("background", *_COLOURS)
    colours = torch.tensor([*_COLOURS.values()]) / 255  # (7, 3)
    void = 255

    def __init__(
        self,
        scenes: int,
        *,
        size: int = 36,
        nearest: int = 0,
        seed: int = 0,
        split: Literal["train", "test"] = "train",
    ) -> None:
        for name, value, least in (
            ("scenes", scenes, 1),
            ("size", size, 8),
            ("nearest", nearest, 0),
            ("seed", seed, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"{name} must be a whole number, at least {least}; got {value!r}"
                )
        if split not in ("train", "test"):
            raise ValueError(f"split must be train or test, got {split!r}")
        self.scenes, self.size, self.nearest, self.seed = scenes, size, nearest, seed
        self.split = split

    def __len__(self) -> int:
        return self.scenes * len(self.colours)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        scene, colour = divmod(index, len(self.colours))
        distances = self.distances(scene)
        line, inside = distances == 0, distances >= 0
        picture = 0.5 * inside.expand(3, -1, -1).float()
        picture[:, line] = self.colours[colour][:, None]
        label = torch.where(inside, colour + 1, 0)
        label[inside & (distances < self.nearest)] = self.void
        return picture, label

    def distances(self, scene: int) -> Tensor:
        """Return the distance (size, size) to the outline in pixels, -1 outside.

        It is the larger of the distances along the two axes (Chebyshev's), as a square
        receptive field measures it: a unit that sees r pixels to each side sees the
        outline if and only if the distance is at most r.
        """
        if not 0 <= scene < self.scenes:
            raise IndexError(f"scene {scene} of {self.scenes}")
        half, middle = self._rectangle(scene)
        rows, columns = half[:, None] - abs(np.arange(self.size) - middle[:, None])
        distances = np.minimum(rows[:, None], columns)
        return torch.from_numpy(distances.clip(-1))

    def _rectangle(self, scene: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw half the height and width of a scene's rectangle, and its middle."""
        draw = np.random.default_rng((self.seed, scene))
        while True:  # until the rectangle is one of this split
            half = draw.integers(self.size // 4, self.size // 2, 2)
            middle = draw.integers(half, self.size - half)
            for_testing = (half.sum() + middle.sum()) % 4 == 0
            if for_testing == (self.split == "test"):
                return half, middle
