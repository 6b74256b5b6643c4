"""diffGrad against a transcription of the paper, the official code's numbers and Adam."""

import math

import numpy as np
import pytest
import torch

from assay.optim import DiffGrad

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
START = [0.7, -1.3, 2.1]
# Six steps of diffGrad_v2.py (its two outdated calls, add_ and addcmul_ with a leading number, brought up to date) and
# of torch_optimizer 0.3.0, which agree, in float64: eps=0, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, from START,
# with the gradients of `gradient` below.
OFFICIAL = [0.79032278268769, -1.072677688274706, 2.3636183969218427]


def gradient(weight, t):
    scale, shift = torch.tensor([[1.0, 2.5, 0.3], [0.4, -0.9, 5.0]], dtype=torch.float64)
    return scale * weight.detach() ** 3 - shift * (1.0 + t % 3)


def run(make, gradients, start=START, device="cpu"):
    """Weights after each step; `gradients(weight, t)` gives the gradient of step t, or a list of them is given."""
    weight = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64, device=device))
    optimizer = make([weight])
    path = []
    for t in range(6) if callable(gradients) else range(len(gradients)):
        g = gradients(weight, t) if callable(gradients) else torch.tensor(gradients[t], dtype=torch.float64)
        weight.grad = g.to(device).clone()
        optimizer.step()
        path.append(weight.detach().cpu().clone())
    return torch.stack(path)


def transcribed(gradients, start, lr, beta1, beta2, eps, decay):
    """Section III-B of the paper, entry by entry, in numpy."""
    theta, m, v, before = np.array(start), np.zeros(3), np.zeros(3), np.zeros(3)
    path = []
    for t, g in enumerate(gradients, 1):
        g = np.array(g) + decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        friction = 1 / (1 + np.exp(-np.abs(before - g)))
        before = g.copy()
        theta = theta - lr * friction * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        path.append(theta)
    return np.array(path)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_transcription_of_the_paper(foreach, decay, device):
    """eps is large, so that where it is added shows; a handful of roundings a step in float64."""
    gradients = np.random.default_rng(0).normal(size=(10, 3)) * [0.3, 1.0, 4.0]
    ours = run(
        lambda p: DiffGrad(p, lr=0.2, betas=(0.7, 0.9), eps=0.05, weight_decay=decay, foreach=foreach),
        gradients.tolist(),
        device=device,
    )
    np.testing.assert_allclose(ours.numpy(), transcribed(gradients, START, 0.2, 0.7, 0.9, 0.05, decay), rtol=1e-13)


def test_the_corrected_official_code():
    ours = run(lambda p: DiffGrad(p, lr=0.05, betas=(0.8, 0.95), eps=0.0, weight_decay=0.1), gradient)[-1]
    torch.testing.assert_close(ours, torch.tensor(OFFICIAL, dtype=torch.float64), rtol=1e-14, atol=0)


def test_the_defaults_are_the_papers():
    ours = run(lambda p: DiffGrad(p), gradient)
    same = run(lambda p: DiffGrad(p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0), gradient)
    assert torch.equal(ours, same)


def test_a_steady_gradient_gives_adam_at_half_the_rate():
    """From the second step on; what the first step did, with g_0 = 0, is taken off."""
    gradients = [[0.3, -2.0, 5.0]] * 8
    ours = run(lambda p: DiffGrad(p, lr=0.1), gradients)
    half = run(lambda p: torch.optim.Adam(p, lr=0.05), gradients)
    torch.testing.assert_close(ours[1:] - ours[0], half[1:] - half[0], rtol=1e-12, atol=1e-14)
    first = (torch.tensor(START, dtype=torch.float64) - ours[0]).abs()
    torch.testing.assert_close(first, 0.1 * torch.tensor(gradients[0]).double().abs().sigmoid(), rtol=1e-6, atol=0)


