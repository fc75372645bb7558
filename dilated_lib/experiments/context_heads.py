"""The long versions of chapters: commands that train or measure, and write records."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dilated_lib.data.shapes import Shapes
from dilated_lib.experiments.shape_training import (
    Maps,
    accuracies,
    deepened,
    fit,
    front_end,
)
from dilated_lib.fields.arithmetic import compose
from dilated_lib.fields.paths import effective_receptive_field
from dilated_lib.fields.tracing import receptive_field
from dilated_lib.networks.context import ContextModule
from dilated_lib.records import Record, device_name, write

__all__ = ["erf", "heads", "reach"]

STACKS = {  # their dilations, and how many 1 × 1 layers stand behind them
    "1,1,1,1,1": ((1, 1, 1, 1, 1), 0),
    "1,1,2,2,1": ((1, 1, 2, 2, 1), 0),
    "1,1,2,4,1": ((1, 1, 2, 4, 1), 0),
    "1,2,4,4,1": ((1, 2, 4, 4, 1), 0),
    "1,2,4,8,1": ((1, 2, 4, 8, 1), 0),
    "2,2,2,2,2": ((2, 2, 2, 2, 2), 0),  # holes
    "1,1,1,1,1,1,1,1,1": ((1,) * 9, 0),
    "1,1,2,4,1 + four 1x1": ((1, 1, 2, 4, 1), 4),  # as deep as the one above
}
HEADS = {  # their kernels, and dilations
    "basic": (3, (1, 1, 2, 4, 8, 16, 1)),
    "no dilation 16": (3, (1, 1, 2, 4, 8, 1)),
    "no dilation": (3, (1, 1, 1, 1, 1, 1, 1)),
    "no neighbours": (1, (1, 1, 1, 1, 1, 1, 1)),
}


def reach(
    out: Path = Path("book/results/reach.json"),
    /,
    *,
    seeds: int = 5,
    steps: int = 1500,
    learning_rate: float = 0.001,
    scenes: int = 512,
    test_scenes: int = 200,
    size: int = 52,
) -> None:
    """Train context modules of different reach on shapes; record accuracy by distance.

    The long version of chapter 10. Every module learns to label blank rectangles whose
    class can be told only by their outline. One record is written for each module and
    seed: the percentage of pixels labelled rightly at every distance from the outline.
    It is measured on scenes of the test split, none of which is a training scene.

    Args:
        out: The file of records to write.
        seeds: Trainings of each module, with the seeds 0, 1, …
        steps: Steps of training, each on two scenes in all seven colours.
        learning_rate: The largest, of Adam's; it rises and falls once.
        scenes: Scenes to train on.
        test_scenes: Scenes to measure on; pixels at distance 20 must be among them.
        size: Height and width of a picture in pixels.
    """
    config = {
        "steps": steps,
        "learning_rate": learning_rate,
        "scenes": scenes,
        "test_scenes": test_scenes,
        "size": size,
    }
    train = Maps.of(Shapes(scenes, size=size))
    test = Maps.of(Shapes(test_scenes, size=size, seed=1, split="test"))
    front = front_end(train, generator=torch.Generator().manual_seed(0))
    train, test = train.through(front), test.through(front)
    done = []
    for name, (dilations, pointwise) in STACKS.items():
        for seed in range(seeds):
            begin = time.perf_counter()
            generator = torch.Generator().manual_seed(seed)
            module = ContextModule(len(Shapes.classes), dilations=dilations)
            module.reset_parameters(generator=generator)
            network = deepened(module, pointwise, generator=generator)
            losses = fit(
                network,
                train,
                steps=steps,
                learning_rate=learning_rate,
                generator=generator,
            )
            correct = accuracies(network, test, farthest=20)
            done.append(
                Record(
                    experiment=f"reach/{name}",
                    seed=seed,
                    config=config,
                    metrics={
                        "receptive_field": compose(module.windows).size,
                        "loss": round(float(np.mean(losses[-50:])), 4),
                        "accuracy_by_distance": [round(100 * c, 2) for c in correct],
                    },
                    seconds=round(time.perf_counter() - begin, 1),
                    device=device_name(torch.device("cpu")),
                )
            )
            write(out, done)


def heads(
    out: Path = Path("book/results/heads.json"),
    /,
    *,
    data: str = "camvid",
    network: Path | None = None,
    seeds: int = 5,
    steps: int = 2000,
) -> None:
    """Train context modules on a front end's logits; chapter 13 shows the scores.

    The front end stays as it is. Its logits are stored: of the training pictures and
    their mirror images, of val and of test. On these the basic context module is
    trained as it is, without its layer of dilation 16, without any dilation, and with
    1 × 1 kernels only. The first record is of the front end alone. Scores are those of
    a split, and of each drive in it.

    Args:
        out: The file of records to write.
        data: A data set with the network's classes.
        network: The file of the network whose front end it is; the small one, if none.
        seeds: Trainings of each module, with the seeds 0, 1, …
        steps: Steps of training, eight maps each.
    """
    from dilated_lib.data.labelled import class_counts
    from dilated_lib.data.sets import open_data
    from dilated_lib.experiments import (
        stored_logits as on_logits,  # the other commands start faster
    )
    from dilated_lib.networks.architecture import open_network, small_network
    from dilated_lib.training.loss import median_frequency_weights

    files = open_data(data)
    source = open_network(network)[0] if network else small_network()
    classes = tuple(source.palette)
    files.require_classes(classes)
    counts = class_counts(files.split("train"), len(classes))
    weights = median_frequency_weights(counts)
    begin = time.perf_counter()
    stored = {
        split: on_logits.store(
            source, files.split(split), mirrored=split == "train", progress=True
        )
        for split in ("train", "val", "test")
    }
    done: list[Record] = []

    def keep(name: str, seed: int, module: nn.Module, **metrics: Any) -> None:
        for split in ("val", "test"):
            metrics[split] = asdict(on_logits.score(module, stored[split], classes))
        done.append(
            Record(
                experiment=f"heads/{name}",
                seed=seed,
                config={
                    "data": data,
                    "network": network.name if network else "small",
                    "steps": steps,
                },
                metrics=metrics,
                seconds=round(time.perf_counter() - begin, 1),
                device=device_name(torch.device("cpu")),
            )
        )
        write(out, done)

    keep("front", 0, nn.Identity())
    for seed in range(seeds):
        for name, (kernel, dilations) in HEADS.items():
            begin = time.perf_counter()
            generator = torch.Generator().manual_seed(seed)
            module = ContextModule(len(classes), dilations=dilations)
            if kernel == 1:
                module.layers = nn.ModuleList(
                    nn.Conv2d(len(classes), len(classes), 1) for _ in module.layers
                )
            module.reset_parameters(generator=generator)
            losses = on_logits.fit(
                module,
                stored["train"],
                weights=weights,
                steps=steps,
                generator=generator,
            )
            keep(
                name,
                seed,
                module,
                receptive_field=compose(module.windows).size if kernel > 1 else 1,
                loss=round(float(np.mean(losses[-50:])), 4),
            )


def erf(
    out: Path = Path("book/results/vgg16_erf.json"),
    /,
    *,
    weights: Path | None = None,
    crops: int = 64,
) -> None:
    """Measure what a unit of VGG-16 really looks at, with and without its training.

    The effective receptive field of the middle unit of conv5_3, averaged over crops of
    four photographs that come with scikit-image; chapter 04 shows the record.

    Args:
        out: The file of records to write.
        weights: The 13 layers trained on ImageNet, keys as in torchvision's features,
            for BGR pixels; without it torchvision downloads its own.
        crops: Pictures of 224 x 224 pixels.
    """
    from skimage import data  # neither is needed to import the library
    from torchvision.models import VGG16_Weights, vgg16

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
    done = []
    for trained in (False, True):
        begin = time.perf_counter()
        layers = vgg16().features[:30]
        if trained and weights:
            layers.load_state_dict(torch.load(weights, weights_only=True))
        elif trained:  # RGB, of the same scale
            state = VGG16_Weights.IMAGENET1K_FEATURES.get_state_dict(progress=False)
            layers.load_state_dict(
                {k: state[f"features.{k}"] for k in layers.state_dict()}
            )
            layers[0].weight.data = layers[0].weight.data.flip(1)
        field, _ = receptive_field(layers, (3, 224, 224))
        whole = effective_receptive_field(layers, bgr)
        inside = slice(field.start(7), field.end(7) + 1)
        seen = whole[inside, inside] / whole[inside, inside].sum()
        place = np.arange(len(seen)) - (len(seen) - 1) / 2
        done.append(
            Record(
                experiment="erf/vgg16-" + ("imagenet" if trained else "random"),
                seed=0,
                config={"crops": crops, "unit": "the middle of conv5_3"},
                metrics={
                    "receptive_field": field.size,
                    "deviation": [
                        round(float(np.sqrt(axis @ place**2)), 2)
                        for axis in (seen.sum(1), seen.sum(0))
                    ],
                    "share_of_4x4": [
                        [float(f"{share:.3g}") for share in row]
                        for row in seen.reshape(49, 4, 49, 4).sum((1, 3))
                    ],
                },
                seconds=round(time.perf_counter() - begin, 1),
                device=device_name(torch.device("cpu")),
            )
        )
        write(out, done)
