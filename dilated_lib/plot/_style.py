"""Colours, sizes and the parts that figures share."""

from collections.abc import Sized
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dilated_lib.values import whole

COLOURS = {
    "input": "#56B4E9",
    "tap": "#D55E00",
    "output": "#009E73",
    "reached": "#999999",
    "hole": "#FFFFFF",
    "frame": "#000000",
}

STYLE: dict[Any, Any] = {
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
WIDTH = 7.2  # inches: 720 px on the page
EMPTY: dict[str, Any] = {"facecolor": "white", "edgecolor": "#666666", "linewidth": 0.6}
HOLE = EMPTY | {"hatch": "////"}


def square(
    ax: Axes,
    x: float,
    y: float,
    name: str,
    text: str = "",
    *,
    side: float = 1.0,
    fontsize: float = 12,
) -> None:
    """Draw a cell of a grid around (x, y), by its name in the colour code.

    Args:
        ax: Where.
        x: Its middle, from left to right.
        y: Its middle, from top to bottom or from bottom to top, as the axis runs.
        name: What it is; "" is an empty cell.
        text: What is written into it.
        side: Its side; grids have one cell in each unit of the axes.
        fontsize: The text's, in points.
    """
    if name in ("", "hole"):
        look = HOLE if name else EMPTY
    else:
        look = {"facecolor": COLOURS[name], "edgecolor": "black", "linewidth": 0.6}
    corner = (x - side / 2, y - side / 2)
    ax.add_patch(Rectangle(corner, side, side, **look, zorder=2))
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


def frame(ax: Axes, left: float, top: float, width: float, height: float) -> None:
    """Draw the frame of a receptive field.

    Args:
        ax: Where.
        left: The column of its first cell.
        top: The row of its first cell.
        width: Its cells from left to right.
        height: Its cells from top to bottom.
    """
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


def layout(panels: Sized, columns: int) -> tuple[int, int]:
    """Return the rows and columns of panels of which ``columns`` stand side by side."""
    columns = whole("columns", columns, 1)
    return -(-len(panels) // columns), columns


def subplots(rows: int, columns: int, height: float) -> tuple[Figure, list[Any]]:
    """Make a figure of the book's width, ``height`` inches high, and its axes.

    The axes come in one list, row by row.
    """
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False
    )
    plt.close(figure)  # shown once, as the cell's value, and not again by pyplot
    return figure, list(axes.flat)
