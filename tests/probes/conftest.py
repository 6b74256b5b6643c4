"""Trajectories with known answers, made by formula."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture
def wavy() -> np.ndarray:
    """60 weights, 25 snapshots, (T, N) float64: three noisy families, no two weights alike, nothing special."""
    i, t = np.arange(60)[:, None], np.arange(25)[None]
    family = np.cos(1.3 * i) * np.sin((0.2 + 0.17 * (i % 3)) * t + 0.4 * (i % 3))
    return (family + 0.3 * np.sin(2.1 * i) + 0.15 * np.sin(0.7 * i * t + i * i)).T.copy()


@pytest.fixture
def planted() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """M random-walk profiles, and N weights that are lines in one of them each: (weights, labels, a, b)."""

    def plant(size: int = 400, epochs: int = 30, modes: int = 4, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        profiles = torch.randn(epochs, modes, generator=generator, dtype=torch.float64).cumsum(0)
        labels = torch.randint(modes, (size,), generator=generator)
        a = torch.randn(size, generator=generator, dtype=torch.float64)
        b = torch.randn(size, generator=generator, dtype=torch.float64)
        return profiles[:, labels] * a + b, labels, a, b

    return plant


class Scripted(nn.Module):
    """A model whose weights are set by hand: two layers of unequal sizes."""

    def __init__(self, size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(size // 3, dtype=dtype))
        self.second = nn.Parameter(torch.zeros(size - size // 3, dtype=dtype))

    @torch.no_grad()
    def put(self, row: torch.Tensor) -> "Scripted":
        self.first.copy_(row[: len(self.first)])
        self.second.copy_(row[len(self.first) :])
        return self

    def vector(self) -> torch.Tensor:
        return torch.cat([self.first, self.second]).detach().clone()


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted
