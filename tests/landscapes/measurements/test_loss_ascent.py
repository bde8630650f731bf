"""Balls and ascents against closed forms on losses that are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust_landscapes.loss.landscape import LossValues
from snnrobust_landscapes.measurements.loss_ascent import LossAscent
from snnrobust_landscapes.measurements.scaled_norm import ScaledNorm

RNG = Draws(0, "climb")


class Quadratic:
    """L_n(d) = c_n + g . d + d^T A d / 2 for samples n = 0, 1, 2, that differ in c alone."""

    space, blocks = "weights", 1

    def __init__(self, matrix: Tensor, slope: Tensor, sign: float = 1.0) -> None:
        self.matrix, self.slope, self.sign = matrix, slope, sign
        self.size = len(slope)
        self.chunks = [SimpleNamespace(y=torch.zeros(3))]
        self.model = SimpleNamespace(name="quadratic")
        self.calls = 0

    def scale(self) -> Tensor:
        return torch.ones(self.size, dtype=torch.float64)

    def loss(self, offset: Tensor) -> LossValues:
        self.calls += 1
        value = self.slope @ offset + offset @ self.matrix @ offset / 2
        return LossValues(value + torch.arange(3, dtype=torch.float64), torch.ones(3, dtype=torch.bool))

    def gradient(self, offset: Tensor) -> Tensor:
        return self.sign * (self.slope + self.matrix @ offset)

    def direction(self, rng: Draws) -> Tensor:
        drawn = rng.normal(torch.tensor([0]), (self.size,))[0].double()
        return drawn / drawn.norm()


def quadratic(seed: int, sign: float = 1.0) -> Quadratic:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    return Quadratic(root + root.T, torch.randn(5, dtype=torch.float64, generator=generator), sign)


def loss_ascent(landscape: Any, steps: int = 20, checkpoint: MeasurementCheckpoint | None = None) -> LossAscent:
    return LossAscent(landscape, steps, MeasurementCheckpoint() if checkpoint is None else checkpoint)


def highest(landscape: Quadratic, radius: float) -> float:
    """The largest rise in the Euclidean ball: on its edge, at (A - m) d = -g with m above all eigenvalues, |d| = r."""
    values, vectors = torch.linalg.eigh(landscape.matrix)
    along, top = vectors.T @ landscape.slope, float(values[-1])

    def excess(m: float) -> float:
        return float((along / (m - values)).norm()) - radius

    m = optimize.brentq(excess, max(0.0, top) + 1e-9, max(0.0, top) + 1e6)
    offset = vectors @ (along / (m - values))
    return float(landscape.slope @ offset + offset @ landscape.matrix @ offset / 2)


def balls(seed: int) -> tuple[ScaledNorm, Tensor, Tensor]:
    """A ball, a gradient and an offset of its shape; one coordinate rests."""
    drawn = Draws(seed, "ball")
    scale, gradient, offset = (drawn.sub(name).normal(torch.arange(3), (6,)).double() for name in ("s", "g", "d"))
    scale[0, 0] = 0.0
    return ScaledNorm("weighted", scale.abs()), gradient, torch.where(scale != 0, offset, 0.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0.01, 10))
def test_steepest_is_on_the_edge_and_no_allowed_move_goes_further_up(seed: int, radius: float) -> None:
    ball, gradient, offset = balls(seed)
    best = radius * ball.steepest(gradient)
    assert torch.allclose(ball.norm(best), torch.full((3, 1), radius, dtype=torch.float64))
    other = radius * offset / ball.norm(offset)
    assert ((gradient * other).sum(1) <= (gradient * best).sum(1) + 1e-9).all()
    assert best[0, 0] == 0  # scale 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0.01, 10))
def test_projection_is_in_the_ball_nearest_and_leaves_what_is_inside(seed: int, radius: float) -> None:
    ball, other, offset = balls(seed)
    inside = ball.project(offset, radius)
    assert (ball.norm(inside) <= radius * (1 + 1e-9)).all()
    assert torch.equal(ball.project(offset, 1e9), offset)
    rival = ball.project(torch.where(ball.scale > 0, other, 0.0), radius)
    assert (ball.norm(offset - inside) <= ball.norm(offset - rival) + 1e-9).all()


def test_nothing_is_steepest_where_the_gradient_is_zero() -> None:
    ball = ScaledNorm("L2", torch.ones(2, 3, dtype=torch.float64))
    gradient = torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    assert ball.steepest(gradient).tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert not ball.project(torch.zeros(2, 3, dtype=torch.float64), 1.0).any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("radius", [0.01, 0.3, 3.0])
def test_one_step_and_ascent_on_a_quadratic(seed: int, radius: float) -> None:
    landscape = quadratic(seed)
    ball = ScaledNorm("L2", landscape.scale())
    g, unit = landscape.slope, landscape.slope / landscape.slope.norm()
    step = float(radius * g.norm() + radius**2 / 2 * unit @ landscape.matrix @ unit)
    one, many = loss_ascent(landscape).step(ball, radius), loss_ascent(landscape).ascent(ball, radius)
    assert one.tolist() == pytest.approx([step] * 3)
    top = highest(landscape, radius)
    assert step <= float(many.mean()) <= top * (1 + 1e-9)
    assert float(many.mean()) >= 0.9 * top
    assert float(loss_ascent(landscape, steps=200).ascent(ball, radius).mean()) == pytest.approx(top, rel=0.01)


def test_an_ascent_gets_higher_than_one_step_where_the_loss_curves() -> None:
    landscape = quadratic(0)
    ball = ScaledNorm("L2", landscape.scale())
    assert float(loss_ascent(landscape).ascent(ball, 3.0).mean()) > 1.2 * float(
        loss_ascent(landscape).step(ball, 3.0).mean()
    )
    assert torch.equal(loss_ascent(landscape, steps=1).ascent(ball, 3.0), loss_ascent(landscape).step(ball, 3.0))


def test_a_gradient_that_points_down_is_not_hidden() -> None:
    landscape = quadratic(1, sign=-1.0)
    ball = ScaledNorm("L2", landscape.scale())
    assert float(loss_ascent(landscape).ascent(ball, 0.01).mean()) < 0
    assert float(loss_ascent(landscape).random([0.01], 20, RNG).max()) > 0


def test_random_rises_are_those_of_the_directions() -> None:
    landscape = quadratic(2)
    one = loss_ascent(landscape)
    found = one.random([0.1, 1.0], 4, RNG)
    assert found.shape == (4, 2, 1)
    for draw in range(4):
        d = landscape.direction(RNG.sub("random", draw))
        assert torch.equal(one.random_direction(draw, RNG), d)
        for column, radius in enumerate((0.1, 1.0)):
            rise = radius * landscape.slope @ d + radius**2 / 2 * d @ landscape.matrix @ d
            assert float(found[draw, column, 0]) == pytest.approx(float(rise))


@pytest.mark.parametrize(
    ("matrix", "slope", "found"),
    [(0.0, 0.0, "that is not zero, got zeros"), (0.0, float("nan"), "finite surrogate gradient")],
)
def test_gradients_that_lead_nowhere(matrix: float, slope: float, found: str) -> None:
    landscape = Quadratic(torch.full((2, 2), matrix, dtype=torch.float64), torch.full((2,), slope, dtype=torch.float64))
    with pytest.raises(InputError, match=found):
        loss_ascent(landscape).step(ScaledNorm("L2", landscape.scale()), 1.0)


def test_what_is_kept_is_not_worked_out_again() -> None:
    landscape, checkpoint = quadratic(3), MeasurementCheckpoint()
    ball = ScaledNorm("L2", landscape.scale())
    first = loss_ascent(landscape, checkpoint=checkpoint)
    wanted = first.ascent(ball, 1.0), first.random([1.0], 6, RNG)
    again = loss_ascent(landscape, checkpoint=checkpoint)
    calls = landscape.calls
    assert torch.equal(again.ascent(ball, 1.0), wanted[0])
    assert torch.equal(again.random([1.0], 6, RNG), wanted[1])
    assert landscape.calls == calls
    assert again.random([1.0], 8, RNG)[:6].equal(wanted[1])  # goes on from there
    assert landscape.calls == calls + 2


def test_what_another_chunk_size_got_is_not_used() -> None:
    landscape, checkpoint = quadratic(4), MeasurementCheckpoint()
    ball = ScaledNorm("L2", landscape.scale())
    loss_ascent(landscape, checkpoint=checkpoint).step(ball, 1.0)
    checkpoint.put("chunks of 3, L2, step 1.0", np.full(3, 17.0))
    assert (
        float(loss_ascent(landscape, checkpoint=checkpoint).step(ball, 1.0).mean()) == 17.0
    )  # control: kept numbers are used
    landscape.chunks = [SimpleNamespace(y=torch.zeros(2))]
    assert float(loss_ascent(landscape, checkpoint=checkpoint).step(ball, 1.0).mean()) != 17.0
