"""When Vision Transformers Outperform ResNets without Pre-training or Strong Data Augmentations (Chen et al., 2021)."""

import math

import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from assay import data, nn
from assay.curvature import Hessian, top_eigenvalues
from assay.lab import all_of, claim, higher, lower, ratio
from assay.optim import SAM
from assay.probes import active_neurons
from assay.train import accuracy, fit

# The best by accuracy on held-out training images, seeds 1000 and 1001 (26 November 2026). AdamW, and AdamW with twice
# the epochs: rates 5e-4, 1e-3, 2e-3 x decays 0.05, 0.3; SGD: rates 0.05, 0.1, 0.2, 0.4. SAM takes the rate and decay
# of its base and its rho from 0.02, 0.05, 0.1, 0.2, and, as the least was the best for the transformer, 0.01 and
# 0.005 there: 0.805 at 0.005, 0.800 at 0.01, 0.797 at 0.02, 0.778 at 0.05, 0.752 at 0.1, 0.707 at 0.2; AdamW had 0.797.
TUNED = {
    "vit_adamw": dict(lr=1e-3, weight_decay=0.05),
    "vit_adamw_2x": dict(lr=2e-3, weight_decay=0.05),
    "vit_sam": dict(lr=1e-3, weight_decay=0.05, rho=0.005),
    "resnet_sgd": dict(lr=0.2, weight_decay=5e-4),
    "resnet_sam": dict(lr=0.2, weight_decay=5e-4, rho=0.05),
}
SMOKE = dict(train=64, test=50, epochs=1, d=8, depth=2, widths=(2, 4, 4))
PAPER = dict(dataset="cifar10", train=50_000, test=10_000, epochs=300, patch=4, d=384, depth=12, widths=(64, 128, 256))
LEFT_OUT = (
    "ViT-S and B, Mixers and ResNets of 50 to 152 layers on ImageNet; here a transformer of 4 blocks of width 64 and a "
    "residual network of 8 layers, widths 8, 16, 32, on 3,000 images of Fashion-MNIST",
    "perturbations by device in batches of 4,096; here one a batch of 64",
    "robustness to corruptions and attacks",
)


@claim(
    "sharpness-aware-vit",
    says="A small ViT trained from scratch on few images gains test accuracy from SAM even against AdamW given twice "
    "the epochs, and gains more than a small ResNet does.",
    arms=("vit_sam", "vit_adamw", "vit_adamw_2x", "resnet_sam", "resnet_sgd"),
    holds=all_of(
        higher("test_accuracy", "vit_sam", than="vit_adamw"),
        higher("test_accuracy", "vit_sam", than="vit_adamw_2x"),
        higher("gain", "vit_sam", than="resnet_sam"),
    ),
    together=True,
    smoke=SMOKE,
    paper=PAPER,
    reported={
        "ViT-B/16 on ImageNet, top-1 (table)": "SAM 5.3 % above AdamW",
        "Mixer-B/16": "11.0 % above",
        "ResNet-152": "0.9 % above SGD",
    },
    left_out=LEFT_OUT,
)
def vit_accuracy(
    arms,
    seed,
    *,
    dataset="fashion",
    train=3_000,
    test=3_000,
    epochs=15,
    patch=7,
    d=64,
    depth=4,
    widths=(8, 16, 32),
):
    """Twice the epochs make up for SAM's two gradients a step. Gain: accuracy less that of the base optimizer alone.

    Fails against AdamW with twice the epochs, undecided elsewhere: 80.7 % with SAM, 80.9 % with AdamW, 81.1 % at
    twice the epochs; the residual network has 83.4 and 83.8 %. Tuning chose the smallest radius that was tried
    (0.005), and every larger one lost: in fifteen epochs of three thousand images the transformer has not fitted the
    training set, and sharp minima are not yet its trouble. The paper's are of 300 epochs. Steps agree with the two
    lines of the algorithm written out.
    """
    split = data.load(dataset, train=train, test=test, seed=seed)
    results = {}
    for arm in arms:
        network, loss = trained(arm, split, seed, epochs=epochs, patch=patch, d=d, depth=depth, widths=widths)
        results[arm] = {"test_accuracy": accuracy(network, split.test), "loss": loss}
    for arm, base in (("vit_sam", "vit_adamw"), ("resnet_sam", "resnet_sgd")):
        results[arm]["gain"] = results[arm]["test_accuracy"] - results[base]["test_accuracy"]
    return results


