"""A user's own network and examples, as the commands that look into them are told of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.cli import UsageProblem

if TYPE_CHECKING:
    from torch import Tensor, nn


def network(source: str, weights: Path | None, *, option: str = "--weights") -> nn.Module:
    """What MODULE:FUNCTION makes, imported from this folder or the installed packages, with weights from a checkpoint.

    Args:
        source: the words after `--model`.
        weights: .safetensors, .pt or .pth with weights only, .npz; None leaves the network as it was made.
        option: what the weights are called in messages.

    Raises:
        UsageProblem: in one line, whatever is wrong with it.
    """
    from torch import nn

    name, _, function = source.partition(":")
    if not name or not function:
        raise UsageProblem(f"--model takes MODULE:FUNCTION, not {source!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module: Any = importlib.import_module(name)
    except ImportError as error:
        raise UsageProblem(f"--model: {_line(error)}") from None
    finally:
        sys.path.pop(0)
    make = getattr(module, function, None)
    if not callable(make):
        raise UsageProblem(f"--model: {name} has no function {function!r}")
    model = make()
    if not isinstance(model, nn.Module):
        raise UsageProblem(f"--model: {source} must make a torch.nn.Module, not {type(model).__name__}")
    if weights is not None:
        try:
            model.load_state_dict(tensors(weights, option=option))
        except RuntimeError as error:
            raise UsageProblem(f"{option}: {weights} does not fit {source}: {_line(error)}") from None
    return model


def examples(path: Path) -> tuple[Tensor, Tensor]:
    """The tensors `inputs` and `targets` of the file after `--data`."""
    found = tensors(path, option="--data")
    if not {"inputs", "targets"} <= set(found):
        raise UsageProblem(f"--data: {path} must hold inputs and targets, has {', '.join(found)}")
    return found["inputs"], found["targets"]


def tensors(path: Path, *, option: str) -> dict[str, Tensor]:
    """All tensors of a file by name."""
    from assay.probes import checkpoints

    if not path.is_file():
        raise UsageProblem(f"{option}: there is no file {path}")
    try:
        return checkpoints.load(path)
    except ValueError as error:
        raise UsageProblem(f"{option}: {_line(error)}") from None


def unet_sizes(state: dict[str, Tensor]) -> tuple[int, int, int, int]:
    """Channels of the input and output, width and levels of the `assay.nn.UNet` that is `net` in a checkpoint.

    Raises:
        KeyError: there is none.
    """
    first, head = state["net.down.0.0.weight"], state["net.head.weight"]
    levels = len({name.split(".")[2] for name in state if name.startswith("net.down.")}) - 1
    return first.shape[1], head.shape[0], head.shape[1], levels


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
