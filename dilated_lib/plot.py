"""The book's figures: one colour code, one style.

Every function returns a finished figure, 720 px wide on the page at twice that
density, on a white face so that it also reads on a dark page. A cell that ends in
the call shows it.

Colours are Okabe and Ito's, which stay apart for colour-blind eyes: input, kernel
taps and output each have their own; grey is reached but not under study, a hatch is
a hole, a black frame is the receptive field.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from dilated_lib.arithmetic import ReceptiveField, Window, compose

__all__ = ["COLOURS", "curves", "grids", "pictures", "stack"]

COLOURS = {
    "input": "#56B4E9",
    "tap": "#D55E00",
    "output": "#009E73",
    "reached": "#999999",
    "hole": "#FFFFFF",
    "frame": "#000000",
}

_STYLE: dict[Any, Any] = {
    "figure.dpi": 200,
    "figure.facecolor": "white",
    "font.size": 17,
    "axes.titlesize": 16,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.8,
    "lines.linewidth": 2.5,
    "lines.markersize": 8,
}
_WIDTH = 7.2  # inches: 720 px on the page
# lines have no part in the colour code: other colours of the same palette
_LINES = (("#0072B2", "o"), ("#E69F00", "s"), ("#CC79A7", "^"), ("#000000", "D"))


@mpl.rc_context(_STYLE)
def pictures(
    images: Mapping[str, ArrayLike],
    *,
    columns: int = 2,
    cmap: str = "gray",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Pictures (H, W) or (H, W, 3) under their titles, every pixel a sharp square.

    ``limits`` are the values drawn as the two ends of ``cmap``, for all pictures
    alike; by default each picture (H, W) has its own.
    """
    rows = -(-len(images) // columns)
    first = np.asarray(next(iter(images.values())))
    height = _WIDTH / columns * first.shape[0] / first.shape[1] + 0.4
    figure, axes = _figure(rows, columns, rows * height)
    low, high = limits or (None, None)
    for ax, (title, image) in zip(axes, images.items(), strict=False):
        ax.imshow(image, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
        ax.set_title(title)
    for ax in axes:
        ax.set_axis_off()
    return figure


@mpl.rc_context(_STYLE)
def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> Figure:
    """One line for each name in ``lines`` over the same ``x``, marked at each point.

    ``log=True`` spaces ``x`` by powers of two. Raises ValueError for more lines than
    can be told apart.
    """
    if len(lines) > len(_LINES):
        raise ValueError(f"at most {len(_LINES)} lines, got {len(lines)}")
    figure, (ax,) = _figure(1, 1, 4.2)
    for (name, y), (colour, marker) in zip(lines.items(), _LINES, strict=False):
        ax.plot(x, y, color=colour, marker=marker, label=name)
    if log:
        ax.set_xscale("log", base=2)
    ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.minorticks_off()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(axis="y", color="#DDDDDD")
    ax.legend(frameon=False)
    return figure


@mpl.rc_context(_STYLE)
def grids(
    panels: Mapping[str, ArrayLike],
    *,
    values: Mapping[str, ArrayLike] | None = None,
    frames: Mapping[str, tuple[int, int, int, int]] | None = None,
    columns: int = 3,
) -> Figure:
    """Grids of square cells under their titles.

    A panel is an array (H, W) of the names of the colour code; an empty name is an
    empty cell. ``values[title]`` (H, W) is written into the cells.
    ``frames[title]`` is a receptive field: its top row, left column, height, width.

    Raises ValueError for a name that the colour code does not have, and for values or
    frames that belong to no panel or do not fit it.
    """
    cells = {title: np.asarray(panel, dtype=str) for title, panel in panels.items()}
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
    rows = -(-len(cells) // columns)
    high = max(panel.shape[0] for panel in cells.values())
    wide = max(panel.shape[1] for panel in cells.values())
    cell = min(_WIDTH / columns / (wide + 0.4), 0.6)  # inches, one scale for all
    figure, axes = _figure(rows, columns, rows * (cell * (high + 0.4) + 0.45))
    for ax in axes:
        ax.set_axis_off()
    for ax, (title, panel) in zip(axes, cells.items(), strict=False):
        texts = (values or {}).get(title)
        text = np.full(panel.shape, "") if texts is None else np.asarray(texts, str)
        for (row, column), name in np.ndenumerate(panel):
            _cell(ax, column, row, name, str(text[row, column]), fontsize=36 * cell)
        if frames and title in frames:
            top, left, height, width = frames[title]
            _frame(ax, left, top, width, height)
        left, top = (panel.shape[1] - wide) / 2, (panel.shape[0] - high) / 2
        ax.set(xlim=(left - 0.7, left + wide - 0.3), ylim=(top + high - 0.3, top - 0.7))
        ax.set_aspect("equal")
        ax.set_title(title)
    return figure


@mpl.rc_context(_STYLE)
def stack(windows: Sequence[Window], *, unit: int = 0, margin: int = 1) -> Figure:
    """A stack of layers along one axis, and what ``unit`` of the last layer sees.

    The input is the bottom row. Every unit stands over the middle of what it sees
    (phases are spaced evenly); lines are the taps that ``unit`` depends on. ``margin``
    input positions are drawn on either side of the receptive field, which is framed.
    """
    layers = tuple(windows)
    fields = [compose(layers[:depth]) for depth in range(len(layers) + 1)]
    reached = [{unit}]
    for layer, field in zip(reversed(layers), reversed(fields[:-1]), strict=True):
        below = {i for one in reached[0] for i in layer.inputs(one)}
        reached.insert(0, {i for i in below if field.phases[i % len(field.phases)]})
    first, last = fields[-1].start(unit), fields[-1].end(unit)
    left, right = first - margin, last + margin

    width = right - left + 1
    gap = max(1.5, width / 9)  # between rows, in input positions
    figure, (ax,) = _figure(1, 1, 0.6 + 5.3 / width * (len(layers) * gap + 1.6))
    for depth, layer in enumerate(layers):
        for upper in reached[depth + 1]:
            for lower in reached[depth].intersection(layer.inputs(upper)):
                ax.plot(
                    [_place(fields[depth + 1], upper), _place(fields[depth], lower)],
                    [(depth + 1) * gap, depth * gap],
                    color=COLOURS["tap"],
                    linewidth=1.2,
                    zorder=1,
                )
    for depth, field in enumerate(fields):
        step = float(field.stride)
        here = round((left - _place(field, 0)) / step) - 1
        while (x := _place(field, here)) <= right + 0.01:
            if depth == len(layers) and here == unit:
                name = "output"
            elif here in reached[depth]:
                name = "reached" if depth else "input"
            else:
                name = "hole" if depth == 0 and first <= here <= last else ""
            if x >= left - 0.01:
                _cell(ax, x, depth * gap, name, side=0.86 * min(1.0, step))
            here += 1
    _frame(ax, first, 0, last - first + 1, 1)

    ax.set(xlim=(left - 0.7, right + 0.7), ylim=(-0.8, len(layers) * gap + 0.8))
    ax.set_aspect("equal")
    rows = [depth * gap for depth in range(len(fields))]
    ax.set_yticks(rows, ["input", *(_label(layer) for layer in layers)])
    twin = ax.secondary_yaxis("right")
    twin.set_yticks(rows[1:], [f"sees {field.size}" for field in fields[1:]])
    ax.set_xticks([])
    ax.set_xlabel(f"{last - first + 1} input positions, from {first} to {last}")
    for one in (ax, twin):
        one.tick_params(length=0)
        for spine in one.spines.values():
            spine.set_visible(False)
    return figure


def _place(field: ReceptiveField, unit: int) -> float:
    """Where a unit stands, in input positions: phases share one even spacing."""
    phases = range(len(field.phases))
    shifts = [field.centre(i) - i * field.stride for i in phases if field.phases[i]]
    return float(unit * field.stride + sum(shifts) / len(shifts))


def _label(layer: Window) -> str:
    parts = [f"k {layer.kernel_size}"]
    if layer.stride > 1:
        parts.append(f"{'up' if layer.transposed else 's'} {layer.stride}")
    if layer.dilation > 1:
        parts.append(f"d {layer.dilation}")
    return " ".join(parts)


def _cell(
    ax: Axes,
    x: float,
    y: float,
    name: str,
    text: str = "",
    *,
    side: float = 0.92,
    fontsize: float = 12,
) -> None:
    empty = name in ("", "hole")
    ax.add_patch(
        Rectangle(
            (x - side / 2, y - side / 2),
            side,
            side,
            facecolor="white" if empty else COLOURS[name],
            edgecolor="#666666" if empty else "black",
            hatch="////" if name == "hole" else None,
            linewidth=0.6,
            zorder=2,
        )
    )
    if text:  # on a hatch a number needs a white ground
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ax.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            fontsize=fontsize,
            bbox=ground if name == "hole" else None,
            zorder=3,
        )


def _frame(ax: Axes, left: float, top: float, width: float, height: float) -> None:
    ax.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            width,
            height,
            fill=False,
            edgecolor=COLOURS["frame"],
            linewidth=2.5,
            zorder=4,
        )
    )


def _figure(rows: int, columns: int, height: float) -> tuple[Figure, list[Any]]:
    figure, axes = plt.subplots(
        rows, columns, figsize=(_WIDTH, height), layout="constrained", squeeze=False
    )
    plt.close(figure)  # shown once, as the cell's value, and not again by pyplot
    return figure, list(axes.flat)
