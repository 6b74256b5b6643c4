"""t-SNE: probabilities one by one, the gradient by autograd, clusters kept; what is refused."""

import math

import pytest
import torch

from assay.probes import neighbour_probabilities, tsne, tsne_gradient


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_probabilities_row_by_row():
    """The bandwidth of each point by bisection on the entropy, with plain floats."""
    x, perplexity = noise(12, 3) * torch.linspace(0.2, 9, 12)[:, None], 4.0
    found = neighbour_probabilities(x, perplexity=perplexity)
    for i in range(12):
        gaps = [float(((x[i] - x[j]) ** 2).sum()) for j in range(12) if j != i]
        low, high = 1e-12, 1e12
        for _ in range(200):
            beta = math.sqrt(low * high)
            w = [math.exp(-beta * (g - min(gaps))) for g in gaps]
            p = [v / sum(w) for v in w]
            entropy = -sum(v * math.log(v) for v in p if v > 0)
            low, high = (beta, high) if entropy > math.log(perplexity) else (low, beta)
        row = [found[i, j].item() for j in range(12) if j != i]
        assert row == pytest.approx(p, abs=1e-9)
    assert found.diagonal().abs().max() == 0


def test_the_gradient_is_that_of_the_divergence():
    given = neighbour_probabilities(noise(9, 4), perplexity=3.0)
    joint, plane = (given + given.T) / 18, noise(9, 2, seed=1).requires_grad_()
    near = 1 / (1 + (plane[:, None] - plane).square().sum(2))
    q = near * (1 - torch.eye(9))
    q = q / q.sum()
    off = ~torch.eye(9, dtype=torch.bool)
    (expected,) = torch.autograd.grad((joint[off] * (joint[off] / q[off]).log()).sum(), plane)
    torch.testing.assert_close(tsne_gradient(plane.detach(), joint), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clusters_stay_together_where_principal_components_overlap(dtype):
    """Six tight groups at the ends of three axes; in the plane of the first two components two fall together."""
    centres = torch.cat([torch.eye(10)[:3], -torch.eye(10)[:3]]).double() * 10
    labels = torch.arange(6).repeat_interleave(12)
    x = (centres[labels] * torch.tensor([1.0, 0.9, 0.8] + [0] * 7) + 0.3 * noise(72, 10)).to(dtype)
    plane = tsne(x, perplexity=8.0, steps=350)
    assert plane.dtype == dtype
    gaps = torch.cdist(plane, plane)
    same = labels[:, None] == labels
    nearest = gaps.masked_fill(torch.eye(72, dtype=torch.bool), torch.inf).topk(5, largest=False).indices
    assert same.gather(1, nearest).double().mean() > 0.99
    assert torch.equal(plane, tsne(x, perplexity=8.0, steps=350))


def test_what_is_refused():
    x = noise(6, 2)
    with pytest.raises(ValueError, match=r"points must be \(n, d\), 4 or more"):
        tsne(x[:3], perplexity=1.5)
    with pytest.raises(ValueError, match="finite"):
        neighbour_probabilities(x / 0, perplexity=2.0)
    for perplexity in (1.0, 5.0):
        with pytest.raises(ValueError, match="perplexity must lie between 1 and 5"):
            tsne(x, perplexity=perplexity)
    with pytest.raises(ValueError, match="steps must be at least 1: got 0"):
        tsne(x, perplexity=2.0, steps=0)
    with pytest.raises(ValueError, match="exaggeration must be at least 1"):
        tsne(x, perplexity=2.0, exaggeration=0.5)
