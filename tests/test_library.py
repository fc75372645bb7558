"""The library as a whole: lazy, typed, and with arrows that point one way."""

import ast
import doctest
import graphlib
import inspect
import re
import subprocess
import sys
from importlib import import_module, resources
from pathlib import Path

import pytest

import dilated_lib as dl

HOME = Path(dl.__file__).parent
# what each module may import from the library
ARROWS = {
    "architecture": {
        *("context", "networks", "palettes", "records", "vgg", "weights"),
    },
    "arithmetic": {"layers"},
    "caffe": set(),
    "changes": {"architecture", "data", "drives", "networks", "records", "segment"},
    "checkpoints": set(),
    "claims": {"records"},
    "commands": {
        *("architecture", "arithmetic", "changes", "comparisons", "data"),
        *("inference", "metric", "networks", "plans", "recipes", "segment", "sizes"),
        *("throughput", "tracing", "training", "weights"),
    },
    "comparisons": {
        *("architecture", "context", "conv2d", "convolution", "data", "fidelity"),
        *("inference", "networks", "records", "speed"),
    },
    "context": {"arithmetic", "conv2d"},
    "conv2d": set(),
    "convolution": {"arithmetic"},
    "data": {"palettes", "pictures"},
    "dense": set(),
    "differences": set(),
    "drives": {"data", "metric"},
    "experiments": {
        *("architecture", "arithmetic", "context", "data", "heads", "paths", "reach"),
        *("records", "stages", "tracing"),
    },
    "fidelity": {"architecture", "conv2d", "data", "inference", "segment"},
    "explorer": {"arithmetic", "layers", "paths", "tracing"},
    "heads": {"data", "drives", "networks", "reach", "segment"},
    "inference": {"networks"},
    "layers": set(),
    "metric": {"data"},
    "networks": {"context", "palettes", "sizes", "vgg"},
    "palettes": set(),
    "paths": {"arithmetic"},
    "peers": set(),
    "pictures": set(),
    "plans": {
        *("architecture", "inference", "recipes", "records", "speed", "throughput"),
        "training",
    },
    "plot": {"arithmetic", "paths"},
    "reach": {"context", "data"},
    "recipes": set(),
    "records": set(),
    "run": {
        *("architecture", "checkpoints", "data", "metric", "networks", "peers"),
        *("recipes", "records", "segment", "stages", "start"),
    },
    "segment": {"architecture", "networks", "pictures", "sizes"},
    "sizes": {"arithmetic", "conv2d", "layers", "tracing"},
    "speed": {"arithmetic"},
    "stages": {"data", "networks", "peers", "recipes"},
    "start": {
        *("architecture", "data", "networks", "peers", "recipes", "stages", "vgg"),
        "weights",
    },
    "starts": {"architecture", "context", "data", "heads", "reach", "records"},
    "tracing": {"arithmetic", "layers"},
    "throughput": {
        *("data", "palettes", "recipes", "records", "speed", "stages", "start"),
    },
    "training": {"data", "recipes", "records", "run"},
    "traps": {
        *("architecture", "data", "drives", "networks", "pictures", "records"),
        "segment",
    },
    "vgg": {"conv2d", "weights"},
    "weights": {"caffe"},
    "__main__": {"commands", "experiments", "starts", "traps"},
}
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
    with pytest.raises(
        AttributeError, match="'dilated_lib' has no attribute 'dilated'"
    ):
        dl.dilated  # noqa: B018


def test_no_module_has_the_name_of_a_public_function():
    modules = {path.parts[0].removesuffix(".py") for path in MODULES}
    assert not {name for name in dl.__all__ if callable(getattr(dl, name))} & modules


def test_it_says_that_it_is_typed():
    assert resources.files("dilated_lib").joinpath("py.typed").is_file()


def imported_from_here(source):
    """The library's modules that a module's source imports, however it writes it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = f"dilated_lib.{base}".rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == "dilated_lib":
                yield rest[0] if rest else package


def test_the_arithmetic_needs_nothing_but_python():
    files = [HOME / "arithmetic.py", HOME / "layers.py"]
    source = "\n".join(path.read_text() for path in files)
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "dilated_lib").split(".")[0])
    assert packages
    assert packages <= sys.stdlib_module_names | {"dilated_lib"}


@pytest.mark.parametrize(
    "line",
    [
        "import dilated_lib.plot",
        "import dilated_lib.plot as p",
        "from dilated_lib import plot",
        "from dilated_lib.plot import grids",
        "from . import plot",
        "from .plot import grids",
        "def late():\n    from dilated_lib import plot",
    ],
)
def test_no_way_to_write_an_arrow_escapes(line):
    assert [*imported_from_here(f"import os\nfrom math import lcm\n{line}")] == ["plot"]


def test_arrows_between_modules_point_one_way():
    arrows = {}
    for path in MODULES:
        name = path.parts[0].removesuffix(".py")  # a folder's files are one module
        imported = set(imported_from_here((HOME / path).read_text()))
        arrows[name] = arrows.get(name, set()) | imported - {name}
    assert arrows.pop("__init__") == ARROWS.keys() - {"__main__"}
    assert arrows == ARROWS
    assert [*graphlib.TopologicalSorter(ARROWS).static_order()]  # and in no circle


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
    assert "dilated_lib.networks.architecture.small_network" in things
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
        *("records.results", "data.voc.voc2012", "data.voc.voc_layout"),
        "weights.fits",
    ]
