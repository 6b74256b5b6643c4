"""What a first layer listens to: the energy of its filters along the principal components of image patches."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

DROPPED = 1e-6
CHUNK = 256


class PatchBasis(NamedTuple):
    r"""Principal components of patches.

    Args:
        basis: $u_i$ as columns, patches flattened as (c, k, k) like the weights of a convolution; r components are
            kept of the p that a patch has numbers.
        singular: $\sigma_i$, the standard deviation of patches along $u_i$, descending.
    """

    basis: Float[Tensor, "p r"]
    singular: Float[Tensor, " r"]


def patch_basis(
    images: Float[Tensor, "..."], kernel: int, *, stride: int = 1, center: bool = True, mean_patches: bool = False
) -> PatchBasis:
    r"""Principal components of all k x k patches of images: $\mathrm{cov}(x) = U \mathrm{diag}(\sigma^2) U^\top$.

    By the p x p covariance, gathered in float64 over parts of the images. Components along which patches hardly vary,
    $\sigma_i < 10^{-6} \sigma_1$, are left out.

    Args:
        images: (n, c, h, w), normalized as the network sees them.
        kernel: k, side of a patch.
        stride: between patches.
        center: take off the mean patch.
        mean_patches: one patch an image, the mean of its patches: what a linear network with global average pooling
            sees. Otherwise every patch counts.

    Chowers and Weiss, 2022 (arXiv:2206.02454), section 2.

    Raises:
        ValueError: for images of another shape or not finite, a kernel larger than they are, fewer patches than a
            patch has numbers, images that do not vary.

    Example:
        >>> images = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]]).view(4, 2, 1, 1)
        >>> found = patch_basis(images, 1)
        >>> found.singular, found.basis.abs()
        (tensor([3., 1.], dtype=torch.float64), tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64))
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images must be (n, c, h, w): got {tuple(images.shape)}")
    if not 1 <= kernel <= min(images.shape[2:]):
        raise ValueError(f"kernel must lie in 1..{min(images.shape[2:])}: got {kernel}")
    if stride < 1:
        raise ValueError(f"stride must be at least 1: got {stride}")
    if not images.isfinite().all():
        raise ValueError("images must be finite: got NaN or infinity")
    size = images.shape[1] * kernel**2
    total = torch.zeros(size, dtype=torch.float64, device=images.device)
    square = torch.zeros(size, size, dtype=torch.float64, device=images.device)
    shift: Tensor | None = None
    count = 0
    for part in images.split(CHUNK):
        patches = F.unfold(part.double(), kernel, stride=stride)
        rows = patches.mean(2) if mean_patches else patches.transpose(1, 2).flatten(0, 1)
        if center:
            shift = rows.mean(0) if shift is None else shift  # near the mean, so that products keep their digits
            rows = rows - shift
        count += len(rows)
        total += rows.sum(0)
        square += rows.T @ rows
    if count < size:
        raise ValueError(f"images must have at least {size} patches, as many as a patch has numbers: got {count}")
    mean = total / count
    covariance = square / count - (torch.outer(mean, mean) if center else 0.0)
    values, vectors = torch.linalg.eigh(covariance)
    singular = values.flip(0).clamp_min(0).sqrt()
    if not singular[0] > 0:
        raise ValueError("images must vary: every patch is the same")
    kept = singular >= DROPPED * singular[0]
    return PatchBasis(vectors.flip(1)[:, kept], singular[kept])


def energy_profile(
    weight: Float[Tensor, "..."],
    basis: Float[Tensor, "p r"],
    *,
    initial: Float[Tensor, "..."] | None = None,
    normalize: bool = True,
) -> Float[Tensor, " r"]:
    r"""How strongly a filter bank answers to each component.

    $e_i = \frac{1}{F} \sqrt{\sum_f \langle w_f, u_i\rangle^2}$

    It does not change when filters are mixed by a rotation or put in another order.

    Args:
        weight: (F, c, k, k) of a convolution, or (F, p).
        basis: $u_i$ as columns, of `patch_basis`.
        initial: weights before training, which are taken off: where the weights moved little, they hide what was
            learned.
        normalize: divide by the largest.

    Chowers and Weiss, 2022 (arXiv:2206.02454), section 2; the factor 1/F of the authors' code.

    Raises:
        ValueError: for filters of another size than the components, or not finite; a profile that is 0 throughout.

    Example:
        >>> energy_profile(torch.tensor([[3.0, 1.0], [4.0, 0.0]]), torch.eye(2))    # 5 and 1
        tensor([1.0000, 0.2000], dtype=torch.float64)
    """
    rows = weight.detach().double().flatten(1)
    if rows.shape[1] != len(basis):
        raise ValueError(f"weight must have filters of {len(basis)} numbers, as basis: got {tuple(weight.shape)}")
    if initial is not None:
        if initial.shape != weight.shape:
            raise ValueError(f"initial must be shaped as weight, {tuple(weight.shape)}: got {tuple(initial.shape)}")
        rows = rows - initial.detach().double().flatten(1)
    profile = (rows @ basis.to(rows)).square().sum(0).sqrt() / len(rows)
    if not profile.isfinite().all():
        raise ValueError("weight must be finite: got NaN or infinity")
    if not normalize:
        return profile
    if not profile.max() > 0:
        raise ValueError("weight must differ from initial: the profile is 0 throughout")
    return profile / profile.max()


