"""Scores as a table: the IoU of each class, their mean, and the accuracy."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["rows"]


def rows(*splits: Mapping[str, Any]) -> Iterator[str]:
    """Write scores as the rows of a table, with a column for each split.

    Scores are those of :class:`~dilated_lib.prediction.metric.Scores`, as a dictionary.
    A class that is neither in the labels nor in the predictions has a dash.

    >>> classes = {"sky": 40.0, "car": None}
    >>> scores = {"miou": 40.0, "accuracy": 62.5, "per_class": classes}
    >>> print(*rows(scores), sep="\\n")
    sky              40.0
    car                 -
    mean IoU         40.0
    accuracy         62.5
    """
    for name in splits[0]["per_class"]:
        yield _row(name, [scores["per_class"][name] for scores in splits])
    yield _row("mean IoU", [scores["miou"] for scores in splits])
    yield _row("accuracy", [scores["accuracy"] for scores in splits])


def _row(name: str, values: list[float | None]) -> str:
    columns = ("-" if value is None else f"{value:.1f}" for value in values)
    return f"{name:14}" + "".join(f" {column:>6}" for column in columns)
