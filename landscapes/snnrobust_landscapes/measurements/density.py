"""The spectral density of a second-order operator of the training loss."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.results.artifacts import Spectrum
from snnrobust.results.records import Record
from snnrobust_landscapes.measurements.curvature_measurement import CurvatureMeasurement, SolverOutput
from snnrobust_landscapes.measurements.setting_checks import require_counts, require_shares
from snnrobust_landscapes.measurements.trace import smoothed_trace
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.operators.smoothed import SmoothedHessian
from snnrobust_landscapes.solvers import density as solver
from snnrobust_landscapes.validity.draw_noise import draw_noise_note


@dataclass(frozen=True)
class Density(CurvatureMeasurement):
    """The spectral density of a symmetric operator, and evidence for it (see `CurvatureMeasurement`).

    By stochastic Lanczos quadrature (Ghorbani et al. 2019, arXiv 1901.10159). Yields a `Spectrum`, and the "trace" from
    the same products: the mean eigenvalue times their number, with its 95 % interval over probes. In inputs the
    eigenvalues of all samples are pooled, and the trace is the mean over samples.

    For the smoothed loss the trace is that of `Trace`. Its density is noise of its draws where these are fewer than the
    weights (see `Smoothed`): the operator's name then says so, and a warning is given.

    Attributes:
        probes: Random vectors.
        steps: Products for each.
        width: Standard deviation of the Gaussian in place of each eigenvalue, as a share of the range of eigenvalues.

    Raises:
        InputError: For an unknown operator, or a setting out of range.
    """

    probes: int = 10
    steps: int = 40
    width: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, probes=2, steps=2)
        require_shares(self, "width")

    def require(self, operator: Operator) -> None:
        """Raises an `InputError` unless the operator is symmetric."""
        if not operator.symmetric:
            raise InputError(
                f"expected a symmetric operator for a density, got the {operator.name}, whose eigenvalues are complex; "
                f"use its symmetric part, {{'name': 'field', 'part': 'symmetric'}}"
            )

    def solve(self, operator: Operator, rng: Draws) -> SolverOutput:
        """The density and the trace."""
        landscape = operator.landscape
        found = solver.estimate_density(operator, rng, probes=self.probes, steps=self.steps, width=self.width)
        noise = draw_noise_note(operator)
        name = f"{operator.name}, {noise}" if noise else operator.name
        drawn = Spectrum(
            x=found.x.numpy(),
            density=found.values.numpy(),
            axis=f"Eigenvalue of the {name}",
            caption=(
                f"Density of eigenvalues ({name}, training loss), from {self.probes} probes of {self.steps} "
                f"products each; each eigenvalue is a Gaussian of width {found.width:.3g}. "
                f"{len(landscape.samples)} training samples."
            ),
        )
        if isinstance(operator, SmoothedHessian):
            return SolverOutput([smoothed_trace(operator, rng)], [drawn], noise, bool(noise))
        trace = landscape.size * found.mean
        half = landscape.size * found.mean_error * float(stats.t.ppf(0.975, self.probes - 1))
        return SolverOutput([Record("trace", trace, trace - half, trace + half, len(landscape.samples))], [drawn])
