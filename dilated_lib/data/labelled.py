"""Pictures with a label map each: files in, one form of a sample out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from tqdm import tqdm

from dilated_lib.data.palettes import Colour
from dilated_lib.data.pictures import opened, upright

__all__ = ["VOID", "DataSet", "LabelledPictures", "Sample", "class_counts"]

VOID = 255
Sample = tuple[tv_tensors.Image, tv_tensors.Mask]


class LabelledPictures(Dataset[Sample]):
    """Reads samples from files: picture (3, H, W) uint8, RGB; labels (H, W) uint8.

    A label is the index of a class, or 255 (void), which counts neither in a loss nor
    in a metric. ``pairs`` are a picture and its label map each, a PNG whose pixels are
    ids. ``ids`` turns an id into a label; without it the ids 0 to C − 1 and 255 are
    labels. A label map is checked whenever it is read; it lies on the upright picture.

    Raises ValueError for more than 255 classes and for ``ids`` of no class; with the
    file's name for an id without a label, a label map of another size or kind, one that
    may lie on the picture as it is stored, before its EXIF orientation, and a file that
    cannot be read; FileNotFoundError for one that is not there.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     pair = Path(folder) / "picture.png", Path(folder) / "labels.png"
    ...     Image.new("RGB", (4, 3), "white").save(pair[0])
    ...     Image.new("L", (4, 3), 1).save(pair[1])
    ...     picture, labels = LabelledPictures([pair], ["road", "sky"])[0]
    >>> picture.shape, labels[0].tolist()
    (torch.Size([3, 3, 4]), [1, 1, 1, 1])
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        classes: Sequence[str],
        *,
        ids: Mapping[int, int] | None = None,
    ) -> None:
        self.pairs, self.classes = list(pairs), tuple(classes)
        if len(classes) > VOID:
            raise ValueError(f"there may be {VOID} classes, got {len(classes)}")
        known = {number: number for number in (*range(len(classes)), VOID)}
        self._table = np.full(256, -1, np.int16)
        for found, label in (known if ids is None else ids).items():
            if found not in range(256) or label not in known:
                raise ValueError(
                    f"ids are 0 to 255, and labels 0 to {len(classes) - 1} or {VOID}; "
                    f"got {found}: {label}"
                )
            self._table[found] = label

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        file, _ = self.pairs[index]
        (pixels, orientation), labels = upright(file), self.labels(index)
        if pixels.shape[:2] != labels.shape:
            turned = f", turned by EXIF orientation {orientation}"
            raise ValueError(
                f"{self.pairs[index][1].name} has {_size(labels)} labels, its picture "
                f"{file.name} has {_size(pixels)} pixels{turned * (orientation != 1)}"
            )
        if orientation != 1 and (orientation < 5 or len(set(labels.shape)) == 1):
            raise ValueError(
                f"{file.name} has EXIF orientation {orientation}, and no size tells "
                "whether its labels lie on the stored or on the upright picture: save "
                "it upright, without an orientation"
            )
        picture = tv_tensors.Image(torch.tensor(pixels).permute(2, 0, 1))
        return picture, tv_tensors.Mask(torch.from_numpy(labels))

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Read the labels (H, W) of a sample without its picture."""
        file = self.pairs[index][1]
        ids = _read_ids(file)
        labels = self._table[ids]
        if (labels < 0).any():
            wrong = ", ".join(map(str, np.unique(ids[labels < 0])[:5]))
            known = ", ".join(map(str, np.flatnonzero(self._table >= 0)))
            raise ValueError(
                f"{file.name} has {(labels < 0).sum()} pixels of unknown ids, such as "
                f"{wrong}; ids are {known}"
            )
        return labels.astype(np.uint8)

    def name(self, index: int) -> str:
        """Return the picture's file name."""
        return self.pairs[index][0].name

    def digest(self, count: int) -> str:
        """Return the SHA-256 of the first label maps, file by file.

        Raises FileNotFoundError for one that is not there.
        """
        whole = hashlib.sha256()
        for _, file in self.pairs[:count]:
            if not file.is_file():
                raise FileNotFoundError(f"there is no label map {file}")
            whole.update(hashlib.sha256(file.read_bytes()).digest())
        return whole.hexdigest()


