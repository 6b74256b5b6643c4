"""How much of a network's nonlinearity is needed: channels drawn to be linear, and what depth is left.

Mehmeti-Goepel and Disselhoff, 2022 (arXiv:2211.17180).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, fx, nn


class LinearizableReLU(nn.Module):
    r"""$y = \max(x, 0) + \alpha_c \min(x, 0)$ for channel c (dimension 1): a ReLU at 0, the identity at 1.

    Args:
        channels: at least 1. `alpha` starts at 0 and is a parameter; `linear` says which `snap` has fixed at 1.

    The paper: section 3.

    Raises:
        ValueError: for no channels; when called, for inputs with another number of channels.

    Example:
        >>> act = LinearizableReLU(2)
        >>> act.alpha.data = torch.tensor([0.0, 1.0])
        >>> act(torch.tensor([[-3.0, -3.0], [2.0, 2.0]]))
        tensor([[ 0., -3.],
                [ 2.,  2.]], grad_fn=<AddBackward0>)
    """

    linear: Bool[Tensor, " channels"]

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1: got {channels}")
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.register_buffer("linear", torch.zeros(channels, dtype=torch.bool))

    def forward(self, x: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        """The channels are those of dimension 1."""
        if x.ndim < 2 or x.shape[1] != len(self.alpha):
            raise ValueError(f"inputs must have {len(self.alpha)} channels: got {tuple(x.shape)}")
        alpha = torch.where(self.linear, torch.ones_like(self.alpha), self.alpha)  # what is fixed has no gradient
        return x.clamp_min(0) + alpha.view(-1, *[1] * (x.ndim - 2)) * x.clamp_max(0)


def linearize_relus(model: nn.Module, example: Float[Tensor, "n ..."]) -> nn.Module:
    """Replace every `nn.ReLU` of a model by a `LinearizableReLU`, in place; the function stays the same.

    Args:
        model: returned, changed.
        example: a batch that is sent through once, in evaluation mode, to find the channels.

    Raises:
        ValueError: for a model without ReLU modules (a function is not seen), or one that sends other numbers of
            channels through the same.

    Example:
        >>> linearize_relus(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2))[1].alpha.shape
        torch.Size([3])
    """
    relus = {name: m for name, m in model.named_modules() if isinstance(m, nn.ReLU)}
    seen: dict[nn.Module, set[int]] = {}
    modes = [(module, module.training) for module in model.modules()]
    handles = [
        m.register_forward_pre_hook(lambda m, given: seen.setdefault(m, set()).add(given[0].shape[1]))
        for m in relus.values()
    ]
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    if not seen:
        raise ValueError("model must use nn.ReLU modules: got none")
    for name, m in relus.items():
        channels = seen.get(m, set())
        if len(channels) > 1:
            raise ValueError(f"model must send one number of channels through {name}: got {sorted(channels)}")
    made = {m: LinearizableReLU(channels.pop()).to(example.device) for m, channels in seen.items()}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in made:
                made[child].training = child.training
                setattr(parent, name, made[child])
    return model


def linearity_penalty(model: nn.Module, power: float = 0.5) -> Float[Tensor, ""]:
    r"""$\sum_c |1 - \alpha_c|^{p}$ over the channels that are not yet linear.

    With p below 1 its slope grows as $\alpha$ nears 1, so that a channel is drawn all the way.

    Args:
        model: with `LinearizableReLU` modules.
        power: p, above 0.

    The paper: section 3.

    Raises:
        ValueError: for a power that is not above 0, or a model without such modules.

    Example:
        >>> act = LinearizableReLU(3)
        >>> act.alpha.data = torch.tensor([0.0, 0.75, 1.75])
        >>> round(linearity_penalty(act).item(), 4)  # 1 + 1/2 + sqrt(3)/2
        2.366
    """
    if not 0 < power < math.inf:
        raise ValueError(f"power must be above 0 and finite: got {power}")
    return torch.stack(
        [((1 - act.alpha[~act.linear]).abs() + 1e-12).pow(power).sum() for act in _activations(model)]
    ).sum()


@torch.no_grad()
def snap(model: nn.Module, threshold: float = 0.01) -> int:
    """Keep slopes in [0, 1] and fix those within `threshold` of 1 there for good; to be called after each step.

    Args:
        model: with `LinearizableReLU` modules.
        threshold: 0 or more, below 1.

    Returns:
        How many channels are linear now.

    Raises:
        ValueError: for a threshold out of range, or a model without such modules.

    Example:
        >>> act = LinearizableReLU(3)
        >>> act.alpha.data = torch.tensor([-0.2, 0.5, 0.995])
        >>> snap(act), act.alpha.tolist()
        (1, [0.0, 0.5, 1.0])
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0, 1): got {threshold}")
    for act in _activations(model):
        act.alpha.clamp_(0, 1)
        act.linear |= 1 - act.alpha <= threshold
        act.alpha[act.linear] = 1.0
    return sum(int(act.linear.sum()) for act in _activations(model))


