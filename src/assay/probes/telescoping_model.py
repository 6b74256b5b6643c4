"""A trained network as a sum of first-order changes, one a training step, and the weights it puts on its targets."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.probes import tangent


class Telescope:
    r"""$\tilde f_t(x) = \tilde f_{t-1}(x) + \langle \nabla_\theta f_{\theta_{t-1}}(x), \theta_t - \theta_{t-1}\rangle$.

    A probe: hand it to `assay.train.fit` as `on_step`, or call `on_step(model)` after each step of any optimizer. A
    step costs one forward-mode product for all inputs; no Jacobian is made.

    Args:
        model: at its initial weights, $\tilde f_0 = f_{\theta_0}$. Always looked at in evaluation mode; batch
            norm, whose statistics move without a gradient, has to be frozen.
        inputs: x, (m, ...).

    Attributes:
        prediction: $\tilde f_t(x)$.
        steps: calls so far.

    Jeffares et al., 2024 (arXiv:2411.00247), equation 5.

    Raises:
        ValueError: for no inputs, no weights that want a gradient, another model than before.

    Example:
        >>> class Squared(nn.Module):  # from w = 1 to 1.5 to 2
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w = nn.Parameter(torch.tensor(1.0))
        ...     def forward(self, x):
        ...         return (self.w * x) ** 2
        >>> model = Squared()
        >>> telescope = Telescope(model, torch.tensor([[1.0]]))
        >>> for w in (1.5, 2.0):
        ...     _ = model.w.data.fill_(w)
        ...     telescope.on_step(model)
        >>> telescope.prediction.item(), telescope.linear_prediction(model).item()  # 1 + 2*0.5 + 3*0.5; 1 + 2*1; f is 4
        (3.5, 3.0)
    """

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self.inputs = inputs
        self._start = {name: p.clone() for name, p in tangent.weights(model).items()}
        self._last = self._start
        zero = {name: torch.zeros_like(p) for name, p in self._start.items()}
        self.initial, _ = tangent.along(model, inputs, zero)
        self.prediction, self.steps = self.initial.clone(), 0

    def on_step(self, model: nn.Module) -> None:
        """Add the first-order change since the last call (or the start)."""
        now = self._now(model)
        moved = {name: now[name] - self._last[name] for name in now}
        self.prediction += tangent.along(model, self.inputs, moved, at=self._last)[1]
        self._last, self.steps = now, self.steps + 1

    def linear_prediction(self, model: nn.Module) -> Float[Tensor, "m ..."]:
        r"""$f_{\theta_0}(x) + \langle \nabla f_{\theta_0}(x), \theta - \theta_0 \rangle$ at the model's weights."""
        now = self._now(model)
        moved = {name: now[name] - self._start[name] for name in now}
        return self.initial + tangent.along(model, self.inputs, moved, at=self._start)[1]

    def _now(self, model: nn.Module) -> dict[str, Tensor]:
        there = dict(model.named_parameters())
        if any(name not in there or there[name].shape != p.shape for name, p in self._start.items()):
            raise ValueError("model must have the weights it had at the start: some are gone or of another shape")
        return {name: there[name].detach().clone() for name in self._start}


