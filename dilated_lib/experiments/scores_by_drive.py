"""Scores of a split as a whole, and of each drive in it.

The frames of one drive show one street in one light, so they are not independent
pictures: a score says more of other streets if it is given for each drive.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from dilated_lib.data.labelled import VOID
from dilated_lib.prediction.metric import Scores, scores

__all__ = ["DriveMeter", "DriveScores", "SplitScores", "drive_of"]


@dataclass(frozen=True)
class DriveScores(Scores):
    """Scores of one drive, and how many ``pictures`` they were measured on.

    >>> DriveScores(miou=50.0, accuracy=75.0, per_class={"road": 50.0}, pictures=62)
    DriveScores(miou=50.0, accuracy=75.0, per_class={'road': 50.0}, pictures=62)
    """

    pictures: int


@dataclass(frozen=True)
class SplitScores(Scores):
    """Scores of all pixels of a split, and of each drive, by its name.

    >>> whole = SplitScores(miou=50.0, accuracy=75.0, per_class={}, drives={})
    >>> isinstance(whole, Scores)
    True
    """

    drives: dict[str, DriveScores]


def drive_of(name: str) -> str:
    """Return the drive of a picture: its name up to the first underscore.

    >>> drive_of("Seq05VD_f04080.png"), drive_of("alone.png")
    ('Seq05VD', 'alone')
    """
    return Path(name).stem.partition("_")[0]


class DriveMeter:
    """Collects predictions, picture by picture, into one confusion matrix a drive.

    >>> import torch
    >>> meter = DriveMeter(("road", "sky"))
    >>> meter.update("day_1.png", torch.tensor([[0, 0]]), torch.tensor([[0, 1]]))
    >>> meter.update("night_1.png", torch.tensor([[1, 1]]), torch.tensor([[1, VOID]]))
    >>> found = meter.compute()
    >>> found.accuracy, found.drives["day"].accuracy, found.drives["night"].accuracy
    (66.67, 50.0, 100.0)
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._whole = self._meter()
        self._drives: dict[str, MulticlassJaccardIndex] = {}
        self._pictures: dict[str, int] = {}

    def _meter(self) -> MulticlassJaccardIndex:
        count = len(self._classes)
        return MulticlassJaccardIndex(count, average=None, ignore_index=VOID)

    def update(self, name: str, predicted: Tensor, labels: Tensor) -> None:
        """Count the pixels of one picture: predictions and labels (H, W), int64.

        ``name`` is the picture's, of which :func:`drive_of` reads the drive.
        """
        drive = drive_of(name)
        meter = self._drives.setdefault(drive, self._meter())
        self._pictures[drive] = self._pictures.get(drive, 0) + 1
        for one in (self._whole, meter):
            one.update(predicted, labels)

    @property
    def confusion(self) -> Tensor:
        """Count the pixels (C, C), int64, by label (row) and prediction (column)."""
        found: Tensor = self._whole.confmat
        return found

    def compute(self) -> SplitScores:
        """Compute the scores so far; a drive without any label is left out.

        Raises ValueError where no picture has a label.
        """
        whole = scores(self._whole, self._classes)
        drives = {
            name: DriveScores(
                **asdict(scores(meter, self._classes)), pictures=self._pictures[name]
            )
            for name, meter in self._drives.items()
            if meter.confmat.sum()
        }
        return SplitScores(**asdict(whole), drives=drives)