def nonlinear_fraction(model: nn.Module) -> float:
    """The share of channels that are not linear, in [0, 1].

    Example:
        >>> act = LinearizableReLU(4)
        >>> act.linear[:1] = True
        >>> nonlinear_fraction(act)
        0.75
    """
    acts = list(_activations(model))
    return 1 - sum(int(act.linear.sum()) for act in acts) / sum(len(act.linear) for act in acts)


def average_path_length(model: nn.Module, example: Float[Tensor, "n ..."], *, normalized: bool = True) -> float:
    r"""How many nonlinear units a random path from the input to the output meets.

    Along a stack it is the sum of the shares of nonlinear channels. Where branches meet in a sum, each is as likely as
    the others (`normalized`), or as likely as it has paths from unit to unit; a concatenation weighs by channels.

    Args:
        model: one that `torch.fx` can trace; `LinearizableReLU` and `nn.ReLU` count, max-pooling does not.
        example: a batch, from which shapes are taken.
        normalized: see above.

    The paper: section 3, "average path length", and figure 1.

    Raises:
        ValueError: for a model that cannot be traced, or one with other activations, or with functions in place of
            modules for them.

    Example:
        >>> stack = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), LinearizableReLU(4))
        >>> stack[3].linear[:3] = True
        >>> average_path_length(stack, torch.zeros(1, 2))
        1.25
    """
    traced, modules = _traced(model, example)
    length: dict[fx.Node, float] = {}
    paths: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        sources = [n for n in node.all_input_nodes if n in length]
        if node.op == "output":
            return sum(length[n] for n in sources) / len(sources)
        if node.op == "placeholder" or not sources:
            if node.op != "get_attr":
                length[node], paths[node] = 0.0, 1
            continue
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        counts = [paths[n] for n in sources]
        weights = [1] * len(sources) if normalized else counts
        if getattr(node.target, "__name__", node.target) in ("cat", "concat"):
            weights = [n.meta["tensor_meta"].shape[1] for n in sources]
        total = sum(weights)
        length[node] = sum(length[n] * (w / total) for n, w in zip(sources, weights, strict=True))
        paths[node] = sum(counts)
        if isinstance(module, nn.ReLU):
            length[node] += 1.0
        elif isinstance(module, LinearizableReLU):
            length[node] += 1 - float(module.linear.double().mean())
        elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            paths[node] *= module.weight[0].numel()
    raise AssertionError("a traced graph has an output")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, qualified: str) -> bool:
        return isinstance(m, LinearizableReLU) or super().is_leaf_module(m, qualified)


def _traced(model: nn.Module, example: Tensor) -> tuple[fx.GraphModule, dict[str, nn.Module]]:
    from torch.fx.passes.shape_prop import ShapeProp

    other = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Softplus, nn.Hardtanh)
    modules: dict[str, nn.Module] = dict(model.named_modules())
    modes: list[tuple[Any, bool]] = [(module, module.training) for module in model.modules()]
    for name, m in modules.items():
        if isinstance(m, other):
            raise ValueError(f"model must have no activations but ReLU: got {type(m).__name__} {name}")
    try:
        model.eval()
        try:
            traced = fx.GraphModule(model, _Tracer().trace(model))
        except (fx.proxy.TraceError, TypeError) as error:
            raise ValueError(f"model must be one that torch.fx can trace: {error}") from error
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    finally:
        for module, mode in modes:
            module.training = mode
    for node in traced.graph.nodes:
        name = getattr(node.target, "__name__", str(node.target))
        if node.op in ("call_function", "call_method") and name in ("relu", "relu_", "tanh", "sigmoid", "gelu", "silu"):
            raise ValueError(f"model must have its activations as nn.ReLU modules: got {name} at {node.name}")
    return traced, modules


def _activations(model: nn.Module) -> Iterator[LinearizableReLU]:
    found = [m for m in model.modules() if isinstance(m, LinearizableReLU)]
    if not found:
        raise ValueError("model must have LinearizableReLU modules: got none (linearize_relus puts them in)")
    return iter(found)
