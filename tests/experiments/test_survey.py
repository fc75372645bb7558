"""The outcome for one network of a survey, on networks whose field one can count."""

import pytest
import torch
from nets import Net
from torch import nn

from dilated_lib.experiments import survey, timm_survey
from dilated_lib.fields.tracing import TracingError
from dilated_lib.fields.tracing.verify import Disagreement


def conv(*options):
    return nn.Conv2d(1, 1, *options)


def test_a_bounded_network_has_the_field_of_its_last_layer():
    network = nn.Sequential(conv((3, 5), 1, (1, 0)), nn.ReLU(), conv(3, (2, 1)))
    found, _ = survey.outcome(network, (1, 16, 16))
    assert found == {
        "outcome": "exact",
        "module": "2",
        "size": [5, 7],
        "stride": ["2", "1"],
        "padding": [1, 0],
        "aligned": True,
    }


def test_the_field_of_a_module_on_the_way_can_be_asked_for():
    network = nn.Sequential(conv(3), conv(5))
    found, _ = survey.outcome(network, (1, 16, 16), "0")
    assert found["module"] == "0" and found["size"] == [3, 3]


def test_the_time_is_that_of_the_analysis_without_the_tracing(monkeypatch):
    answers = []

    def timed(*args, **options):
        answer = receptive_field(*args, **options)
        vars(answer)["seconds"] = 3.0, 5.0
        answers.append(answer)
        return answer

    receptive_field = survey.receptive_field
    monkeypatch.setattr(survey, "receptive_field", timed)
    assert survey.outcome(conv(3), (1, 16, 16))[1] == 5.0 and len(answers) == 1


def test_an_unbounded_network_has_the_field_of_its_last_layer_before():
    network = nn.Sequential(conv(3), conv(3, 2), nn.InstanceNorm2d(1), conv(3))
    found, _ = survey.outcome(network, (1, 16, 16))
    assert found == {
        "outcome": "unbounded",
        "reason": "2 (instance_norm)",
        "module": "1",
        "size": [5, 5],
        "stride": ["2", "2"],
        "padding": [0, 0],
        "aligned": True,
    }


def test_a_layer_that_reads_one_position_can_be_the_last_bounded_one():
    network = nn.Sequential(conv(1, 2), nn.InstanceNorm2d(1))
    found, _ = survey.outcome(network, (1, 16, 16))
    assert found["module"] == "0" and found["size"] == [1, 1]


def test_a_layer_that_is_unbounded_along_one_axis_is_not_the_last_bounded_one():
    def without_the_mean_of_rows(x, first, second):
        found = first(x)
        return second(found - found.mean(3, keepdim=True))

    network = Net(without_the_mean_of_rows, conv(3), conv(3))
    found, _ = survey.outcome(network, (1, 16, 16))
    assert found["outcome"] == "unbounded"
    assert found["module"] == "layers.0" and found["size"] == [3, 3]


def test_units_that_read_nothing_are_passed_over():
    """Every second unit of a transposed layer lies in a gap; only these are kept."""

    def gaps(x, first, transposed):
        return transposed(first(x))[..., ::2, ::2] + x.mean((2, 3), keepdim=True)

    layers = conv(3), nn.ConvTranspose2d(1, 1, 1, 2, 1)
    found, _ = survey.outcome(Net(gaps, *layers), (1, 16, 16))
    assert found["outcome"] == "unbounded" and found["reason"].startswith("mean")
    assert found["size"] == [3, 3] and found["stride"] == ["1/2", "1/2"]


def test_a_network_that_reads_everything_at_once_has_no_layer_before():
    found, _ = survey.outcome(nn.InstanceNorm2d(1), (1, 16, 16))
    assert [*found] == ["outcome", "reason"]
    assert found["outcome"] == "unbounded"


