import os

from hypothesis import settings

# the same examples in every run; `make mutants` takes fewer
settings.register_profile("book", max_examples=150, deadline=None, derandomize=True)
settings.register_profile("fast", max_examples=30, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "book"))


def pytest_collection_modifyitems(items):
    """The longest files first: no test is left for one process alone at the end.

    Each stays in one process, so that what it sets up is set up once.
    """
    longest = ("test_torchvision.py", "test_wheel.py", "test_training.py")
    items.sort(key=lambda item: item.path.name not in longest)