@claim(
    "sharpness-aware-vit",
    says="The ViT found by AdamW is sharper than the ResNet's minimum, and SAM lowers the ViT's largest Hessian "
    "eigenvalue by at least five times.",
    arms=("vit_adamw", "vit_sam", "resnet_sgd"),
    holds=all_of(
        higher("lambda_max", "vit_adamw", than="resnet_sgd"),
        ratio("lambda_max", "vit_adamw", to="vit_sam", at_least=5),
    ),
    smoke=SMOKE | dict(examined=16),
    paper=PAPER,
    reported={
        "largest eigenvalue, AdamW or SGD (table)": "ViT-B/16 738.8, Mixer-B/16 1644.4, ResNet-152 179.8",
        "with SAM": "20.9, 22.5, 42.0",
    },
    left_out=LEFT_OUT,
)
def flatter_minima(
    arm,
    seed,
    *,
    dataset="fashion",
    train=3_000,
    test=1_000,
    epochs=15,
    patch=7,
    d=64,
    depth=4,
    widths=(8, 16, 32),
    examined=512,
):
    """Largest eigenvalue of the Hessian of the training loss on 512 training images, in evaluation mode.

    The curvature of cross-entropy falls with the loss itself, which is reported beside it.
    """
    split = data.load(dataset, train=train, test=test, seed=seed)
    network, _ = trained(arm, split, seed, epochs=epochs, patch=patch, d=d, depth=depth, widths=widths)
    x, y = split.train.inputs[:examined], split.train.targets[:examined]
    network.eval()
    operator = Hessian(network, F.cross_entropy, x, y, batch_size=128)
    generator = torch.Generator().manual_seed(seed)
    found = top_eigenvalues(operator.matvec, operator.size, 1, tol=1e-2, generator=generator)
    with torch.no_grad():
        loss = F.cross_entropy(network(x), y).item()
    return {"lambda_max": found.values[0].item(), "train_loss": loss, "test_accuracy": accuracy(network, split.test)}


@claim(
    "sharpness-aware-vit",
    says="SAM makes fewer MLP neurons of the first block active than AdamW does, more so than in the last block.",
    arms=("vit_sam", "vit_adamw"),
    holds=all_of(
        lower("active_first", "vit_sam", than="vit_adamw"),
        higher("drop_first", "vit_sam", than="vit_adamw"),
    ),
    together=True,
    smoke=SMOKE,
    paper=PAPER,
    reported={"active neurons of ViT-B/16 (figure)": "fewer with SAM, most so in the first blocks"},
    left_out=LEFT_OUT,
)
def sparser_first_layers(
    arms, seed, *, dataset="fashion", train=3_000, test=1_000, epochs=15, patch=7, d=64, depth=4, widths=(8, 16, 32)
):
    """Shares of hidden units above 0 on test images. `drop_first` of an arm is its drop from the other arm in the first
    block beyond that in the last one, so that the second condition compares the two drops.
    """
    split = data.load(dataset, train=train, test=test, seed=seed)
    shares = {}
    for arm in arms:
        network, _ = trained(arm, split, seed, epochs=epochs, patch=patch, d=d, depth=depth, widths=widths)
        shares[arm] = list(active_neurons(network, split.test.inputs).values())
    drops = [a - b for a, b in zip(shares["vit_adamw"], shares["vit_sam"], strict=True)]
    return {
        arm: {
            "active_first": shares[arm][0],
            "active_last": shares[arm][-1],
            "drop_first": (drops[0] - drops[-1]) * (arm == "vit_sam"),
            "active_by_block": torch.tensor(shares[arm]),
        }
        for arm in arms
    }


def trained(arm, split, seed, *, epochs, patch, d, depth, widths, settings=None):
    """The network of an arm, after warm-up over a tenth of the steps and a cosine, and its loss by epoch."""
    settings = dict(TUNED[arm] if settings is None else settings)
    rho = settings.pop("rho", None)
    torch.manual_seed(seed)
    if arm.startswith("vit"):
        heads = max(1, d // 16)
        network = nn.tinyvit(split.shape, split.num_classes, patch=patch, d=d, depth=depth, heads=heads)
        optimizer = torch.optim.AdamW(network.parameters(), **settings)
    else:
        network = nn.resnet8(split.shape, split.num_classes, widths=widths)
        optimizer = torch.optim.SGD(network.parameters(), momentum=0.9, **settings)
        epochs = max(1, epochs * 2 // 3)
    epochs *= 2 if arm.endswith("2x") else 1
    warm = max(1, epochs // 10)

    def factor(epoch):
        if epoch < warm:
            return (epoch + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (epoch - warm) / max(1, epochs - warm)))

    outer = optimizer if rho is None else SAM(optimizer, rho=rho)
    history = fit(
        network,
        split.train,
        outer,
        epochs=epochs,
        batch_size=64,
        seed=seed,
        schedule=lambda each: LambdaLR(each, factor),
    )
    return network, history.loss
