"""Probabilistic Programming with Programmable Variational Inference (Becker et al., 2024, arXiv:2406.15742)."""

import math
import statistics
import time
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal, Uniform
from torch.nn import functional as F

from assay import data
from assay.lab import Tune, all_of, at_most, claim, higher, lower, ratio
from assay.learn import vi


@claim(
    "programmable-vi",
    says="Gradients from the automated estimator cost about the same as a hand-written ELBO gradient.",
    arms=("automated", "hand_coded", "pyro_if_installed"),
    holds=ratio("seconds", "automated", to="hand_coded", at_most=1.25),
    together=True,
    exclusive=True,
    smoke=dict(train=32, batches=(16, 32), at=32, steps=2),
    paper=dict(train=4_096, batches=(64, 128, 256, 512, 1024), at=256, steps=300),
    reported={
        "ms, automated against by hand, batch 64 (Table 1)": "0.175 against 0.130",
        "batch 256": "0.408 against 0.438",
        "batch 1024": "1.544 against 1.599",
    },
    left_out=("JAX on an RTX 4090; here PyTorch on one thread", "MNIST and 10 latent dimensions; here fashion and 20"),
)
def minimal_overhead(arms, seed, *, train=1_024, batches=(64, 256, 1024), at=256, steps=60):
    """Medians of seconds of one gradient, the arms taking turns; `seconds` at a batch of 256.

    A variational autoencoder, 784-200-20-200-784, on pictures made black and white. By hand is the same estimator,
    written with tensor operations alone; `overhead` is against it, one number a batch size. Distributions do not check
    their arguments, as the paper's do not; what the checks of PyTorch's cost is in `overhead_with_checks`. Pyro checks
    nothing either, and has an arm without numbers where it is not installed.

    Holds: 1.11 times as long at a batch of 256, 1.21 at 64, 1.06 at 1,024; with checks 1.24, 1.37 and 1.17. Pyro 1.9.2
    takes 1.20, 1.45 and 1.08. What is left at 256 is mostly `Bernoulli.log_prob`, which negates picture by picture.
    """
    images = (data.load("fashion", train=train, test=10, seed=seed).train.inputs.flatten(1) > 0.5).float()
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(784, 200), nn.LeakyReLU(), nn.Linear(200, 40))
    decoder = nn.Sequential(nn.Linear(20, 200), nn.LeakyReLU(), nn.Linear(200, 784))
    losses = {
        "automated": automated,
        "hand_coded": by_hand,
        "pyro_if_installed": by_pyro(encoder, decoder),
        "checked": partial(automated, checks=True),
    }
    losses = {name: loss for name, loss in losses.items() if loss is not None}
    parameters = [*encoder.parameters(), *decoder.parameters()]
    seconds = {arm: [] for arm in losses}
    for size in batches:
        taken = {arm: [] for arm in losses}
        for turn in range(steps + 3):
            batch = images[torch.randint(len(images), (size,))]
            for arm, loss in losses.items():
                start = time.perf_counter()
                torch.autograd.grad(loss(encoder, decoder, batch), parameters)
                if turn >= 3:
                    taken[arm].append(time.perf_counter() - start)
        for arm in losses:
            seconds[arm].append(statistics.median(taken[arm]))
    found = {
        arm: {
            "seconds": times[batches.index(at)],
            "seconds_by_batch": np.array(times),
            "overhead": np.array(times) / np.array(seconds["hand_coded"]),
        }
        for arm, times in seconds.items()
    }
    found["automated"]["overhead_with_checks"] = found["checked"]["overhead"]
    return {arm: found.get(arm, {}) for arm in arms}


def encoded(encoder, images):
    mean, scale = encoder(images).chunk(2, -1)
    return mean, F.softplus(scale) + 1e-4


@vi.program
def autoencoder(decoder, checks):
    z = vi.sample("z", Independent(Normal(torch.zeros(20), torch.ones(20), validate_args=checks), 1))
    vi.sample("x", Independent(Bernoulli(logits=decoder(z), validate_args=checks), 1))


@vi.program
def amortized(encoder, images, checks):
    vi.sample("z", Independent(Normal(*encoded(encoder, images), validate_args=checks), 1))


def automated(encoder, decoder, images, checks=False):
    arguments = dict(model_args=(decoder, checks), family_args=(encoder, images, checks), rows=(len(images),))
    return -vi.elbo(autoencoder, amortized, {"x": images}, **arguments)()


