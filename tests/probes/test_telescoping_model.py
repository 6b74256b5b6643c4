"""Telescopes: linear models, where they are exact; closed forms; the order of the error; what is refused."""

import pytest
import torch
from torch import nn

from assay.data import Labelled
from assay.probes import Telescope, TelescopingSmoother, effective_parameters, tangent
from assay.train import fit


def batch(n, seed, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Dropout(0.0), nn.Linear(12, 1)).double()


@pytest.mark.parametrize("optimizer", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), torch.optim.Adam])
def test_a_linear_model_is_its_own_telescope(optimizer):
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3).double(), batch(30, 1), batch(30, 2)[:, :3]
    telescope = Telescope(model, batch(9, 3))
    fit(model, Labelled(x, y), optimizer(model.parameters()), epochs=4, loss=nn.functional.mse_loss, batch_size=8,
        on_step=telescope.on_step)  # fmt: skip
    assert telescope.steps == 16
    final = model(batch(9, 3)).detach()
    assert (final - telescope.initial).abs().max() > 0.01
    torch.testing.assert_close(telescope.prediction, final)
    torch.testing.assert_close(telescope.linear_prediction(model), final)


def test_gradients_are_those_before_the_step():
    """By hand with full Jacobians, kept from the start of each step."""
    model, x, y, other = network(), batch(20, 1), batch(20, 2)[:, 0], batch(7, 3)
    telescope, sgd = Telescope(model, other), torch.optim.SGD(model.parameters(), lr=0.3)
    expected = model(other).detach()
    for _ in range(5):
        features, before = tangent.jacobian(model, other), nn.utils.parameters_to_vector(model.parameters()).detach()
        sgd.zero_grad()
        nn.functional.mse_loss(model(x)[:, 0], y).backward()
        sgd.step()
        after = nn.utils.parameters_to_vector(model.parameters()).detach()
        expected += (features @ (after - before))[:, None]
        telescope.on_step(model)
    torch.testing.assert_close(telescope.prediction, expected)


def errors(lr):
    """Telescope, one linearization and smoother against the network, after training for a fixed time."""
    model, x, other = network(), batch(20, 1), batch(7, 3)
    y = 2 * x[:, :2].prod(1)
    telescope, sgd = Telescope(model, other), torch.optim.SGD(model.parameters(), lr=lr)
    smoother = TelescopingSmoother(model(x)[:, 0], model(other)[:, 0])
    for _ in range(round(12 / lr)):
        smoother.follow(model, x, other, lr=lr)
        sgd.zero_grad()
        (nn.functional.mse_loss(model(x)[:, 0], y) / 2).backward()
        sgd.step()
        telescope.on_step(model)
    final = model(other).detach()
    return [
        (approximation - final).abs().mean().item()
        for approximation in (telescope.prediction, telescope.linear_prediction(model), smoother.predict(y)[:, None])
    ]


def test_the_error_falls_with_the_step_and_one_linearization_s_does_not():
    coarse, fine = errors(0.2), errors(0.1)
    assert coarse[0] / fine[0] == pytest.approx(2, rel=0.15)
    assert coarse[2] / fine[2] == pytest.approx(2, rel=0.3)
    assert fine[0] < 0.1 * fine[1]
    assert coarse[1] == pytest.approx(fine[1], rel=0.2)


