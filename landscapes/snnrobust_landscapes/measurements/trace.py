"""The trace of a second-order operator of the training loss."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.results.records import Record
from snnrobust_landscapes.measurements.curvature_measurement import CurvatureMeasurement, SolverOutput, mean_interval
from snnrobust_landscapes.measurements.setting_checks import require_counts, require_shares
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.operators.smoothed import SmoothedHessian
from snnrobust_landscapes.solvers import trace as solver


@dataclass(frozen=True)
class Trace(CurvatureMeasurement):
    """The trace with its 95 % interval, and evidence for it (see `CurvatureMeasurement`).

    By Hutch++ (Meyer et al. 2021, arXiv 2010.09649): exact on leading directions, random probes on the rest; the
    interval is over the probes. For a matrix that is not symmetric it is the trace of the symmetric part.

    For the smoothed loss it is the closed form of `SmoothedHessian.trace`, a mean over all scales up to sigma, and the
    interval is over that operator's own draws.

    In inputs: the mean over samples, with the interval over samples (a percentile bootstrap).

    Attributes:
        relative: Standard error to stop at, relative to the trace.
        products: Most products with the operator; the interval may then still be wider.

    Raises:
        InputError: For an unknown operator, or a setting out of range.
    """

    relative: float = 0.01
    products: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "relative")
        require_counts(self, products=2 * solver.LEAST)

    def require(self, operator: Operator) -> None:
        """Never raises: every operator has a trace."""

    def solve(self, operator: Operator, rng: Draws) -> SolverOutput:
        """The trace with its interval."""
        if isinstance(operator, SmoothedHessian):
            return SolverOutput([smoothed_trace(operator, rng)])
        found = solver.estimate_trace(operator, rng, relative=self.relative, most=self.products)
        return SolverOutput([_record(operator, found.values, found.lows, found.highs, rng)])


def smoothed_trace(operator: SmoothedHessian, rng: Draws) -> Record:
    """The trace in closed form, with its 95 % interval: Student's t over draws in weights, over samples in inputs."""
    values, errors = operator.trace()  # [blocks]
    half = errors * float(stats.t.ppf(0.975, operator.differences.shape[1] - 1))
    return _record(operator, values, values - half, values + half, rng)


def _record(operator: Operator, values: Tensor, lows: Tensor, highs: Tensor, rng: Draws) -> Record:
    """The record of a trace in weights, or of traces [N] in inputs."""
    landscape = operator.landscape
    if landscape.space == "inputs":
        interval = mean_interval(values.cpu().numpy(), rng)
    else:
        interval = float(values), float(lows), float(highs)
    return Record("trace", *interval, len(landscape.samples))
