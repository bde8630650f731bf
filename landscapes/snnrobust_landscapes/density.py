"""The spectral density of a second-order operator of the training loss."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

from snnrobust.draws import Draws
from snnrobust.errors import InputError
from snnrobust.results import Record, Spectrum
from snnrobust_landscapes.curvature import Curvature, Solved, require_count, require_share
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.solvers import density as solver


@dataclass(frozen=True)
class Density(Curvature):
    """How the eigenvalues of a symmetric operator are spread, with what stands beside it (see `Curvature`).

    By stochastic Lanczos quadrature (Ghorbani et al. 2019, arXiv 1901.10159). Yields a `Spectrum`, and the "trace" that
    the same products come to: the mean eigenvalue times their number, with its 95 % interval over probes. In inputs the
    eigenvalues of all samples are pooled, and the trace is the mean over samples.

    Attributes:
        probes: Random vectors.
        steps: Products for each.
        width: Standard deviation of the Gaussian that stands for each eigenvalue, as a share of the whole range.

    Raises:
        InputError: For an unknown operator, or a setting out of range.
    """

    probes: int = 10
    steps: int = 40
    width: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("probes", self.probes, 2)
        require_count("steps", self.steps, 2)
        require_share("width", self.width)

    def require(self, operator: Operator) -> None:
        """Raises an `InputError` unless the operator is symmetric."""
        if not operator.symmetric:
            raise InputError(
                f"expected a symmetric operator for a density, got the {operator.name}, whose eigenvalues are complex; "
                f"use its symmetric part, {{'name': 'field', 'part': 'symmetric'}}"
            )

    def solve(self, operator: Operator, rng: Draws) -> Solved:
        """The density and the trace."""
        landscape = operator.landscape
        found = solver.density(operator, rng, probes=self.probes, steps=self.steps, width=self.width)
        trace = landscape.size * found.mean
        half = landscape.size * found.mean_error * float(stats.t.ppf(0.975, self.probes - 1))
        drawn = Spectrum(
            x=found.x.numpy(),
            density=found.values.numpy(),
            axis=f"Eigenvalue of the {operator.name}",
            caption=(
                f"Density of eigenvalues ({operator.name}, training loss), from {self.probes} probes of {self.steps} "
                f"products each; each eigenvalue is a Gaussian of width {found.width:.3g}. "
                f"{len(landscape.samples)} training samples."
            ),
        )
        return Solved([Record("trace", trace, trace - half, trace + half, len(landscape.samples))], [drawn])
