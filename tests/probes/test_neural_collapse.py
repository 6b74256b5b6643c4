"""Neural collapse: closed forms, gradient descent, other formulas for the same root, streaming, what is refused."""

import numpy as np
import pytest
import torch

from assay.probes import NeuralCollapse, UnconstrainedFeatures, collapse_geometry, distance_to


def descend(model, decays, lambda_h, lr, steps):
    model.double()
    params = list(model.parameters())
    for _ in range(steps):
        grads = torch.autograd.grad(model.objective(decays, lambda_h), params)
        with torch.no_grad():
            torch._foreach_add_(params, grads, alpha=-lr)
    return model


def test_one_layer_in_closed_form():
    counts, lambda_w, lambda_h = [60, 30, 10, 2], 5e-3, 1e-4
    found = collapse_geometry(counts, lambda_w, lambda_h)
    n, total = torch.tensor(counts).double(), sum(counts)
    squared = (n * lambda_h / lambda_w).sqrt() - total * lambda_h
    torch.testing.assert_close(found.norms_w.square(), squared)
    torch.testing.assert_close(found.norms_h.square(), lambda_w / (n * lambda_h) * squared)
    torch.testing.assert_close(found.norms_product, found.norms_w)
    # decimals worked out by hand before there was a program
    assert found.norms_w.square().tolist() == pytest.approx([1.0852, 0.7644, 0.4370, 0.1898], abs=5e-5)
    assert found.norms_h.square().tolist() == pytest.approx([0.9044, 1.2740, 2.1851, 4.7450], abs=5e-5)
    assert (found.kind, collapse_geometry([5, 5], [0.01, 0.02], 0.01).kind) == ("gof", "of")


@pytest.mark.parametrize("decays", [[5e-3] * 3, [2e-3, 9e-3], [1e-3] * 6])
def test_many_layers_against_the_equation_in_the_common_weight(decays):
    r"""q = lambda_j s_j^2 solves (P - sqrt n) P / N + q = 0 with P^2 = q^(M+1) / (prod lambda_j lambda_H), a singular
    value of all features of a class counted as one: the stationary point written another way."""
    counts, lambda_h = [40, 25, 12, 5], 1e-3
    found = collapse_geometry(counts, decays, lambda_h)
    total, product = sum(counts), float(np.prod(decays))
    for n, w, h in zip(counts, found.norms_w.tolist(), found.norms_h.tolist(), strict=True):
        q = decays[-1] * w**2
        assert n * lambda_h * h**2 == pytest.approx(q, rel=1e-12)
        p = (q ** (len(decays) + 1) / (product * lambda_h)) ** 0.5
        assert abs((p - n**0.5) * p / total + q) < 1e-13


def test_decimals_of_three_layers():
    found = collapse_geometry([40, 25, 12, 5], [5e-3] * 3, 1e-3)
    assert found.norms_w.square().tolist() == pytest.approx([1.6671, 1.4767, 1.2173, 0.9562], abs=5e-5)


def value_of_class(n, total, decays, lambda_h, lengths, h):
    """A class's share of the objective, at lengths of its rows and its features."""
    fit = n / (2 * total) * (1 - np.prod(lengths) * h) ** 2
    return fit + sum(d * s**2 for d, s in zip(decays, lengths, strict=True)) / 2 + n * lambda_h * h**2 / 2


@pytest.mark.parametrize("decays", [[0.02], [0.02, 0.05], [0.03, 0.01, 0.02]])
def test_nothing_found_by_search_is_lower(decays):
    """Over a grid of common weights q, on both sides of the count at which classes vanish."""
    counts, lambda_h = [300, 120, 60, 20, 7, 3, 1], 4e-3
    total = sum(counts)
    found = collapse_geometry(counts, decays, lambda_h)
    assert 0 < found.collapsed.sum() < len(counts)
    q = np.concatenate([[0], np.geomspace(1e-7, 1, 200_001)])
    for n, w, gone in zip(counts, found.norms_w.tolist(), found.collapsed.tolist(), strict=True):
        lengths, h = [np.sqrt(q / d) for d in decays], np.sqrt(q / (n * lambda_h))
        product = np.prod(lengths, axis=0) * h
        values = n / (2 * total) * (1 - product) ** 2 + (len(decays) + 1) * q / 2
        best = q[values.argmin()]
        assert gone == (best == 0)
        assert decays[-1] * w**2 == pytest.approx(best, rel=2e-4, abs=1e-12)


def test_gradient_descent_ends_there():
    counts, decays, lambda_h = [30, 12, 5], [0.01, 0.01], 5e-3
    generator = torch.Generator().manual_seed(0)
    model = UnconstrainedFeatures(counts, 5, num_layers=2, generator=generator)
    descend(model, decays, lambda_h, 1.0, 4_000)
    expected = collapse_geometry(counts, decays, lambda_h)
    torch.testing.assert_close(model.layers[-1].detach().norm(dim=1), expected.norms_w, rtol=1e-4, atol=0)
    product = (model.layers[1] @ model.layers[0]).detach()
    torch.testing.assert_close(product.norm(dim=1), expected.norms_product, rtol=1e-4, atol=0)
    found = NeuralCollapse(3, frame=expected)(model.features, model.labels, product)
    torch.testing.assert_close(found.norms_h, expected.norms_h, rtol=1e-4, atol=0)
    assert found.nc1 < 1e-8
    assert found.nc2 < 1e-4
    assert found.nc3 < 1e-3  # not small where the lengths are left in
    assert NeuralCollapse(3, frame="of")(model.features, model.labels, product).nc3 > 0.3
    assert distance_to(expected, found.gram_w, of="product") < 1e-4
    assert distance_to("of", found.gram_h) > 0.1


