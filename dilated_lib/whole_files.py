"""Files that appear whole or not at all, even where the power fails."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give the block a new file to write, which then takes the place of ``path``.

    The new file lies in the same folder and has the mode that the umask asks for,
    whatever its writer makes of it. It reaches the disk before it takes the name, and
    so does the name before the block's caller goes on. If the block fails, the new file
    is removed and ``path`` stays as it was.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with written_whole(Path(folder) / "notes.txt") as new:
    ...         _ = new.write_text("whole")
    ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
    [('notes.txt', 'whole')]
    """
    new = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        new.touch()
        mode = new.stat().st_mode
        yield new
        new.chmod(mode)
        with new.open("rb+") as stream:
            os.fsync(stream.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
