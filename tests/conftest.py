import os

from hypothesis import settings

# the same examples in every run; `make mutants` takes fewer
settings.register_profile("book", max_examples=150, deadline=None, derandomize=True)
settings.register_profile("fast", max_examples=30, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "book"))
