"""Write the repository's address into everything that needs it.

It stands in `_config.yml`. `make address URL=https://github.com/OWNER/NAME` changes it
there, and in links, badges, the citation and the cell that installs the library in
Colab, which also takes the version from `pyproject.toml`. Without a URL the present one
is written again: after a new version, or into a new notebook.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FILES = (
    *("*.md", "*.cff", "*.toml", "_config.yml"),
    *("book/*.md", "book/*.ipynb", "notebooks/*.ipynb"),
)
SETUP = """\
from importlib.metadata import distributions
from importlib.util import find_spec

if find_spec("dilated_lib"):
    print("dilated_lib is here already: nothing to install.")
else:  # in Colab: the library alone, beside the torch that is there
    there = {{d.name: d.version for d in distributions()}}
    kept = [f"{{n}}=={{there[n]}}" for n in ("torch", "torchvision") if n in there]
    source = "git+{url}@v{version}"
    %pip install --quiet {{" ".join(kept)}} "dilated-lib[notebooks] @ {{source}}"
    assert find_spec("dilated_lib"), "not installed: pip says above why"
    print("Installed dilated_lib {version}. As before:", *kept)
"""
BADGE = (
    "[![Open in Colab](../book/assets/colab.svg)]"
    "(https://colab.research.google.com/github/{place}/blob/v{version}/notebooks/{name})"
)


def place_of(url: str) -> str:
    """OWNER/NAME of an address; ValueError where it is no repository of GitHub."""
    if not (found := re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", url)):
        raise ValueError(f"URL must be https://github.com/OWNER/NAME, got {url!r}")
    return found[1].removesuffix(".git")


def pages_of(place: str) -> str:
    """Where GitHub serves the pages of OWNER/NAME."""
    owner, name = place.split("/")
    return f"https://{owner.lower()}.github.io/{name}/"


def present(root: Path) -> str:
    """The address in `_config.yml`."""
    url: str = yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"]
    return url


def notebook(path: Path, text: str, place: str, version: str) -> str:
    """A notebook with its badge and its first cell as they have to be."""
    content = json.loads(text)
    title = content["cells"][0]
    badge = BADGE.format(place=place, version=version, name=path.name)
    lines = [
        x for x in "".join(title["source"]).split("\n") if "[Open in Colab]" not in x
    ]
    heading, *rest = "\n".join(lines).split("\n", 1)
    title["source"] = "\n\n".join([heading, badge, *(one.strip("\n") for one in rest)])
    setup = next(cell for cell in content["cells"] if cell["cell_type"] == "code")
    url = f"https://github.com/{place}"
    setup["source"] = SETUP.format(url=url, version=version).rstrip("\n")
    for cell in (title, setup):
        cell["source"] = cell["source"].splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def texts(root: Path, url: str) -> dict[Path, str]:
    """What each file that knows the address should hold."""
    old, new = place_of(present(root)), place_of(url)
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    changed = {}
    for pattern in FILES:
        for path in sorted(root.glob(pattern)):
            text = path.read_text()
            text = re.sub(
                rf"github\.com/{re.escape(old)}(?![\w-])", f"github.com/{new}", text
            )
            text = text.replace(pages_of(old), pages_of(new))
            if path.name == "_config.yml":
                prefix = f"notfound_urls_prefix: /{new.split('/')[1]}/"
                text = re.sub(r"notfound_urls_prefix: \S+", prefix, text)
            if path.name == "CITATION.cff":
                text = re.sub(r"(?m)^version: .*$", f"version: {version}", text)
            if path.parent.name == "notebooks":
                text = notebook(path, text, new, version)
            changed[path] = text
    return changed


def differing(root: Path, url: str) -> dict[Path, str]:
    """The files that hold something else, with what they should hold."""
    return {p: text for p, text in texts(root, url).items() if text != p.read_text()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default=present(ROOT))
    parser.add_argument("--check", action="store_true", help="write nothing, tell")
    arguments = parser.parse_args()
    try:
        found = differing(ROOT, arguments.url)
    except ValueError as error:
        sys.exit(str(error))
    for path, text in found.items():
        print(path.relative_to(ROOT))
        if not arguments.check:
            path.write_text(text)
    if arguments.check and found:
        sys.exit(f"not of {arguments.url}: run `make address URL={arguments.url}`")


if __name__ == "__main__":
    main()
