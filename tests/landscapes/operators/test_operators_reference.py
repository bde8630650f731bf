"""Operators against curvlinops, on nets without state: a smooth one, and one with our own spike function."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics, multi_step
from snnrobust.kernels.spike import spike
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.gauss_newton import Fisher, GaussNewton
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import OperatorSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its dependencies use deprecated parts of torch
    curvlinops: Any = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed")

LIF = Dynamics("divide", 2.0, threshold=0.3, reset="hard", decay_input=True)


class Net(nn.Module):
    """Inputs [N, 3] to mean outputs [N, 3] over 3 steps."""

    def __init__(self, spiking: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 3)
        self.fire = partial(spike, derivative=Derivative.atan(2.0)) if spiking else torch.sigmoid

    def forward(self, x: Tensor) -> Tensor:
        current = self.first(x).expand(3, -1, -1)
        out: Tensor = self.second(multi_step(LIF, current, self.fire)).mean(dim=0)
        return out


@pytest.mark.parametrize("spiking", [True, False])
@pytest.mark.parametrize(
    ("each", "theirs"),
    [(GaussNewton("own"), "GGNLinearOperator"), (Fisher(), "EFLinearOperator"), (Formal(), "HessianLinearOperator")],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_curvlinops(each: OperatorSpec, theirs: str, spiking: bool, dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(spiking).to(dtype)
        x, y = 2 * torch.rand(12, 3), torch.randint(3, (12,))
    model = wrap(net, layout="N")
    with model.session():
        landscape = WeightLandscape(model, Dataset.of(x, y), chunk=5)
        mine = each.on(landscape, 1.0, Draws(0, "curvlinops")).apply(torch.eye(landscape.size, dtype=torch.float64)).T
    data = [(x[:7].to(dtype), y[:7]), (x[7:].to(dtype), y[7:])]
    operator = getattr(curvlinops, theirs)(net, nn.CrossEntropyLoss(), list(net.parameters()), data)
    other = operator @ torch.eye(landscape.size, dtype=dtype)
    assert torch.linalg.norm(mine - other) < (1e-12 if dtype == torch.float64 else 1e-5) * torch.linalg.norm(other)
