"""Faces: symmetric where they should be, told apart by identity, moved by what each image adds."""

import pytest
import torch

from assay.data import parametric_faces


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_shapes_ranges_and_repeats():
    faces = parametric_faces(3, 4, size=24, generator=seeded())
    assert faces.images.shape == (12, 1, 24, 24)
    assert 0 <= faces.images.min() < 0.2
    assert 0.6 < faces.images.max() <= 1
    assert faces.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert faces.landmarks.min() > 0
    assert faces.landmarks.max() < 23
    assert torch.equal(faces.images, parametric_faces(3, 4, size=24, generator=seeded()).images)


def test_landmarks_are_where_the_eyes_and_the_nose_are():
    """The pupils are darker than the white around them; the nose lies below and, from the front, between."""
    faces = parametric_faces(20, 1, size=64, noise=0.0, generator=seeded())
    x, y = faces.landmarks.round().long().unbind(2)
    pupils = faces.images[torch.arange(20)[:, None], 0, y[:, :2], x[:, :2]]
    assert (pupils < 0.75).all()
    assert (y[:, 2] > y[:, 0]).all()
    assert (x[:, 0] < x[:, 1]).all()


def test_a_symmetric_identity_is_its_own_mirror_but_for_the_image():
    """Averaged over many images the nuisances even out; with asymmetry the sides stay different."""
    means = {}
    for asymmetry in (0.0, 1.0):
        faces = parametric_faces(4, 400, asymmetry=asymmetry, noise=0.0, generator=seeded())
        mean = faces.images.view(4, 400, 32, 32).mean(1)
        means[asymmetry] = (mean - mean.flip(2)).abs().mean()
    assert means[0.0] < 0.012
    assert means[1.0] > 2 * means[0.0]


def test_identities_differ_more_than_images_of_one():
    faces = parametric_faces(30, 20, generator=seeded())
    x = faces.images.flatten(1).view(30, 20, -1)
    within = x.var(1).mean()
    between = x.mean(1).var(0).mean()
    assert between > 0.1 * within
    alike = parametric_faces(30, 20, spread=0.1, generator=seeded()).images.flatten(1).view(30, 20, -1)
    assert alike.mean(1).var(0).mean() < 0.2 * between


def test_what_is_refused():
    for name, value in (
        ("identities", 0),
        ("per_identity", 0),
        ("size", 8),
        ("spread", -1.0),
        ("asymmetry", -1.0),
        ("noise", -0.1),
    ):
        with pytest.raises(ValueError, match=name):
            parametric_faces(**{"identities": 2, "per_identity": 2, name: value})
