"""Run notebooks from top to bottom and rewrite their outputs.

The paths of the notebooks are the arguments. `make notebooks` gives all of them; the
status page is rewritten only then, so that its times and versions are of one run. It
has a row for each chapter, that is, for each notebook in `notebooks/`.
"""

import base64
import io
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

PACKAGES = ("torch", "numpy", "matplotlib", "scikit-image", "jupyter-book", "nbval")
COLOURS = 2560  # more has a photograph; a drawing has these through smoothed edges
BASE = np.array([256**2, 256, 1])
WIDGET = "application/vnd.jupyter.widget-view+json"
PAGE = Path(__file__).with_name("status.md")
CHAPTERS = Path(__file__).resolve().parents[1] / "notebooks"
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


def lighter(png: str) -> str:
    """A figure (base64) in fewer bytes: a drawing in 256 of its colours.

    The most frequent ones are kept, and of the rest those that are least like any that
    is kept: what is rare stays, and what falls away is a shade of a smoothed edge.
    A photograph keeps all of its colours.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    if counted := picture.getcolors(COLOURS):
        colours = np.array([colour for _, colour in sorted(counted, reverse=True)])
        kept = list(range(min(128, len(colours))))
        away = ((colours[:, None] - colours[kept]) ** 2).sum(2).min(1)
        while len(kept) < 256 and away.any():
            kept.append(away.argmax())
            away = np.minimum(away, ((colours - colours[kept[-1]]) ** 2).sum(1))
        nearest = ((colours[:, None] - colours[kept]) ** 2).sum(2).argmin(1)
        number = np.zeros(256**3, np.uint8)
        number[colours @ BASE] = nearest
        picture = Image.fromarray(number[np.asarray(picture) @ BASE])
        picture.putpalette(colours[kept].astype(np.uint8).tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


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
            data = output.get("data", {})
            data.pop(WIDGET, None)  # of a kernel that is gone
            if "image/png" in data:
                data["image/png"] = lighter(data["image/png"])
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)
    return seconds


def main(paths: list[Path]) -> None:
    rows = []
    for path in paths:
        seconds = run(path)
        print(f"{seconds:4.0f} s  {path}")
        if path.resolve().parent != CHAPTERS:
            continue
        title = nbformat.read(path, 4).cells[0].source.split("\n")[0].removeprefix("# ")
        rows.append(
            f"| [{path.stem[:2]} {title}](../notebooks/{path.name}) | {seconds:.0f} |"
        )
    if len(rows) < len(list(CHAPTERS.glob("*.ipynb"))):
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
