"""Training on stored maps of shapes: the data, the loop, and what is measured."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.data.shapes import Shapes
from dilated_lib.experiments import shape_training
from dilated_lib.experiments.shape_training import (
    FRONT_ENDS,
    OPTIMIZERS,
    Maps,
    accuracies,
    deepened,
    descend,
    fit,
    front_end,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


PICTURES = Maps.of(Shapes(24))


def test_maps_hold_the_data_set_in_its_order():
    shapes = Shapes(24)
    assert PICTURES.maps.shape == (168, 3, 36, 36)
    for index in (0, 6, 7, 100):
        picture, label = shapes[index]
        assert torch.equal(PICTURES.maps[index], picture)
        assert torch.equal(PICTURES.labels[index], label)
        assert torch.equal(PICTURES.distances[index], shapes.distances(index // 7))


def test_the_front_end_sees_one_pixel_and_knows_the_outline():
    front = front_end(PICTURES, generator=seeded())
    assert dl.compose([dl.Window(front.kernel_size[0])]).size == 1
    shares = accuracies(front, PICTURES, farthest=8)
    assert shares[0] > 0.95
    assert max(shares[1:]) <= 1 / 7 + 1e-9
    maps = PICTURES.through(front)
    assert torch.equal(maps.maps, front(PICTURES.maps))
    assert not maps.maps.requires_grad
    assert torch.equal(maps.labels, PICTURES.labels)
    assert torch.equal(maps.distances, PICTURES.distances)


def test_training_learns_to_the_edge_of_the_field_and_no_further():
    maps = PICTURES.through(front_end(PICTURES, generator=seeded()))
    module = dl.ContextModule(8, dilations=(1, 2))
    module.reset_parameters(generator=seeded())
    losses = fit(module, maps, steps=150, generator=seeded())
    assert len(losses) == 150
    assert losses[-1] < losses[0]
    shares = accuracies(module, maps, farthest=6)
    assert min(shares[:3]) > 0.9
    assert max(shares[4:]) <= 1 / 7 + 1e-9


def test_training_repeats_itself():
    runs = []
    for _ in range(2):
        layer = nn.Conv2d(3, 8, 1)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        runs.append(fit(layer, PICTURES, steps=5, generator=seeded(1)))
    assert runs[0] == runs[1]
    assert runs[0][0] == pytest.approx(math.log(8))


def test_void_pixels_do_not_count():
    data = Maps.of(Shapes(4, nearest=99))
    layer = nn.Conv2d(3, 8, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    fit(layer, data, steps=60, learning_rate=0.3, generator=seeded())
    # all that is left is background
    assert (layer(data.maps).argmax(1)[data.labels == 0] == 0).all()
    assert layer.bias[0] > layer.bias[1:].max()


def test_the_control_is_as_deep_as_nine_layers_and_sees_what_five_see():
    nine = dl.ContextModule(8, dilations=(1,) * 9)
    five = dl.ContextModule(8, dilations=(1, 1, 2, 4, 1))
    network = deepened(five, 4, generator=seeded())
    convs, relus = (
        sum(isinstance(part, kind) for part in network.modules())
        for kind in (nn.Conv2d, nn.ReLU)
    )
    assert convs == len(nine.layers) == 10
    assert relus == 5  # four, and one that the layers of the module share
    sizes = [axis.size for axis in dl.receptive_field(network, (8, 36, 36))]
    assert sizes == [19, 19] == [dl.compose(five.windows).size] * 2
    # the new layers start as the identity: only their ReLU changes anything
    with torch.no_grad():
        logits = torch.randn(2, 8, 9, 9, generator=seeded())
        assert (network(logits) - five(logits).relu()).abs().max() < 0.5
    again = deepened(five, 4, generator=seeded())
    assert torch.equal(again[-1].weight, network[-1].weight)


def test_accuracies_are_shares_of_pixels_at_one_distance():
    class Cheat(nn.Module):
        def forward(self, maps):
            right = nn.functional.one_hot(PICTURES.labels, 9).movedim(-1, 1)
            return torch.where((PICTURES.distances == 2)[:, None], 0, right)

    shares = accuracies(Cheat(), PICTURES, farthest=3)
    assert shares == [1, 1, 0, 1]


def test_a_distance_that_no_pixel_has_is_refused():
    farthest = int(PICTURES.distances.max())
    front = nn.Conv2d(3, 8, 1)
    assert len(accuracies(front, PICTURES, farthest=farthest)) == farthest + 1
    with pytest.raises(ValueError, match=f"^no pixel is {farthest + 1} pixels from"):
        accuracies(front, PICTURES, farthest=farthest + 1)


def test_adam_is_torchs_and_descent_has_momentum():
    layer = nn.Conv2d(1, 1, 1)
    adam, sgd = (OPTIMIZERS[name](layer.parameters()) for name in ("Adam", "SGD"))
    assert [*OPTIMIZERS] == ["Adam", "SGD"]
    assert type(adam) is torch.optim.Adam and type(sgd) is torch.optim.SGD
    assert sgd.defaults["momentum"] == 0.9


def test_the_rate_rises_once_and_falls_once():
    """Torch's cycle: from a 25th up in three tenths of the steps, and down to 0."""
    x, rates = torch.ones(1, requires_grad=True), []
    adam = torch.optim.Adam([x])

    def loss():
        rates.append(adam.param_groups[0]["lr"])
        return (x**2).sum()

    losses = descend(adam, loss, steps=11, learning_rate=0.5)
    assert len(losses) == len(rates) == 11
    assert rates[0] == pytest.approx(0.5 / 25)
    assert max(rates) < 0.5 and max(rates) == max(rates[2:4])
    assert rates[-1] == pytest.approx(0.5 / 25 / 10_000)
    assert losses[0] == 1.0


