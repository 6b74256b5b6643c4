"""ArcFace: classes on a sphere, with a margin between them (Deng et al., 2018, arXiv:1801.07698)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_labels
from .reduction import check_reduction


class ArcFace(nn.Module):
    r"""Cross-entropy of $s \cos(\theta_y + m)$ for the right class and $s \cos \theta_j$ for the others.

    $\theta_j$ is the angle between an embedding and the (learned) direction of class j. Where $\theta_y + m > \pi$ the
    right class has $s (\cos \theta_y - m \sin m)$ instead, which goes on falling.

    Args:
        dim: numbers of an embedding.
        num_classes: at least 2.
        s: scale, positive; 64 in the paper, less for few classes.
        m: margin in radians, in [0, pi / 2].
        reduction: "none", "mean" or "sum".

    Called with embeddings (n, dim) and targets (n). Give the optimizer its `weight` (num_classes, dim) too.

    The paper: equation 3.

    Raises:
        ValueError: for arguments out of range; when called, as `check_labels` says.

    Example:
        >>> loss = ArcFace(2, 2, s=2.0, m=math.pi / 6)
        >>> loss.weight.data = torch.eye(2)
        >>> value = loss(torch.tensor([[5.0, 0.0]]), torch.tensor([0]))  # 2 cos 30 degrees against 2 cos 90 degrees
        >>> round(value.item(), 4) == round(math.log(1 + math.exp(-(3**0.5))), 4)
        True
    """

    def __init__(self, dim: int, num_classes: int, *, s: float = 64.0, m: float = 0.5, reduction: str = "mean") -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1: got {dim}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: got {num_classes}")
        if not 0 < s < math.inf:
            raise ValueError(f"s must be positive and finite: got {s}")
        if not 0 <= m <= math.pi / 2:
            raise ValueError(f"m must lie in [0, pi / 2]: got {m}")
        self.s, self.m, self.reduction = s, m, check_reduction(reduction)
        self.weight = nn.Parameter(torch.randn(num_classes, dim) * dim**-0.5)

    def forward(self, embeddings: Float[Tensor, "n dim"], targets: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        with torch.autocast(embeddings.device.type, enabled=False):
            x = F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=1)
            cosine = x @ F.normalize(self.weight, dim=1).to(x.dtype).T
            check_labels(cosine, targets, dense=False, name="embeddings")
            right = cosine.gather(1, targets.long()[:, None])
            # cos(theta + m) by the sum of angles; the sine's slope is kept finite where the angle is 0.
            sine = (1 - right.square()).clamp_min(1e-9).sqrt()
            moved = right * math.cos(self.m) - sine * math.sin(self.m)
            moved = torch.where(right > math.cos(math.pi - self.m), moved, right - self.m * math.sin(self.m))
            if self.m == 0:
                moved = right
            logits = self.s * cosine.scatter(1, targets.long()[:, None], moved)
            return F.cross_entropy(logits, targets.long(), reduction=self.reduction)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, s={self.s}, m={self.m}"
