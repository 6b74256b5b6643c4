"""Git Re-Basin: permuting one network's hidden units until the line to another is flat."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from assay.curvature.hessian import evaluating
from assay.data import Labelled, batches
from assay.probes.permutation import Permutations, PermutationSpec, tensors_of

LEAST_GAIN = 1e-12


def weight_matching(
    a: nn.Module,
    b: nn.Module,
    spec: PermutationSpec,
    *,
    max_iter: int = 100,
    init: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Permutations:
    r"""The permutations of b's units that bring its weights nearest to a's.

    $\max_\pi \langle\theta_A, \pi(\theta_B)\rangle$

    Coordinate descent: one permutation after the other, in random order, is the solution of a linear assignment problem
    while the others are held, until a sweep gains nothing. No data are needed. The result is a local optimum.

    Args:
        a: the network that stays.
        b: the one that is permuted: `spec.apply(permutations, b)` does it.
        spec: which axes go together, in both.
        max_iter: sweeps at most, at least 1.
        init: permutations to start from; the identity when None.
        generator: of the order within a sweep.

    Ainsworth et al., 2022 (arXiv:2209.04836), section 3.2, algorithm 1.

    Differs from the paper: a permutation that acts on both axes of one tensor (the paper has none) is taken only where
    the inner product itself grows. Running statistics of batch normalization have no say.

    Raises:
        ValueError: for networks that the spec does not fit, or that differ in size; for no sweeps.

    Example:
        >>> a = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> a[0].weight.data = torch.tensor([[1.0], [5.0], [-3.0]])
        >>> spec = PermutationSpec.of(a, torch.ones(2, 1))
        >>> b = spec.apply({"0": torch.tensor([2, 0, 1])}, a)
        >>> weight_matching(a, b, spec)
        {'0': tensor([1, 2, 0])}
    """
    sizes = _sizes(spec, a, b)
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1: got {max_iter}")
    weights_a, weights_b = _weights(a), _weights(b)
    permutations = spec.identity(a) if init is None else {name: p.clone() for name, p in init.items()}
    places = {name: [place for place in where if place[0] in weights_a] for name, where in spec.places().items()}
    twice = {name for name, where in places.items() if len({tensor for tensor, _, _ in where}) < len(where)}
    names = [name for name, where in places.items() if where]
    rows = {name: torch.arange(size) for name, size in sizes.items()}

    for _ in range(max_iter):
        progress = False
        for index in torch.randperm(len(names), generator=generator).tolist():
            name = names[index]
            gram = torch.zeros(sizes[name], sizes[name], dtype=torch.float64)
            for tensor, axis, _ in places[name]:
                left = weights_a[tensor].movedim(axis, 0).reshape(sizes[name], -1)
                moved = spec.permuted(tensor, weights_b[tensor], permutations, but=axis)
                gram += left @ moved.movedim(axis, 0).reshape(sizes[name], -1).T
            best = _assigned(gram)
            old, new = gram[rows[name], permutations[name]].sum(), gram[rows[name], best].sum()
            if name in twice:
                changed = permutations | {name: best}
                old = _inner_product(spec, weights_a, weights_b, permutations)
                new = _inner_product(spec, weights_a, weights_b, changed)
            if new > old + LEAST_GAIN:
                permutations[name], progress = best, True
        if not progress:
            break
    return permutations


def activation_matching(
    a: nn.Module,
    b: nn.Module,
    spec: PermutationSpec,
    inputs: Tensor,
    *,
    correlation: bool = False,
    batch_size: int = 500,
) -> Permutations:
    r"""The permutations of b's units under which its activations are most like a's.

    $\max_P \langle P, Z_A^\top Z_B\rangle$

    Each permutation is one linear assignment problem. The activations are what the linear and convolutional layers are
    given, after the nonlinearity; channels are compared over all places.

    Args:
        a: the network that stays.
        b: the one that is permuted.
        spec: which axes go together.
        inputs: examples, the first dimension counts them.
        correlation: Pearson's correlation instead of the inner product, so that strong units do not count for more (the
            authors' code does that).
        batch_size: examples at a time.

    The paper: section 3.1.

    Raises:
        ValueError: for no inputs, networks that the spec does not fit, a permutation of units that no such layer reads.

    Example:
        >>> a = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> a[0].weight.data, a[0].bias.data = torch.tensor([[1.0], [5.0], [-3.0]]), torch.zeros(3)
        >>> spec = PermutationSpec.of(a, torch.ones(2, 1))
        >>> b = spec.apply({"0": torch.tensor([2, 0, 1])}, a)
        >>> activation_matching(a, b, spec, torch.tensor([[1.0], [-1.0], [2.0]]))
        {'0': tensor([1, 2, 0])}
    """
    sizes = _sizes(spec, a, b)
    if len(inputs) == 0:
        raise ValueError("inputs must have at least one example: got none")
    readers = {name: _readers(a, where) for name, where in spec.places().items()}
    for name, modules in readers.items():
        if not modules:
            raise ValueError(f"permutation {name!r} must be of units that a linear or convolutional layer reads")
    kinds = ("cross", "sum_a", "sum_b", "square_a", "square_b")
    totals = {name: dict.fromkeys(kinds, torch.zeros((), dtype=torch.float64)) for name in sizes}
    counts = dict.fromkeys(sizes, 0)
    for part in inputs.split(batch_size):
        given = [_given(model, readers, part) for model in (a, b)]
        for name, size in sizes.items():
            for x, y in zip(given[0][name], given[1][name], strict=True):
                za, zb = (_rows(z, size).double() for z in (x, y))
                new = (za.T @ zb, za.sum(0), zb.sum(0), (za**2).sum(0), (zb**2).sum(0))
                totals[name] = {kind: totals[name][kind] + each for kind, each in zip(kinds, new, strict=True)}
                counts[name] += len(za)
    found = {}
    for name, t in totals.items():
        gram = t["cross"]
        if correlation:
            n = counts[name]
            gram = gram - t["sum_a"][:, None] * t["sum_b"] / n
            spread = [(t[f"square_{m}"] - t[f"sum_{m}"] ** 2 / n).clamp_min(0).sqrt() for m in "ab"]
            gram = gram / (spread[0][:, None] * spread[1]).clamp_min(1e-12)  # units that never change go anywhere
        found[name] = _assigned(gram)
    return found


def straight_through_matching(
    a: nn.Module,
    b: nn.Module,
    spec: PermutationSpec,
    data: Labelled,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    lr: float = 1e-2,
    momentum: float = 0.9,
    epochs: int = 1,
    batch_size: int = 1000,
    init: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Permutations:
    r"""The permutations that make the midpoint's loss least: $\min_\pi L\big((\theta_A + \pi(\theta_B))/2\big)$.

    A free copy $\tilde\theta$ of a's weights is kept. Each step matches b to it by weights, evaluates the loss at the
    midpoint of a and the permuted b, and gives the copy the gradient as if it had been the permuted b itself. The
    permutation with the least loss on its batch is returned.

    Args:
        a: the network that stays; used in evaluation mode.
        b: the one that is permuted.
        spec: which axes go together.
        data: training examples.
        loss: loss(outputs, targets) -> the mean over the batch.
        lr: of the copy's gradient descent, above 0.
        momentum: of it, in [0, 1).
        epochs: passes over the data, at least 1.
        batch_size: examples a step.
        init: permutations to start from.
        generator: of batches and of weight matching.

    The paper: section 3.3, equations 4 and 5; learning rate, momentum and batch size of the authors' code.

    Raises:
        ValueError: for networks that the spec does not fit, settings out of range, a loss that is not finite.

    Example:
        >>> a = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> a[0].weight.data = torch.tensor([[1.0], [5.0], [-3.0]])
        >>> spec = PermutationSpec.of(a, torch.ones(2, 1))
        >>> b = spec.apply({"0": torch.tensor([2, 0, 1])}, a)
        >>> points = Labelled(torch.ones(4, 1), a(torch.ones(4, 1)).detach())
        >>> straight_through_matching(a, b, spec, points, nn.functional.mse_loss)
        {'0': tensor([1, 2, 0])}
    """
    _sizes(spec, a, b)
    if not lr > 0 or not 0 <= momentum < 1 or epochs < 1:
        raise ValueError(f"lr must be above 0, momentum in [0, 1), epochs at least 1: got {lr}, {momentum}, {epochs}")
    free = copy.deepcopy(a).requires_grad_(True)
    fixed_a, fixed_b = _weights(a), _weights(b)
    optimizer = torch.optim.SGD(free.parameters(), lr=lr, momentum=momentum)
    permutations, best, least = init, None, float("inf")
    for _ in range(epochs):
        for inputs, targets in batches(data, batch_size, generator=generator):
            permutations = weight_matching(free, b, spec, init=permutations, generator=generator)
            middle = {}
            for name, p in free.named_parameters():
                projected = spec.permuted(name, fixed_b[name], permutations)
                middle[name] = (fixed_a[name] + projected + (p - p.detach())) / 2
            optimizer.zero_grad()
            with torch.enable_grad(), evaluating(a):
                value = loss(functional_call(a, middle, (inputs,)), targets)
            if not value.isfinite():
                raise ValueError(f"loss must be finite: got {value.item()}")
            if value.item() < least:
                best, least = permutations, value.item()
            value.backward()
            optimizer.step()
    if best is None:
        raise ValueError("data must hold at least one example: got none")
    return best


def merge_many(
    models: Sequence[nn.Module],
    spec: PermutationSpec,
    *,
    max_iter: int = 100,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The mean of several networks, each with its units permuted to match the mean of the others.

    In random order each is matched to the mean of the others, until nothing changes.

    Args:
        models: two or more, alike in shape; they are left as they are.
        spec: which axes go together.
        max_iter: rounds at most, at least 1.
        generator: of the order.

    Returns:
        a new network; statistics of batch normalization are averaged too, and best estimated anew
        (`assay.probes.refresh_batch_norm`).

    The paper: appendix A.10, algorithm 2.

    Raises:
        ValueError: for fewer than two models, or models that the spec does not fit.

    Example:
        >>> a = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> spec = PermutationSpec.of(a, torch.ones(2, 1))
        >>> others = [spec.apply({"0": torch.tensor(p)}, a) for p in ([2, 0, 1], [1, 0, 2])]
        >>> x = torch.linspace(-2, 2, 5)[:, None]
        >>> torch.allclose(merge_many([a, *others], spec)(x), a(x), atol=1e-6)
        True
    """
    if len(models) < 2:
        raise ValueError(f"models must be two or more: got {len(models)}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1: got {max_iter}")
    for model in models[1:]:
        _sizes(spec, models[0], model)
    own = [copy.deepcopy(model) for model in models]
    for _ in range(max_iter):
        changed = False
        for index in torch.randperm(len(own), generator=generator).tolist():
            others = _mean([model for i, model in enumerate(own) if i != index])
            permutations = weight_matching(others, own[index], spec, generator=generator)
            if any(not torch.equal(p, torch.arange(len(p))) for p in permutations.values()):
                own[index], changed = spec.apply(permutations, own[index]), True
        if not changed:
            break
    return _mean(own)


