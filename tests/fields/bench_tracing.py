"""How fast networks are analysed, tracing apart: `make bench`. It measures, no more."""

import pytest
from torch import nn

from dilated_lib.fields.tracing import export, report, rules
from dilated_lib.fields.tracing.named import named_network

REAL = ("resnet50", "densenet201", "efficientnet_v2_l", "swin_v2_b")


def analysis(network, input_size, monkeypatch):
    """A function that analyses a network that was traced before."""
    graph = export.trace(network, [input_size], rules.known)
    monkeypatch.setattr(export, "trace", lambda *_: graph)
    return lambda: report.receptive_field(network, input_size)


@pytest.mark.parametrize("layers", [50, 100, 200, 400])
def test_a_chain_of_residual_blocks(layers, benchmark, monkeypatch):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return x + self.conv(x).relu()

    chain = nn.Sequential(*(Block() for _ in range(layers)))
    answer = benchmark(analysis(chain, (2, 64, 64), monkeypatch))
    assert answer[0].size == 2 * layers + 1


@pytest.mark.parametrize("name", REAL)
def test_a_real_network(name, benchmark, monkeypatch):
    run = analysis(named_network(name), (3, 224, 224), monkeypatch)
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
