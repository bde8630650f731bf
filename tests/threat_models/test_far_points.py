"""Projections of points far outside the ball: a step of any size gives the nearest allowed input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from snnrobust.threat_models.threat_model import ThreatModel


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_projection_in_float32_is_that_in_float64(norm: Any, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    threat = ThreatModel(norm, 2.0, (0.0, 1.0), "real")
    x0 = torch.rand(20, 200, generator=generator)
    x = x0 + scale * torch.randn(x0.shape, generator=generator)
    x[:10] = x0[:10] + torch.randn(10, 200, generator=generator)  # near ones in the same batch
    assert (threat.project(x, x0) - threat.project(x.double(), x0.double())).abs().max() < 1e-6
