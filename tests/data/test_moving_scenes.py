"""Worlds in motion: the way of a thing by steps, frames against the renderer, light that changes light alone."""

import pytest
import torch

from assay.data import moving_scene, moving_scenes
from assay.data.scenes import Camera, Light, random_scene, render


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def places(scene):
    return torch.cat([scene.spheres[:, :3], scene.boxes[:, :3]])


def test_it_starts_as_a_still_scene_and_only_places_change():
    world, still = moving_scene(seeded(3), moments=4), random_scene(seeded(3))
    assert torch.equal(world[0].spheres, still.spheres)
    assert torch.equal(world[0].boxes, still.boxes)
    for scene in world:
        assert torch.equal(scene.spheres[:, 3], still.spheres[:, 3])
        assert torch.equal(scene.boxes[:, 3:], still.boxes[:, 3:])
        assert torch.equal(places(scene)[:, 1], places(still)[:, 1])


@pytest.mark.parametrize("seed", range(4))
def test_thrown_back_step_by_step(seed):
    """Walked one step at a time: a step over the side goes back by what it went over, and turns."""
    spread, moments = 1.0, 30
    world = moving_scene(seeded(seed), moments=moments, objects=(3, 3), spread=spread, speed=0.6)
    way = torch.stack([places(scene) for scene in world])[:, :, [0, 2]].double() - torch.tensor([0.0, 1.0])
    x = way[0].clone()
    first = way[1] - way[0]
    generator = seeded(seed)
    random_scene(generator, objects=(3, 3), spread=spread)
    v = (0.6 * (2 * torch.rand(3, 2, generator=generator) - 1)).double()
    assert (first.abs() <= v.abs() + 1e-6).all()
    turned = 0
    for t in range(1, moments):
        x = x + v
        over, under = x > spread, x < -spread
        x = torch.where(over, 2 * spread - x, torch.where(under, -2 * spread - x, x))
        v = torch.where(over | under, -v, v)
        turned += int((over | under).sum())
        torch.testing.assert_close(way[t], x, rtol=0, atol=1e-4)  # 30 steps of float32 near 10
    assert turned > 3
    assert way.abs().max() <= spread + 1e-6


def test_frames_are_what_the_renderer_sees():
    lights, camera = [Light(0.2), Light(0.7, azimuth=3.0, shadow=0.3)], Camera(size=(12, 16))
    seen = moving_scenes(2, lights, seeded(1), moments=3, camera=camera, far=9.0)
    generator = seeded(1)
    for n in range(2):
        for t, scene in enumerate(moving_scene(generator, moments=3)):
            for number, light in enumerate(lights):
                shot = render(scene, light, camera)
                assert torch.equal(seen.frames[number, n, t], shot.rgb)
                assert torch.equal(seen.depth[n, t, 0], shot.depth.clamp_max(9.0))
    assert (seen.depth == 9.0).any()  # sky


def test_light_changes_colours_alone():
    dim, bright = (moving_scenes(2, [Light(a)], seeded(2), moments=2) for a in (0.1, 0.9))
    assert torch.equal(dim.depth, bright.depth)
    assert not torch.equal(dim.frames, bright.frames)
    assert dim.depth.isfinite().all()
    assert dim.depth.max() < 20  # the default camera sees no sky


def test_a_light_for_each_world():
    def light(generator):
        return Light(ambient=torch.rand((), generator=generator).item())

    one, two = moving_scenes(3, light, seeded(5), moments=2), moving_scenes(3, light, seeded(5), moments=2)
    assert one.frames.shape == (1, 3, 2, 3, 32, 32)
    assert torch.equal(one.frames, two.frames)
    generator = seeded(5)
    for n in range(3):
        world = moving_scene(generator, moments=2)
        seen = render(world[1], light(generator), Camera((0.0, 6.0, -1.5), (0.0, 0.3, 1.0), 0.8))
        assert torch.equal(one.frames[0, n, 1], seen.rgb)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: moving_scene(moments=0), "moments"),
        (lambda: moving_scene(spread=0.0), "spread"),
        (lambda: moving_scene(speed=-0.1), "speed"),
        (lambda: moving_scene(speed=3.0), "speed"),
        (lambda: moving_scenes(0, [Light()]), "count"),
        (lambda: moving_scenes(1, []), "lights"),
        (lambda: moving_scenes(1, [Light()], far=0.0), "far"),
    ],
)
def test_what_is_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()
