"""Networks drawn at random, so that no known one can be a special case."""

import random

import torch
from torch import nn
from torch.nn import functional as F


class RandomNetwork(nn.Module):
    """A graph of up to ``depth`` operations over 1, 2 or 3 axes; seeded.

    Each operation reads a random earlier value; values of one shape are added, or put
    side by side. The last value is the output.
    """

    def __init__(self, seed, *, rank=2, depth=7, size=22):
        super().__init__()
        self.draw, self.rank = random.Random(seed), rank
        self.size = (4, *(size + self.draw.randint(0, 5) for _ in range(rank)))
        self.layers, self.steps = nn.ModuleList(), []
        values = [torch.zeros(1, *self.size)]
        while len(self.steps) < depth:
            source = max(0, len(values) - 1 - self.draw.choice((0, 0, 0, 1, 2)))
            step = self.a_step(values, source)
            try:
                value = self.compute(step, values)
            except (RuntimeError, ValueError, AssertionError):
                continue  # sizes that do not fit
            if min(value.shape[2:]) >= 3 and max(value.shape[2:]) <= 60:
                self.steps.append(step)
                values.append(value)

    def forward(self, x):
        values = [x]
        for step in self.steps:
            values.append(self.compute(step, values))
        return values[-1]

    def compute(self, step, values):
        run, *sources = step
        return run(*(values[source] for source in sources))

    def a_step(self, values, source):
        alike = [
            n
            for n, value in enumerate(values)
            if n != source and value.shape == values[source].shape
        ]
        beside = [
            n
            for n, value in enumerate(values)
            if n != source and value.shape[2:] == values[source].shape[2:]
        ]
        if alike and self.draw.random() < 0.5:
            return torch.add, source, self.draw.choice(alike)
        if beside and self.draw.random() < 0.4:
            return lambda a, b: torch.cat([a, b], 1), source, self.draw.choice(beside)
        makers = [self.conv] * 4 + [self.pool, self.transposed, self.resize, self.shape]
        return self.draw.choice(makers)(values[source]), source

    def each(self, low, high):
        return tuple(self.draw.randint(low, high) for _ in range(self.rank))

    def add(self, layer):
        self.layers.append(layer)
        return layer

    def conv(self, x):
        channels = x.shape[1]
        groups = self.draw.choice([g for g in (1, 2, channels) if channels % g == 0])
        mode = self.draw.choice(("zeros", "zeros", "reflect", "replicate", "circular"))
        kernel, dilation = self.each(1, 4), self.each(1, 3)
        same = self.draw.random() < 0.4
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.rank - 1]
        layer = kind(
            channels,
            channels,
            kernel,
            1 if same else self.each(1, 3),
            padding="same" if same else self.each(0, 3),
            dilation=dilation,
            groups=groups,
            padding_mode=mode,
        )
        return nn.Sequential(self.add(layer), nn.ReLU())

    def pool(self, x):
        kernel = self.each(1, 3)
        options = {
            "stride": self.each(1, 4),
            "padding": tuple(self.draw.randint(0, side // 2) for side in kernel),
            "ceil_mode": self.draw.random() < 0.5,
        }
        if self.draw.random() < 0.5:
            pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[self.rank - 1]
            if self.rank == 1:
                kernel = kernel[0]
                options |= {"stride": 2, "padding": 0}
            return pool(kernel, **options)
        pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[self.rank - 1]
        return pool(kernel, dilation=self.each(1, 2), **options)

    def transposed(self, x):
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        return self.add(
            kind[self.rank - 1](
                x.shape[1],
                x.shape[1],
                self.each(1, 4),
                self.each(1, 3),
                padding=self.each(0, 2),
                output_padding=self.each(0, 1),
                dilation=self.each(1, 2),
            )
        )

    def resize(self, x):
        smooth = ("linear", "bilinear", "trilinear")[self.rank - 1]
        modes = ["nearest", "nearest-exact", smooth, "area"]
        mode = self.draw.choice(modes + ["bicubic"] * (self.rank == 2))
        options = {"mode": mode}
        if mode in (smooth, "bicubic"):
            options["align_corners"] = self.draw.random() < 0.4
        if mode != "area" and self.draw.random() < 0.5:
            options["scale_factor"] = self.draw.choice((0.5, 1.5, 2, 3, 1.25))
        else:
            options["size"] = [
                max(3, round(side * self.draw.choice((0.5, 1.5, 2, 3))))
                for side in x.shape[2:]
            ]
        return lambda x: F.interpolate(x, **options)

    def shape(self, x):
        rank, draw = self.rank, self.draw
        start, step, shift = self.each(0, 2), self.each(1, 2), self.each(-3, 3)
        pads = [draw.randint(-1, 3) for _ in range(2 * rank)]
        half = draw.randint(0, 1)
        choices = [
            lambda x: x[
                (..., *(slice(a, None, b) for a, b in zip(start, step, strict=True)))
            ],
            lambda x: x.roll(shift, tuple(range(2, 2 + rank))),
            lambda x: F.pad(x, pads),
            lambda x: torch.cat([x.chunk(2, 1)[half]] * 2, 1),
            lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
            lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
            lambda x: x.flatten(2).mul(2).unflatten(2, x.shape[2:]),
            lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
        ]
        if rank == 2:
            choices += [
                lambda x: F.pixel_unshuffle(x, 2),
                lambda x: F.pixel_shuffle(x, 2),
                lambda x: F.unfold(x, 3, padding=1, dilation=2).unflatten(
                    2, [side - 2 for side in x.shape[2:]]
                ),
            ]
        return draw.choice(choices)
