"""Names and colours of classes against those that others published."""

from torchvision.datasets import Cityscapes
from torchvision.models.segmentation import FCN_ResNet50_Weights

from dilated_lib.data.palettes import (
    CAMVID,
    CITYSCAPES,
    PASCAL_VOC,
    VOC_ANIMALS,
    voc_colour,
)


def test_cityscapes_are_torchvisions():
    classes = {one.train_id: one for one in Cityscapes.classes}
    wanted = {classes[number].name: classes[number].color for number in range(19)}
    assert [*CITYSCAPES.items()] == [*wanted.items()]


def test_camvids_are_those_of_the_released_network():
    """In its order: ``datasets/camvid.json`` of fyu/dilation."""
    released = [
        *([128, 0, 0], [128, 128, 0], [128, 128, 128], [64, 0, 128], [192, 128, 128]),
        *([128, 64, 128], [64, 64, 0], [64, 64, 128], [192, 192, 128], [0, 0, 192]),
        [0, 128, 192],
    ]
    assert [[*colour] for colour in CAMVID.values()] == released
    assert [*CAMVID] == [
        *("building", "tree", "sky", "car", "sign", "road", "pedestrian", "fence"),
        *("pole", "sidewalk", "bicyclist"),
    ]


def test_vocs_names_are_torchvisions_and_its_colours_the_development_kits():
    names = FCN_ResNet50_Weights.DEFAULT.meta["categories"]
    assert [name.replace(" ", "") for name in PASCAL_VOC] == [
        name.strip("_") for name in names
    ]
    assert [*PASCAL_VOC.values()] == [voc_colour(index) for index in range(21)]
    for index in (*range(256), 2**24 - 1):
        wanted, rest = [0, 0, 0], index
        for place in range(8):  # as VOClabelcolormap.m does
            for channel in range(3):
                wanted[channel] |= (rest >> channel & 1) << 7 - place
            rest >>= 3
        assert voc_colour(index) == tuple(wanted)


def test_the_animals_are_vocs_six_with_legs_and_the_background():
    assert [*VOC_ANIMALS] == [
        *("background", "cat", "cow", "dog", "horse", "person", "sheep")
    ]
    assert VOC_ANIMALS.items() <= PASCAL_VOC.items()
