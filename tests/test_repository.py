"""What a clean clone promises: versions, addresses, a strict build."""

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
URL = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]


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


def test_the_repository_has_one_address():
    for name in ("README.md", "CITATION.cff", "pyproject.toml", "_config.yml"):
        text = (ROOT / name).read_text()
        assert set(
            re.findall(r"https://github\.com/[\w-]*book[\w-]*/[\w-]+", text)
        ) <= {URL}, name
    assert URL in (ROOT / "pyproject.toml").read_text()
    assert URL in (ROOT / "CITATION.cff").read_text()


def build(folder, page):
    """Build a book of one page with the real configuration; the finished process."""
    folder.mkdir()
    (folder / "_toc.yml").write_text("format: jb-book\nroot: index\n")
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
    for number, line in enumerate(
        ("[there](missing.md)", "{ref}`nowhere`", "{cite}`nobody2016`", "{term}`none`")
    ):
        bad = build(tmp_path / str(number), f"# Title\n\nText. {line}\n")
        assert bad.returncode != 0, line
