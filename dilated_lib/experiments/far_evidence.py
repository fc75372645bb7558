"""Does a trained context module use far cells? Replace them, and look.

A unit of the basic module could read 67 × 67 cells. Whether it does is asked of trained
modules on real streets: around a cell everything within ``radius`` rows and columns is
kept, and all else becomes another picture's logits, at the same places. If the label of
the cell is right as often as before, what lay beyond did not matter. The module runs on
the whole map, so its border stays where it was.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dilated_lib.data.labelled import VOID
from dilated_lib.experiments.context_evidence import MODULES
from dilated_lib.experiments.recorder import Recorder
from dilated_lib.experiments.scores_by_drive import drive_of
from dilated_lib.experiments.stored_logits import FrontEnd, Logits

__all__ = ["RADII", "far", "replaced"]

RADII = (0, 1, 3, 7, 15, 33)
_KINDS = ("same drive", "other drive")


def replaced(own: Tensor, other: Tensor, cell: tuple[int, int], radius: int) -> Tensor:
    """Return logits (C, h, w) that are ``own`` near a cell and ``other`` elsewhere.

    Near are the cells at most ``radius`` rows and columns away.

    >>> own, other = torch.ones(1, 3, 4), torch.zeros(1, 3, 4)
    >>> replaced(own, other, (0, 1), 1)[0].tolist()
    [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    mixed = other.clone()
    rows, columns = (slice(max(0, at - radius), at + radius + 1) for at in cell)
    mixed[:, rows, columns] = own[:, rows, columns]
    return mixed


def far(
    front: Path,
    /,
    *,
    data: str = "camvid",
    modules: tuple[str, ...] = ("no dilation", "no dilation 16", "basic"),
    seeds: int = 5,
    cells: int = 16,
    runs: Path = Path("runs"),
    out: Path = Path("book/results/evidence.json"),
) -> None:
    """Hide the far cells from trained context modules; add a record for each.

    The modules are those that ``python -m dilated_lib context`` trained and kept in
    ``runs``. From every test picture the same labelled cells are drawn for all of them.
    A record has the accuracy on these cells with nothing replaced, and for each radius
    with all else taken from another picture: one of the same drive, or of another one.

    Args:
        front: The file of the network on whose front end they were trained.
        data: A data set of drives, with the network's classes.
        modules: Their names.
        seeds: How many trainings of each.
        cells: Cells of each picture.
        runs: The folder of the modules' weights.
        out: The file of records to add to.
    """
    asked = FrontEnd(front, data)
    files, stored = asked.data, asked.logits("test")
    drawn = [*_drawn(stored, cells, torch.Generator().manual_seed(0))]
    recorder = Recorder(out, keep=True)
    config = {"data": files.name, "front": asked.digest, "cells": cells}
    for seed in range(seeds):
        for name in modules:
            experiment = f"evidence/far/{files.name}/{name}"
            if recorder.has(experiment, seed=seed, config=config):
                continue
            folder = runs / f"evidence/context/{files.name}/{name}/{asked.digest}"
            module = MODULES[name](len(asked.classes), torch.Generator())
            module.load_state_dict(load_file(folder / f"seed-{seed}.safetensors"))
            with recorder.record(experiment, seed=seed, config=config) as metrics:
                metrics |= _hidden(module, stored, drawn)


Drawn = tuple[int, tuple[int, int], int, dict[str, int]]


def _drawn(stored: Logits, cells: int, generator: torch.Generator) -> Iterator[Drawn]:
    """Draw picture, cell, label, and of each kind a picture for the replacement."""
    drives = [drive_of(name) for name in stored.names]
    for index, labels in enumerate(stored.labels):
        wanted = labels[4::8, 4::8]
        known = (wanted != VOID).nonzero()
        for one in torch.randperm(len(known), generator=generator)[:cells]:
            row, column = known[one].tolist()
            others = {}
            for kind in _KINDS:
                same = kind == "same drive"
                candidates = [
                    place
                    for place, drive in enumerate(drives)
                    if place != index and (drive == drives[index]) == same
                ]
                choice = torch.randint(len(candidates), (), generator=generator)
                others[kind] = candidates[int(choice)]
            yield index, (row, column), int(wanted[row, column]), others


def _hidden(
    module: nn.Module, stored: Logits, drawn: list[Drawn]
) -> dict[str, float | list[float]]:
    """Return percentages of the cells that are labelled rightly, by radius."""

    def accuracy(maps: Iterator[Tensor]) -> float:
        right = 0
        for first in range(0, len(drawn), 32):
            batch = torch.stack([*islice(maps, 32)])
            with torch.no_grad():
                found = module(batch).argmax(1)
            for labels, (_, cell, label, _) in zip(found, drawn[first:], strict=False):
                right += int(labels[cell] == label)
        return round(100 * right / len(drawn), 2)

    metrics: dict[str, float | list[float]] = {
        "whole": accuracy(stored.maps[index] for index, *_ in drawn)
    }
    for kind in _KINDS:
        metrics[kind] = [
            accuracy(
                replaced(stored.maps[index], stored.maps[others[kind]], cell, radius)
                for index, cell, _, others in drawn
            )
            for radius in RADII
        ]
    return metrics
