"""Linear CKA: the authors' of the guidance paper, the feature form, invariances, the debiased form, what is refused."""

import math

import pytest
import torch

from assay.metrics import linear_cka


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


X = waves((7, 5), 0.1)
Y = waves((7, 3), 0.2) ** 3 + X[:, :3]


def test_the_number_of_another_library():
    """rep_sim/rep_sims.py of github.com/vsubramaniam851/untrainable-networks, CKA("cpu").linear_CKA(X, Y), float64."""
    assert linear_cka(X, Y).item() == pytest.approx(0.7149155117112809, rel=1e-10)


def test_the_form_in_features():
    x, y = X - X.mean(0), Y - Y.mean(0)
    exact = (y.T @ x).square().sum() / (x.T @ x).norm() / (y.T @ y).norm()
    torch.testing.assert_close(linear_cka(X, Y), exact)
    # Without centering it is another number.
    assert abs((Y.T @ X).square().sum() / (X.T @ X).norm() / (Y.T @ Y).norm() - exact) > 1e-3


def test_invariances():
    q, _ = torch.linalg.qr(waves((5, 5), 0.3))
    base = linear_cka(X, Y)
    assert linear_cka(X, X).item() == pytest.approx(1)
    torch.testing.assert_close(linear_cka(3 * X @ q + 2, Y), base)
    torch.testing.assert_close(linear_cka(X, Y[:, [2, 0, 1]]), base)
    torch.testing.assert_close(linear_cka(X, Y), linear_cka(Y, X))
    torch.testing.assert_close(linear_cka(X.view(7, 5, 1), Y), base)
    scaled = X * torch.arange(1, 6)
    assert abs(linear_cka(scaled, Y) - base) > 1e-3  # not invariant to any linear map


def test_debiased_has_mean_zero_for_what_is_unrelated_and_plain_has_not():
    generator = torch.Generator().manual_seed(0)
    plain, fair = [], []
    for _ in range(300):
        x, y = torch.randn(2, 16, 8, generator=generator).double()
        plain.append(linear_cka(x, y))
        fair.append(linear_cka(x, y, debiased=True))
    plain, fair = torch.stack(plain), torch.stack(fair)
    assert fair.mean().abs() < 4 * fair.std() / math.sqrt(300) + 0.01  # a ratio: unbiased above and below the line
    assert plain.mean() > 0.25
    assert linear_cka(X, X, debiased=True).item() == pytest.approx(1)


def test_the_unbiased_estimate_by_brute_force():
    """Song et al.: the mean over quadruples of different examples of K_ij (L_ij + L_qr - 2 L_iq)."""
    import itertools

    def brute(k, l):  # noqa: E741
        quads = list(itertools.permutations(range(len(k)), 4))
        return sum(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in quads) / len(quads)

    k, l = X @ X.T, Y @ Y.T  # noqa: E741
    exact = brute(k, l) / (brute(k, k) * brute(l, l)).sqrt()
    torch.testing.assert_close(linear_cka(X, Y, debiased=True), exact)


@pytest.mark.parametrize("debiased", [False, True])
def test_gradient(debiased):
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: linear_cka(each, Y, debiased=debiased), (x,))


def test_what_does_not_vary_is_alike_to_nothing_and_gets_no_gradient():
    x = torch.ones(7, 5, dtype=torch.float64, requires_grad=True)
    value = linear_cka(x, Y)
    value.backward()
    assert value.item() == 0
    assert x.grad.isfinite().all()


def test_half_precision_is_summed_in_single():
    wide = 100 * X.half().repeat(1, 400)
    assert linear_cka(wide, wide).item() == pytest.approx(1, abs=1e-3)


def test_what_is_refused():
    with pytest.raises(ValueError, match="as many"):
        linear_cka(X, Y[:5])
    with pytest.raises(ValueError, match="2 or more"):
        linear_cka(X[:1], Y[:1])
    with pytest.raises(ValueError, match="4 or more"):
        linear_cka(X[:3], Y[:3], debiased=True)
