"""Numbers, lists, scales and words mean the same to every function that takes them."""

import inspect
import re
from fractions import Fraction
from typing import get_args
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import dilated_lib as dl
from dilated_lib.dilation.cost import activations, cost, measure
from dilated_lib.dilation.layer import convolve
from dilated_lib.fields.arithmetic import place
from dilated_lib.fields.input_sizes import InputSizes
from dilated_lib.fields.paths import ancestors
from dilated_lib.fields.windows import Sampling
from dilated_lib.networks.baselines import Baseline, Name
from dilated_lib.networks.dilated import bilinear_deconvolution
from dilated_lib.values import pair, wholes

STACK = [dl.Window(3), dl.Window(3, dilation=2)]
UP = dl.Window(3, 2, transposed=True)
FIELD = dl.compose(STACK)
SIZES = InputSizes(dl.ReceptiveField(8, ((0, 379),)))
X, TAPS = torch.arange(98.0).reshape(1, 2, 7, 7), torch.ones(8, 2, 3, 3)
LINE, CELL = nn.Conv1d(1, 1, 3, padding=1), [[0.5]]


def built(make, *arguments, **options):
    """What a module prints; it has no memory."""
    with torch.device("meta"):
        return repr(make(*arguments, **options))


def network(**options):
    front = nn.Sequential(nn.Conv2d(3, 1, 1))
    given = {"mean": (0.0, 0.0, 0.0), "input_size": (900, 900)} | options
    made = dl.DilatedNetwork(front, None, palette={"sky": (1, 2, 3)}, **given)
    return made.input_size, made.scale, made.upsampling


def removed(output_stride, **options):
    net = nn.Sequential(nn.Conv2d(3, 1, 1, 2), nn.Conv2d(1, 1, 1, 2))
    dl.remove_stride_(net, output_stride, **options)
    return repr(net)


def identity(groups):
    conv = nn.Conv2d(6, 6, 3)
    dl.identity_(conv, groups, std=0)
    return conv.weight.tolist()


def effective(**options):
    return dl.effective_receptive_field(LINE, torch.ones(1, 1, 7), **options).tolist()


def sides(figure):
    return len(figure.axes), figure.get_size_inches().tolist()


def timed(**options):
    return [*measure({"nothing": lambda: None}, **{"seconds": 0.01} | options)]


def conv(**options):
    return dl.dilated_conv2d(X, TAPS, **options).tolist()


def filled(**options):
    given = {"dilation": 2, "padding": 2} | options
    return convolve(X, TAPS, **given).tolist()


def shown(channels):
    explorer = dl.Explorer(channels=channels)
    explorer.channels = channels  # set, as it is from outside
    return repr(explorer.module())


def front(**options):
    return built(
        dl.front_end, **{"num_classes": 2, "fc_channels": 4, "width": 4} | options
    )


def baseline(**options):
    given = {"name": "fcn_resnet50", "num_classes": 2} | options
    bodies = dict.fromkeys(get_args(Name), lambda **_: nn.Identity())
    with mock.patch.multiple("torchvision.models.segmentation", **bodies):
        made = Baseline(**given)
    return made.scale, made.num_classes, type(made.scale), type(made.num_classes)


def context(**options):
    return built(dl.ContextModule, **{"num_classes": 2} | options)


