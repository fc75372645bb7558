"""What ``python -m dilated_lib`` does: one function a command.

Each ends with exit code 2 and one sentence where something does not fit.
"""

from dilated_lib.commands._analysis import rf, sizes
from dilated_lib.commands._pictures import download, evaluate, segment
from dilated_lib.commands._training import changes, plan, speed, throughput, train

__all__ = [
    "changes",
    "download",
    "evaluate",
    "plan",
    "rf",
    "segment",
    "sizes",
    "speed",
    "throughput",
    "train",
]