@pytest.mark.parametrize(("cut", "padding"), [(1, None), (0, 0)])
def test_a_padding_is_known_where_the_first_unit_reads_anything(cut, padding):
    network = nn.ConvTranspose2d(1, 1, 1, 2, cut)
    found, _ = survey.outcome(network, (1, 16, 16))
    assert found["stride"] == ["1/2", "1/2"] and found["padding"] == [padding] * 2


@pytest.mark.parametrize(("first", "aligned"), [(2, True), (3, False)])
def test_maps_that_meet_in_the_last_layer_count_as_misaligned(first, aligned):
    """The layer looks at the middle of five, and so two positions further on."""

    def meet(x, layer):
        return layer(x) + x[..., first : first + 12, 2:-2]

    found, _ = survey.outcome(Net(meet, conv(5)), (1, 16, 16))
    assert found["module"] == "add" and found["aligned"] is aligned


def test_maps_that_meet_behind_the_last_bounded_layer_do_not_count():
    def meet(x, layer):
        unbounded = (x - x.mean(3, keepdim=True))[..., 3:-1, 2:-2]
        return layer(x) + unbounded

    found, _ = survey.outcome(Net(meet, conv(5)), (1, 16, 16))
    assert found["outcome"] == "unbounded"
    assert found["module"] == "layers.0" and found["aligned"]


def test_a_refusal_is_an_outcome_with_its_reason_and_takes_no_time():
    class Decides(nn.Module):
        def forward(self, x):
            return x if x.mean() > 0 else -x

    found, seconds = survey.outcome(Decides(), (1, 16, 16))
    assert [*found] == ["outcome", "reason"] and seconds == 0
    assert found["outcome"] == "refused"
    assert "depends on the values" in found["reason"]

    found, seconds = survey.outcome(conv(3), (1, 16, 16), "absent")
    with pytest.raises(ValueError, match="absent") as caught:
        survey.receptive_field(conv(3), (1, 16, 16), to="absent")
    assert found == {"outcome": "refused", "reason": str(caught.value)}
    assert seconds == 0


@pytest.fixture
def answers(monkeypatch):
    """What the comparison answers or raises, by the side of the input, and its calls.

    A side without an answer agrees.
    """
    told, asked = {}, []

    def verify(network, size, *, to, units):
        asked.append((network, size, to, units))
        answer = told.get(size[-1])
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(survey, "verify", verify)
    return told, asked


def test_a_network_is_compared_on_the_first_side_that_it_takes(answers):
    told, asked = answers
    told |= {64: TracingError("too small"), 96: ValueError("still too small")}
    network = conv(3)
    said = survey.agreement(network, (3, 16, 224, 224), "layer1", (64, 96, 128, 224))
    assert said == "agrees, to layer1 on 16 x 128 x 128"
    assert asked == [
        (network, (3, 16, side, side), "layer1", 1) for side in (64, 96, 128)
    ]


def test_the_output_is_named_as_such(answers):
    said = survey.agreement(conv(3), (3, 224, 320), None, iter((64,)))
    assert said == "agrees, to the output on 64 x 64"


def test_a_disagreement_ends_the_comparison(answers):
    told, asked = answers
    told[64] = Disagreement("NaN", (0, 0), (1, 1), measured=True)
    said = survey.agreement(conv(3), (3, 224, 224), None, (64, 96))
    assert said == f"{told[64]}, to the output on 64 x 64" and len(asked) == 1


def test_a_network_that_takes_no_side_says_why_it_refused_the_last(answers):
    told, _ = answers
    told |= {64: TracingError("too small"), 96: ValueError("too small as well")}
    assert survey.agreement(conv(3), (1, 96, 96), None, (64, 96)) == "too small as well"


@pytest.mark.parametrize("spared", [0, 1])
def test_networks_of_400_million_weights_are_too_large_to_compare(answers, spared):
    with torch.device("meta"):
        network = nn.Conv2d(1, 1, 3, bias=False)
        network.unused = nn.Parameter(torch.empty(400_000_000 - 9 - spared))
    one = timm_survey.Candidate("large", network, (1, 96, 96))
    assert ("verified" in timm_survey.survey(one)) == bool(spared)
