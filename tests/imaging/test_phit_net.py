"""PhIT-Net: the standardized map of a U-Net; learning makes matching mind the light less."""

import pytest
import torch

from assay.imaging import PhITNet
from assay.losses import PatchTripletLoss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_are_standardized_images_of_the_net(dtype):
    torch.manual_seed(0)
    model = PhITNet(out_channels=2, width=4, levels=2).to(dtype).eval()
    x = torch.rand(3, 3, 12, 20, dtype=dtype)
    maps, raw = model(x), model.net(x)
    for one, f in zip(maps.flatten(0, 1), raw.flatten(0, 1), strict=True):
        scale = (f.var(correction=0) + 1e-6).sqrt()
        rounding = 100 * torch.finfo(dtype).eps * (1 + f.abs().max() / scale).item()
        torch.testing.assert_close(one, (f - f.mean()) / scale, rtol=0, atol=rounding)
    alone = model(x[:1])
    torch.testing.assert_close(
        alone, maps[:1], rtol=0, atol=10 * rounding
    )  # an image's map does not hang on its neighbours in the batch


def test_it_learns_to_forget_a_gain():
    """Pairs that differ by a gain and an offset: the distance of positives to that of negatives falls."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = PhITNet(width=4, levels=2)
    loss = PatchTripletLoss(8, min_shift=4, max_shift=12)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        x = torch.rand(4, 3, 8, 8, generator=generator)
        x = torch.nn.functional.interpolate(x, size=32, mode="bilinear")
        other = x * (0.4 + torch.rand(4, 3, 1, 1, generator=generator)) + 0.3 * torch.rand(4, 3, 1, 1)
        maps = model(torch.cat([x, other]))
        value = loss(maps[:4], maps[4:], generator)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="sides"):
        PhITNet(levels=3)(torch.zeros(1, 3, 7, 7))
