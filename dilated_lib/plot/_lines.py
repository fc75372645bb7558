"""Numbers over one axis."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from dilated_lib.plot._style import COLOURS, HOLE, STYLE, subplots

# lines have no part in the colour code: other colours of the same palette
_LINES = (("#0072B2", "o"), ("#E69F00", "s"), ("#CC79A7", "^"), ("#000000", "D"))


@mpl.rc_context(STYLE)
def curves(
    x: Sequence[float],
    lines: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str,
    log: str = "",
    breaks: Mapping[str, float] | None = None,
) -> Figure:
    """Draw a line for each name in ``lines`` over the same ``x``, marked at each point.

    Raises ValueError for more lines than can be told apart.

    Args:
        x: The positions of the points, (X,).
        lines: The values of a line, (X,), by its name; or those of several runs,
            (runs, X), drawn as their mean in a band from the least to the largest.
        xlabel: What the horizontal axis is called, with its unit.
        ylabel: What the vertical axis is called, with its unit.
        log: The axes that are spaced by powers of two: "", "x", "y" or "xy".
        breaks: Where a dashed vertical line stands, by the name of the line whose
            colour it has.

    >>> lines = {"d = 1": [3, 5, 7], "d = 2": [5, 9, 13]}
    >>> figure = curves([1, 2, 3], lines, xlabel="layers", ylabel="positions seen")
    >>> len(figure.axes[0].lines)
    2
    """
    if len(lines) > len(_LINES):
        raise ValueError(f"at most {len(_LINES)} lines, got {len(lines)}")
    figure, (ax,) = subplots(1, 1, 4.2 + 0.4 * -(-len(lines) // 2))  # legend above
    for (name, line), (colour, marker) in zip(lines.items(), _LINES, strict=False):
        runs = np.atleast_2d(line)
        ax.plot(x, runs.mean(0), color=colour, marker=marker, label=name)
        if len(runs) > 1:
            ax.fill_between(x, runs.min(0), runs.max(0), color=colour, alpha=0.25)
        if breaks and name in breaks:
            ax.axvline(breaks[name], color=colour, linestyle="--")
    if "x" in log:
        ax.set_xscale("log", base=2)
    if "y" in log:
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter("{x:g}")
    most = 8 if max(len(f"{value:g}") for value in x) > 3 else 13
    ticks = x[:: -(-len(x) // most)]  # so that their labels stay apart
    ax.set_xticks(ticks, [f"{value:g}" for value in ticks])
    ax.minorticks_off()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(axis="y", color="#DDDDDD")
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure


@mpl.rc_context(STYLE)
def bars(panels: Mapping[str, ArrayLike], *, ylabel: str = "paths") -> Figure:
    """Draw numbers over the positions of receptive fields, one below another.

    A panel is (size,), and all have one scale. Positions count from the middle of the
    field. A zero inside is a hole, a hatched strip below the axis.

    >>> figure = bars({"d = 1, 1": [1, 2, 3, 2, 1], "d = 1, 2": [1, 1, 2, 1, 2, 1, 1]})
    >>> len(figure.axes)
    2
    """
    figure, axes = subplots(len(panels), 1, 0.5 + 1.9 * len(panels))
    widest = max(len(np.asarray(panel)) for panel in panels.values())
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        counts = np.asarray(panel, float)  # paths may be more than 64 bits count
        at = np.arange(len(counts)) - (len(counts) - 1) / 2
        holes = counts == 0
        ax.bar(at[~holes], counts[~holes], 0.9, color=COLOURS["input"])
        ax.bar(
            at[holes],
            [-counts.max() / 12] * holes.sum(),  # a strip below the axis
            0.9,
            **HOLE,
        )
        ax.set(xlim=(-widest / 2 - 0.5, widest / 2 + 0.5), ylabel=ylabel)
        ax.axhline(color="black", linewidth=1)
        ax.set_title(title)
    axes[-1].set_xlabel("position, from the middle of the field")
    return figure
