"""Train the small network of `assay.losses.FrozenFeatures`, from the training photographs alone.

    python tools/train_frozen_features.py            writes src/assay/losses/frozen_features.safetensors (3 minutes)

The task needs no labels: a crop of 64 x 64 pixels, turned by a multiple of a right angle, and the question which of the
nine photographs it is from and how it was turned (36 classes). Crops come at the photograph's size and at half of it,
with a random contrast and brightness. The test photographs are never read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from assay.data import photo_split
from assay.losses.frozen_features import SMALL

TARGET = Path(__file__).resolve().parent.parent / "src" / "assay" / "losses" / "frozen_features.safetensors"
CROP = 64


def batch(pictures: list[Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crops (count, 3, 64, 64) and their classes, photograph x rotation."""
    crops, classes = [], []
    names = len(pictures) // 2
    for which in torch.randint(len(pictures), (count,), generator=generator).tolist():
        picture = pictures[which]
        room = picture.shape[1] - CROP + 1
        top, left = torch.randint(room, (2,), generator=generator).tolist()
        turn = int(torch.randint(4, (1,), generator=generator))
        crops.append(torch.rot90(picture[:, top : top + CROP, left : left + CROP], turn, (1, 2)))
        classes.append(which % names * 4 + turn)
    gain, shift = torch.rand(2, count, 1, 1, 1, generator=generator)
    return torch.stack(crops) * (0.6 + 0.8 * gain) + 0.3 * (shift - 0.5), torch.tensor(classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)  # the same sums in the same order anywhere
    generator = torch.Generator().manual_seed(0)
    train, _ = photo_split()
    whole = list(train.values())
    pictures = whole + list(photo_split(size=128)[0].values())
    colours = torch.stack(whole).movedim(1, 0).flatten(1)
    mean, std = colours.mean(1), colours.std(1)
    body = [nn.Conv2d(a, b, 3, padding=1) for a, b in zip((3, *SMALL[:-1]), SMALL, strict=True)]
    for convolution in body:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)
    head = nn.Linear(SMALL[-1] * 4, 4 * len(whole))
    parameters = [p for module in (*body, head) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=options.steps)
    right = 0.0
    for step in range(1, options.steps + 1):
        images, classes = batch(pictures, options.batch_size, generator)
        hidden = ((images - mean.view(3, 1, 1)) / std.view(3, 1, 1)).contiguous(memory_format=torch.channels_last)
        for number, convolution in enumerate(body):
            hidden = convolution(F.avg_pool2d(hidden, 2) if number else hidden).relu()
        logits = head(F.adaptive_avg_pool2d(hidden, 2).flatten(1))
        loss = F.cross_entropy(logits, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right += 0.02 * (logits.argmax(1).eq(classes).double().mean().item() - right)
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}, right {right:.3f} (of late)", flush=True)
    weights = {"mean": mean, "std": std}
    for number, convolution in enumerate(body, 1):
        weights[f"conv{number}.weight"] = convolution.weight.detach().contiguous()
        weights[f"conv{number}.bias"] = convolution.bias.detach()
    save_file(weights, options.target)
    print(f"{options.target}: {options.target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
