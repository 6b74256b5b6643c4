"""Forward gradients: products against brute force, forward mode, unbiased noise, projections, what is refused."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.learn import AuxiliaryHead, BlockChain, ForwardGradient, gradient_cosine
from assay.learn.layer_gradients import passages, sample_gradients
from assay.nn import smallcnn


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


def plain():
    """Three blocks without batch norms, in double precision."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.Tanh()), nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh())]
    net = BlockChain(*blocks, nn.Sequential(nn.Flatten(), nn.Linear(16, 3))).double()
    return net, waves((5, 1, 7, 7), 0.2), torch.tensor([0, 2, 1, 2, 0])


def heads(net, x):
    torch.manual_seed(1)
    return [nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3)).double() for shape in net.shapes(x)[:-1]]


def filled(rule, net, x, y):
    net.zero_grad()
    value = rule(net, x, y, F.cross_entropy)
    return value, {name: p.grad.clone() for name, p in net.named_parameters()}


def by_example(function, parameters, n):
    """One backward pass an example, the loss divided by n as in the mean: name -> (n, ...)."""
    rows = [torch.autograd.grad(function(i) / n, parameters, allow_unused=True) for i in range(n)]
    return [torch.stack(each) for each in zip(*rows, strict=True)]


@pytest.mark.parametrize("normalise", [True, False])
def test_local_guesses_by_example_against_one_pass_an_example(normalise):
    net, x, y = plain()
    beside = heads(net, x)
    rule = ForwardGradient(net, heads=beside, normalise=normalise)
    value, found = filled(rule, net, x, y)
    assert value.item() == pytest.approx(F.cross_entropy(net(x), y).item())
    inner = x
    for number, head in enumerate(beside):
        names = [name for name, _ in net.named_parameters() if name.startswith(f"{number}.")]
        own = [dict(net.named_parameters())[name] for name in names]
        target = by_example(lambda i: F.cross_entropy(net(x[i : i + 1]), y[i : i + 1]), own, 5)
        below = inner.detach()
        guess = by_example(
            lambda i, b=below, n=number, h=head: F.cross_entropy(h(net[n](b[i : i + 1])), y[i : i + 1]), own, 5
        )
        for name, g, v in zip(names, target, guess, strict=True):
            product = (g * v).flatten(1).sum(1)
            if normalise:
                product = product / v.square().flatten(1).sum(1)
            exact = torch.einsum("n,n...->...", product, v)
            torch.testing.assert_close(found[name], exact, rtol=1e-8, atol=1e-12)
        inner = net[number](below)
    exact = torch.autograd.grad(F.cross_entropy(net(x), y), list(net[2].parameters()))
    torch.testing.assert_close([found["2.1.weight"], found["2.1.bias"]], list(exact))  # the classifier's true gradient
    local = torch.autograd.grad(F.cross_entropy(beside[0](net[0](x)), y), list(beside[0].parameters()))
    torch.testing.assert_close([p.grad for p in beside[0].parameters()], list(local))  # heads learn by their own loss


def test_activity_space_against_one_pass_an_example():
    net, x, y = plain()
    beside = heads(net, x)
    rule = ForwardGradient(net, heads=beside, space="activity")
    _, found = filled(rule, net, x, y)
    outs = list(net.joint(x))
    targets = torch.autograd.grad(F.cross_entropy(outs[-1], y), outs[:-1])
    below = x
    for number, (head, g) in enumerate(zip(beside, targets, strict=True)):
        out = net[number](below)
        (v,) = torch.autograd.grad(F.cross_entropy(head(out), y), out, retain_graph=True)
        scalar = (g * v).flatten(1).sum(1) / v.square().flatten(1).sum(1)
        sent = torch.einsum("n,n...->n...", scalar, v)
        exact = torch.autograd.grad(out, list(net[number].parameters()), sent)
        for (name, _), grad in zip(net[number].named_parameters(), exact, strict=True):
            torch.testing.assert_close(found[f"{number}.{name}"], grad, rtol=1e-8, atol=1e-12)
        below = out.detach()


@pytest.mark.parametrize(
    ("space", "per_sample", "guess"),
    list(itertools.product(("weight", "activity"), (True, False), ("local", "gaussian", "rademacher"))),
)
def test_forward_mode_is_the_product(space, per_sample, guess):
    net, x, y = plain()
    settings = dict(space=space, per_sample=per_sample, guess=guess)
    results = []
    for mode in ("product", "jvp"):
        beside = heads(net, x) if guess == "local" else None
        generator = torch.Generator().manual_seed(3)
        rule = ForwardGradient(net, heads=beside, mode=mode, generator=generator, **settings)
        results.append(filled(rule, net, x, y))
    (value, product), (other, forward) = results
    assert value.item() == pytest.approx(other.item())
    for name in product:
        torch.testing.assert_close(forward[name], product[name], rtol=1e-8, atol=1e-12)


