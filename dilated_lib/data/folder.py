"""Your own data: a folder of pictures, a folder of label maps, a list of classes."""

from functools import partial
from pathlib import Path

from dilated_lib.data.labelled import DataSet, LabelledPictures
from dilated_lib.palettes import Colour, voc_colour

__all__ = ["folder"]

_IMAGENET = (103.939, 116.779, 123.68)


def folder(root: Path) -> DataSet:
    """A data set from a folder with pictures, labels and classes.txt.

    A picture NAME.jpg or NAME.png has its label map in labels/NAME.png. Line k of
    classes.txt names class k, counted from 0; a colour may follow, "road 128 64 128",
    else it is VOC's. Splits are lists of names, train.txt, val.txt and perhaps
    test.txt. Without them every fifth picture, by name, is for validation. The mean is
    ImageNet's.

    Raises FileNotFoundError or ValueError, with the file's name, for what is missing or
    cannot be understood.
    """
    listing = root / "classes.txt"
    if not listing.is_file():
        raise FileNotFoundError(
            f"there is no {listing}; a folder of data has pictures, labels, classes.txt"
        )
    palette = dict(
        _class(number, line, listing)
        for number, line in enumerate(listing.read_text().splitlines())
    )
    files = {
        file.stem: file
        for file in sorted((root / "pictures").glob("*"))
        if file.suffix.lower() in (".jpg", ".jpeg", ".png")
    }
    if not files:
        raise FileNotFoundError(f"there are no pictures in {root / 'pictures'}")
    names = {
        split: (root / f"{split}.txt").read_text().split()
        for split in ("train", "val", "test")
        if (root / f"{split}.txt").is_file()
    }
    if "train" not in names or "val" not in names:
        if names:
            raise FileNotFoundError(
                f"{root} has {', '.join(names)} as .txt; lists are for train and val"
            )
        names["val"] = [*files][4::5]
        names["train"] = [name for name in files if name not in set(names["val"])]
    for split, chosen in names.items():
        for name in chosen:
            if name not in files:
                raise FileNotFoundError(
                    f"{split}.txt lists {name}, there is no such picture in "
                    f"{root / 'pictures'}"
                )
    splits = {
        split: partial(
            LabelledPictures,
            [(files[name], root / "labels" / f"{name}.png") for name in chosen],
            [*palette],
        )
        for split, chosen in names.items()
    }
    return DataSet(root.name, palette, _IMAGENET, splits)


def _class(number: int, line: str, listing: Path) -> tuple[str, Colour]:
    words = line.split()
    numbers = [int(word) for word in words[-3:] if word.isdigit() and int(word) < 256]
    if len(words) > 3 and len(numbers) == 3:
        return " ".join(words[:-3]), (numbers[0], numbers[1], numbers[2])
    if not words:
        raise ValueError(f"line {number + 1} of {listing} is empty")
    return " ".join(words), voc_colour(number)
