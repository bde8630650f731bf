"""Leading eigenvalues of a second-order operator of the training loss."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from scipy import stats
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.results.records import NAN, Record
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.measurements.curvature_measurement import CurvatureMeasurement, SolverOutput, mean_interval
from snnrobust_landscapes.measurements.setting_checks import require_counts, require_shares
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.operators.smoothed import SmoothedHessian
from snnrobust_landscapes.solvers import gram
from snnrobust_landscapes.solvers.arnoldi import arnoldi
from snnrobust_landscapes.solvers.krylov import Eigenpairs
from snnrobust_landscapes.solvers.lanczos import lanczos
from snnrobust_landscapes.validity.draw_noise import draw_noise_note
from snnrobust_landscapes.validity.evidence import CurvatureWarning

#: The note on an operator whose whole spectrum was computed.
EXACT = "exact spectrum"
#: Rows of a Gram matrix up to which the whole spectrum takes no longer than Lanczos does for a few eigenvalues.
FEW_ROWS = 500


@dataclass(frozen=True)
class Eigenvalues(CurvatureMeasurement):
    """The k eigenvalues of largest magnitude, with evidence for them (see `CurvatureMeasurement`).

    - Gauss-Newton and Fisher matrices of few samples (samples x classes up to 500; in inputs always): exact,
      by the Gram matrix of per-sample Jacobians. The operator's name then says "exact spectrum".
    - Other symmetric operators: Lanczos. Within [value - r, value + r] with r = |M v - value v| lies an eigenvalue.
    - Operators that are not symmetric: Arnoldi. "eigenvalue:i" is the real part, "imaginary:i" the imaginary one; r is
      the distance to a matrix with exactly that eigenvalue.

    In inputs each sample has its own: "eigenvalue:i" is their mean with its 95 % interval over samples (a bootstrap,
    widened by the mean r), "eigenvalue_max:i" that of largest magnitude over samples with its r ("imaginary:i": mean
    magnitude of the imaginary parts).

    Those of the smoothed loss have an error from their draws too: the 95 % half-width of v^T M v over draws is added to
    r. With fewer draws than weights they are only noise of the draws (see `Smoothed`): they have no interval, the
    operator's name says so, and a warning is given.

    Attributes:
        k: How many. A layer of fewer parameters yields as many as it has.
        tolerance: Largest r, relative to the eigenvalue, at which one has converged.
        products: Most products with the operator. Warns where an eigenvalue has not converged by then.

    Raises:
        InputError: For an unknown operator, or a setting out of range.
    """

    k: int = 5
    tolerance: float = 1e-3
    products: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, k=1)
        require_counts(self, products=self.k)
        require_shares(self, "tolerance")

    def require(self, operator: Operator) -> None:
        """Raises an `InputError` if there are fewer than k eigenvalues."""
        landscape = operator.landscape
        if self.k > landscape.size:
            what = "parameters" if landscape.space == "weights" else "values of an input"
            raise InputError(
                f"expected at most k={landscape.size} eigenvalues, one for each of the {what} of model "
                f"'{landscape.model.name}', got k={self.k}; ask for fewer"
            )

    def solve(self, operator: Operator, rng: Draws) -> SolverOutput:
        """Eigenvalues with their errors."""
        landscape, k = operator.landscape, min(self.k, operator.landscape.size)
        count = gram.rows(landscape, self.operator)
        if count is not None and count <= FEW_ROWS:
            values = gram.spectrum(landscape, self.operator, rng, memory=self.memory).values[..., :k].cpu()
            return SolverOutput(list(_records(landscape, values, torch.zeros_like(values), rng)), note=EXACT)
        solver = lanczos if operator.symmetric else arnoldi
        pairs = solver(operator, k, rng, tolerance=self.tolerance, most=self.products)
        _warn(operator, pairs)
        errors = pairs.residuals
        if isinstance(operator, SmoothedHessian):
            errors = errors + _spread(operator, pairs)
        records = list(_records(landscape, pairs.values.cpu(), errors.cpu(), rng))
        if noise := draw_noise_note(operator):
            records = [replace(each, low=NAN, high=NAN) for each in records]
        return SolverOutput(records, note=noise, draw_noise=bool(noise))


def _spread(operator: SmoothedHessian, pairs: Eigenpairs) -> Tensor:
    """95 % half-widths of v^T H v over the draws, [k] or [N, k].

    Eigenvectors fit the noise of their draws; where there are enough draws, the error is still of this size.
    """
    errors = torch.stack([operator.standard_error(v if v.ndim > 1 else v[None]) for v in pairs.vectors], dim=1)
    errors = errors if operator.landscape.space == "inputs" else errors[0]
    return errors * float(stats.t.ppf(0.975, operator.differences.shape[1] - 1))


def _records(landscape: Landscape, values: Tensor, errors: Tensor, rng: Draws) -> Iterator[Record]:
    """Records of eigenvalues [k], or [N, k] in inputs, with their errors; `rng` for intervals over samples."""
    count = len(landscape.samples)
    for i in range(values.shape[-1]):
        each, own = values[..., i], errors[..., i]
        if landscape.space == "inputs":
            mean, low, high = mean_interval(each.real.numpy(), rng)
            error = float(own.mean())
            yield _record("eigenvalue", i + 1, mean, low - error, high + error, count)
            at = int(each.abs().argmax())
            value, error = float(each[at].real), float(own[at])
            yield _record("eigenvalue_max", i + 1, value, value - error, value + error, count)
            imaginary = each.imag.abs().mean() if each.is_complex() else None
        else:
            value, error = float(each.real), float(own)
            yield _record("eigenvalue", i + 1, value, value - error, value + error, count)
            imaginary = each.imag if each.is_complex() else None
        if imaginary is not None:
            yield _record("imaginary", i + 1, float(imaginary), NAN, NAN, count)


def _record(quantity: str, rank: int, value: float, low: float, high: float, count: int) -> Record:
    return Record(f"{quantity}:{rank}", value, low, high, count, quantity=quantity, rank=rank)


def _warn(operator: Operator, pairs: Eigenpairs) -> None:
    if missed := int((~pairs.converged).sum()):
        warnings.warn(
            f"expected {pairs.converged.numel()} eigenvalues of the {operator.name} of model "
            f"'{operator.landscape.model.name}' to converge, got {missed} that did not in {pairs.products} products; "
            f"allow more products, or ask for fewer eigenvalues",
            CurvatureWarning,
            stacklevel=2,
        )
