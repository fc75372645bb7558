"""Prediction with networks that are not the paper's: any module, any function."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_network import tiny
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.prediction import segmentation
from dilated_lib.prediction.resizing import resized, resized_rows
from dilated_lib.prediction.segmentation import probabilities

DRAW = np.random.default_rng(0)
PHOTO = DRAW.integers(0, 256, (37, 53, 3), np.uint8)
IMAGES = torch.tensor(PHOTO).permute(2, 0, 1)[None]


def strided(classes=5, stride=4):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, classes, stride, stride=stride)
    return nn.Sequential(conv, nn.BatchNorm2d(classes), nn.Dropout(0.5))


def test_any_module_is_run_in_evaluation_and_left_in_its_mode():
    network = strided().train()
    network[1].eval()
    found = dl.predict(Image.fromarray(PHOTO), network)
    assert [one.training for one in network] == [True, False, True]
    with torch.no_grad():
        logits = network.eval()(IMAGES.float())
    wanted = F.interpolate(logits, (37, 53), mode="bilinear").softmax(1)[0]
    torch.testing.assert_close(found.probabilities, wanted)
    assert found.labels.dtype == np.uint8
    assert (found.labels == wanted.argmax(0).numpy()).all()
    assert [*found.palette] == ["0", "1", "2", "3", "4"]
    assert found.palette["1"] == (128, 0, 0)  # VOC's second colour


@pytest.mark.parametrize("make", [strided, tiny])
def test_threads_may_share_a_network_that_is_in_training(make):
    """None of them sees dropout, and the last to leave restores each mode."""
    network = make()
    wanted = dl.predict(PHOTO, network.eval()).probabilities
    network.train()
    held = next(network.children())
    held.eval()
    together = Barrier(8)

    def often(_):
        together.wait()
        return [dl.predict(PHOTO, network).probabilities for _ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        found = [one for several in pool.map(often, range(8)) for one in several]
    assert all(torch.equal(one, wanted) for one in found)
    assert network.training and not held.training


def test_a_function_gets_rgb_from_0_to_255_and_no_gradients():
    seen = []

    def by_colour(images):
        seen.append((images, torch.is_grad_enabled()))
        return images - 127

    found = dl.predict(PHOTO, by_colour)
    ((images, gradients),) = seen
    assert torch.equal(images, IMAGES.float()) and not gradients
    assert (found.labels == PHOTO.argmax(2)).all()


def test_a_module_may_have_no_parameters():
    found = dl.predict(PHOTO, nn.Identity())
    assert (found.labels == PHOTO.argmax(2)).all()


def test_logits_of_more_pixels_than_the_picture_are_interpolated_without_a_mean():
    logits = torch.randn(1, 3, 37 * 3, 53 * 3, generator=torch.manual_seed(0))
    wanted = F.interpolate(logits, (37, 53), mode="bilinear").softmax(1)[0]
    found = dl.predict(PHOTO, lambda _: logits).probabilities
    torch.testing.assert_close(found, wanted)


def test_torchvisions_segmentation_networks_give_their_logits_by_name():
    network = strided()
    named = dl.predict(PHOTO, lambda x: {"out": network.eval()(x), "aux": None})
    assert (named.labels == dl.predict(PHOTO, network).labels).all()


def test_a_network_in_half_precision_gets_images_in_half_precision():
    found = dl.predict(PHOTO, strided().bfloat16())
    assert found.probabilities.dtype == torch.float32
    near = dl.predict(PHOTO, strided()).probabilities
    assert (found.probabilities - near).abs().max() < 0.1


@pytest.mark.parametrize(("scale", "size"), [(2, (74, 106)), (0.4, (15, 21))])
def test_the_picture_is_enlarged_for_any_network_too(scale, size):
    """Or it shrinks, and then all of its pixels count."""
    seen = []
    found = dl.predict(PHOTO, lambda x: seen.append(x) or x, scale=scale)
    assert found.labels.shape == (37, 53)
    wanted = F.interpolate(IMAGES.float(), size, mode="bilinear", antialias=True)
    torch.testing.assert_close(seen[0], wanted, rtol=0, atol=2e-3)


def test_a_picture_shrinks_to_one_pixel_and_no_further():
    seen = []
    dl.predict(PHOTO, lambda x: seen.append(x.shape[2:]) or x, scale=0.001)
    assert seen == [(1, 1)]


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("size", [(74, 20), (13, 53), (38, 200), (1, 1)])
def test_a_part_of_a_resized_image_is_torchs(size, smooth):
    found = resized(IMAGES, size, smooth=smooth)
    images = IMAGES.double()  # of float32 torch rounds the places that it reads
    wanted = F.interpolate(images, size, mode="bilinear", antialias=smooth)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-3)
    rows, columns = (size[0] // 3, size[0]), (0, (size[1] + 1) // 2)
    for one, other in ((rows, columns), (rows, None), (None, columns)):
        part = resized(IMAGES, size, rows=one, columns=other, smooth=smooth)
        same = found[:, :, slice(*one or (None,)), slice(*other or (None,))]
        torch.testing.assert_close(part, same, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("length", "size", "part"), [(7, 5, (1, 3)), (5, 7, (2, 5)), (9, 4, (2, 3))]
)
def test_of_an_image_only_the_rows_that_count_are_read(length, size, part):
    """As many as the result's gradients reach."""
    image, ranges = torch.ones(1, 1, length, 1, requires_grad=True), []

    def read(first, end):
        ranges.append([*range(first, end)])
        return image[:, :, first:end]

    resized_rows(read, length, size, part).sum().backward()
    assert ranges == [image.grad.flatten().nonzero().flatten().tolist()]


