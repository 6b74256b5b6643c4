"""What a network does when its weights move a little: the derivative of its outputs by its weights.

- `jacobian`: $J = \\partial f(x) / \\partial\\theta$, a row an output: the tangent features of the inputs.
- `kernel`: $K(x, x') = J(x) J(x')^\\top$, the empirical neural tangent kernel.
- `linear_kernel`: the same for networks of linear layers with one output, many times as fast, from one backward pass.
- `along`: $J v$ for one direction of all weights, without $J$.

All are taken at the present weights, in evaluation mode (dropout off, batch norm with its running statistics).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap

from assay.curvature.hessian import evaluating


def jacobian(
    model: nn.Module, inputs: Tensor, *, params: Sequence[str] | None = None, chunk: int | None = None
) -> Float[Tensor, "rows size"]:
    r"""$J_{(i, c), p} = \partial f_c(x_i) / \partial\theta_p$.

    Args:
        model: f; every output of an example makes a row. Used in evaluation mode and left as it was.
        inputs: (m, ...).
        params: names of weights, in `model.named_parameters()`; None for all that want a gradient.
        chunk: examples at a time; None takes all at once. The result itself takes `m * outputs * size` numbers.

    Returns:
        Rows example by example, the outputs of one beside each other; columns in the order of the model's weights.

    Jacot et al., 2018 (arXiv:1806.07572), the features of the tangent kernel.

    Raises:
        ValueError: for no examples, a chunk below 1, a name that is not in the model, no weights.

    Example:
        >>> line = nn.Linear(2, 2, bias=False)
        >>> jacobian(line, torch.tensor([[3.0, 5.0]]))
        tensor([[3., 5., 0., 0.],
                [0., 0., 3., 5.]])
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1: got {chunk}")
    wanted = weights(model, params)
    with evaluating(model):
        each = vmap(jacrev(_one(model)), (None, 0), chunk_size=chunk)(wanted, _examples(inputs))
    outputs = next(iter(each.values())).numel() // (len(inputs) * next(iter(wanted.values())).numel())
    return torch.cat([each[name].reshape(len(inputs) * outputs, -1) for name in wanted], dim=1)


