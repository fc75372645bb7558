"""What `make mutants` counts, and what it says of sharp tests and of blunt ones."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from break_library import NO_RESULT
from mutants import mutants

SUPPORT = Path(__file__).parent / "support"
WEEKLY = SUPPORT.parents[1] / ".github" / "workflows" / "weekly.yml"
COUNTED = """
Pair = tuple[int, int]
Side = Literal["long", "short"] | int | None
__all__ = ["area"]

def area(width: int, height: int) -> int:
    if width * height == 0:
        raise ValueError(f"{width + 1} by {height}, which is nothing")
    whole("width", width, 1)
    return sum(a * b for a, b in zip([width], [height], strict=True))
"""


def test_only_a_change_that_can_alter_a_result_is_made():
    changes = {mutant.change for mutant in mutants(COUNTED, seed=0)}
    lines = {change.split("\n")[0].strip("- ") for change in changes}
    assert lines == {
        "if width * height == 0:",
        'whole("width", width, 1)',
        "return sum(a * b for a, b in zip([width], [height], strict=True))",
    }
    assert changes >= {
        "-    if width * height == 0:\n+    if width * height == 1:",
        "-    if width * height == 0:\n+    if width * height != 0:",
        "-    if width * height == 0:\n+    if width / height == 0:",
    }
    uncounted = "strict=False", "whole(None", "XX"
    assert not [c for c in changes if any(part in c for part in uncounted)]


def test_the_order_is_the_seed_s():
    first, again, other = ([*mutants(COUNTED, seed=seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert {mutant.code for mutant in first} == {mutant.code for mutant in other}


def test_what_is_explained_is_still_there():
    explained = tomllib.loads((SUPPORT / "equivalent_mutants.toml").read_text())
    for one in explained["mutant"]:
        code = (SUPPORT.parents[1] / "dilated_lib" / one["file"]).read_text()
        lines = [r[1:] for r in one["change"].split("\n") if r.startswith("-")]
        found = code.count("\n".join(lines) + "\n")
        assert found == 1, f"{one['file']} has it {found} times: {lines}"
        assert one["why"]


def test_the_weekly_run_breaks_every_file_once():
    rooms = [
        room
        for job in re.findall(r'"mutants ROOM=(.*?)"', WEEKLY.read_text())
        for room in job.strip("'").split()
    ]
    home = SUPPORT.parents[1] / "dilated_lib"
    for path in home.rglob("*.py"):
        file = path.relative_to(home).as_posix()
        if file not in NO_RESULT:
            assert sum(file.startswith(room) for room in rooms) == 1, file


def repository(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("mutants.py", "break_library.py"):
        shutil.copy(SUPPORT / name, folder / "tests" / "support")


def test_what_no_test_notices_is_shown_unless_it_is_explained(tmp_path):
    double = "def double(number):\n    return number * 2\n"
    files = {
        "dilated_lib/__init__.py": "",
        "dilated_lib/room/sharp.py": double,
        "dilated_lib/room/blunt.py": double,
        "dilated_lib/room/known.py": double,
        "tests/room/test_room.py": """
            from dilated_lib.room import blunt, known, sharp

            def test_double():
                assert sharp.double(3) == 6
                assert blunt.double(0) == known.double(0) == 0
        """.replace("\n            ", "\n"),
        "tests/support/equivalent_mutants.toml": """
            [[mutant]]
            file = "room/known.py"
            change = '''
            -    return number * 2
            +    return number / 2'''
            why = "it is shown as an example"
        """.replace("\n            ", "\n"),
    }
    repository(tmp_path, files)
    done = subprocess.run(
        [sys.executable, tmp_path / "tests/support/break_library.py", "--seed", "7"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    said = done.stdout[done.stdout.index("room/blunt") :]
    blunt, known = said.split("room/known.py: ")
    known, sharp = known.split("room/sharp.py: ")
    assert blunt.startswith("room/blunt.py: 0% of 2 noticed\n")
    for change in ("number / 2", "number * 3"):
        assert f"-    return number * 2\n+    return {change}\n" in blunt
    assert known.split() == [
        *("0%", "of", "1", "noticed"),
        *("-", "return", "number", "*", "2", "+", "return", "number", "*", "3"),
    ]
    assert sharp == "100% of 2 noticed\n"
    assert (tmp_path / "dilated_lib/room/blunt.py").read_text() == double


def test_a_test_that_fails_on_the_whole_library_ends_the_run(tmp_path):
    """It leans on one before it, which does not run what is broken."""
    files = {
        "dilated_lib/__init__.py": "",
        "dilated_lib/room/one.py": "def double(number):\n    return number * 2\n",
        "tests/room/test_room.py": """
            from dilated_lib.room import one

            done = []

            def test_before():
                done.append(2)

            def test_double():
                assert one.double(1) in done
        """.replace("\n            ", "\n"),
        "tests/support/equivalent_mutants.toml": "mutant = []",
    }
    repository(tmp_path, files)
    done = subprocess.run(
        [sys.executable, tmp_path / "tests/support/break_library.py"],
        capture_output=True,
        text=True,
    )
    said = "tests/room/test_room.py::test_double fails on the whole library, too\n"
    assert done.returncode == 1
    assert said in done.stderr
