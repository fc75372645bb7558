"""A still of the explorer, for pages that strip scripts."""

from base64 import b64encode
from collections.abc import Sequence

from dilated_lib.explorer._layers import Layer
from dilated_lib.fields.arithmetic import compose, place
from dilated_lib.fields.paths import ancestors
from dilated_lib.fields.windows import Window

_ROW, _CELL = 34, 16  # as on screen, in units of the picture
_MOST_LINES = 2000


def still(layers: Sequence[Layer]) -> str:
    """Draw the stack along its height as an image, with a table of numbers, in HTML."""
    windows = [layer.height for layer in layers]
    field = compose(windows)
    unit = next((n for n, hull in enumerate(field.phases) if hull), None)
    rows = "".join(
        f"<tr><td>{depth}</td><td>{layer}</td><td>{_spans(layers[:depth])}</td></tr>"
        for depth, layer in enumerate(layers, 1)
    )
    table = f"<table><tr><th>layer</th><th></th><th>spans</th></tr>{rows}</table>"
    if unit is None:
        return table
    first, last = field.start(unit), field.end(unit)
    image = b64encode(_picture(windows, unit).encode()).decode()
    return (
        f'<img style="max-width: 100%" src="data:image/svg+xml;base64,{image}" '
        f'alt="A stack of {len(windows)} layers. One unit on top depends on input '
        f'positions {first} to {last}, joined to it by lines.">{table}'
    )


def _spans(layers: Sequence[Layer]) -> str:
    axes = zip(*((layer.height, layer.width) for layer in layers), strict=True)
    sizes = [str(compose(windows).size) for windows in axes]
    return " × ".join(sizes[: 1 + (sizes[0] != sizes[1])])


def _picture(windows: Sequence[Window], unit: int) -> str:
    """Draw one unit of the last layer and all that it depends on, in SVG.

    Every unit stands over the middle of what it sees, as on screen. Of very many lines
    only every n-th is drawn, so that the picture stays small enough for a page; cells
    that are narrow lose their outline for the same reason.
    """
    fields = [compose(windows[:depth]) for depth in range(len(windows) + 1)]
    reached = ancestors(windows, unit)
    low, high = fields[-1].start(unit) - 1, fields[-1].end(unit) + 1
    scale = min(24.0, 690 / (high - low + 1))

    def x(depth: int, one: int) -> float:
        return round((place(fields[depth], one) - low + 0.5) * scale, 1)

    def y(depth: int) -> int:
        return (len(windows) - depth) * _ROW + _ROW // 2

    lines = [
        f"M{x(depth + 1, upper)} {y(depth + 1)}L{x(depth, lower)} {y(depth)}"
        for depth, window in enumerate(windows)
        for upper in sorted(reached[depth + 1])
        for lower in window.inputs(upper)
        if lower in reached[depth]
    ]
    shown = "".join(lines[:: 1 + len(lines) // _MOST_LINES])
    parts = [f'<path d="{shown}" stroke="#D55E00" fill="none" stroke-width=".8"/>']
    wide = round(min(0.86 * scale, 20), 1)
    for depth, units in enumerate(reached):
        colour = "#56B4E9" if depth == 0 else "#999999"
        colour = "#009E73" if depth == len(windows) else colour
        cells = "".join(
            f"M{round(x(depth, one) - wide / 2, 1)} {y(depth) - _CELL // 2}"
            f"h{wide}v{_CELL}h-{wide}z"
            for one in sorted(units)
        )
        edge = ' stroke="#000" stroke-width=".6"' if wide > 3 else ""
        parts.append(f'<path d="{cells}" fill="{colour}"{edge}/>')
    width = round((high - low + 1) * scale)
    height = _ROW * len(fields)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>'
    )
