"""PASCAL VOC 2012: with SBD's labels, and subsets in the same layout."""

from functools import partial
from pathlib import Path

from dilated_lib.data.labelled import DataSet, LabelledPictures
from dilated_lib.palettes import PASCAL_VOC

__all__ = ["voc2012", "voc_layout"]

_MEAN = (102.93, 111.36, 116.52)


def voc2012(root: Path, *, download: bool = False) -> DataSet:
    """VOC 2012, trained on its own train split and on SBD's labels of other pictures.

    "train" has 10,582 pictures: VOC's train with its own label maps, and those of SBD
    that are in neither of VOC's splits. "val" has VOC's 1,449; there is no test split,
    since its labels are not public. Files, downloads and checksums are torchvision's
    ``VOCSegmentation`` and ``SBDataset``, in ``root`` / voc2012 and ``root`` / sbd.

    Raises RuntimeError (torchvision's) where a file is missing or damaged.

    Source: Everingham et al., IJCV 2015; Hariharan et al., ICCV 2011.
    """
    from torchvision.datasets import SBDataset, VOCSegmentation

    own = {
        split: VOCSegmentation(
            str(root / "voc2012"), image_set=split, download=download
        )
        for split in ("train", "val")
    }
    pairs = {
        split: [
            (Path(picture), Path(labels))
            for picture, labels in zip(one.images, one.masks, strict=True)
        ]
        for split, one in own.items()
    }
    fetch = download and not (root / "sbd" / "img").is_dir()
    taken = {picture.stem for split in pairs.values() for picture, _ in split}
    for split in ("train", "val"):
        more = SBDataset(str(root / "sbd"), split, mode="segmentation", download=fetch)
        fetch = False
        for picture, labels in zip(more.images, more.masks, strict=True):
            if Path(picture).stem not in taken:
                pairs["train"].append((Path(picture), Path(labels)))
    return _set("voc2012", pairs)


def voc_layout(root: Path) -> DataSet:
    """A subset of VOC: JPEGImages, SegmentationClassAug, train.txt and val.txt.

    Raises FileNotFoundError for a folder without these.
    """
    pairs = {}
    for split in ("train", "val"):
        if not (root / f"{split}.txt").is_file():
            raise FileNotFoundError(f"there is no list {root / split}.txt")
        pairs[split] = [
            (
                root / "JPEGImages" / f"{name}.jpg",
                root / "SegmentationClassAug" / f"{name}.png",
            )
            for name in (root / f"{split}.txt").read_text().split()
        ]
    return _set(root.name, pairs)


def _set(name: str, pairs: dict[str, list[tuple[Path, Path]]]) -> DataSet:
    classes = [*PASCAL_VOC]
    splits = {
        split: partial(LabelledPictures, found, classes)
        for split, found in pairs.items()
    }
    return DataSet(name, PASCAL_VOC, _MEAN, splits)
