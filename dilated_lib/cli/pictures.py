"""Pictures into label maps, and how good these are."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from dilated_lib import networks
from dilated_lib.cli.errors import one_sentence
from dilated_lib.cli.scores import rows
from dilated_lib.networks.architecture import open_network
from dilated_lib.networks.weights import load
from dilated_lib.prediction import bfloat16
from dilated_lib.prediction.segmentation import predict, probabilities

__all__ = ["download", "evaluate", "segment"]


def segment(
    image: Path,
    /,
    *,
    output: Path,
    network: Literal[
        "photos",
        "streets",
        "dilation8_pascal_voc",
        "dilation8_camvid",
        "dilation7_kitti",
        "dilation10_cityscapes",
    ]
    | None = None,
    weights: Path | None = None,
    fc_channels: int = 4096,
    tile: tuple[int, int] | None = None,
    context: Literal["whole", "tiles"] = "whole",
    upsampling: Literal["released", "deconvolution", "half_pixel"] | None = None,
    scale: float | None = None,
    quick: bool = False,
) -> None:
    """Segment a picture of any size: a PNG whose pixels are class ids, with a palette.

    Runs on a GPU where there is one. Exit code 2, with one sentence, and nothing
    written, where something does not fit.

    Args:
        image: The picture.
        output: The PNG to write; one that is there is replaced.
        network: One of the two that come with the library, for photographs of animals
            or for streets, or one of the paper's, which takes weights. By default the
            weights' own, and without weights the one for photographs.
        weights: A network of this library (train writes network.safetensors), or
            weights for the paper's: a .caffemodel as released, .safetensors, or a state
            dict.
        fc_channels: Channels of fc6 and fc7, where they are fewer than the paper's.
        tile: Height and width in pixels of the tiles that the front end sees, the
            released ones by default; smaller ones take less memory.
        context: Run the context module on the whole picture, or on each tile with zeros
            around it, as the released code does.
        upsampling: From cells to pixels; the network's by default.
        scale: Enlarge the picture by this first; the network's by default.
        quick: On a CPU, compute in bfloat16 where it can: about twice as fast, and
            nearly the same labels (chapter 07).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with one_sentence():
        if output.suffix.lower() != ".png" or not output.parent.is_dir():
            raise ValueError(f"{output} must be a .png file in a folder that is there")
        if output.is_file() and image.is_file() and output.samefile(image):
            raise ValueError(
                f"{output} is the picture itself, which stays: choose "
                "another name for the label map"
            )
        own = {"photos": networks.photo_network, "streets": networks.street_network}
        if network in own and weights:
            raise ValueError(
                f"--network {network} has weights of its own: leave out one of "
                "--network and --weights"
            )
        if network and network not in own and not weights:
            raise ValueError(f"{network} needs its weights: --weights FILE")
        if not weights:
            built = own[network or "photos"]()
        elif network:
            built = getattr(networks, network)(fc_channels=fc_channels)
            load(built, weights)
        else:
            built, _ = open_network(weights)
        if quick and device == "cpu":
            built = bfloat16.quick(built)
        built.to(device)
        done = predict(
            image,
            built,
            tile=tile,
            context=context,
            upsampling=upsampling,
            scale=scale,
            probabilities=False,
            progress=True,
        )
        done.save(output)
    for index, name in enumerate(done.palette):
        share = (done.labels == index).mean()
        if share:
            print(f"{name:14} {100 * share:5.1f} %")


def evaluate(
    data: str,
    /,
    *,
    split: Literal["train", "val", "test"] = "val",
    weights: Path | None = None,
    flip: bool = False,
) -> None:
    """Measure a network on a split of a data set: IoU of each class, mean, accuracy.

    Exit code 2, with one sentence, where something does not fit.

    Args:
        data: camvid, voc2012, voc_animals, shapes, or the path of a folder.
        split: Which pictures. The test split is for the end.
        weights: A network that train wrote. By default one that comes with the library:
            the one for photographs where the data have its classes, else for streets.
        flip: Average with the mirrored picture.
    """
    from dilated_lib.data.palettes import VOC_ANIMALS
    from dilated_lib.data.sets import open_data
    from dilated_lib.prediction import metric

    with one_sentence():
        found = open_data(data)
        if weights:
            network, _ = open_network(weights)
        elif [*found.palette] == [*VOC_ANIMALS]:
            network = networks.photo_network()
        else:
            network = networks.street_network()
        found.require_classes(tuple(network.palette))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network.to(device)
        scores = metric.evaluate(
            partial(probabilities, network),
            found.split(split),
            tuple(found.palette),
            device=device,
            flip=flip,
            progress=True,
        )
    print(*rows(asdict(scores)), sep="\n")


def download(name: Literal["camvid", "voc2012"], /) -> None:
    """Fetch a data set into $DILATED_DATA, or .cache/dilated_lib in your home.

    Every file is checked; interrupted, the command goes on. Exit code 2, with one
    sentence, where something cannot be fetched.

    Args:
        name: CamVid takes 0.2 GB, VOC 2012 with SBD 4 GB.
    """
    from dilated_lib.data import sets

    with one_sentence(goes_on=True):
        sets.download(name, progress=True)
