"""The command line: ``python -m dilated_lib COMMAND``, with ``--help`` for each.

``--version`` prints the library's version. With ``--debug`` a command that fails shows
the traceback before its sentence.
"""

import argparse
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import tyro

from dilated_lib import cli
from dilated_lib.cli.errors import one_sentence
from dilated_lib.experiments import context_initialisation, traps
from dilated_lib.experiments.context_effect import changes
from dilated_lib.experiments.context_evidence import context
from dilated_lib.experiments.context_reach import reach
from dilated_lib.experiments.far_evidence import far
from dilated_lib.experiments.model_card import card
from dilated_lib.experiments.real_starts import real_starts
from dilated_lib.experiments.speed import speed
from dilated_lib.experiments.vgg_erf import erf

if __name__ == "__main__":
    every: dict[str, Callable[..., Any]] = {
        "rf": cli.rf,
        "sizes": cli.sizes,
        "segment": cli.segment,
        "evaluate": cli.evaluate,
        "train": cli.train,
        "plan": cli.plan,
        "download": cli.download,
        "context": context,
        "erf": erf,
        "far": far,
        "reach": reach,
        "starts": context_initialisation.measure,
        "real-starts": real_starts,
        "traps": traps.measure,
        "card": card,
        "changes": changes,
        "throughput": cli.throughput,
        "speed": speed,
    }
    prog = "python -m dilated_lib"
    common = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    common.add_argument("--debug", action="store_true")
    common.add_argument("--version", action="version", version=version("dilated-lib"))
    asked, words = common.parse_known_args()
    if asked.debug:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("dilated_lib").setLevel(logging.DEBUG)
    with one_sentence():  # also what a command does not tell by itself
        tyro.extras.subcommand_cli_from_dict(
            every, prog=prog, description=__doc__, args=words
        )
