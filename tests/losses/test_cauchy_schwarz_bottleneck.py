"""The Cauchy-Schwarz bottleneck against loops, the authors' code, closed forms and its limit, the squared error."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from assay import losses
from assay.losses import CSIBLoss, conditional_cs_divergence, cs_divergence, cs_mutual_information
from assay.losses.cauchy_schwarz_bottleneck import _check_rows

EPS = np.finfo(float).eps
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def sample(n=7):
    """x, y, y_hat, t of formulas, so that the literals below can be made again anywhere."""
    i, three, two = (torch.arange(count, dtype=torch.float64) for count in (n, 3, 2))
    i = i[:, None]
    y = torch.cos(0.7 * i + 0.2)
    return torch.sin(1.3 * i + 0.4 * three**2), y, y + 0.3 * torch.sin(2.1 * i + 1), torch.sin(0.9 * i * (two + 1))


def kernel(a, b, sigma):
    return math.exp(-sum((u - v) ** 2 for u, v in zip(a.tolist(), b.tolist(), strict=True)) / (2 * sigma**2))


def conditional_by_loops(x, y, y_hat, sigma_x, sigma_y):
    def integral(first, second):
        total = 0.0
        for j in range(len(x)):
            row = sum(kernel(x[j], x[i], sigma_x) for i in range(len(x)))
            joint = sum(kernel(x[j], x[i], sigma_x) * kernel(first[j], second[i], sigma_y) for i in range(len(x)))
            total += joint / row**2
        return total

    return math.log(integral(y, y)) + math.log(integral(y_hat, y_hat)) - 2 * math.log(integral(y_hat, y))


def information_by_loops(x, t, sigma_x, sigma_t):
    n = len(x)
    k = [[kernel(x[i], x[j], sigma_x) for j in range(n)] for i in range(n)]
    q = [[kernel(t[i], t[j], sigma_t) for j in range(n)] for i in range(n)]
    joint = sum(k[i][j] * q[i][j] for i in range(n) for j in range(n)) / n**2
    product = sum(map(sum, k)) * sum(map(sum, q)) / n**4
    cross = sum(sum(k[i]) * sum(q[i]) for i in range(n)) / n**3
    return math.log(joint) + math.log(product) - 2 * math.log(cross)


@pytest.mark.parametrize("device", DEVICES)
def test_the_three_terms_are_those_of_the_loops(device):
    """float64; some 1e3 roundings of numbers near 1 on each side."""
    x, y, y_hat, t = (each.to(device) for each in sample())
    found = conditional_cs_divergence(x, y, y_hat, sigma_x=0.8, sigma_y=0.5).item()
    assert found == pytest.approx(conditional_by_loops(x, y, y_hat, 0.8, 0.5), abs=1e3 * EPS)
    found = cs_mutual_information(x, t, sigma_x=0.8, sigma_t=0.4).item()
    assert found == pytest.approx(information_by_loops(x, t, 0.8, 0.4), abs=1e3 * EPS)
    own = [information_by_loops(each, each, sigma, sigma) for each, sigma in ((x, 0.8), (t, 0.4))]
    normalized = cs_mutual_information(x, t, sigma_x=0.8, sigma_t=0.4, normalized=True).item()
    assert normalized == pytest.approx(information_by_loops(x, t, 0.8, 0.4) / math.sqrt(math.prod(own)), abs=1e3 * EPS)
    means = [
        sum(kernel(a, b, 0.7) for a in first for b in second) / (len(first) * len(second))
        for first, second in ((x, x), (x[:4] + 1, x[:4] + 1), (x, x[:4] + 1))
    ]
    expected = math.log(means[0]) + math.log(means[1]) - 2 * math.log(means[2])
    assert cs_divergence(x, x[:4] + 1, sigma=0.7).item() == pytest.approx(expected, abs=1e3 * EPS)


@pytest.mark.parametrize(
    ("sigma", "conditional", "information", "normalized"),
    [
        (1.0, 0.022947542503244822, 0.3294905274623732, 0.6230057237720795),
        (0.6, 0.15169260226172954, 1.3237171854162888, 0.91262749549684),
    ],
)
def test_the_authors_code_says_the_same(sigma, conditional, information, normalized):
    """Literals: CS_Div(x, y, y_hat, s), CS_QMI(x, t, s), CS_QMI_normalized(x, t, s) of loss_cs.py at commit 252f86be.

    On `sample()`, with torch's default type set to float64. Logarithms there are to the base 2.
    """
    x, y, y_hat, t = sample()
    released = conditional_cs_divergence(x, y, y_hat, sigma_x=sigma, sigma_y=sigma, variant="released")
    assert released.item() / math.log(2) == pytest.approx(conditional, abs=1e3 * EPS)
    found = cs_mutual_information(x, t, sigma_x=sigma, sigma_t=sigma)
    assert found.item() / math.log(2) == pytest.approx(information, abs=1e3 * EPS)
    found = cs_mutual_information(x, t, sigma_x=sigma, sigma_t=sigma, normalized=True)
    assert found.item() == pytest.approx(normalized, abs=1e3 * EPS)
    # The formula of the paper is another one.
    paper = conditional_cs_divergence(x, y, y_hat, sigma_x=sigma, sigma_y=sigma)
    assert abs(paper.item() / math.log(2) / conditional - 1) > 0.01


def test_the_authors_default_width_is_ten_medians_of_squared_distances():
    """Their CS_QMI(x, t) without a sigma, on `sample()`; sigma_estimation gave the widths."""
    x, _, _, t = sample()
    found = cs_mutual_information(x, t, sigma_x=22.51265457335871, sigma_t=15.619802555136172)
    assert found.item() / math.log(2) == pytest.approx(2.1595529775351313e-06, abs=1e3 * EPS)
    both = torch.cat([t, t])
    squared = sorted((a - b).square().sum().item() for i, a in enumerate(both) for b in both[:i])
    assert 10 * squared[len(squared) // 2] == pytest.approx(15.619802555136172, rel=1e-14)


def test_two_gaussians_have_their_closed_form():
    """1,001 quantiles each stand for N(0, 1) and N(1, 2); the kernel adds half its variance to each of the two.

    A mean over midpoint quantiles misplaces the tails beyond the last of them: 1 / (2n) of the mass, here 5e-4.
    """
    sigma, level = 0.5, (np.arange(1_001) + 0.5) / 1_001
    p, q = (torch.from_numpy(norm(m, math.sqrt(v)).ppf(level))[:, None] for m, v in ((0, 1), (1, 2)))

    def overlap(m, v):
        return norm(0, math.sqrt(v)).logpdf(m)

    expected = overlap(0, 2 + sigma**2) + overlap(0, 4 + sigma**2) - 2 * overlap(1, 3 + sigma**2)
    assert cs_divergence(p, q, sigma=sigma).item() == pytest.approx(expected, abs=2e-3)
    assert expected == pytest.approx(0.39222, rel=0.2)  # without a kernel


def test_the_information_is_the_divergence_of_joint_and_product():
    """All n * n pairs are the product of the empirical marginals, without error."""
    x, _, _, t = sample()
    joint = torch.cat([x, t], 1)
    pairs = torch.cat([x.repeat_interleave(len(t), 0), t.repeat(len(x), 1)], 1)
    expected = cs_divergence(joint, pairs, sigma=0.6)
    assert cs_mutual_information(x, t, sigma_x=0.6, sigma_t=0.6).item() == pytest.approx(expected.item(), abs=1e3 * EPS)


def test_with_narrow_kernels_of_x_and_wide_ones_of_y_it_is_the_squared_error():
    """log S(L) = -D / (2 sigma^2) to the first order; the next is sigma^2 = 1e6 times smaller. And not otherwise."""
    x, y, y_hat, _ = sample()
    wide = 1e3
    found = wide**2 * conditional_cs_divergence(x, y, y_hat, sigma_x=1e-3, sigma_y=wide).item()
    assert found == pytest.approx((y - y_hat).square().mean().item(), rel=1e-5)
    blurred = wide**2 * conditional_cs_divergence(x, y, y_hat, sigma_x="median", sigma_y=wide).item()
    assert blurred < 0.5 * found
    # With a blur, it is the squared error of pairs, less the spread of each side about itself, weighted by the kernel.
    k = losses.gaussian_gram(x)
    weights = k / k.sum(1, keepdim=True) ** 2
    weights = weights / weights.sum()
    pairs = [(weights * (a - b.T).square()).sum().item() for a, b in ((y_hat, y), (y, y), (y_hat, y_hat))]
    assert blurred == pytest.approx(pairs[0] - (pairs[1] + pairs[2]) / 2, rel=1e-4)


def test_what_is_zero_and_what_is_one():
    x, y, y_hat, t = sample()
    assert conditional_cs_divergence(x, y, y.clone()).item() == 0.0
    assert conditional_cs_divergence(x, y, y_hat).item() > 1e-4
    assert cs_divergence(x, x.clone()).item() == 0.0
    assert cs_mutual_information(x, x, normalized=True).item() == pytest.approx(1, abs=100 * EPS)
    collapsed = cs_mutual_information(x, torch.full_like(t, 3.0), normalized=True).item()
    assert collapsed == pytest.approx(0, abs=10 * math.sqrt(EPS))  # roundings over the root of the least factor
    product = torch.cartesian_prod(torch.arange(5.0), torch.arange(4.0)).double()
    assert cs_mutual_information(product[:, :1], product[:, 1:]).item() == pytest.approx(0, abs=100 * EPS)


def test_the_order_of_samples_does_not_matter_but_who_belongs_to_whom_does():
    x, y, y_hat, t = sample()
    order = torch.tensor([3, 0, 6, 2, 1, 5, 4])
    criterion = CSIBLoss(beta=0.3)
    loss = criterion(x, t, y, y_hat).item()
    assert criterion(x[order], t[order], y[order], y_hat[order]).item() == pytest.approx(loss, abs=100 * EPS)
    assert abs(criterion(x, t, y, y_hat[order]).item() - loss) > 0.01
    assert abs(criterion(x, t[order], y, y_hat).item() - loss) > 1e-3


def test_the_loss_is_its_two_terms():
    x, y, y_hat, t = sample()
    prediction = conditional_cs_divergence(x, y, y_hat, sigma_x=0.9, sigma_y=0.7)
    compression = cs_mutual_information(x, t, sigma_x=0.9, sigma_t=0.4, normalized=True)
    criterion = CSIBLoss(beta=0.25, sigma_x=0.9, sigma_y=0.7, sigma_t=0.4)
    assert criterion(x, t, y, y_hat).item() == pytest.approx((prediction + 0.25 * compression).item(), abs=4 * EPS)
    assert (criterion.prediction, criterion.compression) == (prediction, compression)
    plain = CSIBLoss(beta=0.0, sigma_x=0.9, sigma_y=0.7)
    assert plain(x, t, y, y_hat).item() == prediction.item()
    unnormalized = CSIBLoss(beta=0.25, sigma_x=0.9, sigma_y=0.7, sigma_t=0.4, normalized=False)
    other = cs_mutual_information(x, t, sigma_x=0.9, sigma_t=0.4)
    assert unnormalized(x, t, y, y_hat).item() == pytest.approx((prediction + 0.25 * other).item(), abs=4 * EPS)
    released = CSIBLoss(sigma_x=0.9, variant="released")
    released(x, t, y, y_hat)
    assert released.prediction == conditional_cs_divergence(x, y, y_hat, sigma_x=0.9, variant="released")


def test_widths_are_one_or_the_median_of_their_own_sample():
    x, y, y_hat, t = sample()
    widths = {name: losses.median_bandwidth(each) for name, each in (("x", x), ("y", y), ("t", t))}
    assert len({1.0, *(round(width.item(), 3) for width in widths.values())}) == 4
    given = conditional_cs_divergence(x, y, y_hat, sigma_x=widths["x"], sigma_y=widths["y"])
    assert conditional_cs_divergence(x, y, y_hat, sigma_x="median", sigma_y="median").item() == given.item()
    shared = cs_mutual_information(x, t, sigma_x=widths["x"], sigma_t=widths["t"], normalized=True)
    assert cs_mutual_information(x, t, sigma_x="median", sigma_t="median", normalized=True).item() == shared.item()
    criterion = CSIBLoss(sigma_x="median", sigma_y="median", sigma_t="median")
    criterion(x, t, y, y_hat)
    assert (criterion.prediction, criterion.compression) == (given, shared)
    both = torch.cat([x, x[:4] + 1])
    given = cs_divergence(x, x[:4] + 1, sigma=losses.median_bandwidth(both))
    assert cs_divergence(x, x[:4] + 1, sigma="median").item() == given.item()
    plain, ones = CSIBLoss(), CSIBLoss(sigma_x=1.0, sigma_y=1.0, sigma_t=1.0)
    assert plain(x, t, y, y_hat) == ones(x, t, y, y_hat)
    assert conditional_cs_divergence(x, y, y_hat) == plain.prediction
    assert cs_mutual_information(x, t, normalized=True) == plain.compression


def test_defaults_and_the_smallest_sample():
    x, y, y_hat, t = (each[:3] for each in sample())
    assert CSIBLoss()(x, t, y, y_hat) == CSIBLoss(beta=0.01, normalized=True, variant="paper")(x, t, y, y_hat)
    assert cs_divergence(x, y_hat + x) == cs_divergence(x, y_hat + x, sigma=1.0)
    assert repr(CSIBLoss(beta=0.5, sigma_x="median")) == (
        "CSIBLoss(beta=0.5, sigma_x='median', sigma_y=1.0, sigma_t=1.0, normalized=True, variant='paper')"
    )


def test_samples_far_apart_and_predictions_far_off_still_have_gradients():
    """In float32, where the kernels themselves are zero."""
    x = torch.linspace(0, 1, 8)[:, None]
    far = (x + 100).requires_grad_()
    value = cs_divergence(x, far, sigma=1.0)
    value.backward()
    assert value.item() == pytest.approx(1e4, rel=0.03)
    assert far.grad.sum().item() == pytest.approx(2 * 99, rel=0.02)  # of the square of the gap of 99
    y_hat = (x + 100).requires_grad_()
    CSIBLoss()(x, x, x, y_hat).backward()
    assert y_hat.grad.isfinite().all()
    assert y_hat.grad.sum() > 1


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_gradients(variant):
    x, y, y_hat, t = (each.requires_grad_() for each in sample(5))
    fixed = dict(sigma_x=0.9, sigma_y=0.7)
    assert torch.autograd.gradcheck(lambda *a: conditional_cs_divergence(*a, **fixed, variant=variant), (x, y, y_hat))
    assert torch.autograd.gradgradcheck(
        lambda *a: conditional_cs_divergence(*a, **fixed, variant=variant), (x, y, y_hat)
    )
    for normalized in (False, True):
        assert torch.autograd.gradcheck(
            lambda *a: cs_mutual_information(*a, sigma_x=0.9, sigma_t=0.4, normalized=normalized),  # noqa: B023
            (x, t),
        )
    assert torch.autograd.gradcheck(lambda *a: cs_divergence(*a, sigma=0.9), (x, x.detach()[:3] + 0.2))


def test_what_is_refused():
    x, y, y_hat, t = sample()
    for name in ("sigma_x", "sigma_y", "sigma_t"):
        for bad in (0.0, -1.0, math.inf, math.nan, "mean"):
            with pytest.raises(Exception, match=name):
                CSIBLoss(**{name: bad})
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma_y must be positive and finite"):
            conditional_cs_divergence(x, y, y_hat, sigma_y=bad)
        with pytest.raises(ValueError, match="sigma_t must be positive and finite"):
            cs_mutual_information(x, t, sigma_t=bad)
        with pytest.raises(ValueError, match="sigma must be positive and finite"):
            cs_divergence(x, x, sigma=bad)
    for bad in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="beta must be finite and not negative"):
            CSIBLoss(beta=bad)
    with pytest.raises(ValueError, match="variant must be one of 'paper', 'released': got 'log2'"):
        CSIBLoss(variant="log2")
    with pytest.raises(ValueError, match="variant must be one of"):
        conditional_cs_divergence(x, y, y_hat, variant="log2")
    for place, name in enumerate(("x", "y", "y_hat")):
        wrong = [x, y, y_hat]
        wrong[place] = wrong[place].clone()
        wrong[place][2] = math.nan
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            conditional_cs_divergence(*wrong)
    with pytest.raises(ValueError, match="t must be finite"):
        cs_mutual_information(x, t / 0)
    with pytest.raises(ValueError, match="y must be finite"):
        cs_divergence(x, x / 0)
    with pytest.raises(ValueError, match="n and m at least 3"):
        cs_divergence(x, x[:2])
    with pytest.raises(ValueError, match=r"x and t must have two dimensions .* got x \(2, 3\)"):
        cs_mutual_information(x[:2], t[:2])
    for shapes in (((4, 1), (5, 1)), ((4,), (4, 1)), ((4, 1, 1), (4, 1))):
        with pytest.raises(ValueError, match="a and b must have two dimensions and the same 3 rows"):
            _check_rows(a=torch.zeros(shapes[0]), b=torch.zeros(shapes[1]))
    with pytest.raises(Exception, match="y_hat"):
        conditional_cs_divergence(x, y, torch.cat([y, y], 1))
