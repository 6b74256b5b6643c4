"""Direct Feedback Alignment Scales to Modern Deep Learning Tasks (Launay et al., 2020, arXiv:2006.12878)."""

import dataclasses
import math
import statistics
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled, scenes
from assay.lab import all_of, at_least, at_most, claim, ratio
from assay.learn import BlockChain, DirectFeedbackAlignment, FeedbackPoint, backpropagation, gradient_cosine
from assay.metrics import psnr
from assay.metrics.costs import step_costs
from assay.nn import decoder
from assay.train import fit

TASKS = ("view", "clicks", "graph", "words")
# (learning rate, beta_2) of Adam, the best for each arm and task of 5 x 2 values, lr in 3e-4, 1e-3, 3e-3, 1e-2, 3e-2
# and beta_2 in 0.9, 0.999, with seed 1000 and data of that seed, which no verdict uses. The scores there: DFA 24.2 dB,
# 0.799, 78.8 %, -2.651; backpropagation 26.6, 0.885, 77.5, -2.547; shallow 18.6, 0.626, 72.9, -2.860.
CHOSEN = {
    "dfa": {"view": (1e-3, 0.9), "clicks": (3e-3, 0.999), "graph": (3e-3, 0.999), "words": (3e-3, 0.999)},
    "bp": {"view": (1e-3, 0.999), "clicks": (3e-3, 0.9), "graph": (3e-3, 0.999), "words": (1e-2, 0.9)},
    "shallow": {"view": (3e-2, 0.9), "clicks": (3e-2, 0.9), "graph": (3e-2, 0.999), "words": (3e-2, 0.999)},
}
LEFT_OUT = (
    "NeRF scenes, Criteo, citation graphs and WikiText-103; here an analytic scene, clicks of a planted teacher, a "
    "block model and a probabilistic grammar",
    "11 architectures; here one for each of the four tasks",
)
NEAR, FAR = 3.0, 7.0


@claim(
    "direct-feedback-alignment",
    says="On view synthesis, recommendation, graph learning and language modelling DFA closes most of the gap between "
    "training only the readout and full backpropagation.",
    arms=("dfa", "bp", "shallow"),
    holds=all_of(
        at_least("second_least_gap_closed", 0.7, arm="dfa"),
        at_least("least_gap_closed", 0.0, arm="dfa"),
    ),
    together=True,
    smoke=dict(scale=0.02),
    paper=dict(scale=50.0),
    reported={
        "what the abstract says": "performance close to fine-tuned backpropagation on all four kinds of tasks",
        "WikiText-103, perplexity": "29.8 for backpropagation, 52.0 for DFA after every layer",
    },
    left_out=LEFT_OUT,
)
def close_to_backprop_off_vision(arms, seed, *, scale=1.0):
    """What of the gap between `shallow` and `bp` is closed, task by task; `scale` multiplies the epochs.

    At least 0.7 on three of four tasks is the second least of the four; better than `shallow` on all is the least above
    0. The measures are PSNR of unseen views, area under the ROC curve, accuracy on unseen nodes, and minus the
    cross-entropy of unseen sentences. `shallow` trains what lies above the last feedback point.

    Undecided: 0.77 of the gap is closed for views (22.1 dB; 23.7 and 16.5), 0.56 for clicks (0.739; 0.873 and
    0.581), 0.53 for words (-2.70; -2.54 and -2.87). On the graph training the readout alone is nearly as good as
    all (72.6 and 75.3 %, DFA 74.4), so that the share, 1.1, scatters by 1.3 and the least of four with it. The
    third best share, 0.57, is below 0.7 in
    every seed.
    """
    found = {arm: {task: train(task, arm, seed, scale, *CHOSEN[arm][task])[0] for task in TASKS} for arm in arms}
    if {"dfa", "bp", "shallow"} <= set(found):
        bp, shallow = found["bp"], found["shallow"]
        closed = {task: (found["dfa"][task] - shallow[task]) / (bp[task] - shallow[task]) for task in TASKS}
        ordered = sorted(closed.values())
        found["dfa"] |= {f"gap_closed_{task}": share for task, share in closed.items()}
        found["dfa"] |= {"least_gap_closed": ordered[0], "second_least_gap_closed": ordered[1]}
    return found


