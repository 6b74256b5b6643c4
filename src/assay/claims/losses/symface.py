"""SymFace: Additional Facial Symmetry Loss for Deep Face Recognition (2024, arXiv:2409.11816)."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.lab import Tune, claim, higher
from assay.losses import ArcFace, SymFaceLoss, split_face

# How far identities differ: at 1, ArcFace alone verifies 99.7 % of the pairs (seed 1000), which leaves nothing to gain.
SPREAD = 0.25
SMOKE = dict(identities=6, per_identity=4, unseen=4, epochs=1, pairs=60)
KNOBS = {
    "arcface_symface": (0.01, 0.1, 0.3, 1.0),
    "arcface": (0.0, 0.0, 0.0, 0.0),
    "arcface_flip": (0.0, 0.0, 0.0, 0.0),
    "arcface_halves_as_samples": (0.0, 0.0, 0.0, 0.0),
}
LEFT_OUT = (
    "photographs of people (MS1MV2 to train, LFW, CFP-FP, AgeDB and others to verify); here faces drawn from a formula",
    "AdaFace as a second base loss; MobileFaceNet, ShuffleFaceNet and ResNets; here a small CNN",
)


@claim(
    "symface",
    says="On unseen identities ArcFace with the symmetry loss verifies pairs more accurately than ArcFace alone.",
    arms=("arcface_symface", "arcface", "arcface_flip", "arcface_halves_as_samples"),
    holds=higher("verification_accuracy", "arcface_symface", than="arcface"),
    tune=Tune({"lr": (0.05, 0.1), "weight": KNOBS}, by="verification_accuracy", best="max"),
    smoke=SMOKE,
    paper=dict(identities=10_000, per_identity=50, epochs=30),
    reported={"LFW, CFP-FP, CPLFW, AgeDB, CALFW (tables)": "higher with the loss for every backbone"},
    left_out=LEFT_OUT,
)
def verification_accuracy(
    arm,
    seed,
    *,
    identities=150,
    per_identity=20,
    unseen=80,
    epochs=12,
    pairs=6_000,
    lr=0.1,
    weight=1.0,
    validate=False,
):
    """Ten-fold: the threshold that is best on nine parts of the pairs judges the tenth.

    Arms without the loss have as many steps more as its passes over halves take (two images for each frontal one, about
    four in five of them). `arcface_flip` mirrors images at random, `arcface_halves_as_samples` learns the completed
    halves as faces. Tuning verifies other identities.

    Fails: 94.8 % against 98.1 % for ArcFace at equal time; with the same number of epochs ArcFace alone has 96 and 97
    % (seeds 0 and 1), so that time is not the whole of it. The smallest of four weights, 0.01, was the best. Halves
    as further samples cost as much (92.6 %), and mirroring at random neither helps nor harms (98.1 %): a completed
    half has another mouth or eyelid than the face, and may teach the network to look past what tells these people
    apart.
    """
    learn, judge = population(seed, identities, per_identity, unseen, 0.0, validate)
    network = trained(arm, learn, seed, identities=identities, epochs=epochs, lr=lr, weight=weight)
    return verified(network, judge, pairs, seed)


@claim(
    "symface",
    says="The gain appears where faces are symmetric and the nuisance is one-sided, and vanishes when identities "
    "themselves are asymmetric.",
    arms=("gain_symmetric", "gain_asymmetric"),
    holds=higher("gain", "gain_symmetric", than="gain_asymmetric"),
    smoke=SMOKE,
    left_out=(*LEFT_OUT, "not an experiment of the paper, but the hypothesis of its introduction"),
)
def symmetry_is_the_cause(
    arm, seed, *, identities=150, per_identity=20, unseen=80, epochs=12, pairs=6_000, lr=0.1, weight=1.0
):
    """Verification accuracy with the loss less that without, at the same steps for both."""
    asymmetry = {"gain_symmetric": 0.0, "gain_asymmetric": 1.0}[arm]
    learn, judge = population(seed, identities, per_identity, unseen, asymmetry, False)
    found = {}
    for each in ("arcface_symface", "arcface"):
        settings = dict(identities=identities, epochs=epochs, lr=lr, weight=weight)
        network = trained(each, learn, seed, **settings)
        found[each] = verified(network, judge, pairs, seed)["verification_accuracy"]
    return {"gain": found["arcface_symface"] - found["arcface"], **found}


@claim(
    "symface",
    says="The symmetry loss increases the distance between identities relative to the spread within them.",
    arms=("arcface_symface", "arcface"),
    holds=higher("fisher_ratio", "arcface_symface", than="arcface"),
    smoke=SMOKE,
    left_out=LEFT_OUT,
)
def class_separation(
    arm, seed, *, identities=150, per_identity=20, unseen=80, epochs=12, pairs=6_000, lr=0.1, weight=1.0
):
    """Variance between identities over that within, of embeddings of length 1, on unseen identities."""
    learn, judge = population(seed, identities, per_identity, unseen, 0.0, False)
    network = trained(arm, learn, seed, identities=identities, epochs=epochs, lr=lr, weight=weight)
    return verified(network, judge, pairs, seed)


def population(seed, identities, per_identity, unseen, asymmetry, validate):
    """Faces to learn from, and ten of each of other people to judge by."""
    generator = torch.Generator().manual_seed(2 * seed + validate)
    learn = data.parametric_faces(identities, per_identity, spread=SPREAD, asymmetry=asymmetry, generator=generator)
    return learn, data.parametric_faces(unseen, 10, spread=SPREAD, asymmetry=asymmetry, generator=generator)


def trained(arm, learn, seed, *, identities, epochs, lr, weight, batch_size=128):
    """The network after SGD with momentum and a cosine over all steps."""
    torch.manual_seed(seed)
    layers = []
    for fan_in, fan_out, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 2)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 64))
    base = ArcFace(64, identities, s=16.0, m=0.3)
    loss = SymFaceLoss(base, weight=weight if arm == "arcface_symface" else 0.0)
    halves = SymFaceLoss(base, weight=0.0)
    parameters = [*network.parameters(), *base.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(seed)
    images = (learn.images - learn.images.mean()) / learn.images.std()
    plain = epochs if arm in ("arcface_symface", "arcface_halves_as_samples") else round(2.6 * epochs)
    steps = plain * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    indices = data.Labelled(torch.arange(len(images)), learn.labels)
    for _ in range(plain):
        for rows, labels in data.batches(indices, batch_size, generator=generator):
            x, points = images[rows], learn.landmarks[rows]
            if arm == "arcface_flip":
                flipped = torch.rand(len(x), generator=generator) < 0.5
                x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x)
            optimizer.zero_grad()
            if arm == "arcface_halves_as_samples":
                left, right = split_face(x, points)
                value = halves(network, torch.cat([x, left, right]), labels.repeat(3), points.repeat(3, 1, 1))
            else:
                value = loss(network, x, labels, points)
            value.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def verified(network, judge, pairs, seed):
    """Accuracy of telling pairs of one person from pairs of two, and how far identities are apart."""
    images = (judge.images - judge.images.mean()) / judge.images.std()
    embeddings = F.normalize(torch.cat([network(part) for part in images.split(500)]), dim=1)
    rng = np.random.default_rng(seed)
    labels = judge.labels.numpy()
    people, each = len(np.unique(labels)), len(labels) // len(np.unique(labels))
    half = pairs // 2
    person = rng.integers(people, size=half)
    first = rng.integers(each, size=half)
    second = (first + rng.integers(1, each, size=half)) % each
    other = (person + rng.integers(1, people, size=half)) % people
    a = np.concatenate([person * each + first] * 2)
    b = np.concatenate([person * each + second, other * each + second])
    same = np.concatenate([np.ones(half, bool), np.zeros(half, bool)])
    similarity = (embeddings[a] * embeddings[b]).sum(1).numpy()
    fold = rng.permutation(len(same)) % 10
    right = []
    for number in range(10):
        rest, held = fold != number, fold == number
        cuts = np.quantile(similarity[rest], np.linspace(0, 1, 401))
        scores = [((similarity[rest] >= cut) == same[rest]).mean() for cut in cuts]
        right.append(((similarity[held] >= cuts[int(np.argmax(scores))]) == same[held]).mean())
    groups = embeddings.view(people, each, -1)
    within = (groups - groups.mean(1, keepdim=True)).square().sum(2).mean()
    between = (groups.mean(1) - embeddings.mean(0)).square().sum(1).mean()
    return {"verification_accuracy": float(np.mean(right)), "fisher_ratio": (between / within).item()}
