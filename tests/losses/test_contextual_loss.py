"""Contextual loss, against its four lines in loops and what they promise."""

import math

import pytest
import torch

from assay.losses import ContextualLoss, contextual_similarity, patch_features


def points(n=2, N=7, M=5, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, N, d, generator=generator, dtype=torch.float64)
    return x, torch.randn(n, M, d, generator=generator, dtype=torch.float64) + 0.3


def loops(x, y, h, distance, eps):
    """One pair, the definition entry by entry."""
    N, M = len(x), len(y)
    mean = sum(y) / M
    raw = [[0.0] * M for _ in range(N)]
    for i in range(N):
        for j in range(M):
            if distance == "l2":
                raw[i][j] = sum((a - b) ** 2 for a, b in zip(x[i].tolist(), y[j].tolist(), strict=True))
            else:
                a, b = (x[i] - mean).tolist(), (y[j] - mean).tolist()
                dot = sum(p * q for p, q in zip(a, b, strict=True))
                raw[i][j] = 1 - dot / (math.hypot(*a) * math.hypot(*b))
    similar = []
    for i in range(N):
        smallest = min(raw[i])
        weights = [math.exp((1 - raw[i][j] / (smallest + eps)) / h) for j in range(M)]
        similar.append([w / sum(weights) for w in weights])
    return sum(max(similar[i][j] for i in range(N)) for j in range(M)) / M


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize(("h", "eps"), [(0.5, 1e-5), (0.2, 0.1)])
def test_it_is_the_definition(distance, h, eps, chunk):
    x, y = points()
    expected = torch.tensor([loops(a, b, h, distance, eps) for a, b in zip(x, y, strict=True)], dtype=torch.float64)
    found = contextual_similarity(x, y, h=h, distance=distance, eps=eps, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)


def test_it_is_that_of_a_third_party():
    """contextual_loss.functional.contextual_loss(x, y, band_width=0.5) of S-aiueo32/contextual_loss_pytorch.

    On one pair of maps (1, 4, 3, 3), float64; it adds 1e-5 within the logarithm.
    """
    index = torch.arange(36, dtype=torch.float64)
    x, y = (index * 1.7).sin().reshape(1, 4, 3, 3), (index * 0.9 + 1).cos().reshape(1, 4, 3, 3)
    found = ContextualLoss(h=0.5)(x, y)
    expected = torch.tensor(THIRD_PARTY, dtype=torch.float64)
    torch.testing.assert_close(found, expected + math.log1p(1e-5 / math.exp(-found.item())), rtol=1e-9, atol=0)


