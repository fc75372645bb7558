"""What a unit of VGG-16 really looks at: the record of chapter 04."""

from pathlib import Path

import numpy as np
import torch

from dilated_lib.experiments.recorder import Recorder
from dilated_lib.fields.effective import effective_receptive_field
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.networks.imagenet import published_vgg16
from dilated_lib.networks.weights import read_weights

__all__ = ["erf"]


def erf(
    out: Path = Path("book/results/vgg16_erf.json"),
    /,
    *,
    weights: Path | None = None,
    crops: int = 64,
) -> None:
    """Measure what a unit of VGG-16 really looks at, with and without its training.

    That is the effective receptive field of the middle unit of conv5_3, averaged over
    crops of four photographs that come with scikit-image; chapter 04 shows the record.

    Args:
        out: The file of records to write.
        weights: The 13 layers trained on ImageNet, keys as in torchvision's features,
            for BGR pixels; without it torchvision downloads its own.
        crops: Pictures of 224 x 224 pixels.
    """
    from skimage import data  # neither is needed to import the library
    from torchvision.models import vgg16

    if crops < 1:
        raise ValueError(f"crops must be at least 1, got {crops}")
    state = read_weights(weights) if weights else published_vgg16()
    names = ("astronaut", "coffee", "chelsea", "rocket")
    photographs = [getattr(data, name)() for name in names]
    draw = torch.Generator().manual_seed(0)
    pictures = []
    for number in range(crops):
        photograph = torch.from_numpy(photographs[number % 4]).permute(2, 0, 1)
        row, column = (
            int(torch.randint(side - 223, (), generator=draw))
            for side in photograph.shape[1:]
        )
        pictures.append(photograph[:, row : row + 224, column : column + 224])
    bgr = torch.stack(pictures).float().flip(1)
    bgr -= torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    torch.manual_seed(0)  # for the untrained network
    recorder = Recorder(out)
    config = {"crops": crops, "unit": "the middle of conv5_3"}
    for name in ("random", "imagenet"):
        with recorder.record(f"erf/vgg16-{name}", config=config) as metrics:
            layers = vgg16().features[:30]
            if name == "imagenet":
                layers.load_state_dict(state)
            field, _ = receptive_field(layers, (3, 224, 224))
            whole = effective_receptive_field(layers, bgr)
            inside = slice(field.start(7), field.end(7) + 1)
            seen = whole[inside, inside] / whole[inside, inside].sum()
            from_middle = np.arange(len(seen)) - (len(seen) - 1) / 2
            metrics["receptive_field"] = field.size
            metrics["deviation"] = [
                round(float(np.sqrt(axis @ from_middle**2)), 2)
                for axis in (seen.sum(1), seen.sum(0))
            ]
            metrics["share_of_4x4"] = [
                [float(f"{part:.3g}") for part in row]
                for row in seen.reshape(49, 4, 49, 4).sum((1, 3))
            ]
