"""What happens to a sample before training: scale, mirror, crop with margin, colour."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dilated_lib.data.labelled import VOID

__all__ = ["CropWithMargin", "RandomScale", "augmentation"]


def augmentation(
    *,
    cells: tuple[int, int],
    margin: int,
    stride: int = 8,
    scale: tuple[float, float] = (1.0, 1.0),
    rotation: float = 0.0,
    colour: float = 0.0,
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> nn.Module:
    """Return a transform that changes samples at random before training.

    It runs on the samples' device and draws from torch's global generator. A sample is
    mirrored or not, scaled, turned in half of all cases, cut to a window (see
    :class:`CropWithMargin`), and changed in colour. All but two of these parts are
    torchvision's.

    Args:
        cells: Rows and columns of cells in the window.
        margin: Pixels around the window, in the picture alone.
        stride: Pixels from one cell to the next.
        scale: The least and the largest factor of the picture's size.
        rotation: The largest turn, in degrees.
        colour: The largest relative change of brightness, contrast and saturation; hue
            turns by a fifth of it, where 1 is the whole circle.
        fill: The colour (RGB) where nothing was before a turn; the label is void there.

    >>> from dilated_lib.data.scenes import ShapeScenes
    >>> augment = augmentation(cells=(2, 3), margin=10, scale=(0.5, 2.0), rotation=5.0)
    >>> picture, labels = augment(ShapeScenes(1)[0])
    >>> picture.shape, labels.shape
    (torch.Size([3, 36, 44]), torch.Size([16, 24]))
    """
    layers: list[nn.Module] = [v2.RandomHorizontalFlip(), RandomScale(*scale)]
    if rotation:  # of the scaled picture, and not always: to interpolate twice blurs
        turn = v2.RandomRotation(
            rotation,
            interpolation=v2.InterpolationMode.BILINEAR,
            fill={tv_tensors.Image: list(fill), tv_tensors.Mask: VOID},
        )
        layers.append(v2.RandomApply([turn], p=0.5))
    layers.append(CropWithMargin(cells, margin, stride))
    if colour:
        layers.append(v2.ColorJitter(colour, colour, colour, colour / 5))
    both: nn.Module = v2.Compose(layers)
    return both


class RandomScale(v2.Transform):  # type: ignore[misc]
    """Resize a sample by a factor, log-uniform between ``least`` and ``most``.

    >>> from dilated_lib.data.scenes import ShapeScenes
    >>> picture, labels = RandomScale(0.5, 0.5)(ShapeScenes(1)[0])
    >>> picture.shape, labels.shape
    (torch.Size([3, 32, 48]), torch.Size([32, 48]))
    """

    def __init__(self, least: float, most: float) -> None:
        super().__init__()
        self.least, self.most = least, most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the new height and width."""
        ratio = self.most / self.least
        factor = self.least * ratio ** torch.rand(()).item()
        sides = flat_inputs[0].shape[-2:]
        return {"size": [max(1, round(side * factor)) for side in sides]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Interpolate a picture; labels are taken from the nearest pixel's centre."""
        if isinstance(inpt, tv_tensors.Image):
            return functional.resize(inpt, params["size"])
        # what torchvision calls nearest would shift them by half a pixel
        labels = functional.resize_image(
            inpt.as_subclass(Tensor)[None],
            params["size"],
            interpolation=v2.InterpolationMode.NEAREST_EXACT,
        )
        return tv_tensors.wrap(labels[0], like=inpt)


class CropWithMargin(v2.Transform):  # type: ignore[misc]
    """Cut a random window of whole cells, the picture with a margin around it.

    A sample becomes a picture (3, 2 · margin + stride · rows, …) and labels (stride ·
    rows, stride · columns): those of the pixels that the network's cells stand for. The
    margin is taken from the picture; beyond its border it is continued by reflection,
    as in :func:`~dilated_lib.prediction.segmentation.predict`. A window larger than
    the picture has void labels outside.

    >>> from dilated_lib.data.scenes import ShapeScenes
    >>> picture, labels = CropWithMargin((2, 3), margin=10)(ShapeScenes(1)[0])
    >>> picture.shape, labels.shape
    (torch.Size([3, 36, 44]), torch.Size([16, 24]))
    """

    def __init__(self, cells: tuple[int, int], margin: int, stride: int = 8) -> None:
        super().__init__()
        self.sides = tuple(stride * count for count in cells)
        self.margin = margin

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window's first row and column."""
        first = []
        for side, length in zip(self.sides, flat_inputs[0].shape[-2:], strict=True):
            low, high = sorted((0, length - side))
            first.append(int(torch.randint(low, high + 1, ())))
        return {"first": first}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Gather rows and columns, reflected or void where there are none."""
        is_picture = isinstance(inpt, tv_tensors.Image)
        places = [
            torch.arange(side + 2 * self.margin * is_picture, device=inpt.device)
            + first
            - self.margin * is_picture
            for first, side in zip(params["first"], self.sides, strict=True)
        ]
        lengths = inpt.shape[-2:]
        rows, columns = (
            _reflected(place, length)
            for place, length in zip(places, lengths, strict=True)
        )
        found: Tensor = inpt.as_subclass(Tensor)[..., rows[:, None], columns]
        if not is_picture:
            for axis, (place, length) in enumerate(zip(places, lengths, strict=True)):
                outside = (place < 0) | (place >= length)
                shape = (-1, 1) if axis == 0 else (1, -1)
                found = found.masked_fill(outside.view(shape), VOID)
        return tv_tensors.wrap(found, like=inpt)


def _reflected(places: Tensor, length: int) -> Tensor:
    """Reflect positions into a length; the border itself is not repeated."""
    if length == 1:
        return torch.zeros_like(places)
    period = 2 * (length - 1)
    inside = places.remainder(period)
    return torch.minimum(inside, period - inside)
