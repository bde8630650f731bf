"""The native kernel over many shapes: small planes, processed several at once, odd sides, leaks of all kinds."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from snnrobust.kernels.backends import backends
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.fast import run_unit
from snnrobust.kernels.unit import Unit

NATIVE = [each for each in backends("cpu")[0] if each.name == "native"]
pytestmark = pytest.mark.skipif(not NATIVE, reason="no compiler here")

SIDES = (2, 3, 4, 5, 7, 9, 14, 15, 28, 33, 70)


def drawn(seed: int) -> tuple[Unit, torch.Tensor, Any]:
    """A unit, a current [1 or T, N, C, H, W] and an affine map, or None."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    leak = rng.choice(
        [
            Dynamics("divide", rng.choice([0.5, 2.0, 4.0, 2.1, 3.0]), 1.0, "hard", decay_input=rng.random() < 0.5),
            Dynamics("multiply", rng.choice([0.5, 0.3]), 1.0, "hard", decay_input=rng.random() < 0.5),
            Dynamics("keep", rng.choice([1.0, 0.7]), 1.0, "hard"),
        ]
    )
    reset: Any = rng.choice(["hard", "soft", "none"])
    dynamics = replace(leak, reset=reset, detach_reset=rng.random() < 0.5)
    steps, n, c, h, w = (
        rng.choice([1, 2, 5, 8]),
        rng.choice([1, 2, 7]),
        rng.choice([1, 2, 3, 8]),
        *rng.choices(SIDES, k=2),
    )
    current = torch.randn(rng.choice([1, steps]), n, c, h, w, generator=generator) * 2
    affine = (torch.rand(c, generator=generator) + 0.5, torch.randn(c, generator=generator))
    unit = Unit(dynamics, Derivative.atan(2.0), steps, rng.choice([None, "mean", "max"]))
    return unit, current, affine if rng.random() < 0.5 else None


@pytest.mark.parametrize("batch", range(4))
def test_spikes_are_those_of_torch_in_any_shape(batch: int) -> None:
    fired = 0.0
    for seed in range(50 * batch, 50 * (batch + 1)):
        unit, current, affine = drawn(seed)
        found = NATIVE[0].forward(unit, current, affine)
        assert torch.equal(found, unit.eager(current, affine)), (unit, current.shape)
        fired += float(found.mean()) / 50
    assert 0.05 < fired < 0.95  # control


def test_gradients_are_those_of_torch_in_any_shape() -> None:
    for seed in range(40):
        unit, current, affine = drawn(seed)
        leaves = current.clone().requires_grad_(), current.clone().requires_grad_()
        outs = run_unit(NATIVE, unit, leaves[0], affine), unit.eager(leaves[1], affine)
        weights = torch.randn(outs[0].shape, generator=torch.Generator().manual_seed(seed))
        ours, theirs = (torch.autograd.grad(out, leaf, weights)[0] for out, leaf in zip(outs, leaves, strict=True))
        scale = theirs.abs().max()
        assert scale > 0
        assert (ours - theirs).abs().max() <= 1e-5 * scale, (unit, current.shape)


@pytest.mark.parametrize("tau", [0.25, 2.0, 2.0**20])
def test_no_bit_changes_where_a_division_is_a_product(tau: float) -> None:
    """Dividing by a power of two is multiplying by its reciprocal, at infinities and the smallest numbers too."""
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(6, 2, 3, 5, 7, generator=generator)
    current[..., 0], current[..., 1], current[..., 2] = torch.inf, 1e-42, -1e38
    unit = Unit(Dynamics("divide", tau, 1.0, "soft", decay_input=True), Derivative.atan(2.0), 6)
    assert torch.equal(NATIVE[0].forward(unit, current, None), unit.eager(current))
