"""S3IM: Stochastic Structural SIMilarity and Its Unreasonable Effectiveness for Neural Fields (Xie et al., 2023)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from assay.lab import Tune, claim, lower
from assay.losses import S3IM
from assay.metrics import psnr, ssim

KNOBS = {
    "mse_s3im": (0.03, 0.1, 0.3, 1.0),
    "mse": (0.0, 0.0, 0.0, 0.0),
    "mse_local_ssim": (0.03, 0.1, 0.3, 1.0),
    "mse_charbonnier": (1e-3, 1e-2, 3e-2, 1e-1),
}
SMOKE = dict(steps=2, resolution=8, size=16, views=2, unseen=1, samples=8, rays=64)
PAPER = dict(steps=30_000, resolution=160, size=400, views=100, rays=4_096, samples=256)
LEFT_OUT = (
    "TensoRF, DVGO and NeuS on Replica, Tanks and Temples, DTU; here a voxel grid on scenes from formulas",
    "30,000 steps, 4,096 rays, 64 x 64 virtual patches; here 700, 1,024, 32 x 32",
    "the weight of total variation tuned; here 1e-3",
)


@claim(
    "s3im",
    says="Adding S3IM to the squared error lowers the test-view error of a voxel radiance field trained from few "
    "views.",
    arms=("mse_s3im", "mse", "mse_local_ssim", "mse_charbonnier"),
    holds=lower("test_mse", "mse_s3im", than="mse"),
    tune=Tune({"lr": (0.03, 0.1), "knob": KNOBS}, by="test_mse", best="min"),
    smoke=SMOKE,
    paper=PAPER,
    reported={"eight tasks of novel views, TensoRF and DVGO": "test MSE more than 90 % lower"},
    left_out=LEFT_OUT,
)
def novel_view_error(
    arm,
    seed,
    *,
    steps=700,
    resolution=48,
    size=48,
    views=10,
    unseen=6,
    samples=64,
    rays=1_024,
    noise=0.0,
    lr=0.1,
    knob=0.1,
    validate=False,
):
    """The scene (four spheres and boxes with checks and waves, a background) and all cameras change with the seed.

    The knob is the weight of S3IM or of the local structural similarity, or the width of Charbonnier's loss. The local
    arm draws sixteen patches of 8 x 8 neighbours, as many rays. Tuning sees scenes and views of its own.

    Fails: a test error of 6.5e-4 against 4.5e-4 (32.4 and 34.3 dB). The smallest of four weights, 0.03, was the best,
    as it was for structural similarity of neighbours (7.1e-4), and none helps the measure either (SSIM 0.939 against
    0.962). Value and gradient agree with the authors' code to the last digit of single precision. Rays of these
    formulas have no noise and no wrong poses, and a grid of 48^3 fits ten views of 48 x 48 by squared error alone;
    the paper's gains of a factor of ten are on scenes where that fails.
    """
    scene = Scene(2 * seed + validate)
    with torch.no_grad():
        cameras = [ray_bundle(2 * seed + validate, number, size) for number in range(views + unseen)]
        pictures = [render(scene, *camera, 2 * samples) for camera in cameras]
    learn = [torch.cat([each[i] for each in cameras[:views]]) for i in (0, 1)]
    colours = torch.cat(pictures[:views])
    generator = torch.Generator().manual_seed(seed)
    colours = (colours + noise * torch.randn(colours.shape, generator=generator)).clamp(0, 1)
    torch.manual_seed(seed)
    field = Voxels(resolution)
    optimizer = torch.optim.Adam(field.parameters(), lr=lr)
    stochastic = S3IM(generator=generator)
    for _ in range(steps):
        chosen = local_rays(views, size, rays, generator) if arm == "mse_local_ssim" else None
        if chosen is None:
            chosen = torch.randint(len(colours), (rays,), generator=generator)
        made, target = render(field, learn[0][chosen], learn[1][chosen], samples, generator), colours[chosen]
        loss = F.mse_loss(made, target)
        if arm == "mse_s3im":
            loss = loss + knob * stochastic(made, target)
        elif arm == "mse_local_ssim":
            tiles = (pixels.view(-1, 8, 8, 3).permute(0, 3, 1, 2) for pixels in (made, target))
            loss = loss + knob * (1 - ssim(*(t.clamp(0, 1) for t in tiles), window=4, sigma=None, stride=4).mean())
        elif arm == "mse_charbonnier":
            loss = ((made - target).square() + knob**2).sqrt().mean()
        loss = loss + 1e-3 * field.roughness()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        made = [render(field, *camera, samples).clamp(0, 1) for camera in cameras[views:]]
    images = [torch.stack(each).view(unseen, size, size, 3).permute(0, 3, 1, 2) for each in (made, pictures[views:])]
    return {
        "test_mse": F.mse_loss(*images).item(),
        "psnr": psnr(*images),
        "ssim": ssim(*images, window=7).mean().item(),
        "pictures": torch.cat([images[0][0].mean(0), images[1][0].mean(0)], 1).numpy(),
    }


@claim(
    "s3im",
    says="Randomly composed patches help more than patches of neighbouring pixels with the same SSIM.",
    arms=("mse_s3im", "mse_local_ssim"),
    holds=lower("test_mse", "mse_s3im", than="mse_local_ssim"),
    tune=Tune(
        {"lr": (0.03, 0.1), "knob": (0.03, 0.1, 0.3, 1.0)},
        by="test_mse",
        best="min",
    ),
    smoke=SMOKE,
    paper=PAPER,
    left_out=LEFT_OUT,
)
def nonlocal_beats_local(
    arm,
    seed,
    *,
    steps=700,
    resolution=48,
    size=48,
    views=10,
    unseen=6,
    samples=64,
    rays=1_024,
    lr=0.1,
    knob=0.1,
    validate=False,
):
    """The runs of `novel_view_error`."""
    settings = dict(steps=steps, resolution=resolution, size=size, views=views, unseen=unseen, samples=samples)
    return novel_view_error(arm, seed, **settings, rays=rays, lr=lr, knob=knob, validate=validate)


@claim(
    "s3im",
    says="With noisy training images the advantage of S3IM over plain squared error persists.",
    arms=("mse_s3im", "mse"),
    holds=lower("test_mse", "mse_s3im", than="mse"),
    smoke=SMOKE,
    paper=PAPER,
    left_out=(*LEFT_OUT, "settings frozen from the first claim: here rate 0.1, weight 0.1 for both"),
)
def robust_to_corruption(
    arm,
    seed,
    *,
    steps=700,
    resolution=48,
    size=48,
    views=6,
    unseen=6,
    samples=64,
    rays=1_024,
    noise=0.2,
    lr=0.1,
    knob=0.1,
):
    """Noise of 0.2 on six views; judged by clean ones."""
    settings = dict(steps=steps, resolution=resolution, size=size, views=views, unseen=unseen, samples=samples)
    return novel_view_error(arm, seed, **settings, rays=rays, noise=noise, lr=lr, knob=knob)


class Scene:
    """Density and colour of points, from a seed."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.middles = torch.rand(4, 3, generator=generator) * 1.2 - 0.6
        self.sizes = torch.rand(4, generator=generator) * 0.2 + 0.2
        self.colours = torch.rand(4, 3, generator=generator) * 0.8 + 0.2
        self.waves = torch.randn(6, 3, generator=generator) * 6
        self.phases = torch.rand(6, generator=generator) * 2 * math.pi

    def __call__(self, points):
        apart = points[..., None, :] - self.middles
        sphere, box = apart.norm(dim=-1), apart.abs().amax(-1)
        distance = torch.where(torch.arange(4) % 2 == 0, sphere, box) - self.sizes
        nearest = distance.argmin(-1)
        density = 40 * torch.sigmoid(-60 * distance.amin(-1))
        check = (torch.sin(12 * points).prod(-1) > 0).float()
        wave = 0.5 + 0.5 * torch.sin(points @ self.waves.T + self.phases).mean(-1)
        texture = torch.where(nearest % 2 == 0, 0.5 + 0.5 * check, wave)
        return density, self.colours[nearest] * texture[..., None]