def test_forward_mode_with_batch_norms_in_training():
    torch.manual_seed(0)
    net = BlockChain.of(smallcnn((1, 8, 8), 3, widths=(3, 4))).double()
    x, y = waves((6, 1, 8, 8), 0.1), torch.arange(6) % 3
    for space in ("weight", "activity"):
        found = []
        for mode in ("product", "jvp"):
            generator = torch.Generator().manual_seed(3)
            settings = dict(guess="gaussian", space=space, per_sample=False, mode=mode, generator=generator)
            found.append(filled(ForwardGradient(net, **settings), net, x, y)[1])
        for name in found[0]:
            torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-8, atol=1e-12)
    with pytest.raises(ValueError, match="per_sample"):
        filled(ForwardGradient(net, guess="gaussian", mode="jvp"), net, x, y)


@pytest.mark.parametrize("guess", ["gaussian", "rademacher"])
@pytest.mark.parametrize("space", ["weight", "activity"])
@pytest.mark.parametrize("per_sample", [True, False])
def test_noise_is_unbiased(guess, space, per_sample):
    torch.manual_seed(0)
    net = BlockChain(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 3)).double()
    x, y = waves((3, 3), 0.2), torch.tensor([0, 2, 1])
    settings = dict(guess=guess, space=space, per_sample=per_sample, generator=torch.Generator().manual_seed(0))
    rule = ForwardGradient(net, **settings)
    draws = torch.stack([filled(rule, net, x, y)[1]["0.0.weight"] for _ in range(3000)])
    exact = torch.autograd.grad(F.cross_entropy(net(x), y), net[0][0].weight)[0]
    z = (draws.mean(0) - exact) / (draws.std(0) / math.sqrt(len(draws)))
    assert z.abs().max() < 4.5


def test_normalised_noise_is_another_method():
    """One division: the projection on noise keeps 1/d of the gradient, and is not unbiased."""
    torch.manual_seed(0)
    net = BlockChain(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 3)).double()
    x, y = waves((3, 3), 0.2), torch.tensor([0, 2, 1])
    settings = dict(guess="gaussian", per_sample=False, generator=torch.Generator().manual_seed(0))
    draws = [filled(ForwardGradient(net, normalise=True, **settings), net, x, y)[1]["0.0.weight"] for _ in range(2000)]
    exact = torch.autograd.grad(F.cross_entropy(net(x), y), net[0][0].weight)[0]
    share = ((torch.stack(draws).mean(0) * exact).sum() / exact.square().sum()).item()
    assert share == pytest.approx(1 / 12, abs=0.02)


def test_a_projection_never_lengthens_and_never_opposes():
    net, x, y = plain()
    rule = ForwardGradient(net, heads=heads(net, x), per_sample=False)
    _, found = filled(rule, net, x, y)
    exact = dict(zip(found, torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters())), strict=True))
    for name, g in exact.items():
        assert found[name].norm() <= g.norm() * (1 + 1e-9)
        assert (found[name] * g).sum() >= 0


def test_the_gradient_as_guess_is_the_gradient():
    """A head that is the rest of the network guesses the target exactly."""
    net, x, y = plain()
    rest = [nn.Sequential(net[1], net[2]), net[2]]
    _, found = filled(ForwardGradient(net, heads=rest, per_sample=False, space="activity"), net, x, y)
    net.zero_grad()
    F.cross_entropy(net(x), y).backward()
    torch.testing.assert_close(found["0.0.weight"], net[0][0].weight.grad)


def test_local_targets_with_local_guesses_are_local_training():
    net, x, y = plain()
    beside = heads(net, x)
    _, found = filled(ForwardGradient(net, target="local", heads=beside), net, x, y)
    for number, out in enumerate(net.local(x)):
        if number < 2:
            grads = torch.autograd.grad(F.cross_entropy(beside[number](out), y), list(net[number].parameters()))
            for (name, _), g in zip(net[number].named_parameters(), grads, strict=True):
                torch.testing.assert_close(found[f"{number}.{name}"], g)


def test_random_heads_are_drawn_anew_and_do_not_learn():
    net, x, y = plain()
    rule = ForwardGradient(net, guess="ntk", heads=heads(net, x))
    before = [p.clone() for p in rule.parameters()]
    filled(rule, net, x, y)
    assert all(p.grad is None for p in rule.parameters())
    assert all((a != b).any() for a, b in zip(rule.parameters(), before, strict=True))


def test_statistics_are_updated_once_a_step():
    torch.manual_seed(0)
    net = BlockChain.of(smallcnn((1, 8, 8), 3, widths=(3, 4)))
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    for settings in (dict(), dict(space="activity"), dict(target="local")):
        net[0][1].reset_running_stats()
        rule = ForwardGradient(net, num_classes=3, example=x, **settings)
        rule(net, x, y, F.cross_entropy)
        assert net[0][1].num_batches_tracked == 1


