"""Pinhole cameras and their rays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A pinhole.

    Args:
        position: where it is.
        target: what it looks at; not straight above or below.
        fov: opening angle from top to bottom, in radians, in (0, pi).
        size: height and width of the picture in pixels.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> origins, directions = Camera(position=(0, 0, 0), target=(0, 0, 1), size=(1, 1)).rays()
        >>> directions[0, 0].tolist()
        [0.0, 0.0, 1.0]
    """

    position: tuple[float, float, float] = (0.0, 1.5, -4.0)
    target: tuple[float, float, float] = (0.0, 0.8, 1.0)
    fov: float = 0.9
    size: tuple[int, int] = (32, 32)

    def __post_init__(self) -> None:
        if not 0 < self.fov < math.pi:
            raise ValueError(f"fov must lie in (0, pi): got {self.fov}")
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1 x 1: got {self.size}")
        ahead = [b - a for a, b in zip(self.position, self.target, strict=True)]
        if math.hypot(ahead[0], ahead[2]) < 1e-9:
            raise ValueError(f"target must not be straight above or below position: got {self.target}")

    def rays(self) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w 3"]]:
        """Origins and unit directions through the middle of each pixel, the upper left one first."""
        position = torch.tensor(self.position, dtype=torch.float32)
        ahead = torch.nn.functional.normalize(torch.tensor(self.target, dtype=torch.float32) - position, dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), ahead), dim=0)
        up = torch.linalg.cross(ahead, right)
        height, width = self.size
        reach = math.tan(self.fov / 2)
        y = (1 - (2 * torch.arange(height) + 1) / height) * reach
        x = ((2 * torch.arange(width) + 1) / width - 1) * reach * width / height
        directions = ahead + y[:, None, None] * up + x[None, :, None] * right
        directions = torch.nn.functional.normalize(directions, dim=2)
        return position.expand_as(directions), directions


def orbit_cameras(
    count: int,
    *,
    target: tuple[float, float, float] = (0.0, 0.6, 1.0),
    radius: float = 5.0,
    elevation: float = 0.45,
    start: float = 0.0,
    fov: float = 0.9,
    size: tuple[int, int] = (32, 32),
) -> list[Camera]:
    """Cameras evenly round a target, all at one height.

    Args:
        count: at least 1.
        target: what they look at.
        radius: distance from it, positive.
        elevation: above the horizon, in radians, in (-pi / 2, pi / 2).
        start: azimuth of the first.
        fov: opening angle.
        size: pixels.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> cameras = orbit_cameras(2, target=(0, 0, 0), elevation=0.0)
        >>> [[round(value, 2) + 0.0 for value in camera.position] for camera in cameras]
        [[5.0, 0.0, 0.0], [-5.0, 0.0, 0.0]]
    """
    if count < 1:
        raise ValueError(f"count must be at least 1: got {count}")
    if not radius > 0:
        raise ValueError(f"radius must be positive: got {radius}")
    if not abs(elevation) < math.pi / 2:
        raise ValueError(f"elevation must lie in (-pi / 2, pi / 2): got {elevation}")
    cameras = []
    for number in range(count):
        turn = start + 2 * math.pi * number / count
        flat = radius * math.cos(elevation)
        x, y, z = target
        position = (x + flat * math.cos(turn), y + radius * math.sin(elevation), z + flat * math.sin(turn))
        cameras.append(Camera(position, target, fov, size))
    return cameras
