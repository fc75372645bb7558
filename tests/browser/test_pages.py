"""Every built page in a real browser: wide and light, narrow and dark."""

import gzip
import re
import subprocess
import sys

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from pages import CONFIG, HTML, MACHINE, ROOT, visit

MAX_BYTES = 3_000_000  # of a page, as GitHub sends it: ten seconds on a slow phone
PAGES = sorted(
    str(path.relative_to(HTML))
    for folder in (".", "book", "notebooks")
    for path in (HTML / folder).glob("*.html")
)
PAGES.append(
    "_modules/dilated_lib/dilation/five_ways.html"
)  # one of the source's pages
# axe sees these in the dark, and all others in the light; the other way round it sees
# them weekly. Between them they show every kind of thing: words and pictures,
# mathematics and exercises, tables, an explorer, and the reference
DARK = {
    *("book/index.html", "notebooks/00_explorer.html", "notebooks/13_results.html"),
    *("notebooks/02_receptive_field_arithmetic.html", "book/api.html", "404.html"),
}


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
    """What axe-core finds, by all its rules. It changes the page.

    Of tokens of code that look alike, it is shown the first: there are thousands.
    """
    page.evaluate(
        """() => {
          const seen = new Set();
          for (const token of document.querySelectorAll("pre span, .sig span")) {
            const around = [token.parentElement, token.closest("div, dl")];
            const key = [token, ...around].map((one) => one.className).join();
            if (seen.has(key)) token.replaceWith(...token.childNodes);
            seen.add(key);
          }
        }"""
    )
    told = Axe().run(page, options={"resultTypes": ["violations"]})
    found = told.response["violations"]
    return [f"{v['id']}: {node['html'][:120]}" for v in found for node in v["nodes"]]


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


def sent(page, address):
    """The bytes of every file that the page loaded, as GitHub sends them."""
    loaded = "performance.getEntriesByType('resource').map(one => one.name)"
    sizes = {}
    for url in {page.url, *page.evaluate(loaded)}:
        path = url.split("?")[0].split("#")[0]
        if path.startswith(address):
            file = HTML / path[len(address) + 1 :]
            packed = file.suffix in {".png", ".webp", ".jpg", ".woff2"}
            body = file.read_bytes()
            sizes[file] = len(body if packed else gzip.compress(body))
    return sizes


def test_every_page_of_the_book_is_built():
    assert len(PAGES) >= 11


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_page(turn_to, address, name, width, scheme):
    page, wrong = turn_to(name, width, scheme)
    assert wrong == []
    assert sideways(page) == 0
    assert badly_described(page) == []
    assert raw_mathematics(page) == 0
    assert dead_links(page, address) == []
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    if name.startswith("notebooks/"):
        assert page.locator("mjx-container").count() > 0
        hrefs = page.eval_on_selector_all("a[href]", "as => as.map(a => a.href)")
        assert any("colab.research.google.com" in href for href in hrefs)
    sizes = sent(page, address)
    assert len(sizes) > 5
    assert sum(sizes.values()) < MAX_BYTES, sorted(sizes, key=sizes.get)[-5:]
    if (scheme == "dark") == (name in DARK):
        assert violations(page) == []


@pytest.mark.weekly
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_in_the_other_scheme(turn_to, name):
    page, _ = turn_to(name, *((1280, "light") if name in DARK else (360, "dark")))
    assert violations(page) == []


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


def test_a_reader_finds_the_neighbours_and_the_source():
    edit = f"{CONFIG['repository']['url']}/edit/{CONFIG['repository']['branch']}/"
    inner = [p for p in PAGES if p.startswith(("book/", "notebooks/"))]
    for name in inner:
        page = BeautifulSoup((HTML / name).read_text(), "html.parser")
        links = [link["href"] for link in page.select("a[href]")]
        (source,) = {link.removeprefix(edit) for link in links if edit in link}
        assert (ROOT / source).with_suffix("") == (ROOT / name).with_suffix("")
        assert (ROOT / source).is_file()
        ends = {"book/index.html": 1, "book/bibliography.html": 1}
        assert len(page.select(".prev-next-area a")) == ends.get(name, 2), name


def test_paper_is_white_and_has_the_text_alone(browser, address):
    url = f"{address}/notebooks/02_receptive_field_arithmetic.html"
    page, _ = visit(browser, url, scheme="dark")
    page.emulate_media(media="print")
    seen = "getComputedStyle(document.querySelector('.bd-article p')).color"
    pale = page.evaluate(seen)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for aside in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".prev-next-footer"):
        assert page.locator(aside).count() == 1
        assert not page.locator(aside).is_visible()
    assert page.locator(".bd-article").is_visible()
    printed = page.evaluate(seen)
    assert max(map(int, re.findall(r"\d+", printed))) < 100 < int(pale[4:7])
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.context.close()


def test_from_the_welcome_page_to_a_script_that_runs(browser, address, tmp_path):
    page, _ = visit(
        browser,
        f"{address}/book/index.html",
        permissions=["clipboard-read", "clipboard-write"],
    )
    page.locator(".bd-article").get_by_role("link", name="Dilated convolution").click()
    page.get_by_role("link", name="Reuse this").first.click()
    box = page.locator("#reuse-this .cell_input").first
    box.hover()
    box.locator("button.copybtn").click()
    page.wait_for_selector("button.copybtn.success")
    script = tmp_path / "mine.py"
    script.write_text(page.evaluate("navigator.clipboard.readText()"))
    assert script.read_text().count("\n") > 2
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
    page.context.close()


def tell_tales(text):
    """Paths of a machine and tokens in a page's text."""
    tokens = r"gh[pousr]_\w{20}|github_pat_\w{20}|AKIA\w{16}|hf_\w{20}"
    return set(re.findall(f"{MACHINE}|{tokens}", text))


def test_no_page_names_the_machine_that_made_it():
    found = {}
    for path in HTML.rglob("*"):
        if path.suffix not in {".html", ".txt", ".xml", ".ipynb", ".py", ".json"}:
            continue
        if names := tell_tales(path.read_text()):
            found[str(path.relative_to(HTML))] = names
    assert found == {}


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
<p>/home/reader/book ghp_0123456789abcdefghij</p>
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
        assert len(tell_tales(BAD)) == 2
        page.context.close()
    finally:
        bad.unlink()
