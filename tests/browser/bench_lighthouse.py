"""What Lighthouse says of three pages: `make lighthouse`, which needs Node's npx."""

import json
import os
import subprocess

import pytest
from chromium import find

NPX = ("npx", "--yes", "lighthouse@12.8.2")
PAGES = (
    "book/index.html",
    "notebooks/05_dilated_convolution.html",
    "notebooks/00_explorer.html",
)
LEAST = {"accessibility": 1.0, "best-practices": 0.95, "seo": 0.95}


@pytest.mark.parametrize("name", PAGES)
def test_lighthouse(address, name, tmp_path):
    report = tmp_path / "report.json"
    options = (
        f"--only-categories={','.join(LEAST)}",
        f"--output-path={report}",
        "--output=json",
        "--quiet",
        "--chrome-flags=--headless=new --no-sandbox --disable-background-networking",
    )
    subprocess.run(
        [*NPX, f"{address}/{name}", *options],
        env={**os.environ, "CHROME_PATH": find()},
        check=True,
    )
    categories = json.loads(report.read_text())["categories"]
    scores = {key: category["score"] for key, category in categories.items()}
    print(f"{name}: {scores}")
    assert all(scores[key] >= least for key, least in LEAST.items()), scores
