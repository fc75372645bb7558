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

from dilated_lib.fields.arithmetic import Window, compose

__all__ = ["ancestors", "coverage", "deviation", "hdc_distances"]


def coverage(windows: Iterable[Window], *, unit: int = 0) -> NDArray[Any]:
    """How many paths lead from each position of the receptive field to ``unit``.

    Shape (size of the unit's receptive field,), exact counts; a 0 is a hole, inside
    the field but read by no path (gridding). ``unit`` matters only above transposed
    layers. Positions in the padding count like any other. The counts are 64-bit
    integers, or Python's own where one is larger, as from about forty layers of three
    taps on: ``counts / counts.sum()`` gives their shares in either case.

    Raises ValueError for a unit that sees no input.

    >>> coverage([Window(3), Window(3, dilation=2)])
    array([1, 1, 2, 1, 2, 1, 1])
    >>> coverage([Window(3, dilation=2)] * 2)
    array([1, 0, 2, 0, 3, 0, 2, 0, 1])
    """
    layers = tuple(windows)
    field = compose(layers)
    start, end = field.start(unit), field.end(unit)
    paths = Counter({unit: 1})
    for layer in reversed(layers):
        below: Counter[int] = Counter()
        for one, count in paths.items():
            for position in layer.inputs(one):
                below[position] += count
        paths = below
    fits = max(paths.values()) <= np.iinfo(np.int64).max
    counts = [paths[position] for position in range(start, end + 1)]
    return np.array(counts, np.int64 if fits else object)


def ancestors(windows: Iterable[Window], unit: int = 0) -> list[set[int]]:
    """The units of each map that ``unit`` of the last layer depends on, input first.

    Positions in the padding count like any other, units that read nothing do not.

    >>> ancestors([Window(3), Window(3, dilation=2)])
    [{0, 1, 2, 3, 4, 5, 6}, {0, 2, 4}, {0}]
    """
    layers = tuple(windows)
    fields = [compose(layers[:depth]) for depth in range(len(layers))]
    reached = [{unit}]
    for layer, field in zip(reversed(layers), reversed(fields), strict=True):
        below = {one for above in reached[0] for one in layer.inputs(above)}
        reached.insert(0, {i for i in below if field.phases[i % len(field.phases)]})
    return reached


def deviation(windows: Iterable[Window]) -> float:
    """Standard deviation of a position chosen by a random path, in input positions.

    It is the width of the effective receptive field of a linear stack with equal
    weights: the variance is Σ (j d)² (k² − 1) / 12, with j the product of the strides
    below a layer (after Luo et al., "Understanding the Effective Receptive Field in
    Deep Convolutional Neural Networks", 2016, with strides and dilation).

    Raises ValueError for transposed layers, whose units differ by phase.

    >>> deviation([Window(3)] * 6)
    2.0
    """
    layers = tuple(windows)
    compose(layers)  # refuses what is no layer
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
    """M_1 … M_n of hybrid dilated convolution, in positions.

    M_i bounds the distance between neighbours among the positions that layers i … n
    read. Wang et al. ("Understanding Convolution for Semantic Segmentation", 2018,
    eq. 2) have M_n = r_n and M_i = max(M_{i+1} − 2 r_i, 2 r_i − M_{i+1}, r_i). Their
    design wants M_2 ≤ K for K taps. That is not sufficient: it also takes r_1 = 1.
    Nor is it necessary.

    Raises ValueError for no dilations or one below 1, TypeError for other kinds.

    >>> hdc_distances((1, 2, 5)), hdc_distances((1, 2, 9))
    ((1, 2, 5), (3, 5, 9))
    """
    rates = [Window(1, dilation=dilation).dilation for dilation in dilations]
    if not rates:
        raise ValueError(f"dilations must name at least one layer, got {dilations!r}")
    distances = [rates[-1]]
    for rate in reversed(rates[:-1]):
        distances.insert(0, max(distances[0] - 2 * rate, 2 * rate - distances[0], rate))
    return tuple(distances)
