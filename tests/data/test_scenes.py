"""Worlds cast by rays: closed forms, brute force along rays, light that changes light alone, what is refused."""

import math

import pytest
import torch

from assay.data.scenes import Camera, Light, Scene, orbit_cameras, random_scene, render, shade, trace

DOWN = torch.tensor([[0.0, -1.0, 0.0]])


def world(seed=0, objects=(4, 4)):
    return random_scene(torch.Generator().manual_seed(seed), objects=objects)


def inside(scene, points):
    """Whether points are inside anything, by the definition of a sphere and a box."""
    balls = (points[:, None] - scene.spheres[:, :3]).norm(dim=2) < scene.spheres[:, 3]
    boxes = ((points[:, None] - scene.boxes[:, :3]).abs() < scene.boxes[:, 3:]).all(2)
    return torch.cat([balls, boxes, points[:, 1:2] < scene.floor], 1)


def test_depth_on_axis_is_distance_minus_radius():
    scene = Scene(spheres=torch.tensor([[0.0, 0.0, 7.0, 1.5]]), sphere_colors=torch.ones(1, 3), floor=None)
    shot = render(scene, camera=Camera(position=(0, 0, 0), target=(0, 0, 1), size=(5, 5)))
    assert shot.depth[2, 2].item() == pytest.approx(5.5)
    assert shot.acc.sum() >= 1
    # Off axis: |o + t d - c| = r with t the smaller root.
    _, directions = Camera(position=(0, 0, 0), target=(0, 0, 1), size=(5, 5)).rays()
    d = directions[2, 1]
    along = (d * torch.tensor([0.0, 0.0, 7.0])).sum()
    under = 1.5**2 - (49 - along**2)
    expected = along - under.sqrt() if under > 0 else math.inf
    assert shot.depth[2, 1].item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_against_marching_along_the_rays(seed):
    scene = world(seed)
    origins, directions = (each.reshape(-1, 3) for each in Camera(size=(9, 9)).rays())
    hits = trace(scene, origins, directions)
    steps = torch.arange(0.0, 12.0, 0.004)
    for o, d, distance, number in zip(origins, directions, hits.distance, hits.object_id, strict=True):
        within = inside(scene, o + steps[:, None] * d)
        reached = within.any(1)
        if not reached.any():
            assert distance > 11.9
            continue
        first = int(reached.float().argmax())
        assert distance.item() == pytest.approx(steps[first].item(), abs=0.01)
        assert within[first, number]


def test_normals_are_unit_and_face_the_ray():
    scene = world(1)
    shot = render(scene, camera=Camera(size=(40, 40)))
    hit = shot.acc.bool()
    normals = shot.normal[:, hit]
    torch.testing.assert_close(normals.norm(dim=0), torch.ones(int(hit.sum())))
    _, directions = Camera(size=(40, 40)).rays()
    assert ((normals.T * directions[hit]).sum(1) < 1e-5).all()
    assert shot.normal[:, ~hit].abs().sum() == 0
    assert (shot.object_id[~hit] == -1).all()
    assert shot.depth[~hit].isinf().all()


def test_light_changes_light_and_nothing_else():
    scene, camera = world(2), Camera(size=(48, 48))
    shots = [
        render(scene, light, camera) for light in (Light(), Light(azimuth=3.0, elevation=0.4), Light(0.9, shadow=0.2))
    ]
    for shot in shots[1:]:
        assert all(torch.equal(a, b) for a, b in zip(shots[0][1:], shot[1:], strict=True))
        assert (shots[0].rgb - shot.rgb).abs().max() > 0.1
    assert all(((shot.rgb >= 0) & (shot.rgb <= 1)).all() for shot in shots)


def test_shading_by_hand():
    """A floor under a sphere: lit by its slope to the sun, dark in the shadow by the strength of it."""
    scene = Scene(
        spheres=torch.tensor([[0.0, 3.0, 0.0, 1.0]]),
        sphere_colors=torch.ones(1, 3),
        floor_colors=torch.full((2, 3), 0.8),
    )
    origins = torch.tensor([[0.0, 1.0, 0.5], [5.0, 1.0, 0.5]])
    directions = DOWN.expand(2, 3)
    hits = trace(scene, origins, directions)
    for shadow in (0.0, 0.25, 1.0):
        light = Light(ambient=0.2, elevation=math.pi / 2, shadow=shadow)
        found = shade(scene, light, origins, directions, hits)[:, 0]
        assert found.tolist() == pytest.approx([0.8 * (0.2 + 0.8 * (1 - shadow)), 0.8], abs=1e-6)
    slant = Light(ambient=0.0, elevation=0.7, azimuth=1.9, shadow=0.0)
    assert shade(scene, slant, origins, directions, hits)[1, 0].item() == pytest.approx(0.8 * math.sin(0.7))