def test_local_guesses_point_more_along_the_gradient_than_noise():
    torch.manual_seed(0)
    net = BlockChain.of(smallcnn((1, 8, 8), 3, widths=(8, 8, 8)))
    x, y = torch.rand(30, 1, 8, 8), torch.arange(30) % 3
    x = x + y.view(-1, 1, 1, 1) * torch.linspace(0, 1, 8)
    local = ForwardGradient(net, num_classes=3, example=x)
    optimizer = torch.optim.SGD([*net.parameters(), *local.parameters()], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        local(net, x, y, F.cross_entropy)
        optimizer.step()
    noise = ForwardGradient(net, guess="gaussian")
    cosines = [gradient_cosine(net, rule, x, y, F.cross_entropy)["1.0.weight"] for rule in (local, noise)]
    assert cosines[0] > 0.1
    assert cosines[0] > 3 * abs(cosines[1])


LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "linear on tokens": (lambda: nn.Linear(4, 3, bias=False), (5, 6, 4)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), (5, 4, 9, 7)),
    "grouped conv": (lambda: nn.Conv2d(4, 6, (2, 3), groups=2, bias=False), (5, 4, 6, 6)),
    "layer norm": (lambda: nn.LayerNorm((3, 4)), (5, 2, 3, 4)),
    "batch norm of vectors": (lambda: nn.BatchNorm1d(4), (5, 4)),
    "batch norm": (lambda: nn.BatchNorm2d(4), (5, 4, 3, 3)),
    "batch norm in evaluation": (lambda: nn.BatchNorm2d(4).eval(), (5, 4, 3, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_example(name):
    """Summed they are the gradient; and each is the slope of the layer's passage of that example alone."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().double()
    for p in layer.parameters():
        p.data = waves(p.shape, 0.3)
    x = waves(shape, 0.1)
    with passages([layer]) as seen:
        out = layer(x)
        weights = waves(out.shape, 0.5)
        (torch.tanh(out) * weights).sum().backward()
    rows = sample_gradients(layer, seen[layer])
    for parameter, p in layer.named_parameters():
        torch.testing.assert_close(rows[parameter].sum(0), p.grad)
    if not (isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training):
        one = torch.autograd.grad((torch.tanh(layer(x[2:3])) * weights[2:3]).sum(), list(layer.parameters()))
        torch.testing.assert_close([rows[parameter][2] for parameter, _ in layer.named_parameters()], list(one))
    assert not layer._forward_hooks


def test_a_layer_without_a_gradient_gets_zeros():
    layer = nn.Linear(2, 2)
    with passages([layer]) as seen:
        layer(torch.ones(3, 2))
    assert sample_gradients(layer, seen[layer])["weight"].abs().sum() == 0
    with pytest.raises(TypeError, match="Embedding"):
        sample_gradients(nn.Embedding(2, 2), _reached(seen[layer]))


def _reached(passage):
    passage.grad_output = torch.zeros(3, 2)
    return passage


@pytest.mark.parametrize("kind", ["linear", "mlp", "cnn"])
def test_heads(kind):
    head = AuxiliaryHead((6, 8, 8), 5, kind=kind, hidden=7, layers=2)
    assert head(torch.rand(4, 6, 8, 8)).shape == (4, 5)
    count = {
        "linear": 12 + 24 * 5 + 5,
        "mlp": 24 * 7 + 14 + 49 + 14 + 35 + 5,
        "cnn": 42 + 14 + 2 * (9 * 49 + 14) + 28 * 5 + 5,
    }[kind]
    assert sum(p.numel() for p in head.parameters()) == count


def test_heads_on_tokens_and_vectors():
    tokens = AuxiliaryHead((9, 6), 5, kind="mlp").eval()
    x = torch.rand(4, 9, 6)
    torch.testing.assert_close(tokens(x), tokens(x.mean(1)))
    assert AuxiliaryHead((6,), 5)(torch.rand(4, 6)).shape == (4, 5)
    assert AuxiliaryHead((6, 1, 1), 5, pool=2)(torch.rand(4, 6, 1, 1)).shape == (4, 5)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(kind="tree"), "kind"),
        (dict(hidden=0), "hidden"),
        (dict(layers=0), "layers"),
        (dict(pool=0), "pool"),
        (dict(num_classes=1), "num_classes"),
        (dict(shape=()), "shape"),
        (dict(shape=(4,), kind="cnn"), "cnn"),
    ],
)
def test_refused_heads(settings, name):
    with pytest.raises(ValueError, match=name):
        AuxiliaryHead(**{"shape": (6, 8, 8), "num_classes": 5} | settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(target="all"), "target"),
        (dict(guess="none"), "guess"),
        (dict(space="time"), "space"),
        (dict(mode="vjp"), "mode"),
        (dict(), "heads"),
        (dict(heads=[nn.Linear(2, 2)]), "heads"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        ForwardGradient(plain()[0], **settings)


def test_refused_models():
    net, x, y = plain()
    with pytest.raises(ValueError, match="at least 2"):
        ForwardGradient(BlockChain(nn.Linear(2, 2)), guess="gaussian")
    with pytest.raises(TypeError, match="ConvTranspose2d"):
        ForwardGradient(BlockChain(nn.ConvTranspose2d(1, 1, 2), nn.Linear(2, 2)), guess="gaussian")
    with pytest.raises(ValueError, match="whose blocks"):
        ForwardGradient(net, guess="gaussian")(plain()[0], x, y, F.cross_entropy)