def linear_cnn_profile(singular: Float[Tensor, " r"], t: float) -> Float[Tensor, " r"]:
    r"""The energy profile of a linear network's first layer after training time t.

    $e_i = (1 - e^{-t \sigma_i^2}) / \sigma_i$

    With $\sigma_1 = 1$, divided by its maximum. Early it follows the data, $\propto \sigma_i$; late it whitens,
    $\propto 1 / \sigma_i$; in between it has its maximum where $t \sigma_i^2 = 1.26$.

    Args:
        singular: $\sigma_i$, not negative, at least one above 0; where it is 0 so is the profile.
        t: above 0: learning rate times steps times $\sigma_1^2$.

    Chowers and Weiss, 2022 (arXiv:2206.02454), section 4: $(1 - (1 - \eta \sigma_i^2)^s) / \sigma_i$ for a covariance
    of labels and patches with $|q_i| \propto \sigma_i$, here for small $\eta$.

    Raises:
        ValueError: for a time that is not above 0 and finite, or standard deviations that are negative or all 0.

    Example:
        >>> linear_cnn_profile(torch.tensor([1.0, 0.5, 0.25]), 1e-6)    # early: sigma
        tensor([1.0000, 0.5000, 0.2500], dtype=torch.float64)
        >>> linear_cnn_profile(torch.tensor([1.0, 0.5, 0.25]), 1e6)     # late: 1 / sigma
        tensor([0.2500, 0.5000, 1.0000], dtype=torch.float64)
    """
    if not 0 < t < math.inf:
        raise ValueError(f"t must be above 0 and finite: got {t}")
    return _profiles(singular, torch.tensor([t], dtype=torch.float64))[0]


class FittedTime(NamedTuple):
    """What `fit_time` finds.

    Args:
        t: the training time of the best profile.
        correlation: with the measured one.
        profile: the best one.
    """

    t: float
    correlation: float
    profile: Float[Tensor, " r"]


def fit_time(profile: Float[Tensor, " r"], singular: Float[Tensor, " r"], *, grid: int = 400) -> FittedTime:
    """The training time whose `linear_cnn_profile` has the largest Pearson correlation with a measured profile.

    Args:
        profile: of `energy_profile`.
        singular: of `patch_basis`.
        grid: times tried, equal in the logarithm from 1e-2 to 1e8.

    Chowers and Weiss, 2022 (arXiv:2206.02454), section 5, where the number of steps is scanned.

    Raises:
        ValueError: for profiles that do not fit each other, fewer than 3 components, a profile that does not vary, a
            grid below 2.

    Example:
        >>> sigma = torch.tensor([1.0, 0.6, 0.3, 0.1, 0.05])
        >>> found = fit_time(linear_cnn_profile(sigma, 20.0), sigma)
        >>> round(found.t, 1), round(found.correlation, 4)
        (20.3, 0.9999)
    """
    if profile.shape != singular.shape or profile.ndim != 1 or len(profile) < 3:
        raise ValueError(
            f"profile and singular must be vectors of one length, 3 or more: got {tuple(profile.shape)} and "
            f"{tuple(singular.shape)}"
        )
    if grid < 2:
        raise ValueError(f"grid must be at least 2: got {grid}")
    measured = profile.double() - profile.double().mean()
    if not measured.norm() > 1e-12:
        raise ValueError("profile must vary: it is the same for all components")
    times = torch.logspace(-2, 8, grid, dtype=torch.float64)
    table = _profiles(singular, times)
    centred = table - table.mean(1, keepdim=True)
    correlation = centred @ measured / (centred.norm(dim=1).clamp_min(1e-300) * measured.norm())
    best = int(correlation.argmax())
    return FittedTime(times[best].item(), correlation[best].item(), table[best])


def filter_whiteness(weight: Float[Tensor, "..."], patches: PatchBasis) -> float:
    r"""How white a filter bank's answers to patches are: $\exp H(\lambda) / r$, in (0, 1].

    $\lambda$ are the eigenvalues of $C^{1/2} W^\top W C^{1/2}$ over their sum, H their entropy, r the components: 1
    where the bank brings all components to the same variance.

    Args:
        weight: W, (F, c, k, k) or (F, p).
        patches: of `patch_basis`.

    The measure of whitening is the effective rank of Roy and Vetterli, 2007; what it is asked of, Chowers and Weiss,
    2022 (arXiv:2206.02454), section 4.

    Raises:
        ValueError: for filters of another size than the components, not finite, or all 0.

    Example:
        >>> patches = PatchBasis(torch.eye(2).double(), torch.tensor([4.0, 1.0]).double())
        >>> filter_whiteness(torch.tensor([[0.25, 0.0], [0.0, 1.0]]), patches)
        1.0
        >>> round(filter_whiteness(torch.eye(2), patches), 4)       # eigenvalues 16/17 and 1/17
        0.6254
    """
    rows = weight.detach().double().flatten(1)
    basis, singular = patches
    if rows.shape[1] != len(basis):
        raise ValueError(f"weight must have filters of {len(basis)} numbers, as patches: got {tuple(weight.shape)}")
    if not rows.isfinite().all():
        raise ValueError("weight must be finite: got NaN or infinity")
    values = torch.linalg.svdvals(rows @ basis.to(rows) * singular.to(rows)).square()
    if not values.sum() > 0:
        raise ValueError("weight must not be 0 throughout")
    share = values / values.sum()
    return (torch.special.entr(share).sum().exp() / len(singular)).item()


def _profiles(singular: Tensor, times: Tensor) -> Tensor:
    """A row for each time."""
    sigma = singular.double().cpu()
    if sigma.ndim != 1 or not sigma.isfinite().all() or not (sigma >= 0).all() or not sigma.max() > 0:
        raise ValueError("singular must be a vector of finite numbers, none negative, one above 0")
    sigma = sigma / sigma.max()
    alive = sigma > 0
    table = torch.where(alive, -torch.expm1(-times[:, None] * sigma**2) / torch.where(alive, sigma, 1.0), 0.0)
    return table / table.amax(1, keepdim=True)
