"""Effects of Data Geometry in Early Deep Learning (Tiwari and Konidaris, 2022, arXiv:2301.00008)."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.data import curves
from assay.lab import all_of, at_least, at_most, claim, higher, lower
from assay.nn import BatchedMLP
from assay.probes import regions_along_curve, regions_along_segment
from assay.train import fit


@claim(
    "linear-regions",
    says="The same networks cut a circle into clearly more linear pieces per unit length than a tractrix, at "
    "initialization and throughout training on a toy regression.",
    arms=("circle", "tractrix", "circle_moved", "circle_twice_as_large"),
    holds=all_of(
        higher("density_at_start", "circle", than="tractrix", by=0.05),
        higher("density_in_training", "circle", than="tractrix", by=0.05),
    ),
    smoke=dict(networks=1, steps=50, counts=3, samples=512),
    paper=dict(networks=20),
    reported={"density of regions": "the circle's differs from the tractrix's for every architecture (figures)"},
    left_out=("further widths and depths", "the sphere and the surface of revolution; here curves only"),
)
def manifolds_differ(arm, seed, *, networks=4, points=512, steps=2_000, counts=10, lr=1e-3, samples=8_192):
    """Two architectures, 2-32-32-1 and 2-16-16-16-16-1; the target is sin(4 t) of each curve's own parameter t.

    Holds: 0.314 pieces a neuron and unit of length on the circle, 0.154 on the tractrix; 0.313 and 0.168 in training.
    But it is where the curves lie that decides, not how they bend: the same circle, moved by two radii, has 0.101, less
    than the tractrix, and one twice as large 0.158. At initialization the density is the angle that the curve subtends
    at the origin, by its length, over pi (0.318, 0.150, 0.106 and 0.159), which is what a first layer with small biases
    makes of it by Kac and Rice; 2,000 steps of training hardly change it.
    """
    curve, parameter = {
        "circle": (curves.circle(), lambda s: s),
        "tractrix": (curves.tractrix(), curves.tractrix_parameter),
        "circle_moved": (curves.circle(center=(2.0, 0.0)), lambda s: s),
        "circle_twice_as_large": (curves.circle(2.0), lambda s: s / 2),
    }[arm]
    s = torch.linspace(*curve.interval, points)
    inputs, targets = curve(s), torch.sin(4 * parameter(s))[:, None]
    density = np.zeros(counts)
    losses = []
    for number, widths in enumerate(((2, 32, 32, 1), (2, 16, 16, 16, 16, 1))):
        many = random_networks(networks, widths, torch.Generator().manual_seed(2 * seed + number))
        optimizer = torch.optim.Adam(many.parameters(), lr=lr)
        stops = [round(k * steps / (counts - 1)) for k in range(counts)]
        for step in range(steps + 1):
            if step in stops:
                found = [regions_along_curve(many.single(k), curve, samples=samples) for k in range(networks)]
                density[stops.index(step)] += sum(count.density for count in found) / (2 * networks)
            optimizer.zero_grad()
            loss = F.mse_loss(many(inputs), targets.expand(networks, -1, -1)) * networks
            loss.backward()
            optimizer.step()
        losses.append(loss.item() / networks)
    return {
        "density_at_start": density[0],
        "density_in_training": density.mean(),
        "density_by_time": density,
        "subtended_angle_by_length": curve.subtended_angle / curve.length,
        "final_loss": sum(losses) / 2,
    }


@claim(
    "linear-regions",
    says="The number of pieces on a manifold grows in proportion to the number of neurons and hardly with depth, far "
    "from the exponential worst case.",
    arms=("circle", "tractrix"),
    holds=all_of(
        at_least("slope", 0.85, arm="circle"),
        at_most("slope", 1.15, arm="circle"),
        at_least("slope", 0.85, arm="tractrix"),
        at_most("slope", 1.15, arm="tractrix"),
        at_most("depth_effect", 0.4, arm="circle"),
        at_most("depth_effect", 0.4, arm="tractrix"),
    ),
    smoke=dict(networks=2, samples=512),
    paper=dict(networks=100),
    reported={"theorem": "expected density of boundaries at most linear in the number of neurons"},
    left_out=("manifolds of more than one dimension",),
)
def linear_in_neurons_not_depth(arm, seed, *, networks=24, samples=8_192):
    """`slope`: exponent of regions against neurons over widths 8 to 128 at depth 2; `depth_effect`: absolute log2 of
    the ratio of regions, six layers of 16 against two of 48.

    Holds: exponents 1.00 on the circle and 0.98 on the tractrix; six layers have 0.95 and 1.00 times the pieces of two.
    """
    curve = {"circle": curves.circle(), "tractrix": curves.tractrix()}[arm]
    generator = torch.Generator().manual_seed(seed)

    def regions(*hidden):
        many = random_networks(networks, (2, *hidden, 1), generator)
        found = [regions_along_curve(many.single(k), curve, samples=samples) for k in range(networks)]
        return sum(count.regions for count in found) / networks

    widths = (8, 16, 32, 64, 128)
    by_width = np.array([regions(width, width) for width in widths])
    deep, shallow = regions(*[16] * 6), regions(48, 48)
    return {
        "slope": float(np.polyfit(np.log(widths), np.log(by_width), 1)[0]),
        "depth_effect": abs(math.log2(deep / shallow)),
        "deep_to_shallow": deep / shallow,
        "regions_by_width": by_width,
    }


@claim(
    "linear-regions",
    says="Along paths on an image manifold (decoded latent lines) a random network has fewer pieces per unit length "
    "than along straight lines between the same images.",
    arms=("manifold", "straight"),
    holds=lower("density", "manifold", than="straight"),
    together=True,
    smoke=dict(train=300, epochs=1, pairs=4, networks=1, samples=128),
    paper=dict(train=12_000, epochs=100, pairs=100, networks=20),
    reported={"MetFaces, StyleGAN": "linear regions on the manifold differ from those of Euclidean space (a figure)"},
    left_out=("StyleGAN and MetFaces; here an autoencoder of Fashion-MNIST",),
)
def fewer_pieces_on_image_manifold(
    arms, seed, *, train=10_000, epochs=5, pairs=64, networks=8, width=64, code=8, samples=1_024
):
    """Lengths are those in pixel space; `boundary_density` counts boundaries in place of pieces, of which an open curve
    has one more, which favours short ones.

    Fails, by a little: 0.0259 pieces a neuron and unit of length on the manifold against 0.0248 on the straight lines
    (boundaries: 0.0251 and 0.0239), in each of five seeds. The path is longer (11.8 against 9.9) and has more pieces
    (38.0 against 30.1), by more than in proportion. A first layer is enough for it: by Kac and Rice it makes 0.0236
    boundaries a unit and length on such paths and 0.0229 on such lines, which lie about as far from the origin and turn
    about it less. The abstract says that the two differ, not which is lower; its images come from a StyleGAN.
    """
    split = data.load("fashion", train=train, test=2 * pairs, seed=seed)
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, code))
    decoder = nn.Sequential(nn.Linear(code, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid())
    pictures = data.Labelled(split.train.inputs, split.train.inputs.flatten(1))
    whole = nn.Sequential(encoder, decoder)
    history = fit(
        whole, pictures, torch.optim.Adam(whole.parameters(), lr=1e-3), epochs=epochs, loss=F.mse_loss, seed=seed
    )
    with torch.no_grad():
        codes = encoder(split.test.inputs).double().view(pairs, 2, code)
    decoder.double()
    many = random_networks(networks, (784, width, width, 10), torch.Generator().manual_seed(seed))
    measured = {arm: {"density": [], "boundary_density": [], "regions": [], "length": []} for arm in arms}
    for start, end in codes:
        path = curves.latent_path(decoder, start, end)
        first, last = path(torch.tensor([0.0, 1.0], dtype=torch.float64))
        for k in range(networks):
            network = many.single(k)
            counts = {
                "manifold": regions_along_curve(network, path, samples=samples, halvings=10),
                "straight": regions_along_segment(network, first, last),
            }
            for arm in arms:
                count = counts[arm]
                measured[arm]["density"].append(count.density)
                measured[arm]["boundary_density"].append(len(count.positions) / (count.neurons * count.length))
                measured[arm]["regions"].append(count.regions)
                measured[arm]["length"].append(count.length)
    return {
        arm: {name: float(np.mean(values)) for name, values in measured[arm].items()}
        | {"autoencoder_loss": history.loss[-1]}
        for arm in arms
    }


def random_networks(count, widths, generator):
    """Weights from N(0, 2 / fan-in), biases from N(0, 0.1^2)."""
    many = BatchedMLP(count, widths)
    with torch.no_grad():
        for name, p in many.named_parameters():
            p.normal_(0, 0.1 if name.endswith("bias") else math.sqrt(2 / p.shape[2]), generator=generator)
    return many