@claim(
    "direct-feedback-alignment",
    says="During training the random feedback comes to point along the true gradient, and more so in tasks where DFA "
    "works well.",
    arms=("dfa", "dfa_frozen_forward"),
    holds=all_of(
        at_least("rise_view", 0.1, arm="dfa"),
        at_least("end_view", 0.1, arm="dfa"),
        at_least("rise_graph", 0.1, arm="dfa"),
        at_least("end_graph", 0.1, arm="dfa"),
    ),
    together=True,
    smoke=dict(scale=0.02, looks=2),
    left_out=LEFT_OUT,
)
def alignment_emerges(arms, seed, *, scale=1.0, looks=10):
    """Mean cosine between the two gradients of the hidden weights, on held-out examples, along training.

    With a frozen forward only the readout learns, so that the weights above cannot turn towards the feedback.

    Holds, at 10 seeds: the cosine rises by 0.4 in view synthesis and by 0.3 on graphs; with a frozen forward pass
    by a tenth and not at all.
    """
    found = {}
    for arm in arms:
        found[arm] = {}
        for task in ("view", "graph"):
            how = "dfa" if arm == "dfa" else "shallow"
            curve = train(task, how, seed, scale, *CHOSEN["dfa"][task], looks=looks)[1]
            found[arm] |= {f"end_{task}": curve[-1], f"rise_{task}": curve[-1] - curve[0]}
            found[arm][f"cosine_{task}"] = np.array(curve)
    return found


@claim(
    "direct-feedback-alignment",
    says="Layers need not wait for each other: with a processor for each of them, a step of DFA is over in at most 0.6 "
    "of the time that backpropagation's takes.",
    arms=("dfa", "bp"),
    holds=all_of(
        ratio("waiting", "dfa", to="bp", at_most=0.6),
        at_most("off_the_rule", 1e-5, arm="dfa"),
    ),
    together=True,
    exclusive=True,
    smoke=dict(batch_size=32, depth=4, width=16, repeats=1),
    reported={"what the abstract says": "backpropagation prevents an efficient parallelization of training"},
    left_out=(
        "a step on as many processors as layers; here the longest chain of work in which each waits for the last",
    ),
)
def layers_need_not_wait(arms, seed, *, batch_size=512, depth=16, width=256, repeats=15):
    """Medians of seconds on one core: the pass forward, that of the last layer back, and the longest of any other.

    For backpropagation all layers' backward passes come one after the other. `off_the_rule` is the largest difference
    of a weight's gradient, found layer by layer, from that of the rule, beside its largest entry. The seconds and MiB
    of a whole step of both, on one core, are shown too.

    Holds: 37 ms against 89, most of them the pass forward. On one core a step takes 1.03 times as long, and twice the
    memory (17.3 MiB, 9.0), as the feedback of all layers is there at once.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(batch_size, width, generator=generator), torch.randn(batch_size, 4, generator=generator)
    torch.manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)]
    chain = BlockChain(*layers, nn.Linear(width, 4))
    rule = DirectFeedbackAlignment(chain, generator=generator)
    rules = {"dfa": rule, "bp": backpropagation}

    def step(arm):
        chain.zero_grad(set_to_none=False)
        rules[arm](chain, x, y, F.mse_loss)

    found = step_costs({arm: lambda arm=arm: step(arm) for arm in arms}, repeats=repeats)
    if "dfa" in arms:
        step("dfa")
        wanted = [p.grad.clone() for p in chain.parameters()]
        turns = []
        for _ in range(repeats):
            chain.zero_grad(set_to_none=False)
            turns.append(longest_chain(chain, rule, x, y))
        found["dfa"]["waiting"] = statistics.median(turns)
        gaps = [
            ((p.grad - each).abs().max() / each.abs().max()).item()
            for p, each in zip(chain.parameters(), wanted, strict=True)
        ]
        found["dfa"]["off_the_rule"] = max(gaps)
    if "bp" in arms:
        found["bp"]["waiting"] = found["bp"]["seconds"]
    return found


def longest_chain(chain, rule, x, y):
    """Seconds of the forward pass, the last block's backward pass and the slowest of all others; fills gradients."""

    def timed(work):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    outs = []
    forward = timed(lambda: outs.extend(chain.local(x)))
    error = outs[-1].detach().requires_grad_()
    value = F.mse_loss(error, y)

    def readout():
        value.backward()
        outs[-1].backward(error.grad)

    last = timed(readout)

    def send(out):
        out.backward((error.grad @ rule.feedback["shared"])[:, : out.shape[1]])

    return forward + last + max(timed(lambda out=out: send(out)) for out in outs[:-1])


