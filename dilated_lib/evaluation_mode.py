"""A network as in evaluation for a while, also where several threads use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import nn

__all__ = ["evaluating"]

_CHANGING = Lock()  # held while modes change, not while a network computes
_IN_USE: dict[nn.Module, tuple[int, bool]] = {}  # by how many, and the mode before


@contextmanager
def evaluating(network: object) -> Iterator[None]:
    """Run the block with dropout and batch norm as in evaluation.

    Afterwards each module has the mode that it had before. Several threads may use a
    network at the same time, so a block must not simply restore what it found: the
    first thread to come changes a module's mode, and the last to leave changes it back.
    What is not a module, such as a function of images, is left alone.

    >>> net = nn.Dropout()
    >>> with evaluating(net):
    ...     net.training
    False
    >>> net.training
    True
    """
    modules = [*network.modules()] if isinstance(network, nn.Module) else []
    with _CHANGING:
        for module in modules:
            users, mode = _IN_USE.get(module, (0, module.training))
            _IN_USE[module] = users + 1, mode
            module.training = False
    try:
        yield
    finally:
        with _CHANGING:
            for module in modules:
                users, mode = _IN_USE.pop(module)
                if users > 1:
                    _IN_USE[module] = users - 1, mode
                else:
                    module.training = mode
