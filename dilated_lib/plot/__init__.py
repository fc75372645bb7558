"""The book's figures: one colour code, one style.

Every function returns a finished figure, 720 px wide on the page at twice that
density, on a white face so that it also reads on a dark page. A cell that ends in
the call shows it. ``Steps`` is the one that moves.

Colours are Okabe and Ito's, which stay apart for colour-blind eyes: input, kernel
taps and output each have their own; grey is reached but not under study, a hatch is
a hole, a black frame is the receptive field.
"""

from dilated_lib.plot._images import heat, pictures
from dilated_lib.plot._layers import grids, stack
from dilated_lib.plot._lines import bars, curves
from dilated_lib.plot._steps import Steps
from dilated_lib.plot._style import COLOURS

__all__ = ["COLOURS", "Steps", "bars", "curves", "grids", "heat", "pictures", "stack"]
