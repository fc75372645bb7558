"""The command line: ``python -m dilated_lib COMMAND``, with ``--help`` for each."""

import sys
import time
from collections.abc import Callable
from json import dumps
from math import inf
from pathlib import Path
from typing import Any

import torch
import tyro

from dilated_lib.arithmetic import ReceptiveField, compose
from dilated_lib.context import ContextModule
from dilated_lib.data.shapes import Shapes
from dilated_lib.reach import Maps, accuracies, fit, front_end
from dilated_lib.records import Record, device_name, write
from dilated_lib.tracing import named_network, receptive_field


def reach(
    out: Path = Path("book/results/reach.json"),
    /,
    *,
    seeds: int = 5,
    steps: int = 1500,
    learning_rate: float = 0.003,
    scenes: int = 512,
    size: int = 52,
) -> None:
    """Train context modules of different reach on shapes; record accuracy by distance.

    The long version of chapter 10. Every module learns to label blank rectangles whose
    class only their outline tells. A record is written for each module and seed: the
    share of right pixels at every distance from the outline, on scenes of their own.

    Args:
        out: The file of records to write.
        seeds: Trainings of each module, with the seeds 0, 1, …
        steps: Steps of training, two scenes in all seven colours each.
        learning_rate: The largest, of Adam's; it rises and falls once.
        scenes: Scenes to train on.
        size: Height and width of a picture in pixels.
    """
    config = {
        "steps": steps,
        "learning_rate": learning_rate,
        "scenes": scenes,
        "size": size,
    }
    train, test = (
        Maps.of(Shapes(count, size=size, seed=seed))
        for seed, count in ((0, scenes), (1, 200))
    )
    front = front_end(train, generator=torch.Generator().manual_seed(0))
    train, test = train.through(front), test.through(front)
    done = []
    for dilations in STACKS:
        for seed in range(seeds):
            begin = time.perf_counter()
            generator = torch.Generator().manual_seed(seed)
            module = ContextModule(len(Shapes.classes), dilations=dilations)
            module.reset_parameters(generator=generator)
            losses = fit(
                module,
                train,
                steps=steps,
                learning_rate=learning_rate,
                generator=generator,
            )
            shares = accuracies(module, test, farthest=20)
            done.append(
                Record(
                    experiment="reach/" + ",".join(map(str, dilations)),
                    seed=seed,
                    config=config,
                    metrics={
                        "receptive_field": compose(module.windows).size,
                        "loss": round(sum(losses[-50:]) / 50, 4),
                        "accuracy_by_distance": [round(100 * s, 2) for s in shares],
                    },
                    seconds=round(time.perf_counter() - begin, 1),
                    device=device_name(torch.device("cpu")),
                )
            )
            write(out, done)


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
    try:
        answer = receptive_field(named_network(network), size, of=of, to=to)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
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
        print(f"Unbounded: {answer.unbounded} reads a whole axis.")
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


STACKS = (
    (1, 1, 1, 1, 1),
    (1, 1, 2, 2, 1),
    (1, 1, 2, 4, 1),
    (1, 2, 4, 4, 1),
    (1, 2, 4, 8, 1),
    (2, 2, 2, 2, 2),  # holes
    (1,) * 9,
)


if __name__ == "__main__":
    commands: dict[str, Callable[..., Any]] = {"rf": rf, "reach": reach}
    tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
