"""Receptive fields of any network that torch can export, exactly.

The network is traced once, without computing anything. Each operation has a rule that
says which units of its input a unit of its output reads; what has no rule is refused.
One pass up the graph then gives the field of every layer.

To read it: ``_signals`` and ``_passes`` (the graph of what depends on what, and how it
is asked), then ``_maps`` and ``_joins`` (which dimension of a tensor follows which
axis), then the rules, from ``_rules`` to ``_positions``; ``_graph`` traces, ``_report``
answers by ``_analysis``, and ``_verify`` asks the real network; ``_chain`` reads
a chain back as windows.
"""

from dilated_lib.fields.tracing._chain import Link, chain
from dilated_lib.fields.tracing._named import named_network
from dilated_lib.fields.tracing._report import Fields, Layer, receptive_field
from dilated_lib.fields.tracing._signals import TracingError
from dilated_lib.fields.tracing._verify import Disagreement, verify

__all__ = [
    "Disagreement",
    "Fields",
    "Layer",
    "Link",
    "TracingError",
    "chain",
    "named_network",
    "receptive_field",
    "verify",
]
