import gc
import os

import pytest
import torch
from hypothesis import Phase, settings

# the same examples in every run; `make mutants` takes fewer, and does not ask which is
# the simplest that fails
settings.register_profile("book", max_examples=150, deadline=None, derandomize=True)
settings.register_profile(
    "fast",
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "book"))


def pytest_addoption(parser):
    parser.addoption(
        "--quick", action="store_true", help="only the first test of each file"
    )


@pytest.hookimpl(tryfirst=True)  # before its fixtures
def pytest_runtest_setup():
    """Draw the same random numbers in each test, whatever ran before it."""
    torch.manual_seed(0)


def pytest_collection_finish():
    """Leave what is imported by now out of the search for garbage, and search rarely.

    torch has so many objects that going through them took a quarter of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)


@pytest.hookimpl(trylast=True)  # what is weekly is gone by then
def pytest_collection_modifyitems(config, items):
    """The longest files first: no test is left for one process alone at the end.

    Each stays in one process, so that what it sets up is set up once.
    """
    longest = ("test_training.py", "test_wheel.py", "test_torchvision_survey.py")
    items.sort(key=lambda item: item.path.name not in longest)
    if config.getoption("quick"):
        first = {}
        for item in items:
            first.setdefault(item.path, item)
        items[:] = first.values()
