"""Mistakes that ports of the paper make, each as a change of the right network."""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dilated_lib.networks import DilatedNetwork, dilation8_camvid
from dilated_lib.pictures import read_picture
from dilated_lib.records import Record, device_name, write
from dilated_lib.segment import predict, upsampled
from dilated_lib.weights import save

__all__ = ["TRAPS", "measure", "probabilities"]


def probabilities(
    network: DilatedNetwork, picture: Image.Image, trap: str | None = None
) -> Tensor:
    """Class probabilities (C, H, W) of a picture, with one of ``TRAPS`` or none.

    Raises ValueError for a picture whose sides are no multiples of 8 above the margin.

    >>> from dilated_lib.architecture import Architecture
    >>> two = {"road": (128, 64, 128), "sky": (128, 128, 128)}
    >>> kind = Architecture(palette=two, mean=(0.0, 0.0, 0.0), width=4, fc_channels=8)
    >>> picture = Image.new("RGB", (200, 192))
    >>> probabilities(kind.build(), picture, "RGB instead of BGR").shape
    torch.Size([2, 192, 200])
    """
    if trap and trap not in TRAPS:
        raise ValueError(f"trap must be one of {', '.join(TRAPS)}; got {trap!r}")
    if any(side % 8 or side < 187 for side in picture.size):
        raise ValueError(
            f"sides must be multiples of 8 above 186, got {picture.size} pixels"
        )
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        change = TRAPS[trap] if trap else _nothing
        found = change(network, picture)
        return predict(picture, network).probabilities if found is None else found


def _nothing(network: DilatedNetwork, picture: Image.Image) -> None:
    """The right version."""


def _rgb(network: DilatedNetwork, picture: Image.Image) -> None:
    # weights that meet R where they expect B, the mean in the right order
    first = network.front[0]
    assert isinstance(first, nn.Conv2d)
    first.weight.data = first.weight.flip(1)


def _no_mean(network: DilatedNetwork, picture: Image.Image) -> None:
    network.mean = (0.0, 0.0, 0.0)


def _relu(network: DilatedNetwork, picture: Image.Image) -> None:
    name = [*network.front._modules][-1]
    network.add_module(name, nn.Sequential(network.front[-1], nn.ReLU()))


def _padded_once(network: DilatedNetwork, picture: Image.Image) -> None:
    convolutions = [one for one in network.context if isinstance(one, nn.Conv2d)]
    pad = sum(int(one.padding[0]) for one in convolutions)
    for one in convolutions:
        one.padding = (0, 0)
    convolutions[0].padding = (pad, pad)


def _zeros(network: DilatedNetwork, picture: Image.Image) -> Tensor:
    for layer in (front := network.front):
        if isinstance(layer, nn.Conv2d):
            reach = layer.dilation[0] * (layer.kernel_size[0] - 1) // 2
            layer.padding = (reach, reach)
    logits = network.context(front(_pixels(network, picture)))
    return upsampled(logits, "released", 8)[0, :, : picture.height, : picture.width]


def _corners(network: DilatedNetwork, picture: Image.Image) -> Tensor:
    around = F.pad(_pixels(network, picture), (186,) * 4, mode="reflect")
    shares = network.context(network.front(around)).softmax(1)
    sides = (picture.height, picture.width)
    return F.interpolate(shares, sides, mode="bilinear", align_corners=True)[0]


def _tiles(network: DilatedNetwork, picture: Image.Image) -> Tensor:
    return predict(picture, network, tile=(532, 532), context="tiles").probabilities


def _pixels(network: DilatedNetwork, picture: Image.Image) -> Tensor:
    bgr = torch.tensor(read_picture(picture)).permute(2, 0, 1).flip(0)
    return (bgr - torch.tensor(network.mean)[:, None, None])[None]


TRAPS: dict[str, Callable[[DilatedNetwork, Image.Image], Tensor | None]] = {
    "RGB instead of BGR": _rgb,
    "mean not subtracted": _no_mean,
    "zeros around every layer": _zeros,
    "ReLU after final": _relu,
    "context padded once": _padded_once,
    "context tile by tile": _tiles,
    "align_corners=True": _corners,
}


