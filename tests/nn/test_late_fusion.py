"""Late fusion: unimodal logits add up, one tensor or several, what is refused."""

import pytest
import torch
from torch import nn

from assay.nn import LateFusion


def fusion(**settings):
    torch.manual_seed(0)
    encoders = [nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh()), nn.Linear(5, 3)]
    return LateFusion(encoders, [4, 3], 3, **settings).double()


def inputs(n=5):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 2, 3, generator=generator).double(), torch.rand(n, 5, generator=generator).double()


def test_unimodal_logits_are_those_with_the_others_set_to_zero():
    net = fusion()
    features = net.features(inputs())
    found = net.unimodal(features)
    for m, own in enumerate(found):
        alone = [z if number == m else torch.zeros_like(z) for number, z in enumerate(features)]
        torch.testing.assert_close(own, net.head(torch.cat(alone, 1)))
    torch.testing.assert_close(sum(found) - net.head.bias, net(inputs()))


def test_one_tensor_with_the_modalities_side_by_side():
    net = fusion(shapes=[(2, 3), (5,)])
    xs = inputs()
    assert torch.equal(net(torch.cat([x.flatten(1) for x in xs], 1)), net(xs))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(encoders=[nn.Identity()]), "encoders"),
        (dict(feature_dims=[4]), "feature_dims"),
        (dict(feature_dims=[4, 0]), "feature_dims"),
        (dict(num_classes=1), "num_classes"),
        (dict(shapes=[(3,)]), "shapes"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        LateFusion(**{"encoders": [nn.Identity()] * 2, "feature_dims": [4, 3], "num_classes": 3} | settings)


def test_refused_inputs():
    net, (a, b) = fusion(), inputs()
    with pytest.raises(ValueError, match="modalities"):
        net([a])
    with pytest.raises(ValueError, match="equally many"):
        net([a, b[:2]])
    with pytest.raises(ValueError, match="shapes"):
        net(torch.rand(5, 11).double())
