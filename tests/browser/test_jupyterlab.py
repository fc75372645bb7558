"""The explorer in JupyterLab: a widget that Python reads and sets."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from pages import ROOT

CHAPTER = ROOT / "notebooks" / "00_explorer.ipynb"
CELLS = (
    'import dilated_lib as dl\n\nexplorer = dl.Explorer("k3,k3d2")\nexplorer',
    "print(explorer.stack, explorer.channels, dl.compose("
    "[one.height for one in explorer.layers]).size)",
    'explorer.layers = [dl.Window(3, dilation=5), dl.Window(2)]\nprint("set")',
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Addresses of notebooks in a running JupyterLab."""
    tmp_path = tmp_path_factory.mktemp("lab")
    shutil.copy(CHAPTER, tmp_path)
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{number}",
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(CELLS)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}}
    notebook |= {"nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "try.ipynb").write_text(json.dumps(notebook))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
            *(f"--ServerApp.port={port}", f"--ServerApp.root_dir={tmp_path}"),
            "--IdentityProvider.token=key",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ],
        stdout=log,
        stderr=log,
    )
    root = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{root}/api?token=key", server, tmp_path / "log")
        yield lambda name: f"{root}/lab/tree/{name}?token=key&reset"
    finally:
        server.terminate()  # it stops its kernels first
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait_for(url: str, server, log: Path) -> None:
    for _ in range(120):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()}")


def test_the_widget_and_python_follow_each_other(browser, lab):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(lab("try.ipynb"))
    cells = page.locator(".jp-CodeCell")
    cells.nth(2).wait_for(timeout=60_000)

    def run(number):
        """Run a cell to its end: its prompt then holds another number."""
        cell = cells.nth(number)
        prompt = cell.locator(".jp-InputPrompt")
        before = re.search(r"\d+", prompt.inner_text())
        for tried in range(120):
            # a key that comes before the editor is ready is lost
            if tried % 20 == 0 and "*" not in prompt.inner_text():
                cell.locator(".cm-content").click()
                page.keyboard.press("Control+Enter")
            page.wait_for_timeout(250)
            now = re.search(r"\d+", prompt.inner_text())
            if now and (not before or now[0] != before[0]):
                return cell
        raise AssertionError(f"cell {number} does not run")

    def says(number, text):
        """Does a cell print it? Widgets send what changed when they find the time."""
        for _ in range(10):
            if run(number).get_by_text(text).count():
                return True
            page.wait_for_timeout(500)
        return False

    page.wait_for_selector("[data-status=idle]", timeout=60_000)
    run(0)
    explorer = page.locator(".dx")
    explorer.wait_for(timeout=60_000)
    assert explorer.locator("li").count() == 3
    explorer.get_by_role("spinbutton", name="dilation").fill("4")
    explorer.get_by_label("Channels").fill("8")
    explorer.get_by_role("button", name="Add layer").click()
    assert says(1, "k3,k3d4,k3 8 13")

    # arrow keys belong to the explorer, not to the notebook
    explorer.get_by_role("application").focus()
    page.keyboard.press("ArrowDown")
    assert "pinned" in explorer.locator(".dx-status").inner_text()

    run(2)
    explorer.get_by_text("spans 12").wait_for(timeout=60_000)
    assert explorer.locator("li").count() == 3
    assert says(1, "k3d5,k2 8 12")
    page.close()


def test_before_a_cell_is_run_its_picture_stands_there(browser, lab):
    page = browser.new_page()
    page.goto(lab(CHAPTER.name))
    still = page.locator('img[alt^="A stack of 3 layers"]')
    still.wait_for(timeout=60_000)
    assert still.bounding_box()["width"] > 200
    page.close()
