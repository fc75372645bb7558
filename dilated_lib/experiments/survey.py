"""What the surveys of torchvision and of timm share: the outcome for one network."""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

from torch import nn

from dilated_lib.fields.tracing import Layer, receptive_field
from dilated_lib.fields.tracing.export import TracingError
from dilated_lib.fields.tracing.verify import verify

__all__ = ["MANY_WEIGHTS", "agreement", "outcome"]

MANY_WEIGHTS = 400e6  # from here on a comparison takes more than 24 GiB


def outcome(
    network: nn.Module, size: Sequence[int], to: str | None = None
) -> tuple[dict[str, Any], float]:
    """Return the outcome for a network, and the seconds of the analysis alone.

    The outcome is "exact", with the field of the output; or "unbounded", with the layer
    that reads everything and the field of the last layer before it; or "refused", with
    the reason.

    >>> outcome(nn.Conv2d(1, 1, 3), (1, 8, 8))[0]["size"]
    [3, 3]
    """
    try:
        answer = receptive_field(network, size, to=to)
    except (TracingError, ValueError) as refusal:
        return {"outcome": "refused", "reason": str(refusal)}, 0.0
    if answer.unbounded is None:
        last: Layer | None = answer.layers[-1]
        found: dict[str, Any] = {"outcome": "exact"}
    else:
        bounded = [
            layer
            for layer in answer.layers
            if all(0 < field.size < inf for field in layer.fields)
        ]
        last = bounded[-1] if bounded else None
        found = {"outcome": "unbounded", "reason": answer.unbounded}
    if last:
        found |= {
            "module": last.module,
            "size": [field.size for field in last.fields],
            "stride": [str(field.stride) for field in last.fields],
            "padding": [f.padding if f.phases[0] else None for f in last.fields],
            "aligned": all(
                layer.aligned
                for layer in answer.layers[: answer.layers.index(last) + 1]
            ),
        }
    return found, answer.seconds[1]


def agreement(
    network: nn.Module, usual: Sequence[int], to: str | None, sides: Iterable[int]
) -> str:
    """Compare the analysis with the network itself, and say in words what came out.

    Where the network takes an input of none of the sides, the last reason is returned.

    Args:
        network: The network to ask.
        usual: The usual size of its input, which has the channels, and for videos the
            frames.
        to: The module whose output is compared; the network's, if None.
        sides: Sides of a square input, in pixels; the first that the network takes is
            the one.
    """
    for side in sides:
        size = (*usual[:-2], side, side)
        try:
            found = verify(network, size, to=to, units=1)
        except (TracingError, ValueError) as refusal:
            said = str(refusal)
            continue
        shown = " x ".join(map(str, size[1:]))
        said = f"{found or 'agrees'}, to {to or 'the output'} on {shown}"
        break
    return said
