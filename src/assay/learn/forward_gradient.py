"""Forward gradients: a directional derivative, along noise or along what a local loss suggests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from assay.learn.blocks import BlockChain, add_gradients, chain_of, running_statistics_kept
from assay.learn.heads import AuxiliaryHead
from assay.learn.layer_gradients import LAYERS, Passage, passages, sample_gradients

CHOICES = {
    "target": ("global", "local"),
    "guess": ("local", "ntk", "gaussian", "rademacher"),
    "space": ("weight", "activity"),
    "mode": ("product", "jvp"),
}
EPS = 1e-14

Loss = Callable[..., Tensor]
# A direction for each tensor of weights of a block, or for its output under None; with a row an example, or without.
Directions = dict[Tensor | None, Tensor]
Found = tuple[Tensor, Tensor, dict[Tensor, Tensor], dict[nn.Module, Passage], int]


class ForwardGradient:
    r"""A learning rule: of the target gradient G only $\langle G, V \rangle$ along a guess V is used.

    $\hat G = \frac{\langle G, V \rangle}{\|V\|^2 + \epsilon} V$, the projection of G on V, for guesses that point
    somewhere; $\hat G = \langle G, V \rangle V$ for noise of unit variance, whose mean is G. Forward-mode
    differentiation gives $\langle G, V \rangle$ for the price of a forward pass, without a backward one. The last block
    is the classifier and gets its true gradient.

    Args:
        blocks: a `BlockChain` or `nn.Sequential` of two blocks or more.
        target: G of the `"global"` loss at the output, or of the `"local"` loss of each block's head. (`"local"` with
            the guess `"local"` is training by local losses alone.)
        guess: `"local"`, the gradient of a head's cross entropy at the block's output; `"ntk"`, the same with heads
            drawn anew each step; `"gaussian"` or `"rademacher"` noise.
        space: `"weight"`, one V for each tensor of weights; `"activity"`, one for each block's output, from which the
            weights inside the block get their exact vector-Jacobian product.
        per_sample: every example has its own scalar (and, in weight space, its own guess), and the estimates are added.
        normalise: divide by $\|V\|^2$; None does so for `"local"` and `"ntk"` only.
        heads: one `AuxiliaryHead` (or any module to logits) for each block but the last; None makes linear ones, which
            needs `num_classes` and `example`. Not for noise with a global target.
        num_classes: of those.
        example: one input (1, ...) or more, from which the shapes of the outputs are found.
        mode: `"product"` finds G by backpropagation and takes the product, which is the same number; `"jvp"` really
            runs forward. Batch norms in training mode couple examples, which forward mode cannot take apart by example:
            there `"jvp"` needs `per_sample=False`.
        generator: where noise comes from; of the device of the model.

    Fournier et al., 2023 (arXiv:2306.06968), equations 1 to 4 and section 3; epsilon and the order of passes as the
    authors'. Activity noise is Ren et al., 2022 (arXiv:2210.03310).

    Differs from the paper: not at all (their published code writes the estimate for a bias over that of the weight).

    Raises:
        ValueError: for unknown words, fewer than two blocks, heads that are missing or too few; when called, for
        another
            model, batch norms in training mode where forward mode cannot.
        TypeError: for a model that is no chain; for weights in layers other than linear, 2-D convolutional, batch and
            layer norms, in weight space and by example.

    Example:
        >>> from torch.nn.functional import cross_entropy
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> x, y = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
        >>> rule = ForwardGradient(net, guess="gaussian", per_sample=False, normalise=True)
        >>> _ = rule(net, x, y, cross_entropy)
        >>> found = net[0].weight.grad
        >>> exact = torch.autograd.grad(cross_entropy(net(x), y), net[0].weight)[0]
        >>> bool(torch.isclose((found * exact).sum(), found.square().sum()))  # a projection
        True
    """

    def __init__(
        self, blocks: nn.Module, *, target: str = "global", guess: str = "local", space: str = "weight",
        per_sample: bool = True, normalise: bool | None = None, heads: list[nn.Module] | nn.ModuleList | None = None,
        num_classes: int | None = None, example: Tensor | None = None, mode: str = "product",
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        for name, value in (("target", target), ("guess", guess), ("space", space), ("mode", mode)):
            if value not in CHOICES[name]:
                raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}: got {value!r}")
        self.chain: BlockChain = chain_of(blocks, least=2)
        self.target, self.guess, self.space, self.mode = target, guess, space, mode
        self.per_sample, self.generator = per_sample, generator
        self.normalise = guess in ("local", "ntk") if normalise is None else normalise
        hidden = list(self.chain)[:-1]
        if target == "global" and guess in ("gaussian", "rademacher"):
            heads = []
        elif heads is None:
            if num_classes is None or example is None:
                raise ValueError("heads must be given, or num_classes and example to make them: got neither")
            shapes = self.chain.shapes(example)[:-1]
            device = next(iter(self.chain.parameters())).device
            heads = [AuxiliaryHead(shape, num_classes).to(device) for shape in shapes]
        elif len(heads) != len(hidden):
            raise ValueError(f"heads must be {len(hidden)}, one for each block but the last: got {len(heads)}")
        self.heads = nn.ModuleList(heads)
        self.layers: list[list[nn.Module]] = []
        for number, block in enumerate(hidden):
            self.layers.append([m for m in block.modules() if any(True for _ in m.parameters(recurse=False))])
            for layer in self.layers[number]:
                if space == "weight" and per_sample and not isinstance(layer, LAYERS):
                    raise TypeError(
                        f"blocks must hold their weights in linear, 2-D convolutional, batch or layer norm layers for "
                        f"per_sample=True in weight space: block {number} has a {type(layer).__name__}"
                    )

    def parameters(self) -> Iterator[nn.Parameter]:
        """The heads'."""
        return self.heads.parameters()

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """Fill the gradients; the loss at the output is returned."""
        self.chain.must_be(model)
        if self.guess == "ntk":
            for module in self.heads.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        if self.target == self.guess == "local" and self.normalise:
            return self._local_training(inputs, targets, loss)
        value, aims = self._target(inputs, targets, loss)
        with running_statistics_kept(self.chain):
            for number, (out, guesses) in enumerate(self._guesses(aims, inputs, targets, loss)):
                for key, guess in guesses.items():
                    if self.mode == "jvp" and self.target == "global":
                        product = self._forward(number, key, guess, inputs, out, targets, loss)
                    else:
                        product = self._sum(aims[number][key] * guess)
                    if self.normalise:
                        product = product / (self._sum(guess.square()) + EPS)
                    estimate = product.view(-1, *[1] * (guess.ndim - 1)) * guess if self.per_sample else product * guess
                    if key is None:
                        out.backward(estimate)
                    else:
                        add_gradients([key], [estimate.sum(0) if self.per_sample else estimate])
        return value

    def _local_training(self, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """G on itself is G: one pass, one block's graph at a time."""
        for number, out in enumerate(self.chain.local(inputs)):
            head = self.heads[number] if number < len(self.heads) else nn.Identity()
            value = loss(head(out), targets)
            value.backward()
        return value.detach()

    def _sum(self, values: Tensor) -> Tensor:
        """Over everything, or everything but examples."""
        return values.flatten(1).sum(1) if self.per_sample else values.sum()

    def _target(self, inputs: Tensor, targets: Tensor, loss: Loss) -> tuple[Tensor, list[Directions]]:
        """The loss at the output, whose gradient the last block gets; G of each block, as far as it is looked at."""
        blocks = list(self.chain)
        last = [p for p in blocks[-1].parameters() if p.requires_grad]
        if self.target == "local":
            aims = [(self._directions(*found), found[0]) for found in self._local(inputs, targets, loss, learn=True)]
            features = aims[-1][1]
            value = loss(blocks[-1](features.detach()), targets)
            add_gradients(last, torch.autograd.grad(value, last, allow_unused=True))
            return value.detach(), [directions for directions, _ in aims]
        if self.mode == "jvp":
            with torch.no_grad():
                features = self.chain[:-1](inputs)
            value = loss(blocks[-1](features), targets)
            add_gradients(last, torch.autograd.grad(value, last, allow_unused=True))
            return value.detach(), []
        with self._watch(range(len(blocks) - 1)) as seen:
            outs = list(self.chain.joint(inputs))
            value = loss(outs[-1], targets)
            hidden = [p for block in blocks[:-1] for p in block.parameters() if p.requires_grad]
            wanted = [*last, *outs[:-1], *hidden]
            grads = list(torch.autograd.grad(value, wanted, allow_unused=True))
        add_gradients(last, grads[: len(last)])
        slopes = dict(zip(hidden, grads[len(wanted) - len(hidden) :], strict=True))
        found = zip(outs, grads[len(last) :], range(len(blocks) - 1), strict=False)
        return value.detach(), [self._directions(out, grad, slopes, seen, number) for out, grad, number in found]

    def _guesses(
        self, aims: list[Directions], inputs: Tensor, targets: Tensor, loss: Loss
    ) -> Iterator[tuple[Tensor, Directions]]:
        """Of each hidden block: its output on a detached input, with the graph of the block, and V."""
        if self.guess in ("local", "ntk"):
            learn = self.guess == "local" and self.target == "global"
            for found in self._local(inputs, targets, loss, learn=learn):
                yield found[0], self._directions(*found)
            return
        for number, out in enumerate(self.chain.local(inputs)):
            if number == len(self.layers):
                return
            keys = [p for layer in self.layers[number] for p in layer.parameters(recurse=False) if p.requires_grad]
            like = {p: p for p in keys} if self.space == "weight" else {None: out}
            rows = (len(out),) if self.per_sample and self.space == "weight" else ()
            yield out, {key: self._noise((*rows, *each.shape), each) for key, each in like.items()}

    def _local(self, inputs: Tensor, targets: Tensor, loss: Loss, *, learn: bool) -> Iterator[Found]:
        """Each hidden block on a detached input, and the gradients of its local loss, the heads' if they `learn`."""
        for number, (out, seen) in enumerate(self._hidden(inputs)):
            block, head = self.chain[number], self.heads[number]
            own = [p for p in block.parameters() if p.requires_grad]
            other = [p for p in head.parameters() if p.requires_grad]
            value, keep = loss(head(out), targets), self.space == "activity"  # estimates go back through the block
            grads = torch.autograd.grad(value, [out, *own, *other], retain_graph=keep, allow_unused=True)
            if learn:
                add_gradients(other, grads[1 + len(own) :])
            slopes = dict(zip(own, grads[1 : 1 + len(own)], strict=True))
            yield out, grads[0], slopes, seen, number

    def _hidden(self, x: Tensor) -> Iterator[tuple[Tensor, dict[nn.Module, Passage]]]:
        for number in range(len(self.layers)):
            with self._watch([number]) as seen:
                x = self.chain[number](x.detach())
            yield x, seen

    def _watch(self, numbers: Iterable[int]) -> AbstractContextManager[dict[nn.Module, Passage]]:
        if self.space == "weight" and self.per_sample:
            return passages([layer for number in numbers for layer in self.layers[number]])
        return nullcontext({})

    def _directions(
        self, out: Tensor, grad: Tensor, slopes: dict[Tensor, Tensor], seen: dict[nn.Module, Passage], number: int
    ) -> Directions:
        """A gradient in the space of the rule: of the output (key None) or of each tensor of weights."""
        if self.space == "activity":
            return {None: grad}
        if not self.per_sample:
            own = set(self.chain[number].parameters())
            return {p: torch.zeros_like(p) if g is None else g for p, g in slopes.items() if p in own}
        found: Directions = {}
        for layer in self.layers[number]:
            rows = sample_gradients(layer, seen[layer])
            found |= {p: rows[name] for name, p in layer.named_parameters(recurse=False) if p.requires_grad}
        return found

    def _noise(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        settings = dict(generator=self.generator, device=like.device)
        if self.guess == "gaussian":
            return torch.randn(shape, dtype=like.dtype, **settings)  # type: ignore[call-overload, no-any-return]
        return torch.randint(0, 2, shape, **settings).to(like.dtype).mul_(2).sub_(1)  # type: ignore[call-overload]

    def _forward(
        self, number: int, key: Tensor | None, guess: Tensor, inputs: Tensor, out: Tensor, targets: Tensor, loss: Loss
    ) -> Tensor:
        """<G, V> of the loss at the output by forward-mode differentiation, without a backward pass."""
        after = self.chain[number + 1 :]
        names = {p: name for name, p in self.chain.named_parameters()}

        def through(value: Tensor, x: Tensor, y: Tensor) -> Tensor:
            if key is None:
                return loss(after(value), y)
            return loss(functional_call(self.chain, {names[key]: value}, (x,)), y)

        start = (out if key is None else key).detach()
        if not self.per_sample:
            with torch.no_grad():  # nothing is kept for a backward pass
                return jvp(lambda value: through(value, inputs, targets), (start,), (guess,))[1]
        if any(isinstance(m, _BatchNorm) and m.training for m in self.chain.modules()):
            raise ValueError("mode 'jvp' must have per_sample=False for batch norms in training mode: got True")

        def one(value: Tensor, direction: Tensor, x: Tensor, y: Tensor) -> Tensor:
            run = lambda v: through(v[None] if key is None else v, x[None], y[None])  # noqa: E731
            return jvp(run, (value,), (direction,))[1]

        values = start if key is None else start.expand(len(inputs), *start.shape)
        with torch.no_grad():
            return vmap(one)(values, guess, inputs, targets) / len(inputs)

    def state_dict(self) -> dict[str, Any]:
        """The heads'."""
        return self.heads.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.heads.load_state_dict(state)
