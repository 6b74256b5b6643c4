"""Effects of neurons: explicit loops, sums that make the output, ablations, pursuit, refusals."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.nn import ClassTokenViT, tinyvit
from assay.probes import SecondOrderLens, describe_direction, mean_ablate, principal_directions


def network(depth=3, d=8, heads=2, seed=0):
    torch.manual_seed(seed)
    net = ClassTokenViT((1, 8, 8), 3, patch=4, d=d, depth=depth, heads=heads).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    return net


X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def streams(net, x):
    """The residual stream before each block, and what each block's attention and MLP add."""
    z, before, attended, added = net.embed(x), [], [], []
    for block in net.blocks:
        before.append(z)
        attended.append(block.attention(block.norm1(z)))
        z = z + attended[-1]
        added.append(block.down(F.gelu(block.up(block.norm2(z)))))
        z = z + added[-1]
    return before, attended, added, z


def linear_part(norm, u, at):
    """A layer norm of a summand u of the stream `at`: its statistics, no shift."""
    return norm.weight * (u - u.mean(-1, keepdim=True)) / (at.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()


def test_second_order_effects_in_loops():
    """A naive transcription: for every later block, head, token and neuron, one term."""
    net = network()
    before, _, _, last = streams(net, X)
    size, heads = 8, 2
    found = SecondOrderLens(net, 0).second_order(X)
    block = net.blocks[0]
    z = before[0] + block.attention(block.norm1(before[0]))
    acts = F.gelu(block.up(block.norm2(z)))
    wanted = torch.zeros_like(found)
    for number, n in itertools.product((1, 2), range(3)):
        later = net.blocks[number]
        q, k, v = (later.attention.qkv.weight.view(3, heads, size // heads, size)[part] for part in range(3))
        qb, kb, _ = later.attention.qkv.bias.view(3, heads, size // heads)
        seen = later.norm1(before[number][n])
        for head in range(heads):
            keys, query = seen @ k[head].T + kb[head], seen[0] @ q[head].T + qb[head]
            weights = torch.softmax(keys @ query / (size // heads) ** 0.5, 0)
            out = later.attention.out.weight[:, head * 4 : head * 4 + 4]
            for token, neuron in itertools.product(range(5), range(32)):
                u = acts[n, token, neuron] * block.down.weight[:, neuron]
                path = weights[token] * out @ v[head] @ linear_part(later.norm1, u, before[number][n, token])
                wanted[n, neuron] += linear_part(net.norm, path, last[n, 0])
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-9, atol=1e-11)
    some = SecondOrderLens(net, 0).second_order(X, neurons=[3, 30])
    torch.testing.assert_close(some, found[:, [3, 30]])


def test_the_neurons_together_are_what_later_heads_read_of_the_block():
    """Their sum is the later heads' output with the block's MLP, less the same without, all else as it was."""
    net = network(seed=1)
    before, _, added, last = streams(net, X)
    total = torch.zeros(3, 8, dtype=torch.float64)
    for number in (1, 2):
        block = net.blocks[number]
        q, k, _ = block.attention.qkv(block.norm1(before[number])).view(3, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q / 2 @ k.mT, -1)

        def read(stream, block=block, weights=weights, number=number):
            inner = linear_part(block.norm1, stream, before[number])
            value = (inner @ block.attention.qkv.weight[16:].T).view(3, 5, 2, 4).transpose(1, 2)
            return (weights @ value).transpose(1, 2).reshape(3, 5, 8) @ block.attention.out.weight.T

        without = added[0] - net.blocks[0].down.bias
        total += linear_part(net.norm, (read(before[number]) - read(before[number] - without))[:, 0], last[:, 0])
    torch.testing.assert_close(SecondOrderLens(net, 0).second_order(X).sum(1), total.detach())


def test_all_parts_make_the_output():
    """Embedding, heads and neurons, each at the class token, and one constant: the output, to rounding."""
    net = network(seed=2)
    before, attended, _, last = streams(net, X)
    lens = [SecondOrderLens(net, layer) for layer in range(3)]
    parts = linear_part(net.norm, before[0][:, 0], last[:, 0])
    for number in range(3):
        parts = parts + linear_part(net.norm, attended[number][:, 0], last[:, 0])
        parts = parts + lens[number].first_order(X).sum(1)
        parts = parts + linear_part(net.norm, net.blocks[number].down.bias.expand(3, -1), last[:, 0])
    torch.testing.assert_close((parts + net.norm.bias).detach(), lens[0].output(X))
    torch.testing.assert_close(net.head(lens[0].output(X)), net(X))


def test_what_a_later_block_does_not_read_has_no_effect():
    """Ancestor: without later attention there are first-order effects alone."""
    net = network()
    for block in net.blocks[1:]:
        nn.init.zeros_(block.attention.out.weight)
    lens = SecondOrderLens(net, 0)
    assert (lens.second_order(X) == 0).all()
    assert (lens.first_order(X) != 0).any()


def test_the_model_is_left_as_it_was():
    net = network().train()
    net.blocks[1].eval()
    SecondOrderLens(net, 1).second_order(X)
    assert net.training
    assert not net.blocks[1].training
    assert all(p.grad is None for p in net.parameters())


def test_directions_of_effects_along_one_line():
    """Effects c r + m: r, turned so that most of the chosen projections are positive; the threshold by hand."""
    r = F.normalize(torch.tensor([1.0, 2.0, -2.0]), dim=0)
    c = torch.tensor([0.1, -0.1, 0.2, -0.2, 5.0, 4.0, -3.0, -6.0 - 0.0])
    c = c - c.mean()
    effects = (c[:, None] * r + torch.tensor([7.0, 0.0, 1.0]))[:, None]
    found = principal_directions(effects, 3)
    torch.testing.assert_close(found.directions[0].abs(), r.abs())
    top = c[c.abs().topk(3).indices]
    assert (found.directions[0] @ r * top).sign().sum() > 0
    torch.testing.assert_close(found.mean[0], torch.tensor([7.0, 0.0, 1.0]))
    assert found.threshold.item() == pytest.approx(c.abs().topk(3).values[-1].item(), rel=1e-5)
    assert principal_directions(effects, 0.3).threshold == found.threshold  # 3 of 8


def test_ablations():
    torch.manual_seed(3)
    output, effects = torch.randn(4, 3), torch.randn(4, 6, 3)
    mean = effects.mean(0)
    gone = mean_ablate(output, effects, mean)
    torch.testing.assert_close(gone, output - (effects.sum(1) - mean.sum(0)))
    torch.testing.assert_close(mean_ablate(output, effects, mean, keep=torch.ones(4, 6, dtype=torch.bool)), output)
    keep = torch.zeros(4, 6, dtype=torch.bool)
    keep[2, 5] = True
    left = mean_ablate(output, effects, mean, keep=keep) - gone
    torch.testing.assert_close(left[2], effects[2, 5] - mean[5])
    assert (left[[0, 1, 3]] == 0).all()
    line = F.normalize(torch.randn(6, 3), dim=1)
    kept = mean_ablate(output, effects, mean, project=line) - gone
    along = ((effects - mean) * line).sum(2, keepdim=True) * line
    torch.testing.assert_close(kept, along.sum(1))
    flat = mean + torch.randn(4, 6, 1) * line
    torch.testing.assert_close(mean_ablate(output, flat, mean, project=line), output)  # nothing but the line


def test_pursuit_against_one_step_at_a_time():
    """Reference: refit by the normal equations, the best atom found by the fall of the residual it could bring."""
    torch.manual_seed(4)
    words = torch.randn(12, 6, dtype=torch.float64)
    target = torch.randn(6, dtype=torch.float64)
    atoms = words - words.mean(0)
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    chosen, left = [], target
    for _ in range(3):
        chosen.append(max(set(range(12)) - set(chosen), key=lambda k: abs(float(atoms[k] @ left))))
        a = atoms[chosen].T
        weights = torch.linalg.solve(a.T @ a, a.T @ target)
        left = target - a @ weights
    found = describe_direction(target, words, [str(k) for k in range(12)], 3)
    assert {name for _, name in found} == {str(k) for k in chosen}
    assert {name: pytest.approx(w) for w, name in found} == {
        str(k): w for k, w in zip(chosen, weights.tolist(), strict=True)
    }
    assert [abs(w) for w, _ in found] == sorted((abs(w) for w, _ in found), reverse=True)
    assert len(describe_direction(3 * atoms[5], words, [str(k) for k in range(12)])) == 1  # nothing is left to say


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SecondOrderLens(network(), 3), ValueError, r"layer must lie in 0\.\.2: got 3"),
        (lambda: SecondOrderLens(network(), 2).second_order(X), ValueError, "last block"),
        (lambda: SecondOrderLens(tinyvit(), 0), TypeError, "model must have embed.*got TinyViT"),
        (lambda: principal_directions(torch.zeros(0, 1, 2)), ValueError, "at least one image"),
        (
            lambda: principal_directions(torch.zeros(4, 1, 2), 0.0),
            ValueError,
            r"in \(0, 1\] or a number in 1\.\.4",
        ),
        (lambda: principal_directions(torch.zeros(4, 1, 2), 5), ValueError, "got 5"),
        (lambda: mean_ablate(torch.zeros(1, 3), torch.zeros(2, 1, 3), torch.zeros(1, 3)), ValueError, "output must be"),
        (lambda: mean_ablate(torch.zeros(2, 3), torch.zeros(2, 1, 3), torch.zeros(1, 2)), ValueError, "mean must be"),
        (
            lambda: mean_ablate(
                torch.zeros(2, 3), torch.zeros(2, 1, 3), torch.zeros(1, 3), keep=torch.zeros(2, 2, dtype=torch.bool)
            ),
            ValueError,
            "keep must be",
        ),
        (
            lambda: mean_ablate(torch.zeros(2, 3), torch.zeros(2, 1, 3), torch.zeros(1, 3), project=torch.zeros(3)),
            ValueError,
            "project must be",
        ),
        (lambda: describe_direction(torch.ones(2), torch.ones(3, 2), "ab"), ValueError, "names must be 3"),
        (lambda: describe_direction(torch.ones(2), torch.ones(3, 2), "abc", 0), ValueError, "components must be"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
