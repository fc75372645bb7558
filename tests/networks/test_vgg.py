"""The front end: its weights, its variants, and the classifier that it comes from."""

import copy
import hashlib
import inspect
import io
from email.message import Message

import numpy as np
import pytest
import torch
from caffe_files import write
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import dilated_lib as dl
from dilated_lib.networks import imagenet
from dilated_lib.networks.architecture import Architecture
from dilated_lib.networks.vgg import _CONVOLUTIONS, fill


@pytest.fixture(scope="module")
def vgg():
    """A classifier with random weights, its last layers narrow; no test changes it."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = models.vgg16()
        network.classifier[0] = nn.Linear(512 * 49, 24)
        network.classifier[3] = nn.Linear(24, 20)
        network.classifier[6] = nn.Linear(20, 10)
    network = network.to_empty(device="cpu").eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.normal_(parameter, std=0.1)
    return network


def image(height, width, **options):
    generator = torch.Generator().manual_seed(height)
    return torch.randn(1, 3, height, width, generator=generator, **options)


def test_a_slid_classifier_answers_at_224_as_the_classifier(vgg):
    vgg = copy.deepcopy(vgg).double()
    slid = dl.fully_convolutional(vgg)
    picture = image(224, 224, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(slid(picture)[:, :, 0, 0], vgg(picture))
        assert slid(image(256, 288, dtype=torch.double)).shape == (1, 10, 2, 3)
    assert slid[31].weight.data_ptr() == vgg.classifier[0].weight.data_ptr()


def test_what_is_not_trained_in_a_classifier_is_not_in_a_slid_one(vgg):
    for trained in (False, True):
        own = copy.deepcopy(vgg).requires_grad_(trained)
        slid = dl.fully_convolutional(own)
        assert all(one.requires_grad == trained for one in slid.parameters())


def test_what_is_no_vgg_is_no_classifier_to_slide():
    for other in (models.resnet18(), models.squeezenet1_0()):
        with pytest.raises(TypeError, match="a VGG of torchvision, got"):
            dl.fully_convolutional(other)


def states(vgg):
    """The 13 convolutions under torchvision's names and under Caffe's."""
    pairs = {
        f"{number}.{kind}": one
        for number, layer in enumerate(vgg.features)
        if isinstance(layer, nn.Conv2d)
        for kind, one in layer.state_dict().items()
    }
    caffe = {
        f"{_CONVOLUTIONS[n // 2]}.{name.split('.')[1]}": one
        for n, (name, one) in enumerate(pairs.items())
    }
    return pairs, caffe


def stage_five(front, picture):
    with torch.no_grad():
        return front[:29](picture)  # up to relu5_3


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".caffemodel"])
@pytest.mark.parametrize("channel_order", ["bgr", "rgb"])
def test_weights_of_a_file_compute_what_they_did(vgg, suffix, channel_order, tmp_path):
    """The same features, from BGR where the file's come from either order."""
    torchvision, caffe = states(vgg)
    path = tmp_path / f"vgg{suffix}"
    if suffix == ".pth":
        torch.save({f"features.{n}": one for n, one in torchvision.items()}, path)
    elif suffix == ".safetensors":
        save_file(torchvision, path)
    else:
        blobs = {
            layer: [caffe[f"{layer}.{kind}"].numpy() for kind in ("weight", "bias")]
            for layer in _CONVOLUTIONS
        }
        write(path, blobs, old=True)
    front = dl.front_end(4, path, channel_order=channel_order, fc_channels=8).eval()
    assert front[0].weight.shape == (64, 3, 3, 3)
    bgr = image(200, 200)
    wanted = bgr if channel_order == "bgr" else bgr.flip(1)
    # without padding or the last poolings, layer by layer, by torch alone
    with torch.no_grad():
        for number, layer in enumerate(vgg.features[:30]):
            if isinstance(layer, nn.Conv2d):
                dilation = 2 if number > 23 else 1
                wanted = nn.functional.conv2d(
                    wanted, layer.weight, layer.bias, dilation=dilation
                )
            elif isinstance(layer, nn.ReLU):
                wanted = wanted.relu()
            elif number < 23:
                wanted = nn.functional.max_pool2d(wanted, 2, ceil_mode=True)
    found = stage_five(front, bgr)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.1


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_a_padded_front_end_computes_the_same_far_from_the_border(padding):
    """In float64, from the same weights: cells that see the picture alone agree."""
    torch.manual_seed(1)
    narrow = {"fc_channels": 8, "width": 4}
    plain = dl.front_end(5, **narrow).double().eval()
    nn.init.normal_(plain.final.weight)
    padded = dl.front_end(5, padding=padding, **narrow).double().eval()
    padded.load_state_dict(plain.state_dict())
    picture = 50 * torch.randn(1, 3, 8 * 56, 8 * 54, dtype=torch.double)
    with torch.no_grad():
        found = padded(picture)
        # cell i begins to see at 8i - 186: the first one of a crop from pixel 6 is 24
        wanted = plain(picture[:, :, 6 : 6 + 372 + 8 * 8, 6 : 6 + 372 + 8 * 6])
    assert found.shape == (1, 5, 56, 54) and wanted.shape == (1, 5, 8, 6)
    error = (found[:, :, 24:32, 24:30] - wanted).abs().max()
    assert error < 1e-9 < wanted.std()
    beyond = (found[:, :, 16:24, 24:30] - wanted).abs().max()
    assert beyond > 1e-3  # other cells are other cells


