"""What a denoiser has learned: the basis in which it shrinks, and whether two of them are one function.

Kadkhodaie, Guth, Simoncelli and Mallat, 2023 (arXiv:2310.02557).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.metrics import psnr
from assay.probes.local_linear import jacobian

MOST = 4096

Denoiser = Callable[[Tensor], Tensor]


class JacobianBasis:
    r"""The eigenvectors of a denoiser's Jacobian at a noisy image: $f(y) = \sum_k \lambda_k \langle y, e_k\rangle e_k$.

    J is made symmetric, $(J + J^\top)/2$; for networks without additive constants $f(y) = J(y)\,y$, so that f is a
    shrinkage in this basis up to the antisymmetric part.

    Args:
        denoiser: maps (1, 1, h, w) to the same shape; a module is used in evaluation mode. Of a network of residuals
            give `lambda y: y - network(y)`.
        noisy: y, (1, 1, h, w), at most 4,096 pixels.
        chunk: backward passes made at once; None takes all.

    The paper: section 3.1, equations 7 and 8.

    Raises:
        ValueError: for another shape, too many pixels, values that are not finite.

    Example:
        >>> basis = JacobianBasis(lambda y: torch.tensor([0.25, 0.75]) * y, torch.ones(1, 1, 1, 2))
        >>> basis.eigenvalues, basis.effective_dimension
        (tensor([0.7500, 0.2500]), 1.0)
    """

    eigenvalues: Float[Tensor, " d"]
    eigenvectors: Float[Tensor, "d h w"]
    asymmetry: float
    effective_dimension: float

    def __init__(self, denoiser: Denoiser, noisy: Float[Tensor, "..."], *, chunk: int | None = None) -> None:
        if noisy.ndim != 4 or tuple(noisy.shape[:2]) != (1, 1):
            raise ValueError(f"noisy must be (1, 1, h, w): got {tuple(noisy.shape)}")
        if noisy.numel() > MOST:
            raise ValueError(f"noisy must have at most {MOST} pixels for the whole Jacobian: got {noisy.numel()}")
        matrix = jacobian(denoiser, noisy, chunk=chunk)[0]
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"denoiser must keep the number of pixels, {matrix.shape[1]}: got {matrix.shape[0]}")
        even, odd = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
        values, vectors = torch.linalg.eigh(even)
        self.eigenvalues = values.flip(0)
        self.eigenvectors = vectors.T.flip(0).reshape(-1, *noisy.shape[2:])
        self.asymmetry = (odd.norm() / even.norm()).item() if even.norm() > 0 else math.inf
        self.effective_dimension = self.eigenvalues.sum().item()

    def shrink(self, noisy: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 1 h w"]:
        """The shrinkage alone, at any image of the size."""
        flat = self.eigenvectors.flatten(1)
        return (flat.T @ (self.eigenvalues * (flat @ noisy.flatten()))).view_as(noisy)


class Disagreement(NamedTuple):
    """What `model_disagreement` finds.

    Args:
        variance_share: $\\mathbb E\\|f_A - f_B\\|^2 / 2$ beside the mean of both errors: 0 for one function.
        cosine: of the two denoised images, each less its mean; a mean over images.
        mse_a: error of the first, a pixel.
        mse_b: of the second.
    """

    variance_share: float
    cosine: float
    mse_a: float
    mse_b: float


@torch.no_grad()
def model_disagreement(
    first: Denoiser,
    second: Denoiser,
    clean: Float[Tensor, "n 1 h w"],
    sigma: float,
    *,
    generator: torch.Generator | None = None,
) -> Disagreement:
    """How much of two denoisers' error is what they do not agree on, on images that neither has seen.

    Args:
        first: maps noisy images to denoised ones; modules are used in the mode they are in.
        second: one that learned from other images, from another start.
        clean: the images.
        sigma: of the noise, above 0; at little noise any two agree.
        generator: where the noise comes from.

    The paper: section 2, figure 2.

    Raises:
        ValueError: for a sigma that is not positive, no images, outputs of another shape.

    Example:
        >>> found = model_disagreement(lambda y: 0.5 * y, lambda y: 0.5 * y, torch.ones(2, 1, 4, 4), 0.5)
        >>> found.variance_share, round(found.cosine, 6)
        (0.0, 1.0)
    """
    _check_sigma(sigma)
    if len(clean) == 0:
        raise ValueError("clean must hold at least one image: got none")
    noisy = clean + sigma * _noise(clean, generator)
    a, b = first(noisy), second(noisy)
    for out in (a, b):
        if out.shape != clean.shape:
            raise ValueError(f"denoisers must keep the shape {tuple(clean.shape)}: got {tuple(out.shape)}")
    mse_a, mse_b = (((each - clean).square().mean()).item() for each in (a, b))
    apart = (a - b).square().mean().item() / 2
    share = apart / ((mse_a + mse_b) / 2) if apart else 0.0
    centered = [each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (a, b)]
    return Disagreement(share, nn.functional.cosine_similarity(*centered).mean().item(), mse_a, mse_b)


def blind_denoiser_loss(
    model: nn.Module,
    clean: Float[Tensor, "n c h w"],
    *,
    sigma_range: tuple[float, float] = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""$\|g(x + \sigma n) - \sigma n\|^2$ a pixel, $\sigma$ uniform for each image: g learns the noise of any level.

    Args:
        model: g, from noisy images to what is to be taken off.
        clean: x.
        sigma_range: least and largest standard deviation, 0 or more.
        generator: where noise comes from.

    The paper: section 2 and appendix A.

    Raises:
        ValueError: for a range that is not one.

    Example:
        >>> blind_denoiser_loss(nn.Identity(), torch.ones(1, 1, 2, 2), sigma_range=(0.0, 0.0))  # takes all off
        tensor(1.)
    """
    low, high = sigma_range
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"sigma_range must be 0 <= least <= largest: got {sigma_range}")
    sigma = low + (high - low) * torch.rand(len(clean), generator=generator, device=clean.device, dtype=clean.dtype)
    noise = sigma.view(-1, *[1] * (clean.ndim - 1)) * _noise(clean, generator)
    return (model(clean + noise) - noise).square().mean()