def test_a_linear_models_smoother_in_closed_form():
    r"""S = K K^+ (I - (I - lr K / n)^t), as gradient descent on a linear model is; offset = f_0 moved the same way."""
    torch.manual_seed(0)
    model, x, other = nn.Linear(4, 1, bias=False).double(), batch(12, 1), batch(5, 3)
    start = [model(x)[:, 0].detach(), model(other)[:, 0].detach()]
    smoother = TelescopingSmoother(*start)
    for _ in range(7):
        smoother.follow(model, x, other, lr=0.4)
    left = torch.linalg.matrix_power(torch.eye(12) - 0.4 * (x @ x.T) / 12, 7)
    gain = other @ x.T @ torch.linalg.pinv(x @ x.T) @ (torch.eye(12) - left)
    torch.testing.assert_close(smoother.test, gain)
    torch.testing.assert_close(smoother.train, torch.eye(12) - left)
    torch.testing.assert_close(smoother.test_offset, start[1] - gain @ start[0])
    torch.testing.assert_close(smoother.train_offset, left @ start[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_batches_and_weight_decay_of_a_linear_model_are_followed_exactly(dtype):
    torch.manual_seed(0)
    model, x, other = nn.Linear(4, 1, bias=False).to(dtype), batch(12, 1).to(dtype), batch(5, 3).to(dtype)
    y = batch(12, 2)[:, 0].to(dtype)
    drifting, shrinking = (TelescopingSmoother(model(x)[:, 0], model(other)[:, 0]) for _ in range(2))
    sgd = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=0.3)
    for t in range(9):
        rows = torch.tensor([t % 12, (5 * t + 1) % 12, (7 * t + 3) % 12])
        shrinking.step(torch.cat([x, other]) @ x[rows].T, rows, lr=0.2, shrink=0.2 * 0.3)
        drifting.follow(model, x, other, rows, lr=0.2, weight_decay=0.3, chunk=4)
        sgd.zero_grad()
        (nn.functional.mse_loss(model(x[rows])[:, 0], y[rows]) / 2).backward()
        sgd.step()
    for inputs, train in ((x, True), (other, False)):
        torch.testing.assert_close(shrinking.predict(y, train=train), model(inputs)[:, 0].detach())
    torch.testing.assert_close(drifting.test_offset + drifting.test @ y, _drifted(x, other, y, dtype))


def _drifted(x, other, y, dtype):
    """The recursion typed out, with the decay of the weights that were really there."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False).to(dtype)
    w = model.weight.detach()[0].clone()
    out = {"x": x @ w, "other": other @ w}
    for t in range(9):
        rows = torch.tensor([t % 12, (5 * t + 1) % 12, (7 * t + 3) % 12])
        wrong = out["x"][rows] - y[rows]
        out = {
            name: out[name] - 0.2 / 3 * (at @ x[rows].T) @ wrong - 0.2 * 0.3 * at @ w
            for name, at in (("x", x), ("other", other))
        }
        w = w - 0.2 * ((x[rows] @ w - y[rows]) @ x[rows] / 3 + 0.3 * w)
    return out["other"]


def test_effective_parameters_of_a_projection_are_its_rank():
    x = batch(30, 1)
    assert effective_parameters(x @ torch.linalg.pinv(x)) == pytest.approx(4)


def test_the_model_is_left_as_found():
    model = network().train()
    before = [p.detach().clone() for p in model.parameters()]
    telescope = Telescope(model, batch(3, 1))
    telescope.on_step(model)
    TelescopingSmoother(torch.zeros(2).double(), torch.zeros(3).double()).follow(
        model, batch(2, 1), batch(3, 2), lr=1.0
    )
    assert all(m.training for m in model.modules())
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_what_is_refused():
    model = network()
    with pytest.raises(ValueError, match="at least one example"):
        Telescope(model, batch(0, 1))
    telescope = Telescope(model, batch(2, 1))
    with pytest.raises(ValueError, match="the weights it had at the start"):
        telescope.on_step(nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"got \(2, 1\) and \(3,\)"):
        TelescopingSmoother(torch.zeros(2, 1), torch.zeros(3))
    smoother = TelescopingSmoother(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"kernel must be \(5, 2\): got \(2, 2\)"):
        smoother.step(torch.eye(2), lr=1.0)
    with pytest.raises(ValueError, match="lr must not be below 0: got -1"):
        smoother.step(torch.ones(5, 2), lr=-1.0)
    with pytest.raises(ValueError, match=r"y must be \(2,\): got \(3,\)"):
        smoother.predict(torch.zeros(3))
    for wrong in (torch.zeros(0, 3), torch.full((2, 2), torch.inf)):
        with pytest.raises(ValueError, match="smoother must be finite"):
            effective_parameters(wrong)
