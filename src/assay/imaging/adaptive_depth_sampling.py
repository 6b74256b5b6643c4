"""Where depth is hard to guess: importance maps, a network that sees them in a photograph, patterns drawn from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from assay.nn import UNet

from .depth_patterns import check_budget, grid_pattern, random_pattern

Predictor = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rmse": lambda predicted, truth: (predicted - truth).square(),
    "rel": lambda predicted, truth: (predicted - truth).abs() / truth,
}


def importance_map(
    depth: Float[Tensor, "h w"],
    predictor: Predictor,
    budget: int,
    *,
    error: str | Callable[[Tensor, Tensor], Tensor] = "rmse",
    draws: int = 100,
    rgb: Tensor | None = None,
    valid: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "h w"]:
    r"""The error to be expected at each pixel from samples at random.

    $Q(x) = E_{mask}[M(P(mask, mask \odot D, RGB), D)(x)]$, the mask a random one of B valid pixels; estimated by a
    mean.

    Args:
        depth: D, positive where it is valid.
        predictor: P, (mask, values, rgb) -> depth (h, w); values are 0 where the mask is False.
        budget: B.
        error: M: `"rmse"` $(P - D)^2$, `"rel"` $|P - D| / D$, or a function (predicted, truth) -> (h, w).
        draws: masks, at least 1.
        rgb: what is handed to the predictor.
        valid: (h, w), where samples may lie and errors count; Q is 0 elsewhere. None is everywhere.
        generator: where masks come from.

    Tcenov and Gilboa, 2022 (arXiv:2205.10202); 100 draws as in its code.

    Raises:
        ValueError: for depth that is not positive, shapes that differ, a budget, draws or an error out of range.

    Example:
        >>> from assay.imaging import complete_depth
        >>> line = torch.tensor([[1.0, 1.0, 1.0, 5.0, 5.0, 5.0]])
        >>> q = importance_map(line, lambda mask, values, _: complete_depth(mask, values, method="nearest"), 2)
        >>> bool(q[0, 2] > q[0, 0]), bool(q[0, 3] > q[0, 5])
        (True, True)
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1: got {draws}")
    if isinstance(error, str) and error not in ERRORS:
        raise ValueError(f"error must be one of {', '.join(ERRORS)} or a function: got {error!r}")
    counted = torch.ones_like(depth, dtype=torch.bool) if valid is None else valid.bool()
    if counted.shape != depth.shape:
        raise ValueError(f"valid must have the shape of depth, {tuple(depth.shape)}: got {tuple(counted.shape)}")
    if not (depth[counted] > 0).all():
        raise ValueError("depth must be positive where it is valid")
    measure = ERRORS[error] if isinstance(error, str) else error
    total = torch.zeros_like(depth)
    for _ in range(draws):
        mask = random_pattern(*depth.shape, budget, valid=counted, generator=generator)
        predicted = predictor(mask, torch.where(mask, depth, 0.0), rgb)
        total += torch.where(counted, measure(predicted, depth), 0.0)
    return total / draws


def gaussian_sampling(
    q: Float[Tensor, "h w"],
    budget: int,
    *,
    sigma: float | None = None,
    grid_share: float = 0.05,
    margin: int = 0,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "h w"]:
    r"""A pattern as dense as a map is high: the highest pixel, again and again, with its surroundings held back.

    A coarse grid first; then the argmax of q is taken and q around it, $\mathrm{round}(2.5\sigma)$ to each side,
    multiplied by $1 - e^{-r^2 / 2\sigma^2}$. Where q runs out, grids that get finer by steps of 1 % fill up, and what
    is then still missing is drawn at random.

    Args:
        q: not negative; what it is measured in does not matter.
        budget: samples; exactly so many come out.
        sigma: of the Gaussian, in pixels; 0 takes the highest pixels. None is 0.3 of the mean spacing
            $\sqrt{h w / B}$, the paper's 3 at its 1 %.
        grid_share: of the budget, in [0, 1].
        margin: width of a frame in which only the grid samples; 8 in the paper.
        generator: for what is drawn at random.

    Tcenov and Gilboa, 2022 (arXiv:2205.10202), and its code.

    Differs from the paper: exactly the budget; the code's patterns may miss it by a few.

    Raises:
        ValueError: for a map with negative values or NaN, arguments out of range.

    Example:
        >>> q = torch.tensor([[0.0, 3.0, 2.9, 0.0, 1.0]])
        >>> pattern = gaussian_sampling(q, 2, sigma=1.0, grid_share=0.0)  # the neighbour is held back to 2.9 * 0.39
        >>> pattern.nonzero()[:, 1].tolist(), gaussian_sampling(q, 3, sigma=1.0, grid_share=0.0)[0, 4].item()
        ([1, 2], True)
    """
    if not (q >= 0).all() or not q.isfinite().all():
        raise ValueError("q must be finite and not negative")
    height, width = q.shape
    check_budget(budget, height * width)
    if sigma is None:
        sigma = 0.3 * math.sqrt(height * width / budget)
    if not sigma >= 0:
        raise ValueError(f"sigma must not be negative: got {sigma}")
    if not 0 <= grid_share <= 1:
        raise ValueError(f"grid_share must lie in [0, 1]: got {grid_share}")
    if margin < 0:
        raise ValueError(f"margin must not be negative: got {margin}")
    mask = torch.zeros(height, width, dtype=torch.bool)
    if round(grid_share * budget) > 0:
        mask |= grid_pattern(height, width, round(grid_share * budget), exact=True, generator=generator)
    left = q.double().clone()
    left[mask] = 0
    inner = torch.zeros_like(mask)
    inner[margin : height - margin, margin : width - margin] = True
    left[~inner] = 0
    mask = _greedy(left, mask, budget, sigma)
    if mask.sum() < budget:
        mask = _filled(mask, budget, max(grid_share, 0.01), generator)
    return mask


