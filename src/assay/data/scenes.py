"""Small worlds of spheres and boxes over a floor, cast by rays: pictures with exact depth, normals and a light to turn.

    scene = random_scene(generator)
    shot = render(scene, Light(azimuth=0.5), Camera(size=(64, 64)))
    shot.rgb, shot.depth

Lengths are in the scene's own unit, angles in radians, y points up. Changing the light changes colours and nothing
else, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .cameras import Camera, orbit_cameras

__all__ = ["Camera", "Hits", "Light", "Scene", "Shot", "orbit_cameras", "random_scene", "render", "shade", "trace"]

FAR = 1e6
LIFT = 1e-4


@dataclass(frozen=True)
class Scene:
    """What is there.

    Args:
        spheres: centers and radii, (s, 4).
        sphere_colors: (s, 3) in [0, 1].
        boxes: centers and half sizes along the axes, (b, 6).
        box_colors: (b, 3) in [0, 1].
        floor: height of the floor; None for no floor.
        floor_colors: two colours of its squares, (2, 3); the same twice for a plain one.
        tile: side of a square of the floor.
        background: colour where no ray hits, (3,).

    Raises:
        ValueError: for shapes that do not fit, radii or half sizes that are not positive.

    Example:
        >>> Scene(spheres=torch.tensor([[0.0, 1.0, 4.0, 1.0]]), sphere_colors=torch.ones(1, 3)).objects
        2
    """

    spheres: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    sphere_colors: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 6))
    box_colors: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    floor: float | None = 0.0
    floor_colors: Tensor = field(default_factory=lambda: torch.tensor([[0.75] * 3, [0.55] * 3]))
    tile: float = 1.0
    background: Tensor = field(default_factory=lambda: torch.tensor([0.6, 0.75, 0.9]))

    def __post_init__(self) -> None:
        for name, colors, columns in (("spheres", "sphere_colors", 4), ("boxes", "box_colors", 6)):
            shapes, paint = getattr(self, name), getattr(self, colors)
            if shapes.shape != (len(shapes), columns) or paint.shape != (len(shapes), 3):
                raise ValueError(
                    f"{name} must be (n, {columns}) and {colors} (n, 3): got {tuple(shapes.shape)} and "
                    f"{tuple(paint.shape)}"
                )
            if len(shapes) and not (shapes[:, 3:] > 0).all():
                raise ValueError(f"{name} must have positive sizes: got {shapes[:, 3:].min().item()}")
        if self.floor_colors.shape != (2, 3) or self.background.shape != (3,):
            raise ValueError("floor_colors must be (2, 3) and background (3,)")
        if not self.tile > 0:
            raise ValueError(f"tile must be positive: got {self.tile}")

    @property
    def objects(self) -> int:
        """Spheres, boxes and the floor."""
        return len(self.spheres) + len(self.boxes) + (self.floor is not None)

    def moved(self, spheres: Float[Tensor, "s 3"], boxes: Float[Tensor, "b 3"]) -> Scene:
        """The same things elsewhere: displacements of the spheres and of the boxes."""
        still_s, still_b = torch.zeros(len(self.spheres), 1), torch.zeros(len(self.boxes), 3)
        return replace(
            self,
            spheres=self.spheres + torch.cat([spheres, still_s], 1),
            boxes=self.boxes + torch.cat([boxes, still_b], 1),
        )


@dataclass(frozen=True)
class Light:
    """A sun, and light from everywhere.

    Args:
        ambient: share of the light that comes from everywhere, in [0, 1]; the sun gives the rest.
        azimuth: where the sun stands, in radians from the x axis towards z.
        elevation: how high, in radians, in (0, pi / 2].
        shadow: how much of the sun a shadow takes, in [0, 1]; 0 casts no shadow rays.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> [round(value, 4) + 0.0 for value in Light(elevation=math.pi / 2).direction.tolist()]
        [0.0, 1.0, 0.0]
    """

    ambient: float = 0.3
    azimuth: float = 0.8
    elevation: float = 0.9
    shadow: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ambient", "shadow"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1]: got {getattr(self, name)}")
        if not 0 < self.elevation <= math.pi / 2:
            raise ValueError(f"elevation must lie in (0, pi / 2]: got {self.elevation}")

    @property
    def direction(self) -> Float[Tensor, " 3"]:
        """Unit vector towards the sun."""
        flat = math.cos(self.elevation)
        return torch.tensor([flat * math.cos(self.azimuth), math.sin(self.elevation), flat * math.sin(self.azimuth)])


class Shot(NamedTuple):
    """What a camera sees.

    `rgb` (3, h, w) in [0, 1]; `depth` (h, w), distance along the ray, infinite where nothing is hit; `acc` (h, w), 1
    where something is hit; `object_id` (h, w), spheres first, then boxes, then the floor, -1 for nothing; `normal` (3,
    h, w), unit vectors, 0 for nothing.
    """

    rgb: Float[Tensor, "3 h w"]
    depth: Float[Tensor, "h w"]
    acc: Float[Tensor, "h w"]
    object_id: Int[Tensor, "h w"]
    normal: Float[Tensor, "3 h w"]


class Hits(NamedTuple):
    """The first thing along each ray: distance (n,), object (n,), normal (n, 3), color (n, 3); inf and -1 for none."""

    distance: Tensor
    object_id: Tensor
    normal: Tensor
    color: Tensor


def render(scene: Scene, light: Light | None = None, camera: Camera | None = None) -> Shot:
    r"""A picture of a scene with Lambert shading and cast shadows, and what is known about each pixel.

    Colour is albedo times $a + (1 - a)\, \max(0, n \cdot l)\, (1 - s\, [\text{shadowed}])$ with the light's ambient
    share a and shadow strength s.

    Args:
        scene: what is there.
        light: None is `Light()`.
        camera: None is `Camera()`.

    Example:
        >>> scene = Scene(spheres=torch.tensor([[0.0, 0.0, 5.0, 1.0]]), sphere_colors=torch.ones(1, 3), floor=None)
        >>> shot = render(scene, Light(ambient=1.0), Camera(position=(0, 0, 0), target=(0, 0, 1), size=(3, 3)))
        >>> shot.depth[1, 1].item(), shot.normal[:, 1, 1].tolist(), shot.rgb[:, 1, 1].tolist()
        (4.0, [0.0, 0.0, -1.0], [1.0, 1.0, 1.0])
    """
    light, camera = light or Light(), camera or Camera()
    origins, directions = (each.reshape(-1, 3) for each in camera.rays())
    hits = trace(scene, origins, directions)
    hit = hits.object_id >= 0
    rgb = scene.background.expand(len(hit), 3).clone()
    if hit.any():
        rgb[hit] = shade(scene, light, origins[hit], directions[hit], Hits(*(each[hit] for each in hits)))
    height, width = camera.size
    return Shot(
        rgb.T.reshape(3, height, width),
        hits.distance.view(height, width),
        hit.float().view(height, width),
        hits.object_id.view(height, width),
        hits.normal.T.reshape(3, height, width),
    )


def shade(
    scene: Scene, light: Light, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], hits: Hits
) -> Float[Tensor, "n 3"]:
    """Colours of places that rays have hit; see `render`."""
    towards = light.direction
    sun = (hits.normal @ towards).clamp_min(0)
    if light.shadow > 0:
        places = origins + hits.distance[:, None] * directions + LIFT * hits.normal
        blocked = trace(scene, places, towards.expand_as(places)).object_id >= 0
        sun = sun * (1 - light.shadow * blocked)
    return hits.color * (light.ambient + (1 - light.ambient) * sun)[:, None]


def trace(scene: Scene, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Hits:
    """The first thing along each ray.

    Args:
        scene: what is there.
        origins: where rays start.
        directions: unit vectors.

    Example:
        >>> scene = Scene(boxes=torch.tensor([[0.0, 0.0, 5.0, 1.0, 1.0, 2.0]]), box_colors=torch.ones(1, 3), floor=-1.0)
        >>> hits = trace(scene, torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]))
        >>> hits.distance.tolist(), hits.object_id.tolist(), hits.normal.tolist()
        ([3.0, 1.0], [0, 1], [[0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    """
    n = len(origins)
    distances = [_spheres(scene, origins, directions), _boxes(scene, origins, directions)]
    if scene.floor is not None:
        down = directions[:, 1]
        reach = (scene.floor - origins[:, 1]) / torch.where(down.abs() < 1e-12, -1e-12, down)
        distances.append(torch.where((reach > 0) & (down < 0), reach, torch.inf)[:, None])
    every = torch.cat(distances, 1)
    if every.shape[1] == 0:
        nothing = torch.full((n,), torch.inf)
        return Hits(nothing, torch.full((n,), -1), torch.zeros(n, 3), torch.zeros(n, 3))
    distance, first = every.min(1)
    found = distance.isfinite() & (distance < FAR)
    distance = torch.where(found, distance, torch.inf)
    first = torch.where(found, first, -1)
    places = origins + torch.where(found, distance, 0.0)[:, None] * directions
    normal, color = torch.zeros(n, 3), torch.zeros(n, 3)
    count, boxes = len(scene.spheres), len(scene.boxes)
    on = (first >= 0) & (first < count)
    normal[on] = (places[on] - scene.spheres[first[on], :3]) / scene.spheres[first[on], 3:]
    color[on] = scene.sphere_colors[first[on]]
    on = (first >= count) & (first < count + boxes)
    which = first[on] - count
    inside = (places[on] - scene.boxes[which, :3]) / scene.boxes[which, 3:]
    face = inside.abs().argmax(1, keepdim=True)
    normal[on] = torch.zeros_like(inside).scatter(1, face, inside.gather(1, face).sign())
    color[on] = scene.box_colors[which]
    on = first == count + boxes
    normal[on] = torch.tensor([0.0, 1.0, 0.0])
    square = (places[on][:, [0, 2]] / scene.tile).floor().sum(1).long() % 2
    color[on] = scene.floor_colors[square]
    return Hits(distance, first, normal, color)


def random_scene(
    generator: torch.Generator | None = None, *, objects: tuple[int, int] = (2, 4), spread: float = 2.0
) -> Scene:
    """Spheres and boxes of random place, size and colour, standing on the floor in front of the default camera.

    Args:
        generator: where it comes from.
        objects: least and most of them, each as likely a sphere as a box.
        spread: half the side of the square in which they stand.

    Raises:
        ValueError: for numbers of objects that are no range.

    Example:
        >>> scene = random_scene(torch.Generator().manual_seed(0), objects=(3, 3))
        >>> scene.objects, bool((scene.spheres[:, 1] == scene.spheres[:, 3]).all())
        (4, True)
    """
    least, most = objects
    if not 1 <= least <= most:
        raise ValueError(f"objects must be a range from 1: got {objects}")
    count = int(torch.randint(least, most + 1, (), generator=generator))
    kinds = torch.rand(count, generator=generator) < 0.5
    places = (2 * torch.rand(count, 2, generator=generator) - 1) * spread
    sizes = 0.3 + 0.5 * torch.rand(count, 3, generator=generator)
    colors = 0.15 + 0.8 * torch.rand(count, 3, generator=generator)
    floor = 0.45 + 0.4 * torch.rand(2, 1, generator=generator).expand(2, 3)
    x, z = places[:, :1], places[:, 1:] + 1
    spheres = torch.cat([x, sizes[:, :1], z, sizes[:, :1]], 1)
    boxes = torch.cat([x, sizes[:, 1:2], z, sizes], 1)
    return Scene(spheres[kinds], colors[kinds], boxes[~kinds], colors[~kinds], floor_colors=floor)


def _spheres(scene: Scene, origins: Tensor, directions: Tensor) -> Tensor:
    """Distances to each sphere, (n, s)."""
    apart = origins[:, None] - scene.spheres[None, :, :3]
    along = (apart * directions[:, None]).sum(2)
    # The part across the ray, not the difference of two squares, which far rays would lose in rounding.
    across = (apart - along[:, :, None] * directions[:, None]).square().sum(2)
    under = scene.spheres[:, 3].square() - across
    half = under.clamp_min(0).sqrt()
    near, far = -along - half, -along + half
    return torch.where(under > 0, torch.where(near > 0, near, torch.where(far > 0, far, torch.inf)), torch.inf)


def _boxes(scene: Scene, origins: Tensor, directions: Tensor) -> Tensor:
    """Distances to each box, (n, b), by slabs."""
    safe = torch.where(directions.abs() < 1e-12, 1e-12, directions)[:, None]
    apart = scene.boxes[None, :, :3] - origins[:, None]
    one, two = (apart - scene.boxes[None, :, 3:]) / safe, (apart + scene.boxes[None, :, 3:]) / safe
    near, far = torch.minimum(one, two).amax(2), torch.maximum(one, two).amin(2)
    hit = (near < far) & (far > 0)
    return torch.where(hit, torch.where(near > 0, near, far), torch.inf)