def by_hand(encoder, decoder, images):
    mean, scale = encoded(encoder, images)
    noise = torch.randn_like(mean)
    z = mean + scale * noise
    log_ratio = (noise.square() / 2 + scale.log() - z.square() / 2).sum(-1)
    log_x = -F.binary_cross_entropy_with_logits(decoder(z), images, reduction="none").sum(-1)
    return -(log_x + log_ratio).mean()


def by_pyro(encoder, decoder):
    """The same loss from Pyro's Trace_ELBO, or None."""
    try:
        import pyro
        import pyro.distributions as dist
    except ImportError:
        return None

    def model(images):
        with pyro.plate("rows", len(images)):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), torch.ones(20)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=images)

    def guide(images):
        with pyro.plate("rows", len(images)):
            pyro.sample("z", dist.Normal(*encoded(encoder, images)).to_event(1))

    pyro.enable_validation(False)
    elbo = pyro.infer.Trace_ELBO()
    return lambda _encoder, _decoder, images: elbo.differentiable_loss(model, guide, images) / len(images)


SIDE, SLOTS, NOISE = 12, 2, 0.3


@claim(
    "programmable-vi",
    says="Estimators that other systems do not automate (enumeration, measure-valued) have lower gradient variance and "
    "reach a better objective in the same number of steps than REINFORCE on discrete latents.",
    arms=("enumerate", "measure_valued", "reinforce", "reinforce_baseline"),
    holds=all_of(
        higher("elbo", "enumerate", than="reinforce_baseline"),
        higher("elbo", "measure_valued", than="reinforce_baseline"),
        lower("gradient_variance", "enumerate", than="measure_valued"),
        lower("gradient_variance", "measure_valued", than="reinforce"),
    ),
    tune=Tune({"lr": (0.001, 0.003, 0.01, 0.03)}, by="elbo", best="max"),
    smoke=dict(train=64, test=32, steps=4, draws=5),
    paper=dict(train=60_000, test=10_000, steps=30_000),
    reported={"AIR (Figure 7)": "enumeration and measure-valued derivatives reach a better objective than REINFORCE"},
    left_out=(
        "Attend, Infer, Repeat on pictures of digits with a learned decoder; here bars of learned brightness and width",
        "a recurrent encoder with one choice after the other; here both presences are one choice of two components",
    ),
)
def strategy_choice_matters(
    arm, seed, *, train=2_000, test=500, steps=400, batch_size=32, draws=200, lr=0.003, validate=False
):
    """Pictures of 12 x 12 pixels with up to two bars: a coin for each bar, a normal position for each.

    The bars' brightness and width are learned with the encoder, and they start faint, as objects do in Attend, Infer,
    Repeat; where they do not, every estimator now and then ends with empty scenes. Only the strategy of the coins
    differs. The baseline is a running mean of the objective, 0.9 of it kept. The bound is measured on other pictures,
    coins enumerated, 20 positions a picture. A step of enumeration takes 4 likelihoods, of the measure-valued
    derivative 3, of reinforce 1; `elbo_at_equal_cost` is after 4 * `steps` likelihoods.

    Undecided after looks at 5, 10 and 20 seeds: the variances are ordered as claimed, 436 with enumeration, 1,045
    measure-valued, 10,243 with reinforce, but the bounds are not told apart: -61.6 with enumeration, -61.8
    measure-valued, -62.4 with reinforce and baseline, -63.5 without, of which a seed changes 2 to 3. Two coins with a
    cost for each picture are an easy problem for reinforce; where the positions settle decides. At equal cost, four
    times as many steps for reinforce, its bound is the best one, -57.3 with a baseline.
    """
    generator = torch.Generator().manual_seed(seed)
    learn, judge = bars(train, generator), bars(test, generator)
    if validate:
        learn, judge = learn[: -train // 5], learn[-train // 5 :]
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 3 * SLOTS))
    look = torch.tensor([-2.0, 0.5], requires_grad=True)
    parameters = [*encoder.parameters(), look]
    strategy = arm.removesuffix("_baseline")
    fixed = bars_elbo(encoder, look, learn[:batch_size], strategy, 0.0)
    gradients = [torch.cat([g.flatten() for g in fixed.value_and_grad(parameters)[1]]) for _ in range(draws)]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    likelihoods = {"enumerate": 2**SLOTS, "measure_valued": 1 + SLOTS, "reinforce": 1}[strategy]
    last = -(-(2**SLOTS) * steps // likelihoods)
    baseline, curve, elbo = 0.0, [], math.nan
    for step in range(1, last + 1):
        batch = learn[torch.randint(len(learn), (batch_size,), generator=generator)]
        value = bars_elbo(encoder, look, batch, strategy, baseline)()
        optimizer.zero_grad()
        (-value).backward()
        optimizer.step()
        if arm == "reinforce_baseline":
            baseline = value.item() if step == 1 else 0.9 * baseline + 0.1 * value.item()
        curve.append(value.item())
        if step == steps:
            elbo = bound_on(encoder, look, judge)
    return {
        "elbo": elbo,
        "elbo_at_equal_cost": bound_on(encoder, look, judge),
        "gradient_variance": torch.stack(gradients).var(0).sum().item(),
        "likelihoods_a_step": likelihoods,
        "curve": np.array(curve[:steps]),
    }


def bars(count, generator):
    """Pictures with bars of brightness 1 and width 1, each there or not with equal odds."""
    present = torch.randint(2, (count, SLOTS), generator=generator).float()
    place = torch.randn(count, SLOTS, generator=generator)
    return rendered(present, place, 1.0, 1.0) + NOISE * torch.randn(count, SIDE, SIDE, generator=generator)


def rendered(present, place, brightness, width):
    centre = (SIDE - 1) * torch.sigmoid(1.5 * place)
    stripe = brightness * torch.exp(-((torch.arange(SIDE) - centre[..., None]) / width).square() / 2)
    return (present[..., None] * stripe).sum(-2)[..., None, :].expand(*[-1] * (present.ndim - 1), SIDE, SIDE)


@vi.program
def scene(look):
    present = vi.sample("present", Independent(Bernoulli(torch.full((SLOTS,), 0.5)), 1))
    place = vi.sample("place", Independent(Normal(torch.zeros(SLOTS), torch.ones(SLOTS)), 1))
    present, place = torch.broadcast_tensors(present, place)
    picture = rendered(present, place, 2 * torch.sigmoid(look[0]), look[1].exp())
    vi.sample("image", Independent(Normal(picture, NOISE), 2))


@vi.program
def recognised(encoder, images, strategy, baseline):
    logits, mean, scale = encoder(images.flatten(1)).chunk(3, -1)
    present = Independent(Bernoulli(logits=logits), 1)
    vi.sample("present", present, strategy=strategy, baseline=baseline)
    vi.sample("place", Independent(Normal(mean, F.softplus(scale) + 1e-3), 1))


def bars_elbo(encoder, look, images, strategy, baseline):
    arguments = dict(model_args=(look,), family_args=(encoder, images, strategy, baseline), rows=(len(images),))
    return vi.elbo(scene, recognised, {"image": images}, **arguments)


@torch.no_grad()
def bound_on(encoder, look, images):
    generator = torch.Generator().manual_seed(0)
    return bars_elbo(encoder, look, images, "enumerate", 0.0)(samples=20, generator=generator).item()


SEEN = 5.0


@claim(
    "programmable-vi",
    says="A family with auxiliary variables, marginalised inside the objective, gives a tighter bound than mean field, "
    "and more particles tighten it further.",
    arms=("elbo_mean_field", "hvi", "iwhvi_5", "diwhvi_5_5"),
    holds=all_of(
        higher("bound", "iwhvi_5", than="hvi"),
        higher("bound", "hvi", than="elbo_mean_field"),
        higher("bound", "diwhvi_5_5", than="iwhvi_5"),
        at_most("excess", 0.0, arm="elbo_mean_field"),
        at_most("excess", 0.0, arm="hvi"),
        at_most("excess", 0.0, arm="iwhvi_5"),
        at_most("excess", 0.0, arm="diwhvi_5_5"),
    ),
    tune=Tune({"lr": (0.003, 0.01, 0.03)}, by="bound", best="max"),
    smoke=dict(steps=3, samples=4, judged=80),
    paper=dict(steps=5_000, judged=5_000),
    reported={
        "ELBO, mean field (Table 4)": -8.08,
        "HVI": -9.75,
        "IWHVI, N = 5": -8.18,
        "DIWHVI, N = 5, K = 5": -7.30,
    },
    left_out=(
        "plain gradient ascent, 5,000 steps of 0.001; here Adam",
        "the prior as reverse kernel; here a learned one",
    ),
)
def marginalised_family_is_tighter(
    arm, seed, *, steps=2_000, samples=64, judged=100_000, lr=0.01, reverse="learned", validate=False
):
    """The noisy cone of figure 2: x and y normal, z near x^2 + y^2, and z = 5 seen, so that the posterior is a ring.

    Mean field has a normal for x and one for y. The other family chooses an angle first, and it is integrated out, with
    a wrapped normal reverse kernel around the angle of (x, y), its width learned; `reverse="prior"` proposes from the
    family itself, as the authors' code does. Every arm trains and is judged with its own objective.
    `excess` is the bound minus the evidence, by quadrature, minus three standard errors; all from
    the means of 40 batches of samples.

    Undecided after looks at 5, 10 and 20 seeds, because little is left to gain: the evidence is -5.3232, and with a
    learned kernel all three come within 0.003 of it, -5.3252 (HVI), -5.3249 (IWHVI), -5.3241 (DIWHVI), mean field
    -8.090. DIWHVI is above IWHVI, all stay below the evidence; IWHVI is 0.0003 above HVI, give or take 0.0011, which
    is how far the last steps of training move it. With `reverse="prior"` the bounds are the paper's own, -9.74, -8.18,
    -7.31: more particles tighten them by far, but HVI is then looser than mean field.
    """
    torch.manual_seed(seed)
    if arm == "elbo_mean_field":
        parameters = [torch.tensor([3.0, 0.0], requires_grad=True), torch.zeros(2, requires_grad=True)]
    else:
        parameters = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)]
    objective = cone_objective(arm, parameters, reverse)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    curve = []
    for _ in range(steps):
        value = objective(samples=samples)
        optimizer.zero_grad()
        (-value).backward()
        optimizer.step()
        curve.append(value.item())
    generator = torch.Generator().manual_seed(10_000 * (1 + validate) + seed)
    with torch.no_grad():
        found = torch.stack([objective(samples=judged // 40, generator=generator) for _ in range(40)])
    bound, error = found.mean().item(), found.std().item() / math.sqrt(40)
    return {
        "bound": bound,
        "excess": bound - log_evidence() - 3 * error,
        "standard_error": error,
        "curve": np.array(curve),
    }


class WrappedNormal(Normal):
    """A normal angle, brought back to [-pi, pi)."""

    def rsample(self, sample_shape=()):
        return torch.remainder(super().rsample(sample_shape) + torch.pi, 2 * torch.pi) - torch.pi

    def log_prob(self, value):
        turns = 2 * torch.pi * torch.arange(-1.0, 2.0)
        value = value + turns.reshape(-1, *[1] * max(value.ndim, self.loc.ndim))
        return super().log_prob(value).logsumexp(0)


@vi.program
def cone():
    x = vi.sample("x", Normal(0.0, 10.0))
    y = vi.sample("y", Normal(0.0, 10.0))
    square = x**2 + y**2
    vi.sample("z", Normal(square, 0.1 + square / 100))


def cone_objective(arm, parameters, reverse):
    seen = {"z": torch.tensor(SEEN)}

    @vi.program
    def mean_field():
        mean, log_scale = parameters
        vi.sample("x", Normal(mean[0], log_scale[0].exp()))
        vi.sample("y", Normal(mean[1], log_scale[1].exp()))

    @vi.program
    def ring():
        log_scale, _ = parameters
        angle = vi.sample("angle", Uniform(-torch.pi, torch.pi))
        vi.sample("x", Normal(SEEN**0.5 * angle.cos(), log_scale[0].exp()))
        vi.sample("y", Normal(SEEN**0.5 * angle.sin(), log_scale[1].exp()))

    @vi.program
    def kernel(kept):
        around = torch.atan2(kept["y"], kept["x"])
        vi.sample("angle", WrappedNormal(around, parameters[1][0].exp()))

    if arm == "elbo_mean_field":
        return vi.elbo(cone, mean_field, seen)
    proposal = kernel if reverse == "learned" else None
    family = vi.marginal(ring, keep=("x", "y"), proposal=proposal, particles=1 if arm == "hvi" else 5)
    return vi.iwelbo(cone, family, seen, particles=5) if arm == "diwhvi_5_5" else vi.elbo(cone, family, seen)


def log_evidence():
    """log p(z = 5): over the radius by quadrature, over the angle at once, since nothing depends on it."""
    r = np.linspace(0, 30, 300_001)[1:]
    scale = 0.1 + r**2 / 100
    log_p = -((SEEN - r**2) ** 2) / (2 * scale**2) - np.log(scale * math.sqrt(2 * math.pi))
    return float(np.log(np.trapezoid(r / 100 * np.exp(-(r**2) / 200 + log_p), r)))
