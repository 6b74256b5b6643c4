r"""Programmable variational inference: objectives are programs over models and families, and differentiate themselves.

A model or a family is a function that makes choices with `sample`; an objective is a function of no arguments that
returns numbers and may draw (`sample`, `simulate`) and score (`log_density`). `expectation` makes an estimator of

$$L(\theta) = E[\text{objective}], \qquad \nabla_\theta L$$

of it, unbiased for every mix of the strategies that its choices name. Write k for all that follows a choice x ~ p:

- `reparam`: x is a differentiable function of p's parameters and of noise;
- `reinforce`: $\nabla E[k] = E[\nabla k + (k - b) \nabla \log p(x)]$ with b a `baseline`;
- `enumerate`: $\nabla \sum_x p(x) k(x)$, exactly;
- `measure_valued`: $\nabla E[k] = E[\nabla k] + c\, (E_{p^+} k - E_{p^-} k)$, for Bernoulli and normal choices.

Shapes: a program runs for many rows at once. Whatever it chooses has the rows in front, and a distribution's
batch shape must broadcast to them; dimensions that belong to one choice are declared, by
`torch.distributions.Independent`. `plate` and the alternatives of a choice add rows in front: write code that
broadcasts.

The paper: Becker, Lew, Wang, Ghavami, Huot, Rinard and Mansinghka, Probabilistic Programming with Programmable
Variational Inference (PLDI 2024, arXiv:2406.15742); gradients as in ADEV (Lew et al., POPL 2023).

    from assay.learn import vi

Example:
    >>> from torch.distributions import Normal
    >>> mean = torch.tensor(0.0, requires_grad=True)
    >>> @program
    ... def model():
    ...     x = sample("x", Normal(0.0, 1.0))
    ...     sample("y", Normal(x, 1.0))
    >>> @program
    ... def family():
    ...     sample("x", Normal(mean, 0.5**0.5))
    >>> value, (slope,) = elbo(model, family, {"y": torch.tensor(2.0)}).value_and_grad(
    ...     [mean], samples=10_000, generator=torch.Generator().manual_seed(0)
    ... )
    >>> round(value.item(), 1), round(slope.item(), 1)  # log N(2; 0, 2) - 1, 2 (1 - mean)
    (-3.3, 2.0)
"""

from __future__ import annotations

from assay.learn.generative_programs import Program
from assay.learn.program_estimators import (
    Estimator,
    add_cost,
    expectation,
    log_density,
    plate,
    program,
    sample,
    simulate,
)
from assay.learn.variational_objectives import elbo, iwelbo, marginal, normalize, wake

__all__ = [
    "Estimator",
    "Program",
    "add_cost",
    "elbo",
    "expectation",
    "iwelbo",
    "log_density",
    "marginal",
    "normalize",
    "plate",
    "program",
    "sample",
    "simulate",
    "wake",
]