class TelescopingSmoother:
    r"""$\tilde f_t = S_t\, y + o_t$: the telescope of gradient descent on squared loss, written in the targets.

    For the loss $\frac{1}{2B}\sum_b (f(x_b) - y_b)^2$, rate $\gamma$ and
    $K_t(x, b) = \nabla f_{\theta_{t-1}}(x) \cdot \nabla f_{\theta_{t-1}}(x_b)$,

    $S_t(x) = (1 - \kappa) S_{t-1}(x) + \frac{\gamma}{B} K_t(x, b) (E_b - S_{t-1}(x_b))$,
    $o_t(x) = (1 - \kappa) o_{t-1}(x) - \frac{\gamma}{B} K_t(x, b)\, o_{t-1}(x_b)$,

    where $E_b$ picks the batch's targets. Note that the kernel is that of the network at the start of the step.

    Args:
        train_outputs: f at the n training inputs, before the first step.
        outputs: f at m other inputs.

    Attributes:
        train, test: S at the training inputs, (n, n), and at the others, (m, n).
        train_offset, test_offset: o there.

    Jeffares et al., 2024 (arXiv:2411.00247), section 3 and appendix B. One output, gradient descent in full or small
    batches; weight decay as `shrink` or `drift`.

    Raises:
        ValueError: for outputs that are not (n,) and (m,), n at least 1; a kernel of another shape; a rate below 0.

    Example:
        >>> smoother = TelescopingSmoother(torch.tensor([0.0, 2.0]), torch.tensor([1.0]))
        >>> kernel = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> smoother.step(kernel, lr=1.0)  # half of the kernel times the residuals y - f
        >>> smoother.test, smoother.test_offset, smoother.predict(torch.tensor([4.0, 6.0]))
        (tensor([[0.5000, 0.5000]]), tensor([0.]), tensor([5.]))
    """

    def __init__(self, train_outputs: Tensor, outputs: Tensor) -> None:
        if train_outputs.ndim != 1 or outputs.ndim != 1 or len(train_outputs) == 0:
            raise ValueError(
                "train_outputs must be (n,), n at least 1, and outputs (m,): "
                f"got {tuple(train_outputs.shape)} and {tuple(outputs.shape)}"
            )
        self._n = len(train_outputs)
        self._offset = torch.cat([train_outputs, outputs]).detach().clone()
        self._weights = self._offset.new_zeros(len(self._offset), self._n)

    def step(
        self,
        kernel: Float[Tensor, "rows b"],
        batch: Tensor | None = None,
        *,
        lr: float,
        shrink: float = 0.0,
        drift: Tensor | None = None,
    ) -> None:
        r"""Follow one step of gradient descent.

        Args:
            kernel: $K_t$, training inputs first, then the others, by the batch.
            batch: numbers of the training inputs in the batch, (b,); None for all in order.
            lr: $\gamma$, 0 or more.
            shrink: $\kappa$, the share that weight decay takes off every output: $k \gamma \lambda$ for decay $\lambda$
                of a network that is homogeneous of degree k in its weights.
            drift: instead, the change of outputs by weight decay, (n + m,).
        """
        rows = torch.arange(self._n, device=self._offset.device) if batch is None else batch
        if tuple(kernel.shape) != (len(self._offset), len(rows)):
            raise ValueError(f"kernel must be {(len(self._offset), len(rows))}: got {tuple(kernel.shape)}")
        if not lr >= 0:
            raise ValueError(f"lr must not be below 0: got {lr}")
        wrong, offset = -self._weights[rows], self._offset[rows]
        wrong[torch.arange(len(rows)), rows] += 1
        rate = lr / len(rows)
        self._weights.mul_(1 - shrink).addmm_(kernel, wrong, alpha=rate)
        self._offset.mul_(1 - shrink).addmv_(kernel, offset, alpha=-rate)
        if drift is not None:
            self._offset += drift

    def follow(
        self,
        model: nn.Module,
        train_inputs: Tensor,
        inputs: Tensor,
        batch: Tensor | None = None,
        *,
        lr: float,
        weight_decay: float = 0.0,
        chunk: int = 256,
    ) -> None:
        """`step` with the kernel of the model as it is now: call it before the optimizer's own step.

        Takes `(n + m) * size` numbers for the Jacobian.
        """
        features = tangent.jacobian(model, torch.cat([train_inputs, inputs]), chunk=chunk)
        drift = None
        if weight_decay:
            flat = torch.cat([p.flatten() for p in tangent.weights(model).values()])
            drift = features @ flat * (-lr * weight_decay)
        rows = slice(self._n) if batch is None else batch
        self.step(features @ features[rows].T, batch, lr=lr, drift=drift)

    @property
    def train(self) -> Float[Tensor, "n n"]:
        return self._weights[: self._n]

    @property
    def test(self) -> Float[Tensor, "m n"]:
        return self._weights[self._n :]

    @property
    def train_offset(self) -> Float[Tensor, " n"]:
        return self._offset[: self._n]

    @property
    def test_offset(self) -> Float[Tensor, " m"]:
        return self._offset[self._n :]

    def predict(self, y: Tensor, *, train: bool = False) -> Tensor:
        """$S y + o$ for targets (n,), at the other inputs or the training inputs."""
        if y.shape != (self._n,):
            raise ValueError(f"y must be ({self._n},): got {tuple(y.shape)}")
        whole = self._weights @ y.to(self._weights) + self._offset
        return whole[: self._n] if train else whole[self._n :]


def effective_parameters(smoother: Float[Tensor, "m n"]) -> float:
    r"""$p = \frac{n}{m} \sum_j \|s(x_j)\|^2$: how many numbers a smoother with rows $s(x_j)$ behaves as if it fitted.

    Args:
        smoother: S, predictions at m inputs from n training targets.

    Curth et al., 2023, "A U-turn on double descent"; Jeffares et al., 2024 (arXiv:2411.00247), section 3.

    Raises:
        ValueError: for a matrix without entries or with some that are not finite.

    Example:
        >>> effective_parameters(torch.eye(5)), effective_parameters(torch.full((3, 4), 0.25))  # copies; their mean
        (5.0, 1.0)
    """
    if smoother.numel() == 0 or not smoother.isfinite().all():
        raise ValueError(f"smoother must be finite and have entries: got shape {tuple(smoother.shape)}")
    return smoother.double().square().sum().item() * smoother.shape[1] / smoother.shape[0]
