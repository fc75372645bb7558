"""What a notebook asserts of a training, and by what margin it holds.

A trained number changes with the seed and with the instruction set of the CPU, so an
assertion that holds in one run may fail in the next. A notebook therefore hands each
such number to :func:`claim`, with a bound. ``book/margins.py`` runs the same notebooks
with five seeds on every instruction set that the machine can emulate, writes down how
far each number stayed from its bound, and checks that the bound is missed where
nothing was trained. :func:`table` shows what it found.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from typing import Any

from dilated_lib.records import read

__all__ = ["Claim", "claim", "collected", "table"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A number that a training gave, and the bound that it must keep.

    One of ``above`` and ``below`` is None. ``margin`` is how far the number is on the
    right side of its bound: it is negative where the claim fails.

    >>> round(Claim(name="accuracy", value=0.97, above=0.9).margin, 2)
    0.07
    """

    name: str
    value: float
    above: float | None = None
    below: float | None = None

    @property
    def margin(self) -> float:
        """Return the distance to the bound, in the number's own unit."""
        if self.above is not None:
            return self.value - self.above
        assert self.below is not None
        return self.below - self.value


_collecting: ContextVar[list[Claim] | None] = ContextVar("collecting", default=None)


def claim(
    name: str,
    value: float,
    *,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Assert that a trained number is above, or below, its bound.

    Raises AssertionError with the name, the number and the bound where it is not, and
    ValueError unless there is exactly one bound.

    Args:
        name: What the number is, in words.
        value: The number that a training gave.
        above: The bound that it must exceed.
        below: The bound that it must stay under.

    >>> claim("accuracy at the edge", 0.97, above=0.9)
    >>> claim("accuracy at the edge", 0.85, above=0.9)
    Traceback (most recent call last):
    AssertionError: accuracy at the edge is 0.85; it must be above 0.9
    """
    if (above is None) == (below is None):
        raise ValueError(f"{name} must have one bound, got {above=} and {below=}")
    made = Claim(name=name, value=float(value), above=above, below=below)
    collecting = _collecting.get()
    if collecting is not None:
        collecting.append(made)
    elif not made.margin > 0:  # not a number fails, too
        side = f"above {above}" if above is not None else f"below {below}"
        raise AssertionError(f"{name} is {value:.4g}; it must be {side}")


@contextmanager
def collected() -> Iterator[list[Claim]]:
    """Collect the claims that are made inside, also those that fail.

    >>> with collected() as made:
    ...     claim("accuracy", 0.1, above=0.9)
    >>> [one.name for one in made]
    ['accuracy']
    """
    made: list[Claim] = []
    token = _collecting.set(made)
    try:
        yield made
    finally:
        _collecting.reset(token)


def table(chapter: str) -> str:
    """Show the margins of a chapter's claims, one row each, from the book's record.

    ``chapter`` is its number, such as "09". A row has the bound, the range of the
    number over all seeds and settings of the CPU, and its range without any training.

    >>> from unittest.mock import patch
    >>> values = {"AVX2, threads: 1": [0.95, 0.97]}
    >>> row = {"chapter": "09", "claim": "accuracy", "above": 0.9, "below": None}
    >>> row = {"config": row, "metrics": {"values": values, "untrained": [0.14]}}
    >>> from dilated_lib.records import Record
    >>> rest = {"experiment": "made up", "seed": 0, "seconds": 1.0, "device": "CPU"}
    >>> there = [Record(**rest, **row)]
    >>> with patch("dilated_lib.experiments.claims.read", return_value=there):
    ...     print(table("09"))
    claim     bound       trained     untrained
    accuracy  > 0.9  0.95 to 0.97  0.14 to 0.14
    trained: 2 runs, five seeds per setting of the CPU
    """
    rows = [("claim", "bound", "trained", "untrained")]
    runs = 0
    for one in read("margins"):
        if one.config["chapter"] == chapter:
            values = [*chain.from_iterable(one.metrics["values"].values())]
            runs, untrained = len(values), one.metrics["untrained"]
            bound = _bound(one.config)
            rows.append((one.config["claim"], bound, _range(values), _range(untrained)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = zip(others, widths[1:], strict=True)
        right = "".join(f"  {cell:>{width}}" for cell, width in cells)
        lines.append(f"{first:{widths[0]}}{right}")
    below = f"trained: {runs} runs, five seeds per setting of the CPU"
    return "\n".join([*lines, below])


def _bound(config: dict[str, Any]) -> str:
    if config["above"] is not None:
        return f"> {config['above']:g}"
    return f"< {config['below']:g}"


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
