"""PASCAL VOC 2012: with SBD's labels, and its animals alone."""

import shutil
import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dilated_lib.data.labelled import VOID, DataSet, LabelledPictures
from dilated_lib.data.palettes import PASCAL_VOC, VOC_ANIMALS, Colour

__all__ = ["voc2012", "voc_animals"]

_MEAN = (102.93, 111.36, 116.52)
_HELD_OUT = (0, 7, 13)  # places in each twenty names of the training list
_PATIENCE = 60  # seconds that a server may take to go on
Pair = tuple[Path, Path]


def voc2012(root: Path, *, download: bool = False) -> DataSet:
    """Open VOC 2012, with SBD's labels of other pictures in its training split.

    "train" has 10,582 pictures: VOC's train with its own label maps, and those of SBD
    that are in neither of VOC's splits. "val" has VOC's 1,449; there is no test split,
    since its labels are not public. Files, downloads and checksums are torchvision's
    ``VOCSegmentation`` and ``SBDataset``, in ``root`` / voc2012 and ``root`` / sbd.

    Raises FileNotFoundError for data that are not there, and OSError for what cannot be
    fetched or would be unpacked outside ``root``.

    Source: Everingham et al., IJCV 2015; Hariharan et al., ICCV 2011.

    >>> voc2012(Path("nowhere"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: there is no VOC 2012 in nowhere, which must have voc2012 ...
    """
    try:
        with _guarded():
            pairs, more = _own(root / "voc2012", download), _sbd(root / "sbd", download)
    except (OSError, RuntimeError, tarfile.TarError) as error:  # torchvision's
        if download:
            raise OSError(f"VOC 2012 cannot be fetched: {error}") from error
        raise FileNotFoundError(
            f"there is no VOC 2012 in {root}, which must have voc2012 and sbd; "
            "python -m dilated_lib download voc2012 fetches it"
        ) from error
    taken = {picture.stem for split in pairs.values() for picture, _ in split}
    pairs["train"] += [pair for pair in more if pair[0].stem not in taken]
    return _set("voc2012", pairs)


@contextmanager
def _guarded() -> Iterator[None]:
    """Let no archive write outside its folder, and no server stay silent for ever.

    The first is Python's default from 3.14 on. torchvision sets no time-out.
    """
    # as the class holds it: read from the class, a static method would lose its kind
    filtered = vars(tarfile.TarFile)["extraction_filter"]
    patience = socket.getdefaulttimeout()
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = filtered
        socket.setdefaulttimeout(patience)


def _own(root: Path, download: bool) -> dict[str, list[Pair]]:
    from torchvision.datasets import VOCSegmentation

    found = {}
    for split in ("train", "val"):
        # one archive for both
        fetch = download and split == "train"
        one = VOCSegmentation(str(root), image_set=split, download=fetch)
        found[split] = _paths(one.images, one.masks)
    return found


def _sbd(root: Path, download: bool) -> list[Pair]:
    from torchvision.datasets import SBDataset

    found = []
    for split in ("train", "val"):
        fetch = download and not (root / "val.txt").is_file()  # unpacked last
        if fetch:  # what a command that was killed had unpacked would be in the way
            for name in ("cls", "img", "inst"):
                shutil.rmtree(root / name, ignore_errors=True)
            (root / "train.txt").unlink(missing_ok=True)
        one = SBDataset(str(root), split, download=fetch)
        found += _paths(one.images, one.masks)
    return found


def _paths(pictures: list[str], labels: list[str]) -> list[Pair]:
    return [(Path(one), Path(two)) for one, two in zip(pictures, labels, strict=True)]


def voc_animals(root: Path) -> DataSet:
    """Six animals, people among them, and the background: a small part of VOC 2012.

    ``root`` has JPEGImages and SegmentationClassAug, and in train.txt and val.txt the
    names of pictures that VOC 2012, or SBD, labels. VOC's other classes are void. VOC's
    own validation pictures are to be read once, so they are the split "test"; "val" is
    held out from train.txt, three of every twenty names.

    Raises FileNotFoundError for a folder without the lists.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for split in ("train", "val"):
    ...         _ = (Path(folder) / f"{split}.txt").write_text("cat_1 cat_2")
    ...     data = voc_animals(Path(folder))
    >>> len(data.palette), data.split("val").name(0), data.split("train").name(0)
    (7, 'cat_1.jpg', 'cat_2.jpg')
    """
    names = {}
    for split in ("train", "val"):
        if not (root / f"{split}.txt").is_file():
            raise FileNotFoundError(f"there is no list {root / split}.txt")
        names[split] = (root / f"{split}.txt").read_text().split()
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": names["val"]}
    for place, name in enumerate(names["train"]):
        splits["val" if place % 20 in _HELD_OUT else "train"].append(name)
    pairs = {
        split: [
            (
                root / "JPEGImages" / f"{name}.jpg",
                root / "SegmentationClassAug" / f"{name}.png",
            )
            for name in found
        ]
        for split, found in splits.items()
    }
    ids = dict.fromkeys(range(len(PASCAL_VOC)), VOID) | {VOID: VOID}
    for label, name in enumerate(VOC_ANIMALS):
        ids[[*PASCAL_VOC].index(name)] = label
    return _set("voc_animals", pairs, VOC_ANIMALS, ids)


def _set(
    name: str,
    pairs: dict[str, list[Pair]],
    palette: dict[str, Colour] = PASCAL_VOC,
    ids: dict[int, int] | None = None,
) -> DataSet:
    splits = {
        split: partial(LabelledPictures, found, [*palette], ids=ids)
        for split, found in pairs.items()
    }
    return DataSet(name, palette, _MEAN, splits)