def test_a_leaping_gradient_gives_adam():
    """exp(-40) is below half a unit in the last place of 1: the friction is exactly 1."""
    gradients = [[50.0, -80.0, 41.0], [-45.0, 80.0, 90.0], [5.0, 10.0, -7.0]] * 3
    ours = run(lambda p: DiffGrad(p, lr=0.1, betas=(0.8, 0.95), weight_decay=0.2), gradients)
    adam = run(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), weight_decay=0.2), gradients)
    torch.testing.assert_close(ours, adam, rtol=1e-13, atol=1e-14)


def test_between_the_two_it_is_neither():
    """Without the friction the method is Adam, with friction 1/2 Adam at half the rate: both are far away."""
    gradients = np.random.default_rng(1).normal(size=(12, 3)).tolist()
    ours = run(lambda p: DiffGrad(p, lr=0.1), gradients)
    for rate in (0.1, 0.05):
        adam = run(lambda p, rate=rate: torch.optim.Adam(p, lr=rate), gradients)
        assert (ours[-1] - adam[-1]).abs().min() > 1e-3


@pytest.mark.parametrize("foreach", [True, False])
def test_the_previous_gradient_is_a_copy(foreach):
    """The bug of the first release: gradients that live in one tensor made the change of the gradient vanish."""
    gradients = np.random.default_rng(2).normal(size=(6, 3)).tolist()
    fresh = run(lambda p: DiffGrad(p, lr=0.1, foreach=foreach), gradients)
    weight = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = DiffGrad([weight], lr=0.1, foreach=foreach)
    weight.grad = torch.zeros_like(weight)
    for g in gradients:
        optimizer.zero_grad(set_to_none=False)
        weight.grad.add_(torch.tensor(g, dtype=torch.float64))
        optimizer.step()
    assert torch.equal(weight.detach(), fresh[-1])


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(
    "options", [{"weight_decay": 0.5}, {"maximize": True}, {"weight_decay": 0.5, "maximize": True}]
)
def test_gradients_are_left_as_they_came(foreach, options):
    weight = torch.nn.Parameter(torch.tensor(START))
    weight.grad = torch.tensor([1.0, -2.0, 0.5])
    DiffGrad([weight], foreach=foreach, **options).step()
    assert weight.grad.tolist() == [1.0, -2.0, 0.5]


def test_maximize_climbs():
    """As the descent of the negated gradients; weight decay still pulls towards 0."""
    gradients = np.random.default_rng(3).normal(size=(5, 3))
    up = run(lambda p: DiffGrad(p, lr=0.1, weight_decay=0.3, maximize=True), gradients.tolist())
    down = run(lambda p: DiffGrad(p, lr=0.1, weight_decay=0.3), (-gradients).tolist())
    assert torch.equal(up, down)


def test_friction_is_what_the_paper_calls_it():
    weight, idle = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))
    optimizer = DiffGrad([idle, weight], keep_friction=True)
    before = torch.zeros(3)
    for g in ([0.5, -3.0, 0.0], [0.25, 3.0, 0.0], [0.25, 2.0, 1.0]):
        weight.grad = torch.tensor(g)
        optimizer.step()
        (friction,) = optimizer.friction
        expected = [1 / (1 + math.exp(-abs(a - b))) for a, b in zip(before.tolist(), g, strict=True)]
        torch.testing.assert_close(friction, torch.tensor(expected), rtol=4e-7, atol=0)
        before = weight.grad.clone()
    with pytest.raises(ValueError, match="keep_friction must be True"):
        DiffGrad([weight]).friction  # noqa: B018


def test_keeping_the_friction_changes_nothing():
    gradients = np.random.default_rng(4).normal(size=(5, 3)).tolist()
    assert torch.equal(run(lambda p: DiffGrad(p), gradients), run(lambda p: DiffGrad(p, keep_friction=True), gradients))


