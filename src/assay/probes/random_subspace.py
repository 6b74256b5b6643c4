"""A network of which only a few random directions are trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from assay.probes.layout import Layout
from assay.probes.random_projection import RandomProjection


class RandomSubspace(nn.Module):
    r"""A network confined to a random affine subspace through its present weights: $\theta = \theta_0 + P z$.

    All its trainable weights, of whatever layer, share the coordinates z, which start at 0 and are the only thing that
    is trained: hand `subspace.parameters()` to any optimizer. The network given is copied, and left alone; buffers
    (running statistics) belong to the copy and move as ever.

    Args:
        model: the network, at its initialisation.
        dim: d, coordinates, from 1 to the number of trainable weights.
        projection: "dense", "sparse" or "fastfood", as in `RandomProjection`.
        generator: where P comes from.

    Attributes:
        coordinates: z, (d).
        network: the copy at $\theta_0$, frozen.
        projection: P.

    Li et al., 2018 (arXiv:1804.08838), equation 2.

    Raises:
        ValueError: for a dim out of range, an unknown projection, a model without a trainable weight.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> subspace = RandomSubspace(line, 1, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(subspace(torch.eye(2)), line(torch.eye(2)))  # z = 0
        True
        >>> _ = nn.init.constant_(subspace.coordinates, 3.0)
        >>> moved = subspace.weights()["weight"] - line.weight
        >>> round(moved.norm().item(), 5), [name for name, p in subspace.named_parameters() if p.requires_grad]
        (3.0, ['coordinates'])
    """

    def __init__(
        self,
        model: nn.Module,
        dim: int,
        *,
        projection: str = "dense",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layout = Layout.of(model)
        like = self.layout.tensors(model)[0]
        self.projection = RandomProjection(
            self.layout.size, dim, kind=projection, generator=generator, dtype=like.dtype, device=like.device
        )
        self.coordinates = nn.Parameter(torch.zeros(dim, dtype=like.dtype, device=like.device))
        self.network = copy.deepcopy(model)
        for p in self.network.parameters():
            p.requires_grad_(False)
            p.grad = None

    def forward(self, *inputs: Any) -> Any:
        """The network's output at the present coordinates."""
        return functional_call(self.network, self.weights(), inputs)

    def weights(self) -> dict[str, Tensor]:
        """$\\theta_0 + P z$ by name: what `model.load_state_dict(..., strict=False)` takes."""
        parts = self.layout.split(self.projection(self.coordinates))
        start = dict(self.network.named_parameters())
        return {name: start[name] + part for name, part in parts.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RandomSubspace:
        self.projection.apply(fn)
        return super()._apply(fn, recurse)
