"""Guidance: a network learns its task, and layer by layer to see as another network sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from assay.metrics import linear_cka

SEEING = (nn.Linear, nn.modules.conv._ConvNd)
COLLISIONS = ("all", "last")
LEAST = 8


def layer_map(
    guide_layers: Sequence[str], target_layers: Sequence[str], *, collisions: str = "all"
) -> list[tuple[str, str]]:
    r"""Pairs (guide layer, target layer): guide layer i goes to target layer $\mathrm{round}(i\, \frac{T-1}{G-1})$.

    Both ends meet, and the rest is spread evenly (half-way cases go to the even neighbour).

    Args:
        guide_layers: G names, in order; at least one, and one alone goes to the first target layer.
        target_layers: T names, in order; at least one.
        collisions: where several guide layers go to one target layer (G > T), `"all"` keeps them, `"last"` only the
            last, as the authors' code does.

    Raises:
        ValueError: for no layers, an unknown word.

    Example:
        >>> layer_map(["g0", "g1", "g2"], ["t0", "t1", "t2", "t3", "t4", "t5"])
        [('g0', 't0'), ('g1', 't2'), ('g2', 't5')]
    """
    if not guide_layers or not target_layers:
        raise ValueError(f"layers must be one or more on each side: got {len(guide_layers)} and {len(target_layers)}")
    if collisions not in COLLISIONS:
        raise ValueError(f"collisions must be one of {', '.join(COLLISIONS)}: got {collisions!r}")
    last = len(target_layers) - 1
    pace = last / (len(guide_layers) - 1) if len(guide_layers) > 1 else 1.0
    pairs = [(name, target_layers[min(round(i * pace), last)]) for i, name in enumerate(guide_layers)]
    if collisions == "last":
        pairs = [(guide, target) for target, guide in {target: guide for guide, target in pairs}.items()]
    return pairs


class Guidance:
    r"""A learning rule: $L + \alpha \sum_{(g, t)} (1 - \mathrm{CKA}(A_t, A_g))$ over pairs of layers of target and
    guide.

    The guide is not changed: it runs in evaluation mode and without gradients. It may be trained, and then passes on
    what it knows, or untrained, and then only its architecture speaks.

    Args:
        guide: a network that takes the same inputs.
        guide_layers: names of its modules, as in `named_modules()`; None takes all linear and convolutional layers.
        target_layers: the same of the network that is trained.
        alpha: $\alpha$, 0 or more.
        steps: calls after which guidance ends and the rest is plain training; None never ends it.
        noise_inputs: show the guide noise instead of the data (a control).
        collisions: as in `layer_map`.
        debiased: use the debiased CKA; the plain one is too large in small batches.

    Attributes:
        alignment: (guide layer, target layer) -> CKA of the last guided call.
        dead: how often a layer did not vary over a batch; its CKA counts as 0, without a gradient.

    Subramaniam et al., 2024 (arXiv:2410.20035), equations 1 and 2; the even spread of layers and the noise of the
    authors' code.

    Differs from the paper: guide layers that meet at one target layer all count (`collisions`). The authors' code also
    takes norms, pooling and recurrent layers by default; name them to have them.

    Raises:
        ValueError: for arguments out of range, layers that are not there; when called, for fewer than 8 examples or
            layers that did not run.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> guide, net = nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
        >>> rule = Guidance(guide)
        >>> x = torch.randn(64, 4)
        >>> _ = rule(net, x, torch.zeros(64, dtype=torch.long), nn.functional.cross_entropy)
        >>> [pair for pair in rule.alignment], guide[0].weight.grad
        ([('0', '0')], None)
    """

    def __init__(
        self,
        guide: nn.Module,
        *,
        guide_layers: Sequence[str] | None = None,
        target_layers: Sequence[str] | None = None,
        alpha: float = 1.0,
        steps: int | None = None,
        noise_inputs: bool = False,
        collisions: str = "all",
        debiased: bool = False,
    ) -> None:
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be finite and 0 or more: got {alpha}")
        if steps is not None and steps < 0:
            raise ValueError(f"steps must be 0 or more, or None: got {steps}")
        self.guide, self.alpha, self.steps, self.noise_inputs = guide, alpha, steps, noise_inputs
        self.guide_layers = _named(guide, guide_layers, "guide_layers")
        self.target_layers, self.collisions, self.debiased = target_layers, collisions, debiased
        layer_map(self.guide_layers, ["first"], collisions=collisions)
        self.step = 0
        self.dead = 0
        self.alignment: dict[tuple[str, str], float] = {}

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        """Fill the gradients; the loss of the task is returned."""
        guided = self.alpha > 0 and (self.steps is None or self.step < self.steps)
        self.step += 1
        if not guided:
            value = loss(model(inputs), targets)
            value.backward()
            return value.detach()
        if len(inputs) < LEAST:
            raise ValueError(f"inputs must be at least {LEAST} examples for an alignment: got {len(inputs)}")
        target_layers = _named(model, self.target_layers, "target_layers")
        pairs = layer_map(self.guide_layers, target_layers, collisions=self.collisions)
        shown = self._noise(inputs) if self.noise_inputs else inputs
        modes = [(m, m.training) for m in self.guide.modules()]
        self.guide.eval()
        try:
            with torch.no_grad(), outputs_of(self.guide, [guide for guide, _ in pairs]) as seen:
                self.guide(shown)
        finally:
            for module, mode in modes:
                module.training = mode
        with outputs_of(model, [target for _, target in pairs]) as own:
            value = loss(model(inputs), targets)
        for argument, names, reached in (("guide_layers", 0, seen), ("target_layers", 1, own)):
            missed = [pair[names] for pair in pairs if pair[names] not in reached]
            if missed:
                raise ValueError(f"{argument} must be modules that run when the network does: {missed[0]!r} did not")
        found = {pair: linear_cka(own[pair[1]], seen[pair[0]], debiased=self.debiased) for pair in pairs}
        (value + self.alpha * sum(1 - cka for cka in found.values())).backward()
        values = torch.stack([cka.detach() for cka in found.values()]).tolist()
        self.alignment = dict(zip(found, values, strict=True))
        self.dead += sum(cka == 0 for cka in values)
        return value.detach()

    def _noise(self, inputs: Tensor) -> Tensor:
        if not inputs.is_floating_point():
            return torch.randint_like(inputs, 0, int(inputs.max()) + 1)
        return (torch.randn_like(inputs) + 0.1 * torch.randn_like(inputs)).clamp(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """The step."""
        return {"step": self.step, "dead": self.dead}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.step, self.dead = int(state["step"]), int(state["dead"])


@contextmanager
def outputs_of(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The last output of each named module, as it runs inside; the hooks go with the block.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with outputs_of(net, ["1"]) as seen:
        ...     out = net(torch.ones(1, 2))
        >>> seen["1"] is out
        True
    """
    seen: dict[str, Tensor] = {}
    modules = dict(model.named_modules())

    def keeper(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, out: Tensor) -> None:
            seen[name] = out

        return keep

    handles = [modules[name].register_forward_hook(keeper(name)) for name in dict.fromkeys(names)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _named(model: nn.Module, names: Sequence[str] | None, argument: str) -> list[str]:
    modules = dict(model.named_modules())
    if names is None:
        names = [name for name, module in modules.items() if isinstance(module, SEEING)]
    for name in names:
        if name not in modules:
            raise ValueError(f"{argument} must be names of modules, such as {next(iter(modules))!r}: got {name!r}")
    if not names:
        raise ValueError(f"{argument} must be one or more: the model has no linear or convolutional layer")
    return list(names)
