"""Mean IoU: counted by hand, and over the whole split."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision import tv_tensors

from dilated_lib.data.labelled import class_counts
from dilated_lib.data.scenes import ShapeScenes
from dilated_lib.prediction.metric import Scores, evaluate, evaluate_both, scores


class Split(Dataset):
    """Label maps, with pictures whose blue is what a network is to predict."""

    def __init__(self, labels, predictions):
        self.maps = [
            [torch.as_tensor(np.asarray(one, "u1")) for one in pair]
            for pair in zip(labels, predictions, strict=True)
        ]

    def __len__(self):
        return len(self.maps)

    def __getitem__(self, index):
        labels, predicted = self.maps[index]
        picture = torch.zeros(3, *labels.shape, dtype=torch.uint8)
        picture[2] = predicted
        return tv_tensors.Image(picture), tv_tensors.Mask(labels)


def blue(classes):
    """A network that sees its prediction."""

    def shares(images):
        assert images.shape[:2] == (1, 3) and images.dtype == torch.uint8
        return F.one_hot(images[:, 2].long(), classes).permute(0, 3, 1, 2).float()

    return shares


def measured(labels, predictions, classes="abc", **options):
    split = Split(labels, predictions)
    return evaluate(blue(len(classes)), split, tuple(classes), **options)


def percent(numerator, denominator=1):
    return round(float(100 * Fraction(numerator, denominator)), 2)


def test_scores_counted_by_hand():
    labels = [[[0, 0, 0, 1], [1, 1, 2, 255]]]
    predictions = [[[0, 0, 1, 1], [1, 0, 2, 2]]]
    # a: 2 of 4; b: 2 of 4; c: 1 of 1; the eighth pixel is void
    assert measured(labels, predictions) == Scores(
        miou=percent(2, 3),
        accuracy=percent(5, 7),
        per_class={"a": 50, "b": 50, "c": 100},
    )


def test_void_pixels_do_not_count_whatever_is_predicted_there():
    for predicted in range(3):
        predictions = [[[0, 1], [predicted, predicted]]]
        found = measured([[[0, 1], [255, 255]]], predictions)
        assert found == Scores(100, 100, {"a": 100, "b": 100, "c": None})


def test_a_class_that_is_nowhere_does_not_count_and_one_only_predicted_is_wrong():
    found = measured([[[0, 0, 0, 1]]], [[[0, 0, 1, 1]]])
    assert found.per_class == {"a": percent(2, 3), "b": 50, "c": None}
    assert found.miou == percent(Fraction(2, 3) + Fraction(1, 2), 2)
    found = measured([[[0, 0, 0, 1]]], [[[0, 0, 2, 1]]])
    assert found.per_class == {"a": percent(2, 3), "b": 100, "c": 0}
    assert found.miou == percent(Fraction(2, 3) + 1, 3)


def test_pixels_of_the_whole_split_are_counted_and_pictures_are_not_averaged():
    labels = [[[0] * 9 + [1]], [[0, 1]]]
    predictions = [[[0] * 10], [[1, 1]]]
    found = measured(labels, predictions, "ab")
    a, b = Fraction(9, 11), Fraction(1, 3)
    assert found.per_class == {"a": percent(a), "b": percent(b)}
    assert found.miou == percent(a + b, 2)
    one, two = (
        measured(labels[n : n + 1], predictions[n : n + 1], "ab").miou for n in (0, 1)
    )
    assert abs((one + two) / 2 - found.miou) > 20  # another number


def test_pictures_of_a_split_may_differ_in_size():
    labels = [[[0, 1], [1, 1]], [[2, 2, 2]]]
    found = measured(labels, [[[0, 1], [1, 0]], [[2, 2, 0]]])
    assert found.per_class == {
        "a": percent(1, 3),
        "b": percent(2, 3),
        "c": percent(2, 3),
    }


@settings(max_examples=50)
@given(classes=st.integers(2, 7), seed=st.integers(0, 10**6))
def test_scores_are_those_of_a_confusion_matrix_counted_by_numpy(classes, seed):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 9, (draw.integers(1, 4), 2))
    # of some classes nothing, and of some little
    often = draw.dirichlet(np.full(classes, 0.4))
    ids, chance = [*range(classes), 255], [*(0.8 * often), 0.2]
    labels = [draw.choice(ids, size, p=chance) for size in sizes]
    predictions = [draw.choice(classes, size, p=often) for size in sizes]
    labels[0][0, 0] = 0
    matrix = np.zeros((classes, classes), int)
    for label, predicted in zip(labels, predictions, strict=True):
        there = label != 255
        np.add.at(matrix, (label[there], predicted[there]), 1)
    each = {}
    for number in range(classes):
        union = matrix[number].sum() + matrix[:, number].sum() - matrix[number, number]
        each[str(number)] = Fraction(int(matrix[number, number]), int(union or 1))
        if not union:
            each[str(number)] = None
    known = [one for one in each.values() if one is not None]
    found = measured(labels, predictions, [*each])
    accuracy = Fraction(int(np.trace(matrix)), int(matrix.sum()))
    pairs = [
        (found.miou, sum(known) / len(known)),
        (found.accuracy, accuracy),
        *zip(found.per_class.values(), each.values(), strict=True),
    ]
    assert [*found.per_class] == [*each]
    for value, exact in pairs:
        assert (value is None) == (exact is None)
        assert (
            value is None or abs(value - float(100 * exact)) < 0.00502
        )  # of which 0.00002 for float32


def test_the_mirrored_picture_is_averaged_in():
    seen = []

    def shares(images):
        """Sure of class a on the left, wrong on the right."""
        seen.append(images[0, 2].tolist())
        left = torch.tensor([0.9, 0.6, 0.45, 0.2])
        return torch.stack([left, 1 - left])[None, :, None]

    split = Split([[[0, 0, 0, 0]]], [[[5, 6, 7, 8]]])
    assert evaluate(shares, split, ("a", "b")).accuracy == 50
    assert seen == [[[5, 6, 7, 8]]]
    # 0.55 and 0.525 once each is turned back
    assert evaluate(shares, split, ("a", "b"), flip=True).accuracy == 100
    assert seen[1:] == [[[5, 6, 7, 8]], [[8, 7, 6, 5]]]
    both = evaluate_both(shares, split, ("a", "b"))
    assert [one.accuracy for one in both] == [50, 100]
    assert seen[3:] == seen[1:3]  # one prediction less than two measurements take


def test_where_no_pixel_has_a_label_there_is_nothing_to_measure():
    with pytest.raises(ValueError, match="no pixel has a label"):
        measured([[[255, 255]]], [[[0, 1]]])


def test_a_metric_of_torchmetrics_gives_the_same():
    draw = torch.Generator().manual_seed(0)
    metric = MulticlassJaccardIndex(4, average=None, ignore_index=255)
    for _ in range(3):
        labels = torch.randint(0, 4, (2, 9, 9), generator=draw)
        labels[torch.rand(2, 9, 9, generator=draw) < 0.2] = 255
        metric.update(torch.randint(0, 4, (2, 9, 9), generator=draw), labels)
    own = (100 * metric.compute()).tolist()
    found = scores(metric, ("a", "b", "c", "d"))
    assert [*found.per_class.values()] == pytest.approx(own, abs=0.006)
    assert found.miou == pytest.approx(sum(own) / 4, abs=0.006)


def test_one_process_measures_without_waiting_for_others(monkeypatch):
    """The first process alone does; torchmetrics would gather from all of them."""

    def gather(*_, **__):
        raise AssertionError("waits for other processes")

    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    monkeypatch.setattr(Metric, "_sync_dist", gather)
    assert measured([[[0, 1]]], [[[0, 1]]]).miou == 100


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_change_nothing(capsys):
    def shares(images):
        return F.one_hot(images[:, 0].long() // 64, 4).permute(0, 3, 1, 2)

    names = tuple(ShapeScenes.palette)
    one, two = (
        evaluate(shares, ShapeScenes(4), names, workers=workers) for workers in (0, 2)
    )
    assert one == two and one.accuracy > 0
    assert capsys.readouterr() == ("", "")  # no bar unless asked for
    evaluate(shares, ShapeScenes(1), names, progress=True)
    assert "pictures" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_other_processes_read_pictures_where_they_are_asked_to():
    read = []

    class Noting(Split):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    split = Noting(*[[[[0, 1]], [[1, 0]]]] * 2)
    assert evaluate(blue(2), split, ("a", "b")).miou == 100
    assert read == [0, 1]
    assert evaluate(blue(2), split, ("a", "b"), workers=1).miou == 100
    assert read == [0, 1]  # the list of this process


def test_a_map_of_another_shape_and_a_negative_label_are_refused():
    samples = [(torch.zeros(3, 1, 4), torch.zeros(1, 4, dtype=torch.uint8))]
    turned = torch.zeros(1, 2, 4, 1)
    with pytest.raises(ValueError, match=r"\(1, 4\) pixels .* got \(4, 1\)"):
        evaluate(lambda images: turned, samples, ("a", "b"))
    samples = [(torch.zeros(3, 1, 4), torch.tensor([[0, 0, -1, 1]]))]
    with pytest.raises(ValueError, match="or 255 for void, got -1"):
        evaluate(lambda images: turned.mT, samples, ("a", "b"))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_probabilities_that_are_not_finite_are_not_scored(value, flip):
    samples = [(torch.zeros(3, 1, 4), torch.zeros(1, 4, dtype=torch.uint8))]
    shares = torch.full((1, 2, 1, 4), 0.5)
    shares[0, 1, 0, 2] = value
    with pytest.raises(ValueError, match="probabilities must be finite"):
        evaluate(lambda images: shares, samples, ("a", "b"), flip=flip)


def test_a_network_of_other_classes_is_refused():
    samples = [(torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.uint8))]
    five = torch.eye(5)[[4]][:, :, None, None].expand(1, 5, 4, 4)
    with pytest.raises(ValueError, match="network has 5 classes, the data set 4: a, b"):
        evaluate(lambda images: five, samples, ("a", "b", "c", "d"))


@pytest.mark.parametrize("strict", [False, True])
def test_a_label_that_is_no_class_is_refused(strict):
    labels = torch.zeros(4, 4, dtype=torch.uint8)
    shares = torch.eye(4)[[0]][:, :, None, None].expand(1, 4, 4, 4)
    torch.use_deterministic_algorithms(strict)
    try:
        samples = [(torch.zeros(3, 4, 4), labels)]
        for label in (4, 5, 254):
            labels[0, 0] = label
            with pytest.raises(ValueError, match=f"4, or 255 for void, got {label}"):
                evaluate(lambda images: shares, samples, ("a", "b", "c", "d"))
    finally:
        torch.use_deterministic_algorithms(False)
    for label in (4, 254):
        labels[0, 0] = label
        with pytest.raises(ValueError, match=f"below 4, or 255 for void, got {label}"):
            class_counts([(None, labels)], 4)
