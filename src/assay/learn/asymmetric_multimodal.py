"""Asymmetric representation learning: modalities taught by how sure they are; and balancing, its opponent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from assay.nn import LateFusion

Loss = Callable[..., Tensor]
Inputs = Sequence[Tensor] | Tensor


def grad_scale(x: Float[Tensor, "..."], weight: float | Float[Tensor, ""]) -> Float[Tensor, "..."]:
    """x itself, through which gradients come back times (1 + weight).

    Args:
        x: any tensor.
        weight: a number; no gradient flows to it.

    Example:
        >>> x = torch.tensor([1.5, -2.0], requires_grad=True)
        >>> y = grad_scale(x, 0.25)
        >>> y.sum().backward()
        >>> torch.equal(x, y), x.grad.tolist()
        (True, [1.25, 1.25])
    """
    return x + weight * (x - x.detach())


def dependence_coefficients(
    unimodal: Sequence[Float[Tensor, "n k"]], *, temperature: float = 8.0, floor: float = 0.3
) -> Float[Tensor, " m"]:
    r"""How much more each encoder shall learn: $q = \mathrm{softmax}_m (T\, w_m (1 - c_m))$.

    $H_m$ is the mean entropy of the softmax of the logits $o_m$, a stand-in for their variance;
    $h_m = \max(H_m / \sum H, \text{floor})$, $w_m = h_m^{-1} / \sum h^{-1}$; $c_m = \|o_m\| / \sum \|o\|$ with $\|o\|$
    the sum over classes of mean absolute logits, how much the prediction leans on m. Who is sure and not leant upon
    gets more.

    Args:
        unimodal: logits of each modality, two or more.
        temperature: T, positive.
        floor: in (0, 1 / M).

    Wei et al., 2025 (arXiv:2507.10203), equations of section 4.2 as in the authors' code.

    Raises:
        ValueError: for fewer than two modalities, arguments out of range.

    Example:
        >>> sure, unsure = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0]])  # as large, in sum
        >>> dependence_coefficients([sure, unsure]).round(decimals=3)  # 4 * (0.714, 0.286), softmax
        tensor([0.8470, 0.1530])
    """
    count = len(unimodal)
    _check(temperature, floor, count)
    logits = torch.stack([each.detach() for each in unimodal])
    logs = torch.log_softmax(logits, -1)
    entropy = -(logs.exp() * logs).sum(-1).mean(-1)
    share = (entropy / entropy.sum().clamp_min(torch.finfo(entropy.dtype).tiny)).clamp_min(floor)
    target = (1 / share) / (1 / share).sum()
    lean = logits.abs().mean(1).sum(-1)
    lean = lean / lean.sum().clamp_min(torch.finfo(lean.dtype).tiny)
    return torch.softmax(temperature * target * (1 - lean), 0)


class ARL:
    r"""A learning rule for a `LateFusion`: $L(o) + \gamma \sum_m L(o_m)$, encoder m's gradients times $1 + q_m$.

    $o_m$ are the modalities' own logits, q the `dependence_coefficients` of the batch. The optimum that q is to
    approach is the one of independent unbiased predictors, which shall be leant upon in inverse ratio of their
    variances.

    Args:
        gamma: $\gamma$, 0 or more; 1 to 5 in the authors' runs.
        temperature: T, positive; 4 or 8 in theirs. None leaves q out: joint training with unimodal losses.
        warmup: epochs in which q is 1 / M for all, 0 or more; `math.inf` keeps it there. Call `step_epoch` after each.
        floor: of a share of the entropy, in (0, 1 / M).

    Attributes:
        coefficients: q of the last batch; 1 / M during the warm-up, 0 without a temperature.

    The paper: section 4 and the authors' code.

    Differs from the paper: their published code computes q and never passes it on to the network, whose weights stay at
    1/2; here it is passed on. In their code $\gamma$ is 1 during the warm-up. Clipping the gradient's norm at 40 is
    left to the loop.

    Raises:
        ValueError: for arguments out of range; when called, as `LateFusion`.
        TypeError: when called, for a model that is not a `LateFusion`.

    Example:
        >>> from torch.nn.functional import cross_entropy
        >>> _ = torch.manual_seed(0)
        >>> fusion = LateFusion([nn.Linear(3, 4), nn.Linear(5, 2)], [4, 2], 3)
        >>> rule = ARL(gamma=1.0, warmup=0)
        >>> _ = rule(fusion, (torch.rand(7, 3), torch.rand(7, 5)), torch.arange(7) % 3, cross_entropy)
        >>> round(rule.coefficients.sum().item(), 5)
        1.0
    """

    def __init__(
        self, *, gamma: float = 1.0, temperature: float | None = 8.0, warmup: float = 5, floor: float = 0.3
    ) -> None:
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be finite and 0 or more: got {gamma}")
        if not warmup >= 0:
            raise ValueError(f"warmup must be 0 or more: got {warmup}")
        _check(1.0 if temperature is None else temperature, floor, 2)
        self.gamma, self.temperature, self.warmup, self.floor = gamma, temperature, warmup, floor
        self.epoch = 0
        self.coefficients = torch.tensor([])

    def step_epoch(self, _: Any = None) -> None:
        """One epoch is over; fits `on_epoch` of `assay.train.fit`."""
        self.epoch += 1

    def __call__(self, model: nn.Module, inputs: Inputs, targets: Tensor, loss: Loss) -> Tensor:
        """Fill the gradients; the loss of the fused prediction is returned."""
        fusion = _fusion(model)
        features = fusion.features(inputs)
        with torch.no_grad():
            self.coefficients = self._coefficients(fusion.unimodal(features))
        scaled = [grad_scale(z, q) for z, q in zip(features, self.coefficients, strict=True)]
        value = loss(fusion.head(torch.cat(scaled, 1)), targets)
        total = value
        if self.gamma:
            total = total + self.gamma * sum(loss(own, targets) for own in fusion.unimodal(scaled))
        total.backward()
        return value.detach()

    def _coefficients(self, unimodal: list[Tensor]) -> Tensor:
        if self.temperature is None:
            return unimodal[0].new_zeros(len(unimodal))
        if self.epoch < self.warmup:
            return unimodal[0].new_full((len(unimodal),), 1 / len(unimodal))
        return dependence_coefficients(unimodal, temperature=self.temperature, floor=self.floor)

    def state_dict(self) -> dict[str, Any]:
        """The epoch."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.epoch = int(state["epoch"])