# what takes a whole number: the function, a number that it takes, the least one
NUMBERS = {
    "Window.kernel_size": (lambda n: dl.Window(n), 3, 1),
    "Window.stride": (lambda n: dl.Window(3, n), 2, 1),
    "Window.dilation": (lambda n: dl.Window(3, dilation=n), 2, 1),
    "Window.output_padding": (
        lambda n: dl.Window(3, 3, transposed=True, output_padding=n),
        1,
        0,
    ),
    "Window.inputs.unit": (lambda n: list(UP.inputs(n)), 4, None),
    "Window.output_size.input size": (lambda n: UP.output_size(n), 5, 1),
    "Sampling.inputs.unit": (Sampling(2, ((0,), (0, 1))).inputs, 5, None),
    "ReceptiveField.stride": (lambda n: repr(dl.ReceptiveField(n, ((0, 4),))), 2, None),
    "ReceptiveField.start.unit": (FIELD.start, 3, None),
    "ReceptiveField.end.unit": (FIELD.end, 3, None),
    "ReceptiveField.centre.unit": (FIELD.centre, 3, None),
    "place.unit": (lambda n: place(FIELD, n), 3, None),
    "coverage.unit": (lambda n: dl.coverage([UP], unit=n).tolist(), 1, None),
    "ancestors.unit": (lambda n: ancestors(STACK, n), 2, None),
    "effective_receptive_field.seed": (lambda n: effective(seed=n), 3, None),
    "InputSizes.step": (lambda n: repr(InputSizes(FIELD, step=n, fixed=6)), 2, None),
    "InputSizes.size.cells": (SIZES.size, 66, None),
    "InputSizes.cells.size": (SIZES.cells, 900, 1),
    "input_sizes.channels": (
        lambda n: dl.input_sizes(nn.Sequential(nn.Conv2d(3, 1, 3)), channels=n),
        3,
        1,
    ),
    "convolve.dilation": (lambda n: filled(dilation=n), 2, 1),
    "convolve.padding": (lambda n: filled(padding=n), 4, 0),
    "convolve.multiple": (lambda n: filled(multiple=n), 8, 1),
    "remove_stride_.output_stride": (removed, 2, 1),
    "cost.batch": (lambda n: cost(nn.Conv2d(1, 1, 3), (5, 5), batch=n), 2, 1),
    "cost.number": (lambda n: cost(nn.Conv2d(1, 1, 3), (5, 5), number=n), 2, 1),
    "measure.turns": (lambda n: timed(turns=n), 3, 2),
    "ContextModule.num_classes": (lambda n: context(num_classes=n), 3, 1),
    "ContextModule.in_channels": (lambda n: context(in_channels=n), 5, 1),
    "identity_.groups": (identity, 3, 1),
    "front_end.num_classes": (lambda n: front(num_classes=n), 3, 1),
    "front_end.fc_channels": (lambda n: front(fc_channels=n), 8, 1),
    "front_end.width": (lambda n: front(width=n), 8, 1),
    "bilinear_deconvolution.channels": (
        lambda n: repr(bilinear_deconvolution(n, 2)),
        3,
        1,
    ),
    "bilinear_deconvolution.stride": (
        lambda n: repr(bilinear_deconvolution(1, n)),
        4,
        2,
    ),
    "dilation8_camvid.fc_channels": (
        lambda n: built(dl.networks.dilation8_camvid, fc_channels=n),
        8,
        1,
    ),
    "Baseline.num_classes": (lambda n: baseline(num_classes=n), 3, 1),
    "Explorer.channels": (shown, 8, 1),
    "grids.columns": (lambda n: sides(dl.plot.grids({"a": [[""]]}, columns=n)), 2, 1),
    "heat.columns": (lambda n: sides(dl.plot.heat({"a": CELL}, columns=n)), 2, 1),
    "pictures.columns": (
        lambda n: sides(dl.plot.pictures({"a": CELL}, columns=n)),
        2,
        1,
    ),
    "stack.unit": (lambda n: sides(dl.plot.stack(STACK, unit=n)), 2, None),
    "stack.margin": (lambda n: sides(dl.plot.stack(STACK, margin=n)), 2, 0),
}
# what takes a list of them: the function, the numbers, how many it wants (0: any)
LISTS = {
    "ContextModule.dilations": (lambda n: context(dilations=n), (1, 2, 3), 0),
    "hdc_distances.dilations": (dl.hdc_distances, (1, 2, 3), 0),
    "effective_receptive_field.unit": (lambda n: effective(unit=n), (3,), 0),
    "input_sizes.at": (
        lambda n: dl.input_sizes(nn.Sequential(nn.Conv2d(3, 1, 3)), at=n),
        (20, 21),
        2,
    ),
    "cost.size": (lambda n: cost(nn.Conv2d(1, 1, 3), n), (5, 6), 2),
    "activations.size": (
        lambda n: activations(nn.Conv2d(3, 1, 3, device="meta"), n),
        (3, 4, 5),
        3,
    ),
    "remove_stride_.input_size": (
        lambda n: removed(2, input_size=n),
        (3, 32, 33),
        3,
    ),
    "DilatedNetwork.input_size": (lambda n: network(input_size=n), (7, 8), 2),
}
# what takes one number for two sides, or a pair
PAIRS = {
    "Window.padding": (lambda n: dl.Window(5, padding=n), 0),
    "dilated_conv2d.dilation": (lambda n: conv(dilation=n), 1),
    "dilated_conv2d.padding": (lambda n: conv(padding=n), 0),
}
SCALES = {
    "DilatedNetwork.scale": (lambda n: network(scale=n), 2.0),
    "Baseline.scale": (lambda n: baseline(scale=n), 2.0),
    "measure.seconds": (lambda n: timed(seconds=n), 1 / 64),
}
WORDS = {
    "ContextModule.variant": (lambda n: context(variant=n), "large"),
    "ContextModule.padding": (lambda n: context(padding=n), "once"),
    "ContextModule.padding_mode": (lambda n: context(padding_mode=n), "reflect"),
    "front_end.padding": (lambda n: front(padding=n), "zeros"),
    "front_end.channel_order": (lambda n: front(channel_order=n), "rgb"),
    "dilated_conv2d.method": (lambda n: conv(method=n), "unfold"),
    "DilatedNetwork.upsampling": (lambda n: network(upsampling=n), "half_pixel"),
    "Baseline.name": (lambda n: baseline(name=n), "deeplabv3_resnet50"),
}


def cases(table):
    """One case a row; the argument is called what follows the last dot."""
    return [pytest.param(k.rpartition(".")[2], *row, id=k) for k, row in table.items()]


