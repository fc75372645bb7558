"""Scores of each drive, and of the split that they make up."""

from dataclasses import asdict

import pytest
import torch

import dilated_lib as dl
from dilated_lib.data.labelled import VOID
from dilated_lib.experiments.scores_by_drive import DriveMeter, drive_of

CLASSES = ("road", "sky", "car")


def pictures():
    """Names, predictions and labels (6, 8) of five pictures, two drives."""
    draw = torch.Generator().manual_seed(0)
    for number, drive in enumerate("aabab"):
        predicted, labels = torch.randint(3, (2, 6, 8), generator=draw)
        labels[0] = VOID
        yield f"{drive}_{number}.png", predicted, labels


@pytest.mark.parametrize(
    ("name", "drive"),
    [("0001TP_008550.png", "0001TP"), ("a_b_c", "a"), ("7.png", "7"), ("x/y_1", "y")],
)
def test_a_drive_is_what_stands_before_the_first_underscore(name, drive):
    assert drive_of(name) == drive


def test_a_drive_is_scored_as_if_it_were_the_whole_split():
    meters = {name: DriveMeter(CLASSES) for name in ("both", "a", "b")}
    for name, predicted, labels in pictures():
        for one in ("both", drive_of(name)):
            meters[one].update(name, predicted, labels)
    both = meters["both"].compute()
    assert {name: one.pictures for name, one in both.drives.items()} == {"a": 3, "b": 2}
    for drive in "ab":
        alone = asdict(meters[drive].compute())
        alone.pop("drives")
        assert asdict(both.drives[drive]) == {**alone, "pictures": 2 + (drive == "a")}


def test_the_split_is_scored_as_by_evaluate():
    meter, data = DriveMeter(CLASSES), []
    answers = {}
    for name, predicted, labels in pictures():
        meter.update(name, predicted, labels)
        answers[len(data)] = torch.eye(3)[predicted].permute(2, 0, 1)[None]
        data.append((torch.full((3, 6, 8), len(data)), labels))
    wanted = dl.evaluate(lambda one: answers[int(one[0, 0, 0, 0])], data, CLASSES)
    found = asdict(meter.compute())
    assert len(found.pop("drives")) == 2
    assert found == asdict(wanted)


def test_pixels_are_counted_by_label_and_prediction():
    meter, counts = DriveMeter(CLASSES), torch.zeros(3, 3, dtype=torch.long)
    for name, predicted, labels in pictures():
        meter.update(name, predicted, labels)
        for label, guess in zip(labels.flatten(), predicted.flatten(), strict=True):
            if label != VOID:
                counts[label, guess] += 1
    assert torch.equal(meter.confusion, counts)


def test_a_drive_without_labels_has_no_score():
    meter = DriveMeter(CLASSES)
    nothing = torch.full((2, 2), VOID)
    meter.update("night_1", torch.zeros(2, 2).long(), nothing)
    with pytest.raises(ValueError, match="no pixel has a label"):
        meter.compute()
    meter.update("day_1", torch.zeros(2, 2).long(), torch.zeros(2, 2).long())
    assert [*meter.compute().drives] == ["day"]
