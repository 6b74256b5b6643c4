"""The image-to-image network: its range, its sizes, and that images do not see each other."""

import pytest
import torch

from assay.nn import StyleTransferNet


def test_the_range_and_the_count_of_weights():
    """By hand for width w: convolutions, biases, norms with two numbers a channel."""
    w, blocks = 3, 2
    network = StyleTransferNet(width=w, blocks=blocks)
    images = torch.rand(2, 3, 16, 20)
    out = network(5 * images)
    assert out.shape == images.shape
    assert 0 <= out.min() <= out.max() <= 1

    def stage(a, b, k):
        return a * b * k * k + b + 2 * b

    count = stage(3, w, 9) + stage(w, 2 * w, 3) + stage(2 * w, 4 * w, 3) + blocks * 2 * stage(4 * w, 4 * w, 3)
    count += stage(4 * w, 2 * w, 3) + stage(2 * w, w, 3) + w * 3 * 81 + 3
    assert sum(p.numel() for p in network.parameters()) == count


def test_images_do_not_see_each_other():
    torch.manual_seed(0)
    network = StyleTransferNet(width=2, blocks=1)
    a, b = torch.rand(2, 1, 3, 16, 16)
    torch.testing.assert_close(network(torch.cat([a, b]))[:1], network(a))
    network.train(), network(b), network.eval()
    torch.testing.assert_close(network(a), network.train()(a))


def test_what_is_refused():
    with pytest.raises(ValueError, match="width"):
        StyleTransferNet(width=0)
    with pytest.raises(ValueError, match="blocks"):
        StyleTransferNet(blocks=-1)
    for shape in ((1, 3, 18, 16), (1, 3, 12, 16)):
        with pytest.raises(ValueError, match="4 divides"):
            StyleTransferNet(width=1, blocks=0)(torch.rand(shape))