def _greedy(left: Tensor, mask: Tensor, budget: int, sigma: float) -> Tensor:
    """Takes highest pixels from `left`, which it uses up; keeps each row's maximum, so as to look at few."""
    q, taken = left.numpy(), mask.clone()
    height, width = q.shape
    reach = round(2.5 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    square = at.square()[:, None] + at.square()
    held = (1 - (-square / (2 * sigma**2)).exp() if sigma > 0 else 1 - (square == 0).double()).numpy()
    tops = q.max(1)
    for _ in range(budget - int(taken.sum())):
        y = int(tops.argmax())
        if not tops[y] > 0:
            break
        x = int(q[y].argmax())
        taken[y, x] = True
        top, bottom, start, stop = max(y - reach, 0), min(y + reach + 1, height), max(x - reach, 0), x + reach + 1
        stop = min(stop, width)
        q[top:bottom, start:stop] *= held[top - y + reach : bottom - y + reach, start - x + reach : stop - x + reach]
        tops[top:bottom] = q[top:bottom].max(1)
    return taken


def _filled(mask: Tensor, budget: int, share: float, generator: torch.Generator | None) -> Tensor:
    height, width = mask.shape
    filled = mask
    while share < 1:
        more = mask | grid_pattern(height, width, max(1, round(share * budget)), exact=False)
        if more.sum() > budget:
            break
        filled, share = more, share * 1.01
    missing = budget - int(filled.sum())
    if missing:
        filled = filled | random_pattern(height, width, missing, valid=~filled, generator=generator)
    return filled


class ImportanceNet(nn.Module):
    r"""A U-Net from photographs to importance maps, $\hat Q = \max(0, s f(RGB))^{1 / p}$.

    It learns $Q^p / s$ by squared error, s the mean of $Q^p$ in training; powers bring the range of Q together.

    Args:
        in_channels: of the photograph.
        width: channels of the finest level.
        levels: how often it is halved.
        power: p, in (0, 1].

    Tcenov and Gilboa, 2022 (arXiv:2205.10202); p = 1 / 4 as in its code.

    Differs from the paper: a U-Net for Pix2PixHD, without its adversary.

    Raises:
        ValueError: for arguments out of range, pairs that do not fit.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> rgb = torch.rand(3, 16, 16)
        >>> net = ImportanceNet(width=4, levels=2)
        >>> losses = net.fit([(rgb, rgb.mean(0) ** 4)], steps=60, lr=1e-2)
        >>> bool(losses[-1] < 0.5 * losses[0]), net.predict(rgb).shape
        (True, torch.Size([16, 16]))
    """

    scale: Tensor

    def __init__(self, in_channels: int = 3, *, width: int = 16, levels: int = 3, power: float = 0.25) -> None:
        super().__init__()
        if not 0 < power <= 1:
            raise ValueError(f"power must lie in (0, 1]: got {power}")
        self.net, self.power = UNet(in_channels, 1, width=width, levels=levels), power
        self.register_buffer("scale", torch.ones(()))

    def forward(self, rgb: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
        return self.net(rgb)[:, 0]

    def fit(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        *,
        steps: int = 400,
        lr: float = 1e-3,
        batch_size: int = 8,
        generator: torch.Generator | None = None,
    ) -> list[float]:
        """Learn from (rgb (c, h, w), Q (h, w)) of one size, by Adam and with flips; the losses of all steps."""
        if not pairs or any(q.shape != rgb.shape[1:] or not (q >= 0).all() for rgb, q in pairs):
            raise ValueError("pairs must be (c, h, w) and (h, w) of one size, not negative, at least one")
        inputs = torch.stack([rgb for rgb, _ in pairs])
        targets = torch.stack([q for _, q in pairs]).pow(self.power)
        self.scale.copy_(targets.mean().clamp_min(1e-12))
        targets = targets / self.scale
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        losses = []
        self.train()
        for _ in range(steps):
            chosen = torch.randint(len(pairs), (min(batch_size, len(pairs)),), generator=generator)
            x, y = inputs[chosen], targets[chosen]
            if torch.rand((), generator=generator) < 0.5:
                x, y = x.flip(3), y.flip(2)
            optimizer.zero_grad()
            loss = F.mse_loss(self(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        self.eval()
        return losses

    @torch.no_grad()
    def predict(self, rgb: Float[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
        """The map of one photograph, in the mode the network is in."""
        return (self(rgb[None])[0] * self.scale).clamp_min(0).pow(1 / self.power)
