"""The spectral density of a symmetric operator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrobust.common.batching import GIB
from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.solvers.krylov import Krylov, random_signs

#: Grid points for each broadening width, and widths by which the grid extends beyond the outermost eigenvalues.
FINE, BEYOND = 8, 6


@dataclass(frozen=True)
class DensityEstimate:
    """The density of eigenvalues, as a share of all.

    Attributes:
        x: Eigenvalues [M], evenly spaced.
        values: The density there [M]; it integrates to 1.
        errors: Its standard error over probes [M].
        width: Standard deviation of the Gaussian in place of each eigenvalue.
        mean: Mean eigenvalue, an estimate of tr M / size.
        mean_error: Its standard error.
        products: Number of products.
    """

    x: Tensor
    values: Tensor
    errors: Tensor
    width: float
    mean: float
    mean_error: float
    products: int


def estimate_density(
    operator: Operator, rng: Draws, *, probes: int = 10, steps: int = 40, width: float = 0.01
) -> DensityEstimate:
    """Stochastic Lanczos quadrature (Ghorbani et al. 2019, arXiv 1901.10159, section 2; Ubaru et al. 2017).

    For a vector z of random signs over sqrt(size), the expectation of z^T f(M) z is the mean of f over all eigenvalues.
    Lanczos from z gives z^T f(M) z = sum_i w_i f(theta_i), exact for polynomials of degree below 2 `steps`, with Ritz
    values theta_i and w_i the squared first entries of the Ritz vectors. With f a Gaussian around each x it is the
    density, broadened. In inputs the eigenvalues of all samples are pooled.

    Args:
        operator: A symmetric matrix, or one for each sample.
        rng: Draws.
        probes: Vectors z; each takes `steps` products.
        steps: Of Lanczos, fewer where the matrix is smaller.
        width: Standard deviation of the Gaussian as a share of the range of Ritz values.

    Raises:
        InputError: For an operator that is not symmetric, fewer than 2 probes or 2 steps, or a width out of range.
    """
    if not operator.symmetric:
        raise InputError(
            f"expected a symmetric operator for a density, got the {operator.name}, whose eigenvalues are complex; use "
            f"its symmetric part"
        )
    for name, value in (("probes", probes), ("steps", steps)):
        if value < 2:
            raise InputError(f"expected {name} >= 2, got {value}; pass {name}=2 or more")
    if not 0 < width < 1:
        raise InputError(f"expected width in (0, 1), got {width!r}; give a share of the range of eigenvalues")
    before = operator.products
    values, weights = _quadrature(operator, rng, probes, min(steps, operator.landscape.size))  # [probes, nodes]
    low, high = float(values.min()), float(values.max())
    # A constant diagonal has only rounding for a range.
    sigma = width * (max(high - low, 1e-6 * max(abs(low), abs(high))) or 1.0)
    # From the midpoint outwards, so that both ends are equally many widths beyond the eigenvalues.
    count = 1 + math.ceil(FINE * ((high - low) / sigma + 2 * BEYOND))
    x = (low + high) / 2 + (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * sigma / FINE
    each = torch.stack([_broadened(x, *pair, sigma) for pair in zip(values, weights, strict=True)])  # [probes, M]
    means = (weights * values).sum(dim=1)
    return DensityEstimate(
        x=x,
        values=each.mean(dim=0),
        errors=each.std(dim=0) / probes**0.5,
        width=sigma,
        mean=float(means.mean()),
        mean_error=float(means.std()) / probes**0.5,
        products=operator.products - before,
    )


def _quadrature(operator: Operator, rng: Draws, probes: int, steps: int) -> tuple[Tensor, Tensor]:
    """Ritz values and weights [probes, nodes]; the weights of a probe sum to 1."""
    landscape = operator.landscape
    if landscape.space == "inputs":
        starts = [random_signs(landscape, rng.sub("probe", number), landscape.blocks) for number in range(probes)]
    else:  # as many at once as fit: graphs that are not stored are built once for all of them
        together = max(1, int(GIB // (8 * steps * landscape.size)))
        drawn = torch.cat([random_signs(landscape, rng.sub("probe", number), 1) for number in range(probes)])
        starts = list(torch.split(drawn, together))
    found = []
    for number, start in enumerate(starts):
        krylov = Krylov(operator, rng.sub("run", number), start)
        for _ in range(steps):
            krylov.grow()
        matrix = krylov.matrix[:, :-1]
        values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
        found.append((values, vectors[:, 0].square()))  # [R, steps]
    values, weights = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return values.reshape(probes, -1), weights.reshape(probes, -1) / landscape.blocks


def _broadened(x: Tensor, values: Tensor, weights: Tensor, sigma: float) -> Tensor:
    """Sum of Gaussians of standard deviation sigma at `values` [nodes], at x [M]."""
    out = torch.zeros_like(x)
    for some, share in zip(torch.split(values, 1024), torch.split(weights, 1024), strict=True):
        out += torch.exp(-0.5 * ((x[:, None] - some) / sigma).square()) @ share
    return out / (sigma * math.sqrt(2 * math.pi))
