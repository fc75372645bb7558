"""A network as in evaluation for a while, with several users at a time."""

from contextlib import ExitStack

import pytest
from torch import nn

from dilated_lib.evaluation_mode import evaluating


def modes(network):
    return [module.training for module in network.modules()]


@pytest.fixture
def network():
    """A network whose parts differ in their modes."""
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1), nn.Dropout())
    network[1].eval()
    return network


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_last_to_leave_restores_what_the_first_one_found(network, order):
    before = modes(network)
    users = [ExitStack() for _ in order]
    for user in users:
        user.enter_context(evaluating(network))
    for user in order:
        assert not any(modes(network))
        users[user].close()
    assert modes(network) == before


def test_what_was_trained_in_between_keeps_its_new_mode(network):
    for training in (True, False):
        network.train(training)
        with evaluating(network):
            pass
        assert modes(network) == [training] * 4


def test_a_part_may_have_a_user_of_its_own(network):
    before = modes(network)
    with ExitStack() as part, ExitStack() as whole:
        part.enter_context(evaluating(network[0]))
        whole.enter_context(evaluating(network))
        part.close()
        assert not any(modes(network))
    assert modes(network) == before


def test_an_error_restores_too(network):
    before = modes(network)
    with pytest.raises(ZeroDivisionError), evaluating(network):
        1 / 0  # noqa: B018
    assert modes(network) == before


def test_a_function_of_images_is_left_alone():
    with evaluating(len):
        pass
