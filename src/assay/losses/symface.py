"""SymFace: the two halves of a frontal face shall look alike to the network (2024, arXiv:2409.11816)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_finite, readable

FILLS = ("mirror", "zero")


def frontness(landmarks: Float[Tensor, "..."]) -> Float[Tensor, " n"]:
    r"""$1 - \min(1, 2 D / |x_r - x_l|)$, $D = |x_n - (x_l + x_r) / 2|$: how near the nose is to the middle of the eyes.

    Args:
        landmarks: left eye, right eye and nose, each (x, y) in pixels.

    Returns:
        1 for a face from the front, 0 for a nose over an eye or beyond.

    Differs from the paper, which gives no formula: this is the share that its three points suggest.

    Raises:
        ValueError: for another shape, points that are not finite, eyes one above the other.

    Example:
        >>> eyes = [[10.0, 8.0], [20.0, 8.0]]
        >>> frontness(torch.tensor([[*eyes, [15.0, 14.0]], [*eyes, [16.0, 14.0]]]))
        tensor([1.0000, 0.8000])
    """
    _check_landmarks(landmarks)
    left, right, nose = landmarks[..., 0].unbind(1)
    return 1 - (2 * (nose - (left + right) / 2).abs() / (right - left).abs()).clamp(max=1)


def split_face(
    images: Float[Tensor, "..."], landmarks: Float[Tensor, "..."], *, fill: str = "mirror"
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
    """The left half of each face and the mirrored right one, each as a whole image.

    The cut is the vertical line half-way between the middle of the eyes and the nose. A half is stretched to half the
    width where the cut is off the middle (linear interpolation), and completed by its own mirror image or by zeros. Of
    a face that is its own mirror image both are the same.

    Args:
        images: faces, upright.
        landmarks: left eye, right eye and nose, each (x, y) in pixels, (0, 0) being the middle of the first one.
        fill: "mirror" or "zero".

    Returns:
        (left, right), of the shape of `images`.

    The paper: section 3, the split by three points.

    Raises:
        ValueError: for shapes that do not fit, an unknown fill, landmarks outside the images or not finite, a cut at
            the very edge.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
        >>> points = torch.tensor([[[0.5, 0.0], [2.5, 0.0], [1.5, 0.0]]])
        >>> left, right = split_face(image, points)
        >>> left.flatten().tolist(), right.flatten().tolist()
        ([1.0, 2.0, 2.0, 1.0], [4.0, 3.0, 3.0, 4.0])
    """
    _check_landmarks(landmarks)
    if images.ndim != 4 or len(images) != len(landmarks) or images.shape[3] < 2:
        raise ValueError(
            "images must be (n, c, h, w) with as many landmarks: "
            f"got {tuple(images.shape)} and {tuple(landmarks.shape)}"
        )
    if fill not in FILLS:
        raise ValueError(f"fill must be one of {', '.join(map(repr, FILLS))}: got {fill!r}")
    n, _, h, w = images.shape
    if readable(landmarks):
        inside = (landmarks >= -0.5).all() and (landmarks <= landmarks.new_tensor([w - 0.5, h - 0.5])).all()
        if not inside:
            raise ValueError(f"landmarks must lie inside the images of {h} x {w}: got {landmarks.min().item():.4g}")
    x = landmarks[..., 0]
    cut = (((x[:, 0] + x[:, 1]) / 2 + x[:, 2]) / 2 + 0.5).to(images.dtype)  # as a distance from the left edge
    if readable(cut) and not ((cut > 0.5) & (cut < w - 0.5)).all():
        raise ValueError("landmarks must leave something on both sides of the cut: got one at the edge")
    half = (w + 1) // 2
    places = (torch.arange(half, device=images.device, dtype=images.dtype) + 0.5) / (
        w / 2
    )  # 0 at the edge, 1 at the cut
    places = places.clamp(max=1.0)
    rows = (2 * torch.arange(h, device=images.device, dtype=images.dtype) + 1) / h - 1
    halves = []
    for distance, mirrored in ((cut, False), (w - cut, True)):
        across = 2 * places * distance[:, None] / w - 1
        grid = torch.stack(
            [(-across if mirrored else across)[:, None].expand(n, h, half), rows[None, :, None].expand(n, h, half)], 3
        )
        part = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        other = part.flip(3) if fill == "mirror" else torch.zeros_like(part)
        halves.append(torch.cat([part, other[..., half - w // 2 :]], 3))
    return halves[0], halves[1]


class SymFaceLoss(nn.Module):
    r"""$L_\text{face} + \lambda \cdot$ mean over frontal faces of $\|e(\text{left}) - e(\text{right})\|_2$.

    $e$ is the embedding, of length 1, of each half as `split_face` completes it; the halves carry no other loss. A
    batch without a frontal face has only the first term. Gradients flow through both halves; whole faces and halves go
    through the network in one batch each.

    Args:
        base: the face loss, called with embeddings and labels, such as `ArcFace`.
        weight: $\lambda$, 0 or more; 0 does not look at halves at all.
        threshold: a face is frontal from this `frontness` on, in [0, 1].
        fill: how halves are completed, "mirror" or "zero".

    Called with (embed, images, labels (n), landmarks (n, 3, 2)); `embed` is the network.

    The paper: section 3 (arXiv:2409.11816).

    Raises:
        ValueError: for arguments out of range; when called, as `split_face` and the base loss say.

    Example:
        >>> base = lambda embeddings, labels: embeddings.sum() * 0.0
        >>> embed = lambda images: images[..., 0, :2].flatten(1)
        >>> points = torch.tensor([[[0.5, 0.0], [2.5, 0.0], [1.5, 0.0]]])
        >>> loss = SymFaceLoss(base, weight=1.0)
        >>> loss(embed, torch.tensor([[[[3.0, 4.0, 4.0, 3.0]]]]), torch.tensor([0]), points).item() < 1e-5
        True
        >>> round(loss(embed, torch.tensor([[[[3.0, 4.0, 3.0, 4.0]]]]), torch.tensor([0]), points).item(), 4)
        0.2828
    """

    def __init__(
        self,
        base: nn.Module | Callable[[Tensor, Tensor], Tensor],
        *,
        weight: float = 1.0,
        threshold: float = 0.8,
        fill: str = "mirror",
    ) -> None:
        super().__init__()
        if not callable(base):
            raise TypeError(f"base must be a loss of embeddings and labels: got {type(base).__name__}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be finite and 0 or more: got {weight}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1]: got {threshold}")
        if fill not in FILLS:
            raise ValueError(f"fill must be one of {', '.join(map(repr, FILLS))}: got {fill!r}")
        self.base, self.weight, self.threshold, self.fill = base, weight, threshold, fill

    def forward(
        self,
        embed: Callable[[Tensor], Tensor],
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        landmarks: Float[Tensor, "n 3 2"],
    ) -> Float[Tensor, ""]:
        loss: Tensor = self.base(embed(images), labels)
        if self.weight == 0:
            return loss
        frontal = frontness(landmarks) >= self.threshold
        if not frontal.any():
            return loss
        left, right = split_face(images[frontal], landmarks[frontal], fill=self.fill)
        both = F.normalize(embed(torch.cat([left, right])), dim=1)
        apart = both[: len(left)] - both[len(left) :]
        # The root of what is never exactly 0 has a slope everywhere.
        return loss + self.weight * (apart.square().sum(1) + 1e-12).sqrt().mean()

    def extra_repr(self) -> str:
        return f"weight={self.weight}, threshold={self.threshold}, fill={self.fill!r}"


def _check_landmarks(landmarks: Tensor) -> None:
    if landmarks.ndim != 3 or landmarks.shape[1:] != (3, 2):
        raise ValueError(f"landmarks must be (n, 3, 2): got {tuple(landmarks.shape)}")
    check_finite(landmarks=landmarks)
    if readable(landmarks) and (landmarks[:, 0, 0] == landmarks[:, 1, 0]).any():
        raise ValueError("landmarks must have the eyes side by side: got one above the other")
