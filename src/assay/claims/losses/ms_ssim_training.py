"""Learning to generate images with perceptual similarity metrics (Snell et al., 2015, arXiv:1511.06409)."""

import numpy as np
import torch
from torch.nn import functional as F

from assay import data
from assay.lab import all_of, claim, higher, lower
from assay.losses import MSSSIMLoss
from assay.metrics import gmsd, psnr
from assay.train import fit

RATES = (1e-3, 3e-3, 1e-2)
PREFERRED = {"people's choices, MS-SSIM over MSE and MAE": "MS-SSIM reliably preferred, all architectures (figures)"}
LEFT_OUT = (
    "people who choose between pictures; here gradient magnitude similarity deviation stands in for them",
    "CIFAR-10 and STL-10; here patches of twelve photographs, nine of them to learn from",
    "fully connected and variational autoencoders",
)


@claim(
    "ms-ssim-training",
    says="At equal bottleneck, autoencoders trained with MS-SSIM reconstruct unseen image patches better in an "
    "independent perceptual measure than those trained with squared or absolute error.",
    arms=("ms_ssim", "l2", "l1"),
    holds=all_of(lower("gmsd", "ms_ssim", than="l2"), lower("gmsd", "ms_ssim", than="l1")),
    tune={"lr": RATES},
    smoke=dict(train=64, test=16, epochs=1),
    paper=dict(train=50_000, test=10_000, epochs=100),
    reported=PREFERRED,
    left_out=LEFT_OUT,
)
def reconstruction_quality(arm, seed, *, train=4_000, test=500, size=64, epochs=5, lr=3e-3, validate=False):
    """Patches of 64 x 64 leave room for three scales; the code has 8 x 8 x 4 numbers for 4,096 pixels.

    `high_frequencies` is the share of spectral energy above a quarter of the sampling rate.

    Fails, clearly: a deviation of 0.141 against 0.100 (squared error) and 0.114 (absolute error), and a PSNR of 22.9
    against 24.9. The loss does what it says: on unseen patches the network trained with it has the higher MS-SSIM
    (0.923 against 0.901, seed 0), after fifteen epochs as well (0.932 against 0.919). But of three scales the finest
    has a weight of 7 %, and it is fine edges that the independent measure looks at, on images halved once; with
    sixteen pixels to a number of the code, edges are what MS-SSIM lets go first. People, whom the paper asked, may
    see it otherwise.
    """
    learn, judge = data.photo_split(color=False, validate=validate)
    generator = torch.Generator().manual_seed(seed)
    patches = data.patches(learn, size, train, generator=generator)
    unseen = data.patches(judge, size, test, generator=generator)
    _, decoded = autoencoder(arm, patches, unseen, seed, epochs=epochs, lr=lr, code=None)
    return quality(decoded, unseen) | {
        "high_frequencies": high_frequencies(decoded),
        "high_frequencies_of_the_truth": high_frequencies(unseen),
        "pictures": torch.cat([unseen[:4, 0], decoded[:4, 0]], 2).flatten(0, 1).numpy(),
    }


@claim(
    "ms-ssim-training",
    says="Codes of the MS-SSIM autoencoder let a linear classifier recognise more than codes of pixel-loss "
    "autoencoders.",
    arms=("ms_ssim", "l2", "l1"),
    holds=higher("linear_accuracy", "ms_ssim", than="l2"),
    tune={"lr": RATES},
    smoke=dict(train=100, labelled=50, test=50, epochs=1),
    paper=dict(train=60_000, test=10_000, epochs=100),
    reported={"Extended Yale B, SVM on the code": "MS-SSIM codes ahead for azimuth, elevation and identity (a table)"},
    left_out=("Extended Yale B faces; here Fashion-MNIST, padded to 32 x 32", "a support vector machine"),
)
def codes_classify(
    arm, seed, *, dataset="fashion", train=6_000, labelled=1_000, test=2_000, epochs=8, code=32, lr=3e-3, validate=False
):
    """32 x 32 pixels leave room for two scales. The classifier is a softmax regression on standardised codes of the
    first `labelled` training images, its penalty chosen by five-fold cross-validation.
    """
    split = data.load(dataset, train=train, test=test, seed=seed, validate=validate)
    pad = (32 - split.shape[2]) // 2
    learn, judge = (F.pad(part.inputs.mean(1, keepdim=True), (pad,) * 4) for part in (split.train, split.test))
    network, decoded = autoencoder(arm, learn, judge, seed, epochs=epochs, lr=lr, code=code)
    with torch.no_grad():
        codes, unseen = (network[0](images).flatten(1).double() for images in (learn[:labelled], judge))
    codes, unseen = ((each - codes.mean(0)) / (codes.std(0) + 1e-6) for each in (codes, unseen))
    accuracy = linear_accuracy(codes, split.train.targets[:labelled], unseen, split.test.targets)
    return {"linear_accuracy": accuracy} | quality(decoded, judge)