class Voxels(nn.Module):
    """Density and colour interpolated in a grid over [-1, 1]^3."""

    def __init__(self, resolution):
        super().__init__()
        self.grid = nn.Parameter(0.1 * torch.randn(1, 4, resolution, resolution, resolution))

    def forward(self, points):
        flat = points.reshape(1, -1, 1, 1, 3)
        values = F.grid_sample(self.grid, flat, align_corners=True)[0, :, :, 0, 0].T.view(*points.shape[:-1], 4)
        inside = (points.abs() <= 1).all(-1)
        return F.softplus(values[..., 0] * 10 - 1) * inside, torch.sigmoid(values[..., 1:])

    def roughness(self):
        return sum(self.grid.diff(dim=dim).square().mean() for dim in (2, 3, 4))


def ray_bundle(seed, number, size):
    """Origins and directions of a camera at distance 3 that looks at the middle."""
    generator = torch.Generator().manual_seed(1_000 * seed + number)
    around = 2 * math.pi * torch.rand((), generator=generator)
    above = 0.2 + 0.6 * torch.rand((), generator=generator)
    eye = 3 * torch.stack([around.cos() * above.cos(), around.sin() * above.cos(), above.sin()])
    forward = -eye / eye.norm()
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    up = torch.linalg.cross(right, forward)
    place = ((torch.arange(size) + 0.5) / size * 2 - 1) * 0.45
    directions = forward + place[None, :, None] * right - place[:, None, None] * up
    directions = F.normalize(directions.reshape(-1, 3), dim=1)
    return eye.expand_as(directions), directions


def render(field, origins, directions, samples, generator=None, near=1.5, far=4.5):
    """Colours of rays by the quadrature of volume rendering, before a background of grey."""
    step = (far - near) / samples
    shift = 0.5 if generator is None else torch.rand(len(origins), 1, generator=generator)
    depth = near + (torch.arange(samples) + shift) * step * torch.ones(len(origins), 1)
    density, colour = field(origins[:, None] + depth[..., None] * directions[:, None])
    alpha = 1 - torch.exp(-density * step)
    clear = torch.cumprod(torch.cat([torch.ones(len(alpha), 1), 1 - alpha + 1e-10], 1), 1)
    weights = alpha * clear[:, :-1]
    return (weights[..., None] * colour).sum(1) + 0.3 * clear[:, -1:]


def local_rays(views, size, rays, generator):
    """Indices of rays in patches of 8 x 8 neighbours."""
    count = rays // 64
    view = torch.randint(views, (count,), generator=generator)
    top, left = torch.randint(size - 7, (2, count), generator=generator)
    inner = torch.arange(8)
    rows, columns = top[:, None] + inner, left[:, None] + inner
    return ((view * size**2)[:, None, None] + rows[:, :, None] * size + columns[:, None, :]).flatten()
