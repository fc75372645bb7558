"""Cells that move: a drawing that the reader goes through step by step, or plays."""

from collections.abc import Sequence
from html import escape
from typing import Any

from dilated_lib.plot._style import COLOURS

_SIDE = 28  # of a cell, in px where the page is wide enough
_SECONDS = 3  # for a step, while it plays

Place = tuple[float, float] | None


class Steps:
    """A drawing of cells in steps. A notebook shows it; it needs no script.

    The reader chooses a step, and the cells move there, or lets all steps play, and
    stops them by choosing one. Nothing moves unasked, and where the system asks for
    less motion the cells jump, and nothing plays.

    Every step is an HTML radio button whose label is the step's sentence. Each cell
    carries its places as CSS variables, and one rule for each step moves all cells.

    Raises ValueError for a name that the colour code does not have, and for a cell
    without a place at each step, or without any.

    Args:
        name: What tells the drawing from others on its page, in letters.
        sentences: What happens in each step, S of them.
        cells: Each a name of the colour code ("" is an empty cell), a text, and S
            places (column, row), None where it does not show.

    >>> Steps("fall", ["A cell,", "falls."], [("input", "1", [(0, 0), (0, 1)])])
    Steps('fall', 2 steps, 1 cell)
    """

    def __init__(
        self,
        name: str,
        sentences: Sequence[str],
        cells: Sequence[tuple[str, str, Sequence[Place]]],
    ) -> None:
        for colour, text, places in cells:
            if colour not in (*COLOURS, ""):
                raise ValueError(
                    f"a cell must be one of {', '.join(COLOURS)}; got {colour!r}"
                )
            if len(places) != len(sentences) or not any(places):
                raise ValueError(
                    f"the cell {text!r} needs a place for each of {len(sentences)} "
                    f"steps, and one at least that is not None; got {list(places)}"
                )
        self.name, self.sentences, self.cells = name, tuple(sentences), tuple(cells)

    def __repr__(self) -> str:
        count = len(self.cells)
        cells = f"{count} cell" + "s" * (count != 1)
        return f"Steps({self.name!r}, {len(self.sentences)} steps, {cells})"

    def _repr_html_(self) -> str:
        shown = [place for *_, places in self.cells for place in places if place]
        columns, rows = zip(*shown, strict=True)
        left, top = min(columns) - 0.6, min(rows) - 0.6
        wide, high = max(columns) - left + 0.6, max(rows) - top + 0.6
        box = " ".join(f"{_SIDE * number:g}" for number in (left, top, wide, high))
        alt = escape(" ".join(self.sentences))
        choices = "".join(
            f'<li><label><input type="radio" name="{self.name}"'
            f"{' checked' * (number == 1)}> {number}. {escape(sentence)}</label></li>"
            for number, sentence in enumerate(self.sentences, 1)
        )
        return (
            f'<div class="dl-steps {self.name}"><style>{self._rules()}</style>'
            f'<svg viewBox="{box}" width="{_SIDE * wide:g}" role="img" '
            f'aria-label="{alt}">{"".join(map(_drawn, self.cells))}</svg>'
            f'<label class="play"><input type="radio" name="{self.name}"> Play all '
            f"steps; any step below stops them.</label><ol>{choices}</ol></div>"
        )

    def _rules(self) -> str:
        """Write the CSS: what every drawing has, a rule a step, and the moving."""
        me = f".dl-steps.{self.name}"
        steps = len(self.sentences)
        chosen = "".join(
            f"{me}:has(li:nth-child({n}) :checked) g{{{_at(n)}}}"
            f"{me} li:nth-child({n}){{animation-delay:{_SECONDS * (n - 1)}s!important}}"
            for n in range(1, steps + 1)
        )
        frames = "".join(
            f"{100 * (n - 1) / steps:.4g}%,{100 * (n - 0.4) / steps:.4g}%{{{_at(n)}}}"
            for n in range(1, steps + 1)
        )
        turn = f"{_SECONDS * steps}s infinite"
        return (
            f"{me}{{background:#fff;color:#000;color-scheme:light;padding:.5em}}"
            f"{me} svg{{max-width:100%;height:auto;display:block}}"
            f"{me} g{{{_at(1)}transition:transform 1s,opacity 1s}}"
            f"{me} rect{{stroke:#000;stroke-width:.6}}"
            f"{me} text{{font:13px sans-serif;text-anchor:middle;fill:#000}}"
            f"{me} label{{cursor:pointer}}{me} ol{{list-style:none;padding:0}}{chosen}"
            f"@keyframes {self.name}{{{frames}}}@keyframes {self.name}-now"
            f"{{0%,{100 / steps:.4g}%{{text-decoration:underline}}"
            f"{100 / steps + 0.1:.4g}%,100%{{text-decoration:none}}}}"
            f"{me}:has(.play :checked) g{{animation:{self.name} {turn}}}"
            f"{me}:has(.play :checked) li{{animation:{self.name}-now {turn}}}"
            "@media(prefers-reduced-motion:reduce){"
            f"{me} g{{transition:none;animation:none!important}}"
            f"{me} .play{{display:none}}}}"
        )


def _at(step: int) -> str:
    return f"transform:var(--p{step});opacity:var(--o{step});"


def _drawn(cell: tuple[str, str, Sequence[Place]]) -> str:
    """Draw a cell with its places; where it does not show it waits at the next one."""
    colour, text, places = cell
    later: Any = next(place for place in reversed(places) if place)
    waits = []
    for place in reversed(places):
        later = place or later
        waits.append(later)
    where = "".join(
        f"--p{step}:translate({_SIDE * x:g}px,{_SIDE * y:g}px);"
        f"--o{step}:{int(place is not None)};"
        for step, ((x, y), place) in enumerate(
            zip(reversed(waits), places, strict=True), 1
        )
    )
    half, fill = 0.46 * _SIDE, COLOURS.get(colour, "#FFFFFF")
    return (
        f'<g style="{where}"><rect x="{-half:g}" y="{-half:g}" width="{2 * half:g}" '
        f'height="{2 * half:g}" fill="{fill}"/>'
        + (f'<text y="4">{escape(text)}</text>' if text else "")
        + "</g>"
    )
