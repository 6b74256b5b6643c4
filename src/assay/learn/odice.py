"""O-DICE: values for offline reinforcement learning from two gradients, the second made orthogonal to the first."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

UPDATES = ("orthogonal", "true", "semi")
DIVERGENCES = ("chi2", "kl")
WEIGHTS = ("released", "theory")


def dual_of_divergence(residual: Float[Tensor, "..."], f: str = "chi2") -> Float[Tensor, "..."]:
    r"""$f^*(y)$, the convex conjugate of a divergence over $x \ge 0$.

    $\chi^2$, $f(x) = (x - 1)^2$: $y + y^2/4$ for $y \ge -2$ and -1 below. KL, $f(x) = x \log x$: $e^{y - 1}$.

    Args:
        residual: y.
        f: `"chi2"` or `"kl"`.

    Raises:
        ValueError: for another word.

    Example:
        >>> dual_of_divergence(torch.tensor([-3.0, -2.0, 0.0, 2.0]))
        tensor([-1., -1.,  0.,  3.])
    """
    if f not in DIVERGENCES:
        raise ValueError(f"f must be one of {', '.join(DIVERGENCES)}: got {f!r}")
    if f == "kl":
        return torch.exp(residual - 1)
    w = (residual / 2 + 1).clamp_min(0)
    return residual * w - (w - 1).square()


def orthogonal_combine(
    forward: Sequence[Float[Tensor, "..."]], backward: Sequence[Float[Tensor, "..."]], *, eps: float = 1e-10
) -> list[Float[Tensor, "..."]]:
    r"""$g_f + g_b - \frac{\langle g_f, g_b \rangle}{\max(\|g_f\|^2, \epsilon)} g_f$ over all tensors as one vector.

    Args:
        forward: $g_f$.
        backward: $g_b$, of the same shapes.
        eps: $\epsilon$, positive; with $g_f = 0$ what is left is $g_b$.

    Mao et al., 2024 (arXiv:2402.00348), equation 8.

    Raises:
        ValueError: for shapes that differ, an eps that is not positive.

    Example:
        >>> orthogonal_combine([torch.tensor([2.0, 0.0])], [torch.tensor([-5.0, 3.0])])  # of (-5, 3) only 3 is across
        [tensor([2., 3.])]
    """
    if [g.shape for g in forward] != [g.shape for g in backward]:
        raise ValueError("backward must have the shapes of forward")
    if not eps > 0:
        raise ValueError(f"eps must be positive: got {eps}")
    product = sum((a * b).sum() for a, b in zip(forward, backward, strict=True))
    length = sum(a.square().sum() for a in forward)
    share = product / torch.as_tensor(length).clamp_min(eps)
    return [a + b - share * a for a, b in zip(forward, backward, strict=True)]


class GaussianPolicy(nn.Module):
    """Actions around the tanh of a network's output, scaled, with a learned standard deviation for each coordinate.

    Args:
        mean: (n, d) -> (n, k), before the tanh.
        actions: k, at least 1.
        scale: largest mean action, positive.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> policy = GaussianPolicy(nn.Linear(2, 3), 3, scale=0.5)
        >>> policy.log_prob(torch.zeros(4, 2), torch.zeros(4, 3)).shape
        torch.Size([4])
        >>> bool(policy(100 * torch.ones(1, 2)).abs().max() <= 0.5)
        True
    """

    def __init__(self, mean: nn.Module, actions: int, *, scale: float = 1.0) -> None:
        super().__init__()
        if actions < 1:
            raise ValueError(f"actions must be at least 1: got {actions}")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite: got {scale}")
        self.mean, self.scale = mean, scale
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The mean action."""
        return self.scale * torch.tanh(self.mean(states))

    def log_prob(self, states: Float[Tensor, "n d"], actions: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Log density of actions, in units of `scale`."""
        std = self.log_std.clamp(-5, 2)
        z = (actions - self(states)) / self.scale / std.exp()
        return -(z.square() / 2 + std + math.log(2 * math.pi) / 2).sum(1)


class OrthogonalDICE:
    r"""V and a policy from transitions: $\min_V (1 - \lambda) E[V(s)] + \lambda E[f^*(r + \gamma V(s') - V(s))]$.

    The residual's gradient has a part through V(s), forward, and one through V(s'), backward, which nearly cancel
    where V changes little. `"orthogonal"` takes the forward one, and of the backward one what is orthogonal to it (each
    with a slow copy of V on its other side); `"semi"` the forward one alone; `"true"` both as they are. The policy
    imitates the data, each action with the weight w of its residual.

    Args:
        value: V, (n, d) -> (n,) or (n, 1).
        policy: with `log_prob(states, actions) -> (n,)` and `policy(states) -> actions`, such as `GaussianPolicy`.
        update: `"orthogonal"`, `"true"` or `"semi"`.
        lam: $\lambda$, in (0, 1).
        eta: times the backward gradient, 0 or more.
        f: `"chi2"` or `"kl"`.
        weight: `"released"`, $w = \max(y, 0)$ as in the authors' code, or `"theory"`, $\max(y/2 + 1, 0)$; for KL both
            are $e^{y-1}$.
        discount: $\gamma$, in [0, 1).
        value_lr: of Adam for V, positive.
        policy_lr: of Adam for the policy, positive.
        policy_decay: its weight decay (as in Adam, not decoupled).
        polyak: share of V that goes into its slow copy each update, in (0, 1].
        max_weight: w is cut here.

    Mao et al., 2024 (arXiv:2402.00348), equations 5 to 9 and algorithm 1; constants of the authors' code.

    Differs from the paper: not at all; their twin V is left out.

    Raises:
        ValueError: for arguments out of range; from `update_batch`, for no transitions.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> dice = OrthogonalDICE(nn.Linear(2, 1), GaussianPolicy(nn.Linear(2, 1), 1))
        >>> s, a = torch.rand(8, 2), torch.rand(8, 1)
        >>> seen = dice.update_batch(s, a, s + 0.1, torch.zeros(8), torch.zeros(8, dtype=torch.bool))
        >>> seen["cosine"] < -0.9, abs(seen["cosine_projected"]) < 1e-4  # the two nearly cancel, and do not any more
        (True, True)
    """

    def __init__(
        self,
        value: nn.Module,
        policy: nn.Module,
        *,
        update: str = "orthogonal",
        lam: float = 0.6,
        eta: float = 1.0,
        f: str = "chi2",
        weight: str = "released",
        discount: float = 0.99,
        value_lr: float = 2e-4,
        policy_lr: float = 2e-4,
        policy_decay: float = 1e-5,
        polyak: float = 0.005,
        max_weight: float = 100.0,
    ) -> None:
        for name, word, allowed in (("update", update, UPDATES), ("f", f, DIVERGENCES), ("weight", weight, WEIGHTS)):
            if word not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}: got {word!r}")
        if not 0 < lam < 1:
            raise ValueError(f"lam must lie in (0, 1): got {lam}")
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta must be finite and 0 or more: got {eta}")
        if not 0 <= discount < 1:
            raise ValueError(f"discount must lie in [0, 1): got {discount}")
        if not 0 < polyak <= 1:
            raise ValueError(f"polyak must lie in (0, 1]: got {polyak}")
        for name, number in (("value_lr", value_lr), ("policy_lr", policy_lr), ("max_weight", max_weight)):
            if not 0 < number < math.inf:
                raise ValueError(f"{name} must be positive and finite: got {number}")
        self.value, self.policy, self.update, self.lam, self.eta = value, policy, update, lam, eta
        self.f, self.weight, self.discount, self.polyak, self.max_weight = f, weight, discount, polyak, max_weight
        self.slow = copy.deepcopy(value).requires_grad_(False)
        self.value_optimizer = torch.optim.Adam(value.parameters(), lr=value_lr)
        self.policy_optimizer = torch.optim.Adam(policy.parameters(), lr=policy_lr, weight_decay=policy_decay)

    def update_batch(
        self,
        states: Float[Tensor, "n d"],
        actions: Float[Tensor, "n k"],
        next_states: Float[Tensor, "n d"],
        rewards: Float[Tensor, " n"],
        done: Bool[Tensor, " n"],
    ) -> dict[str, float]:
        """One step of V, of its slow copy and of the policy.

        Returns:
            Means of `value` and `residual`, the `cosine` of the two gradients, `cosine_projected` of the forward one
            and what is added to it, and the lengths `forward` and `backward`.
        """
        if len(states) == 0:
            raise ValueError("states must be one or more: got none")
        residual, seen = self.value_gradients(states, next_states, rewards, done)
        self.value_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.slow.parameters()), list(self.value.parameters()), self.polyak)
        w = self.weights(residual)
        loss = -(w * self.policy.log_prob(states, actions)).mean()  # type: ignore[operator]
        self.policy_optimizer.zero_grad()
        loss.backward()
        self.policy_optimizer.step()
        return seen

    def value_gradients(
        self, states: Tensor, next_states: Tensor, rewards: Tensor, done: Tensor
    ) -> tuple[Float[Tensor, " n"], dict[str, float]]:
        """Fill V's gradients; the residuals that weigh the policy, and what `update_batch` tells."""
        parameters = list(self.value.parameters())
        later = self.discount * (~done).to(rewards)
        v, v_next = _flat(self.value(states)), _flat(self.value(next_states))
        with torch.no_grad():
            slow, slow_next = _flat(self.slow(states)), _flat(self.slow(next_states))
        if self.update == "true":
            ahead, back = rewards + later * v_next.detach() - v, rewards + later * v_next - v.detach()
        else:
            ahead, back = rewards + later * slow_next - v, rewards + later * v_next - slow
        one = torch.autograd.grad(self.lam * dual_of_divergence(ahead, self.f).mean(), parameters, retain_graph=True)
        scale = self.lam if self.update == "true" else self.lam * self.eta
        two = torch.autograd.grad(scale * dual_of_divergence(back, self.f).mean(), parameters)
        plain = torch.autograd.grad(((1 - self.lam) * v).mean(), parameters)
        if self.update == "orthogonal":
            joined = orthogonal_combine(one, two)
        elif self.update == "semi":
            joined = list(one)
        else:
            joined = [a + b for a, b in zip(one, two, strict=True)]
        for p, g, base in zip(parameters, joined, plain, strict=True):
            p.grad = g + base
        forward, backward, total = (torch.cat([g.flatten() for g in each]) for each in (one, two, joined))
        found = {
            "value": v.detach().mean(),
            "residual": ahead.detach().mean(),
            "cosine": _cosine(forward, backward),
            "cosine_projected": _cosine(forward, total - forward),
            "forward": forward.norm(),
            "backward": backward.norm(),
        }
        seen = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
        return ahead.detach(), seen

    def weights(self, residual: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """w of each transition."""
        if self.f == "kl":
            w = torch.exp(residual - 1)
        else:
            w = (residual if self.weight == "released" else residual / 2 + 1).clamp_min(0)
        return w.clamp_max(self.max_weight)

    def act(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The policy's mean actions."""
        with torch.no_grad():
            actions: Tensor = self.policy(states)
        return actions

    def state_dict(self) -> dict[str, Any]:
        """V, its slow copy, the policy and both optimizers."""
        names = ("value", "slow", "policy", "value_optimizer", "policy_optimizer")
        return {name: getattr(self, name).state_dict() for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)


def _flat(values: Tensor) -> Tensor:
    return values[:, 0] if values.ndim == 2 else values


def _cosine(one: Tensor, two: Tensor) -> Tensor:
    lengths = one.norm() * two.norm()
    return torch.where(lengths > 0, one @ two / lengths.clamp_min(torch.finfo(lengths.dtype).tiny), 0.0)
