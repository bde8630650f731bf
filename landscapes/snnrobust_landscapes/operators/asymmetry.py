"""How far a matrix is from symmetric, from its products with vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.operators.operator import Operator


def asymmetry(operator: Operator, rng: Draws, probes: int = 16) -> float:
    """An estimate of |M - M^T|_F / |M|_F: 0 for a symmetric matrix (rounding), 2 for an antisymmetric one.

    With independent Gaussian probes z_i and B_ij = z_i^T M z_j, the mean of B_ij^2 for i != j is |M|_F^2 and that of
    (B_ij - B_ji)^2 is |M - M^T|_F^2: the index is the root of the ratio of their sums, which is in [0, 2] as well. It
    takes `probes` products and none with the transposed matrix, so that it checks operators that are symmetric by
    construction: a backward pass that autograd can't differentiate, or that does not match its forward pass, makes
    them asymmetric. The index does not show a backward pass that treats surrogate derivatives as constants: the formal
    Hessian is then symmetric, but that of a piecewise linear net. In inputs the sums are over all samples too.

    Args:
        operator: The matrix, or one for each sample.
        rng: Draws.
        probes: Products; the estimate's relative error falls about as 1 / probes.

    Returns:
        The index; 0 for a matrix of zeros.

    Raises:
        InputError: For fewer than 2 probes.
    """
    if probes < 2:
        raise InputError(f"expected at least 2 probes, got {probes}; the index compares pairs of them")
    z, products = _products(operator, rng.sub("asymmetry"), probes)
    b = torch.einsum("ind,jnd->nij", z, products)  # [blocks, probes, probes]
    b = b - torch.diag_embed(b.diagonal(dim1=1, dim2=2))
    size = b.square().sum()
    return float(((b - b.mT).square().sum() / size).sqrt()) if size > 0 else 0.0


def _products(operator: Operator, rng: Draws, probes: int) -> tuple[Tensor, Tensor]:
    """Probes and their products, [probes, blocks, size] each, float64."""
    landscape = operator.landscape
    if landscape.space == "weights":
        z = rng.normal(torch.arange(probes), (landscape.size,)).double()  # [probes, P]
        return z.unsqueeze(1), operator.apply(z).unsqueeze(1)
    drawn = [rng.normal(landscape.samples.index, (landscape.size,), draw=probe).double() for probe in range(probes)]
    return torch.stack(drawn), torch.stack([operator.apply(each) for each in drawn])
