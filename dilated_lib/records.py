"""Records of runs: what was measured, by which command, where, and in what time.

A file holds a list of records, one for each run. The book's are in ``book/results``
and travel with the package.
"""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch

from dilated_lib.whole_files import written_whole

__all__ = [
    "Record",
    "device_name",
    "peak_gib",
    "read",
    "read_file",
    "results",
    "write",
]

_HOME = Path(__file__).parent


def _command() -> str:
    return shlex.join(["python", *sys.orig_argv[1:]])


@cache  # once a process, which keeps the source that it loaded
def _commit() -> str:
    """Return the commit of this source, not of a repository it is installed in."""
    git = ["git", "-C", str(_HOME)]
    mine = [*git, "ls-files", "--error-unmatch", Path(__file__).name]
    describe = ["describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        for call in (mine, [*git, *describe]):
            done = subprocess.run(call, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": version("torch")}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: what it did (``config``), what it measured (``metrics``), and where.

    ``seconds`` is its wall-clock time, and ``device`` its :func:`device_name`. The rest
    is filled in: the command line, the commit of the source ("unknown" outside a
    checkout, with a "+" behind it where files were changed), and the versions of Python
    and torch.

    ``data`` has the SHA-256 of what a training read: of the classes, the names of the
    pictures, the label maps, and the file of weights that it started from. Records of
    other experiments, and those of older runs, have none.

    >>> done = {"config": {"steps": 100}, "metrics": {"miou": 61.5}}
    >>> Record(experiment="mine", seed=0, seconds=2.5, device="CPU", **done).metrics
    {'miou': 61.5}
    """

    experiment: str
    seed: int
    config: dict[str, Any]
    metrics: dict[str, Any]
    seconds: float
    device: str
    data: dict[str, str] = field(default_factory=dict)
    command: str = field(default_factory=_command)
    commit: str = field(default_factory=_commit)
    versions: dict[str, str] = field(default_factory=_versions)


def device_name(device: torch.device) -> str:
    """Name a GPU, or the CPU with its vectors and the threads that torch uses.

    >>> device_name(torch.device("cpu")).startswith("CPU (")
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    vectors = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}, {vectors}, threads: {threads})"


def peak_gib(device: torch.device) -> float:
    """Return the most memory that this process has taken so far, in GiB.

    It is that of the GPU, or the main memory, and 0 on Windows, which does not tell.

    >>> peak_gib(torch.device("cpu")) < 1000
    True
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    if sys.platform == "win32":
        return 0.0
    from resource import RUSAGE_SELF, getrusage

    unit = 1 if sys.platform == "darwin" else 1024
    return round(getrusage(RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def write(path: Path, records: Iterable[Record]) -> None:
    """Write records to a JSON file; if it is there, it is replaced as a whole.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write(Path(folder) / "mine.json", read("traps"))
    ...     json.loads((Path(folder) / "mine.json").read_text())[0]["experiment"]
    'traps/none'
    """
    said = [asdict(record) for record in records]
    for one in said:
        if not one["data"]:  # so that a record which is read is written as it was
            del one["data"]
    text = json.dumps(said, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as new:
        new.write_text(text + "\n")


def results() -> Path:
    """Return the folder of the book's results, in a checkout or an installed package.

    >>> (results() / "small.safetensors").is_file()
    True
    """
    inside = _HOME / "results"
    return inside if inside.is_dir() else _HOME.parent / "book" / "results"


def read(name: str) -> list[Record]:
    """Return the records of an experiment of the book, by the name of their file.

    Raises FileNotFoundError for a name without a file, ValueError for a broken file.

    >>> [one.experiment for one in read("traps")][:2]
    ['traps/none', 'traps/RGB instead of BGR']
    """
    path = results() / f"{name}.json"
    if not path.is_file():
        there = sorted(one.stem for one in results().glob("*.json"))
        raise FileNotFoundError(f"no records called {name!r}; there are {there}")
    return read_file(path)


def read_file(path: Path) -> list[Record]:
    """Return the records of a file. Raises ValueError, with its name, if it is broken.

    Every field is there and of its kind; what a configuration and metrics hold is for
    those to check who read them.

    >>> read_file(results() / "traps.json")[0].experiment
    'traps/none'
    """
    try:
        rows = json.loads(path.read_text())
        if not isinstance(rows, list):
            raise TypeError(f"it holds a {type(rows).__name__}")
        return [_checked(Record(**row)) for row in rows]
    except (ValueError, TypeError, RecursionError) as error:  # no JSON, or no text
        raise ValueError(f"{path} is no list of records: {error}") from error


def _checked(record: Record) -> Record:
    """Raise TypeError for a field of another kind, such as metrics that are a list."""
    for name, hint in get_type_hints(Record).items():
        value, wanted = getattr(record, name), get_origin(hint) or hint
        if type(value) is not wanted and (wanted, type(value)) != (float, int):
            raise TypeError(f"{name} must be a {wanted.__name__}, got {value!r}")
    return record
