"""Clips of small worlds in motion, each under several lights, with the depth of every frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .scenes import Camera, Light, Scene, random_scene, shade, trace

ABOVE = Camera(position=(0.0, 6.0, -1.5), target=(0.0, 0.3, 1.0), fov=0.8)
"""From high above: every ray meets something, and depth is in the things more than in the floor."""


class Clips(NamedTuple):
    """`frames` (lights, n, t, 3, h, w) in [0, 1], `depth` (n, t, 1, h, w): the same worlds under every light."""

    frames: Float[Tensor, "lights n t 3 h w"]
    depth: Float[Tensor, "n t 1 h w"]


def moving_scene(
    generator: torch.Generator | None = None,
    *,
    moments: int = 8,
    objects: tuple[int, int] = (2, 4),
    spread: float = 2.0,
    speed: float = 0.3,
) -> list[Scene]:
    r"""One world at several moments: every object glides over the floor and is thrown back at the sides of a square.

    An object at $x$ of velocity $v$ is at $s - |((x + v t + s) \bmod 4 s) - 2 s|$ at moment t, along either axis, with
    s = `spread`. Objects pass through each other.

    Args:
        generator: where it comes from; the world of moment 0 is that of `random_scene`.
        moments: at least 1.
        objects: least and most of them.
        spread: half the side of the square, positive.
        speed: largest way along an axis from one moment to the next, in [0, spread].

    Raises:
        ValueError: for values out of range.

    Example:
        >>> first, second = moving_scene(torch.Generator().manual_seed(0), moments=2, objects=(2, 2), speed=0.5)
        >>> step = torch.cat([second.spheres - first.spheres, (second.boxes - first.boxes)[:, :4]])[:, :3].abs()
        >>> bool((step[:, [0, 2]] <= 0.5).all()), bool((step[:, [0, 2]] > 0).all()), step[:, 1].sum().item()
        (True, True, 0.0)
    """
    if moments < 1:
        raise ValueError(f"moments must be at least 1: got {moments}")
    if not spread > 0:
        raise ValueError(f"spread must be positive: got {spread}")
    if not 0 <= speed <= spread:
        raise ValueError(f"speed must lie in [0, spread]: got {speed} with spread {spread}")
    scene = random_scene(generator, objects=objects, spread=spread)
    middle = torch.tensor([0.0, 1.0])
    start = torch.cat([scene.spheres, scene.boxes[:, :4]])[:, [0, 2]] - middle
    velocity = speed * (2 * torch.rand(len(start), 2, generator=generator) - 1)
    times = torch.arange(float(moments))[:, None, None]
    folded = (start + times * velocity + spread).remainder(4 * spread)
    shift = torch.zeros(moments, len(start), 3)
    shift[:, :, [0, 2]] = spread - (folded - 2 * spread).abs() - start
    count = len(scene.spheres)
    return [scene, *(scene.moved(each[:count], each[count:]) for each in shift[1:])]


def moving_scenes(
    count: int,
    lights: Sequence[Light] | Callable[[torch.Generator | None], Light],
    generator: torch.Generator | None = None,
    *,
    moments: int = 8,
    camera: Camera = ABOVE,
    far: float = 20.0,
    objects: tuple[int, int] = (2, 4),
    spread: float = 2.0,
    speed: float = 0.3,
) -> Clips:
    """Clips of worlds in motion; light changes colours and nothing else, bit for bit.

    Args:
        count: worlds, at least 1.
        lights: each world is seen under every one of them; or a function of the generator that makes a light, which
            is then called once for each world, and `frames` has one light.
        generator: where all of it comes from.
        moments: frames of a clip, at least 1.
        camera: where it is seen from; 32 x 32 pixels by default.
        far: depth, along the ray, where there is nothing or what there is is farther; positive.
        objects: least and most of them in a world.
        spread: half the side of the square in which they move.
        speed: largest way along an axis from one frame to the next.

    Ziskind et al., 2022 (arXiv:2207.02972): a data set whose light is a parameter, all else the same.

    Differs from the paper: its worlds are streets of a game engine.

    Raises:
        ValueError: for values out of range, no lights.

    Example:
        >>> seen = moving_scenes(2, [Light(0.2), Light(0.8)], torch.Generator().manual_seed(0), moments=3)
        >>> seen.frames.shape, seen.depth.shape, bool((seen.frames[0] <= seen.frames[1]).all())
        (torch.Size([2, 2, 3, 3, 32, 32]), torch.Size([2, 3, 1, 32, 32]), True)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1: got {count}")
    if not callable(lights) and len(lights) == 0:
        raise ValueError("lights must be at least one: got none")
    if not far > 0:
        raise ValueError(f"far must be positive: got {far}")
    rays = camera.rays()
    worlds, depths = [], []
    for _ in range(count):
        world = moving_scene(generator, moments=moments, objects=objects, spread=spread, speed=speed)
        under = [lights(generator)] if callable(lights) else lights
        seen = [_seen(scene, under, *rays) for scene in world]
        worlds.append(torch.stack([frames for frames, _ in seen], 1))
        depths.append(torch.stack([depth for _, depth in seen]).clamp_max(far))
    return Clips(torch.stack(worlds, 1), torch.stack(depths))


def _seen(scene: Scene, lights: Sequence[Light], origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """(frames (lights, 3, h, w), depth (1, h, w)); rays are cast once for all lights."""
    height, width = origins.shape[:2]
    origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
    hits = trace(scene, origins, directions)
    hit = hits.object_id >= 0
    frames = scene.background.expand(len(lights), len(hit), 3).clone()
    if hit.any():
        met = type(hits)(*(each[hit] for each in hits))
        for number, light in enumerate(lights):
            frames[number, hit] = shade(scene, light, origins[hit], directions[hit], met)
    return frames.transpose(1, 2).reshape(len(lights), 3, height, width), hits.distance.view(1, height, width)
