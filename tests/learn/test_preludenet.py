"""PreludeNet: error units, what hangs on what, gradients of each way of learning, what is refused."""

import pytest
import torch

from assay.learn import PredictiveCodingLayer, PreludeNet


def net(**settings):
    torch.manual_seed(0)
    return PreludeNet((3, 4, 6), decoder_channels=5, **settings).double()


def clip(n=2, moments=4, side=8):
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(n, moments, 3, side, side, generator=generator).double()
    return frames, 1 + torch.rand(n, moments, 1, side, side, generator=generator).double()


def test_error_units():
    layer = PredictiveCodingLayer(3, 4, unit=True).double()
    a, r = torch.rand(2, 3, 5, 5).double(), torch.randn(2, 4, 5, 5).double()
    error, prediction = layer.compare(a, r)
    torch.testing.assert_close(error[:, :3] - error[:, 3:], a - prediction)
    assert (error >= 0).all()
    assert (torch.minimum(error[:, :3], error[:, 3:]) == 0).all()
    assert prediction.max() <= 1
    torch.testing.assert_close(prediction, torch.relu(layer.predict(r)).clamp_max(1))


def test_without_weights_the_frame_is_the_error():
    model = net()
    for p in model.encoder_parameters():
        p.data.zero_()
    frames, _ = clip()
    seen = model(frames)
    assert seen.next_frame.abs().max() == 0
    torch.testing.assert_close(seen.errors[0], frames.mean((0, 2, 3, 4)) / 2)  # relu(a - 0) and relu(0 - a)


def test_one_moment_typed_out():
    """Two layers, from rest: top down, then bottom up, then the decoder."""
    torch.manual_seed(0)
    model = PreludeNet((3, 4), decoder_channels=5).double()
    frames, _ = clip(moments=2)
    seen = model(frames)
    low, top = model.layers
    zero0, zero1 = torch.zeros(2, 6, 8, 8).double(), torch.zeros(2, 8, 4, 4).double()
    r1, _ = top.cell(zero1)
    up = r1.repeat_interleave(2, 2).repeat_interleave(2, 3)
    r0, _ = low.cell(torch.cat([zero0, up], 1))
    guess = torch.relu(low.predict(r0)).clamp_max(1)
    e0 = torch.cat([torch.relu(frames[:, 0] - guess), torch.relu(guess - frames[:, 0])], 1)
    a1 = torch.nn.functional.max_pool2d(torch.relu(model.rise[0](e0)), 2)
    guess1 = torch.relu(top.predict(r1))
    e1 = torch.cat([torch.relu(a1 - guess1), torch.relu(guess1 - a1)], 1)
    d1 = torch.relu(
        model.decode[1](torch.cat([torch.relu(model.lateral_r[1](r1)), torch.relu(model.lateral_e[1](e1))], 1))
    )
    up = d1.repeat_interleave(2, 2).repeat_interleave(2, 3)
    d0 = torch.cat([up, torch.relu(model.lateral_r[0](r0)), torch.relu(model.lateral_e[0](e0))], 1)
    depth = torch.nn.functional.softplus(model.depth(torch.relu(model.decode[0](d0))))
    torch.testing.assert_close(seen.next_frame[:, 0], guess)
    torch.testing.assert_close(seen.depth[:, 0], depth)
    torch.testing.assert_close(seen.errors[:, 0], torch.stack([e0.mean(), e1.mean()]))


@pytest.mark.parametrize("task", ["infer", "predict"])
def test_what_is_predicted_hangs_on_the_past_alone(task):
    model = net(task=task)
    frames, _ = clip()
    other = frames.clone()
    other[:, 2] = 1 - other[:, 2]
    one, two = model(frames), model(other)
    assert torch.equal(one.next_frame[:, :3], two.next_frame[:, :3])
    assert not torch.equal(one.next_frame[:, 3], two.next_frame[:, 3])
    reached = 3 if task == "predict" else 2
    assert torch.equal(one.depth[:, :reached], two.depth[:, :reached])
    assert not torch.equal(one.depth[:, reached], two.depth[:, reached])


def gradients(model, depth_factor=1.0, layer_weights=None):
    model.zero_grad()
    frames, depth = clip()
    model.loss(model(frames), depth_factor * depth, layer_weights=layer_weights).backward()

    def flat(parameters):
        return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])

    return flat(model.encoder_parameters()), flat(model.decoder_parameters())


def test_hybrid_learning_keeps_the_two_apart():
    model = net()
    encoder, decoder = gradients(model)
    other_depth = gradients(model, depth_factor=0.2)
    other_weights = gradients(model, layer_weights=(0.3, 2.0, 0.5))
    assert torch.equal(encoder, other_depth[0])
    assert not torch.equal(decoder, other_depth[1])
    assert torch.equal(decoder, other_weights[1])
    assert not torch.equal(encoder, other_weights[0])
    assert encoder.abs().sum() > 0


def test_other_ways_of_learning_mix_them():
    joint = net(learning="joint")
    assert not torch.equal(gradients(joint)[0], gradients(joint, depth_factor=0.2)[0])
    supervised = net(learning="supervised")
    assert torch.equal(gradients(supervised)[0], gradients(supervised, layer_weights=(0.3, 2.0, 0.5))[0])
    assert not torch.equal(gradients(supervised)[0], gradients(supervised, depth_factor=0.2)[0])


def test_the_loss_leaves_the_first_moment_out():
    model = net()
    frames, depth = clip()
    seen = model(frames)
    other = depth.clone()
    other[:, 0] *= 7
    assert model.loss(seen, depth) == model.loss(seen, other)
    expected = (seen.depth[:, 1:].log() - depth[:, 1:].log()).abs().mean()
    expected = expected + (seen.errors[:, 1:].mean(1) * torch.tensor([1, 0.1, 0.1]).double()).sum()
    torch.testing.assert_close(model.loss(seen, depth), expected)


def test_it_learns_to_predict_a_still_picture():
    model = net()
    frames = clip(moments=1)[0].expand(2, 5, 3, 8, 8)
    depth = torch.full((2, 5, 1, 8, 8), 2.0).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        value = model.loss(model(frames), depth)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(channels=(3,)), "channels"),
        (dict(channels=(3, 0)), "channels"),
        (dict(decoder_channels=0), "decoder_channels"),
        (dict(task="guess"), "task"),
        (dict(learning="by heart"), "learning"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        PreludeNet(**settings)


def test_refused_calls():
    model, (frames, depth) = net(), clip()
    for bad in (frames[:, :1], frames[:, :, :2], frames[..., :6]):
        with pytest.raises(ValueError, match="frames"):
            model(bad)
    seen = model(frames)
    with pytest.raises(ValueError, match="layer_weights"):
        model.loss(seen, depth, layer_weights=(1.0,))
    with pytest.raises(ValueError, match="positive"):
        model.loss(seen, 0 * depth)
    with pytest.raises(ValueError, match="channels"):
        PredictiveCodingLayer(0, 2)
    with pytest.raises(ValueError, match="above"):
        PredictiveCodingLayer(3, 4, above=2).represent(torch.zeros(1, 6, 4, 4))