def test_from_inside_a_box_its_far_side_is_seen():
    scene = Scene(boxes=torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0, 3.0]]), box_colors=torch.ones(1, 3), floor=None)
    ends = trace(scene, torch.zeros(3, 3), torch.eye(3)).distance
    assert ends.tolist() == [1.0, 2.0, 3.0]


def test_tiles_alternate():
    scene = Scene(floor_colors=torch.tensor([[0.0] * 3, [1.0] * 3]), tile=2.0)
    origins = torch.tensor([[0.5, 1.0, 0.5], [2.5, 1.0, 0.5], [2.5, 1.0, 2.5], [-0.5, 1.0, 0.5]])
    assert trace(scene, origins, DOWN.expand(4, 3)).color[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]


def test_an_empty_world():
    scene = Scene(floor=None)
    shot = render(scene, camera=Camera(size=(4, 6)))
    assert scene.objects == 0
    assert torch.equal(shot.rgb, scene.background.view(3, 1, 1).expand(3, 4, 6))
    assert shot.acc.sum() == 0


def test_moved_and_the_same_seed():
    one, two = world(5), world(5)
    assert torch.equal(one.spheres, two.spheres)
    assert torch.equal(one.boxes, two.boxes)
    shift_s, shift_b = torch.ones(len(one.spheres), 3), torch.ones(len(one.boxes), 3)
    moved = one.moved(shift_s, shift_b)
    assert torch.equal(moved.spheres[:, :3], one.spheres[:, :3] + 1)
    assert torch.equal(moved.spheres[:, 3], one.spheres[:, 3])
    assert torch.equal(moved.boxes[:, 3:], one.boxes[:, 3:])


def test_orbits_look_at_their_target():
    for camera in orbit_cameras(5, target=(1.0, 0.5, 2.0), radius=3.0, size=(3, 3)):
        assert math.dist(camera.position, (1.0, 0.5, 2.0)) == pytest.approx(3.0)
        origins, directions = camera.rays()
        miss = torch.linalg.cross(torch.tensor([1.0, 0.5, 2.0]) - origins[1, 1], directions[1, 1])
        assert miss.norm() < 1e-5


def test_wide_pictures_are_not_stretched():
    """The opening angle is that of the height; a pixel is square."""
    _, directions = Camera(position=(0, 0, 0), target=(0, 0, 1), fov=1.0, size=(20, 40)).rays()
    on_plane = directions / directions[:, :, 2:]
    assert (on_plane[0, 0, 1] / math.tan(0.5)).item() == pytest.approx(19 / 20)
    step_x, step_y = on_plane[0, 1, 0] - on_plane[0, 0, 0], on_plane[0, 0, 1] - on_plane[1, 0, 1]
    torch.testing.assert_close(step_x, step_y)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Scene(spheres=torch.zeros(1, 4), sphere_colors=torch.ones(1, 3)), "spheres"),
        (lambda: Scene(spheres=torch.ones(1, 3), sphere_colors=torch.ones(1, 3)), "spheres"),
        (lambda: Scene(boxes=torch.ones(2, 6), box_colors=torch.ones(1, 3)), "boxes"),
        (lambda: Scene(floor_colors=torch.ones(3)), "floor_colors"),
        (lambda: Scene(tile=0.0), "tile"),
        (lambda: Light(ambient=1.5), "ambient"),
        (lambda: Light(shadow=-0.1), "shadow"),
        (lambda: Light(elevation=0.0), "elevation"),
        (lambda: Camera(fov=0.0), "fov"),
        (lambda: Camera(size=(0, 3)), "size"),
        (lambda: Camera(position=(0, 0, 0), target=(0, 5, 0)), "target"),
        (lambda: random_scene(objects=(3, 2)), "objects"),
        (lambda: orbit_cameras(0), "count"),
        (lambda: orbit_cameras(1, radius=0.0), "radius"),
        (lambda: orbit_cameras(1, elevation=2.0), "elevation"),
    ],
)
def test_what_is_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()
