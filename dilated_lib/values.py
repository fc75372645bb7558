"""The one door for values that callers give: numbers, lists of them, choices.

Every room checks its arguments here, so that numpy's numbers, ranges and booleans are
treated alike wherever they arrive. A whole number is anything that Python accepts as an
index: its own, one of numpy's, an array or tensor without axes. Truth values are not
numbers here, although ``True == 1``, and neither is 3.0 a whole one.

The functions return Python's own numbers, because a small integer of numpy overflows in
the arithmetic that follows. They raise TypeError for a value of the wrong kind and
ValueError for one out of range; the message names the argument, says what would be
right, and repeats what came instead.
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

__all__ = ["one_of", "pair", "positive", "whole", "wholes"]


def whole(name: str, value: Any, least: int | None = None) -> int:
    """Return a whole number that is at least ``least``.

    >>> whole("stride", 2, 1)
    2
    """
    try:
        if not _is_number(value):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def wholes(
    name: str,
    values: Any,
    least: int | None = None,
    *,
    what: str,
    count: int | None = None,
) -> tuple[int, ...]:
    """Return the whole numbers of a list, a tuple, a range or an array.

    Args:
        name: The argument's name, for the message.
        values: What was given for it.
        least: The least that each number may be.
        what: What the list has to hold, for the message.
        count: How many numbers that is; by default any number but 0.

    >>> wholes("dilations", range(1, 4), 1, what="one number for each layer")
    (1, 2, 3)
    """
    listed = _listed(values)
    if not listed or count not in (None, len(listed)):
        raise ValueError(f"{name} must list {what}, got {values!r}")
    return tuple(whole(f"{name}[{i}]", one, least) for i, one in enumerate(listed))


def pair(
    name: str, value: Any, least: int | None = None, *, sides: str
) -> tuple[int, int]:
    """Return a pair of whole numbers, from two of them or from one for both ``sides``.

    >>> pair("padding", 2, 0, sides="before, after")
    (2, 2)
    """
    listed = _listed(value)
    if listed is None:
        return (whole(name, value, least),) * 2
    if len(listed) != 2:
        raise ValueError(
            f"{name} must be one number or a pair ({sides}), got {value!r}"
        )
    return whole(name, listed[0], least), whole(name, listed[1], least)


def positive(name: str, value: Any) -> float:
    """Return a scale: a finite number above 0.

    >>> positive("scale", 2)
    2.0
    """
    wanted = f"{name} must be a number above 0, got {value!r}"
    try:
        if not _is_number(value):
            raise TypeError
        finite = math.isfinite(value)
    except TypeError:
        raise TypeError(wanted) from None
    if not finite or value <= 0:
        raise ValueError(wanted)
    return float(value)


def one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of the words that ``name`` may have.

    >>> one_of("padding", "same", ("each", "once"))
    Traceback (most recent call last):
    ValueError: padding must be one of each, once; got 'same'
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def _is_number(value: Any) -> bool:
    """Tell a number from a truth value, and from an array that has axes.

    Python would take both: ``float(numpy.True_)`` is 1.0, and the index of a tensor
    that lists one number is that number.
    """
    truth = type(value) is bool or str(getattr(value, "dtype", None)).endswith("bool")
    return not truth and not getattr(value, "ndim", None)


def _listed(values: Any) -> tuple[Any, ...] | None:
    """Return what a list holds, in order; None for what is not a list."""
    if not isinstance(values, Iterable) or isinstance(values, str | Set | Mapping):
        return None
    try:
        return tuple(values)
    except TypeError:  # an array without axes
        return None
