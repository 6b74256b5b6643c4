"""LIME on images: weighted ridge regression by another route, what it finds of a line, refusals."""

import numpy as np
import pytest
import torch

from assay.probes import lime_image

SEGMENTS = torch.arange(6).view(2, 3).repeat_interleave(2, 0).repeat_interleave(2, 1)
IMAGE = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0)).double()


def predict(x):
    return torch.stack([x.sum((1, 2, 3)), x[:, 0].square().sum((1, 2)), x[:, 1].sin().sum((1, 2))], 1) / 3


def remove(images, keep):
    return images * keep


def test_regression_by_hand():
    """The penalty as rows of data, the offset as a column without one, and numpy's least squares."""
    settings = dict(samples=50, p_keep=0.6, kernel_width=0.3, ridge=0.7)
    found = lime_image(
        predict, IMAGE, SEGMENTS, 1, masker=remove, batch_size=7, generator=torch.Generator().manual_seed(4), **settings
    )
    z = torch.bernoulli(torch.full((50, 6), 0.6), generator=torch.Generator().manual_seed(4)).double().numpy()
    z[0] = 1
    y = np.array(
        [predict(remove(IMAGE[None], torch.tensor(row)[SEGMENTS][None, None])).softmax(1)[0, 1].item() for row in z]
    )
    cosine = z.sum(1) / (np.linalg.norm(z, axis=1).clip(1e-300) * 6**0.5)
    root = np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.3**2))
    rows = np.vstack([np.column_stack([z, np.ones(50)]) * root[:, None], np.sqrt(0.7) * np.eye(6, 7)])
    expected = np.linalg.lstsq(rows, np.concatenate([y * root, np.zeros(6)]), rcond=None)[0][:6]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_segment_that_matters_is_found():
    def only_the_fourth(x):
        return torch.stack([torch.zeros(len(x)), 5 * x[:, 0, 2, 1]], 1)

    image = torch.ones(1, 4, 6)
    found = lime_image(
        only_the_fourth, image, SEGMENTS, 1, masker=remove, samples=200, generator=torch.Generator().manual_seed(0)
    )
    assert found.argmax() == 3
    assert found[3] > 5 * found[[0, 1, 2, 4, 5]].abs().max()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(segments=SEGMENTS[:2]), r"segments must be of the image's size \(4, 6\): got \(2, 6\)"),
        (dict(segments=SEGMENTS + 1), "without gaps"),
        (dict(target=3), r"target must lie in 0\.\.2: got 3"),
        (dict(samples=1), "samples"),
        (dict(p_keep=1.0), "p_keep"),
        (dict(kernel_width=0.0), "kernel_width"),
        (dict(ridge=-1.0), "ridge"),
    ],
)
def test_refused(changes, words):
    settings = dict(image=IMAGE, segments=SEGMENTS, target=0, masker=remove) | changes
    with pytest.raises(ValueError, match=words):
        lime_image(predict, **settings)
