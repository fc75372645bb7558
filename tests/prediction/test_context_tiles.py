"""The context module on many cells: in tiles, with the result of one piece."""

import pytest
import torch

import dilated_lib as dl
from dilated_lib.prediction import segmentation


def watched(module, size):
    """The result on cells of a size, and the numbers in each map inside the module."""
    torch.manual_seed(1)
    logits = torch.randn(2, module.num_classes, *size, dtype=torch.double)
    maps = []
    hooks = [
        layer.register_forward_hook(lambda _, __, output: maps.append(output.numel()))
        for layer in module.layers
    ]
    with torch.no_grad():
        found = segmentation._with_context(module, logits)
        for hook in hooks:
            hook.remove()
        return found, module(logits), maps


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"padding": "once"},
        {"padding_mode": "reflect"},
        {"padding": "once", "padding_mode": "replicate"},
        {"variant": "large"},
    ],
)
@pytest.mark.parametrize(
    ("size", "tiles"), [((25, 12), 5), ((16, 41), 21), ((9, 8), 1), ((14, 14), 1)]
)
def test_tiles_of_cells_give_what_the_whole_gives(how, size, tiles, monkeypatch):
    monkeypatch.setattr(segmentation, "_CELLS", 6)
    torch.manual_seed(0)
    module = dl.ContextModule(3, dilations=(1, 2, 1), **how).double()
    found, whole, maps = watched(module, size)
    assert len(maps) == tiles * len(module.layers)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), whole, atol=1e-6, rtol=0)


def test_a_tile_may_have_one_cell_of_its_own(monkeypatch):
    monkeypatch.setattr(segmentation, "_CELLS", 1)
    module = dl.ContextModule(3, dilations=(1, 2, 1)).double()
    found, whole, maps = watched(module, (10, 9))
    assert len(maps) == 10 * len(module.layers)
    torch.testing.assert_close(found.double(), whole, atol=1e-6, rtol=0)


def test_the_context_modules_maps_are_those_of_a_tile():
    """Whatever the picture's size: 2 images, 8 channels, and 5 cells on each side."""
    module = dl.ContextModule(1, "large", dilations=(1, 4)).double()
    *_, maps = watched(module, (40, 1600))
    assert max(maps) <= 2 * 8 * 40 * (segmentation._CELLS + 2 * 5) < 2 * 8 * 40 * 1600


def test_a_context_module_without_padding_runs_at_once(monkeypatch):
    monkeypatch.setattr(segmentation, "_CELLS", 6)
    module = dl.ContextModule(3, dilations=(1, 2, 1), padding="none").double()
    found, whole, maps = watched(module, (25, 30))
    assert len(maps) == len(module.layers)
    assert found.shape == (2, 3, 17, 22) and torch.equal(found, whole.float())
