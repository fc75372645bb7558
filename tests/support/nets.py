"""Networks from a function, for tests of what their units read."""

from torch import nn


class Net(nn.Module):
    """A network from a function of the input and of some layers, called ``layers``."""

    def __init__(self, function, *layers):
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x):
        return self.function(x, *self.layers)
