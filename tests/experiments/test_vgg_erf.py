"""The record of what a unit of VGG-16 looks at: its crops, its weights, its numbers.

The photographs are small stand-ins whose pixels tell where they lie, the networks have
VGG-16's 30 layers with two channels, and the map of gradients is one that is known.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers

from dilated_lib import records
from dilated_lib.experiments import vgg_erf
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.networks import imagenet

# height and width, all above 224 and in no order; a pixel's red is the photograph's
# number, its green the row, and its blue the column
PHOTOGRAPHS = {
    "astronaut": (233, 238),
    "coffee": (250, 227),
    "chelsea": (229, 254),
    "rocket": (241, 245),
}
MEAN = (103.939, 116.779, 123.68)  # of blue, green and red


def narrow_vgg():
    """VGG-16 with two channels, and the pooling behind its last layer."""
    widths = [width if width == "M" else 2 for width in cfgs["D"]]
    return SimpleNamespace(features=make_layers(widths))


def photograph(number, height, width):
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([np.full_like(rows, number), rows, columns], 2)
    return picture.astype(np.uint8)


def known_map():
    """Two positions at the field's ends, one of them twice, and what lies outside."""
    found = np.zeros((224, 224))
    found[22, 217] = 10.0
    found[120, 100] = 20.0
    found[[21, 218, 120, 120], [120, 120, 21, 218]] = 50.0
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The records of two calls, and what each hands to the measurement.

    The first call takes torchvision's weights and every default; the second takes a
    file of weights and a single crop.
    """
    torch.manual_seed(7)
    trained = narrow_vgg().features[:30].state_dict()
    folder, given = tmp_path_factory.mktemp("erf"), []
    asked, fields, addresses = [], [], []

    def gradients(layers, pictures):
        weights = {name: one.clone() for name, one in layers.state_dict().items()}
        given.append((weights, pictures.clone()))
        return known_map()

    def field(layers, size):
        """Trace a network once, since all of them have the same layers."""
        asked.append((len(layers), size))
        fields[:] = fields or receptive_field(layers, size)
        return fields

    def published(url):
        addresses.append(url)
        features = {f"features.{name}": one for name, one in trained.items()}
        return {**features, "classifier.0.weight": torch.zeros(1)}

    with pytest.MonkeyPatch.context() as patch:
        for number, (name, size) in enumerate(PHOTOGRAPHS.items()):
            picture = photograph(number, *size)
            patch.setattr(f"skimage.data.{name}", lambda picture=picture: picture)
        patch.setattr("torchvision.models.vgg16", narrow_vgg)
        patch.setattr(imagenet, "published_weights", published)
        patch.setattr(vgg_erf, "receptive_field", field)
        patch.setattr(vgg_erf, "effective_receptive_field", gradients)
        patch.chdir(folder)
        torch.manual_seed(3)  # the untrained network does not depend on it
        vgg_erf.erf()
        torch.save(trained, folder / "bgr.pth")
        vgg_erf.erf(folder / "one.json", weights=folder / "bgr.pth", crops=1)
    return SimpleNamespace(
        trained=trained,
        addresses=addresses,
        asked=asked,
        given=given,
        written=records.read_file(folder / "book" / "results" / "vgg16_erf.json"),
        one=records.read_file(folder / "one.json"),
    )


def test_the_book_s_record_is_written_for_64_crops_with_and_without_training(measured):
    names = ["erf/vgg16-random", "erf/vgg16-imagenet"]
    for rows, crops in ((measured.written, 64), (measured.one, 1)):
        assert [row.experiment for row in rows] == names
        for row in rows:
            assert row.config == {"crops": crops, "unit": "the middle of conv5_3"}


def test_each_network_looks_at_the_same_known_crops_in_bgr_minus_the_mean(measured):
    corners = torch.tensor(MEAN)[:, None, None]
    draw = torch.Generator().manual_seed(0)
    first = [(4, 9), (20, 0), (1, 23), (7, 11), (7, 3)]
    for number in range(64):
        name = [*PHOTOGRAPHS][number % 4]
        row, column = (
            torch.randint(side - 223, (), generator=draw).item()
            for side in PHOTOGRAPHS[name]
        )
        assert number >= len(first) or (row, column) == first[number]
        rows, columns = torch.meshgrid(
            torch.arange(row, row + 224.0),
            torch.arange(column, column + 224.0),
            indexing="ij",
        )
        red = torch.full_like(rows, number % 4)
        wanted = torch.stack([columns, rows, red]) - corners
        for _, pictures in measured.given[:2]:
            assert pictures.shape == (64, 3, 224, 224)
            torch.testing.assert_close(pictures[number], wanted)
    for _, pictures in measured.given[2:]:
        assert torch.equal(pictures, measured.given[0][1][:1])


def test_the_untrained_network_is_the_one_of_seed_0(measured):
    torch.manual_seed(0)
    untrained = narrow_vgg().features[:30].state_dict()
    for weights, _ in (measured.given[0], measured.given[2]):
        assert [*weights] == [*untrained]
        for name, one in weights.items():
            assert torch.equal(one, untrained[name]), name


def test_torchvision_s_weights_for_rgb_are_turned_into_those_for_bgr(measured):
    (address,) = measured.addresses
    assert address.rpartition("/")[2] == "vgg16_features-amdegroot-88682ab5.pth"
    weights, _ = measured.given[1]
    for name, one in measured.trained.items():
        wanted = one[:, [2, 1, 0]] if name == "0.weight" else one
        assert torch.equal(weights[name], wanted), name


def test_weights_of_a_file_are_for_bgr_already(measured):
    weights, _ = measured.given[3]
    for name, one in measured.trained.items():
        assert torch.equal(weights[name], one), name


def test_deviations_and_probabilities_are_those_of_the_field_alone(measured):
    """A third lies 97.5 rows above and 97.5 columns right of the field's middle.

    The other two thirds lie half a row below it and 19.5 columns to its left.
    """
    assert measured.asked == 4 * [(30, (3, 224, 224))]
    for row in (*measured.written, *measured.one):
        assert [*row.metrics] == ["receptive_field", "deviation", "share_of_4x4"]
        assert row.metrics["receptive_field"] == 196
        # the roots of (97.5² + 2 · 0.5²) / 3 and of (97.5² + 2 · 19.5²) / 3
        assert row.metrics["deviation"] == [56.29, 58.5]
        wanted = np.zeros((49, 49))
        wanted[0, 48], wanted[24, 19] = 0.333, 0.667
        assert row.metrics["share_of_4x4"] == wanted.tolist()
