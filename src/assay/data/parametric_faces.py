"""Faces drawn from fourteen numbers, where no photographs of people are needed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

FEATURES = 14
"""Numbers that make an identity."""


class Faces(NamedTuple):
    """images (n, 1, size, size) in [0, 1]; labels (n,) int64; landmarks (n, 3, 2): left eye, right eye, nose, (x, y)
    in pixels, (0, 0) being the middle of the first one."""

    images: Float[Tensor, "n 1 h w"]
    labels: Int[Tensor, " n"]
    landmarks: Float[Tensor, "n 3 2"]


def parametric_faces(
    identities: int,
    per_identity: int,
    *,
    size: int = 32,
    spread: float = 1.0,
    asymmetry: float = 0.0,
    noise: float = 0.05,
    generator: torch.Generator | None = None,
) -> Faces:
    """Grey faces made of soft ellipses, symmetric in themselves, seen under one-sided nuisances.

    An identity is fourteen numbers: width and height of the face, distance, size and height of the eyes, tilt and
    height of the brows, length and width of the nose, width and height of the mouth, hairline, skin and eye colour.
    Every image adds a ramp of light from left to right (gain 0.5 to 1.5 at one edge), a mouth corner and an eyelid of
    one side that move, for two in five a turn of the head that shifts nose, mouth and eyes by up to half the eyes'
    distance, and noise.

    Args:
        identities: at least 1.
        per_identity: images of each, at least 1.
        size: height and width in pixels, at least 16.
        spread: how far identities differ, 0 or more; the smaller, the harder they are to tell apart.
        asymmetry: how much the two sides of an identity differ by themselves, 0 or more; 1 moves features by about a
            tenth of the face.
        noise: standard deviation of the pixels' noise, 0 or more.
        generator: where everything comes from; None is torch's global generator.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> faces = parametric_faces(2, 3, generator=torch.Generator().manual_seed(0))
        >>> faces.images.shape, faces.labels.tolist()
        (torch.Size([6, 1, 32, 32]), [0, 0, 0, 1, 1, 1])
    """
    for name, value, least in (("identities", identities, 1), ("per_identity", per_identity, 1), ("size", size, 16)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}: got {value}")
    for name, amount in (("spread", spread), ("asymmetry", asymmetry), ("noise", noise)):
        if not 0 <= amount < float("inf"):
            raise ValueError(f"{name} must be finite and 0 or more: got {amount}")

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    n = identities * per_identity
    person = (spread * (2 * draw(identities, FEATURES) - 1)).repeat_interleave(per_identity, 0)
    side = (2 * draw(identities, 4) - 1).repeat_interleave(per_identity, 0) * asymmetry
    labels = torch.arange(identities).repeat_interleave(per_identity)
    ramp, lid, corner, turn = (2 * draw(4, n) - 1).unbind()
    turn = torch.where(draw(n) < 0.4, turn / 2, torch.zeros(n))

    def feature(number: int, middle: float, spread: float) -> Tensor:
        return middle + spread * person[:, number]

    face_w, face_h = feature(0, 0.62, 0.1), feature(1, 0.78, 0.1)
    eye_gap, eye_size, eye_y = feature(2, 0.26, 0.06), feature(3, 0.09, 0.03), feature(4, -0.15, 0.07)
    tilt, brow_y = feature(5, 0.0, 0.06), feature(6, 0.16, 0.04)
    nose_l, nose_w = feature(7, 0.2, 0.06), feature(8, 0.08, 0.03)
    mouth_w, mouth_y, hair = feature(9, 0.24, 0.07), feature(10, 0.42, 0.06), feature(11, -0.5, 0.12)
    skin, eye_colour = feature(12, 0.65, 0.12), feature(13, 0.25, 0.12)

    grid = (torch.arange(size) + 0.5) / size * 2 - 1
    x, y = grid.view(1, 1, -1), grid.view(1, -1, 1)
    soft = 1.5 * 2 / size  # edges as wide as a pixel and a half

    def column(value: Tensor) -> Tensor:
        return value.view(-1, 1, 1)

    def ellipse(cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor, slope: Tensor | None = None) -> Tensor:
        dx, dy = x - column(cx), y - column(cy)
        if slope is not None:
            dy = dy - column(slope) * dx
        radius = ((dx / column(rx)) ** 2 + (dy / column(ry)) ** 2).clamp_min(1e-9).sqrt()
        return torch.sigmoid((1 - radius) * column(torch.minimum(rx, ry)) * 4 / soft)

    zero = torch.zeros(n)
    image = torch.full((n, size, size), 0.15)

    def paint(where: Tensor, colour: Tensor) -> None:
        image.lerp_(column(colour).expand_as(image), where)

    paint(ellipse(zero, zero, face_w, face_h), skin)
    paint(ellipse(zero, zero, face_w, face_h) * torch.sigmoid((column(hair) - y) * 4 / soft), 0.3 * skin)
    shift = 2 * turn * eye_gap
    for sign, number in ((-1.0, 0), (1.0, 1)):
        own = sign * side[:, number] * 0.1
        cx, cy = sign * eye_gap + shift * 0.8, eye_y + own
        closing = (lid * sign).clamp_min(0) * 0.6
        paint(ellipse(cx, cy, eye_size * 1.5, eye_size * (1 - closing)), torch.full((n,), 0.95))
        paint(ellipse(cx, cy, eye_size * 0.7, eye_size * 0.7 * (1 - closing)), eye_colour)
        brow = eye_y - brow_y + sign * side[:, 2] * 0.08
        paint(ellipse(cx, brow, eye_size * 1.8, torch.full((n,), 0.03), sign * tilt * 3), 0.35 * skin)
        smile = 0.12 * (corner * sign).clamp_min(0) + sign * side[:, 3] * 0.06
        paint(ellipse(sign * mouth_w / 2 + shift, mouth_y - smile, mouth_w / 1.8, torch.full((n,), 0.05)), 0.45 * skin)
    nose_y = eye_y + nose_l + 0.08
    paint(ellipse(shift, nose_y, nose_w, nose_l), 0.85 * skin)
    image = image * (1 + 0.5 * column(ramp) * x)
    image = (image + noise * torch.randn(n, size, size, generator=generator)).clamp(0, 1)
    eyes = [torch.stack([sign * eye_gap + shift * 0.8, eye_y], 1) for sign in (-1.0, 1.0)]
    points = torch.stack([*eyes, torch.stack([shift, nose_y], 1)], 1)
    return Faces(image[:, None], labels, (points + 1) / 2 * size - 0.5)