def _mean(models: Sequence[nn.Module]) -> nn.Module:
    mean = copy.deepcopy(models[0])
    with torch.no_grad():
        for name, tensor in tensors_of(mean).items():
            tensor.copy_(torch.stack([tensors_of(model)[name] for model in models]).mean(0))
    return mean


def _assigned(gram: Tensor) -> Tensor:
    return torch.from_numpy(linear_sum_assignment(gram.numpy(), maximize=True)[1])


def _sizes(spec: PermutationSpec, a: nn.Module, b: nn.Module) -> dict[str, int]:
    sizes = spec.sizes(a)
    shapes = [{name: tuple(t.shape) for name, t in tensors_of(model).items()} for model in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError("both networks must have the same tensors of the same shapes: they do not")
    return sizes


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu() for name, p in model.named_parameters()}


def _inner_product(
    spec: PermutationSpec, a: dict[str, Tensor], b: dict[str, Tensor], permutations: Permutations
) -> Tensor:
    return torch.stack([(a[name] * spec.permuted(name, b[name], permutations)).sum().double() for name in a]).sum()


def _readers(model: nn.Module, where: list[tuple[str, int, int]]) -> list[str]:
    """Names of the layers whose inputs are the permuted units."""
    names = [tensor.rpartition(".")[0] for tensor, axis, _ in where if tensor.endswith("weight") and axis == 1]
    return [name for name in names if isinstance(model.get_submodule(name), nn.Linear | _ConvNd)]


def _given(model: nn.Module, readers: Mapping[str, list[str]], inputs: Tensor) -> dict[str, list[Tensor]]:
    """What the layers of each permutation are given, channels last."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, given: Any) -> None:
            x = given[0].detach()
            seen[name] = x.movedim(1, -1) if isinstance(module, _ConvNd) else x

        return hook

    wanted = {name for names in readers.values() for name in names}
    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in wanted]
    try:
        with evaluating(model), torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {permutation: [seen[name] for name in names] for permutation, names in readers.items()}


def _rows(x: Tensor, size: int) -> Tensor:
    """(examples and places, units); of a flattened image each unit has a block of places."""
    return x.unflatten(-1, (size, -1)).movedim(-2, -1).flatten(0, -2)
