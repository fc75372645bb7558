"""Paths through a stack of layers: what is reached, how often, and what is missed.

A path is one choice of a tap in every layer. It leads from an input position to an
output unit. The receptive field is the hull of the positions that paths reach; this
module counts what lies inside it. The counts are along one axis: over a picture, the
paths of a stack are the products of those along its axes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilated_lib.fields.arithmetic import compose
from dilated_lib.fields.windows import Window
from dilated_lib.values import whole, wholes

__all__ = ["ancestors", "coverage", "deviation", "hdc_distances"]


def coverage(windows: Iterable[Window], *, unit: int = 0) -> NDArray[Any]:
    """Count the paths from each position of the receptive field to ``unit``.

    The result has shape (size of the unit's receptive field,). A 0 in it is a hole: a
    position inside the field that no path reads (gridding). ``unit`` matters only above
    transposed layers. Positions in the padding count like any other.

    The counts are exact. They are 64-bit integers as long as these can hold them, and
    Python's own from about forty layers of three taps on; ``counts / counts.sum()``
    gives the probability of each position in either case.

    Raises ValueError for a unit that sees no input, and as
    :func:`~dilated_lib.fields.arithmetic.compose` for what is not a list of Windows.

    >>> coverage([Window(3), Window(3, dilation=2)])
    array([1, 1, 2, 1, 2, 1, 1])
    >>> coverage([Window(3, dilation=2)] * 2)
    array([1, 0, 2, 0, 3, 0, 2, 0, 1])
    """
    layers, unit = tuple(windows), whole("unit", unit)
    field = compose(layers)
    start, end = field.start(unit), field.end(unit)
    paths = Counter({unit: 1})
    for layer in reversed(layers):
        below: Counter[int] = Counter()
        for upper, count in paths.items():
            for position in layer.inputs(upper):
                below[position] += count
        paths = below
    fits = max(paths.values()) < 2**63
    counts = [paths[position] for position in range(start, end + 1)]
    return np.array(counts, np.int64 if fits else object)


def ancestors(windows: Iterable[Window], unit: int = 0) -> list[set[int]]:
    """List the units of each map that ``unit`` of the last layer depends on.

    The input's positions come first, ``unit`` itself last. Positions in the padding
    count like any other; units that read nothing do not count.

    >>> ancestors([Window(3), Window(3, dilation=2)])
    [{0, 1, 2, 3, 4, 5, 6}, {0, 2, 4}, {0}]
    """
    layers = tuple(windows)
    fields = [compose(layers[:depth]) for depth in range(len(layers))]
    reached = [{whole("unit", unit)}]
    for layer, field in zip(reversed(layers), reversed(fields), strict=True):
        below = {lower for upper in reached[0] for lower in layer.inputs(upper)}
        reached.insert(0, {lower for lower in below if field.reaches(lower)})
    return reached


def deviation(windows: Iterable[Window]) -> float:
    """Compute how far a random path ends from the middle: a standard deviation.

    It is in input positions, and is the width of the effective receptive field of a
    linear stack with equal weights. A path chooses a tap in each layer independently,
    so the variances add up: Σ (j d)² (k² − 1) / 12, with j the product of the strides
    below a layer, d its dilation and k its taps.

    Raises ValueError for transposed layers, whose units differ by phase.

    Source: Luo et al., "Understanding the Effective Receptive Field in Deep
    Convolutional Neural Networks", NeurIPS 2016; strides and dilation are added here.

    >>> deviation([Window(3)] * 6)
    2.0
    """
    layers = tuple(windows)
    compose(layers)  # refuses what is not a layer
    jump, variance = 1, Fraction(0)
    for depth, layer in enumerate(layers, 1):
        if layer.transposed:
            raise ValueError(
                f"layer {depth} is transposed: its units differ by phase, and so do "
                "their deviations; coverage gives the paths of one unit"
            )
        variance += Fraction((jump * layer.dilation) ** 2 * (layer.kernel_size**2 - 1))
        jump *= layer.stride
    return sqrt(variance / 12)


def hdc_distances(dilations: Sequence[int]) -> tuple[int, ...]:
    """Compute the distances M_1 … M_n of hybrid dilated convolution, in positions.

    M_i bounds the distance between neighbours among the positions that layers i … n
    read. With r_i for the dilations, M_n = r_n, and going down
    M_i = max(M_{i+1} − 2 r_i, 2 r_i − M_{i+1}, r_i). The design asks for M_2 ≤ K, where
    K is the number of taps. That is not sufficient for a field without holes, which
    also takes r_1 = 1 and K ≥ 3; nor is it necessary.

    Raises ValueError for an empty list or a dilation below 1, and TypeError for one
    that is not a whole number.

    Source: Wang et al., "Understanding Convolution for Semantic Segmentation", WACV
    2018, eq. 2.

    >>> hdc_distances((1, 2, 5)), hdc_distances((1, 2, 9))
    ((1, 2, 5), (3, 5, 9))
    """
    rates = wholes("dilations", dilations, 1, what="one number for each layer")
    distances = [rates[-1]]
    for rate in reversed(rates[:-1]):
        distances.insert(0, max(distances[0] - 2 * rate, 2 * rate - distances[0], rate))
    return tuple(distances)