THIRD_PARTY = 0.7465573631723701


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_chunks_give_the_same_gradient_and_the_same_second_one(distance):
    x, y = points(N=11, M=6)
    grads = []
    for chunk in (None, 4):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = contextual_similarity(a, b, distance=distance, chunk=chunk).log().sum()
        grads.append(torch.autograd.grad(value, (a, b)))
    for whole, parts in zip(*grads, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_gradient(distance):
    x, y = points(n=1, N=4, M=3, d=2)
    arguments = (x.requires_grad_(), y.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: contextual_similarity(a, b, h=0.7, distance=distance), arguments)
    assert torch.autograd.gradcheck(
        lambda a, b: contextual_similarity(a, b, h=0.7, distance=distance, chunk=2), arguments
    )


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_limits(distance):
    """Equal sets: 1. A collapsed output, or one target repeated: 1/M of every row. No bandwidth limit: 1/M."""
    _, y = points(M=20, d=6)
    shuffled = y[:, torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    assert (-contextual_similarity(shuffled, y, h=0.1, distance=distance).log() < 1e-3).all()
    collapsed = y[:, :1].expand(-1, 20, -1) + 0.1
    even = torch.full((2,), 1 / 20, dtype=torch.float64)
    torch.testing.assert_close(contextual_similarity(collapsed, y, distance=distance), even, rtol=1e-9, atol=0)
    wide = contextual_similarity(shuffled + 0.5, y, h=1e9, distance=distance)
    torch.testing.assert_close(wide, even, rtol=1e-5, atol=0)
    if distance == "l2":
        repeated = contextual_similarity(y, y[:, :1].expand(-1, 20, -1), distance=distance)
        torch.testing.assert_close(repeated, even, rtol=1e-9, atol=0)


def test_neither_order_matters_but_which_is_the_target_does():
    x, y = points(N=9, M=9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(contextual_similarity(x[:, order], y), contextual_similarity(x, y), rtol=1e-10, atol=0)
    torch.testing.assert_close(contextual_similarity(x, y[:, order]), contextual_similarity(x, y), rtol=1e-10, atol=0)
    assert (contextual_similarity(x, y) - contextual_similarity(y, x)).abs().min() > 1e-3


def test_the_scale_of_distances_does_not_matter_and_a_colour_cast_does():
    x, y = points()
    torch.testing.assert_close(
        contextual_similarity(10 * x, 10 * y, distance="l2", eps=1e-12),
        contextual_similarity(x, y, distance="l2", eps=1e-12),
        rtol=1e-8,
        atol=0,
    )
    _, y = points(M=20, d=6)
    assert (contextual_similarity(y + 1.0, y) < 0.9 * contextual_similarity(y, y)).all()


def test_ancestor_nearest_neighbours_do_not_see_a_collapse_and_this_does():
    """The chamfer distance from output to target is 0 for an output of copies of one target point."""
    _, y = points(M=20, d=6)
    collapsed = y[:, :1].expand(-1, 20, -1)
    assert torch.cdist(collapsed, y).amin(2).max() == 0
    assert (contextual_similarity(collapsed, y, distance="l2") < 0.06).all()


def test_memory_is_that_of_a_chunk():
    from assay.metrics.memory import peak_memory

    x = torch.randn(1, 4000, 8, requires_grad=True)
    y = torch.randn(1, 4000, 8)
    extra = {}
    for chunk in (100, 4000):
        contextual_similarity(x, y, chunk=chunk).sum().backward()
        with peak_memory() as memory:
            contextual_similarity(x, y, chunk=chunk).sum().backward()
        extra[chunk] = memory.extra
    assert extra[4000] > 4 * 4000 * 4000 * 4  # several tables of all distances
    assert extra[100] < extra[4000] / 2


def test_patches_are_points():
    images = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    found = patch_features(images, size=3, stride=2)
    assert found.shape == (2, 4 * 3, 27)
    torch.testing.assert_close(found[1, 1 * 3 + 2], images[1, :, 2:5, 4:7].flatten())


def test_layers_are_added_and_maps_become_points():
    x, y = torch.rand(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def network(images, layers):
        return {name: images[:, :2] * int(name) for name in layers}

    loss = ContextualLoss(network, layers=("1", "2"), h=0.3, distance="l2", reduction="none")
    flat = [each[:, :2].flatten(2).mT for each in (x, y)]
    expected = sum(-contextual_similarity(s * flat[0], s * flat[1], h=0.3, distance="l2").log() for s in (1, 2))
    torch.testing.assert_close(loss(x, y), expected)


def test_subsets_are_of_the_same_places():
    x = torch.rand(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    loss = ContextualLoss(max_points=20, generator=torch.Generator().manual_seed(0))
    assert loss(x, x).item() < 1e-2  # different places would have no counterparts
    other = torch.rand(1, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    assert loss(x, other) > 0.5
    assert loss(other, x) > 0.5
    values = {ContextualLoss(max_points=20, generator=torch.Generator().manual_seed(7))(x, x.flip(1)).item()}
    values.add(ContextualLoss(max_points=20, generator=torch.Generator().manual_seed(7))(x, x.flip(1)).item())
    assert len(values) == 1


def test_single_precision_keeps_near_matches():
    """Squared distances of 1e-8 beside norms of 100."""
    y = torch.randn(1, 30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 10
    x = y + 1e-4 * torch.randn(1, 30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = contextual_similarity(x.float().double(), y.float().double(), distance="l2", eps=1e-7)
    single = contextual_similarity(x.float(), y.float(), distance="l2", eps=1e-7).double()
    torch.testing.assert_close(single, exact, rtol=1e-4, atol=0)


def test_what_it_cannot_work_with_is_refused():
    x, y = points()
    for options, name in (
        (dict(h=0.0), "h must"),
        (dict(h=math.inf), "h must"),
        (dict(distance="l1"), "distance"),
        (dict(eps=0.0), "eps"),
        (dict(chunk=0), "chunk"),
    ):
        with pytest.raises(ValueError, match=name):
            contextual_similarity(x, y, **options)
    with pytest.raises(ValueError, match="2 points"):
        contextual_similarity(x[:, :1], y)
    with pytest.raises(ValueError, match="2 points"):
        contextual_similarity(x, y[:, :1])
    with pytest.raises(ValueError, match="y must be finite"):
        contextual_similarity(x, y * math.nan)
    with pytest.raises(ValueError, match=r"\(n, M, d\): got \(2, 7, 2\) and \(2, 5, 3\)"):
        contextual_similarity(x[..., :2], y)
    for options, name in (
        (dict(h=-1.0), "h must"),
        (dict(max_points=1), "max_points"),
        (dict(layers=("relu1",)), "layers"),
        (dict(features=patch_features, layers=()), "layers"),
        (dict(features=patch_features, layers="relu1"), "layers"),
        (dict(reduction="median"), "reduction"),
    ):
        with pytest.raises(ValueError, match=name):
            ContextualLoss(**options)
    images = torch.rand(1, 3, 8, 8)
    for options, name in ((dict(size=0), "size"), (dict(stride=0), "stride"), (dict(size=9), "images")):
        with pytest.raises(ValueError, match=name):
            patch_features(images, **options)
