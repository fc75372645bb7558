"""From a picture to a label map: every step against another way to do it."""

import re
import subprocess
import sys
from collections import OrderedDict

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_network import picture, tiny
from torch import nn

import dilated_lib as dl
from dilated_lib.cli import segment
from dilated_lib.prediction import bfloat16
from dilated_lib.prediction.bfloat16 import quick
from dilated_lib.prediction.segmentation import probabilities

TINY = tiny()


def cells_of(network, image):
    """The released way to put a margin around, by OpenCV: the front end's logits."""
    bgr = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR).astype("f") - network.mean
    height, width = bgr.shape[:2]
    after = [186 + -side % 8 + 8 for side in (height, width)]
    padded = cv2.copyMakeBorder(
        bgr, 186, after[0], 186, after[1], cv2.BORDER_REFLECT_101
    )
    with torch.no_grad():
        return network.front(torch.tensor(padded).permute(2, 0, 1)[None].float())


def interp_map(shares, height, width):
    """Cell (i, j) at pixel (8i, 8j), and linear between: the released definition."""
    rows, columns = np.arange(height) / 8, np.arange(width) / 8
    down, across = rows.astype(int), columns.astype(int)
    part = (rows - down)[:, None], columns - across
    last = [
        np.minimum(n + 1, shares.shape[k + 1] - 1) for k, n in enumerate((down, across))
    ]
    left, right = (
        (1 - part[0]) * shares[:, down][:, :, n] + part[0] * shares[:, last[0]][:, :, n]
        for n in (across, last[1])
    )
    return (1 - part[1]) * left + part[1] * right


@settings(max_examples=25)
@given(
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    tile=st.tuples(st.integers(380, 470), st.integers(380, 470)),
)
def test_tiles_of_any_size_give_what_one_pass_over_the_whole_gives(height, width, tile):
    image = picture(height, width)
    logits = cells_of(TINY, image)
    with torch.no_grad():
        shares = TINY.context(logits).softmax(1)[0].numpy()
    found = dl.predict(image, TINY, tile=tile)
    wanted = interp_map(shares, height, width)
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
    assert found.labels.shape == (height, width)
    assert np.array_equal(found.labels, found.probabilities.argmax(0))


