"""PreludeNet: learning invariant world state representations with predictive coding (Ziskind et al., 2022,
arXiv:2207.02972)."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from assay.data import moving_scenes
from assay.data.scenes import Light
from assay.lab import Tune, all_of, claim, lower, ratio
from assay.learn import PreludeNet
from assay.nn import ConvLSTMCell
from assay.probes import illumination_invariance

RATES = (3e-3, 1e-2, 3e-2)
SHADOW = 0.5
UNIT = 10.0  # of depth, so that it is near what an untrained network says
LIGHTS = (
    Light(ambient=0.5, shadow=SHADOW),  # as in training
    Light(ambient=0.15, shadow=SHADOW),
    Light(ambient=0.85, shadow=SHADOW),
    Light(ambient=0.5, azimuth=3.9, shadow=SHADOW),
    Light(ambient=0.5, shadow=0.0),
    Light(ambient=0.5, shadow=1.0),
)
LEFT_OUT = (
    "streets of a driving game; here 2 to 4 spheres and boxes that move over a floor, 32 x 32 pixels",
    "four layers of the paper's widths; here 3, 8, 16 and 32 channels, 300 steps of 4 clips of 6 frames",
    'depth of the next frame before it is seen (`task="predict"`)',
)
SMOKE = dict(clips=8, worlds=2, moments=3, steps=2, batch_size=4, channels=(3, 4, 6), decoder_channels=4)
PAPER = dict(clips=10_000, worlds=1_000, moments=10, steps=50_000, channels=(3, 48, 96, 192), decoder_channels=48)


@claim(
    "preludenet",
    says="Depth from the hybrid predictive-coding network degrades less under changed lighting than depth from a fully "
    "supervised network, at competitive accuracy under the training light.",
    arms=("hybrid", "fully_supervised_same_architecture", "supervised_unet_convlstm"),
    holds=all_of(
        lower("degradation", "hybrid", than="fully_supervised_same_architecture"),
        ratio("abs_rel", "hybrid", to="fully_supervised_same_architecture", at_most=1.15),
    ),
    tune=Tune({"lr": RATES}, by="abs_rel", best="min", seeds=(1000,)),
    smoke=SMOKE,
    paper=PAPER,
    left_out=LEFT_OUT,
)
def more_invariant_depth(
    arm, seed, *, clips=400, worlds=100, moments=6, steps=300, batch_size=4, channels=(3, 8, 16, 32),
    decoder_channels=8, lr=1e-2, validate=False,
):  # fmt: skip
    """Trained where 0.4 to 0.6 of the light is ambient, under one sun; judged with 0.15 and 0.85, with the sun on the
    other side, without shadows and with black ones.

    `degradation` is the mean relative error of depth under these five over that at 0.5; `abs_rel` is that at 0.5;
    the first frame of a clip does not count. `map_abs_rel` is the error of one picture for all, each pixel the median
    of its depths in training: what can be had without looking.

    Fails by its accuracy: the hybrid's error grows by 2.5 % under other lights, that of its supervised twin by 7.6 %,
    but it is 0.0335 against 0.0230 where it was trained, and the median picture has 0.0337: in 300 steps the hybrid's
    decoder reads next to nothing of depth from layers that learn the next frame, which is why light matters little to
    it. The supervised U-Net has 0.0253, and grows by 3.0 %. The hybrid and the U-Net took the
    least rate of their grid, 0.003, so that longer training with smaller ones is open; in one seed of five the
    prediction of frames died (an error of 0.109, elsewhere 0.005 to 0.007).
    """
    train = training_clips(seed, clips, moments)
    judged = test_clips(seed, worlds, moments, validate, LIGHTS)
    torch.manual_seed(seed)
    if arm == "supervised_unet_convlstm":
        network = UNetConvLSTM(channels)
        trained(network, train, log_error, steps, batch_size, lr, seed)
    else:
        learning = "hybrid" if arm == "hybrid" else "supervised"
        network = PreludeNet(channels, decoder_channels=decoder_channels, learning=learning)
        trained(network, train, network.loss, steps, batch_size, lr, seed)

    def predict(frames):
        return torch.cat([depth_of(network(part))[:, 1:] for part in frames.split(25)])

    truth = judged.depth[:, 1:]
    found = illumination_invariance(predict, judged.frames, truth)
    still = train.depth.flatten(0, 1).median(0).values
    measures = {
        "degradation": found.degradation,
        "abs_rel": found.error_by_light[0],
        "invariance": found.invariance,
        "spread": found.spread,
        "map_abs_rel": ((still - truth).abs() / truth).mean().item(),
        "abs_rel_by_light": torch.tensor(found.error_by_light).numpy(),
    }
    if arm == "hybrid":
        measures["next_frame_mse"] = next_frame_error(network, judged.frames[0])
    return measures


@claim(
    "preludenet",
    says="The same network predicts the next frame better than copying the last one while it infers depth.",
    arms=("hybrid", "self_supervised_only", "copy_last_frame"),
    holds=all_of(
        lower("next_frame_mse", "hybrid", than="copy_last_frame"),
        ratio("next_frame_mse", "hybrid", to="self_supervised_only", at_most=1.05),
    ),
    tune=Tune({"lr": RATES}, by="next_frame_mse", best="min", seeds=(1000,)),
    smoke=SMOKE,
    paper=PAPER,
    left_out=LEFT_OUT,
)
def predicts_next_frame_competitively(
    arm, seed, *, clips=400, worlds=100, moments=6, steps=300, batch_size=4, channels=(3, 8, 16, 32),
    decoder_channels=8, lr=1e-2, validate=False,
):  # fmt: skip
    """Every frame but the first of a clip, under the training light. Alone, the layers learn without a decoder.

    Undecided, by one seed of five: in the other four the network's error is 0.0040 to 0.0050 where copying has 0.0052
    to 0.0060, a fifth less; in the fifth the prediction dies at the rate that was tuned on another seed (0.111 at 0.03,
    the largest of the grid). The second part holds by construction: layers learn from their own prediction errors
    alone, so that a decoder which reads them changes nothing.
    """
    train = training_clips(seed, clips, moments)
    frames = test_clips(seed, worlds, moments, validate, LIGHTS[:1]).frames[0]
    if arm == "copy_last_frame":
        return {"next_frame_mse": F.mse_loss(frames[:, :-1], frames[:, 1:]).item()}
    torch.manual_seed(seed)
    network = PreludeNet(channels, decoder_channels=decoder_channels)

    def loss(seen, depth):
        return network.loss(seen, depth, depth_weight=1.0 if arm == "hybrid" else 0.0)

    losses = trained(network, train, loss, steps, batch_size, lr, seed)
    return {"next_frame_mse": next_frame_error(network, frames), "loss": losses}


def training_clips(seed, count, moments):
    def light(generator):
        return Light(ambient=0.4 + 0.2 * torch.rand((), generator=generator).item(), shadow=SHADOW)

    made = moving_scenes(count, light, torch.Generator().manual_seed(seed), moments=moments)
    return made._replace(frames=made.frames[0], depth=made.depth / UNIT)


def test_clips(seed, count, moments, validate, lights):
    generator = torch.Generator().manual_seed((200_000 if validate else 100_000) + seed)
    made = moving_scenes(count, lights, generator, moments=moments)
    return made._replace(depth=made.depth / UNIT)


def trained(network, clips, loss, steps, batch_size, lr, seed):
    """Adam, its rate rising and falling; the same batches for every arm."""
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = OneCycleLR(optimizer, lr, total_steps=steps + 1)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(clips.depth), (batch_size,), generator=generator)
        optimizer.zero_grad()
        value = loss(network(clips.frames[chosen]), clips.depth[chosen])
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(value.item())
    return torch.tensor(losses).numpy()


def next_frame_error(network, frames):
    with torch.no_grad():
        guesses = torch.cat([network(part).next_frame[:, 1:] for part in frames.split(25)])
    return F.mse_loss(guesses, frames[:, 1:]).item()


def depth_of(seen):
    return seen if isinstance(seen, torch.Tensor) else seen.depth


def log_error(depth, truth):
    return (depth[:, 1:].clamp_min(1e-6).log() - truth[:, 1:].log()).abs().mean()


class UNetConvLSTM(nn.Module):
    """Down by convolutions, a ConvLSTM at the bottom, up again with skips; depth of every frame."""

    def __init__(self, channels):
        super().__init__()
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(double(a, b) for a, b in pairs)
        self.cell = ConvLSTMCell(channels[-1], channels[-1])
        self.up = nn.ModuleList(double(2 * b, b if a == channels[0] else a) for a, b in reversed(pairs))
        self.depth = nn.Conv2d(channels[1], 1, 3, padding=1)

    def forward(self, frames):
        state, depths = None, []
        for x in frames.unbind(1):
            skips = []
            for block in self.down:
                x = block(x)
                skips.append(x)
                x = F.max_pool2d(x, 2)
            x, memory = self.cell(x, state)
            state = (x, memory)
            for block in self.up:
                x = block(torch.cat([F.interpolate(x, scale_factor=2), skips.pop()], 1))
            depths.append(F.softplus(self.depth(x)))
        return torch.stack(depths, 1)


def double(a, b):
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.ReLU())