class OGM:
    r"""On-the-fly gradient modulation: the modality that is ahead learns more slowly.

    $s_m = \sum_i \mathrm{softmax}(o_m(x_i))_{y_i}$, $\rho_m = s_m / s_{m'}$; encoder m's gradients are multiplied by
    $k_m = 1 - \tanh(\alpha \rho_m)$ if $\rho_m > 1$ and by 1 if not. With generalization enhancement (GE) noise with
    the standard deviation of each gradient is added to what was slowed down.

    Args:
        alpha: $\alpha$, positive.
        ge: add the noise.
        generator: where it comes from.

    Attributes:
        coefficients: $k_m$ of the last batch.

    Peng et al., 2022 (arXiv:2203.15332), equations 6 to 10, for two modalities.

    Differs from the paper: all weights of an encoder are modulated, of theirs the convolutions; both modalities get the
    noise in theirs. The head's bias is counted half in each modality's logits, as there.

    Raises:
        ValueError: for an alpha that is not positive; when called, for other than two modalities.
        TypeError: when called, for a model that is not a `LateFusion`.

    Example:
        >>> from torch.nn.functional import cross_entropy
        >>> _ = torch.manual_seed(0)
        >>> fusion = LateFusion([nn.Linear(3, 4), nn.Linear(5, 2)], [4, 2], 3)
        >>> rule = OGM()
        >>> _ = rule(fusion, (torch.rand(7, 3), torch.rand(7, 5)), torch.arange(7) % 3, cross_entropy)
        >>> rule.coefficients.max().item()  # who is behind learns at full speed
        1.0
    """

    def __init__(self, *, alpha: float = 0.3, ge: bool = True, generator: torch.Generator | None = None) -> None:
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite: got {alpha}")
        self.alpha, self.ge, self.generator = alpha, ge, generator
        self.coefficients = torch.tensor([])

    def __call__(self, model: nn.Module, inputs: Inputs, targets: Int[Tensor, " n"], loss: Loss) -> Tensor:
        """Fill the gradients; the loss is returned."""
        fusion = _fusion(model)
        if len(fusion.encoders) != 2:
            raise ValueError(f"model must have two modalities for OGM: got {len(fusion.encoders)}")
        features = fusion.features(inputs)
        value = loss(fusion.head(torch.cat(features, 1)), targets)
        value.backward()
        with torch.no_grad():
            half = fusion.head.bias / 2
            scores = [
                torch.softmax(own - half, 1).gather(1, targets[:, None]).sum() for own in fusion.unimodal(features)
            ]
            ratios = torch.stack([scores[0] / scores[1], scores[1] / scores[0]])
            self.coefficients = torch.where(ratios > 1, 1 - torch.tanh(self.alpha * ratios), 1.0)
            for encoder, k in zip(fusion.encoders, self.coefficients, strict=True):
                grads = [p.grad for p in encoder.parameters() if p.grad is not None]
                for g in grads:
                    g.mul_(k)
                    if self.ge and k < 1 and g.numel() > 1:
                        noise = torch.randn(g.shape, generator=self.generator, device=g.device, dtype=g.dtype)
                        g.add_(noise * g.std())
        return value.detach()


def _fusion(model: nn.Module) -> LateFusion:
    if not isinstance(model, LateFusion):
        raise TypeError(f"model must be a LateFusion: got {type(model).__name__}")
    return model


def _check(temperature: float, floor: float, count: int) -> None:
    if count < 2:
        raise ValueError(f"unimodal must be two or more: got {count}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite: got {temperature}")
    if not 0 < floor < 1 / count:
        raise ValueError(f"floor must lie in (0, 1 / {count}): got {floor}")
