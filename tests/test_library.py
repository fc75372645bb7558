"""The library as a whole: lazy, typed, and with arrows that point one way."""

import ast
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import dilated_lib as dl

HOME = Path(dl.__file__).parent
# what each module may import from the library
ARROWS = {
    "__init__": {"arithmetic", "convolution", "plot"},
    "arithmetic": set(),
    "convolution": {"arithmetic"},
    "plot": {"arithmetic"},
}


def loaded_by(statement):
    """Which of the heavy packages a fresh interpreter loads for a statement."""
    heavy = "{'torch', 'matplotlib'}"
    code = f"{statement}\nimport sys\nprint(*({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import dilated_lib", set()),
        ("import dilated_lib.arithmetic", set()),
        ("import dilated_lib as dl; dl.compose([dl.Window(3)])", set()),
        ("import dilated_lib as dl; dl.dilate", {"torch"}),
        ("import dilated_lib as dl; dl.plot", {"matplotlib"}),
    ],
)
def test_a_name_loads_only_what_it_needs(statement, heavy):
    assert loaded_by(statement) == heavy


def test_every_name_it_promises_is_there_and_no_other():
    for name in dl.__all__:
        assert getattr(dl, name) is not None
        assert name in dir(dl)
    with pytest.raises(
        AttributeError, match="'dilated_lib' has no attribute 'dilated'"
    ):
        dl.dilated  # noqa: B018


def test_no_module_has_the_name_of_a_public_function():
    modules = {path.stem for path in HOME.glob("*.py")}
    assert not {name for name in dl.__all__ if callable(getattr(dl, name))} & modules


def test_it_says_that_it_is_typed():
    assert resources.files("dilated_lib").joinpath("py.typed").is_file()


def test_arrows_between_modules_point_one_way():
    arrows = {}
    for path in HOME.glob("*.py"):
        imports = {
            node.module.removeprefix("dilated_lib").lstrip(".")
            or {alias.name for alias in node.names}.pop()
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            and node.module.startswith("dilated_lib")
        }
        arrows[path.stem] = imports
    assert arrows == ARROWS


def test_a_module_is_read_in_one_sitting():
    for path in HOME.glob("*.py"):
        assert path.read_text().count("\n") <= 300, path.name
