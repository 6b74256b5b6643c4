"""Many small perceptrons at once, each as if it were alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .shapes import check_widths


class BatchedLinear(nn.Module):
    r"""$y_b = W_b x_b + c_b$ for networks $b = 1 \dots B$: one batched product.

    Args:
        count: B, at least 1.
        fan_in: inputs of each.
        fan_out: outputs of each.
        generator: where the weights come from, uniform on $\pm 1/\sqrt{\text{fan in}}$ as those of `nn.Linear`.

    Raises:
        ValueError: for anything below 1.

    Example:
        >>> layer = BatchedLinear(3, 4, 2)
        >>> layer(torch.zeros(3, 5, 4)).shape, layer.weight.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 2, 4]))
    """

    def __init__(self, count: int, fan_in: int, fan_out: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_widths((count, fan_in, fan_out))
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(count, fan_out, fan_in).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(count, 1, fan_out).uniform_(-bound, bound, generator=generator))

    def forward(self, inputs: Float[Tensor, "b n i"]) -> Float[Tensor, "b n o"]:
        """One set of n examples for each network."""
        return torch.baddbmm(self.bias, inputs, self.weight.transpose(1, 2))


class BatchedMLP(nn.Sequential):
    """B perceptrons of the same widths, trained at once as one module; no network sees another.

    Each has its own weights, and under any optimizer that treats weights one by one (SGD, Adam) the sum of their losses
    trains each exactly as if it were alone: what took B runs takes B batched products. Its layers are `BatchedLinear`
    and activations in turn, so hooks and names work as for any `nn.Sequential`; activations are (B, n, width).

    Args:
        count: B, at least 1.
        widths: inputs, hidden widths, outputs; at least two.
        activation: called for each hidden layer; a module without weights that acts on each number.
        generator: where the weights come from.

    Raises:
        ValueError: for fewer than two widths, or anything below 1; when called, for inputs that are neither (n, i), the
            same for all networks, nor (B, n, i).

    Example:
        >>> networks = BatchedMLP(24, (12, 10, 7, 5, 4, 3, 2))
        >>> x = torch.randn(64, 12)
        >>> logits = networks(x)
        >>> logits.shape
        torch.Size([24, 64, 2])
        >>> torch.allclose(logits[5], networks.single(5)(x), atol=1e-6)
        True
    """

    def __init__(
        self,
        count: int,
        widths: Sequence[int],
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        generator: torch.Generator | None = None,
    ) -> None:
        check_widths((count, *widths))
        if len(widths) < 2:
            raise ValueError(f"widths must be inputs, hidden widths and outputs: got {tuple(widths)}")
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [BatchedLinear(count, fan_in, fan_out, generator=generator), activation()]
        super().__init__(*layers[:-1])
        self.count, self.widths = count, tuple(widths)

    def forward(self, inputs: Float[Tensor, "*b n i"]) -> Float[Tensor, "b n o"]:
        """Examples (n, i) are given to every network, (B, n, i) each network's own."""
        if inputs.ndim == 2:
            inputs = inputs.expand(self.count, -1, -1)
        if inputs.ndim != 3 or len(inputs) != self.count or inputs.shape[2] != self.widths[0]:
            raise ValueError(
                f"inputs must be (n, {self.widths[0]}) or ({self.count}, n, {self.widths[0]}): "
                f"got {tuple(inputs.shape)}"
            )
        return super().forward(inputs)

    def __getitem__(self, index: slice | int) -> nn.Module:
        """A layer, or several of them as a plain `nn.Sequential`, which takes (B, n, i) only."""
        layers = list(self)[index]
        return nn.Sequential(*layers) if isinstance(index, slice) else layers

    def single(self, number: int) -> nn.Sequential:
        """One of the networks by itself, with a copy of its weights; `number` in [0, B).

        Raises:
            ValueError: for a number out of range.
        """
        if not 0 <= number < self.count:
            raise ValueError(f"number must lie in 0..{self.count - 1}: got {number}")
        layers: list[nn.Module] = []
        for module in self:
            if isinstance(module, BatchedLinear):
                alone = nn.Linear(module.weight.shape[2], module.weight.shape[1]).to(module.weight)
                with torch.no_grad():
                    alone.weight.copy_(module.weight[number])
                    alone.bias.copy_(module.bias[number, 0])
                layers.append(alone)
            else:
                layers.append(module)
        return nn.Sequential(*layers)
