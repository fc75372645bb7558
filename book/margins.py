"""Run the notebooks that train, over seeds and CPUs, and write their margins down.

A notebook takes part if one of its cells has the tag ``parameters`` and sets ``SEEDS``.
Its cells are run up to the last claim, without figures and without ``assert``, so that
no claim hides another. They run once for each of five seeds and for each setting of
the CPU: the instruction sets that torch and oneDNN can be held to, one thread and two.
A last round has optimizers that do not step. Every claim must hold in all the others
and fail in that one; the exit code is 1 where one does not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from unittest.mock import MagicMock, patch

import nbformat
import torch
from IPython.core.inputtransformer2 import TransformerManager

import dilated_lib as dl
from dilated_lib.experiments.claims import Claim, collected
from dilated_lib.records import Record, device_name, write

ROOT = Path(__file__).parents[1]
# "default" of oneDNN means "no limit", so its smallest set is named
INSTRUCTIONS = {
    "SSE4.1": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "native": {},
}
OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def training_notebooks() -> list[Path]:
    """The notebooks with a cell that sets the seeds of their trainings."""
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return [path for path in paths if any(map(sets_seeds, _code(path)))]


def sets_seeds(cell: nbformat.NotebookNode) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def _code(path: Path) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def claims(path: Path, seed: int, *, trained: bool) -> list[Claim]:
    """The claims that a notebook makes when its trainings begin with ``seed``.

    Without ``trained`` every optimizer's step does nothing.
    """
    cells = _code(path)
    last = max(n for n, cell in enumerate(cells) if "claim(" in cell.source)
    names: dict[str, object] = {"__name__": "__main__"}
    with ExitStack() as stack:
        stack.enter_context(chdir(path.parent))
        stack.enter_context(redirect_stdout(None))
        stack.enter_context(patch.object(dl, "plot", MagicMock()))
        if not trained:
            for kind in OPTIMIZERS:
                stack.enter_context(patch.object(kind, "step", _no_step))
        made = stack.enter_context(collected())
        for cell in cells[: last + 1]:
            source = TransformerManager().transform_cell(cell.source)
            exec(compile(source, f"{path.name} {cell.id}", "exec", optimize=1), names)
            if sets_seeds(cell):
                names["SEEDS"] = (seed,)
    return made


def _no_step(self, closure=None):  # the closure has the backward pass in it
    return closure() if closure else None


def measure(path: Path, seeds: int, *, trained: bool) -> list[list[dict[str, object]]]:
    """The claims of one notebook, a list for each seed."""
    return [
        [asdict(one) for one in claims(path, seed, trained=trained)]
        for seed in range(seeds)
    ]


def elsewhere(
    path: Path, instructions: str, threads: int, seeds: int, *, trained: bool
) -> list[list[dict[str, object]]]:
    """The same in a process of its own, held to an instruction set."""
    settings = {**os.environ, **INSTRUCTIONS[instructions]}
    settings |= {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "claims.json"
        order = [str(path), "--seeds", str(seeds), "--claims", str(out)]
        order += [] if trained else ["--untrained"]
        subprocess.run([sys.executable, __file__, *order], check=True, env=settings)
        return json.loads(out.read_text())


def rounds(paths: list[Path], seeds: int) -> Iterator[tuple[Path, str, int, bool]]:
    """Every notebook on every setting of the CPU, and once without training."""
    for path in paths:
        yield path, "native", 1, False
        for instructions in INSTRUCTIONS:
            for threads in (1, 2):
                yield path, instructions, threads, True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--claims", type=Path, help="only this process; write here")
    parser.add_argument("--untrained", action="store_true")
    asked = parser.parse_args()
    paths = [path.resolve() for path in asked.notebooks] or training_notebooks()
    if asked.claims:
        found = measure(paths[0], asked.seeds, trained=not asked.untrained)
        asked.claims.write_text(json.dumps(found))
        return 0

    begin = time.perf_counter()
    order = [*rounds(paths, asked.seeds)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = [
            pool.submit(
                elsewhere, path, instructions, threads, asked.seeds, trained=trained
            )
            for path, instructions, threads, trained in order
        ]
    found: dict[tuple[str, str], dict[str, object]] = {}
    for (path, instructions, threads, trained), answer in zip(
        order, answers, strict=True
    ):
        for seed in answer.result():
            for one in (Claim(**values) for values in seed):
                row = found.setdefault(
                    (path.stem, one.name),
                    {"bound": one, "values": {}, "untrained": [], "margins": []},
                )
                if not trained:
                    row["untrained"].append(round(one.value, 4))
                    row.setdefault("missed", []).append(one.margin)
                    continue
                setting = f"{instructions}, threads: {threads}"
                row["values"].setdefault(setting, []).append(round(one.value, 4))
                row["margins"].append(one.margin)
    seconds = round(time.perf_counter() - begin, 1)
    there = dl.records.results() / "margins.json"
    kept = dl.records.read("margins") if asked.notebooks and there.exists() else []
    chapters = {path.stem[:2] for path in paths}
    done = [one for one in kept if one.config["chapter"] not in chapters]
    bad = 0
    for (notebook, name), row in found.items():
        holds = min(row["margins"]) > 0
        fails = all(not margin > 0 for margin in row["missed"])
        bad += not (holds and fails)
        word = (
            ""
            if holds and fails
            else "  <- " + ("holds without training" if holds else "fails")
        )
        print(f"{notebook[:2]} {name}: margin {min(row['margins']):.3g}{word}")
        done.append(
            Record(
                experiment=f"margins/{notebook}",
                seed=0,
                config={
                    "chapter": notebook[:2],
                    "claim": name,
                    "above": row["bound"].above,
                    "below": row["bound"].below,
                    "seeds": asked.seeds,
                },
                metrics={
                    "margin": round(min(row["margins"]), 4),
                    "values": row["values"],
                    "untrained": row["untrained"],
                },
                seconds=seconds,
                device=device_name(torch.device("cpu")),
            )
        )
    done.sort(key=lambda one: one.config["chapter"])
    write(there, done)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
