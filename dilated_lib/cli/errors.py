"""Errors as one sentence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_sentence"]


@contextmanager
def one_sentence() -> Iterator[None]:
    """Exit code 2, and what was wrong, without a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