def test_in_a_large_image_a_row_is_where_it_should_be():
    """Counted in float64: float32 would be off by a hundredth of a row."""
    length, size, part, far = 150_000, 190_000, (189_990, 189_998), 149_980

    def read(first, end):  # rows that hold their own number
        return (torch.arange(first, end) - far).float().view(1, 1, -1, 1)

    wanted = [(row + 0.5) * length / size - 0.5 - far for row in range(*part)]
    found = resized_rows(read, length, size, part).flatten()
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-4)


def test_290_classes_have_290_labels(tmp_path):
    def last(images):
        logits = torch.zeros(1, 290, *images.shape[2:])
        logits[:, 289], logits[:, 34, :5] = 1, 2
        return logits

    found = dl.predict(PHOTO, last)
    assert found.labels.dtype == np.uint16 and len(found.palette) == 290
    assert {*found.labels.ravel().tolist()} == {34, 289}
    found.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as saved:
        assert (np.asarray(saved) == found.labels).all()


@pytest.mark.parametrize(
    ("classes", "kind"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)]
)
def test_labels_have_the_smallest_type_that_holds_them(classes, kind):
    def network(images):
        return torch.zeros(1, classes, *images.shape[2:])

    assert dl.predict(PHOTO, network).labels.dtype == kind


def test_arrays_tensors_and_lists_are_pictures(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    kinds = [Image.fromarray(PHOTO), PHOTO, IMAGES[0], tmp_path / "photo.png"]
    network = strided()
    first, *others = dl.predict(kinds, network)
    for one in [*others, dl.predict((PHOTO,), network)[0]]:
        assert (one.labels == first.labels).all()
    assert dl.predict([], network) == []
    assert len(dl.predict([PHOTO, PHOTO[:8]])) == 2  # and the default network, too
    grey = dl.predict(PHOTO[..., 0], network)
    assert (
        grey.labels == dl.predict(PHOTO[..., :1].repeat(3, 2), network).labels
    ).all()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (PHOTO.astype(float), "values of type float64 have no known range"),
        (IMAGES[0].float() / 255, "values of type float32 have no known range"),
        (IMAGES, r"a tensor must be \(3, H, W\), got \(1, 3, 37, 53\)"),
        (IMAGES[0].permute(1, 2, 0), r"a tensor must be \(3, H, W\)"),
        (PHOTO.transpose(2, 0, 1), r"an array must be \(H, W, 3\), got \(3, 37, 53\)"),
        (PHOTO[:0], r"has no pixels, its shape is \(0, 53, 3\)"),
    ],
)
def test_what_is_not_a_picture_is_refused(picture, message):
    with pytest.raises(ValueError, match=message):
        dl.predict(picture, strided())