def train(task, arm, seed, scale, lr, beta2, *, looks=0):
    """(the task's measure, higher is better; cosines along the way)."""
    make = {"view": view, "clicks": clicks, "graph": graph, "words": words}[task]
    model, learn, held, loss, measure, epochs, batch_size, dims = make(seed)
    generator = torch.Generator().manual_seed(20_000 + seed)
    rule = DirectFeedbackAlignment(model, batch_dims=dims, generator=generator)
    readout = after_last_point(model)
    if arm == "shallow":
        for p in model.parameters():
            p.requires_grad_(False)
        for p in readout:
            p.requires_grad_(True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr, betas=(0.9, beta2))
    epochs = max(1, round(epochs * scale))
    curve = []
    hidden = [name for name, p in model.named_parameters() if p.ndim > 1 and all(p is not each for each in readout)]
    wanted = {round(each) for each in np.linspace(0, epochs, looks)} if looks else set()

    def look(net):
        frozen = [p for p in net.parameters() if not p.requires_grad]
        for p in frozen:
            p.requires_grad_(True)
        cosines = gradient_cosine(net, rule, *held, loss)
        for p in frozen:
            p.requires_grad_(False)
        curve.append(statistics.fmean(cosines[name] for name in hidden))

    if looks:
        rule(model, *held, loss)  # draws the feedback, which gradient_cosine would draw for itself alone
        look(model)
    count = 0

    def each_epoch(net):
        nonlocal count
        count += 1
        if count in wanted:
            look(net)

    fit(
        model,
        learn,
        optimizer,
        epochs=epochs,
        loss=loss,
        rule=rule if arm == "dfa" else None,
        batch_size=batch_size,
        seed=seed,
        on_epoch=each_epoch,
    )
    with torch.no_grad():
        return measure(model), curve


def after_last_point(model):
    if isinstance(model, BlockChain):
        return list(model[len(model) - 1].parameters())
    return list(model.readout())


def view(seed):
    """A field of colour and density, seen along rays; hidden layers of 64, feedback after each."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    scene = dataclasses.replace(scenes.random_scene(generator, objects=(3, 4), spread=1.2), floor=None)
    cameras = scenes.orbit_cameras(12, start=0.3, size=(24, 24))
    distances = torch.linspace(NEAR, FAR, 20)
    parts = []
    for chosen in (cameras[::2] + cameras[1::4], cameras[3::4]):
        points, colors = [], []
        for camera in chosen:
            origins, directions = (each.reshape(-1, 1, 3) for each in camera.rays())
            points.append(origins + distances[:, None] * directions)
            colors.append(scenes.render(scene, camera=camera).rgb.flatten(1).T)
        parts.append(Labelled(torch.cat(points), torch.cat(colors)))
    learn, unseen = parts
    gap = (FAR - NEAR) / 19

    def colors_along(outputs):
        alpha = 1 - torch.exp(-F.softplus(outputs[..., 3]) * gap)
        past = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1), 1)
        seen = ((alpha * past[:, :-1])[..., None] * torch.sigmoid(outputs[..., :3])).sum(1)
        return seen + past[:, -1:] * scene.background

    layers = [nn.Sequential(Waves(), nn.Linear(39, 64), nn.ReLU())]
    layers += [nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(3)]
    model = BlockChain(*layers, nn.Linear(64, 4))

    def loss(outputs, targets):
        return F.mse_loss(colors_along(outputs), targets)

    def measure(net):
        return psnr(colors_along(net(unseen.inputs)).clamp(0, 1), unseen.targets)

    held = Labelled(unseen.inputs[:256], unseen.targets[:256])
    return model, learn, held, loss, measure, 12, 128, (0, 1)


class Waves(nn.Module):
    """Sines and cosines of coordinates, six octaves, and the coordinates."""

    def forward(self, x):
        turns = x[..., None] * (2.0 ** torch.arange(6) * math.pi / 4)
        return torch.cat([x, turns.sin().flatten(-2), turns.cos().flatten(-2)], -1)


class Clicks(nn.Module):
    """Embeddings, pairwise products (a factorization machine) and a network of two hidden layers, added."""

    def __init__(self, fields, categories, size=8, width=32):
        super().__init__()
        self.embeddings = nn.Embedding(fields * categories, size)
        self.linear = nn.Embedding(fields * categories, 1)
        nn.init.normal_(self.embeddings.weight, std=0.3)
        nn.init.zeros_(self.linear.weight)
        self.offset = torch.arange(fields) * categories
        self.points = nn.ModuleList(FeedbackPoint() for _ in range(3))
        self.one, self.two = nn.Linear(fields * size, width), nn.Linear(width, width)
        self.top = nn.Linear(width, 1)

    def readout(self):
        return [*self.top.parameters(), *self.linear.parameters()]

    def forward(self, x):
        v = self.points[0](self.embeddings(x + self.offset))
        products = (v.sum(1).square() - v.square().sum(1)).sum(1, keepdim=True) / 2
        hidden = self.points[1](torch.relu(self.one(v.flatten(1))))
        hidden = self.points[2](torch.relu(self.two(hidden)))
        return self.top(hidden) + products + self.linear(x + self.offset).sum(1)


def clicks(seed, fields=6, categories=10):
    """A click is likely where pairs of fields agree in a hidden bit of their categories."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (fields, categories), generator=generator) * 2 - 1
    x = torch.randint(categories, (8_000, fields), generator=generator)
    sign = bits[torch.arange(fields), x].float()
    chance = torch.sigmoid(1.5 * (sign[:, 0] * sign[:, 1] + sign[:, 2] * sign[:, 3]) + sign[:, 4] * sign[:, 5])
    y = (torch.rand(len(x), generator=generator) < chance).float()[:, None]
    learn, unseen = Labelled(x[:5_000], y[:5_000]), Labelled(x[5_000:], y[5_000:])

    def measure(net):
        score, wanted = net(unseen.inputs)[:, 0], unseen.targets[:, 0].bool()
        ranks = score.argsort().argsort().double() + 1
        positive = int(wanted.sum())
        below = ranks[wanted].sum().item() - positive * (positive + 1) / 2
        return below / (positive * (len(ranks) - positive))

    held = Labelled(unseen.inputs[:256], unseen.targets[:256])
    loss = F.binary_cross_entropy_with_logits
    return Clicks(fields, categories), learn, held, loss, measure, 15, 128, (0,)


