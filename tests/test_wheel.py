"""A chapter opened in an empty folder, in an environment that knows only torch.

So it is in Colab. The chapter's first cell fetches the library from the repository's
address and tag; here git takes this working tree in its place.
"""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pages import CONFIG, ROOT

URL = CONFIG["repository"]["url"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# One chapter by default, in an environment that borrows packages from this one. Where
# WHEEL_NOTEBOOKS=all, every chapter, and every package is fetched and installed.
ALL = os.environ.get("WHEEL_NOTEBOOKS") == "all"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb" if ALL else "05_*.ipynb"))
PREINSTALLED = ("torch", "torchvision")
RUN = """
import sys, nbformat
from importlib.metadata import version
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
first = next(cell for cell in notebook.cells if cell.cell_type == "code")
if sys.argv[2] == "first":
    notebook.cells = [first]
NotebookClient(notebook, kernel_name="python3", timeout=1200).execute()
import dilated_lib
print(*(output.get("text", "").strip() for output in first.outputs))
print(dilated_lib.__file__)
print(*(version(name) for name in ("torch", "torchvision")))
"""


def call(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where gigabytes go for a while; emptied after a failed installation too."""
    folder = tmp_path_factory.mktemp("wheel")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def python(folder):
    """An interpreter with torch and a kernel, and without the library."""
    if given := os.environ.get("WHEEL_PYTHON"):  # Colab's image: `make test-colab`
        return Path(shutil.which(given))
    venv.create(folder / "venv", with_pip=ALL)
    fresh = folder / "venv" / "bin" / "python"
    if ALL:
        here = call(sys.executable, "-m", "pip", "freeze", "--exclude-editable")
        (folder / "constraints.txt").write_text(here)
        pip = (fresh, "-m", "pip", "-q", "install", "-c", folder / "constraints.txt")
        call(*pip, *PREINSTALLED, "ipykernel", "nbclient")
    else:
        lend(fresh, folder / "lent")
    return fresh


def lend(python, folder):
    """Show an interpreter what torch, a kernel and the library's metadata ask for.

    ``folder`` gets a link to each of these packages in this environment. It is none of
    the interpreter's own folders, so that its pip takes no package away from there.
    """
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *extras["notebooks"], *extras["train"]]
    builds = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    tools = ["pip", "setuptools", *builds["requires"], "ipykernel", "nbclient"]
    folder.mkdir()
    for one in closure(map(Requirement, [*PREINSTALLED, *declared, *tools])):
        for top in {file.parts[0] for file in one.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(one.locate_file(top))
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    (Path(call(python, "-c", asked)) / "lent.pth").write_text(f"{folder}\n")


def closure(requirements):
    """The distributions of this environment that fulfil requirements, and theirs."""
    found, open_ = {}, [*requirements]
    while open_:
        one = open_.pop()
        extras = {"", *one.extras}
        if (one.name, *sorted(extras)) in found or one.name == PROJECT["name"]:
            continue
        there = metadata.distribution(one.name)
        found[one.name, *sorted(extras)] = there
        for line in there.requires or ():
            other = Requirement(line)
            if other.marker is None or any(
                other.marker.evaluate({"extra": extra}) for extra in extras
            ):
                open_.append(other)
    return found.values()


@pytest.fixture(scope="module")
def environment(folder):
    """What makes git take this working tree where the repository's address stands."""
    copy = folder / "repository"
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    tracked = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in call(*git, "-C", ROOT, *tracked).rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    call(*git, "init", "-q", copy)
    call(*git, "-C", copy, "add", "-A")
    call(*git, "-C", copy, "commit", "-q", "-m", "as it is")
    call(*git, "-C", copy, "tag", f"v{PROJECT['version']}")
    pinned = folder / "constraints.txt"
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # the 0 says yes
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return {
        **inherited,
        **({"PIP_CONSTRAINT": str(pinned)} if pinned.exists() else {}),
        **(offline if (folder / "lent").exists() else {}),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{copy}.insteadOf",
        "GIT_CONFIG_VALUE_0": URL,
    }


def test_a_library_that_cannot_be_fetched_is_told(python, environment, tmp_path):
    lost = environment | {"GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/none.insteadOf"}
    done = subprocess.run(
        [python, "-c", RUN, NOTEBOOKS[0], "first"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=lost,
    )
    assert done.returncode != 0
    assert "not installed: pip says above why" in done.stderr


def test_the_first_cell_installs_the_library_and_leaves_torch(
    python, environment, tmp_path
):
    versions = (
        f"from importlib.metadata import version as v\nprint(*map(v, {PREINSTALLED}))"
    )
    before = call(python, "-c", versions)
    run = (python, "-c", RUN, NOTEBOOKS[0], "first")
    first = call(*run, cwd=tmp_path, env=environment).splitlines()
    kept = [f"{n}=={v}" for n, v in zip(PREINSTALLED, before.split(), strict=True)]
    said = f"Installed dilated_lib {PROJECT['version']}. As before: {' '.join(kept)}"
    assert first[-3].endswith(said)
    assert first[-1] == before
    again = call(*run, cwd=tmp_path, env=environment).splitlines()
    assert again[-3] == "dilated_lib is here already: nothing to install."


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_with_only_what_it_installs(
    python, environment, notebook, tmp_path
):
    run = (python, "-c", RUN, notebook, "all")
    there = call(*run, cwd=tmp_path, env=environment).splitlines()[-2]
    assert not Path(there).is_relative_to(ROOT)
