"""Which operations compute each unit of a map from that unit alone."""

from collections.abc import Mapping
from fractions import Fraction
from math import inf
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from dilated_lib.fields.tracing import rules
from dilated_lib.fields.tracing.export import TracingError, operation, shapes_of
from dilated_lib.fields.tracing.reach import Axis, Hull, Hulls

__all__ = ["is_pointwise", "running"]


def is_pointwise(node: fx.Node, maps: Mapping[fx.Node, Any]) -> bool:
    """Tell whether a node computes each unit from those at its own position, all alike.

    The operation is followed from maps whose units run as those of ``maps`` do, and
    have each seen their own position and nothing else. It is pointwise if the same
    holds of its result. Units are not alike where a constant has a value for each
    position, as a position encoding does.
    """
    below = [one for one in node.all_input_nodes if one in maps]
    given = {one: pytree.tree_map(_fresh, maps[one]) for one in below}
    try:
        after = rules.apply(node, given, Hulls())
    except TracingError:
        return False
    if not _runs([*given.values()]).issuperset(_runs(after)):
        return False
    joins = torch.Tag.pointwise in getattr(node.target, "tags", ())
    if not joins and operation(node) not in ("cat", "concatenate", "stack"):
        return True
    rank, constants = len(shapes_of(node)[0]), {*node.all_input_nodes} - {*below}
    back = [rank - axis.dim for axis in running(after) if axis.dim is not None]
    shapes = [shape for one in constants for shape in shapes_of(one)]
    return all(len(shape) < n or shape[-n] == 1 for shape in shapes for n in back)


def running(value: Any) -> list[Axis]:
    """List the axes of a map, or of several, along which units run."""
    axes = (axis for one in rules.maps_in(value) for axis in one.axes)
    return [axis for axis in axes if axis.runs]


def _fresh(one: Hull) -> Hull:
    """Return a map as if it were an input."""
    zero = torch.zeros(3, *[1] * len(one.shape)).double()
    axes = [
        Axis(zero if axis.runs else zero - inf, Fraction(1), dim=axis.dim)
        for axis in one.axes
    ]
    return Hull(tuple(axes), one.shape)


def _runs(value: Any) -> set[Any]:
    """Describe the axes of maps: how units run, and whether any saw beyond its own."""
    return {
        (n, axis.dim and one.shape[axis.dim], axis.rate, axis.period, beyond)
        for one in rules.maps_in(value)
        for n, axis in enumerate(one.axes)
        for beyond in [bool((axis.data > 0).any())]
    }
