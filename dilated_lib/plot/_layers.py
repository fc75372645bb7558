"""Grids of cells, and stacks of layers."""

from collections.abc import Mapping, Sequence
from math import ceil, floor

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from dilated_lib.fields.arithmetic import compose, place
from dilated_lib.fields.paths import ancestors
from dilated_lib.fields.windows import Window
from dilated_lib.plot._style import (
    COLOURS,
    STYLE,
    WIDTH,
    frame,
    layout,
    square,
    subplots,
)
from dilated_lib.values import whole


@mpl.rc_context(STYLE)
def grids(
    panels: Mapping[str, ArrayLike],
    *,
    values: Mapping[str, ArrayLike] | None = None,
    frames: Mapping[str, tuple[int, int, int, int]] | None = None,
    columns: int = 3,
) -> Figure:
    """Draw grids of square cells under their titles.

    All cells of a figure have one size, so that grids can be compared.

    Raises ValueError for a name that the colour code does not have, for values or
    frames that belong to no panel, and for values that do not fit theirs.

    Args:
        panels: Arrays (H, W) of names of the colour code; an empty name is an empty
            cell.
        values: What is written into the cells of a panel, (H, W), by its title.
        frames: A receptive field on a panel, by its title: its top row, left column,
            height and width.
        columns: How many panels stand side by side.

    >>> figure = grids({"d = 2": [["tap", "hole", "tap"]]}, columns=1)
    >>> figure.axes[0].get_title()
    'd = 2'
    """
    cells = {title: np.asarray(panel) for title, panel in panels.items()}
    wrong = {str(name) for panel in cells.values() for name in panel.flat}
    wrong -= {*COLOURS, ""}
    if wrong:
        raise ValueError(
            f"cells must be one of {', '.join(COLOURS)}; got {sorted(wrong)}"
        )
    lost = {*(values or {}), *(frames or {})} - {*cells}
    if lost:
        raise ValueError(
            f"no panel is called {sorted(lost)}; there are {sorted(cells)}"
        )
    for title, text in (values or {}).items():
        if np.shape(text) != cells[title].shape:
            raise ValueError(
                f"values of {title!r} must have shape {cells[title].shape} like their "
                f"panel, got {np.shape(text)}"
            )
    rows, columns = layout(cells, columns)
    high = max(panel.shape[0] for panel in cells.values())
    wide = max(panel.shape[1] for panel in cells.values())
    cell = min(WIDTH / columns / (wide + 0.4), 0.6)  # inches, one scale for all
    figure, axes = subplots(rows, columns, rows * (cell * (high + 0.4) + 0.45))
    for ax in axes:
        ax.set_axis_off()
    for ax, (title, panel) in zip(axes, cells.items(), strict=False):
        texts = (values or {}).get(title)
        text = np.full(panel.shape, "") if texts is None else np.asarray(texts, str)
        for (row, column), name in np.ndenumerate(panel):
            square(ax, column, row, name, str(text[row, column]), fontsize=36 * cell)
        if frames and title in frames:
            top, left, height, width = frames[title]
            frame(ax, left, top, width, height)
        left, top = (panel.shape[1] - wide) / 2, (panel.shape[0] - high) / 2
        ax.set(xlim=(left - 0.7, left + wide - 0.3), ylim=(top + high - 0.3, top - 0.7))
        ax.set_aspect("equal")
        ax.set_title(title)
    return figure


@mpl.rc_context(STYLE)
def stack(windows: Sequence[Window], *, unit: int = 0, margin: int = 1) -> Figure:
    """Draw a stack of layers along one axis, and what ``unit`` of the last layer sees.

    The input is the bottom row. Every unit stands over the middle of what it sees
    (phases are spaced evenly), and lines are the taps that ``unit`` depends on.
    ``margin`` input positions are drawn on each side of the receptive field, which is
    framed.

    Raises ValueError for a unit that sees no input.

    >>> figure = stack([Window(3), Window(3, dilation=2)])
    >>> figure.axes[0].get_xlabel()
    '7 input positions, from 0 to 6'
    """
    layers, margin = tuple(windows), whole("margin", margin, 0)
    fields = [compose(layers[:depth]) for depth in range(len(layers) + 1)]
    reached = ancestors(layers, unit)
    first, last = fields[-1].start(unit), fields[-1].end(unit)
    left, right = first - margin, last + margin

    width = right - left + 1
    gap = max(1.5, width / 9)  # between rows, in input positions
    figure, (ax,) = subplots(1, 1, 0.6 + 5.3 / width * (len(layers) * gap + 1.6))
    for depth, layer in enumerate(layers):
        for upper in reached[depth + 1]:
            for lower in reached[depth].intersection(layer.inputs(upper)):
                ax.plot(
                    [place(fields[depth + 1], upper), place(fields[depth], lower)],
                    [(depth + 1) * gap, depth * gap],
                    color=COLOURS["tap"],
                    linewidth=1.2,
                    zorder=1,
                )
    for depth, field in enumerate(fields):
        step, start = float(field.stride), place(field, 0)
        begin = ceil((left - start - 0.01) / step)
        end = floor((right - start + 0.01) / step)
        for here in range(begin, end + 1):
            if depth == len(layers) and here == unit:
                name = "output"
            elif here in reached[depth]:
                name = "reached" if depth else "input"
            else:
                inside = here in range(first, last + 1)
                name = "hole" if depth == 0 and inside else ""
            x = place(field, here)
            square(ax, x, depth * gap, name, side=0.86 * min(1.0, step))
    frame(ax, first, 0, last - first + 1, 1)

    ax.set(xlim=(left - 0.7, right + 0.7), ylim=(-0.8, len(layers) * gap + 0.8))
    ax.set_aspect("equal")
    rows = [depth * gap for depth in range(len(fields))]
    ax.set_yticks(rows, ["input", *(_label(layer) for layer in layers)])
    twin = ax.secondary_yaxis("right")
    twin.set_yticks(rows[1:], [f"spans {field.size}" for field in fields[1:]])
    ax.set_xticks([])
    ax.set_xlabel(f"{last - first + 1} input positions, from {first} to {last}")
    for scale in (ax, twin):
        scale.tick_params(length=0)
        for spine in scale.spines.values():
            spine.set_visible(False)
    return figure


def _label(layer: Window) -> str:
    parts = [f"k {layer.kernel_size}"]
    if layer.stride > 1:
        parts.append(f"{'up' if layer.transposed else 's'} {layer.stride}")
    if layer.dilation > 1:
        parts.append(f"d {layer.dilation}")
    return " ".join(parts)
