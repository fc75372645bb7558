"""Pictures, and numbers over the plane."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from dilated_lib.plot._style import STYLE, WIDTH, layout, square, subplots


@mpl.rc_context(STYLE)
def pictures(
    images: Mapping[str, ArrayLike],
    *,
    columns: int = 2,
    cmap: str = "gray",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw pictures under their titles, every pixel a sharp square.

    Args:
        images: Arrays (H, W) or (H, W, 3), by their titles.
        columns: How many stand side by side.
        cmap: The colours of arrays (H, W).
        limits: The values at the two ends of ``cmap``, for all pictures alike; by
            default each picture has its own.

    >>> figure = pictures({"a ramp": [[0, 1], [2, 3]]}, columns=1)
    >>> figure.axes[0].get_title()
    'a ramp'
    """
    rows, columns = layout(images, columns)
    first = np.asarray(next(iter(images.values())))
    height = WIDTH / columns * first.shape[0] / first.shape[1] + 0.4
    figure, axes = subplots(rows, columns, rows * height)
    low, high = limits or (None, None)
    for ax, (title, image) in zip(axes, images.items(), strict=False):
        ax.imshow(image, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
        ax.set_title(title)
    for ax in axes:
        ax.set_axis_off()
    return figure


@mpl.rc_context(STYLE)
def heat(
    panels: Mapping[str, ArrayLike], *, columns: int = 2, label: str = "paths"
) -> Figure:
    """Draw numbers over the plane in cividis; a zero is a hole, white and hatched.

    A panel is (H, W). Whole numbers on a panel at most 15 cells wide are written into
    its cells; other panels have a colour bar, named ``label``. ``columns`` panels stand
    side by side.

    >>> figure = heat({"paths": [[1, 0, 2, 0, 1]]}, columns=1)
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['1', '', '2', '', '1']
    """
    rows, columns = layout(panels, columns)
    first = np.asarray(next(iter(panels.values())))
    height = WIDTH / columns * first.shape[0] / first.shape[1] + 0.5
    if first.shape[1] > 15:
        height += 0.8  # the colour bar
    figure, axes = subplots(rows, columns, rows * height)
    for ax, (title, panel) in zip(axes, panels.items(), strict=False):
        values = np.asarray(panel)
        shown = ax.imshow(np.ma.masked_equal(values, 0), cmap="cividis", vmin=0)
        for row, column in np.argwhere(values == 0):
            square(ax, column, row, "hole")
        if values.shape[1] <= 15 and values.dtype.kind == "i":
            size = 36 * min(WIDTH / columns / values.shape[1], 0.45)
            for (row, column), value in np.ndenumerate(values):
                light = value > values.max() / 2
                ax.text(
                    column,
                    row,
                    str(value) if value else "",
                    ha="center",
                    va="center",
                    fontsize=size,
                    color="black" if light else "white",
                )
        else:
            few = MaxNLocator(3)  # so that their labels stay apart
            figure.colorbar(shown, label=label, location="bottom", pad=0.02, ticks=few)
        ax.set_title(title)
    for ax in axes:
        ax.set_axis_off()
    return figure