def kernel(
    model: nn.Module,
    inputs: Tensor,
    others: Tensor | None = None,
    *,
    params: Sequence[str] | None = None,
    chunk: int = 128,
) -> Float[Tensor, "rows columns"]:
    r"""The empirical tangent kernel, $K = J(x)\, J(x')^\top$, from blocks of at most `chunk` by `chunk` examples.

    Args:
        model: as for `jacobian`.
        inputs: x, (m, ...).
        others: x', (n, ...); None for the inputs themselves (then only half of the blocks are made).
        params: as for `jacobian`.
        chunk: examples whose Jacobians are there at one time, of each kind; at least 1.

    Returns:
        (m * outputs, n * outputs), in the order of the rows of `jacobian`.

    Jacot et al., 2018 (arXiv:1806.07572), at finite width.

    Raises:
        ValueError: as `jacobian`.

    Example:
        >>> line = nn.Linear(2, 1)  # x x'^T + 1 for the bias
        >>> kernel(line, torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[10.0, 1.0]]))
        tensor([[13.],
                [31.]])
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1: got {chunk}")
    left = _examples(inputs).split(chunk)
    right = left if others is None else _examples(others).split(chunk)
    rows: list[list[Tensor]] = []
    for i, part in enumerate(left):
        own = jacobian(model, part, params=params)
        row = []
        for j, other in enumerate(right):
            if others is None and j < i:
                row.append(rows[j][i].T)
            else:
                row.append(own @ (own if others is None and i == j else jacobian(model, other, params=params)).T)
        rows.append(row)
    return torch.cat([torch.cat(row, dim=1) for row in rows])


def linear_kernel(model: nn.Module, inputs: Tensor, others: Tensor | None = None) -> Float[Tensor, "m n"]:
    r"""The empirical tangent kernel of a network whose weights all sit in linear layers, and which has one output.

    $K(x, x') = \sum_l (a_l(x) \cdot a_l(x') + 1)\, (\delta_l(x) \cdot \delta_l(x'))$ over the linear layers, with
    their inputs $a_l$ and the derivatives $\delta_l$ of the output by theirs; without the 1 where there is no bias.

    Args:
        model: takes (m, d), gives (m,) or (m, 1); every linear layer is used once. In evaluation mode.
        inputs: x, (m, d).
        others: x', (n, d); None for the inputs themselves.

    Raises:
        ValueError: for no examples, several outputs, weights outside of linear layers.

    Example:
        >>> line = nn.Linear(2, 1)
        >>> linear_kernel(line, torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[10.0, 1.0]]))
        tensor([[13.],
                [31.]])
    """
    left = _factors(model, inputs)
    right = left if others is None else _factors(model, others)
    return torch.stack([(a @ b.T + bias) * (d @ e.T) for (a, d, bias), (b, e, _) in zip(left, right, strict=True)]).sum(
        0
    )


def along(
    model: nn.Module, inputs: Tensor, direction: dict[str, Tensor], *, at: dict[str, Tensor] | None = None
) -> tuple[Float[Tensor, "m ..."], Float[Tensor, "m ..."]]:
    r"""$f(x)$ and $J(x)\, v$: the outputs, and how fast they change when all weights move along v.

    Args:
        model: f, used in evaluation mode.
        inputs: x, (m, ...).
        direction: v, name -> tensor; weights that it does not name stay where they are.
        at: name -> weights to stand at; None for the model's own.

    Returns:
        Two tensors shaped as the model's outputs.

    Raises:
        ValueError: for no examples, a name or a shape that is not the model's.

    Example:
        >>> line = nn.Linear(2, 1)
        >>> _, change = along(line, torch.tensor([[1.0, 2.0]]), {"bias": torch.tensor([5.0])})
        >>> change
        tensor([[5.]])
    """
    known = weights(model, list(direction))
    base = {name: known[name] if at is None else at[name].detach() for name in direction}
    for name, v in direction.items():
        if v.shape != known[name].shape:
            raise ValueError(f"direction[{name!r}] must be {tuple(known[name].shape)}: got {tuple(v.shape)}")
    rest = {} if at is None else {name: p.detach() for name, p in at.items() if name not in direction}

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(model, parameters | rest, (_examples(inputs),))

    with evaluating(model), torch.no_grad():
        found, change = jvp(outputs, (base,), (dict(direction),))
    return found, change


def weights(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The weights called `names`, detached, in the model's order; None for all that want a gradient.

    Raises:
        ValueError: for a name that is not in the model, or no weights at all.

    Example:
        >>> [(name, tuple(p.shape)) for name, p in weights(nn.Linear(2, 3)).items()]
        [('weight', (3, 2)), ('bias', (3,))]
    """
    there = dict(model.named_parameters())
    for name in names or ():
        if name not in there:
            raise ValueError(f"params must be weights of the model: got {name!r}")
    wanted = {n: p.detach() for n, p in there.items() if (p.requires_grad if names is None else n in names)}
    if not wanted:
        raise ValueError("model must have weights that want a gradient, or params must name some: got none")
    return wanted


def _examples(inputs: Tensor) -> Tensor:
    if len(inputs) == 0:
        raise ValueError("inputs must have at least one example: got none")
    return inputs


def _one(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    return lambda parameters, x: functional_call(model, parameters, (x[None],))[0]


def _factors(model: nn.Module, inputs: Tensor) -> list[tuple[Tensor, Tensor, float]]:
    """Of each linear layer: its inputs, the derivative of the network's output by its outputs, 1 if it has a bias."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    inside = sum(p.numel() for layer in layers for p in layer.parameters())
    if inside != sum(p.numel() for p in model.parameters()) or not layers:
        raise ValueError("model must have all its weights in linear layers: got others, or none")
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        out = out if out.requires_grad else out.requires_grad_()
        seen[layer] = given[0].detach(), out
        return out

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with evaluating(model), torch.enable_grad():
            outputs = model(_examples(inputs))
            if outputs.numel() != len(inputs):
                raise ValueError(f"model must have one output: got {tuple(outputs.shape)}")
            slopes = torch.autograd.grad(outputs.sum(), [seen[layer][1] for layer in layers])
    finally:
        for handle in handles:
            handle.remove()
    return [(seen[layer][0], slope, float(layer.bias is not None)) for layer, slope in zip(layers, slopes, strict=True)]