def test_reflection_is_not_padding_with_zeros():
    fronts = [dl.front_end(2, padding=one, fc_channels=4, width=4) for one in
              ("zeros", "reflect")]  # fmt: skip
    for parameter in fronts[0].parameters():
        parameter.data.abs_()  # so that no ReLU is silent, whatever was drawn
    fronts[1].load_state_dict(fronts[0].state_dict())
    picture = torch.full((1, 3, 104, 112), 100.0)
    with torch.no_grad():
        zeros, mirrored = (front.eval()(picture) for front in fronts)
    assert mirrored.std((2, 3)).max() < 1e-4 * mirrored.abs().max()  # no border seen
    assert zeros.std((2, 3)).max() > 1e-2 * zeros.abs().max()


def test_a_front_end_with_batch_norm_takes_no_weights():
    front = dl.front_end(2, fc_channels=4, batch_norm=True)
    with pytest.raises(ValueError, match=r"batch_norm=True .* from scratch"):
        fill(front, "imagenet")
    assert inspect.signature(fill).parameters["channel_order"].default == "bgr"


def test_reflection_needs_thirteen_cells_and_says_so():
    sky = {"sky": (128, 128, 128)}
    kind = Architecture(padding="reflect", context="basic", width=4, fc_channels=4)
    network = kind.build(sky, (0.0, 0.0, 0.0))
    assert network.least_size == (97, 97)  # 12 cells and one pixel of the next
    assert network(torch.zeros(1, 3, 104, 104)).shape == (1, 1, 13, 13)
    with pytest.raises(ValueError, match=r"at least 97 x 97 pixels, .* \(96, 104\)"):
        network(torch.zeros(1, 3, 96, 104))


def test_imagenet_weights_are_downloaded_checked_and_flipped(
    vgg, tmp_path, monkeypatch
):
    """By torch's own download, but for the wire: its file, hash and cache."""
    torchvision, _ = states(vgg)
    state = {f"features.{name}": one for name, one in torchvision.items()}
    state["classifier.0.weight"] = torch.full((2, 2), torch.nan)
    served = io.BytesIO()
    torch.save(state, served)
    asked = []

    def urlopen(request, *_, **__):
        asked.append(request.full_url)
        answer = io.BytesIO(served.getvalue())
        answer.info = Message
        return answer

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    with pytest.raises(OSError, match="invalid hash value"):
        dl.front_end(4, "imagenet", fc_channels=8)
    assert not [*tmp_path.rglob("*.pth")]
    assert asked[0].startswith("https://download.pytorch.org/models/vgg16_features-")

    digest = hashlib.sha256(served.getvalue()).hexdigest()
    published = models.VGG16_Weights.IMAGENET1K_FEATURES.value
    address = f"https://download.pytorch.org/models/vgg16_features-{digest[:8]}.pth"
    monkeypatch.setattr(published, "url", address)
    for _ in range(2):  # the second time from the cache
        front = dl.front_end(4, "imagenet", fc_channels=8)
        assert torch.equal(front[0].weight, torchvision["0.weight"].flip(1))
        assert torch.equal(front.conv5_3.bias, torchvision["28.bias"])
    assert len(asked) == 2


def test_a_download_that_begins_as_caffes_weights_is_not_flipped(vgg, monkeypatch):
    """Whoever put the file there may not have turned it, whatever is said of it."""
    torchvision, _ = states(vgg)
    caffes = torchvision["0.weight"].clone()
    first = torch.tensor([0.4294, 0.5503, 0.4800])
    caffes[0, :, 0, 0] = first.half().float()  # as far as they are known
    for first, wanted in ((caffes, caffes), (caffes.flip(1), caffes)):
        state = {f"features.{name}": one for name, one in torchvision.items()}
        state["features.0.weight"] = first
        monkeypatch.setattr(imagenet, "published_weights", lambda _, state=state: state)
        front = dl.front_end(4, "imagenet", fc_channels=8)
        assert torch.equal(front.conv1_1.weight, wanted)


@pytest.mark.parametrize("layout", ["torch", "caffe"])
def test_fc6_and_fc7_come_along_where_they_have_the_width(vgg, layout, tmp_path):
    torchvision, caffe = states(vgg)
    fc6, fc7 = torch.randn(8, 512 * 49), torch.randn(8, 8)
    if layout == "torch":
        path = tmp_path / "vgg.pth"
        extra = {"classifier.0.weight": fc6, "classifier.0.bias": torch.ones(8)}
        extra |= {"classifier.3.weight": fc7, "classifier.3.bias": torch.ones(8)}
        torch.save(torchvision | extra, path)
    else:
        path = tmp_path / "vgg.caffemodel"
        blobs = {
            layer: [caffe[f"{layer}.{kind}"].numpy() for kind in ("weight", "bias")]
            for layer in _CONVOLUTIONS
        }
        blobs["fc6"] = [fc6.numpy(), np.ones(8, "f")]
        blobs["fc7"] = [fc7.numpy(), np.ones(8, "f")]
        write(path, blobs, old=True)  # matrices of shape 1, 1, out, in
    front = dl.front_end(4, path, fc_channels=8)
    assert torch.equal(front.fc6.weight.flatten(1), fc6)
    assert torch.equal(front.fc7.weight.flatten(1), fc7)
    assert torch.equal(front.fc7.bias, torch.ones(8))
    other = dl.front_end(4, path, fc_channels=9)
    assert other.fc7.weight.std() < 1 and other.fc7.bias.eq(0).all()


def test_without_conv5_fc6_follows_conv4(vgg, tmp_path):
    torchvision, _ = states(vgg)
    torch.save(torchvision, tmp_path / "vgg.pth")
    options = {"fc_channels": 8, "padding": "zeros", "last_stage": "conv4"}
    front = dl.front_end(4, tmp_path / "vgg.pth", **options).eval()
    assert not any(name.startswith("conv5") for name in front._modules)
    # ten convolutions of VGG-16, fc6, fc7, final
    whole = sum(p.numel() for layer in vgg.features[:23] for p in layer.parameters())
    fc = 512 * 49 * 8 + 8 + 8 * 8 + 8 + 8 * 4 + 4
    assert sum(p.numel() for p in front.parameters()) == whole + fc
    assert torch.equal(front.conv4_3.weight, vgg.features[21].weight)
    # 92 of conv4_3, and 6 steps of 4 cells of 8 pixels
    (size, stride), _ = (
        (f.size, f.stride) for f in dl.receptive_field(front, (3, 96, 96))
    )
    assert (size, stride) == (92 + 6 * 4 * 8, 8)
    assert front(image(64, 72)).shape == (1, 4, 8, 9)


def test_the_last_layer_is_drawn_so_small_that_a_new_network_guesses():
    torch.manual_seed(0)
    final = dl.front_end(21, width=1, fc_channels=64).final
    assert 0.0009 < final.weight.std() < 0.0011 and not final.bias.any()


