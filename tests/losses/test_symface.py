"""SymFace's frontness, halves and loss; ArcFace by loops; and what is left without them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.losses import ArcFace, SymFaceLoss, frontness, split_face


def faces(n=5, size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 2, size, size, generator=generator)
    middle = (size - 1) / 2
    points = torch.tensor([[middle - 3, 4.0], [middle + 3, 4.0], [middle, 7.0]]).repeat(n, 1, 1)
    return images, points


def test_frontness():
    eyes = [[10.0, 5.0], [20.0, 6.0]]
    noses = {15.0: 1.0, 10.0: 0.0, 20.0: 0.0, 3.0: 0.0, 17.5: 0.5, 14.0: 0.8}
    points = torch.tensor([[*eyes, [x, 9.0]] for x in noses])
    torch.testing.assert_close(frontness(points), torch.tensor(list(noses.values())))
    mirrored = points.clone()
    mirrored[..., 0] = 31 - mirrored[..., 0]
    torch.testing.assert_close(frontness(mirrored), frontness(points))


@pytest.mark.parametrize("size", [12, 11])
def test_a_centred_cut_is_a_copy(size):
    """Left half and mirrored right half put together again are the image."""
    images, points = faces(size=size)
    left, right = split_face(images, points)
    half = size // 2
    torch.testing.assert_close(left[..., :half], images[..., :half], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(right.flip(3)[..., -half:], images[..., -half:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(left, left.flip(3), atol=1e-5, rtol=1e-5)
    zeros = split_face(images, points, fill="zero")[0]
    torch.testing.assert_close(zeros[..., :half], images[..., :half], atol=1e-5, rtol=1e-5)
    assert zeros[..., -half:].abs().max() == 0


def test_an_off_centre_cut_stretches_both_sides():
    """A ramp stays a ramp: from the edge to the cut, and from the other edge to the cut."""
    ramp = torch.arange(16.0).expand(1, 1, 3, 16)
    points = torch.tensor([[[2.5, 1.0], [6.5, 1.0], [4.5, 1.0]]])  # the cut is 5 pixels from the left edge
    left, right = split_face(ramp, points)
    inner = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(left[0, 0, 1, :8], (5 * inner - 0.5).clamp_min(0))
    torch.testing.assert_close(right[0, 0, 1, :8], (15.5 - 11 * inner).clamp_max(15))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6))


def test_a_symmetric_face_costs_nothing_and_mirroring_nothing_changes():
    images, points = faces()
    symmetric = (images + images.flip(3)) / 2
    labels = torch.tensor([0, 1, 2, 0, 1])
    embed, base = network(), ArcFace(6, 3, s=8.0)
    plain = base(embed(symmetric), labels)
    loss = SymFaceLoss(base, weight=2.0)
    assert loss(embed, symmetric, labels, points).item() == pytest.approx(plain.item(), abs=1e-4)
    assert loss(embed, images, labels, points) > base(embed(images), labels) + 0.05
    none = SymFaceLoss(lambda e, _: e.sum() * 0, weight=1.0)
    mirrored = points.clone()
    mirrored[..., 0] = 11 - mirrored[..., 0]
    mirrored = mirrored[:, [1, 0, 2]]
    torch.testing.assert_close(
        none(embed, images.flip(3), labels, mirrored), none(embed, images, labels, points), rtol=1e-4, atol=1e-5
    )


def test_the_distance_by_hand_of_frontal_faces_only():
    images, points = faces()
    points[1, 2, 0] += 2.9  # turned away
    embed, labels = network(), torch.zeros(5, dtype=torch.long)
    frontal = [0, 2, 3, 4]
    left, right = split_face(images[frontal], points[frontal])
    distances = [
        (F.normalize(embed(a[None]), dim=1) - F.normalize(embed(b[None]), dim=1)).norm().item()
        for a, b in zip(left, right, strict=True)
    ]
    loss = SymFaceLoss(lambda e, _: e.sum() * 0 + 1.0, weight=0.7)
    assert loss(embed, images, labels, points).item() == pytest.approx(1 + 0.7 * sum(distances) / 4, rel=1e-5)
    points[:, 2, 0] += 6
    points = points.clamp(max=11)
    assert loss(embed, images, labels, points).item() == 1.0  # nobody looks ahead


def test_without_weight_it_is_the_base_loss_bit_for_bit():
    images, points = faces()
    labels, embed, base = torch.tensor([0, 1, 2, 0, 1]), network(), ArcFace(6, 3)
    found = SymFaceLoss(base, weight=0.0)(embed, images, labels, points)
    assert torch.equal(found, base(embed(images), labels))


def test_gradients_flow_through_both_halves():
    images, points = faces()
    images.requires_grad_()
    SymFaceLoss(lambda e, _: e.sum() * 0)(network(), images, torch.zeros(5, dtype=torch.long), points).backward()
    assert (images.grad[..., :5].abs().sum((1, 2, 3)) > 0).all()
    assert (images.grad[..., 7:].abs().sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("m", [0.0, 0.3, 1.2])
def test_arcface_by_loops(m):
    torch.manual_seed(0)
    loss, x, y = ArcFace(4, 5, s=3.0, m=m).double(), torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 5
    total, beyond = 0.0, 0
    for row, label in zip(x, y.tolist(), strict=True):
        logits = []
        for j, w in enumerate(loss.weight.detach()):
            angle = math.acos((row @ w / (row.norm() * w.norm())).item())
            value = math.cos(angle)
            if j == label:
                beyond += angle + m > math.pi
                value = math.cos(angle + m) if angle + m <= math.pi else value - m * math.sin(m)
            logits.append(3.0 * value)
        total += math.log(sum(map(math.exp, logits))) - logits[label]
    assert loss(x, y).item() == pytest.approx(total / 9, rel=1e-7)
    assert m < 1 or beyond > 0  # the last margin reaches past the other side of the sphere


def test_arcface_gradient_and_ancestor():
    torch.manual_seed(0)
    loss, y = ArcFace(4, 5, s=3.0, m=0.4).double(), torch.arange(9) % 5
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, y), x)
    cosine = F.normalize(x, dim=1) @ F.normalize(loss.weight, dim=1).T
    plain = F.cross_entropy(3.0 * cosine, y)
    assert loss(x, y) > plain + 0.2  # a margin is harder
    torch.testing.assert_close(ArcFace.forward(ArcFaceOf(loss, m=0.0), x, y), plain)
    torch.testing.assert_close(loss(7 * x, y), loss(x, y))


def ArcFaceOf(loss, m):  # noqa: N802
    other = ArcFace(4, 5, s=loss.s, m=m).double()
    other.weight = loss.weight
    return other


def test_what_is_refused():
    images, points = faces()
    with pytest.raises(ValueError, match=r"landmarks must be \(n, 3, 2\)"):
        frontness(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="eyes side by side"):
        frontness(torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="landmarks must be finite"):
        frontness(points * math.nan)
    with pytest.raises(ValueError, match="as many landmarks"):
        split_face(images, points[1:])
    with pytest.raises(ValueError, match="inside the images"):
        split_face(images, points + 20)
    with pytest.raises(ValueError, match="'mirror', 'zero': got 'noise'"):
        split_face(images, points, fill="noise")
    with pytest.raises(ValueError, match="both sides of the cut"):
        split_face(images, torch.tensor([[[-0.5, 1.0], [0.0, 1.0], [-0.5, 1.0]]]).repeat(5, 1, 1))
    base = ArcFace(6, 3)
    for name, value in (("weight", -1.0), ("threshold", 1.5), ("fill", "noise")):
        with pytest.raises(ValueError, match=name):
            SymFaceLoss(base, **{name: value})
    for name, value in (("dim", 0), ("num_classes", 1), ("s", 0.0), ("m", 2.0), ("reduction", "median")):
        with pytest.raises(ValueError, match=name):
            ArcFace(**{"dim": 4, "num_classes": 3, name: value})
    with pytest.raises(ValueError, match="targets must lie"):
        base(torch.ones(1, 6), torch.tensor([3]))
