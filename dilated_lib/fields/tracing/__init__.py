"""Receptive fields of any network that torch can export, exactly.

The network is traced once, without computing anything (``export``). Then positions are
carried through its graph as data: every element of every tensor holds the first and the
last position of the input that it has seen (``reach``). What only moves elements is run
by torch itself on these numbers, and what mixes them has a rule that says what it reads
(``rules``). The same rules with sums in place of maxima give the exact positions that a
unit reads. ``report`` makes the answer of it, ``verify`` asks the real network, and
``chain`` reads a chain back as windows.
"""

from dilated_lib.fields.tracing.chain import Link, chain
from dilated_lib.fields.tracing.export import TracingError
from dilated_lib.fields.tracing.named import named_network
from dilated_lib.fields.tracing.report import Fields, Layer, receptive_field, region
from dilated_lib.fields.tracing.verify import Disagreement, verify

__all__ = [
    "Disagreement",
    "Fields",
    "Layer",
    "Link",
    "TracingError",
    "chain",
    "named_network",
    "receptive_field",
    "region",
    "verify",
]