@torch.no_grad()
def psnr_curve(
    denoise: Denoiser,
    clean: Float[Tensor, "n c h w"],
    sigmas: Sequence[float],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " m"]:
    r"""PSNR in dB of denoised images, in [0, 1], at each standard deviation; its slope beside $-20\log_{10}\sigma$ is
    the rate at which the error falls.

    Args:
        denoise: maps noisy images to denoised ones.
        clean: the images.
        sigmas: above 0.
        generator: where the noise comes from.

    The paper: section 4, figures 5 and 6.

    Raises:
        ValueError: for a sigma that is not positive.

    Example:
        >>> psnr_curve(lambda y: torch.zeros_like(y), torch.full((1, 1, 2, 2), 0.1), [1.0]).round()  # 0.01
        tensor([20.], dtype=torch.float64)
    """
    for sigma in sigmas:
        _check_sigma(sigma)
    noisy = [clean + sigma * _noise(clean, generator) for sigma in sigmas]
    return torch.tensor([psnr(denoise(each), clean) for each in noisy], dtype=torch.float64)


@torch.no_grad()
def denoiser_samples(
    model: nn.Module,
    shape: Sequence[int],
    *,
    sigma_start: float = 1.0,
    sigma_end: float = 0.01,
    step: float = 0.01,
    beta: float = 0.01,
    mean: float = 0.5,
    max_steps: int = 10_000,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n c h w"]:
    r"""Images drawn by coarse-to-fine ascent: $y \leftarrow y - h\,g(y) + \gamma z$ until $|g(y)| / \sqrt d$ is small.

    $\gamma^2 = \sigma^2 ((1 - \beta h)^2 - (1 - h)^2)$, $\sigma = |g(y)| / \sqrt d$ the noise that the network sees.

    Args:
        model: g, which gives the noise in an image, as `blind_denoiser_loss` trains it.
        shape: (n, c, h, w) of what is drawn.
        sigma_start: of the noise that it begins with.
        sigma_end: at which an image is left alone.
        step: h in (0, 1].
        beta: in [0, 1]; 1 adds no noise, the least adds most.
        mean: of the start.
        max_steps: at most.
        generator: where noise comes from.

    Kadkhodaie and Simoncelli, 2021 (arXiv:2007.13640), algorithm 1, as the paper uses it.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> flat = denoiser_samples(nn.Identity(), (1, 1, 2, 2), step=0.5)  # all is noise, and goes
        >>> bool((flat.square().mean().sqrt() <= 0.01).all())
        True
    """
    _check_sigma(sigma_start)
    if not 0 < sigma_end < sigma_start:
        raise ValueError(f"sigma_end must lie between 0 and sigma_start: got {sigma_end}")
    if not 0 < step <= 1 or not 0 <= beta <= 1:
        raise ValueError(f"step must lie in (0, 1] and beta in [0, 1]: got {step} and {beta}")
    y = mean + sigma_start * torch.randn(tuple(shape), generator=generator)
    for _ in range(max_steps):
        found = model(y)
        sigma = found.square().mean((1, 2, 3), keepdim=True).sqrt()
        moving = (sigma > sigma_end).to(y)
        if not bool(moving.any()):
            break
        gamma = sigma * max(0.0, (1 - beta * step) ** 2 - (1 - step) ** 2) ** 0.5
        y = y + moving * (gamma * _noise(y, generator) - step * found)
    return y


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _check_sigma(sigma: float) -> None:
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be above 0 and finite: got {sigma}")