def test_tiles_are_cut_where_they_were_asked_to(monkeypatch):
    sides = []
    TINY.front.conv1_1.register_forward_hook(
        lambda _, args, __: sides.append(args[0].shape)
    )
    try:
        dl.predict(picture(100, 60), TINY, tile=(404, 389))
    finally:
        TINY.front.conv1_1._forward_hooks.clear()
    # 14 cells in 4 rows, at most 4 a tile; 9 cells in 5 columns, at most 2
    assert len(sides) == 4 * 5
    assert sum((shape[2] - 372) // 8 for shape in sides[::5]) == 14
    assert sum((shape[3] - 372) // 8 for shape in sides[:5]) == 9
    assert {tuple(shape) for shape in sides} <= {
        (1, 3, 372 + 8 * n, 372 + 8 * m) for n in (3, 4) for m in (1, 2)
    }


def released(network, image):
    """The probabilities of each tile, put together: of its cells, or of its pixels.

    The procedure is written again, in pixels and with OpenCV, as predict.py has it.
    """
    size = image.height, image.width
    bgr = np.asarray(image)[..., ::-1].astype("f") - np.float32(network.mean)
    border = cv2.BORDER_REFLECT_101
    around = cv2.copyMakeBorder(bgr, 186, 186, 186, 186, border)
    (high, wide), bands = network.input_size, []
    for top in range(0, size[0], high - 372):
        band = []
        for left in range(0, size[1], wide - 372):
            tile = around[top : top + high, left : left + wide]
            short = high - tile.shape[0], wide - tile.shape[1]
            tile = cv2.copyMakeBorder(tile, 0, short[0], 0, short[1], border)
            with torch.no_grad():
                cells = network.front(torch.tensor(tile).permute(2, 0, 1)[None])
                logits = network.context(cells)
                logits = network.upsample(logits) if network.upsample else logits
            band.append(logits.softmax(1)[0].numpy())
        bands.append(np.concatenate(band, 2))
    return np.concatenate(bands, 1)


@pytest.mark.parametrize("size", [(70, 90), (48, 64), (30, 200)])
def test_the_released_tiles_are_the_released_procedure(size):
    image = picture(*size)
    found = dl.predict(image, TINY, context="tiles")
    wanted = interp_map(released(TINY, image), *size)
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
    whole = dl.predict(image, TINY).probabilities
    assert (whole - found.probabilities).abs().max() > 1e-3


def test_the_conventions_put_a_cell_where_they_say():
    image = picture(160, 160)
    shares = {
        how: dl.predict(image, TINY, upsampling=how).probabilities
        for how in ("released", "half_pixel", "deconvolution")
    }
    with torch.no_grad():
        logits = TINY.context(cells_of(TINY, image))
    cells = logits.softmax(1)[0]
    torch.testing.assert_close(shares["released"][:, ::8, ::8], cells[:, :20, :20])
    # half a cell between two: their logits' mean
    between = logits[0].unfold(1, 2, 1).mean(-1).unfold(2, 2, 1).mean(-1).softmax(0)
    centre = (
        shares["half_pixel"][:, 7:-8:8, 7:-8:8]
        + shares["half_pixel"][:, 8:-7:8, 8:-7:8]
    )
    np.testing.assert_allclose(centre / 2, between[:, :19, :19], atol=0.02)
    inner = (..., slice(4, 152), slice(4, 152))
    torch.testing.assert_close(
        shares["half_pixel"][inner], shares["deconvolution"][inner]
    )
    assert (shares["half_pixel"] - shares["deconvolution"]).abs().max() > 1e-3


def test_a_network_with_a_deconvolution_uses_its_own():
    network = tiny(upsample=True)
    image = picture(50, 60)
    found = dl.predict(image, network).probabilities
    with torch.no_grad():
        logits = network.upsample(network.context(cells_of(network, image)))
    torch.testing.assert_close(found, logits.softmax(1)[0, :, :50, :60])
    other = dl.predict(image, network, upsampling="released").probabilities
    assert (other - found).abs().max() > 1e-3
    tiles = dl.predict(image, network, context="tiles").probabilities
    wanted = released(network, image)[:, :50, :60]
    np.testing.assert_allclose(tiles, wanted, atol=1e-5)
    nn.init.zeros_(network.upsample.weight)
    flat = dl.predict(image, network).probabilities
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / 4))
    tiles = dl.predict(image, network, context="tiles").probabilities
    torch.testing.assert_close(tiles, flat)


def test_the_whole_image_is_taken_where_it_is():
    """A network of one pixel's reach: a cell reads the pixel that it belongs to."""
    marked = np.zeros((40, 56, 3), "u1")
    marked[16, 24] = 255, 0, 0  # red, RGB
    network = tiny(classes=3)
    for layer in network.front:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            middle = layer.kernel_size[0] // 2
            layer.weight.data[0, 0, middle, middle] = 1
    first = network.front[0].weight.data
    first.zero_()
    first[0, 2, 1, 1] = 1  # BGR: the third is red
    network.mean = (0.0, 0.0, 0.0)
    for layer in network.context.layers[::2]:
        dl.identity_(layer, 3, std=0)
    shares = dl.predict(Image.fromarray(marked), network).probabilities
    seen = np.argwhere(shares[0].numpy() > 0.99)
    # the pooling takes the largest of 8 × 8, from the middle of the field on
    assert [*map(tuple, seen)] == [(16, 24)]


