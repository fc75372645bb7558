"""Run notebooks from top to bottom and rewrite their outputs.

The paths of the notebooks are the arguments. `make notebooks` gives all of them; the
status page is rewritten only then, so that its times and versions are of one run.
"""

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PACKAGES = ("torch", "numpy", "matplotlib", "scikit-image", "jupyter-book", "nbval")
WIDGET = "application/vnd.jupyter.widget-view+json"
PAGE = Path(__file__).with_name("status.md")
TEXT = """\
# Status

The chapters were last run from top to bottom with these versions, and their outputs \
are the ones on the pages. `make notebooks` wrote this page.

| Chapter | Seconds |
|:--|--:|
{rows}

Measured on {cores} CPU cores with one thread, without a GPU; starting Python and \
importing torch included.

| Software | Version |
|:--|:--|
{versions}
"""


def run(path: Path) -> float:
    """Execute a notebook in place, as its folder's kernel would; seconds taken."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,  # what differs from run to run
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - start
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)  # of a kernel that is gone
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)
    return seconds


def main(paths: list[Path]) -> None:
    rows = []
    for path in paths:
        seconds = run(path)
        title = path.stem[3:].replace("_", " ").capitalize()
        rows.append(
            f"| [{path.stem[:2]} {title}](../notebooks/{path.name}) | {seconds:.0f} |"
        )
        print(f"{seconds:4.0f} s  {path}")
    if len(paths) < len(list(paths[0].parent.glob("*.ipynb"))):
        return
    versions = {"Python": platform.python_version()}
    versions |= {package: version(package) for package in PACKAGES}
    PAGE.write_text(
        TEXT.format(
            rows="\n".join(rows),
            cores=os.cpu_count(),
            versions="\n".join(f"| {name} | {v} |" for name, v in versions.items()),
        )
    )


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
