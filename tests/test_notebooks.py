"""The form of a notebook: each rule, kept by every chapter and shown to bite."""

import ast
import copy
import json
import re
from collections import Counter

import pytest
import yaml
from pages import CONFIG, MACHINE, ROOT

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = {path.name: json.loads(path.read_text()) for path in PATHS}
# pages of the reference that run as well, but are no chapters
PAGES = sorted((ROOT / "book").glob("*.ipynb"))
EVERY = NOTEBOOKS | {path.name: json.loads(path.read_text()) for path in PAGES}
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
MAX_BYTES = 3_000_000  # of a notebook's outputs: ten seconds on a slow phone


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def tree(cell):
    """Syntax tree of a cell; IPython's % and ! lines stand for nothing."""
    try:
        return ast.parse(source(cell))  # a line may well begin with the operator %
    except SyntaxError:
        return ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source(cell)))


def shows_something(cell):
    """Does running the cell leave an output: a print, or a value at its end?"""
    body = tree(cell).body
    if not body:
        return False
    prints = any(
        isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        for statement in body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
        for node in ast.walk(statement)
    )
    return prints or isinstance(body[-1], ast.Expr)


def not_run_in_order(notebook):
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"code cells must have run once, in order; they ran as {counts}"


def without_its_output(notebook):
    for cell in code_cells(notebook):
        if shows_something(cell) and not cell["outputs"]:
            yield f"{cell['id']} shows something, but its output is not stored"


def with_an_error(notebook):
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield f"{cell['id']} ended in {output['ename']}"
            if output.get("name") == "stderr":
                yield f"{cell['id']} wrote to stderr: {''.join(output['text'])[:80]!r}"


def figure_without_alt_text(notebook):
    for cell in code_cells(notebook):
        pictured = any(
            kind.startswith("image/")
            for output in cell["outputs"]
            for kind in output.get("data", {})
        )
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        if pictured and (len(alt.split()) < 8 or not alt.endswith(".")):
            yield f"{cell['id']}: a figure needs a sentence of alt text, got {alt!r}"
        if alt and cell["outputs"] and not pictured:
            yield f"{cell['id']} has alt text, but its figure is not stored"


def too_heavy(notebook):
    size = sum(len(json.dumps(cell["outputs"])) for cell in code_cells(notebook))
    if size > MAX_BYTES:
        yield f"outputs take {size} bytes; {MAX_BYTES} are the most"


def names_this_machine(notebook):
    for cell in code_cells(notebook):
        text = json.dumps(cell["outputs"])
        for found in re.findall(MACHINE, text):
            yield f"{cell['id']}: an output names the machine that ran it: {found}"


def formula_taken_for_an_option(notebook):
    """MathJax reads a bracket right behind \\begin{…} as an option, and drops it."""
    for cell in notebook["cells"]:
        for found in re.findall(r"\\begin\{\w+\}\s*\[.*", source(cell)):
            yield f"{cell['id']}: write {{}} before the bracket of {found}"


def with_a_foreign_kernel(notebook):
    name = notebook["metadata"].get("kernelspec", {}).get("name")
    if name != "python3":
        yield f"the kernel must be python3, got {name!r}"


RULES = (
    not_run_in_order,
    without_its_output,
    with_an_error,
    figure_without_alt_text,
    too_heavy,
    names_this_machine,
    formula_taken_for_an_option,
    with_a_foreign_kernel,
)


def definitions(notebook):
    """Names of the functions and classes that a notebook defines, without methods."""
    return [
        node.name
        for cell in code_cells(notebook)
        for node in tree(cell).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]


def defined_twice(notebooks):
    counts = Counter(n for nb in notebooks.values() for n in set(definitions(nb)))
    return sorted(name for name, count in counts.items() if count > 1)


def setup_cells(notebooks):
    return {source(code_cells(notebook)[0]) for notebook in notebooks.values()}


def pages(toc):
    """Files that the table of contents names."""
    return [toc["root"], *(c["file"] for p in toc["parts"] for c in p["chapters"])]


