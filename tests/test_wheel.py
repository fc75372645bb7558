"""A chapter runs from an empty folder with the built wheel and what it declares."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# one chapter by default, all of them where WHEEL_NOTEBOOKS=all
WANTED = "*" if os.environ.get("WHEEL_NOTEBOOKS") == "all" else "05_*"
NOTEBOOKS = sorted((ROOT / "notebooks").glob(f"{WANTED}.ipynb"))
RUN = """
import sys, nbformat
from nbclient import NotebookClient
NotebookClient(nbformat.read(sys.argv[1], 4), kernel_name="python3").execute()
import dilated_lib
print(dilated_lib.__file__)
"""


def call(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where gigabytes go for a while; emptied after a failed installation too."""
    folder = tmp_path_factory.mktemp("wheel")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def python(folder):
    """A fresh environment that holds the wheel with its extra for notebooks."""
    pip = (sys.executable, "-m", "pip", "--quiet")
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    fresh = folder / "venv" / "bin" / "python"
    lock = ROOT / "requirements.lock"
    pip = (fresh, "-m", "pip", "--quiet", "install", "-c", lock)
    call(*pip, f"{wheel}[notebooks]", "nbclient")  # nbclient plays Colab's part
    return fresh


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_with_only_the_wheel(python, notebook, tmp_path):
    there = call(python, "-c", RUN, notebook, cwd=tmp_path).strip().splitlines()[-1]
    assert Path(there).is_relative_to(python.parents[1])
