"""Projections: allowed, idempotent, the identity on allowed points, and the nearest point."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.threat_models.selection import largest_mask
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.threat_models.verify import verify

NORMS = ["linf", "l2", "l1"]
BOUNDS = {"real": (-1.0, 1.5), "integer": (0.0, 9.0), "binary": (0.0, 1.0)}


def case(domain: str, seed: int, dtype: torch.dtype, n: int = 4, d: int = 7) -> tuple[Tensor, Tensor]:
    """Originals in the domain and arbitrary points around them, far and near, some entries tied and some untouched."""
    generator = torch.Generator().manual_seed(seed)
    low, high = BOUNDS[domain]
    x0 = low + (high - low) * torch.rand(n, d, generator=generator, dtype=torch.float64)
    x0 = x0 if domain == "real" else x0.round()
    size = 10 ** (4 * torch.rand(n, 1, generator=generator, dtype=torch.float64) - 2)
    x = x0 + size * (high - low) * torch.randn(n, d, generator=generator, dtype=torch.float64)
    x[:, 0] = x0[:, 0]
    x[:, 1] = x0[:, 1] + size[:, 0]
    x[:, 2] = x0[:, 2] + size[:, 0]
    return x0.to(dtype), x.to(dtype)


cases = given(
    seed=st.integers(0, 10**6),
    epsilon=st.one_of(st.just(0.0), st.floats(1e-3, 12.0), st.integers(1, 9).map(float)),
    norm=st.sampled_from(NORMS),
    domain=st.sampled_from(list(BOUNDS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)


@cases
@settings(max_examples=250, deadline=None)
def test_a_projection_is_allowed_and_stays_where_it_is(
    seed: int, epsilon: float, norm: str, domain: str, dtype: torch.dtype
) -> None:
    threat = ThreatModel(norm, epsilon, BOUNDS[domain], domain)
    x0, x = case(domain, seed, dtype)
    projected = threat.project(x, x0)
    verify(projected, x0, threat, range(len(x)), "projection")
    assert projected.dtype == dtype
    assert torch.allclose(threat.project(projected, x0), projected, rtol=1e-5, atol=1e-6)
    if epsilon == 0:
        assert torch.equal(projected, x0)
    if domain != "real":
        assert torch.equal(projected, projected.round())


@cases
@settings(max_examples=150, deadline=None)
def test_allowed_points_are_left_alone(seed: int, epsilon: float, norm: str, domain: str, dtype: torch.dtype) -> None:
    threat = ThreatModel(norm, epsilon, BOUNDS[domain], domain)
    x0, x = case(domain, seed, dtype)
    inside = _random_allowed(threat, x0, x, np.random.default_rng(seed))
    verify(inside, x0, threat, range(len(x)), "this test")
    assert torch.allclose(threat.project(inside, x0), inside, rtol=0, atol=1e-6)


def _length(delta: Tensor, norm: str) -> Tensor:
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
    length: Tensor = torch.linalg.vector_norm(delta, order, dim=-1)
    return length


def _random_allowed(threat: ThreatModel, x0: Tensor, towards: Tensor, rng: np.random.Generator) -> Tensor:
    """A random point of ball and box on the way to `towards`, made by scaling, without a projection."""
    low, high = threat.bounds
    delta = (towards.clamp(low, high) - x0) * torch.as_tensor(rng.random(x0.shape), dtype=x0.dtype)
    length = _length(delta, threat.norm)[:, None]
    delta = delta * (0.999 * threat.epsilon / length.clamp_min(1e-30)).clamp_max(1)
    if threat.domain != "real":
        delta = delta.trunc()
    return x0 + delta


@given(seed=st.integers(0, 10**6), epsilon=st.floats(0.01, 6.0), norm=st.sampled_from(NORMS))
@settings(max_examples=100, deadline=None)
def test_no_allowed_point_is_nearer(seed: int, epsilon: float, norm: str) -> None:
    """P(x) is the projection onto a convex set iff (x - P)(z - P) <= 0 for every allowed z."""
    threat = ThreatModel(norm, epsilon, BOUNDS["real"])
    x0, x = case("real", seed, torch.float64)
    projected = threat.project(x, x0)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        z = _random_allowed(threat, x0, x0 + 3 * torch.as_tensor(rng.standard_normal(x0.shape)), rng)
        angle = ((x - projected) * (z - projected)).sum(1)
        scale = (1 + _length(x - projected, "l2")) * (1 + epsilon)
        assert bool((angle <= 1e-5 * scale).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(4))
def test_projection_equals_an_independent_solver(norm: str, seed: int) -> None:
    """min |p + m - d|^2 over p, m >= 0 (change p - m), in the box, with the norm as a smooth constraint: SLSQP."""
    threat = ThreatModel(norm, [0.1, 0.5, 1.0, 2.0][seed], BOUNDS["real"])
    x0, x = case("real", seed, torch.float64, n=3, d=5)
    projected = threat.project(x, x0)
    low, high = threat.bounds
    for row in range(len(x)):
        a, b = x0[row].numpy(), np.clip(x[row].numpy(), -3, 3)
        wanted = b - a
        d = len(a)
        if norm == "linf":
            limits = [(max(low - v, -threat.epsilon), min(high - v, threat.epsilon)) for v in a]
            found = optimize.lsq_linear(np.eye(d), wanted, bounds=tuple(np.array(limits).T)).x
        else:
            constraint = (
                {"type": "ineq", "fun": lambda q: threat.epsilon - q.sum()}
                if norm == "l1"
                else {"type": "ineq", "fun": lambda q: threat.epsilon**2 - ((q[:5] - q[5:]) ** 2).sum()}
            )
            limits = [(0, high - v) for v in a] + [(0, v - low) for v in a]
            solved = optimize.minimize(
                lambda q, w: ((q[:5] - q[5:] - w) ** 2).sum(),
                np.zeros(2 * d),
                args=(wanted,),
                bounds=limits,
                constraints=constraint,
                method="SLSQP",
                options={"maxiter": 500, "ftol": 1e-14},
            )
            found = solved.x[:5] - solved.x[5:]
        mine = threat.project(torch.as_tensor(b)[None], x0[row][None])[0].numpy() - a
        assert np.abs(mine - found).max() < 2e-5
    assert projected.shape == x.shape


def test_projection_in_closed_form() -> None:
    x0 = torch.zeros(1, 2)
    assert torch.allclose(
        ThreatModel("l2", 1.0, (-9, 9)).project(torch.tensor([[3.0, 4.0]]), x0), torch.tensor([0.6, 0.8])
    )
    assert torch.allclose(
        ThreatModel("l1", 1.0, (-9, 9)).project(torch.tensor([[3.0, 2.5]]), x0), torch.tensor([0.75, 0.25])
    )
    # The box holds the first entry at 0.3, so the second gets what remains of the L1 budget: 0.7, not 0.25.
    boxed = ThreatModel("l1", 1.0, (-0.3, 0.9)).project(torch.tensor([[-3.0, 2.5]]), x0)
    assert torch.allclose(boxed, torch.tensor([-0.3, 0.7]), atol=1e-6)


@given(seed=st.integers(0, 10**6), epsilon=st.sampled_from([0.0, 0.4, 1.0, 2.5, 2.9999999, 3.0]))
@settings(max_examples=60, deadline=None)
def test_whole_numbers_under_linf_are_projected_to_the_nearest(seed: int, epsilon: float) -> None:
    threat = ThreatModel("linf", epsilon, BOUNDS["integer"], "integer")
    x0, x = case("integer", seed, torch.float64)
    projected = threat.project(x, x0)
    candidates = torch.arange(10.0, dtype=torch.float64)
    allowed = (candidates - x0[..., None]).abs() <= epsilon + 1e-6
    nearest = (candidates - x[..., None]).abs().masked_fill(~allowed, math.inf).amin(-1)
    assert torch.allclose((projected - x).abs(), nearest)


def test_shapes_beyond_vectors_are_kept_and_the_time_axis_counts() -> None:
    x0 = torch.full((2, 3, 4, 5), 0.5)
    for norm in NORMS:
        threat = ThreatModel(norm, 0.25)
        projected = threat.project(x0 + 1, x0)
        assert projected.shape == x0.shape
        assert float(_length((projected - x0).flatten(1), norm).max()) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e2, 1e6])
def test_float32_projections_survive_far_points_and_many_entries(norm: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(3, 4000, generator=generator)
    x = x0 + scale * torch.randn(3, 4000, generator=generator)
    threat = ThreatModel(norm, 0.5)
    projected = threat.project(x, x0)
    verify(projected, x0, threat, range(3), "projection")
    if scale >= 1:  # the budget is used
        least = torch.full((3,), 0.49)
        if norm == "l1":
            # Each entry that is left loses a threshold as large as the changes: a float32, so the next one is so far.
            gap = torch.finfo(torch.float32).eps * (x - x0).abs().amax(dim=1)
            least -= gap * (projected != x0).sum(dim=1).clamp_min(1)
        assert bool((_length(projected.double() - x0.double(), norm) > least).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", list(BOUNDS))
def test_start_is_allowed_and_keyed(norm: str, domain: str) -> None:
    threat = ThreatModel(norm, 2.0, BOUNDS[domain], domain)
    x0, _ = case(domain, 0, torch.float32, n=40)
    rng, ids = Draws(0, "start"), torch.arange(40)
    start = threat.start(x0, rng, ids)
    verify(start, x0, threat, range(40), "start")
    assert torch.equal(threat.start(x0[7:9], rng, ids[7:9]), start[7:9])
    draws = torch.zeros(40, dtype=torch.long).index_fill(0, torch.tensor([3]), 1)
    mixed = threat.start(x0, rng, ids, draws)
    assert torch.equal(mixed[:3], start[:3])
    assert torch.equal(mixed[3], threat.start(x0, rng, ids, 1)[3])
    still = ThreatModel(norm, 0.0, BOUNDS[domain], domain)
    assert torch.equal(still.start(x0, rng, ids), x0)


def test_starts_are_spread_over_the_ball() -> None:
    n, d, ids = 4000, 3, torch.arange(4000)
    x0, rng = torch.zeros(n, d), Draws(5, "spread")
    for norm in NORMS:
        start = ThreatModel(norm, 2.0, (-9.0, 9.0)).start(x0, rng, ids)
        radius = _length(start, norm) / 2
        # Uniform in a ball of dimension d: radius^d is uniform.
        assert float((radius**d).mean()) == pytest.approx(0.5, abs=0.02)
        assert float((radius**d < 0.1).float().mean()) == pytest.approx(0.1, abs=0.02)
        assert float(start.mean(0).abs().max()) < 0.06
        assert float((start > 0).float().mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("domain", "epsilon"), [("binary", 1.0), ("integer", 1.0), ("integer", 3.0)])
def test_whole_number_starts_move_under_linf(domain: str, epsilon: float) -> None:
    """Cutting a uniform change in (-1, 1) towards zero would leave every event where it is."""
    threat = ThreatModel("linf", epsilon, BOUNDS[domain], domain)
    x0, _ = case(domain, 1, torch.float32, n=50, d=40)
    moved = (threat.start(x0, Draws(0, "a"), torch.arange(50)) != x0).float().mean()
    assert float(moved) > 0.2


@given(
    entries=st.lists(
        st.one_of(st.just(0.0), st.floats(-1e3, 1e3), st.sampled_from([2.0, -2.0])), min_size=6, max_size=6
    ),
    scale=st.sampled_from([1.0, 1e-12, 1e-25, 1e-33, 1e25]),
    norm=st.sampled_from(NORMS),
)
@settings(max_examples=150, deadline=None)
def test_steepest_maximises_a_linear_function(entries: list[float], scale: float, norm: str) -> None:
    """The largest g.d over the unit ball is the dual norm of g, however small g is: also for tiny gradients."""
    gradient = (torch.tensor([entries], dtype=torch.float64) * scale).float()
    gradient[gradient.abs() < 1e-37] = 0  # below float32's normal range
    step = ThreatModel(norm, 0.1).steepest(gradient.reshape(1, 2, 3))
    assert step.shape == (1, 2, 3)
    flat, g = step.flatten(1).double(), gradient.double()
    dual = {"linf": g.abs().sum(), "l2": g.norm(), "l1": g.abs().max()}[norm]
    assert float((flat * g).sum()) == pytest.approx(float(dual), rel=1e-5)
    assert float(_length(flat, norm)) <= 1 + 1e-6
    assert bool((step.flatten(1)[gradient == 0] == 0).all())


def test_steepest_shares_an_l1_step_among_ties_and_rests_at_zero() -> None:
    threat = ThreatModel("l1", 1.0)
    assert torch.equal(threat.steepest(torch.tensor([[3.0, -3.0, 1.0]])), torch.tensor([[0.5, -0.5, 0.0]]))
    for norm in NORMS:
        zero = ThreatModel(norm, 1.0).steepest(torch.zeros(2, 3))
        assert torch.equal(zero, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l7"}, "norm"),
        ({"domain": "complex"}, "domain"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"bounds": (1.0, 1.0)}, "bounds"),
        ({"bounds": (1.0, 0.0)}, "bounds"),
        ({"bounds": (math.nan, 1.0)}, "bounds"),
        ({"norm": "l0", "epsilon": 0.5}, "epsilon 0 or >= 1"),
        ({"norm": "l0", "epsilon": 1, "bounds": (0.0, math.inf)}, "finite bounds"),
    ],
)
def test_bad_threat_models_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"expected {message}.*got"):
        ThreatModel(**{"norm": "l2", "epsilon": 0.1, **arguments})


def test_ball_tells_threat_models_apart_but_not_radii() -> None:
    assert ThreatModel("l2", 0.1).ball == ThreatModel("l2", 0.7).ball
    balls = {
        ThreatModel(norm, 1.0, bounds, domain).ball
        for norm in [*NORMS, "l0"]
        for domain in BOUNDS
        for bounds in ((0.0, 1.0), (0.0, 255.0))
    }
    assert len(balls) == 24


@given(
    seed=st.integers(0, 10**6),
    epsilon=st.sampled_from([0, 1, 2, 2.9999999, 3.7, 5, 100]),
    domain=st.sampled_from(list(BOUNDS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=100, deadline=None)
def test_l0_projection_is_the_nearest_of_all_supports(
    seed: int, epsilon: float, domain: str, dtype: torch.dtype
) -> None:
    """Every choice of entries is tried: the chosen ones go to the nearest value there is, the others stay."""
    count, (low, high) = min(7, math.floor(epsilon + 1e-6)), BOUNDS[domain]
    x0, x = case(domain, seed, dtype)
    threat = ThreatModel("l0", epsilon, (low, high), domain)
    projected = threat.project(x, x0)
    verify(projected, x0, threat, range(len(x)), "projection")
    assert projected.dtype == dtype
    assert torch.equal(threat.project(projected, x0), projected)
    values = torch.arange(low, high + 1) if domain != "real" else torch.tensor([low, high])
    for row, start, found in zip(x.double(), x0.double(), projected.double(), strict=True):
        near = values[(values[:, None] - row).abs().argmin(dim=0)].double()
        near = torch.where((row > low) & (row < high), row, near) if domain == "real" else near
        chosen = list(itertools.combinations(range(7), count))
        supports = torch.tensor([[entry in each for entry in range(7)] for each in chosen])
        best = torch.where(supports, near, start).sub(row).square().sum(dim=1).amin()
        assert float((found - row).square().sum()) == pytest.approx(float(best), rel=1e-5, abs=1e-5)


@given(seed=st.integers(0, 10**6), epsilon=st.sampled_from([0.0, 1.0, 2.0, 2.9999999, 4.5, 40.0]))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("domain", ["integer", "binary"])
def test_l1_projection_of_whole_numbers_is_the_nearest_of_all(domain: str, seed: int, epsilon: float) -> None:
    low, high = {"integer": (0.0, 3.0), "binary": (0.0, 1.0)}[domain]
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randint(int(high) + 1, (3, 5), generator=generator).double()
    x = x0 + 3 * torch.randn(3, 5, generator=generator).double()
    x[:, 1] = x0[:, 1] + 0.8
    x[:, 2] = x0[:, 2] + 0.8
    threat = ThreatModel("l1", epsilon, (low, high), domain)
    projected = threat.project(x, x0)
    verify(projected, x0, threat, range(3), "projection")
    assert torch.equal(projected, projected.round())
    everything = torch.cartesian_prod(*[torch.arange(high + 1)] * 5).double()
    for row, start, found in zip(x, x0, projected, strict=True):
        allowed = everything[(everything - start).abs().sum(dim=1) <= epsilon + 1e-6]
        best = (allowed - row).square().sum(dim=1).amin()
        assert float((found - row).square().sum()) == pytest.approx(float(best), abs=1e-9)


def test_ties_go_to_the_first_entries_whatever_the_batch() -> None:
    x0, x = torch.zeros(3, 6), torch.tensor([[0.0, 1, 1, 1, 1, 1]]).expand(3, 6)
    for norm in ("l0", "l1"):
        threat = ThreatModel(norm, 2, domain="binary")
        assert torch.equal(threat.project(x, x0), torch.tensor([[0.0, 1, 1, 0, 0, 0]]).expand(3, 6))
        assert torch.equal(threat.project(x[:1], x0[:1]), threat.project(x, x0)[:1])
    assert largest_mask(torch.ones(2, 4), torch.tensor([0, 3])).tolist() == [[False] * 4, [True] * 3 + [False]]


@pytest.mark.parametrize(("norm", "domain"), [("l0", d) for d in BOUNDS] + [("l1", "integer"), ("l1", "binary")])
def test_starts_that_count_changes_spend_the_budget_everywhere(norm: str, domain: str) -> None:
    threat = ThreatModel(norm, 3, BOUNDS[domain], domain)
    x0, _ = case(domain, 0, torch.float32, n=300)
    rng, ids = Draws(0, "start"), torch.arange(300)
    start = threat.start(x0, rng, ids)
    verify(start, x0, threat, range(300), "start")
    changed = start != x0
    assert bool((changed.sum(dim=1) == 3).all())
    assert float((changed.float().mean(dim=0) - 3 / 7).abs().max()) < 0.12
    assert torch.equal(threat.start(x0[7:9], rng, ids[7:9]), start[7:9])
    assert not torch.equal(threat.start(x0, rng, ids, 1), start)
    assert torch.equal(ThreatModel(norm, 0, BOUNDS[domain], domain).start(x0, rng, ids), x0)
    assert bool((ThreatModel(norm, 99, BOUNDS[domain], domain).start(x0, rng, ids) != x0).all())
    if norm == "l1":
        assert float((start - x0).abs().max()) == 1
    elif domain == "integer":
        assert len(start[changed].unique()) == 10


def test_l0_steepest_moves_the_largest_entries_across_the_range() -> None:
    threat = ThreatModel("l0", 2.5, (0.0, 4.0), "integer")
    gradient = torch.tensor([[[3.0, -4.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, -1e-30]]])
    step = threat.steepest(gradient)
    assert torch.equal(step, torch.tensor([[[4.0, -4.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, -4.0]]]))
    whole = ThreatModel("l1", 2, domain="binary").steepest(torch.tensor([[2.0, -2.0, 1.0]]))
    assert torch.equal(whole, torch.tensor([[1.0, 0.0, 0.0]]))
