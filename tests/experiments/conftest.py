import numpy as np
import pytest
import torch
from PIL import Image

import dilated_lib as dl
from dilated_lib.networks.architecture import Architecture


@pytest.fixture
def shapes(tmp_path):
    """Pictures of two sizes with an object on a background, and a front end."""
    draw, root = np.random.default_rng(0), tmp_path / "shapes"
    for kind in ("pictures", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(6):
        size = (24, 31) if number % 2 else (32, 24)
        labels = draw.integers(0, 3, size, np.uint8)
        picture = np.repeat(80 * labels[..., None], 3, 2)
        Image.fromarray(picture).save(root / "pictures" / f"{number}.png")
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
    names = ("background", "cat", "dog")
    (root / "classes.txt").write_text("\n".join(names))
    for split, numbers in (("train", "0123"), ("val", "4"), ("test", "5")):
        (root / f"{split}.txt").write_text("\n".join(numbers))
    kind = Architecture(padding="zeros", width=4, fc_channels=8)
    palette = dict.fromkeys(names, (0, 0, 0)) | dl.open_data(str(root)).palette
    torch.manual_seed(0)
    dl.save_network(
        kind.build(palette, (1.0, 2.0, 3.0)), kind, tmp_path / "front.safetensors"
    )
    return root