@pytest.mark.parametrize(
    ("make", "value"), [(strided, torch.nan), (strided, -torch.inf), (tiny, torch.inf)]
)
def test_what_is_not_finite_gets_no_label(make, value):
    """To argmax NaN is the largest number, so that a wrong label map would come out."""
    network, images = make(), IMAGES.float()
    images[0, 1, 5, 7] = value
    with pytest.raises(ValueError, match="pixels must be finite"):
        probabilities(network, images)
    last = network.front.final if make is tiny else network[0]
    last.bias.data[1] = value
    for options in ({}, {"context": "tiles"}) if make is tiny else ({},):
        message = f"{type(network).__name__} gave logits that are not finite"
        with pytest.raises(ValueError, match=message):
            dl.predict(PHOTO, network, **options)


@pytest.mark.parametrize(
    ("make", "scale"), [(tiny, 1), (tiny, 1.5), (strided, 1), (strided, 0.7)]
)
def test_labels_alone_are_those_of_the_probabilities(make, scale, monkeypatch):
    """In bands of a few rows, which begin anywhere in a cell."""
    whole = dl.predict(PHOTO, make(), scale=scale)
    monkeypatch.setattr(segmentation, "_BAND", 3 * PHOTO.shape[1])
    banded = dl.predict(PHOTO, make(), scale=scale)
    labels = dl.predict(PHOTO, make(), scale=scale, probabilities=False)
    torch.testing.assert_close(banded.probabilities, whole.probabilities)
    assert (labels.labels == banded.labels).all() and labels.probabilities is None
    assert labels.labels.dtype == np.uint8 and labels.palette == whole.palette


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            lambda x: x[0],
            r"<lambda> must give logits \(N, C, h, w\).*got \(3, 37, 53\)",
        ),
        (lambda x: x[:, 0], r"logits \(N, C, h, w\).*got \(1, 37, 53\)"),
        (lambda x: x.expand(2, 3, 37, 53), r"got \(2, 3, 37, 53\) for images \(1, 3"),
        (lambda x: x[:, :, :0], r"got \(1, 3, 0, 53\)"),
        (lambda x: x[:, :1], r"two classes or more, got \(1, 1, 37, 53\)"),
        (lambda x: [x], "got list"),
        (lambda x: {"logits": x}, "got dict"),
    ],
)
def test_an_output_that_is_not_logits_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        dl.predict(PHOTO, network)


def test_a_network_that_fails_is_told_with_the_size_it_was_given():
    with pytest.raises(RuntimeError) as failed:
        dl.predict(PHOTO, nn.Sequential(nn.Conv2d(4, 2, 1)))
    assert failed.value.__notes__ == ["Sequential was given images (1, 3, 37, 53)."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": (8, 8)}, "tile is an option of the paper's networks; Sequential is"),
        ({"context": "tiles"}, "context is an option of the paper's networks"),
        ({"upsampling": "released"}, "upsampling is an option of the paper's networks"),
        ({"scale": 0}, "scale must be a number above 0"),
        ({"scale": torch.inf}, "scale must be a number above 0, got inf"),
        ({"scale": torch.nan}, "scale must be a number above 0, got nan"),
    ],
)
def test_options_of_the_papers_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        probabilities(strided(), IMAGES, **options)
