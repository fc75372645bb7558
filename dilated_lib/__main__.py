"""The command line: ``python -m dilated_lib COMMAND``, with ``--help`` for each."""

from collections.abc import Callable
from typing import Any

import tyro

from dilated_lib import cli
from dilated_lib.cli.errors import one_sentence
from dilated_lib.experiments import context_initialisation, traps
from dilated_lib.experiments.context_heads import heads
from dilated_lib.experiments.context_reach import reach
from dilated_lib.experiments.vgg_erf import erf

if __name__ == "__main__":
    told = one_sentence()  # as the commands tell what is wrong
    every: dict[str, Callable[..., Any]] = {
        "rf": cli.rf,
        "sizes": cli.sizes,
        "segment": cli.segment,
        "evaluate": cli.evaluate,
        "train": cli.train,
        "plan": cli.plan,
        "download": cli.download,
        "erf": told(erf),
        "heads": told(heads),
        "reach": told(reach),
        "starts": told(context_initialisation.measure),
        "traps": told(traps.measure),
        "changes": cli.changes,
        "throughput": cli.throughput,
        "speed": cli.speed,
    }
    tyro.extras.subcommand_cli_from_dict(every, description=__doc__)
