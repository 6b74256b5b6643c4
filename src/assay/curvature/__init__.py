"""Second-order information about a loss, without ever forming a Hessian.

Everything rests on products with vectors. Two forms of them:

- inside a training step, where the gradients are there anyway with their graph: `hvp(grads, params, vectors)`, lists of
  tensors like `torch.autograd.grad`'s own; `hutchinson_diagonal` and `rademacher` go with it;
- after the fact, a linear operator on flat vectors: `Hessian(model, loss, inputs, targets)`, whose `matvec` is what
  `lanczos`, `top_eigenvalues` and `hutchinson_trace` take. These take any symmetric `matvec`, a matrix's too.

`hessian_matrix` writes a small network's Hessian out; `spectral_density` draws the spectrum of a large one, with an
error bar. `batch_hessian_spectrum` looks at the ends of the spectra of batches, and `spiked_eigenvalue` says where they
should be; `filter_normalized_rise` is flatness along random directions; `per_sample_gradients` gives the gradient of
each example by itself, (n, P).
"""

from assay.curvature.batch_hessian import Extremes, batch_hessian_spectrum, effective_batch, spiked_eigenvalue
from assay.curvature.eigenvalues import Eigen, top_eigenvalues
from assay.curvature.filter_normalized import filter_normalized_direction, filter_normalized_rise
from assay.curvature.hessian import Hessian
from assay.curvature.hessian_matrix import hessian_matrix
from assay.curvature.hutchinson import Trace, hutchinson_diagonal, hutchinson_trace, rademacher
from assay.curvature.lanczos import Tridiagonal, lanczos
from assay.curvature.per_sample import per_sample_gradients
from assay.curvature.products import hvp
from assay.curvature.spectral_density import SpectralDensity, spectral_density

__all__ = [
    "Eigen",
    "Extremes",
    "Hessian",
    "SpectralDensity",
    "Trace",
    "Tridiagonal",
    "batch_hessian_spectrum",
    "effective_batch",
    "filter_normalized_direction",
    "filter_normalized_rise",
    "hessian_matrix",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "hvp",
    "lanczos",
    "per_sample_gradients",
    "rademacher",
    "spectral_density",
    "spiked_eigenvalue",
    "top_eigenvalues",
]
