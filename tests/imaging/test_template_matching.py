"""Template matching against loops over places, what scores do not mind, what is refused."""

import pytest
import torch

from assay.imaging import match_template


def picture(c=3, h=15, w=18, dtype=torch.float64):
    return torch.rand(c, h, w, generator=torch.Generator().manual_seed(0), dtype=dtype)


def by_loops(image, template, score):
    p, q = template.shape[1:]
    rows = []
    for y in range(image.shape[1] - p + 1):
        row = []
        for x in range(image.shape[2] - q + 1):
            patch = image[:, y : y + p, x : x + q]
            if score == "ssd":
                row.append((patch - template).square().sum())
            else:
                pairs = [((a - a.mean()), (b - b.mean())) for a, b in zip(patch, template, strict=True)]
                row.append(torch.stack([(a * b).sum() / (a.norm() * b.norm()) for a, b in pairs]).mean())
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("score", ["ssd", "zncc"])
def test_against_loops(score):
    image = picture()
    template = picture()[:, 4:9, 7:13] + 0.3 * torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    found = match_template(image, template, score=score)
    expected = by_loops(image, template, score)
    torch.testing.assert_close(found.scores, expected)
    best = expected.argmin() if score == "ssd" else expected.argmax()
    assert (found.row, found.col) == divmod(int(best), expected.shape[1])
    assert (found.row, found.col) == (4, 7)


@pytest.mark.parametrize("score", ["ssd", "zncc"])
def test_a_window_is_a_part_of_the_whole(score):
    image, template = picture(), picture()[:, 6:10, 8:12]
    whole = match_template(image, template, score=score)
    part = match_template(image, template, score=score, window=(3, 7, -2, 9))
    torch.testing.assert_close(part.scores, whole.scores[3:8, :10])
    assert (part.row, part.col) == (6, 8) == (whole.row, whole.col)
    elsewhere = match_template(image, template, score=score, window=(0, 4, 0, 4))
    assert elsewhere.row <= 4
    assert elsewhere.col <= 4


def test_correlation_does_not_mind_gain_and_offset_of_a_channel():
    image, template = picture(), picture()[:, 6:10, 8:12]
    gain, offset = torch.tensor([0.3, 2.0, 5.0]).view(3, 1, 1), torch.tensor([4.0, -1.0, 0.2]).view(3, 1, 1)
    one = match_template(image, template, score="zncc")
    two = match_template(gain * image + offset, template, score="zncc")
    torch.testing.assert_close(one.scores, two.scores)
    assert one.scores.max().item() == pytest.approx(1)
    assert not torch.allclose(match_template(image, template).scores, match_template(gain * image, template).scores)


def test_flat_patches_score_nothing():
    image = picture().float()
    image[:, :8, :8] = 0.37
    found = match_template(image, image[:, 9:13, 9:13], score="zncc")
    assert (found.scores[:5, :5] == 0).all()
    assert found.scores.isfinite().all()
    assert (match_template(image, torch.full((3, 4, 4), 0.2), score="zncc").scores == 0).all()


def test_large_offsets_do_not_drown_differences():
    """1000 + x in float32 keeps x to 6e-5; a sum of 60 squares that does not cancel is right to 1 in a thousand."""
    image = picture().float()
    shifted = match_template(image + 1000, image[:, 6:10, 8:12] + 1000)
    assert (shifted.row, shifted.col) == (6, 8)
    torch.testing.assert_close(shifted.scores, match_template(image, image[:, 6:10, 8:12]).scores, rtol=1e-3, atol=1e-3)


def test_what_is_refused():
    image = picture()
    for template in (torch.ones(2, 3, 3), torch.ones(3, 16, 3), torch.ones(3, 3, 19)):
        with pytest.raises(ValueError, match="template"):
            match_template(image, template.double())
    with pytest.raises(ValueError, match="score"):
        match_template(image, image, score="sad")
    with pytest.raises(ValueError, match="window"):
        match_template(image, image[:, :4, :4], window=(12, 20, 0, 3))
