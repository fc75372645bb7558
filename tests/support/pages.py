"""The book's folders and pages, for the tests that read or open them."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
# folders of users and systems, this checkout, installed packages, addresses of objects
MACHINE = (
    r"/home/|/root/|/Users/|/tmp/|/opt/|/private/|(?:site|dist)-packages"
    rf"|0x[0-9a-f]{{8}}|{re.escape(str(ROOT))}(?![\w-])"
)


def window(browser, address, width=1280, scheme="light", **options):
    """Open a window; return its page, empty yet, with what will go wrong in it."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, **options
    )
    page = context.new_page()
    wrong = []
    page.on(
        "console",
        lambda m: (
            wrong.append(f"console: {m.text} {m.location['url']}")
            if m.type == "error"
            else None
        ),
    )
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
    page.on(
        "response",
        lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None,
    )
    host = re.match(r"\w+://[^/]+", address)[0]
    page.on(
        "request",
        lambda r: (
            wrong.append(f"foreign: {r.url}")
            if not r.url.startswith((host, "data:", "blob:"))
            else None
        ),
    )
    return page, wrong


def visit(browser, url, *arguments, **options):
    """Open a page in a window of its own; return it with what went wrong."""
    page, wrong = window(browser, url, *arguments, **options)
    page.goto(url, wait_until="networkidle")
    return page, wrong