class GraphNet(nn.Module):
    """Two graph convolutions (Kipf & Welling, 2017); takes anything and gives the logits of all nodes."""

    def __init__(self, adjacency, features, classes, width=32):
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.register_buffer("features", features)
        self.one, self.point = nn.Linear(features.shape[1], width), FeedbackPoint()
        self.two = nn.Linear(width, classes)

    def readout(self):
        return self.two.parameters()

    def forward(self, _):
        hidden = self.point(torch.relu(self.adjacency @ self.one(self.features)))
        return self.adjacency @ self.two(hidden)


def graph(seed, nodes=300, classes=4):
    """A stochastic block model whose nodes have faint features; a fifth of the labels is known."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(nodes) % classes
    chance = torch.where(labels[:, None] == labels, 0.06, 0.015)
    upper = torch.triu(torch.rand(nodes, nodes, generator=generator) < chance, 1).float()
    joined = upper + upper.T + torch.eye(nodes)
    scale = joined.sum(1).rsqrt()
    means = torch.randn(classes, 16, generator=generator)
    features = means[labels] + 2.5 * torch.randn(nodes, 16, generator=generator)
    order = torch.randperm(nodes, generator=generator)
    known, unseen = order[: nodes // 5], order[nodes // 5 :]
    model = GraphNet(scale[:, None] * joined * scale, features, classes)

    def loss(outputs, _):
        return F.cross_entropy(outputs[known], labels[known])

    def measure(net):
        return (net(None)[unseen].argmax(1) == labels[unseen]).double().mean().item()

    whole = Labelled(torch.arange(nodes), labels)
    return model, whole, whole, loss, measure, 150, nodes, (0,)


class Words(nn.Module):
    """A causal transformer with feedback after each of its layers."""

    def __init__(self, vocabulary, context):
        super().__init__()
        inner = decoder(vocabulary=vocabulary, context=context, d=32, depth=2, heads=4)
        inner.blocks = nn.Sequential(inner.blocks[0], FeedbackPoint(), inner.blocks[1], FeedbackPoint())
        self.inner = inner

    def readout(self):
        return [*self.inner.norm.parameters(), *self.inner.head.parameters()]

    def forward(self, x):
        return self.inner(x)


def words(seed, kinds=6, length=25):
    """Sentences of a grammar of nested brackets: what closes is what was opened last."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    tokens = sentences(1_200 * length, kinds, generator).view(-1, length)
    learn = Labelled(tokens[:1_000, :-1], tokens[:1_000, 1:])
    unseen = Labelled(tokens[1_000:, :-1], tokens[1_000:, 1:])

    def loss(outputs, targets):
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def measure(net):
        return -loss(net(unseen.inputs), unseen.targets).item()

    return Words(3 * kinds + 1, length - 1), learn, unseen, loss, measure, 15, 32, (0, 1)


def sentences(count, kinds, generator):
    """S -> a_i S b_i S (0.35), c_i S (0.3), or an end; sentences follow each other, with a mark between."""
    draws = torch.rand(2 * count, generator=generator).tolist()
    choices = torch.randint(kinds, (2 * count,), generator=generator).tolist()
    out, stack, at = [], [], 0
    while len(out) < count:
        chance, kind = draws[at % len(draws)], choices[at % len(choices)]
        at += 1
        if chance < 0.35 and len(stack) < 8:
            out.append(kind)
            stack.append(kind)
        elif chance < 0.65:
            out.append(2 * kinds + kind)
        elif stack:
            out.append(kinds + stack.pop())
        else:
            out.append(3 * kinds)
    return torch.tensor(out[:count])
