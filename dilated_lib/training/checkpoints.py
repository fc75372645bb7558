"""The folder of a run: whole checkpoints to go on from, the last two, and its end."""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dilated_lib.data.labelled import DataSet, LabelledPictures
from dilated_lib.networks.weights import file_state
from dilated_lib.records import Record, read_file
from dilated_lib.training.config import Config, read_config
from dilated_lib.whole_files import written_whole

__all__ = ["finished", "latest", "one_run_at_a_time", "resumed", "write_checkpoint"]

_NAME = re.compile(r"step-(\d{8})\.pt")
_KEYS = {
    *("config", "counts", "step", "seconds", "waited", "losses"),
    *("network", "optimizer", "precision"),
}
_PATIENCE = 6  # seconds


def write_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write a checkpoint of plain values and tensors, and remove all but the last two.

    The file appears whole or not at all, even where the power fails. Raises OSError
    where it cannot be written, on a full disk for example; the older ones stay then.
    """
    folder.mkdir(exist_ok=True)
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
    """Return the newest checkpoint, or None where there is none.

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
    except Exception as error:  # of damaged files torch's unpickler raises all kinds
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
    """
    for file in [*_files(folder), *folder.glob("step-[0-9]*.part")]:
        file.unlink()
    with suppress(OSError):  # other files are in it, or it is a link
        folder.rmdir()


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.pt") if _NAME.fullmatch(file.name))


@contextmanager
def one_run_at_a_time(out: Path) -> Iterator[None]:
    """Keep other runs out of a folder, and clear what a killed one left half written.

    Of several processes the first does it for all.

    Raises ValueError for a folder in use, OSError for one that cannot be written.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        # processes that read pictures for a killed run live on for five seconds
        lock = FileLock(out / ".lock", timeout=_PATIENCE).acquire()
    except Timeout:
        raise ValueError(
            f"another run is writing into {out}; wait, or end it"
        ) from None
    except OSError as error:
        if not (out / "record.json").is_file():
            raise OSError(f"a run cannot write into {out}: {error}") from error
        lock = None  # the run has ended, so that there is nothing to write
    if lock is None:
        yield
        return
    with lock:
        for file in ("network.safetensors", "record.json"):
            for half in out.glob(f"{file}.*.part"):
                half.unlink()
        yield


def finished(config: Config, out: Path) -> Record | None:
    """Return the record of a run that has ended, or None for one that has not.

    Raises ValueError where its files are not whole, and for the record of another run.
    """
    file = out / "record.json"
    if not file.is_file():
        return None
    records = read_file(file)
    if len(records) != 1:
        raise ValueError(f"{file} must hold the record of one run, got {len(records)}")
    _require_same(records[0].config, config, out)
    if config.network == "dilated":
        network = out / "network.safetensors"
        try:
            with safe_open(network, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{out} has a record, but {network.name} is missing or damaged "
                f"({error}); delete {file.name} to train the network again"
            ) from error
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # the folder may be read-only by now
            remove_checkpoints(out / "checkpoints")  # left if it was killed before
    return records[0]


def identity(config: Config, data: DataSet) -> dict[str, Any]:
    """Return what must not change while a run goes on.

    That is its configuration, as JSON has it, and digests of the classes, the names of
    the pictures, the files of the label maps, and the file of weights at its start.
    """
    names, maps = {}, {}
    for split in ("train", "val", *(["test"] if config.test else [])):
        pictures = data.split(split)
        count = len(pictures)  # type: ignore[arg-type]
        names[split] = [pictures.name(index) for index in range(count)]  # type: ignore[attr-defined]
        if isinstance(pictures, LabelledPictures):
            maps[split] = pictures.digest(config.pictures or count)
    known = {
        "classes": [*data.palette.items()],
        "pictures": names,
        "label maps": maps,
    }
    digests = {
        name: hashlib.sha256(json.dumps(value).encode()).hexdigest()
        for name, value in known.items()
    }
    if isinstance(config.start, Path) and config.start.is_file():
        with config.start.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        digests["starting weights"] = digest
    plain = json.loads(json.dumps(asdict(config), default=str))
    return {"config": plain, "data": digests}


def resumed(
    out: Path, config: Config, identity: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the newest checkpoint of a run, or None where there is none.

    Raises ValueError for one of another run, or with other data.
    """
    state = latest(out / "checkpoints")
    if state is None:
        return None
    if missing := _KEYS - state.keys():
        raise ValueError(
            f"the newest checkpoint in {out / 'checkpoints'} is none of a run, it "
            f"lacks {', '.join(sorted(missing))}; delete it"
        )
    _require_same(state["config"], config, out)
    before, now = state.get("data", {}), identity["data"]
    if other := [name for name in before if before[name] != now.get(name)]:
        raise ValueError(
            f"the {other[0]} of {config.data} are not those with which the run in "
            f"{out} began; restore them, or choose another folder"
        )
    return state


def _require_same(found: dict[str, Any], config: Config, folder: Path) -> None:
    """Raise ValueError for the configuration of another run, and say what differs."""
    # the architecture is compared field by field, and the others change no number
    ignored = ("architecture", "workers", "checkpoint_every")
    try:
        known = read_config(found)
    except ValueError as error:
        raise ValueError(f"{folder} holds a run, but {error}") from error
    before, now = (vars(run) | vars(run.architecture) for run in (known, config))
    if other := [
        name for name in now if name not in ignored and before[name] != now[name]
    ]:
        raise ValueError(
            f"{folder} holds another run, with other {', '.join(other)}; choose "
            "another folder, or delete it"
        )


def restore_weights(network: nn.Module, weights: dict[str, Tensor], out: Path) -> None:
    """Load a checkpoint's weights, which have their names in files, into the network.

    Raises ValueError where they are another network's.
    """
    own = dict(zip(file_state(network), network.state_dict(), strict=True))
    try:
        network.load_state_dict(
            {own.get(name, name): value for name, value in weights.items()}
        )
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the newest checkpoint in {out / 'checkpoints'} does not hold the weights "
            f"of this network ({reason}); delete it"
        ) from error
