"""Modes: what correlation mode decomposition says about every weight of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from assay.probes.chunks import CHUNK, check_trajectory, error_ratio, read_moves
from assay.probes.layout import Layout
from assay.probes.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class Modes:
    """Every weight as a line in the value of its reference weight.

    w_i(t) = scale_i * reference[mode_i, t] + offset_i

    Args:
        scale: a, the slope of each weight in its reference; 0 for a weight that never moves.
        offset: b, in the units of the weights.
        mode: which mode each weight belongs to, in [0, M).
        reference_index: which weight is the reference of each mode; it has scale 1 and offset 0.
        reference: the path of each reference weight.
        layout: names and shapes of the layers that the N weights make up.
        correlation: signed correlation over time of each weight with its own reference (0 for a constant weight);
            None after online updates, which keep too little per weight to know it.
        moved: per layer, the squared movement sum_i sum_t (w_i(t) - mean_i)^2; None after online updates.
        missed: per layer, the part of it that the lines leave over.

    "The Underlying Correlated Dynamics in Neural Training" (arXiv:2212.09040), the model W = A r + B.

    Example:
        >>> t = torch.arange(6.0)
        >>> from assay.probes.cmd import CMD
        >>> modes = CMD(num_modes=1).fit(Trajectory.from_weights(torch.stack([t, 1 - 2 * t], dim=1)))
        >>> modes.scale.tolist(), modes.offset.tolist(), modes.correlation.tolist()
        ([1.0, -2.0], [0.0, 1.0], [1.0, -1.0])
        >>> modes.reconstruct(4)
        tensor([ 4., -7.])
    """

    scale: Float[Tensor, " N"]
    offset: Float[Tensor, " N"]
    mode: UInt[Tensor, " N"]
    reference_index: Int[Tensor, " M"]
    reference: Float[Tensor, "M T"]
    layout: Layout
    correlation: Float[Tensor, " N"] | None = None
    moved: Float[Tensor, " L"] | None = None
    missed: Float[Tensor, " L"] | None = None

    @property
    def num_modes(self) -> int:
        """M, at most what was asked for."""
        return len(self.reference)

    @property
    def layers(self) -> dict[str, slice]:
        """Where each layer lies among the N weights."""
        return self.layout.layers

    @property
    def bytes_per_weight(self) -> int:
        """What is stored for each weight: scale, offset and label."""
        return self.scale.itemsize + self.offset.itemsize + self.mode.itemsize

    def reconstruct(self, t: int = -1) -> Float[Tensor, " N"]:
        """The modelled weight vector at snapshot ``t`` (negative counts from the end)."""
        epochs = self.reference.shape[1]
        if not -epochs <= t < epochs:
            raise ValueError(f"t must be in [{-epochs}, {epochs}), got {t}")
        return self.predict(self.reference[:, t])

    def predict(self, reference: Float[Tensor, " M"]) -> Float[Tensor, " N"]:
        """The modelled weight vector when the reference weights have these values."""
        values = reference.to(self.scale.dtype).index_select(0, self.mode.int())
        return values.mul_(self.scale).add_(self.offset)

    def write(self, model: nn.Module, t: int = -1) -> None:
        """Put the modelled weights of snapshot ``t`` into the model."""
        self.layout.write(model, self.reconstruct(t))

    def relative_error(self, trajectory: Trajectory | None = None, *, chunk: int = CHUNK) -> float:
        """||W - What||_F^2 / ||W - time mean||_F^2: 0 is perfect, 1 is no better than constants.

        Without an argument it is for the snapshots that were decomposed, and costs nothing:
        sum_i v_i (1 - rho_i^2) / sum_i v_i with v_i the movement of weight i and rho_i its correlation with its
        reference. With a trajectory, all of its snapshots are compared with the lines through its own references.

        Raises:
            ValueError: no argument after online updates, or a trajectory with another number of weights.
        """
        moved, missed = self._energies(trajectory, chunk)
        return error_ratio(float(missed.sum()), float(moved.sum()))

    def errors_by_layer(self, trajectory: Trajectory | None = None, *, chunk: int = CHUNK) -> dict[str, float]:
        """`relative_error` of each layer on its own (0 for a layer that never moves and is matched)."""
        moved, missed = self._energies(trajectory, chunk)
        return {n: error_ratio(float(a), float(b)) for n, a, b in zip(self.layout.names, missed, moved, strict=True)}

    @property
    def mode_shares(self) -> Float[Tensor, " M"]:
        """The share of all weights that belong to each mode."""
        return torch.bincount(self.mode.int(), minlength=self.num_modes).double() / len(self.mode)

    @property
    def layer_shares(self) -> Float[Tensor, "M L"]:
        """The share of each layer's weights that belong to each mode: a table of modes by layers, columns add to 1."""
        counts = [torch.bincount(self.mode[p].int(), minlength=self.num_modes).double() for p in self.layers.values()]
        return torch.stack([count / count.sum().clamp(min=1) for count in counts], dim=1)

    def save(self, path: str | Path) -> None:
        """Write all of it to one ``.safetensors`` file."""
        tensors = {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}
        metadata = {"format": "assay.modes", "version": "1", "layout": json.dumps(self.layout.to_json())}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path), metadata)

    @classmethod
    def load(cls, path: str | Path) -> Modes:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not one of ours or does not hang together.
        """
        try:
            with safe_open(str(path), "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys() if name in _TENSORS}  # noqa: SIM118
            if metadata.get("format") != "assay.modes" or metadata.get("version") != "1":
                raise ValueError("not an assay.modes file of version 1")
            layout = Layout.from_json(json.loads(metadata.get("layout", "null")))
            _check_tensors(tensors, layout)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(layout=layout, **tensors)

    def _energies(self, trajectory: Trajectory | None, chunk: int) -> tuple[Tensor, Tensor]:
        if trajectory is None:
            if self.moved is None or self.missed is None:
                raise ValueError("trajectory must be given after online updates: no history was kept to compare with")
            return self.moved, self.missed
        if trajectory.size != len(self.mode):
            raise ValueError(f"trajectory must have {len(self.mode)} weights, got {trajectory.size}")
        rows = check_trajectory(trajectory)
        paths = trajectory.take(self.reference_index).T
        dtype = torch.promote_types(trajectory.dtype, torch.float32)
        moved, missed = (torch.empty(trajectory.size, dtype=dtype) for _ in range(2))
        middle = paths.mean(1, keepdim=True)
        for part, first, moves in read_moves(trajectory, rows, chunk):
            mode, scale = self.mode[part].int(), self.scale[part].double()
            mean = moves.mean(0)
            left = moves.sub_(mean)
            moved[part] = left.square().sum(0)
            shift = first.double() + mean.double() - scale * middle[:, 0][mode.long()] - self.offset[part].double()
            modelled = (paths - middle).to(moves.dtype).T.index_select(1, mode) * scale.to(moves.dtype)
            missed[part] = (left - modelled + shift.to(moves.dtype)).square_().sum(0)
        return by_layer(moved, self.layout), by_layer(missed, self.layout)


_TENSORS = ("scale", "offset", "mode", "reference_index", "reference", "correlation", "moved", "missed")


def by_layer(values: Float[Tensor, " N"], layout: Layout) -> Float[Tensor, " L"]:
    """Sums over each layer, in float64."""
    return torch.stack([values[part].sum(dtype=torch.float64) for part in layout.layers.values()])


def _check_tensors(tensors: dict[str, Tensor], layout: Layout) -> None:
    if missing := [name for name in _TENSORS[:5] if name not in tensors]:
        raise ValueError(f"{missing[0]!r} is missing")
    modes = tensors["reference_index"].numel()
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("scale", "offset", "mode", "correlation"), (layout.size,))
    shapes |= {"reference_index": (modes,), "moved": (len(layout.names),), "missed": (len(layout.names),)}
    for name, tensor in tensors.items():
        expected = shapes.get(name, (modes, tensor.shape[-1] if tensor.dim() else 0))
        if tuple(tensor.shape) != expected:
            raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}")
        if tensor.is_floating_point() != (name not in ("mode", "reference_index")) or tensor.is_complex():
            raise ValueError(f"{name} has dtype {tensor.dtype}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} must be finite")
    if modes < 1 or int(tensors["mode"].int().max()) >= modes:
        raise ValueError(f"mode must be in [0, {modes})")
    index = tensors["reference_index"].long()
    if int(index.min()) < 0 or int(index.max()) >= layout.size:
        raise ValueError(f"reference_index must be in [0, {layout.size})")
