"""The trace of an operator, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.solvers.krylov import Krylov, normal, project_out, random_signs

#: Pilot probes, which decide the numbers of vectors and probes, and the fewest probes of an estimate.
PILOTS, LEAST = 4, 8
#: Vectors over which the decrease of the variance by further vectors is measured.
WINDOW = 4


@dataclass(frozen=True)
class TraceEstimate:
    """An estimate of the trace: one number in weights, one for each sample in inputs.

    Attributes:
        values: The estimate, [] in weights, [N] in inputs.
        errors: Its standard error, as `values`.
        lows: Lower end of the 95 % interval (Student's t over the probes), as `values`.
        highs: Upper end.
        converged: Whether the requested standard error was reached.
        products: Number of products.
    """

    values: Tensor
    errors: Tensor
    lows: Tensor
    highs: Tensor
    converged: bool
    products: int


def estimate_trace(operator: Operator, rng: Draws, *, relative: float = 0.01, most: int = 200) -> TraceEstimate:
    """The trace: exact on the leading directions, by random probes on the rest.

    Hutch++ (Meyer et al. 2021, arXiv 2010.09649) with a Krylov space for the sketch (Chen & Hallman 2023, arXiv
    2205.01736), each vector of which costs one product instead of two. With an orthonormal basis V of it, the projector
    R = I - V V^T, and probes z of independent signs,

        tr M = tr(V^T M V) + tr(R M R),    tr(R M R) = E[z^T R M R z].

    The numbers of vectors and probes are decided by `PILOTS` further probes, which are not used in the estimate, so
    that it is unbiased for any matrix, symmetric, definite or neither. Where the spread is larger than the pilots
    predicted, more probes follow; the bias from stopping by the spread is far smaller than the standard error.

    Args:
        operator: The matrix, or one for each sample.
        rng: Draws.
        relative: Standard error to stop at, relative to the trace. In inputs both are root mean squares over samples.
        most: Most products.

    Raises:
        InputError: For a relative error out of range, or too few products for pilots, vectors and probes.
    """
    least = PILOTS + WINDOW + LEAST
    if not 0 < relative < 1:
        raise InputError(f"expected a relative standard error in (0, 1), got {relative!r}; e.g. 0.01")
    if most < least:
        raise InputError(f"expected at least {least} products for a trace, got {most}; allow more")
    landscape, before = operator.landscape, operator.products
    krylov = Krylov(operator, rng, normal(landscape, rng.sub("start"), landscape.blocks))
    planned = _deflate(krylov, operator, rng.sub("pilot"), relative, most)
    inside = _inside(krylov)
    if krylov.steps == landscape.size:  # V spans the whole space
        values, errors, half, converged = inside, torch.zeros_like(inside), torch.zeros_like(inside), True
    else:
        probes: list[Tensor] = []  # z^T R M R z, [blocks] each
        while True:
            outside, product = _probe(operator, rng.sub("probe", len(probes)), krylov.basis)
            probes.append((outside * product).sum(dim=1))
            if len(probes) < planned:
                continue
            rest = torch.stack(probes)  # [n, blocks]
            values, errors = inside + rest.mean(dim=0), rest.std(dim=0) / len(rest) ** 0.5
            half = errors * float(stats.t.ppf(0.975, len(rest) - 1))
            converged = bool(_mean_square(errors) <= relative**2 * _mean_square(values))
            if converged or operator.products - before == most:
                break
    found = torch.stack([values, errors, values - half, values + half])  # [4, blocks]
    values, errors, lows, highs = found[:, 0] if landscape.space == "weights" else found
    return TraceEstimate(values, errors, lows, highs, converged, operator.products - before)


def _deflate(krylov: Krylov, operator: Operator, rng: Draws, relative: float, most: int) -> int:
    """Grows V while a vector lowers the variance by more than a probe would; returns the number of probes to take.

    Pilots estimate |R M R|_F^2, the mean of |R M R z|^2 and at least half the variance of z^T R M R z, for each V
    without a further product.
    """
    drawn = [_probe(operator, rng.sub(number), krylov.basis) for number in range(PILOTS)]
    outside, products = (torch.stack(each) for each in zip(*drawn, strict=True))  # R z and R M R z, [n, blocks, size]
    seen = []
    while True:
        added, left = krylov.grow()  # [blocks, size]
        along = (outside * added).sum(dim=2, keepdim=True)  # [n, blocks, 1]
        outside = outside - along * added
        # M R z loses M times that part, of which only `left` is outside of V: M V = V H + left e^T.
        products = products - (products * added).sum(dim=2, keepdim=True) * added - along * left
        values = _inside(krylov) + (outside * products).sum(dim=2).mean(dim=0)
        variance = 2 * float(products.square().sum(dim=2).mean())
        wanted = variance / max(relative**2 * float(_mean_square(values)), 1e-300)  # probes for the requested error
        room = most - PILOTS - krylov.steps
        probes = max(LEAST, int(min(wanted + 1, room)))
        seen.append(variance)
        if krylov.steps == krylov.basis.shape[2] or wanted <= LEAST or room <= LEAST:
            return probes
        if len(seen) > WINDOW and (seen[-1 - WINDOW] - variance) / WINDOW < variance / probes:
            return probes


def _inside(krylov: Krylov) -> Tensor:
    """tr(V^T M V), [blocks]."""
    inside: Tensor = krylov.matrix[:, :-1].diagonal(dim1=1, dim2=2).sum(dim=1)
    return inside


def _mean_square(values: Tensor) -> Tensor:
    return values.square().mean()


def _probe(operator: Operator, rng: Draws, basis: Tensor) -> tuple[Tensor, Tensor]:
    """R z and R M R z for random signs z, [blocks, size] each, for one product."""
    landscape = operator.landscape
    outside, _ = project_out(random_signs(landscape, rng, landscape.blocks), basis)
    product, _ = project_out(operator.apply(outside), basis)
    return outside, product
