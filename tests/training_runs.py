"""Small runs for the tests of training: seconds on a CPU."""

from dataclasses import replace

from dilated_lib.recipes import MODERN, Config

RECIPE = replace(MODERN, zoom=(0.9, 1.1), dropout=0.5, learning_rate=0.002)
TINY = Config(
    data="shapes",
    width=4,
    fc_channels=16,
    recipe=RECIPE,
    steps=6,
    batch=2,
    cells=(3, 4),
    pictures=6,
    deterministic=True,
    checkpoint_every=2,
)
