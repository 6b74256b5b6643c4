"""PreludeNet: layers that predict what comes next, and a decoder that reads depth from them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from assay.nn import ConvLSTMCell

TASKS = ("infer", "predict")
LEARNING = ("hybrid", "supervised", "joint")
State = tuple[Tensor, Tensor]


class PredictiveCodingLayer(nn.Module):
    r"""A representation R, the prediction $\hat A$ it makes of the layer's input A, and what was wrong with it.

    R follows the last error and the representation above, $R^t = \mathrm{ConvLSTM}([E^{t-1}, \mathrm{up}(R^t_{above})],
    R^{t-1})$; $\hat A = \mathrm{relu}(W * R)$, cut at 1 if `unit`; $E = [\mathrm{relu}(A - \hat A), \mathrm{relu}(\hat
    A - A)]$.

    Args:
        in_channels: of A.
        hidden_channels: of R.
        above: channels of the representation above; 0 for the top layer.
        unit: A lies in [0, 1], as images do.

    Lotter et al., 2016 (arXiv:1605.08104), equations 1 to 4.

    Raises:
        ValueError: for channels that make no layer.

    Example:
        >>> layer = PredictiveCodingLayer(3, 8, unit=True)
        >>> r, state = layer.represent(torch.zeros(1, 6, 4, 4))
        >>> error, prediction = layer.compare(torch.ones(1, 3, 4, 4), r)
        >>> torch.allclose(error[:, :3] - error[:, 3:], 1 - prediction)
        True
    """

    def __init__(self, in_channels: int, hidden_channels: int, *, above: int = 0, unit: bool = False) -> None:
        super().__init__()
        if min(in_channels, hidden_channels) < 1 or above < 0:
            raise ValueError(f"channels must be at least 1: got {in_channels}, {hidden_channels} and {above} above")
        self.in_channels, self.above, self.unit = in_channels, above, unit
        self.cell = ConvLSTMCell(2 * in_channels + above, hidden_channels)
        self.predict = nn.Conv2d(hidden_channels, in_channels, 3, padding=1)

    def represent(
        self, error: Float[Tensor, "n c h w"], above: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """R of this moment, from the last error and what is above, before the input is seen."""
        if (above is not None) != bool(self.above):
            raise ValueError("above must be given to every layer but the top one")
        parts = [error] if above is None else [error, F.interpolate(above, size=error.shape[2:], mode="nearest")]
        state = self.cell(torch.cat(parts, 1), state)
        return state[0], state

    def compare(self, target: Float[Tensor, "n c h w"], r: Tensor) -> tuple[Tensor, Tensor]:
        """(E, prediction) for what came."""
        prediction = torch.relu(self.predict(r))
        if self.unit:
            prediction = prediction.clamp_max(1)
        return torch.cat([torch.relu(target - prediction), torch.relu(prediction - target)], 1), prediction


class Perception(NamedTuple):
    """`depth` (n, t, 1, h, w), `next_frame` (n, t, 3, h, w), what was predicted of each frame before it came, and
    `errors`, the mean error of each layer at each moment, (layers, t)."""

    depth: Tensor
    next_frame: Tensor
    errors: Tensor


class PreludeNet(nn.Module):
    r"""Predictive coding layers, and a decoder from the top down that reads depth from what they hold and got wrong.

    $A_0$ is the frame, $A_{l+1} = \mathrm{maxpool}(\mathrm{relu}(W * E_l))$. At every moment representations are made
    from the top down, then the frame is compared from the bottom up. The decoder is
    $D_l = \mathrm{relu}(W * [\mathrm{up}(D_{l+1}), \mathrm{relu}(W * R_l), \mathrm{relu}(W * E_l)])$, depth is softplus
    of a convolution of $D_0$.

    Args:
        channels: of A in each layer, the first those of a frame; two or more.
        decoder_channels: of D, at least 1.
        task: `"infer"` reads the depth of a frame that was seen, `"predict"` that of the next one: `depth[:, t]` hangs
            on frames before t alone.
        learning: `"hybrid"`: the layers learn by their errors alone, the decoder by depth alone (what it reads is
            detached); `"supervised"`: everything by depth; `"joint"`: everything by both. See `loss`.

    Ziskind et al., 2022 (arXiv:2207.02972): the architecture from its abstract and figure; layers as in PredNet.

    Differs from the paper: the wiring of its decoder is not told in the parts that could be read; this is the plainest
    one with all of its connections.

    Raises:
        ValueError: for arguments out of range; when called, for fewer than two frames, other channels, or sides that do
            not halve so often.

    Example:
        >>> net = PreludeNet((3, 4, 8), decoder_channels=4)
        >>> seen = net(torch.rand(2, 4, 3, 8, 8))
        >>> seen.depth.shape, seen.next_frame.shape, seen.errors.shape
        (torch.Size([2, 4, 1, 8, 8]), torch.Size([2, 4, 3, 8, 8]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        channels: Sequence[int] = (3, 16, 32, 64),
        *,
        decoder_channels: int = 16,
        task: str = "infer",
        learning: str = "hybrid",
    ) -> None:
        super().__init__()
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"channels must be two or more, each at least 1: got {tuple(channels)}")
        if decoder_channels < 1:
            raise ValueError(f"decoder_channels must be at least 1: got {decoder_channels}")
        for name, word, allowed in (("task", task, TASKS), ("learning", learning, LEARNING)):
            if word not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}: got {word!r}")
        self.channels, self.task, self.learning = tuple(channels), task, learning
        hidden = [channels[1], *channels[1:]]
        tops = [*hidden[1:], 0]
        self.layers = nn.ModuleList(
            PredictiveCodingLayer(c, h, above=top, unit=number == 0)
            for number, (c, h, top) in enumerate(zip(channels, hidden, tops, strict=True))
        )
        self.rise = nn.ModuleList(nn.Conv2d(2 * a, b, 3, padding=1) for a, b in pairwise(channels))
        d = decoder_channels
        self.lateral_r = nn.ModuleList(nn.Conv2d(h, d, 1) for h in hidden)
        self.lateral_e = nn.ModuleList(nn.Conv2d(2 * c, d, 1) for c in channels)
        last = len(channels) - 1
        self.decode = nn.ModuleList(
            nn.Conv2d((2 if number == last else 3) * d, d, 3, padding=1) for number in range(last + 1)
        )
        self.depth = nn.Conv2d(d, 1, 3, padding=1)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Those of the predictive coding layers."""
        return [*self.layers.parameters(), *self.rise.parameters()]

    def decoder_parameters(self) -> list[nn.Parameter]:
        """All others."""
        own = {id(p) for p in self.encoder_parameters()}
        return [p for p in self.parameters() if id(p) not in own]

    def forward(self, frames: Float[Tensor, "n t c h w"]) -> Perception:
        n, moments, c, h, w = frames.shape
        halvings = len(self.channels) - 1
        if moments < 2:
            raise ValueError(f"frames must be two or more: got {moments}")
        if c != self.channels[0] or h % 2**halvings or w % 2**halvings:
            raise ValueError(
                f"frames must have {self.channels[0]} channels and sides that halve {halvings} times: got {(c, h, w)}"
            )
        errors = [frames.new_zeros(n, 2 * each, h >> number, w >> number) for number, each in enumerate(self.channels)]
        states: list[State | None] = [None] * len(self.channels)
        depths, guesses, sizes = [], [], []
        for t in range(moments):
            above = None
            for number in reversed(range(len(self.channels))):
                above, states[number] = self.layers[number].represent(errors[number], above, states[number])  # type: ignore[operator]
            representations = [state[0] for state in states if state is not None]
            if self.task == "predict":
                depths.append(self._decoded(representations, errors))
            target = frames[:, t]
            for number, layer in enumerate(self.layers):
                errors[number], prediction = layer.compare(target, representations[number])  # type: ignore[operator]
                if number == 0:
                    guesses.append(prediction)
                if number < halvings:
                    target = F.max_pool2d(torch.relu(self.rise[number](errors[number])), 2)
            if self.task == "infer":
                depths.append(self._decoded(representations, errors))
            sizes.append(torch.stack([error.mean() for error in errors]))
        return Perception(torch.stack(depths, 1), torch.stack(guesses, 1), torch.stack(sizes, 1))

    def _decoded(self, representations: list[Tensor], errors: list[Tensor]) -> Tensor:
        below: Tensor | None = None
        for number in reversed(range(len(self.channels))):
            r, e = representations[number], errors[number]
            if self.learning == "hybrid":
                r, e = r.detach(), e.detach()
            parts = [torch.relu(self.lateral_r[number](r)), torch.relu(self.lateral_e[number](e))]
            if below is not None:
                parts.insert(0, F.interpolate(below, size=r.shape[2:], mode="nearest"))
            below = torch.relu(self.decode[number](torch.cat(parts, 1)))
        return F.softplus(self.depth(below))

    def loss(
        self,
        seen: Perception,
        depth: Float[Tensor, "n t 1 h w"],
        *,
        layer_weights: Sequence[float] | None = None,
        depth_weight: float = 1.0,
    ) -> Float[Tensor, ""]:
        r"""$\sum_l w_l \overline{E_l} + w_d\, \overline{|\log \hat z - \log z|}$ over all moments but the first.

        Supervised learning has the second term alone.

        Args:
            seen: what a call returned.
            depth: z, positive.
            layer_weights: $w_l$; None is 1 for the frame and 0.1 above.
            depth_weight: $w_d$.
        """
        weights = [1.0] + [0.1] * (len(self.channels) - 1) if layer_weights is None else list(layer_weights)
        if len(weights) != len(self.channels):
            raise ValueError(f"layer_weights must be {len(self.channels)}: got {len(weights)}")
        if not (depth > 0).all():
            raise ValueError("depth must be positive")
        total = depth_weight * (seen.depth[:, 1:].clamp_min(1e-6).log() - depth[:, 1:].log()).abs().mean()
        if self.learning != "supervised":
            total = total + (torch.tensor(weights).to(seen.errors) * seen.errors[:, 1:].mean(1)).sum()
        return total
