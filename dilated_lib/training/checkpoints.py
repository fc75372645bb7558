"""Checkpoints that a killed run can go on from: whole files, the last two of them."""

import pickle
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dilated_lib.whole_files import written_whole

__all__ = ["latest", "remove_checkpoints", "write_checkpoint"]

_DAMAGED = (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile)
_NAME = re.compile(r"step-(\d{8})\.pt")


def write_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write a state of plain values and tensors; older ones but the last go.

    The file appears whole or not at all, also where the power fails. Raises OSError
    where it cannot be written, on a full disk say; those that are there stay.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for step in (10, 20, 30):
    ...         write_checkpoint(Path(folder), step, {"step": step})
    ...     sorted(file.name for file in Path(folder).iterdir())
    ['step-00000020.pt', 'step-00000030.pt']
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{step:08d}.pt"
    try:
        with written_whole(file) as new, new.open("wb") as stream:
            torch.save(state, stream)
    except (OSError, RuntimeError) as error:  # torch's writer raises the second
        raise OSError(
            f"{file} cannot be written ({error}); the checkpoints before it are whole"
        ) from error
    for old in _files(folder)[:-2]:
        old.unlink()


def latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint, or None where there is none.

    Raises ValueError for a damaged one, and says from which the run can go on.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for step in (10, 20):
    ...         write_checkpoint(Path(folder), step, {"step": step})
    ...     latest(Path(folder))
    {'step': 20}
    """
    files = _files(folder)
    if not files:
        return None
    try:
        with zipfile.ZipFile(files[-1]) as archive:  # torch compares no checksums
            if spoilt := archive.testzip():
                raise RuntimeError(f"{spoilt} in it has changed")
        state: dict[str, Any] = torch.load(
            files[-1], map_location="cpu", weights_only=True
        )
    except (*_DAMAGED, OSError) as error:
        before = f"{files[-2].name}" if len(files) > 1 else "the beginning"
        raise ValueError(
            f"{files[-1]} is damaged or truncated; delete it to go on from {before}"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(
            f"{files[-1]} is no checkpoint but a {type(state).__name__}; delete it"
        )
    return state


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run, whole or begun, and the folder if it is empty.

    Other files in the folder stay, and then so does the folder.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_checkpoint(Path(folder) / "checkpoints", 10, {"step": 10})
    ...     remove_checkpoints(Path(folder) / "checkpoints")
    ...     (Path(folder) / "checkpoints").exists()
    False
    """
    for file in [*_files(folder), *folder.glob("step-[0-9]*.part")]:
        file.unlink(missing_ok=True)
    with suppress(OSError):  # other files are in it, or it is a link
        folder.rmdir()


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.pt") if _NAME.fullmatch(file.name))