def refused(error, make, value, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        make(value)


@pytest.mark.parametrize(("name", "make", "number", "least"), cases(NUMBERS))
def test_whole_numbers_of_all_kinds_are_one_number(name, make, number, least):
    wanted = make(number)
    for kind in (np.int64, np.uint16, np.array, torch.tensor):
        assert make(kind(number)) == wanted
    no_numbers = [True, np.True_, np.array(True), torch.tensor(True), float(number)]
    no_numbers += [
        np.float64(number),
        str(number),
        [[number]],
        torch.tensor([[number]]),
    ]
    for value in no_numbers:
        refused(TypeError, make, value, f"{name} must be a whole number, got ")
    if least is not None:
        message = f"{name} must be at least {least}, got {least - 1}"
        for kind in (int, np.int64, np.array, torch.tensor):
            refused(ValueError, make, kind(least - 1), message)


@pytest.mark.parametrize(("name", "make", "numbers", "count"), cases(LISTS))
def test_lists_of_all_kinds_are_one_list(name, make, numbers, count):
    wanted = make(numbers)
    ends = numbers[0], numbers[-1] + 1
    kinds = [list, iter, np.array, torch.tensor, lambda n: [np.uint8(one) for one in n]]
    kinds += [lambda n: range(*ends)] if (*range(*ends),) == numbers else []
    for kind in kinds:
        assert make(kind(numbers)) == wanted
    for value in (
        5,
        "55",
        {5},
        {5: 5},
        (),
        np.array(5),
        *[numbers[:1] * 9] * bool(count),
    ):
        refused(ValueError, make, value, f"{name} must list ")
    for one in (True, np.True_, torch.tensor(True), 2.0, "2", None):
        bad, message = [*numbers[:-1], one], "must be a whole number, got "
        refused(TypeError, make, bad, f"{name}[{len(numbers) - 1}] {message}")


@pytest.mark.parametrize(("name", "make", "least"), cases(PAIRS))
def test_pairs_of_all_kinds_are_one_pair(name, make, least):
    for kind in (list, np.array, torch.tensor, torch.Size, lambda n: range(1, 3)):
        assert make(kind((1, 2))) == make((1, 2))
    for kind in (int, np.int64, np.uint8, np.array, torch.tensor):
        assert make(kind(1)) == make((1, 1)) != make((1, 2))
    for value in ((), (1,), (1, 2, 3), np.arange(3), torch.tensor([1])):
        refused(ValueError, make, value, f"{name} must be one number or a pair (")
    for value in ((1, True), (1, 2.0), ((1, 2), (1, 2)), "12", {1, 2}, None, True, 1.0):
        refused(TypeError, make, value, f"{name} must be a whole number, got ")
    refused(ValueError, make, (1, least - 1), f"{name} must be at least {least}, got ")


def test_every_number_of_a_pair_and_of_a_list_is_held_to_the_least():
    assert pair("padding", (2, 3), 2, sides="before, after") == (2, 3)
    for value in (1, (1, 2), (2, 1)):
        with pytest.raises(ValueError, match=r"^padding must be at least 2, got 1$"):
            pair("padding", value, 2, sides="before, after")
    assert wholes("sizes", [2, 3], 2, what="sizes") == (2, 3)
    for at, value in enumerate(((1, 2), (2, 1))):
        message = rf"^sizes\[{at}\] must be at least 2, got 1$"
        with pytest.raises(ValueError, match=message):
            wholes("sizes", value, 2, what="sizes")


@pytest.mark.parametrize(("name", "make", "scale"), cases(SCALES))
def test_scales_of_all_kinds_are_one_scale(name, make, scale):
    wanted = make(scale)
    for kind in (Fraction, np.float32, np.array, torch.tensor):
        assert make(kind(scale)) == wanted
    if scale.is_integer():
        assert make(int(scale)) == make(np.uint8(scale)) == wanted
    message = f"{name} must be a number above 0, got "
    for value in (0, -1.0, float("nan"), float("inf"), np.float32("nan"), np.array(0)):
        refused(ValueError, make, value, message)
    for value in (True, np.True_, torch.tensor(True), "2", None, [2.0], np.ones(1)):
        refused(TypeError, make, value, message)


@pytest.mark.parametrize(("name", "make", "word"), cases(WORDS))
def test_words_are_those_that_are_known(name, make, word):
    assert make(np.str_(word)) == make(word)
    for value in (word.upper(), "", None, 1, True, [word], np.array([word, word])):
        refused(ValueError, make, value, f"{name} must be one of ")


def test_every_number_that_the_library_takes_is_in_these_tables():
    plots = {name: getattr(dl.plot, name) for name in dl.plot.__all__}
    public = {name: getattr(dl, name) for name in dl.__all__} | plots
    rooms = ("fields", "dilation", "networks", "explorer", "plot")
    lacking = []
    for name, thing in public.items():
        place = getattr(thing, "__module__", "").split(".")[1:]
        if not callable(thing) or place[:1] not in [[room] for room in rooms]:
            continue
        if {"tracing", "architecture"} & {*place} or thing is dl.DilatedConv2d:
            continue  # the last has torch's own arguments
        for key, parameter in inspect.signature(thing).parameters.items():
            kind = inspect.formatannotation(parameter.annotation)
            if re.search(r"\bint\b", kind) and "Mapping" not in kind:
                lacking += {f"{name}.{key}"} - {*NUMBERS, *LISTS, *PAIRS}
    assert not lacking
