"""Sums of two known parts: what each of them is, limits, refusals."""

import pytest
import torch

from assay.data import cartoons_and_textures, photos


def drawn(*args, seed=0, **kwargs):
    return cartoons_and_textures(*args, generator=torch.Generator().manual_seed(seed), **kwargs)


def test_cartoons_are_even_between_few_edges():
    """At most four values on three polygons and their ground; every polygon is convex, so a row has few changes."""
    cartoons, _ = drawn(40, 32)
    assert cartoons.shape == (40, 1, 32, 32)
    assert 0 <= cartoons.min() <= cartoons.max() < 1
    values = [len(image.unique()) for image in cartoons]
    assert max(values) == 4
    assert min(values) >= 1
    for lines in (cartoons[:, 0], cartoons[:, 0].mT):
        changes = (lines[..., 1:] != lines[..., :-1]).sum(-1)
        assert changes.max() <= 6  # in and out of each polygon


def test_without_polygons_the_ground_is_left():
    cartoons, _ = drawn(7, 8, polygons=0)
    assert (cartoons == cartoons[..., :1, :1]).all()
    assert len(cartoons.unique()) == 7


def test_one_polygon_is_a_polygon():
    """What lies within its inner circle is inside, what lies beyond the outer one of a triangle is not."""
    cartoons, _ = drawn(200, 64, polygons=1)
    seen = 0
    for image in cartoons[:, 0]:
        inside = image != image.mode().values.mode().values
        if 0 < inside.sum() < 0.2 * inside.numel() and not (inside[[0, -1]].any() or inside[:, [0, -1]].any()):
            y, x = inside.nonzero().double().T
            far = torch.stack([x - x.mean(), y - y.mean()]).norm(dim=0).max()
            area = inside.sum().item()
            assert 3**1.5 / 4 * 0.9 < area / far**2 < 3.3  # a triangle has 3 sqrt(3) / 4 of its outer circle's radius
            seen += 1
    assert seen > 10


def test_textures_are_patches_of_the_photographs():
    _, textures = drawn(3, 20, seed=4)
    pictures = [each[0] for each in photos(("brick", "grass", "gravel"), color=False).values()]
    for texture in textures[:, 0]:
        best = 0.0
        flat = (texture / texture.norm()).flatten()
        for picture in pictures:
            patches = picture.unfold(0, 20, 1).unfold(1, 20, 1).flatten(0, 1).flatten(1)
            patches = patches - patches.mean(1, keepdim=True)
            best = max(best, ((patches @ flat) / patches.norm(dim=1)).max().item())
        assert best > 1 - 1e-4
    torch.testing.assert_close(textures.mean((2, 3)), torch.zeros(3, 1), atol=1e-6, rtol=0)


def test_seeds_decide():
    again = drawn(4, 16, seed=1)
    for one, two, other in zip(drawn(4, 16, seed=1), again, drawn(4, 16, seed=2), strict=True):
        assert torch.equal(one, two)
        assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(count=0), "count must be at least 1: got 0"),
        (dict(count=1, side=0), "side must lie in 1..256: got 0"),
        (dict(count=1, side=257), "side must lie in 1..256: got 257"),
        (dict(count=1, polygons=-1), "polygons must be 0 or more: got -1"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cartoons_and_textures(**arguments)
