import functools
import http.server
import threading

import pytest
from chromium import find
from pages import CONFIG, HTML, window
from playwright.sync_api import sync_playwright

PREFIX = f"/{CONFIG['repository']['url'].split('/')[-1]}/"
QUIET = (
    "--no-sandbox",  # root in a container
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves the book in the folder of its repository's name, as GitHub does."""

    def translate_path(self, path):
        inside = path.startswith(PREFIX)
        name = path.removeprefix(PREFIX) if inside else "no such page"
        return super().translate_path("/" + name)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="session")
def address():
    """Where the built book is served."""
    assert (HTML / "index.html").exists(), "no pages yet: run `make book`"
    handler = functools.partial(Silent, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{PREFIX.rstrip('/')}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    path = find()
    assert path, "no browser: run `make test`, which gets one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def turn_to(browser, address):
    """Open pages one after the other, in one window of each width and scheme.

    A window of its own would cost more than twice what a page does.
    """
    windows = {}

    def turned(name, *look):
        if look not in windows:
            windows[look] = window(browser, address, *look)
        page, wrong = windows[look]
        wrong.clear()
        page.goto(f"{address}/{name}", wait_until="networkidle")
        return page, wrong

    yield turned
    for page, _ in windows.values():
        page.context.close()
