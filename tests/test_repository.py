"""What a clean clone promises: versions, addresses, a strict build."""

import base64
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from pages import CONFIG, ROOT
from PIL import Image

URL = CONFIG["repository"]["url"]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    lines = (ROOT / "requirements.lock").read_text().split()
    return {canonical(name): v for name, v in (line.split("==") for line in lines)}


def test_the_environment_holds_what_the_lock_file_pins():
    # that folder alone: setuptools, once imported, shows its own copies too
    found = metadata.distributions(path=[sysconfig.get_path("purelib")])
    installed = {canonical(d.name): d.version for d in found}
    for name in ("pip", "setuptools", "wheel", "dilated-lib"):
        installed.pop(name, None)
    locked = pins()
    assert {n: v for n, v in installed.items() if locked.get(n, v) != v} == {}
    # elsewhere a package or two more or less belong to the system
    if (sys.platform, sys.version_info[:2]) == ("linux", (3, 11)):
        assert installed.keys() == locked.keys()


def program(name):
    """A program of `book/` as a module."""
    path = ROOT / "book" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def address():
    """The program behind `make address`."""
    return program("address")


def test_the_welcome_page_shows_what_the_library_gives():
    welcome = program("welcome")
    explorer = (ROOT / "book" / "explorer.html").read_text()
    assert explorer == welcome.explorer() + "\n", "`make notebooks` writes it"
    found = welcome.label_map()
    shares = {name: (found.labels == i).mean() for i, name in enumerate(found.palette)}
    there = {name for name, share in shares.items() if share > 0.02}
    assert there == {"background", "cat"}  # as the caption says
    assert shares["cat"] > 0.4


def recoded(pixels):
    """A figure's file before and after `make notebooks` stores it, and its pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    given = base64.b64encode(file.getvalue()).decode()
    stored = base64.b64decode(program("run_notebooks").lighter(given))
    seen = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"))
    return file.getvalue(), stored, seen


def test_a_stored_drawing_is_light_and_keeps_its_rarest_colour():
    shades = 255 - np.linspace(0, 1, 600)[:, None] * (255, 140, 0)  # white to blue
    order = np.random.default_rng(0).integers(0, 600, (80, 80))
    drawing = shades[order].astype(np.uint8)
    drawing[7, 9] = 213, 94, 0
    given, stored, seen = recoded(drawing)
    assert len(stored) < len(given) / 2
    assert Image.open(io.BytesIO(stored)).mode == "P"
    np.testing.assert_array_equal(seen[7, 9], (213, 94, 0))
    assert np.abs(seen.astype(int) - drawing).max() <= 2


def test_a_stored_photograph_keeps_every_colour():
    photograph = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    _, _, seen = recoded(photograph)
    np.testing.assert_array_equal(seen, photograph)


@pytest.fixture
def copied(address, tmp_path):
    """A copy of all files that know the address."""
    for pattern in address.FILES:
        for path in ROOT.glob(pattern):
            there = tmp_path / path.relative_to(ROOT)
            there.parent.mkdir(exist_ok=True)
            shutil.copy(path, there)
    return tmp_path


def test_the_repository_has_one_address(address):
    assert [*address.differing(ROOT, URL)] == [], "`make address` writes it again"


def test_the_address_is_written_everywhere(address, copied):
    new = "https://github.com/Someone/another-book"
    for path, text in address.differing(copied, new).items():
        path.write_text(text)
    left = [
        p for p in copied.rglob("*.*") if "dilated-book/dilated-book" in p.read_text()
    ]
    assert left == []
    config = yaml.safe_load((copied / "_config.yml").read_text())
    assert config["repository"]["url"] == new
    assert config["html"]["baseurl"] == "https://someone.github.io/another-book/"
    options = config["sphinx"]["config"]
    assert options["notfound_urls_prefix"] == "/another-book/"
    assert options["ogp_site_url"] == config["html"]["baseurl"]
    chapter = (copied / "notebooks" / "05_dilated_convolution.ipynb").read_text()
    assert f"git+{new}@v" in chapter
    assert "github/Someone/another-book/blob/v" in chapter
    assert new in (copied / "CITATION.cff").read_text()
    for path, text in address.differing(copied, URL).items():
        path.write_text(text)
    for path in copied.rglob("*.*"):  # and back again
        assert path.read_text() == (ROOT / path.relative_to(copied)).read_text()


def test_another_address_in_one_place_is_found(address, copied):
    path = copied / "notebooks" / "05_dilated_convolution.ipynb"
    path.write_text(path.read_text().replace("git+https://github.com/", "git+ssh://"))
    assert [*address.differing(copied, URL)] == [path]


@pytest.mark.parametrize(
    "url", ["github.com/a/b", "https://github.com/a", "http://x.y"]
)
def test_an_address_that_is_none_is_refused(address, url):
    with pytest.raises(ValueError, match=f"OWNER/NAME, got '{url}'"):
        address.differing(ROOT, url)


def build(folder, page):
    """Build a book of two pages with the real configuration; the finished process."""
    folder.mkdir()
    toc = "format: jb-book\nroot: index\nchapters: [{file: second}]\n"
    (folder / "_toc.yml").write_text(toc)
    (folder / "second.md").write_text("# Second\n\nText.\n")
    config = (ROOT / "_config.yml").read_text()
    (folder / "_config.yml").write_text(config.replace("book/", f"{ROOT}/book/"))
    (folder / "index.md").write_text(page)
    command = Path(sys.executable).with_name("jupyter-book")
    return subprocess.run(
        [command, "build", ".", "-W", "-n", "--keep-going"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_broken_link_or_reference_fails_the_build(tmp_path):
    good = build(tmp_path / "good", "# Title\n\nText.\n")
    assert good.returncode == 0, good.stderr
    assert (tmp_path / "good/_build/html/index.html").exists()
    broken = {
        "[there](missing.md)": "missing.md",
        "{ref}`nowhere`": "nowhere",
        "{cite}`nobody2016`": "nobody2016",
        "{term}`none`": "term not in glossary: 'none'",
    }
    bad = build(tmp_path / "bad", "# Title\n\n" + "\n\n".join(broken))
    assert bad.returncode != 0
    warnings = [line for line in bad.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == len(broken), bad.stderr  # each of which would have done
    for target in broken.values():
        assert any(target in line for line in warnings), target
