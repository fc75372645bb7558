"""The recorder of the experiments: it times them, and writes what they measured."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dilated_lib.records import Record, device_name, read_file, write

__all__ = ["Recorder"]


class Recorder:
    """Collects the records of an experiment in one file.

    The file is written whole after every record, so an experiment that is stopped loses
    only what it was measuring. A block that raises leaves no record.

    Raises ValueError where ``keep`` meets a file that is broken.

    Args:
        out: The file of records to write.
        keep: Keep the records that are in the file already.
        by_name: Hold one record of each experiment, the newest, in the order of names.
        device: The device that is measured on.
        packages: Packages whose versions the records name, in addition to torch's.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     recorder = Recorder(Path(folder) / "sums.json")
    ...     with recorder.record("sums/small", config={"up to": 3}) as metrics:
    ...         metrics["sum"] = 1 + 2 + 3
    ...     [one.metrics for one in read_file(Path(folder) / "sums.json")]
    [{'sum': 6}]
    """

    def __init__(
        self,
        out: Path,
        *,
        keep: bool = False,
        by_name: bool = False,
        device: torch.device | None = None,
        packages: Sequence[str] = (),
    ) -> None:
        self.records = read_file(out) if keep and out.is_file() else []
        self._out, self._by_name, self._packages = out, by_name, packages
        self._device = device_name(device or torch.device("cpu"))

    def has(self, experiment: str, *, seed: int = 0, config: dict[str, Any]) -> bool:
        """Tell whether there is a record of this experiment, seed and settings.

        ``config`` holds plain numbers and words, as it comes back from a file.
        """
        return any(
            (one.experiment, one.seed, one.config) == (experiment, seed, config)
            for one in self.records
        )

    @contextmanager
    def record(
        self, experiment: str, *, seed: int = 0, config: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Time a block, and write a record with the metrics that it fills in."""
        metrics: dict[str, Any] = {}
        begin = time.perf_counter()
        yield metrics
        seconds = time.perf_counter() - begin
        self.add(experiment, seed=seed, config=config, metrics=metrics, seconds=seconds)

    def add(
        self,
        experiment: str,
        *,
        seed: int = 0,
        config: dict[str, Any],
        metrics: dict[str, Any],
        seconds: float,
    ) -> None:
        """Write a record of something that was measured and timed elsewhere.

        Args:
            experiment: The record's name, such as ``reach/1,1,2,4,1``.
            seed: The seed of what was random.
            config: The settings that were chosen.
            metrics: The numbers that came out.
            seconds: The wall-clock time that it took.
        """
        made = Record(
            experiment=experiment,
            seed=seed,
            config=dict(config),
            metrics=metrics,
            seconds=round(seconds, 1),
            device=self._device,
        )
        others = {package: version(package) for package in self._packages}
        self.records.append(replace(made, versions=made.versions | others))
        if self._by_name:
            newest = {one.experiment: one for one in self.records}
            self.records = [newest[name] for name in sorted(newest)]
        write(self._out, self.records)