@claim(
    "ms-ssim-training",
    says="A x4 super-resolution network trained with MS-SSIM gives better independent perceptual quality than the same "
    "network trained with squared or absolute error.",
    arms=("ms_ssim", "l2", "l1", "bicubic"),
    holds=all_of(lower("gmsd", "ms_ssim", than="l2"), lower("gmsd", "ms_ssim", than="l1")),
    tune={"lr": (3e-4, 1e-3, 3e-3)},
    smoke=dict(train=16, epochs=1, crop=48),
    paper=dict(widths=(64, 32), crop=96, train=8_000, epochs=100),
    reported={"x4, Set5, Set14 and BSD200": "MS-SSIM preferred by people (figures)"},
    left_out=(
        "people who choose between pictures; here gradient magnitude similarity deviation stands in for them",
        "Set5, Set14, BSD200; here three photographs",
        "64 and 32 filters on crops of 96 pixels, 1,500 steps; here 32 and 16, 48, 600",
    ),
)
def super_resolution(
    arm, seed, *, train=600, crop=48, epochs=8, batch_size=8, widths=(32, 16), lr=1e-3, validate=False
):
    """SRCNN (9-5-5) on the bicubic enlargement, luminance only, judged on whole photographs of 256 x 256."""
    learn, judge = data.photo_split(color=False, validate=validate)
    patches = data.patches(learn, crop, train, generator=torch.Generator().manual_seed(seed))
    unseen = torch.stack(list(judge.values()))
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, widths[0], 9, padding=4, padding_mode="replicate"),
        torch.nn.ReLU(),
        torch.nn.Conv2d(widths[0], widths[1], 5, padding=2, padding_mode="replicate"),
        torch.nn.ReLU(),
        torch.nn.Conv2d(widths[1], 1, 5, padding=2, padding_mode="replicate"),
    )
    torch.nn.init.normal_(network[-1].weight, std=1e-3)
    if arm == "bicubic":
        return quality(enlarged(unseen).clamp(0, 1), unseen)
    residual = Residual(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    examples = data.Labelled(enlarged(patches), patches)
    fit(residual, examples, optimizer, epochs=epochs, batch_size=batch_size, loss=objective(arm), seed=seed)
    with torch.no_grad():
        return quality(residual(enlarged(unseen)).clamp(0, 1), unseen)


def objective(arm):
    return {"ms_ssim": MSSSIMLoss(), "l2": F.mse_loss, "l1": F.l1_loss}[arm]


class Residual(torch.nn.Module):
    """A network that is added to what it is given."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return x + self.network(x)


def enlarged(images, factor=4):
    """Made smaller by bicubic interpolation with anti-aliasing, and enlarged again."""
    small = F.interpolate(images, scale_factor=1 / factor, mode="bicubic", antialias=True)
    return F.interpolate(small, scale_factor=factor, mode="bicubic")


def autoencoder(arm, learn, judge, seed, *, epochs, lr, code):
    """Encoder and decoder trained with the arm's loss, and what they make of the images to judge by."""
    torch.manual_seed(seed)
    side = learn.shape[-1] // 8
    block = lambda a, b: (torch.nn.Conv2d(a, b, 3, 2, 1), torch.nn.BatchNorm2d(b), torch.nn.ReLU())  # noqa: E731
    rise = lambda a, b: (torch.nn.ConvTranspose2d(a, b, 4, 2, 1), torch.nn.BatchNorm2d(b), torch.nn.ReLU())  # noqa: E731
    if code is None:
        narrow, widen = [torch.nn.Conv2d(64, 4, 1)], [torch.nn.Conv2d(4, 64, 1), torch.nn.ReLU()]
    else:
        narrow = [torch.nn.Flatten(), torch.nn.Linear(64 * side**2, code)]
        widen = [torch.nn.Linear(code, 64 * side**2), torch.nn.ReLU(), torch.nn.Unflatten(1, (64, side, side))]
    encoder = torch.nn.Sequential(*block(1, 16), *block(16, 32), *block(32, 64), *narrow)
    last = torch.nn.ConvTranspose2d(16, 1, 4, 2, 1)
    decoder = torch.nn.Sequential(*widen, *rise(64, 32), *rise(32, 16), last, torch.nn.Sigmoid())
    network = torch.nn.Sequential(encoder, decoder)
    examples = data.Labelled(learn, learn)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    fit(network, examples, optimizer, epochs=epochs, batch_size=32, loss=objective(arm), seed=seed, channels_last=True)
    network.eval()
    with torch.no_grad():
        decoded = torch.cat([network(part) for part in judge.split(250)])
    return network, decoded


def quality(images, truth):
    return {"gmsd": gmsd(images, truth).mean().item(), "psnr": psnr(images, truth)}


def high_frequencies(images):
    """Share of spectral energy, the mean left out, above a quarter of the sampling rate along either axis."""
    power = torch.fft.fft2(images - images.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    rate = torch.fft.fftfreq(images.shape[-1]).abs()
    fast = torch.maximum(rate[:, None], rate[None]) > 0.25
    return float(power[fast].sum() / power.sum())


def linear_accuracy(codes, labels, unseen, truth, penalties=(1e-4, 1e-3, 1e-2, 1e-1), folds=5):
    """Test accuracy of softmax regression with the penalty that cross-validation picks."""

    def right(train, targets, held, wanted, penalty):
        weights = torch.zeros(train.shape[1] + 1, int(labels.max()) + 1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=40, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(train @ weights[1:] + weights[0], targets)
            loss = loss + penalty * weights[1:].square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return (held @ weights[1:] + weights[0]).argmax(1).eq(wanted).double().mean().item()

    fold = torch.arange(len(labels)) % folds
    scores = [
        np.mean([right(codes[fold != i], labels[fold != i], codes[fold == i], labels[fold == i], each)
                 for i in range(folds)])
        for each in penalties
    ]  # fmt: skip
    return right(codes, labels, unseen, truth, penalties[int(np.argmax(scores))])