def test_a_bar_counts_tiles_where_it_is_asked_for(capsys):
    image = picture(24, 60)
    pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]
    for options in ({}, {"progress": True}):
        dl.predict(image, TINY, tile=(388, 396), **options)
        one = capsys.readouterr()
        probabilities(TINY, pixels, tile=(388, 396), **options)
        for told in (one, capsys.readouterr()):
            assert told.out == "" and bool(told.err) == bool(options)
            if options:  # 4 cells in 2 rows, 9 in 3 columns
                assert re.search(r" 6/6 .*\dtile/s", told.err)


def test_modes_and_gradients_are_left_as_they_were():
    network = tiny()
    network.train()
    network.front.conv1_1.eval()
    before = [module.training for module in network.modules()]
    one = dl.predict(picture(20, 20), network)
    assert [module.training for module in network.modules()] == before
    assert not one.probabilities.is_inference() and not one.probabilities.requires_grad


def test_dropout_does_not_take_part():
    network = tiny().train()
    image = picture(20, 30)
    one, two = (dl.predict(image, network).probabilities for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(one, dl.predict(image, TINY).probabilities)


def test_half_precision_runs_in_half_precision():
    image = picture(20, 30)
    half = dl.predict(image, tiny().bfloat16()).probabilities
    full = dl.predict(image, TINY).probabilities
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    assert (half - full).abs().mean() < 0.03


def test_probabilities_are_of_the_pictures_size_and_sum_to_one():
    for how in ("released", "half_pixel", "deconvolution"):
        found = dl.predict(picture(33, 47), TINY, upsampling=how)
        assert found.probabilities.shape == (4, 33, 47)
        torch.testing.assert_close(found.probabilities.sum(0), torch.ones(33, 47))


def test_a_label_map_is_a_png_of_class_ids_with_the_colours(tmp_path):
    found = dl.predict(picture(30, 40), TINY)
    found.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as file:
        assert file.mode == "P" and file.format == "PNG"
        assert np.array_equal(np.asarray(file), found.labels)
        assert file.getpalette()[:12] == [0, 0, 255, 1, 2, 254, 2, 4, 253, 3, 6, 252]
    colours = cv2.imread(str(tmp_path / "labels.png"))[..., ::-1]
    palette = np.array([*TINY.palette.values()])
    assert np.array_equal(colours, palette[found.labels])


def test_a_label_map_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    found = dl.predict(picture(8, 8), TINY)
    path = tmp_path / "labels.png"
    found.save(path)
    before = path.read_bytes()

    def full(self, beside, *_):
        beside.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        found.save(path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    with pytest.raises(ValueError, match=r"saved as .png, got labels.jpg"):
        found.save(tmp_path / "labels.jpg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": (379, 500)}, "at least 380 pixels a side.*got 379"),
        ({"tile": (500, 373), "context": "tiles"}, "373 pixels do not give whole"),
        ({"tile": (900,)}, r"\(height, width\) in pixels, got \(900,\)"),
        ({"tile": (900.0, 900.0)}, r"\(height, width\) in pixels"),
        ({"context": "all"}, "context must be one of whole, tiles; got 'all'"),
        ({"upsampling": "nearest"}, "upsampling must be one of .*; got 'nearest'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dl.predict(picture(8, 8), TINY, **options)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8)])
def test_images_that_are_none_are_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"(N, 3, H, W), got {shape}")):
        probabilities(TINY, torch.zeros(shape))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize(
    ("size", "tiles"), [((1, 203), 1), ((430, 398), 14), ((417, 811), 14 * 7)]
)
def test_tiles_of_a_front_end_that_pads_give_what_the_whole_gives(padding, size, tiles):
    """At odd sizes, with tiles that end inside the picture and at its border."""
    network, sides = tiny(front=padding).double(), []
    network.front.conv1_1.register_forward_hook(
        lambda _, args, __: sides.append(args[0])
    )
    image = picture(*size)
    whole = dl.predict(image, network, tile=(900, 900)).probabilities
    least = 97 if padding == "reflect" else 1
    continued = [8 * -(-max(side, least) // 8) for side in size]
    assert [tuple(one.shape[2:]) for one in sides] == [tuple(continued)]
    sides.clear()
    tiled = dl.predict(image, network, tile=(416, 504)).probabilities
    torch.testing.assert_close(tiled, whole, atol=1e-6, rtol=0)
    assert len(sides) == tiles
    assert all(one.shape[2] <= 416 and one.shape[3] <= 504 for one in sides)


def test_a_padded_front_end_continues_a_picture_by_reflection_to_whole_cells():
    network, image = tiny(front="zeros"), picture(43, 61)
    pixels = np.pad(np.asarray(image), ((0, 5), (0, 3), (0, 0)), mode="reflect")
    rgb = torch.tensor(pixels).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        logits = network(rgb)
    found = dl.predict(image, network, upsampling="half_pixel").probabilities
    grown = nn.functional.interpolate(logits, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(found, grown.softmax(1)[0, :, :43, :61])


def test_a_tile_without_room_for_what_a_padded_cell_sees_is_refused():
    with pytest.raises(ValueError, match=r"at least 392 pixels a side, .* got 391"):
        dl.predict(picture(500, 500), tiny(front="zeros"), tile=(391, 900))


def test_the_released_tiles_are_of_front_ends_that_do_not_pad():
    with pytest.raises(ValueError, match="front ends that do not pad"):
        dl.predict(picture(8, 8), tiny(front="zeros"), context="tiles")


def test_a_front_end_that_pads_in_one_layer_only_is_refused():
    network = tiny()
    network.front.conv5_3.padding = (2, 2)
    with pytest.raises(ValueError, match=r"every layer .* or none may pad"):
        dl.predict(picture(8, 8), network)


def largest_map(image, tile):
    """Numbers in the largest map of the front end while a picture is segmented."""
    sizes, hooks = [], []
    for layer in TINY.front:
        hooks.append(
            layer.register_forward_hook(
                lambda _, __, output: sizes.append(output.numel())
            )
        )
    try:
        dl.predict(image, TINY, tile=tile)
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def test_the_front_ends_maps_do_not_grow_with_the_picture():
    one, many = picture(40, 40), picture(40, 800)
    assert largest_map(many, (420, 420)) <= largest_map(one, (420, 420))
    assert largest_map(many, (420, 1300)) > 2 * largest_map(one, (420, 1300))


PEAK = """
import resource
import sys
from collections import OrderedDict

from PIL import Image
from torch import nn

import dilated_lib as dl

front = OrderedDict(pool=nn.MaxPool2d(8), final=nn.Conv2d(3, 21, 1))
network = dl.DilatedNetwork(
    nn.Sequential(front),
    dl.ContextModule(21),
    palette={str(number): (0, 0, 0) for number in range(21)},
    mean=(0.0, 0.0, 0.0),
    input_size=(400, 400),
)
for side in (1000, 2000):
    Image.new("RGB", (side, side)).save("photo.bmp")
    found = dl.predict("photo.bmp", network, probabilities=False)
    assert found.labels.shape == (side, side)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak * (1 if sys.platform == "darwin" else 1024))
"""


def test_labels_alone_take_15_mb_a_megapixel(tmp_path):
    """Of a process of its own: peaks at 1 and 4 megapixels, of 21 classes."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    one, four = map(int, done.stdout.split())
    assert four - one < 3 * 15e6


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (nn.MaxPool2d((1, 2)), {}, "strides 1 and 2"),
        (nn.MaxPool2d(4), {"upsample": True}, "fit the deconvolution"),
        (nn.Conv2d(3, 3, 1, 4), {}, r"margins \[-1.5, -1.5\]"),
    ],
)
def test_a_front_end_whose_cells_do_not_fit_is_refused(layer, options, message):
    front = nn.Sequential(OrderedDict(layer=layer, final=nn.Conv2d(3, 4, 1)))
    network = dl.DilatedNetwork(
        front,
        dl.ContextModule(4),
        palette=TINY.palette,
        mean=(0.0, 0.0, 0.0),
        input_size=(64, 64),
        **options,
    )
    with pytest.raises(ValueError, match=message):
        dl.predict(picture(20, 20), network)


# the command


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    network = dl.networks.dilation8_camvid(fc_channels=4)
    nn.init.normal_(network.front.final.weight)
    dl.save(network, tmp_path / "net.safetensors")
    picture(40, 60).save(tmp_path / "photo.jpg")
    return tmp_path


def run(files, **options):
    given = {
        "image": files / "photo.jpg",
        "network": "dilation8_camvid",
        "weights": files / "net.safetensors",
        "output": files / "labels.png",
        "fc_channels": 4,
        **options,
    }
    segment(given.pop("image"), **given)


def test_the_command_writes_a_label_map_and_names_what_it_saw(files, capsys):
    run(files)
    told = capsys.readouterr()
    with Image.open(files / "labels.png") as file:
        labels = np.asarray(file)
    assert labels.shape == (40, 60)
    names = [*dl.networks.dilation8_camvid(fc_channels=4).palette]
    shares = {names[n]: (labels == n).mean() for n in np.unique(labels)}
    lines = dict(line.rsplit(maxsplit=2)[:2] for line in told.out.splitlines())
    assert lines == {name: f"{100 * share:.1f}" for name, share in shares.items()}
    assert "1/1" in told.err  # the progress bar


def test_the_quick_command_computes_with_the_quick_network(files, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = []
    real = quick
    monkeypatch.setattr(bfloat16, "quick", lambda net: made.append(1) or real(net))
    run(files)
    assert made == []
    run(files, quick=True, output=files / "quick.png")
    assert made == [1]
    with (
        Image.open(files / "labels.png") as one,
        Image.open(files / "quick.png") as other,
    ):
        assert (np.asarray(one) == np.asarray(other)).mean() > 0.9


def broken(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        ("photo.jpg", {}, "photo.jpg cannot be read as a picture"),
        ("net.safetensors", {}, "net.safetensors cannot be read; is it damaged"),
        (
            None,
            {"network": "dilation8_pascal_voc"},
            "lacks ct_conv1_1.bias, ",
        ),
        (None, {"network": "dilation7_kitti"}, "left over: ctx_conv5_1"),
        (None, {"fc_channels": 5}, "fc6.bias (4,) instead of (5,)"),
        (None, {"tile": (100, 100)}, "at least 380 pixels"),
    ],
)
def test_where_something_does_not_fit_one_sentence_says_so_and_nothing_is_written(
    spoil, options, message, files, capsys
):
    if spoil:
        broken(files / spoil)
    (files / "labels.png").write_bytes(b"before")
    with pytest.raises(SystemExit) as caught:
        run(files, **options)
    told = capsys.readouterr()
    assert caught.value.code == 2 and message in told.err
    assert "Traceback" not in told.err and not told.out
    assert (files / "labels.png").read_bytes() == b"before"
    assert not [*files.glob("*.part")]


def test_the_picture_itself_is_no_output(files, capsys):
    photo = files / "photo.png"
    (files / "photo.jpg").rename(photo)
    before = photo.read_bytes()
    (files / "link.png").symlink_to(photo)
    for output in (photo, files / "link.png"):
        with pytest.raises(SystemExit) as caught:
            segment(photo, output=output)
        assert caught.value.code == 2
        assert "is the picture itself" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_the_output_is_checked_before_the_work(files, capsys):
    for output in (files / "labels.jpg", files / "no" / "labels.png"):
        with pytest.raises(SystemExit):
            run(files, output=output, weights=files / "none.safetensors")
        assert (
            "must be a .png file in a folder that is there" in capsys.readouterr().err
        )