def test_a_step_goes_down_the_gradient_of_its_own_loss_alone():
    """With the momentum 0.95 at first, the second step has that of the first, too."""
    x = torch.zeros(1, requires_grad=True)
    slopes = iter([1.0, 10.0, 100.0])
    sgd = torch.optim.SGD([x], momentum=0.9)
    places = []

    def loss():
        places.append(x.item())
        return next(slopes) * x.sum()

    losses = descend(sgd, loss, steps=3, learning_rate=1.0)
    assert losses == pytest.approx([0.0, 10 * places[1], 100 * places[2]])
    other = torch.zeros(1, requires_grad=True)
    by_hand = torch.optim.SGD([other], momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(by_hand, 1.0, total_steps=3)
    wanted = []
    for slope in (1.0, 10.0, 100.0):
        wanted.append(other.item())
        other.grad = torch.tensor([slope])
        by_hand.step()
        cycle.step()
    assert places == pytest.approx(wanted)
    assert x.item() == pytest.approx(other.item())


def test_a_step_has_two_scenes_in_all_seven_colours():
    """The generator draws two of the 24 scenes for each step."""
    layer = nn.Conv2d(3, 8, 1)
    weights = [one.detach().clone() for one in layer.parameters()]
    losses = fit(layer, PICTURES, steps=3, learning_rate=1e-9, generator=seeded(4))
    draw = seeded(4)
    for loss in losses:
        scenes = torch.randint(24, (2, 1), generator=draw).flatten().tolist()
        chosen = [7 * scene + colour for scene in scenes for colour in range(7)]
        logits = F.conv2d(PICTURES.maps[chosen], *weights)
        wanted = F.cross_entropy(logits, PICTURES.labels[chosen])
        assert loss == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "name", "rate"),
    [
        ({}, "Adam", 0.01),
        ({"optimizer": "SGD", "learning_rate": 2.0}, "SGD", 2.0),
    ],
)
def test_the_optimizer_and_its_rate_can_be_chosen(monkeypatch, options, name, rate):
    asked = []

    def descend(made, loss, *, steps, learning_rate):
        assert [*made.param_groups[0]["params"]] == [*layer.parameters()]
        asked.append((type(made).__name__, steps, learning_rate))
        return ["losses"]

    layer = nn.Conv2d(3, 8, 1)
    monkeypatch.setattr(shape_training, "descend", descend)
    assert fit(layer, PICTURES, steps=9, generator=seeded(), **options) == ["losses"]
    assert asked == [(name, 9, rate)]


@pytest.mark.parametrize(
    ("options", "name", "steps", "rate"),
    [({}, "Adam", 150, 0.3), ({"optimizer": "SGD"}, "SGD", 500, 3.0)],
)
def test_a_front_end_starts_at_zero_with_the_rate_of_its_optimizer(
    monkeypatch, options, name, steps, rate
):
    asked, draw = [], seeded()
    assert [*FRONT_ENDS] == ["Adam", "SGD"]

    def fit(layer, data, **settings):
        assert not any(one.any() for one in layer.parameters())
        asked.append((layer, data, settings))

    monkeypatch.setattr(shape_training, "fit", fit)
    maps = Maps(torch.zeros(7, 5, 2, 2), torch.zeros(7, 2, 2), torch.zeros(7, 2, 2))
    layer = front_end(maps, generator=draw, **options)
    assert layer.weight.shape == (8, 5, 1, 1)
    ((trained, data, settings),) = asked
    assert trained is layer and data is maps
    assert settings == {
        "steps": steps,
        "learning_rate": rate,
        "optimizer": name,
        "generator": draw,
    }


def test_layers_put_behind_a_module_start_as_the_identity_with_noise():
    draw = seeded(3)
    network = deepened(dl.ContextModule(8, dilations=(1,)), 2, generator=draw)
    kinds = [type(part).__name__ for part in network]
    assert kinds == ["ContextModule", "ReLU", "Conv2d", "ReLU", "Conv2d"]
    draw = seeded(3)
    for layer in (network[2], network[4]):
        wanted = torch.empty(8, 8, 1, 1).normal_(0, 0.01, generator=draw)
        wanted[range(8), range(8)] = 1
        assert torch.equal(layer.weight, wanted)
        assert not layer.bias.any()
