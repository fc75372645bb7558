"""Data sets by name, and where they lie on this machine."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dilated_lib.data.camvid import camvid, download_camvid
from dilated_lib.data.folder import folder
from dilated_lib.data.labelled import DataSet
from dilated_lib.data.scenes import ShapeScenes
from dilated_lib.data.voc import voc2012, voc_animals

__all__ = ["data_home", "download", "open_data"]


def data_home() -> Path:
    """Return the folder of data sets.

    It is $DILATED_DATA, or .cache/dilated_lib in your home.

    >>> from unittest.mock import patch
    >>> with patch.dict(os.environ, DILATED_DATA="/data"):
    ...     data_home().as_posix()
    '/data'
    """
    named = os.environ.get("DILATED_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "dilated_lib"


def open_data(name: str) -> DataSet:
    """Open a data set by its name, or your own by the path of its folder.

    "shapes" is :class:`~dilated_lib.data.scenes.ShapeScenes`; "camvid", "voc2012" and
    "voc_animals" lie in :func:`data_home`. A path has a slash in it and is a
    :func:`~dilated_lib.data.folder.folder`.

    Raises ValueError for an unknown name, else as the data set does.

    >>> data = open_data("shapes")
    >>> [*data.palette], len(data.split("val"))
    (['ground', 'disc', 'square', 'triangle'], 50)
    """
    home = data_home()
    known: dict[str, Callable[[], DataSet]] = {
        "shapes": _shapes,
        "camvid": partial(camvid, home / "camvid"),
        "voc2012": partial(voc2012, home),
        "voc_animals": partial(voc_animals, home / "voc_animals"),
    }
    if name in known:
        return known[name]()
    if "/" in name or os.sep in name:
        return folder(Path(name).expanduser())
    raise ValueError(
        f"data must be one of {', '.join(known)}, or the path of a folder, such as "
        f"./{name}; got {name!r}"
    )


def download(name: str, *, progress: bool = False) -> None:
    """Fetch "camvid" or "voc2012" into :func:`data_home`.

    Raises ValueError for another name, OSError for what cannot be fetched.

    >>> download("cityscapes")
    Traceback (most recent call last):
    ValueError: camvid and voc2012 can be fetched, got 'cityscapes'
    """
    if name == "camvid":
        download_camvid(data_home() / "camvid", progress=progress)
    elif name == "voc2012":
        voc2012(data_home(), download=True)
    else:
        raise ValueError(f"camvid and voc2012 can be fetched, got {name!r}")


def _shapes() -> DataSet:
    splits = {
        split: partial(ShapeScenes, count, seed=seed)
        for seed, (split, count) in enumerate(
            (("train", 400), ("val", 50), ("test", 50))
        )
    }
    return DataSet("shapes", ShapeScenes.palette, (128.0, 128.0, 128.0), splits)
