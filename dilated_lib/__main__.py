"""The command line: ``python -m dilated_lib COMMAND``, with ``--help`` for each."""

from collections.abc import Callable
from typing import Any

import tyro

from dilated_lib import commands
from dilated_lib.commands._errors import one_sentence
from dilated_lib.experiments import context_starts, traps
from dilated_lib.experiments.context_heads import erf, heads, reach

if __name__ == "__main__":
    told = one_sentence()  # as the commands tell what is wrong
    every: dict[str, Callable[..., Any]] = {
        "rf": commands.rf,
        "sizes": commands.sizes,
        "segment": commands.segment,
        "evaluate": commands.evaluate,
        "train": commands.train,
        "plan": commands.plan,
        "download": commands.download,
        "erf": told(erf),
        "heads": told(heads),
        "reach": told(reach),
        "starts": told(context_starts.measure),
        "traps": told(traps.measure),
        "changes": commands.changes,
        "throughput": commands.throughput,
        "speed": commands.speed,
    }
    tyro.extras.subcommand_cli_from_dict(every, description=__doc__)
