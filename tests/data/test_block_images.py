"""Blocks with and without a signal, points with one signal coordinate: what is where, fair coins, refusals."""

import pytest
import torch

from assay.data import block_images, signal_coordinates


def images(n=400):
    return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 10


def test_the_signal_is_where_it_is_said_to_be():
    x, y = images()
    blocks = block_images(x, y, generator=torch.Generator().manual_seed(1))
    assert blocks.images.shape == blocks.signal.shape == (400, 1, 56, 28)
    assert torch.equal(blocks.labels, y)
    assert torch.equal(blocks.images[blocks.signal].view(400, 28, 28), x[:, 0])
    null = blocks.images[~blocks.signal].view(400, 28, 28)
    assert torch.equal(null, null[:1].expand(400, -1, -1))
    lines, columns = null[0].nonzero().T
    assert (lines.min(), lines.max(), columns.min(), columns.max()) == (4, 23, 4, 23)
    assert null.sum() == 400 * 76
    assert (null[0, 5:23, 5:23] == 0).all()


def test_a_fair_coin_or_none():
    x, y = images()
    above = block_images(x, y, generator=torch.Generator().manual_seed(1)).signal[:, 0, 0, 0]
    assert abs(above.double().mean().item() - 0.5) < 5 * 0.5 / 20
    for position in ("random", "top"):
        one, other = (
            block_images(x, y, position=position, generator=torch.Generator().manual_seed(3)) for _ in range(2)
        )
        assert torch.equal(one.images, other.images)
    assert one.signal[:, :, :28].all()
    assert not one.signal[:, :, 28:].any()


def test_points():
    points = signal_coordinates(4000, 8, generator=torch.Generator().manual_seed(0))
    assert ((points.inputs != 0).sum(1) == 1).all()
    rows = torch.arange(4000)
    assert torch.equal(points.inputs[rows, points.coordinates], 2.0 * points.labels - 1)
    counts = torch.bincount(2 * points.coordinates + points.labels, minlength=16).double()
    chi = ((counts - 250) ** 2 / 250).sum().item()
    assert chi < 15 + 5 * 30**0.5  # mean and standard deviation of chi square with 15 degrees of freedom


def test_refused():
    x, y = images(3)
    for call, words in (
        (lambda: block_images(x[..., :27], y), r"images must be \(n, 1, 28, 28\): got \(3, 1, 28, 27\)"),
        (lambda: block_images(x.expand(-1, 3, -1, -1), y), "images must be"),
        (lambda: block_images(x, y, position="left"), "position must be 'random' or 'top': got 'left'"),
        (lambda: signal_coordinates(0), "n must be at least 1: got 0"),
        (lambda: signal_coordinates(2, 0), "dim must be at least 1: got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
