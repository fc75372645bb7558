"""Every built page in a real browser: wide and light, narrow and dark."""

import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import CONFIG

HTML = Path(__file__).parents[2] / "_build" / "html"
PAGES = sorted(
    str(path.relative_to(HTML))
    for folder in (".", "book", "notebooks")
    for path in (HTML / folder).glob("*.html")
)
PAGES.append("_modules/dilated_lib/convolution.html")  # one of the source's pages
# what the theme itself does on every page, and bibliographies on theirs
THEME = {
    "label-content-name-mismatch",
    "region",
    "aria-required-children",
    "aria-allowed-role",
    "aria-deprecated-role",
}


def visit(browser, url, width=1280, scheme="light"):
    """Open a page; return it with what went wrong while it loaded."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme
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
    host = re.match(r"\w+://[^/]+", url)[0]
    page.on(
        "request",
        lambda r: (
            wrong.append(f"foreign: {r.url}")
            if not r.url.startswith((host, "data:", "blob:"))
            else None
        ),
    )
    page.goto(url, wait_until="networkidle")
    return page, wrong


def sideways(page):
    """How many pixels the page can be scrolled sideways."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def badly_described(page):
    """Sources of the article's pictures whose alt text is missing or a file name."""
    return page.eval_on_selector_all(
        ".bd-article img",
        """images => images
          .filter(i => !/\\s/.test(i.alt.trim()) || /\\.(png|svg|jpe?g)$/.test(i.alt))
          .map(i => i.src)""",
    )


def raw_mathematics(page):
    """Formulas that MathJax has not set."""
    return page.eval_on_selector_all(
        ".bd-article .math",
        "spans => spans.filter(s => !s.querySelector('mjx-container')).length",
    )


def violations(page):
    """What axe-core finds, the theme's own findings left out."""
    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {node['html'][:120]}"
        for v in found
        if v["id"] not in THEME
        for node in v["nodes"]
    ]


def dead_links(page, root):
    """Links of the article to files or anchors of the book that do not exist."""
    links = page.eval_on_selector_all(
        ".bd-article a[href]", "as => as.map(a => a.href)"
    )
    dead = []
    for link in set(links):
        path, _, anchor = link.partition("#")
        if not path.startswith(root):
            continue
        file = HTML / path.removeprefix(root).lstrip("/")
        if not file.is_file() or (anchor and f'id="{anchor}"' not in file.read_text()):
            dead.append(link)
    return dead


def test_every_page_of_the_book_is_built():
    assert len(PAGES) >= 11


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_page(browser, address, name, width, scheme):
    page, wrong = visit(browser, f"{address}/{name}", width, scheme)
    assert wrong == []
    assert sideways(page) == 0
    assert badly_described(page) == []
    assert raw_mathematics(page) == 0
    assert violations(page) == []
    assert dead_links(page, address) == []
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.context.close()


def test_chapters_have_mathematics_and_a_button_for_colab(browser, address):
    for name in (p for p in PAGES if p.startswith("notebooks/")):
        page, _ = visit(browser, f"{address}/{name}")
        assert page.locator("mjx-container").count() > 0, name
        hrefs = page.eval_on_selector_all("a[href]", "as => as.map(a => a.href)")
        assert any("colab.research.google.com" in href for href in hrefs), name
        page.context.close()


def test_a_page_tells_search_engines_and_previews_what_it_is(browser, address):
    base = CONFIG["html"]["baseurl"]
    sitemap = (HTML / "sitemap.xml").read_text()
    for name in ("book/index.html", "notebooks/05_dilated_convolution.html"):
        page, _ = visit(browser, f"{address}/{name}")
        told = page.eval_on_selector_all(
            "meta[content]",
            "all => all.map(m => [m.getAttribute('property') || m.name, m.content])",
        )
        told = dict(told)
        assert page.get_attribute("link[rel=canonical]", "href") == base + name
        assert len(told["description"]) > 40
        assert told["og:url"] == base + name
        image = told["og:image"].removeprefix(base)
        assert (HTML / image).is_file()
        assert f"<loc>{base}{name}</loc>" in sitemap
        page.context.close()


def test_a_lost_reader_gets_a_page_that_leads_back(browser, address):
    page, wrong = visit(browser, f"{address}/404.html")
    assert wrong == []
    page.goto(f"{address}/404.html")
    page.click(".bd-sidebar-primary a.internal >> nth=1")
    page.wait_for_load_state()
    assert page.title() and "404" not in page.url
    page.context.close()


def test_a_solution_is_folded_until_it_is_clicked(browser, address):
    page, _ = visit(browser, f"{address}/notebooks/02_receptive_field_arithmetic.html")
    solution = page.locator(".solution").first
    text = solution.locator("p").nth(1)
    assert not text.is_visible()
    solution.locator("button").first.click()
    assert text.is_visible()
    page.context.close()


def test_search_finds_a_page(browser, address):
    page, _ = visit(browser, f"{address}/search.html?q=dilation")
    page.wait_for_selector("#search-results li", timeout=10_000)
    page.context.close()


BAD = """<!doctype html><html lang="en" data-theme="light"><title>bad</title>
<article class="bd-article"><h1>Bad</h1>
<img src="figure.png" alt="figure.png"><div style="width: 600px">wide</div>
<img src="http://127.0.0.2:9/foreign.png" alt="a foreign picture">
<span class="math">\\(x^2\\)</span>
<p style="color: #ccc; background: #fff">pale</p>
<a href="nowhere.html">dead</a><a href="bad.html#nowhere">dead</a>
</article><script>console.error("oops"); throw new Error("thrown")</script></html>"""


def test_the_checks_find_what_is_wrong_with_a_bad_page(browser, address):
    bad = HTML / "bad.html"
    bad.write_text(BAD)
    try:
        page, wrong = visit(browser, f"{address}/bad.html", width=360)
        kinds = {entry.split(":")[0] for entry in wrong}
        assert {"console", "error", "foreign", "404", "failed"} <= kinds
        assert sideways(page) > 0
        assert len(badly_described(page)) == 1
        assert raw_mathematics(page) == 1
        assert any(v.startswith("color-contrast") for v in violations(page))
        assert len(dead_links(page, address)) == 2
        page.context.close()
    finally:
        bad.unlink()