def not_in_toc(toc, root):
    patterns = ("notebooks/*.ipynb", "book/*.ipynb", "book/*.md")
    there = [path for pattern in patterns for path in root.glob(pattern)]
    names = {str(path.relative_to(root).with_suffix("")) for path in there}
    return sorted(names ^ set(pages(toc)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", EVERY)
def test_no_notebook_is(name, rule):
    assert list(rule(EVERY[name])) == []


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


def test_no_function_or_class_is_defined_in_two_notebooks():
    assert defined_twice(EVERY) == []


def test_every_notebook_begins_with_the_same_setup_cell():
    (setup,) = setup_cells(NOTEBOOKS)
    assert f'"git+{CONFIG["repository"]["url"]}@v' in setup
    for notebook in NOTEBOOKS.values():
        tags = code_cells(notebook)[0]["metadata"]["tags"]
        assert tags == ["remove-cell"]  # it is for Colab; a reader has no use for it


def test_the_contents_have_each_chapters_number_and_title():
    listed = {c["file"]: c.get("title") for p in TOC["parts"] for c in p["chapters"]}
    for name, notebook in NOTEBOOKS.items():
        heading = source(notebook["cells"][0]).splitlines()[0].removeprefix("# ")
        assert listed[f"notebooks/{name[:-6]}"] == f"{name[:2]} {heading}"


def test_how_to_read_has_the_minutes_that_each_chapter_says():
    page = (ROOT / "book" / "how_to_read.md").read_text()
    listed = re.findall(r"^\| (\d\d) .*? \| (\d+) \|", page, re.MULTILINE)
    said = [
        (name[:2], re.search(r"\*(\d+) minutes", source(one["cells"][0]))[1])
        for name, one in NOTEBOOKS.items()
    ]
    assert listed == said


HIDDEN = {"hide-input", "remove-cell"}


def minutes(notebook):
    """How long a chapter takes by the rule of how_to_read.md, solutions left out."""
    words = lines = exercises = 0
    folded = False
    for cell in notebook["cells"]:
        text = source(cell)
        folded |= "{solution-start}" in text
        exercises += text.count("```{exercise}")
        if not folded and cell["cell_type"] == "markdown":
            prose = re.sub(r"\$\$.+?\$\$|\$.+?\$|\]\(.+?\)", " ", text, flags=re.DOTALL)
            words += len(prose.split("References**")[0].split())
        elif not folded and not {*cell["metadata"].get("tags", ())} & HIDDEN:
            lines += sum(1 for line in text.splitlines() if line.strip())
        folded &= "{solution-end}" not in text
    return words / 200 + lines / 20 + 5 * exercises


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_chapter_takes_the_minutes_that_it_says(name):
    notebook = NOTEBOOKS[name]
    said = int(re.search(r"\*(\d+) minutes", source(notebook["cells"][0]))[1])
    assert said % 5 == 0 and abs(said - minutes(notebook)) < 5


def reusable(notebook):
    """The cells of the box "Reuse this", and the text before each of them."""
    cells = notebook["cells"]
    return [
        (source(cells[i - 1]), source(cell))
        for i, cell in enumerate(cells)
        if "reuse" in cell["metadata"].get("tags", [])
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_lines_to_reuse_run_in_an_empty_script(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ((text, code),) = reusable(NOTEBOOKS[name])
    assert text.startswith("## Reuse this\n")
    assert "[MIT licence](" in text
    exec(compile(code, name, "exec"), {"__name__": "__main__"})
    assert not [*tmp_path.iterdir()], "the lines leave files behind"


def test_the_table_of_contents_names_every_page_and_no_other():
    assert not_in_toc(TOC, ROOT) == []


def test_the_status_page_has_a_row_for_every_chapter():
    page = (ROOT / "book" / "status.md").read_text()
    rows = re.findall(r"\(\.\./notebooks/(\S+)\)", page)
    assert rows == list(NOTEBOOKS), "`make notebooks` writes the page"


def test_exercises_have_a_checker_and_a_folded_solution():
    for name, notebook in NOTEBOOKS.items():
        text = "\n".join(source(cell) for cell in notebook["cells"])
        asked = re.findall(r"```\{exercise\}[^\n]*\n:label: (\S+)", text)
        solved = re.findall(r"\{solution-start\} (\S+)\n:class: dropdown", text)
        assert len(asked) >= 2, name
        assert asked == solved, name
        assert len(re.findall(r"(?m)^def check_\w+", text)) == len(asked), name


# Each rule bites: a notebook that keeps all of them, spoilt in one place.


@pytest.fixture
def good():
    figure = {
        "output_type": "execute_result",
        "data": {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"},
    }
    alt = "A row of seven squares, of which three are orange."
    return {
        "metadata": {"kernelspec": {"name": "python3"}},
        "cells": [
            {"cell_type": "markdown", "source": "# Title", "id": "a"},
            {
                "cell_type": "code",
                "source": "import math\n\nprint(math.pi)",
                "id": "b",
                "execution_count": 1,
                "metadata": {},
                "outputs": [{"output_type": "stream", "name": "stdout", "text": "3"}],
            },
            {
                "cell_type": "code",
                "source": "%pip list\nfigure = 1\nfigure",
                "id": "c",
                "execution_count": 2,
                "metadata": {"mystnb": {"image": {"alt": alt}}},
                "outputs": [figure],
            },
        ],
    }


def test_a_good_notebook_has_no_complaint(good):
    assert [complaint for rule in RULES for complaint in rule(good)] == []


def out_of_order(nb):
    nb["cells"][1]["execution_count"] = 2
    nb["cells"][2]["execution_count"] = 1


def never_run(nb):
    nb["cells"][2]["execution_count"] = None


def stripped_print(nb):
    nb["cells"][1]["outputs"] = []


def stripped_value(nb):
    nb["cells"][2]["outputs"] = []


def error_kept(nb):
    nb["cells"][1]["outputs"].append({"output_type": "error", "ename": "KeyError"})


def warning_kept(nb):
    nb["cells"][1]["outputs"].append(
        {"output_type": "stream", "name": "stderr", "text": "UserWarning"}
    )


def no_alt(nb):
    nb["cells"][2]["metadata"] = {}


def file_name_as_alt(nb):
    nb["cells"][2]["metadata"]["mystnb"]["image"]["alt"] = "figure-1.png"


def large_output(nb):
    nb["cells"][1]["outputs"][0]["text"] = "1" * (MAX_BYTES + 1)


def lost_figure(nb):
    del nb["cells"][2]["outputs"][0]["data"]["image/png"]


def checkout_in_output(nb):
    nb["cells"][1]["outputs"][0]["text"] = f"{ROOT}/dilated_lib/plot.py"


def package_in_output(nb):
    nb["cells"][1]["outputs"][0]["text"] = "lib/site-packages/torch/nn.py"


def path_in_output(nb):
    nb["cells"][1]["outputs"][0]["text"] = "/home/reader/book"


def address_in_output(nb):
    nb["cells"][2]["outputs"][0]["data"]["text/plain"] = "<Thing at 0x7f0a1b2c3d4e>"


def interval_first(nb):
    nb["cells"][0]["source"] = "$$\n\\begin{gathered} [0, 1]\n\\end{gathered}\n$$"


def other_kernel(nb):
    nb["metadata"]["kernelspec"]["name"] = "my-env"


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (out_of_order, not_run_in_order),
        (never_run, not_run_in_order),
        (stripped_print, without_its_output),
        (stripped_value, without_its_output),
        (error_kept, with_an_error),
        (warning_kept, with_an_error),
        (no_alt, figure_without_alt_text),
        (file_name_as_alt, figure_without_alt_text),
        (large_output, too_heavy),
        (lost_figure, figure_without_alt_text),
        (checkout_in_output, names_this_machine),
        (package_in_output, names_this_machine),
        (path_in_output, names_this_machine),
        (address_in_output, names_this_machine),
        (interval_first, formula_taken_for_an_option),
        (other_kernel, with_a_foreign_kernel),
    ],
)
def test_a_spoilt_notebook_is_found(good, spoil, rule):
    spoil(good)
    assert [bad.__name__ for bad in RULES if list(bad(good))] == [rule.__name__]


def test_a_second_definition_is_found(good):
    good["cells"][1]["source"] = "def twice(): pass\nprint(1)"
    assert defined_twice({"one": good}) == []
    assert defined_twice({"one": good, "two": copy.deepcopy(good)}) == ["twice"]


def test_methods_of_the_same_name_are_no_second_definition(good):
    other = copy.deepcopy(good)
    for notebook, name in ((good, "One"), (other, "Two")):
        notebook["cells"][1]["source"] = f"class {name}:\n    def forward(self): pass"
    assert defined_twice({"one": good, "two": other}) == []


def test_a_line_may_begin_with_the_operator_percent(good):
    good["cells"][1]["source"] = "x = (\n    7\n    % 2\n)\nprint(x)"
    assert shows_something(good["cells"][1])


def test_another_setup_cell_is_found(good):
    other = copy.deepcopy(good)
    other["cells"][1]["source"] += " "
    assert len(setup_cells({"one": good, "two": other})) == 2


def test_a_page_outside_the_table_of_contents_is_found(tmp_path):
    for folder, name in (("book", "index.md"), ("notebooks", "new.ipynb")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    toc = {"root": "book/index", "parts": [{"chapters": [{"file": "book/gone"}]}]}
    assert not_in_toc(toc, tmp_path) == ["book/gone", "notebooks/new"]