def test_a_bias_makes_the_simplex():
    model = UnconstrainedFeatures([10] * 4, 6, bias=True, generator=torch.Generator().manual_seed(0))
    descend(model, [0.01], 1e-2, 1.0, 2_500)
    found = NeuralCollapse(4)(model.features, model.labels, model.layers[0])
    assert found.nc2 < 1e-3
    assert distance_to("of", found.gram_h) > 0.3
    expected = torch.full((4, 4), -1 / 3).double().fill_diagonal_(1)
    torch.testing.assert_close(found.gram_h / found.gram_h[0, 0], expected, atol=1e-3, rtol=0)


def test_measures_by_hand_and_in_batches():
    rng = np.random.default_rng(0)
    h, labels, w = rng.normal(3, 1, (40, 6)), np.arange(40) % 3, rng.normal(size=(3, 6))
    labels[:9] = 0
    means = np.stack([h[labels == k].mean(0) for k in range(3)])
    within = sum((h[labels == k] - means[k]).T @ (h[labels == k] - means[k]) for k in range(3)) / 40
    centred = means - h.mean(0)
    nc1 = np.trace(within @ np.linalg.pinv(centred.T @ centred / 3)) / 3
    gram = means @ means.T / np.linalg.norm(means @ means.T)
    frame = (np.eye(3) - 1 / 3) / np.sqrt(2)
    nc3 = np.linalg.norm(w / np.linalg.norm(w) - means / np.linalg.norm(means))
    collapse = NeuralCollapse(3)
    for dtype, tol in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        inputs = torch.from_numpy(h).to(dtype), torch.from_numpy(labels)
        whole = collapse(*inputs, torch.from_numpy(w))
        for found in (whole, in_batches(*inputs, torch.from_numpy(w))):
            assert found.nc1 == pytest.approx(nc1, rel=tol)
            assert found.nc2 == pytest.approx(np.linalg.norm(gram - frame), rel=tol)
            assert found.nc3 == pytest.approx(nc3, rel=tol)
            np.testing.assert_allclose(found.norms_h, np.linalg.norm(means, axis=1), rtol=tol)
    assert collapse(*inputs).nc3 is None


def in_batches(h, labels, w):
    collapse = NeuralCollapse(3)
    for size in (h[:5], labels[:5]), (h[5:6], labels[5:6]), (h[6:], labels[6:]):
        collapse.update(*size)
    return collapse.compute(w)


def test_what_is_refused():
    for counts in ([5], [5, 0]):
        with pytest.raises(ValueError, match="counts must be at least 1"):
            collapse_geometry(counts, 0.1, 0.1)
        with pytest.raises(ValueError, match="counts must be at least 1"):
            UnconstrainedFeatures(counts, 4)
    for decays in (0.0, [0.1, -1.0], []):
        with pytest.raises(ValueError, match="lambda_w must be positive"):
            collapse_geometry([2, 3], decays, 0.1)
    with pytest.raises(ValueError, match="lambda_h must be positive: got 0"):
        collapse_geometry([2, 3], 0.1, 0.0)
    with pytest.raises(ValueError, match="frame must be"):
        distance_to("cube", torch.eye(3))
    with pytest.raises(ValueError, match="not 0"):
        distance_to("of", torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"gram must be \(k, k\)"):
        distance_to("of", torch.ones(3, 2))
    with pytest.raises(ValueError, match="as large as the frame, 2: got 3"):
        distance_to(collapse_geometry([2, 3], 0.01, 0.01), torch.eye(3))
    with pytest.raises(ValueError, match="of must be one of"):
        distance_to(collapse_geometry([2, 3], 0.01, 0.01), torch.eye(2), of="it")
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        NeuralCollapse(1)
    collapse = NeuralCollapse(2)
    with pytest.raises(ValueError, match="every class"):
        collapse.compute()
    with pytest.raises(ValueError, match="labels must lie in"):
        collapse.update(torch.ones(2, 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="features must be finite"):
        collapse.update(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"features must be \(n, d\)"):
        collapse.update(torch.ones(2, 3), torch.tensor([0]))
    collapse.update(torch.randn(2, 3), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"got none of \[1\]"):
        collapse.compute()
    with pytest.raises(ValueError, match="as wide as before, 3: got 4"):
        collapse.update(torch.randn(2, 4), torch.tensor([1, 1]))
    collapse.update(torch.randn(2, 3), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match=r"weights must be \(2, 3\): got \(3, 2\)"):
        collapse.compute(torch.ones(3, 2))
    with pytest.raises(ValueError, match="dim must be at least the number of classes, 3: got 2"):
        UnconstrainedFeatures([1, 1, 1], 2)
    with pytest.raises(ValueError, match="num_layers must be at least 1: got 0"):
        UnconstrainedFeatures([1, 1], 2, num_layers=0)
    with pytest.raises(ValueError, match="std must be positive: got 0"):
        UnconstrainedFeatures([1, 1], 2, std=0.0)
    with pytest.raises(ValueError, match="each of 1 layers: got 2"):
        UnconstrainedFeatures([1, 1], 2).objective([0.1, 0.1], 0.1)
