"""Receptive fields and sizes of any network."""

from json import dumps
from math import inf
from typing import Any

from dilated_lib.cli.errors import one_sentence
from dilated_lib.fields.arithmetic import ReceptiveField
from dilated_lib.fields.input_sizes import input_sizes
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.fields.tracing.named import named_network

__all__ = ["rf", "sizes"]


def rf(
    network: str,
    /,
    *,
    size: tuple[int, ...] = (3, 224, 224),
    of: str | None = None,
    to: str | None = None,
    json: bool = False,
) -> None:
    """What the units of a network see of its input: a table, one row a layer.

    Exit code 2, with one sentence, where the network cannot be analysed.

    Args:
        network: A name of torchvision, such as resnet50, or module:function that
            returns a network; a submodule may follow: fasterrcnn_resnet50_fpn.backbone.
        size: Channels, then one length an axis.
        of: A module whose result is taken for the input.
        to: A module whose result is taken for the output, such as layer4.
        json: Print JSON instead; the size of an unbounded field is null there.
    """
    with one_sentence():
        answer = receptive_field(named_network(network), size, of=of, to=to)
    rows = [
        {
            "module": layer.module,
            "operation": layer.operation,
            "shape": layer.shape,
            "fields": [_plain(field) for field in layer.fields],
            "aligned": layer.aligned,
        }
        for layer in answer.layers
    ]
    if json:
        times = dict(zip(("tracing", "analysis"), answer.seconds, strict=True))
        whole = {
            "network": network,
            "input_size": size,
            "fields": [_plain(field) for field in answer],
            "unbounded_by": answer.unbounded,
            "layers": rows,
            "seconds": times,
        }
        print(dumps(whole, indent=1))
        return
    names = [f"{layer.module} {layer.operation}" for layer in answer.layers]
    widest = max(map(len, ["layer", *names]))
    print(f"{'layer':{widest}} {'units':>11} {'size':>11} {'stride':>9} {'padding':>9}")
    for name, layer in zip(names, answer.layers, strict=True):
        columns = [
            "x".join(map(str, layer.shape[2:])) or "-",
            *(_across(layer.fields, key) for key in ("size", "stride", "padding")),
        ]
        mark = "" if layer.aligned else "  centres differ"
        sizes = zip(columns, (11, 11, 9, 9), strict=True)
        numbers = " ".join(f"{one:>{width}}" for one, width in sizes)
        print(f"{name:{widest}} {numbers}{mark}")
    if answer.unbounded:
        print(f"From {answer.unbounded} on, units see positions at any distance.")
    tracing, analysis = (1000 * one for one in answer.seconds)
    print(f"Traced in {tracing:.0f} ms, analysed in {analysis:.1f} ms.")


def _plain(field: ReceptiveField) -> dict[str, Any]:
    bounded = field.size != inf
    return {
        "size": field.size if bounded else None,
        "stride": field.stride if isinstance(field.stride, int) else str(field.stride),
        "padding": field.padding if bounded and field.phases[0] else None,
        "phases": field.phases if bounded else None,
    }


def _across(fields: tuple[ReceptiveField, ...], key: str) -> str:
    values = [str(_plain(field)[key]).replace("None", "-") for field in fields]
    if key == "size":
        values = [str(field.size) for field in fields]
    return values[0] if len(set(values)) == 1 else "x".join(values)


def sizes(
    network: str,
    /,
    *,
    to: str | None = None,
    at: tuple[int, int] = (512, 512),
    channels: int = 3,
) -> None:
    """Which input sizes a network divides into whole cells, and the margin they need.

    Exit code 2, with one sentence, where there is no such size.

    Args:
        network: A name of torchvision, such as resnet50, or module:function that
            returns a network.
        to: The module whose output are the cells, such as layer4.
        at: Height and width of an input that the network takes; is it whole?
        channels: Channels of the input.
    """
    with one_sentence():
        axes = input_sizes(named_network(network), channels=channels, to=to, at=at)
    for name, axis, size in zip(("height", "width"), axes, at, strict=True):
        apart = f"{axis.stride} pixels apart"
        print(f"{name}: {axis} pixels give {axis.count} cells, {apart}")
        if axis.field.size == inf:
            print("  a cell sees the whole axis")
        else:
            print(
                f"  a cell sees {axis.field.size} pixels; of those that the first "
                f"sees, {axis.field.padding} are padding"
            )
            print(
                f"  margin on each side, to centre it on its own pixels: {axis.margin}"
            )
        try:
            print(f"  {size} pixels are {axis.cells(size)} whole cells")
        except ValueError as error:
            print(f"  {error}")
