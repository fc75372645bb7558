"""Small runs for the tests of training: seconds on a CPU."""

import os
import sys
from dataclasses import replace
from multiprocessing import get_all_start_methods, get_context, set_start_method
from multiprocessing.forkserver import ensure_running
from unittest.mock import patch

from torch.distributed.elastic.multiprocessing.errors import record

from dilated_lib.networks.architecture import Architecture
from dilated_lib.training.config import MODERN, Config
from dilated_lib.training.loop import train

RECIPE = replace(MODERN, zoom=(0.9, 1.1), dropout=0.5, learning_rate=0.002)
TINY = Config(
    data="shapes",
    architecture=Architecture(width=4, fc_channels=16, padding="zeros"),
    recipe=RECIPE,
    steps=6,
    batch=2,
    cells=(3, 4),
    pictures=6,
    deterministic=True,
    checkpoint_every=2,
)


@record  # for torch's launcher, which tells errors only of functions with this mark
def run(out, changes):
    """Train TINY with other settings; what is printed goes into a file beside ``out``.

    A run in a process of its own, where the process knows nothing of the test's.
    """
    # processes that read pictures begin as in a process that a user started
    set_start_method(get_all_start_methods()[0], force=True)
    with out.with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    train(TINY.changed(**changes), out)


def process(out, **changes):
    """A run in a process of its own, begun."""
    begun = _forks().Process(target=run, args=(out, changes))
    begun.start()
    return begun


def launch(processes, out, **changes):
    """A run in several processes, as torchrun has them, to its end.

    Raises ChildFailedError, with what went wrong.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        max_restarts=0,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(out.parent)),
    )
    _forks()
    elastic_launch(config, run)(out, changes)


def _forks():
    """Processes that come from one that has imported everything and done nothing.

    An interpreter of its own would take five seconds to import the same again.
    """
    forks = get_context("forkserver")
    forks.set_forkserver_preload(["training_runs"])
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        ensure_running()  # and finds this file
    return forks
