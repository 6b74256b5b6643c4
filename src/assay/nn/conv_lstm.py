"""A recurrent cell whose state is an image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "n c h w"]


class ConvLSTMCell(nn.Module):
    r"""An LSTM cell with convolutions for its matrices.

    $(i, f, o, g) = W * [x, h] + b$; $c' = \sigma(f) \odot c + \sigma(i) \odot \tanh(g)$, $h' = \sigma(o) \odot
    \tanh(c')$.

    Args:
        in_channels: of x, at least 1.
        hidden_channels: of h and c, at least 1.
        kernel_size: odd; the size of the image is kept.

    Shi et al., 2015 (arXiv:1506.04214), equation 3.

    Differs from the paper: no peephole connections, as in nearly all later use.

    Raises:
        ValueError: for channels below 1, an even kernel.

    Example:
        >>> cell = ConvLSTMCell(3, 8)
        >>> h, c = cell(torch.zeros(2, 3, 6, 6))
        >>> h, c = cell(torch.zeros(2, 3, 6, 6), (h, c))
        >>> h.shape
        torch.Size([2, 8, 6, 6])
    """

    def __init__(self, in_channels: int, hidden_channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        if in_channels < 1 or hidden_channels < 1:
            raise ValueError(f"channels must be at least 1: got {in_channels} and {hidden_channels}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd: got {kernel_size}")
        self.hidden_channels = hidden_channels
        self.gates = nn.Conv2d(
            in_channels + hidden_channels, 4 * hidden_channels, kernel_size, padding=kernel_size // 2
        )

    def forward(self, x: Images, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """(h', c'); without a state both start at 0."""
        if state is None:
            zero = x.new_zeros(len(x), self.hidden_channels, *x.shape[2:])
            state = (zero, zero)
        h, c = state
        i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
