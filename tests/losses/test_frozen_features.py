"""The fixed networks: their layers by hand, their weights as they ship, and VGG's as torchvision lays them out."""

from importlib import resources

import pytest
import torch
from safetensors.torch import load, save_file
from torch import nn
from torch.nn import functional as F

from assay.losses import FrozenFeatures


def shipped():
    return load(resources.files("assay.losses").joinpath("frozen_features.safetensors").read_bytes())


def test_the_small_network_by_hand():
    """Three convolutions, a mean of two by two between them, on standardised colours."""
    stored = {name: each.double() for name, each in shipped().items()}
    images = torch.rand(2, 3, 21, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden = (images - stored["mean"].view(3, 1, 1)) / stored["std"].view(3, 1, 1)
    found = FrozenFeatures().double()(images)
    assert list(found) == ["relu1", "relu2", "relu3"]
    for number in (1, 2, 3):
        if number > 1:
            hidden = F.avg_pool2d(hidden, 2)
        hidden = F.conv2d(hidden, stored[f"conv{number}.weight"], stored[f"conv{number}.bias"], padding=1).clamp_min(0)
        torch.testing.assert_close(found[f"relu{number}"], hidden)


def test_the_shipped_weights_are_small_and_were_trained():
    stored = shipped()
    assert sum(each.numel() for each in stored.values()) == 23_584 + 6
    trained, random = FrozenFeatures(), FrozenFeatures("random")
    assert torch.equal(trained.mean, random.mean)
    convolutions = [[m for m in net.modules() if isinstance(m, nn.Conv2d)] for net in (trained, random)]
    for a, b in zip(*convolutions, strict=True):
        assert (a.weight - b.weight).abs().max() > 0.1
    again = FrozenFeatures("random")
    assert all(torch.equal(a, b) for a, b in zip(random.parameters(), again.parameters(), strict=True))


def test_only_the_image_gets_a_gradient_and_nothing_deeper_is_computed():
    network = FrozenFeatures()
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    network(images, ["relu2"])["relu2"].sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, *_: seen.append(module.out_channels))
    network(images, ["relu1"])
    assert seen == [16]
    assert not network.train().steps[0].weight.requires_grad


def vgg_state(blocks, seed=0):
    """Weights of a VGG in torchvision's layout (`features.N.weight`), and the same network as a plain chain."""
    torch.manual_seed(seed)
    layers, before = [], 3
    for count, width in zip(blocks, (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    chain = nn.Sequential(*layers)
    return {f"features.{name}": value for name, value in chain.state_dict().items()}, chain


@pytest.mark.parametrize(
    ("kind", "blocks", "layer", "depth"),
    [("vgg16", (2, 2, 3, 3, 3), "relu3_3", 16), ("vgg19", (2, 2, 4, 4, 4), "relu3_4", 18)],
)
def test_vgg_is_torchvisions(kind, blocks, layer, depth, tmp_path):
    state, chain = vgg_state(blocks)
    save_file(state, tmp_path / "vgg.safetensors")
    images = torch.rand(1, 3, 16, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = chain[:depth]((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    for weights in (state, tmp_path / "vgg.safetensors"):
        found = FrozenFeatures(kind, weights=weights)(images, [layer, "relu1_2"])
        assert list(found) == [layer, "relu1_2"]
        torch.testing.assert_close(found[layer], expected, rtol=1e-4, atol=1e-5)


def test_what_is_refused(tmp_path):
    network = FrozenFeatures()
    images = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="'trained', 'random', 'vgg16', 'vgg19': got 'vgg11'"):
        FrozenFeatures("vgg11")
    with pytest.raises(ValueError, match="weights must be None"):
        FrozenFeatures("trained", weights={})
    with pytest.raises(ValueError, match="weights must be a state dict"):
        FrozenFeatures("vgg19")
    with pytest.raises(ValueError, match=r"features\.0\.weight of shape \(64, 3, 3, 3\): got nothing"):
        FrozenFeatures("vgg16", weights={})
    with pytest.raises(ValueError, match="path of a file"):
        FrozenFeatures("vgg16", weights=tmp_path / "not-there.safetensors")
    with pytest.raises(ValueError, match="relu1, relu2, relu3: got 'relu4'"):
        network(images, ["relu4"])
    for layers in ([], "relu1"):
        with pytest.raises(ValueError, match="at least one of"):
            network(images, layers)
    with pytest.raises(ValueError, match="at least 4 pixels"):
        network(images[..., :3])
