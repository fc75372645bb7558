"""What ``python -m dilated_lib`` does: one function a command.

Each ends with exit code 2 and one sentence where something does not fit.
"""

from dilated_lib.cli.pictures import download, evaluate, segment
from dilated_lib.cli.receptive_fields import rf, sizes
from dilated_lib.cli.training import plan, throughput, train

__all__ = [
    "download",
    "evaluate",
    "plan",
    "rf",
    "segment",
    "sizes",
    "throughput",
    "train",
]