def test_a_new_network_keeps_the_power_of_what_it_reads():
    """Pixels have a spread of about 64; a ReLU halves what each layer doubles."""
    torch.manual_seed(0)
    front = dl.front_end(2, fc_channels=64)
    for name, spread in (("conv1_1", 64), ("conv1_2", 1), ("conv5_1", 1), ("fc6", 1)):
        layer = getattr(front, name)
        size = layer.dilation[0] * (layer.kernel_size[0] - 1) + 9
        out = layer(spread * torch.randn(1, layer.in_channels, size, size))
        assert 1.8 < out.square().mean() < 2.2, name


def test_the_dilated_layers_are_the_librarys_own_and_the_others_torchs():
    for layer in dl.front_end(2, width=1, fc_channels=1):
        if isinstance(layer, nn.Conv2d):
            kind = nn.Conv2d if layer.dilation == (1, 1) else dl.DilatedConv2d
            assert type(layer) is kind


def test_poolings_and_dropout_have_their_released_names():
    names = dl.front_end(2, width=1, fc_channels=1)._modules
    assert [name for name in names if not name.startswith(("conv", "relu", "fc"))] == [
        *("pool1", "pool2", "pool3", "drop6", "drop7", "final")
    ]


def test_a_file_without_the_layers_is_refused(vgg, tmp_path):
    torchvision, _ = states(vgg)
    path = tmp_path / "vgg.safetensors"
    del torchvision["5.bias"]
    save_file(torchvision, path)
    with pytest.raises(
        ValueError, match=r"vgg.safetensors.*conv2_1.bias.*found nothing$"
    ):
        dl.front_end(4, path, fc_channels=8)
    save_file(torchvision | {"5.bias": torch.zeros(64)}, path)
    with pytest.raises(ValueError, match=r"shape \(128,\), found \(64,\)"):
        dl.front_end(4, path, fc_channels=8)
    turned = torchvision | {"5.bias": torch.zeros(128)}
    turned["0.weight"] = turned["0.weight"].permute(2, 3, 1, 0).contiguous()
    save_file(turned, path)
    with pytest.raises(ValueError, match=r"conv1_1.weight.*found \(3, 3, 3, 64\)"):
        dl.front_end(4, path, fc_channels=8)
    _, caffe = states(vgg)
    whole = ("final.bias", "fc-final.bias", "ct_fc1.bias", "ctx_fc1.bias")
    for name in ("conv3_4.weight", *whole):  # of VGG-19, and of whole networks
        save_file(caffe | {name: torch.zeros(1)}, path)
        with pytest.raises(ValueError, match=f"not VGG-16's, it also holds {name}"):
            dl.front_end(4, path, fc_channels=8)


def test_the_variant_with_batch_norm_normalises_after_every_convolution_but_the_last():
    front = dl.front_end(4, fc_channels=8, batch_norm=True)
    kinds = [type(layer).__name__ for layer in front]
    for place, kind in enumerate(kinds[:-1]):
        if kind == "Conv2d":
            assert kinds[place + 1 : place + 3] == ["BatchNorm2d", "ReLU"]
    assert kinds.count("BatchNorm2d") == 15 and kinds[-1] == "Conv2d"
    plain = dl.front_end(4, fc_channels=8)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain)
    assert {*plain._modules} < {*front._modules}


def test_the_paper_is_the_default():
    options = inspect.signature(dl.front_end).parameters
    assert options["fc_channels"].default == 4096
    assert options["batch_norm"].default is False
    with torch.device("meta"):
        narrow = dl.front_end(21, fc_channels=512)
    count = sum(p.numel() for n, p in narrow.named_parameters() if n[:2] == "fc")
    assert round(count / 1e6) == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_classes": 2, "fc_channels": 0}, "fc_channels must be at least 1, got 0"),
        ({"num_classes": 2, "width": 0}, "width must be at least 1, got 0"),
        ({"num_classes": 2, "channel_order": "BGR"}, "one of bgr, rgb; got 'BGR'"),
        (
            {"num_classes": 2, "weights": "imagenet", "batch_norm": True}
            | {"fc_channels": 8, "width": 4},
            "training from scratch",
        ),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dl.front_end(**options)
