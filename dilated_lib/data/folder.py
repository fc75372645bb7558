"""Your own data: a folder of pictures, a folder of label maps, a list of classes."""

from functools import partial
from pathlib import Path
from unicodedata import normalize

from dilated_lib.data.labelled import DataSet, LabelledPictures
from dilated_lib.data.palettes import Colour, voc_colour

__all__ = ["folder"]

_IMAGENET = (103.939, 116.779, 123.68)


def folder(root: Path) -> DataSet:
    """Open a data set of your own: a folder with pictures, labels and classes.txt.

    A picture NAME.jpg or NAME.png has its label map in labels/NAME.png. Line k of
    classes.txt names class k, counted from 0. A colour may follow the name, as in "road
    128 64 128"; without one the class has VOC's. Splits are lists of names, one a line:
    train.txt, val.txt and perhaps test.txt. Without them every fifth picture, by name,
    is for validation. The mean is ImageNet's.

    All of this is checked when the folder is opened, because a name in the wrong list
    or a colour that became part of a name would otherwise show only in the scores.

    Raises FileNotFoundError or ValueError, with the file's name, for what is missing or
    cannot be understood.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as name:
    ...     (Path(name) / "pictures").mkdir()
    ...     for number in range(5):
    ...         (Path(name) / "pictures" / f"{number}.jpg").touch()
    ...     _ = (Path(name) / "classes.txt").write_text("road 128 64 128")
    ...     data = folder(Path(name))
    >>> data.palette, len(data.split("train")), len(data.split("val"))
    ({'road': (128, 64, 128)}, 4, 1)
    """
    listing = root / "classes.txt"
    if not listing.is_file():
        raise FileNotFoundError(
            f"there is no {listing}; a folder of data has pictures, labels, classes.txt"
        )
    palette: dict[str, Colour] = {}
    for number, line in enumerate(_lines(listing)):
        name, colour = _class(number, line, listing)
        if name in palette:
            raise ValueError(f"line {number + 1} of {listing} has {name} once more")
        for other, known in palette.items():
            if known == colour:
                raise ValueError(
                    f"line {number + 1} of {listing} gives {name} the colour "
                    f"{' '.join(map(str, colour))}, which {other} has: choose another"
                )
        palette[name] = colour
    if not palette:
        raise ValueError(f"{listing} names no class")
    files: dict[str, Path] = {}
    for file in sorted((root / "pictures").glob("*")):
        if file.name.startswith("."):  # a Mac's own notes, "._street.png"
            continue
        if file.suffix.lower() in (".jpg", ".jpeg", ".png"):
            name = normalize("NFC", file.stem)
            if name in files:
                raise ValueError(
                    f"{files[name]} and {file.name} would share a label map"
                )
            files[name] = file
    if not files:
        raise FileNotFoundError(f"there are no pictures in {root / 'pictures'}")
    names = {
        split: [line.strip() for line in _lines(root / f"{split}.txt") if line.strip()]
        for split in ("train", "val", "test")
        if (root / f"{split}.txt").is_file()
    }
    if "train" not in names or "val" not in names:
        if names:
            raise FileNotFoundError(
                f"{root} has a list for {' and '.join(names)} alone; train.txt and "
                "val.txt are both needed, or no list"
            )
        names["val"] = [*files][4::5]
        names["train"] = [name for name in files if name not in set(names["val"])]
    for split, chosen in names.items():
        for name in chosen:
            if name not in files:
                raise FileNotFoundError(
                    f"{split}.txt lists {name}, which is no picture's name, without "
                    f".jpg or .png, in {root / 'pictures'}"
                )
    where: dict[str, str] = {}
    for split, chosen in names.items():
        for name in chosen:
            if name in where:
                raise ValueError(
                    f"{split}.txt lists {name}, which {where[name]}.txt has listed: a "
                    "picture must stand once, in one list"
                )
            where[name] = split
    splits = {
        split: partial(
            LabelledPictures,
            [(files[name], _labels(root, files[name].stem)) for name in chosen],
            [*palette],
        )
        for split, chosen in names.items()
    }
    return DataSet(root.resolve().name, palette, _IMAGENET, splits)


def _labels(root: Path, name: str) -> Path:
    """Return the label map of a picture, whichever way its name writes an accent."""
    forms = [name, normalize("NFC", name), normalize("NFD", name)]
    paths = [root / "labels" / f"{one}.png" for one in forms]
    return next((path for path in paths if path.is_file()), paths[0])


def _class(number: int, line: str, listing: Path) -> tuple[str, Colour]:
    """Take a line apart into the name of a class and its colour."""
    words = line.split()
    if not words:
        raise ValueError(f"line {number + 1} of {listing} is empty")
    if odd := [one for word in words for one in word if not one.isprintable()]:
        raise ValueError(
            f"line {number + 1} of {listing} has a character that nobody can see, "
            f"{odd[0]!r}"
        )
    coloured = len(words) > 3 and all(word.isdecimal() for word in words[-3:])
    rest = words[1:-3] if coloured else words[1:]
    odd = [one for one in rest if one[0] == "#" or not one.strip("0123456789+-.,")]
    if odd and not (odd == rest[-1:] and odd[0].isdecimal()):  # "class 7" is a name
        raise ValueError(
            f"line {number + 1} of {listing} must be a name, or a name and a colour of "
            f"three whole numbers, got {line.strip()!r}"
        )
    if not coloured:
        return " ".join(words), voc_colour(number)
    red, green, blue = map(int, words[-3:])
    if max(red, green, blue) > 255:
        raise ValueError(
            f"line {number + 1} of {listing} has a colour above 255: {line.strip()}"
        )
    return " ".join(words[:-3]), (red, green, blue)


def _lines(file: Path) -> list[str]:
    """Read the lines of a list; a letter with an accent is one character in them.

    A Mac writes é as two, e and its accent, which looks the same and is not equal.
    """
    try:
        return normalize("NFC", file.read_text("utf-8-sig")).splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: {error}") from error