def test_every_parameter_counts_its_own_steps():
    """One that got its first gradient later is where it would be alone; kinds of tensors do not mix."""
    gradients = np.random.default_rng(5).normal(size=(6, 3)).tolist()
    late = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    early, single = (torch.nn.Parameter(torch.tensor(START, dtype=kind)) for kind in (torch.float64, torch.float32))
    optimizer = DiffGrad([early, single, late], lr=0.1)
    for t, g in enumerate(gradients):
        early.grad, single.grad = torch.tensor(g, dtype=torch.float64), torch.tensor(g)
        late.grad = torch.tensor(g, dtype=torch.float64) if t >= 2 else None
        optimizer.step()
    assert torch.equal(early.detach(), run(lambda p: DiffGrad(p, lr=0.1), gradients)[-1])
    assert torch.equal(late.detach(), run(lambda p: DiffGrad(p, lr=0.1), gradients[2:])[-1])
    torch.testing.assert_close(single.double(), early, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("foreach", [True, False])
def test_complex_parameters_are_pairs_of_real_ones(foreach):
    generator = torch.Generator().manual_seed(6)
    whole = torch.nn.Parameter(torch.randn(3, dtype=torch.complex128, generator=generator))
    pair = torch.nn.Parameter(torch.view_as_real(whole.detach()).clone())
    other = torch.nn.Parameter(torch.ones(2))  # a real one in the same group
    first, second = (DiffGrad(p, lr=0.1, foreach=foreach, keep_friction=True) for p in ([other, whole], [pair]))
    for _ in range(4):
        other.grad, whole.grad = torch.ones(2), torch.randn(3, dtype=torch.complex128, generator=generator)
        pair.grad = torch.view_as_real(whole.grad).clone()
        first.step(), second.step()
    assert torch.equal(torch.view_as_real(whole.detach()), pair.detach())
    assert torch.equal(first.friction[1], second.friction[0])


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_follows_single(device):
    """bfloat16 keeps 8 bits; ten steps of the same gradients stay within ten roundings of weights near 2."""
    gradients = np.random.default_rng(7).normal(size=(10, 3)).tolist()
    weights = [torch.nn.Parameter(torch.tensor(START, dtype=k, device=device)) for k in (torch.float32, torch.bfloat16)]
    optimizer = DiffGrad(weights, lr=0.1)
    for g in gradients:
        for weight in weights:
            weight.grad = torch.tensor(g, dtype=weight.dtype, device=device)
        optimizer.step()
    torch.testing.assert_close(weights[1].float(), weights[0], rtol=0, atol=10 * 2.0**-7)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -0.1}, ValueError, "lr must be at least 0"),
        ({"lr": math.nan}, ValueError, "lr must be at least 0"),
        ({"eps": -1e-8}, ValueError, "eps must be at least 0"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be at least 0"),
        ({"betas": (1.0, 0.9)}, ValueError, r"betas must be two numbers in \[0, 1\)"),
        ({"betas": (0.9, -0.1)}, ValueError, r"betas must be two numbers in \[0, 1\)"),
    ],
)
def test_refused(options, error, message):
    with pytest.raises(error, match=message):
        DiffGrad([torch.nn.Parameter(torch.ones(1))], **options)
    with pytest.raises(error, match=message):
        DiffGrad([{"params": torch.nn.Parameter(torch.ones(1)), **options}])


def test_a_group_with_something_else_is_refused():
    """Of the constructor's own arguments the type checker of the tests says so already."""
    with pytest.raises(TypeError, match="lr must be a number: got Tensor"):
        DiffGrad([{"params": torch.nn.Parameter(torch.ones(1)), "lr": torch.tensor(0.1)}])
    with pytest.raises(ValueError, match="betas must be two numbers"):
        DiffGrad([{"params": torch.nn.Parameter(torch.ones(1)), "betas": (0.9,)}])


def test_sparse_gradients_are_refused():
    weight = torch.nn.Parameter(torch.ones(4, 2))
    weight.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2), check_invariants=True)
    with pytest.raises(TypeError, match="gradients must be dense for DiffGrad"):
        DiffGrad([weight]).step()
