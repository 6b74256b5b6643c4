"""A vision transformer with a class token: against `tinyvit`, what the token sees, refusals."""

import pytest
import torch

from assay.nn import ClassTokenViT, tinyvit


def test_with_its_ancestors_weights_only_the_token_differs():
    """Ancestor: the patches' tokens of a first block that attends nowhere are those of `tinyvit`."""
    torch.manual_seed(0)
    ours = ClassTokenViT((1, 8, 8), 3, patch=4, d=8, depth=1, heads=2)
    theirs = tinyvit((1, 8, 8), 3, patch=4, d=8, depth=1, heads=2)
    left, over = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert (left, over) == ([], ["token"])
    x = torch.rand(2, 1, 8, 8)
    for model in (ours, theirs):
        torch.nn.init.zeros_(model.blocks[0].attention.out.weight)
        torch.nn.init.zeros_(model.blocks[0].attention.out.bias)
    patches = theirs.norm(theirs.blocks(theirs.patches(x).flatten(2).mT + theirs.positions))
    torch.testing.assert_close(ours.norm(ours.blocks(ours.embed(x)))[:, 1:], patches)
    torch.testing.assert_close(theirs(x), theirs.head(patches.mean(1)))
    assert torch.equal(ours(x)[0], ours(x)[1])  # the token has seen no patch


def test_the_token_sees_every_patch():
    torch.manual_seed(1)
    net = ClassTokenViT((1, 8, 8), 3, patch=4, d=8, depth=1, heads=2)
    x = torch.rand(1, 1, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(net(x).square().sum(), x)
    assert (slope.unfold(2, 4, 4).unfold(3, 4, 4).abs().sum((4, 5)) > 0).all()


def test_count_of_weights():
    """`tinyvit`'s and one token."""
    count = sum(p.numel() for p in ClassTokenViT().parameters())
    assert count == 204_938 + 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(patch=5), "patch must divide"),
        (dict(heads=3), "heads must divide d = 64"),
        (dict(depth=0), "depth"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassTokenViT(**arguments)
