"""The trace of a second-order operator of the training loss."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.results.records import Record
from snnrobust_landscapes.measurements.curvature import Curvature, Solved, mean_interval
from snnrobust_landscapes.measurements.settings import require_counts, require_shares
from snnrobust_landscapes.operators.operator import Operator
from snnrobust_landscapes.operators.smoothed import SmoothedHessian
from snnrobust_landscapes.solvers import trace as solver


@dataclass(frozen=True)
class Trace(Curvature):
    """The trace, with its 95 % interval and what stands beside it (see `Curvature`).

    By Hutch++ (Meyer et al. 2021, arXiv 2010.09649): exact on leading directions, random probes on the rest; the
    interval is over the probes. Of a matrix that is not symmetric it is the trace of the symmetric part.

    Of the smoothed loss it is the closed form of `SmoothedHessian.trace`, and the interval is over that operator's own
    draws. It is the mean of the traces at all scales up to sigma; see there.

    In inputs: the mean over samples, with the interval over samples (a percentile bootstrap).

    Attributes:
        relative: Standard error to stop at, relative to the trace.
        products: Products with the operator at most. The interval is as wide as it is after these.

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
        """Every operator has a trace."""

    def solve(self, operator: Operator, rng: Draws) -> Solved:
        """The trace with its interval."""
        if isinstance(operator, SmoothedHessian):
            return Solved([smoothed_trace(operator, rng)])
        found = solver.trace(operator, rng, relative=self.relative, most=self.products)
        return Solved([_record(operator, found.values, found.lows, found.highs, rng)])


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
