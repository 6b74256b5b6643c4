"""Activations of layers: by hand, in batches, after errors; what is left behind; what is refused."""

import pytest
import torch
from torch import nn

from assay.probes import record_activations, stream_activations, watched
from assay.probes.activations import evaluated


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(100, 3)
    ).to(dtype)


def images(n=7, dtype=torch.float32):
    return torch.randn(n, 1, 5, 5, generator=torch.Generator().manual_seed(1)).to(dtype)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_forward_pass_layer_by_layer(dtype):
    """Also of a layer whose output a ReLU overwrites in place, and whatever the batch size."""
    model, x = network(dtype), images(dtype=dtype)
    with evaluated(model), torch.no_grad():
        normed = model[1](model[0](x))
        logits = model[4](normed.relu().flatten(1))
    for batch_size in (1, 3, 100):
        found = record_activations(model, ["4", "1"], x, batch_size=batch_size)
        assert list(found) == ["4", "1"]
        torch.testing.assert_close(found["1"], normed)
        torch.testing.assert_close(found["4"], logits)
        assert (found["1"] < 0).any()
        assert found["4"].dtype == dtype
        assert not found["4"].requires_grad


def test_the_model_is_left_as_it_was():
    model, x = network(), images()
    model.train()
    model[1].eval()
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before = state(model)
    record_activations(model, ["1"], x)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hooks(model) == 0
    assert model[4].weight.grad.sum() == model[4].weight.numel()
    assert all(p.requires_grad for p in model.parameters())


def test_also_after_an_error_and_between_batches():
    model = network().train()
    with pytest.raises(RuntimeError, match="channels"):
        record_activations(model, ["0"], torch.zeros(2, 3, 5, 5))
    assert hooks(model) == 0
    assert model.training
    stream = stream_activations(model, ["0"], images(), batch_size=2)
    next(stream)
    assert hooks(model) == 0
    assert model.training
    with pytest.raises(RuntimeError, match="channels"), watched(model, ["0"]):
        model(torch.zeros(2, 3, 5, 5))
    assert hooks(model) == 0


def test_batches_of_a_loader_and_what_is_kept_of_them():
    model, x = network(), images()
    loader = [(x[:4], torch.zeros(4)), (x[4:], torch.zeros(3))]
    whole = record_activations(model, ["0"], x)["0"]
    means = record_activations(model, ["0"], loader, reduce=lambda maps: maps.mean((2, 3)))["0"]
    torch.testing.assert_close(means, whole.mean((2, 3)))
    parts = [part["0"] for part in stream_activations(model, ["0"], loader)]
    assert [len(part) for part in parts] == [4, 3]


def test_watched_outputs_have_their_graph():
    model, x = network(), images()
    with watched(model, ["0", ""]) as seen:
        model(x)
        torch.testing.assert_close(seen[""], model[4](model[2](model[1](model[0](x))).flatten(1)))
        (slope,) = torch.autograd.grad(seen[""].sum(), seen["0"], allow_unused=True)
    assert slope is None or slope.shape == seen["0"].shape
    with watched(model, ["0"]) as seen:
        model(x)
        seen["0"].sum().backward()
    assert model[0].bias.grad.tolist() == pytest.approx([7 * 25] * 4)


def test_first_of_a_tuple():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x, x)[0]

    net, x = Net(), torch.randn(3, 5, 4)
    torch.testing.assert_close(record_activations(net, ["attention"], x)["attention"], net(x).detach())


def test_what_is_refused():
    model, x = network(), images()
    with pytest.raises(ValueError, match="layers must be modules of the model: got '9'"):
        record_activations(model, ["0", "9"], x)
    for layers in ([], "0"):
        with pytest.raises(ValueError, match="layers must be a sequence"):
            stream_activations(model, layers, x)
    with pytest.raises(ValueError, match="batch_size must be at least 1: got 0"):
        stream_activations(model, ["0"], x, batch_size=0)
    for nothing in (x[:0], []):
        with pytest.raises(ValueError, match="at least one example"):
            record_activations(model, ["0"], nothing)
    with pytest.raises(TypeError, match=r"inputs must give tensors.*got str"):
        record_activations(model, ["0"], ["a"])
    model.spare = nn.Linear(2, 2)
    model.forward = lambda x: model[0](x)
    with pytest.raises(ValueError, match="'spare' is not"):
        record_activations(model, ["spare"], x)
    strange = nn.Identity()
    with pytest.raises(TypeError, match="must give tensors"):
        record_activations(nn.Sequential(nn.Flatten(), Wrapped(strange)), ["1.inner"], x)


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        self.inner({"x": x})
        return x
