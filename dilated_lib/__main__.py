"""The command line: ``python -m dilated_lib COMMAND``, with ``--help`` for each."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import dumps
from math import inf
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from dilated_lib import networks, traps
from dilated_lib.arithmetic import ReceptiveField
from dilated_lib.experiments import erf, reach
from dilated_lib.plan import plan
from dilated_lib.segment import predict
from dilated_lib.sizes import input_sizes
from dilated_lib.tracing import named_network, receptive_field
from dilated_lib.weights import load


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Exit code 2, and what was wrong, without a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


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
    with _one_sentence():
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
    widest = max(map(len, names))
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
    with _one_sentence():
        axes = input_sizes(named_network(network), channels=channels, to=to, at=at)
    for name, axis, size in zip(("height", "width"), axes, at, strict=True):
        print(f"{name}: {axis} pixels give n cells, {axis.stride} pixels apart")
        print(
            f"  a cell sees {axis.field.size} pixels; of those that the first sees, "
            f"{axis.field.padding} are padding"
        )
        print(f"  margin on each side, to centre it on its own pixels: {axis.margin}")
        try:
            print(f"  {size} pixels are {axis.cells(size)} whole cells")
        except ValueError as error:
            print(f"  {error}")


def segment(
    image: Path,
    /,
    *,
    network: Literal[
        "dilation8_pascal_voc",
        "dilation8_camvid",
        "dilation7_kitti",
        "dilation10_cityscapes",
    ],
    weights: Path,
    output: Path,
    fc_channels: int = 4096,
    tile: tuple[int, int] | None = None,
    context: Literal["whole", "tiles"] = "whole",
    upsampling: Literal["released", "deconvolution", "half_pixel"] | None = None,
) -> None:
    """Segment a picture of any size: a PNG whose pixels are class ids, with a palette.

    Runs on a GPU where there is one. Exit code 2, with one sentence, and nothing
    written, where something does not fit.

    Args:
        image: The picture.
        network: One of the paper's.
        weights: Its weights: a .caffemodel as released, .safetensors, or a state dict.
        output: The PNG to write; one that is there is replaced.
        fc_channels: Channels of fc6 and fc7, where they are fewer than the paper's.
        tile: Height and width in pixels of the tiles that the front end sees, the
            released ones by default; smaller ones take less memory.
        context: Run the context module on the whole picture, or on each tile with zeros
            around it, as the released code does.
        upsampling: From cells to pixels; the released network's by default.
    """
    with _one_sentence():
        if output.suffix.lower() != ".png" or not output.parent.is_dir():
            raise ValueError(f"{output} must be a .png file in a folder that is there")
        built = getattr(networks, network)(fc_channels=fc_channels)
        load(built, weights)
        built.to("cuda" if torch.cuda.is_available() else "cpu")
        done = predict(
            image,
            built,
            tile=tile,
            context=context,
            upsampling=upsampling,
            progress=True,
        )
        done.save(output)
    seen = [done.labels == index for index in range(len(done.palette))]
    for name, where in zip(done.palette, seen, strict=True):
        if where.any():
            print(f"{name:14} {100 * where.mean():5.1f} %")


if __name__ == "__main__":
    commands: dict[str, Callable[..., Any]] = {
        "rf": rf,
        "sizes": sizes,
        "segment": segment,
        "erf": erf,
        "reach": reach,
        "traps": traps.measure,
        "plan": plan,
    }
    tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
