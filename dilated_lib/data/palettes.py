"""Class names and their colours (RGB), in the order of the released networks."""

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "PASCAL_VOC",
    "VOC_ANIMALS",
    "Colour",
    "voc_colour",
]

Colour = tuple[int, int, int]


def voc_colour(index: int) -> Colour:
    """Return VOC's colour of a class.

    The bits of the class's index are dealt out to red, green and blue in turn.

    >>> voc_colour(15), voc_colour(255)
    ((192, 128, 128), (224, 224, 192))
    """
    red, green, blue = (
        sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(8))
        for channel in range(3)
    )
    return red, green, blue


_VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car"),
    *("cat", "chair", "cow", "dining table", "dog", "horse", "motorbike", "person"),
    *("potted plant", "sheep", "sofa", "train", "tv monitor"),
)
PASCAL_VOC = {name: voc_colour(index) for index, name in enumerate(_VOC_NAMES)}
VOC_ANIMALS = {
    name: PASCAL_VOC[name]
    for name in ("background", "cat", "cow", "dog", "horse", "person", "sheep")
}
CAMVID: dict[str, Colour] = {
    "building": (128, 0, 0),
    "tree": (128, 128, 0),
    "sky": (128, 128, 128),
    "car": (64, 0, 128),
    "sign": (192, 128, 128),
    "road": (128, 64, 128),
    "pedestrian": (64, 64, 0),
    "fence": (64, 64, 128),
    "pole": (192, 192, 128),
    "sidewalk": (0, 0, 192),
    "bicyclist": (0, 128, 192),
}
CITYSCAPES: dict[str, Colour] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