def _read_ids(file: Path) -> NDArray[np.uint8]:
    """Read the class ids (H, W) of a label map: a PNG, or SBD's matrix."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no label map {file}")
    try:
        if file.suffix == ".mat":
            return _matrix(file)
        with opened(file) as picture:
            kind = f"{picture.format} {picture.mode}"
            if picture.format == "PNG":
                # as stored: Pillow stretches grey of 2 and 4 bits, which changes ids
                kind = f"PNG {picture.tile[0][3]}"
            ids = np.asarray(picture)
    except Exception as error:  # decoders raise all kinds
        raise ValueError(
            f"{file.name} cannot be read as a label map: {error}"
        ) from error
    if kind not in ("PNG L", "PNG P", "PNG P;1", "PNG P;2", "PNG P;4"):
        raise ValueError(
            f"{file.name} must be a PNG whose pixels are class ids, grey of 8 bits or "
            f"with a palette; it is {kind}. Was it saved in colours, or as a JPEG?"
        )
    return ids


def _matrix(file: Path) -> NDArray[np.uint8]:
    from scipy.io import loadmat  # only SBD needs it

    ids: NDArray[np.uint8] = loadmat(file)["GTcls"][0]["Segmentation"][0]
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(f"it holds {ids.dtype} of shape {ids.shape}")
    return ids


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


@dataclass(frozen=True)
class DataSet:
    """Holds a data set's name, its classes' colours, its mean (B, G, R) and its splits.

    ``split`` gives one of ``splits``; "train" and "val" are always among them.

    >>> from dilated_lib.data.scenes import ShapeScenes
    >>> splits = {"train": lambda: ShapeScenes(8), "val": lambda: ShapeScenes(2)}
    >>> data = DataSet("scenes", ShapeScenes.palette, (128.0, 128.0, 128.0), splits)
    >>> len(data.split("val"))
    2
    """

    name: str
    palette: dict[str, Colour]
    mean: tuple[float, float, float]
    splits: Mapping[str, Callable[[], Dataset[Sample]]]

    def split(self, name: str) -> Dataset[Sample]:
        """Open one of the splits. Raises ValueError for another, or an empty one."""
        if name not in self.splits:
            raise ValueError(
                f"{self.name} has no split {name!r}, but {', '.join(self.splits)}"
            )
        found = self.splits[name]()
        if not len(found):  # type: ignore[arg-type]
            raise ValueError(f"{self.name} has no pictures in its split {name!r}")
        return found

    def require_classes(self, names: Sequence[str]) -> None:
        """Raise ValueError unless a network's classes are these, in this order."""
        own, others = (
            [normalize("NFC", name) for name in some] for some in (self.palette, names)
        )
        if others != own:
            raise ValueError(
                f"the network's classes are {', '.join(names)}; those of {self.name} "
                f"are {', '.join(self.palette)}"
            )


def class_counts(
    data: Dataset[Sample], classes: int, *, progress: bool = False
) -> Tensor:
    """Count the pixels of each class: (C,), int64.

    Every label map is read, and checked, once.

    Raises ValueError for a label that is neither a class nor void.

    >>> sample = torch.zeros(3, 1, 4), torch.tensor([[0, 0, 1, VOID]])
    >>> class_counts([sample, sample], 2)
    tensor([4, 2])
    """
    counts = np.zeros(256, np.int64)
    number = len(data)  # type: ignore[arg-type]
    for index in tqdm(range(number), "labels", disable=not progress, leave=False):
        if isinstance(data, LabelledPictures):
            labels = data.labels(index)
        else:
            labels = data[index][1].numpy()
        counts += np.bincount(labels.ravel(), minlength=256)
    if unknown := np.flatnonzero(counts[classes:VOID]).tolist():
        raise ValueError(
            f"labels must be below {classes}, or {VOID} for void, got "
            f"{classes + unknown[0]}"
        )
    return torch.from_numpy(counts[:classes])