def measure(
    camvid: Path,
    out: Path = Path("book/results/traps.json"),
    /,
    *,
    weights: Path | None = None,
    train: int = 60,
    val: int = 24,
    fc_channels: int = 512,
    keep: Path | None = None,
) -> None:
    """What each mistake of chapter 16 costs, on CamVid's validation pictures.

    A network that a CPU can make in minutes: VGG-16's layers trained on ImageNet, fc6
    and fc7 as they are drawn, ``final`` fitted to the labels at 8i of some training
    pictures, then the context module on the stored logits.

    Args:
        camvid: The folder with train, trainannot, val and valannot.
        out: The file of records to write.
        weights: VGG-16's convolutions, BGR; without it torchvision downloads its own.
        train: Training pictures, evenly spaced in the list.
        val: Validation pictures, likewise.
        fc_channels: Channels of fc6 and fc7.
        keep: A .safetensors file for the network's weights.
    """
    begin = time.perf_counter()
    chosen, files = _spread(camvid / "train", train), _spread(camvid / "val", val)
    torch.manual_seed(0)
    network = dilation8_camvid(weights or "imagenet", fc_channels=fc_channels).eval()
    front = network.front
    final = front[-1]
    assert isinstance(final, nn.Conv2d)
    pairs = [_pair(one) for one in chosen]
    with torch.no_grad():
        maps = torch.cat(
            [
                front[:-1](F.pad(_pixels(network, one), (186,) * 4, "reflect"))
                for one, _ in pairs
            ]
        )
    labels = torch.stack([label[::8, ::8] for _, label in pairs])
    scale = maps.std()
    _fit(final, maps / scale, labels, steps=1500, learning_rate=0.01)
    with torch.no_grad():
        final.weight.div_(scale)
        logits = final(maps)
    _fit(network.context, logits, labels, steps=1500, learning_rate=0.001)
    if keep:
        save(network, keep)
    done: list[Record] = []
    right: list[Tensor] = []
    for trap in ("none", *TRAPS):
        found, accuracies, changed = [], [], []
        for number, file in enumerate(files):
            picture, label = _pair(file)
            shares = probabilities(network, picture, None if trap == "none" else trap)
            found.append(shares.argmax(0))
            known = label != 255
            accuracies.append((found[-1] == label)[known].double().mean())
            same = found[-1] == (right or found)[number]
            changed.append(1 - same.double().mean())
        right = right or found
        done.append(
            Record(
                experiment=f"traps/{trap}",
                seed=0,
                config={"train": train, "val": val, "fc_channels": fc_channels},
                metrics={
                    "val": {"accuracy": _percent(accuracies)},
                    "changed": _percent(changed),
                    "picture": files[len(files) // 2].stem,
                    "labels": [
                        "".join(f"{one:x}" for one in row)
                        for row in found[len(files) // 2][::4, ::4].tolist()
                    ],
                },
                seconds=round(time.perf_counter() - begin, 1),
                device=device_name(torch.device("cpu")),
            )
        )
        begin = time.perf_counter()  # the first record's time has the training in it
        write(out, done)


def _fit(
    module: nn.Module, maps: Tensor, labels: Tensor, *, steps: int, learning_rate: float
) -> None:
    """Train on stored maps, four at a time, with Adam; the rate falls to zero."""
    optimizer = torch.optim.Adam(module.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, 0.9)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(maps), (4,), generator=draw)
        loss = F.cross_entropy(module(maps[chosen]), labels[chosen], ignore_index=255)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _spread(folder: Path, count: int) -> list[Path]:
    files = sorted(
        one
        for one in folder.iterdir()
        if one.suffix in (".jpg", ".png") and one.name[0] != "."
    )
    return [files[number * len(files) // count] for number in range(count)]


def _pair(file: Path) -> tuple[Image.Image, Tensor]:
    """A picture, and its labels in the released order of classes, 255 where void."""
    with Image.open(
        file.parent.with_name(f"{file.parent.name}annot") / f"{file.stem}.png"
    ) as one:
        ids = torch.tensor(np.asarray(one), dtype=torch.long)
    return Image.open(file), _RELEASED[ids]


# CamVid's ids: sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian,
# bicyclist, void
_RELEASED = torch.tensor([2, 0, 8, 5, 9, 1, 4, 7, 3, 6, 10, 255])


def _percent(shares: list[Tensor]) -> float:
    return round(100 * float(torch.stack(shares).mean()), 2)
