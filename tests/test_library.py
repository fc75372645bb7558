"""The library as a whole: lazy, typed, and documented."""

import ast
import doctest
import inspect
import re
import subprocess
import sys
from importlib import import_module, resources
from pathlib import Path

import pytest

import dilated_lib as dl

HOME = Path(dl.__file__).parent
MODULES = [path.relative_to(HOME) for path in HOME.rglob("*.py")]


def loaded_by(*statements):
    """Which heavy packages one fresh interpreter holds after each of the statements."""
    heavy = "*({'torch', 'matplotlib'} & set(sys.modules))"
    code = "".join(f"{one}\nprint({heavy})\n" for one in statements)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_a_name_loads_only_what_it_needs():
    light = (
        "import dilated_lib as dl",
        "import dilated_lib.fields.arithmetic",
        "dl.compose([dl.Window(3)])",
        "dl.coverage([dl.Window(3)])",
        "dl.Explorer()",
    )
    *nothing, drawing = loaded_by(*light, "dl.plot")
    assert nothing == [set()] * len(light)
    assert drawing == {"matplotlib"}
    computing = (
        "import dilated_lib as dl; dl.receptive_field",
        "dl.dilated_conv2d",
        "dl.ContextModule",
        "dl.networks.dilation8_camvid",
        "dl.predict",
    )
    assert loaded_by(*computing) == [{"torch"}] * len(computing)


@pytest.mark.parametrize("module", ["dilated_lib", "dilated_lib.fields.arithmetic"])
def test_it_is_there_at_once(module):
    timed = f"import time; t = time.process_time(); import {module}; " + (
        "print(time.process_time() - t)"
    )
    taken = [
        float(subprocess.check_output([sys.executable, "-c", timed])) for _ in range(3)
    ]
    assert min(taken) < 0.3, f"{module} takes {min(taken):.2f} s to import"


def test_every_name_it_promises_is_there_and_no_other():
    for name in dl.__all__:
        assert getattr(dl, name) is not None
        assert name in dir(dl)
    with pytest.raises(AttributeError, match="No dilated_lib attribute dilated"):
        dl.dilated  # noqa: B018


def test_no_module_has_the_name_of_a_public_function():
    modules = {path.parts[0].removesuffix(".py") for path in MODULES}
    assert not {name for name in dl.__all__ if callable(getattr(dl, name))} & modules


def test_it_says_that_it_is_typed():
    assert resources.files("dilated_lib").joinpath("py.typed").is_file()


def test_the_arithmetic_needs_nothing_but_python():
    files = ("fields/arithmetic.py", "fields/windows.py", "values.py")
    source = "\n".join((HOME / file).read_text() for file in files)
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "dilated_lib").split(".")[0])
    assert packages
    assert packages <= sys.stdlib_module_names | {"dilated_lib"}


def documented(page):
    """The functions that the reference documents, with their full names."""
    names = re.findall(r"^\.\. autofunction:: (\S+)$", page, re.MULTILINE)
    for module, members in re.findall(
        r"^\.\. automodule:: (\S+)\n +:members:(.*)$", page, re.MULTILINE
    ):
        every = members.replace(",", " ").split() or import_module(module).__all__
        names += [f"{module}.{one}" for one in every]
    for name in names:
        module, _, one = name.rpartition(".")
        thing = getattr(import_module(module), one)
        if is_function(thing):
            yield name, thing


def is_function(thing):
    return inspect.isroutine(inspect.unwrap(thing))  # a cached one is an object


def without_example(things):
    """The names of those whose docstring has no example that doctest runs."""
    parser = doctest.DocTestParser()
    for name, thing in things:
        examples = parser.get_examples(thing.__doc__ or "")
        if all(doctest.SKIP in one.options for one in examples):
            yield name


def test_every_public_function_and_class_shows_an_example():
    page = (HOME.parent / "book" / "api.md").read_text()
    things = dict(documented(page))
    assert {
        "dilated_lib.networks.weights.fits",
        "dilated_lib.plot.bars",
    } < things.keys()
    assert "dilated_lib.networks.architecture.street_network" in things
    public = [(name, getattr(dl, name)) for name in dl.__all__]
    things |= {n: one for n, one in public if is_function(one) or inspect.isclass(one)}
    lacking = [*without_example(things.items())]
    assert not lacking, f"these show no example that is run: {', '.join(lacking)}"


def test_a_function_without_an_example_is_named():
    def bare():
        """Nothing is shown."""

    def skipped():
        """A call is shown, but not run.

        >>> 1 + 1  # doctest: +SKIP
        2
        """

    def shown():
        """A call is shown and run.

        >>> 1 + 1
        2
        """

    things = [(one.__name__, one) for one in (bare, skipped, shown)]
    assert [*without_example(things)] == ["bare", "skipped"]


def test_the_reference_names_what_it_documents():
    page = """
.. automodule:: dilated_lib.training.loss
   :no-members:

.. autofunction:: dilated_lib.records.results

.. automodule:: dilated_lib.data.voc
   :members:

.. automodule:: dilated_lib.networks.weights
   :members: fits, Loaded
"""
    found = [name.removeprefix("dilated_lib.") for name, _ in documented(page)]
    assert found == [
        *("records.results", "data.voc.voc2012", "data.voc.voc_animals"),
        "networks.weights.fits",
    ]
