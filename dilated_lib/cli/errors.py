"""Errors as one sentence."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch

__all__ = ["one_sentence"]

_LOG = logging.getLogger(__name__)  # --debug shows what it is told


@contextmanager
def one_sentence(*, goes_on: bool = False) -> Iterator[None]:
    """End the program with one sentence where a traceback would stand otherwise.

    The exit code is 2 for what does not fit and for too little memory, and 130 for
    Ctrl-C. ``goes_on`` tells that the command, typed again, goes on where it was.
    """
    again = "goes on where it stopped" if goes_on else "begins anew"
    try:
        yield
    except KeyboardInterrupt:
        _end(130, f"Interrupted; the same command {again}.")
    except (OSError, ValueError) as error:
        _end(2, str(error))
    except (MemoryError, RuntimeError) as error:
        words = str(error) or "the machine has no more"
        if not (
            isinstance(error, MemoryError | torch.OutOfMemoryError)
            or "can't allocate memory" in words
        ):
            raise
        if wanted := re.search(r"tried to allocate (\d+) bytes", words):
            words = f"{int(wanted[1]) / 1e9:.1f} GB more are needed at once"
        _end(2, f"there is not enough memory: {words.splitlines()[0]}")


def _end(code: int, sentence: str) -> NoReturn:
    _LOG.debug("What happened:", exc_info=True)
    # a file's own words may break the line, or tell the terminal what to do
    plain = (
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in sentence
    )
    print("".join(plain), file=sys.stderr)
    raise SystemExit(code) from None
