"""A network as a chain of blocks: the conversion, the isolation of blocks, what is refused."""

import pytest
import torch
from torch import nn

from assay.learn import BlockChain
from assay.learn.blocks import add_gradients, chain_of, running_statistics_kept
from assay.nn import convnet, mlp, resnet8, smallcnn, tinyvit


@pytest.mark.parametrize(("build", "blocks"), [(mlp, 2), (convnet, 4), (smallcnn, 4), (resnet8, 5)])
def test_every_sequential_converts_and_computes_the_same(build, blocks):
    torch.manual_seed(0)
    model = build().eval()
    chain = BlockChain.of(model)
    assert len(chain) == blocks
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(chain(x), model(x))
    assert {id(p) for p in chain.parameters()} == {id(p) for p in model.parameters()}
    assert BlockChain.of(chain) is chain
    chain.must_be(model)


def test_a_residual_block_stays_whole_and_weightless_ends_go_with_the_last():
    model = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(3, 3), nn.Softplus()), nn.Linear(3, 2), nn.Flatten())
    chain = BlockChain.of(model)
    kinds = [[type(m).__name__ for m in block] for block in chain]
    assert kinds == [["Dropout", "Linear", "Softplus"], ["Linear", "Flatten"]]
    assert type(BlockChain.of(resnet8())[1]).__name__ == "BasicBlock"


def test_local_losses_of_a_block_give_no_gradient_to_any_other():
    torch.manual_seed(0)
    chain = BlockChain.of(convnet(widths=(3, 4, 5)))
    x = torch.rand(4, 1, 28, 28)
    for chosen in range(len(chain)):
        chain.zero_grad()
        list(chain.local(x))[chosen].square().sum().backward()
        for number, block in enumerate(chain):
            assert all((p.grad is not None) == (number == chosen) for p in block.parameters())
    chain.zero_grad()
    list(chain.joint(x))[-1].square().sum().backward()  # and the joint walk is plain backpropagation
    assert all(p.grad is not None for p in chain.parameters())


def test_local_holds_one_graph_at_a_time():
    """A block runs when it is asked for, so its graph can go before the next one is made."""
    ran = []

    class Noting(nn.Linear):
        def forward(self, x):
            ran.append(self)
            return super().forward(x)

    chain = BlockChain(*(Noting(2, 2) for _ in range(3)))
    walk = chain.local(torch.ones(1, 2))
    next(walk)
    assert len(ran) == 1


def test_some_blocks_are_a_chain():
    chain = BlockChain.of(smallcnn(widths=(4, 8)))
    assert isinstance(chain[1:], BlockChain)
    assert [id(block) for block in chain[1:]] == [id(block) for block in list(chain)[1:]]


def test_shapes_leave_the_mode_and_the_statistics():
    chain = BlockChain.of(smallcnn(widths=(4, 8)))
    chain[1].eval()
    assert chain.shapes(torch.rand(2, 1, 28, 28)) == [(4, 14, 14), (8, 7, 7), (10,)]
    assert [block.training for block in chain] == [True, False, True]
    assert chain[0][1].num_batches_tracked == 0


def test_kept_statistics():
    norm = nn.BatchNorm1d(2)
    with running_statistics_kept(norm):
        norm(torch.randn(5, 2) + 3)
    assert norm.track_running_stats
    assert torch.equal(norm.running_mean, torch.zeros(2))
    norm(torch.randn(5, 2) + 3)
    assert (norm.running_mean > 0.1).all()


def test_add_gradients_adds():
    p, q = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    add_gradients([p, q, q], [torch.ones(2), None, torch.full((2,), 3.0)])
    assert p.grad.tolist() == [2.0, 2.0]
    assert q.grad.tolist() == [3.0, 3.0]


def test_what_is_refused():
    shared = nn.Linear(2, 2)
    for blocks, error, message in (
        ((), ValueError, "at least one"),
        ((nn.Linear(2, 2), 3), TypeError, "modules"),
        ((shared, nn.Sequential(shared)), ValueError, "share"),
    ):
        with pytest.raises(error, match=message):
            BlockChain(*blocks)
    with pytest.raises(TypeError, match="forward of its own"):
        BlockChain.of(tinyvit())
    with pytest.raises(ValueError, match="weights"):
        BlockChain.of(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="at least 3"):
        chain_of(mlp(), least=3)
    chain = BlockChain.of(mlp((1, 2, 2), 2, widths=(3,)))
    with pytest.raises(ValueError, match="in no block"):
        chain.must_be(nn.Sequential(chain, nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="lacks"):
        chain.must_be(chain[0])
