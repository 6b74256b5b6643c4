"""Tangent features: backward passes one by one, closed forms, chunks, what is left as found, what is refused."""

import pytest
import torch
from torch import nn

from assay.probes import tangent


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3)).to(dtype)


def batch(n, dtype=torch.float64):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(n)).to(dtype)


def row_by_row(model, inputs):
    """One backward pass an output, in evaluation mode."""
    model = model.eval()
    rows = []
    for x in inputs:
        for output in model(x[None])[0]:
            found = torch.autograd.grad(output, list(model.parameters()), retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_rows_are_backward_passes(dtype, tol):
    x = batch(7, dtype)
    expected = row_by_row(network(dtype), x)
    for chunk in (None, 1, 3):
        torch.testing.assert_close(tangent.jacobian(network(dtype), x, chunk=chunk), expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("chunk", [2, 100])
def test_kernel_is_the_product(chunk):
    x, other = batch(7), batch(5)
    left, right = row_by_row(network(), x), row_by_row(network(), other)
    torch.testing.assert_close(tangent.kernel(network(), x, other, chunk=chunk), left @ right.T)
    found = tangent.kernel(network(), x, chunk=chunk)
    torch.testing.assert_close(found, left @ left.T)
    assert torch.linalg.eigvalsh(found).min() > -1e-12


def test_two_layer_kernel_in_closed_form():
    r"""f = v . relu(W x): K = (x.x') sum_j v_j^2 [a_j > 0][a'_j > 0] + sum_j relu(a_j) relu(a'_j)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9, bias=False), nn.ReLU(), nn.Linear(9, 1, bias=False)).double()
    x, v = batch(6), model[2].weight.detach()[0]
    a = (x @ model[0].weight.detach().T).relu()
    on = (a > 0).double() * v
    torch.testing.assert_close(tangent.kernel(model, x), (x @ x.T) * (on @ on.T) + a @ a.T)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_linear_kernel_is_the_kernel(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 1)).to(dtype)
    x, other = batch(7, dtype), batch(5, dtype)
    for frozen in (False, True):
        torch.testing.assert_close(tangent.linear_kernel(model, x), tangent.kernel(model.requires_grad_(True), x))
        expected = tangent.kernel(model, x, other)
        model.requires_grad_(not frozen)
        torch.testing.assert_close(tangent.linear_kernel(model, x, other), expected)
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match=r"one output: got \(7, 3\)"):
        tangent.linear_kernel(nn.Linear(4, 3).to(dtype), x)
    with pytest.raises(ValueError, match="linear layers"):
        tangent.linear_kernel(network(dtype), x)
    with pytest.raises(RuntimeError):
        tangent.linear_kernel(model, x[:, :2])
    assert not any(m._forward_hooks for m in model.modules())


def test_along_is_the_jacobian_times_a_direction_and_a_difference_quotient():
    model, x = network(), batch(7)
    v = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    outputs, change = tangent.along(model, x, v)
    flat = torch.cat([each.flatten() for each in v.values()])
    torch.testing.assert_close(change.flatten(), row_by_row(model, x) @ flat)
    torch.testing.assert_close(outputs, model(x))
    moved = {n: p.detach() + 1e-6 * v[n] for n, p in model.named_parameters()}
    shifted, _ = tangent.along(model, x, v, at=moved)
    torch.testing.assert_close((shifted - outputs) / 1e-6, change, rtol=1e-4, atol=1e-4)


def test_some_weights_only():
    model, x = network(), batch(3)
    torch.testing.assert_close(tangent.jacobian(model, x, params=["4.bias"]), torch.eye(3).double().repeat(3, 1))
    model[0].requires_grad_(False)
    assert tangent.jacobian(model, x).shape == (9, 12 + 21)
    v = torch.randn(3).double()
    _, change = tangent.along(model, x, {"4.bias": v}, at=dict(model.named_parameters()))
    torch.testing.assert_close(change, v.expand(3, 3))


def test_the_model_is_left_as_found():
    model, x = network().train(), batch(5)
    model[2].eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    tangent.jacobian(model, x)
    tangent.kernel(model, x)
    tangent.along(model, x, {"0.bias": torch.ones(6).double()})
    with pytest.raises(RuntimeError):
        tangent.jacobian(model, torch.randn(2, 3).double())
    assert [m.training for m in model] == [True, True, False, True, True]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_what_is_refused():
    model, x = network(), batch(2)
    with pytest.raises(ValueError, match="at least one example"):
        tangent.jacobian(model, x[:0])
    with pytest.raises(ValueError, match="chunk must be at least 1: got 0"):
        tangent.jacobian(model, x, chunk=0)
    with pytest.raises(ValueError, match="chunk must be at least 1: got 0"):
        tangent.kernel(model, x, chunk=0)
    with pytest.raises(ValueError, match="'nine'"):
        tangent.jacobian(model, x, params=["nine"])
    with pytest.raises(ValueError, match="got none"):
        tangent.jacobian(nn.ReLU(), x)
    with pytest.raises(ValueError, match=r"direction\['0.bias'\] must be \(6,\): got \(3,\)"):
        tangent.along(model, x, {"0.bias": torch.ones(3).double()})
