"""Gradient optimisers: closed forms, hand-computed steps, allowed iterates, independence of batch mates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.errors import InputError, InputTypeError
from snnrobust.plugin import Optimiser, State
from snnrobust.testing import check_plugin
from snnrobust.threat_models.threat_model import Domain, Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.optimisers.apgd import APGD
from snnrobust_attacks.optimisers.fgsm import FGSM
from snnrobust_attacks.optimisers.momentum import Momentum
from snnrobust_attacks.optimisers.pgd import PGD
from snnrobust_attacks.optimisers.r_fgsm import RFGSM
from snnrobust_attacks.optimisers.sa_pgd import SAPGD
from snnrobust_attacks.optimisers.shared import checkpoints, sparse_step
from snnrobust_attacks.optimisers.square import Square

Objective = Callable[[Tensor], Tensor]
FREE, BOX = (-100.0, 100.0), (0.0, 1.0)
SHAPES = [(9,), (4, 6), (3, 4, 4), (3, 2, 3, 3)]
ALL: list[Any] = [FGSM(), RFGSM(), PGD(steps=8), Momentum(steps=8), APGD(steps=12), SAPGD(steps=12), Square(steps=12)]
NORMS: dict[type, tuple[Norm, ...]] = {SAPGD: ("linf",), Square: ("linf", "l2")}
GRADIENT: list[Any] = [(each, norm) for each in ALL for norm in NORMS.get(type(each), ("linf", "l2", "l1"))]


def evaluate(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    """Objective [N] and its gradient [N, *]."""
    at = x.detach().requires_grad_()
    value = objective(at)
    (gradient,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), gradient


def advance(
    optimiser: Optimiser, state: State, objective: Objective, x0: Tensor, k: Tensor, threat: ThreatModel, index: Tensor
) -> State:
    """One step as in the core, with a gradient only for optimisers that need one."""
    loss, gradient = evaluate(objective, state["x"])
    given = gradient if optimiser.needs == "gradient" else None
    return optimiser.step(state, given, loss, x0, k, threat, Draws(0, "t"), index)


def ascend(optimiser: Optimiser, objective: Objective, x0: Tensor, threat: ThreatModel) -> tuple[Tensor, list[Tensor]]:
    """The largest objective reached, [N], and all iterates; each iterate is checked."""
    index = torch.arange(len(x0))
    state = optimiser.init(x0, threat, Draws(0, "t"), index)
    iterates, best = [], torch.full((len(x0),), -torch.inf, dtype=x0.dtype)
    for k in range(optimiser.steps + 1):
        verify(state["x"], x0, threat, index.tolist(), repr(optimiser))
        iterates.append(state["x"].clone())
        best = torch.maximum(best, objective(state["x"]).detach())
        if k < optimiser.steps:
            state = advance(optimiser, state, objective, x0, torch.full_like(index, k), threat, index)
    return best, iterates


def linear(shape: tuple[int, ...], count: int = 4) -> tuple[Tensor, Tensor, Objective]:
    """Originals in [0, 1], the weights of a linear objective, and the objective."""
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(shape, generator=generator).double()
    return torch.rand((count, *shape), generator=generator).double(), w, lambda x: (x * w).flatten(1).sum(dim=1)


def greatest_gain(w: Tensor, x0: Tensor, norm: Norm, epsilon: float, bounds: tuple[float, float]) -> Tensor:
    """The most that a linear objective can gain inside ball and box, [N], in closed form or by bisection in numpy."""
    weight = np.abs(w.numpy()).reshape(1, -1)
    room = np.where(w.numpy().reshape(1, -1) > 0, bounds[1] - x0.flatten(1).numpy(), x0.flatten(1).numpy() - bounds[0])
    if norm == "linf":
        return torch.from_numpy((weight * np.minimum(room, epsilon)).sum(axis=1))
    if norm == "l1":  # the budget goes to the largest weights, each as far as its bound
        order = np.argsort(-weight[0])
        room = room[:, order]
        used = np.clip(epsilon - (room.cumsum(axis=1) - room), 0, room)
        return torch.from_numpy((used * weight[:, order]).sum(axis=1))
    low, high = np.zeros((len(x0), 1)), np.full((len(x0), 1), 1e4)  # d = min(t |w|, room) of length epsilon
    for _ in range(100):
        middle = (low + high) / 2
        short = np.sqrt((np.minimum(middle * weight, room) ** 2).sum(axis=1, keepdims=True)) < epsilon
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return torch.from_numpy((np.minimum(low * weight, room) * weight).sum(axis=1))


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@pytest.mark.parametrize(
    ("optimiser", "norm", "bounds", "least"),
    [
        (FGSM(), "linf", BOX, 0.999),
        (FGSM(), "l2", FREE, 0.999),
        (FGSM(), "l1", FREE, 0.999),
        (RFGSM(share=0.01), "linf", BOX, 0.97),  # what it moves the wrong way at random costs up to 2 * .01
        (PGD(steps=50), "linf", BOX, 0.99),
        (PGD(steps=50, l1_share=0.01), "l1", BOX, 0.97),
        (Momentum(steps=50), "linf", BOX, 0.99),
        (Momentum(steps=50), "l2", FREE, 0.99),
        (Momentum(steps=50, l1_share=0.01), "l1", FREE, 0.99),
        (SAPGD(steps=50), "linf", FREE, 0.99),
        (SAPGD(steps=50), "linf", BOX, 0.99),
        (APGD(steps=30), "linf", FREE, 0.99),
        (APGD(steps=30), "linf", BOX, 0.99),
        (APGD(steps=30), "l2", FREE, 0.99),
        (APGD(steps=30), "l2", BOX, 0.99),
        (APGD(steps=60), "l1", FREE, 0.99),
        (APGD(steps=60), "l1", BOX, 0.9),
    ],
    ids=repr,
)
def test_linear_objective(
    optimiser: Optimiser, norm: Norm, bounds: tuple[float, float], least: float, shape: tuple[int, ...]
) -> None:
    """epsilon |w|_dual without a box, and the closed form with one."""
    x0, w, objective = linear(shape)
    epsilon = {"linf": 0.3, "l2": 0.5, "l1": 2.0}[norm]
    best, _ = ascend(optimiser, objective, x0, ThreatModel(norm, epsilon, bounds))
    dual = {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[norm]
    most = greatest_gain(w, x0, norm, epsilon, bounds)
    if bounds == FREE:
        assert torch.allclose(most, epsilon * dual.expand_as(most))
    gain = (best - objective(x0)) / most
    assert least < float(gain.min()) <= float(gain.max()) < 1 + 1e-4, gain


def bumpy(shape: tuple[int, ...]) -> Objective:
    """A smooth objective with many maxima."""
    w = torch.randn((3, *shape), generator=torch.Generator().manual_seed(2)).double()
    return lambda x: torch.stack([((x * each).flatten(1).sum(dim=1) * 2).sin() for each in w]).sum(dim=0)


@pytest.mark.parametrize(("optimiser", "norm"), GRADIENT, ids=repr)
def test_batch_mates_at_other_steps_do_not_matter(optimiser: Optimiser, norm: Norm) -> None:
    """Sample 0 alone, and with samples 1 and 2 that join it halfway."""
    shape = (2, 4, 4)
    x0, objective = linear(shape, 3)[0].float(), bumpy(shape)
    threat, index, half = ThreatModel(norm, 0.3), torch.tensor([40, 7, 1]), max(1, optimiser.steps // 2)

    def launch(rows: slice) -> State:
        return optimiser.init(x0[rows], threat, Draws(0, "t"), index[rows])

    def smooth(x: Tensor) -> Tensor:
        return objective(x.double()).float()

    first, alone, mates = slice(0, 1), launch(slice(0, 1)), launch(slice(1, 3))
    for k in range(optimiser.steps):
        alone = advance(optimiser, alone, smooth, x0[first], torch.tensor([k]), threat, index[first])
    together = launch(first)
    for k in range(half):
        together = advance(optimiser, together, smooth, x0[first], torch.tensor([k]), threat, index[first])
    together = {name: torch.cat([value, mates[name]]) for name, value in together.items()}
    for k in range(half, optimiser.steps):
        at = torch.tensor([k, k - half, k - half])
        together = advance(optimiser, together, smooth, x0, at, threat, index)
    for name, value in alone.items():
        assert torch.allclose(value[0], together[name][0], atol=1e-5), name
    assert (alone["x"] != x0[first]).any()


@settings(max_examples=25, deadline=None)
@given(
    pair=st.sampled_from(GRADIENT),
    domain=st.sampled_from(["real", "integer", "binary"]),
    epsilon=st.just(0.0) | st.floats(1e-3, 3),
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 99),
)
def test_iterates_are_allowed(
    pair: tuple[Optimiser, Norm], domain: Domain, epsilon: float, shape: tuple[int, ...], seed: int
) -> None:
    optimiser, norm = pair
    high = 4 if domain == "integer" else 1
    x0 = torch.rand((2, *shape), generator=torch.Generator().manual_seed(seed)) * high
    x0 = x0 if domain == "real" else x0.round()
    _, iterates = ascend(optimiser, bumpy(shape), x0, ThreatModel(norm, epsilon, (0.0, float(high)), domain))
    if epsilon == 0:
        assert torch.equal(iterates[-1], x0)


@pytest.mark.parametrize("optimiser", ALL, ids=repr)
def test_events_move_at_epsilon_one(optimiser: Optimiser) -> None:
    """Steps shorter than an event would be rounded to nothing."""
    w = linear((30,))[1]
    x0 = (torch.rand(3, 30, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    threat = ThreatModel("linf", 1.0, (0.0, 1.0), "binary")
    best, _ = ascend(optimiser, lambda x: (x * w).sum(dim=1), x0, threat)
    least = 0.3 if isinstance(optimiser, Square) else 0.999  # 12 queries
    assert float((best - (x0 * w).sum(dim=1)).div(greatest_gain(w, x0, "linf", 1.0, BOX)).min()) > least


@pytest.mark.parametrize("optimiser", [each for each in ALL if each.needs == "gradient"], ids=repr)
def test_dead_gradients_move_nothing(optimiser: Optimiser) -> None:
    x0 = linear((3, 4, 4))[0]
    _, iterates = ascend(optimiser, lambda x: (0 * x).flatten(1).sum(dim=1), x0, ThreatModel("linf", 0.1))
    assert torch.isfinite(iterates[-1]).all()
    assert torch.allclose(iterates[-1], iterates[0], atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("optimiser", [Momentum(steps=5), SAPGD(steps=5), APGD(steps=5)], ids=repr)
def test_the_size_of_gradients_does_not_matter(optimiser: Optimiser, scale: float) -> None:
    x0, objective, index = linear((3, 4, 4))[0].float(), bumpy((3, 4, 4)), torch.arange(4)
    threat, ends = ThreatModel("linf", 0.1), []
    for factor in (1.0, scale):
        state = optimiser.init(x0, threat, Draws(0, "t"), index)
        for k in range(5):
            loss, gradient = evaluate(lambda x: objective(x.double()).float(), state["x"])
            step = torch.full((4,), k)
            state = optimiser.step(state, factor * gradient, loss, x0, step, threat, Draws(0, "t"), index)
        ends.append(state["x"])
    assert torch.allclose(ends[0], ends[1], atol=1e-6)


def test_r_fgsm_is_two_steps() -> None:
    x0, w, objective = linear((3, 4, 4))
    _, (start, end) = ascend(RFGSM(share=0.25), objective, x0, ThreatModel("linf", 0.2, FREE))
    assert torch.allclose((start - x0).abs(), torch.full_like(x0, 0.05))
    assert 0.4 < float((start > x0).double().mean()) < 0.6
    assert torch.allclose(end, start + 0.15 * w.sign())


def test_momentum_by_hand() -> None:
    x0, objective = linear((3, 4, 4))[0], bumpy((3, 4, 4))
    _, iterates = ascend(Momentum(steps=4, decay=0.5), objective, x0, ThreatModel("linf", 0.2, FREE))
    x, total = x0, torch.zeros_like(x0)
    for iterate in iterates[1:]:
        g = evaluate(objective, x)[1]
        total = 0.5 * total + g / g.abs().sum(dim=(1, 2, 3), keepdim=True)
        x = x + 0.05 * total.sign()
        assert torch.allclose(iterate, x)


def test_sa_pgd_by_hand() -> None:
    """Twenty steps on inputs of five dimensions against the formula in numpy, step sizes written out."""
    shape, epsilon = (3, 2, 3, 3), 0.2
    x0, objective = linear(shape)[0], bumpy(shape)
    optimiser = SAPGD(steps=20, random_start=False)
    _, iterates = ascend(optimiser, objective, x0, ThreatModel("linf", epsilon, FREE))
    etas = [1] * 5 + [1 / 2] * 4 + [1 / 4] * 3 + [1 / 8] * 2 + [1 / 16] * 2 + [1 / 32] * 2 + [1 / 64]
    assert len(etas) == 19  # halved at ceil(20 p): 5, 9, 12, 14, 16, 18, 19
    x, m, v = x0.numpy(), np.zeros(x0.shape), np.zeros(x0.shape)
    shorter = 0
    for eta, iterate in zip([*etas, 1 / 128], iterates[1:], strict=True):
        g = evaluate(objective, torch.from_numpy(x))[1].numpy()
        m = 0.5 * m + g / np.abs(g).mean(axis=(1, 2, 3, 4), keepdims=True)
        v = 0.8 * v + g**2 / (g**2).mean(axis=(1, 2, 3, 4), keepdims=True)
        limit = eta * epsilon
        step = np.clip(limit * m / np.sqrt(v), -limit, limit)
        shorter += int((np.abs(step) < 0.9 * limit).sum())
        x = x0.numpy() + np.clip(x + step - x0.numpy(), -epsilon, epsilon)
        assert np.allclose(iterate.numpy(), x)
    assert shorter > 0


def test_checkpoints() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]
    assert checkpoints(7) == [2, 3, 4, 5, 6, 7]


def test_sparse_step_by_hand() -> None:
    gradient = torch.tensor([[3.0, -2.0, 1.0, 0.5], [3.0, -2.0, 1.0, 0.0]])
    x = torch.tensor([[0.5, 0.5, 0.5, 0.5], [1.0, 0.1, 0.9, 0.5]])
    step = sparse_step(gradient, x, ThreatModel("l1", 1.0), torch.tensor([0.4, 0.4]), torch.tensor([2, 2]))
    # The second sample: a bound holds the first entry, the next two get what leads to theirs, the last has no gradient.
    assert torch.allclose(step, torch.tensor([[0.2, -0.2, 0, 0], [0, -0.1, 0.1, 0]]))


@pytest.mark.parametrize(
    ("name", "norm"), [("sa-pgd", "l2"), ("sa-pgd", "l1"), ("square", "l1"), ("apgd", "l0"), ("pgd", "l0")]
)
def test_norms_that_are_not_defined_are_refused(name: str, norm: Norm) -> None:
    model = sr.wrap(nn.Linear(4, 2), layout="N")
    with pytest.raises(InputError, match="expected norm in"):
        sr.evaluate(model, (torch.rand(3, 4), torch.zeros(3, dtype=torch.long)), [sr.load(name, norm=norm, epsilon=1)])


@pytest.mark.parametrize("name", ["fgsm", "pgd", "r-fgsm", "momentum", "sa-pgd"])
def test_they_conform(name: str) -> None:
    check_plugin(name, **({} if "fgsm" in name else {"steps": 12}))


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (RFGSM, {"share": 0.0}),
        (RFGSM, {"share": 1.0}),
        (Momentum, {"steps": 0}),
        (Momentum, {"step_size": 0.0}),
        (Momentum, {"decay": 1.5}),
        (Momentum, {"l1_share": 0.0}),
        (SAPGD, {"steps": 2.0}),
        (PGD, {"steps": True}),
    ],
)
def test_settings_out_of_range(kind: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        kind(**setting)


def test_a_flag_is_a_bool() -> None:
    with pytest.raises(InputTypeError, match="random_start"):
        SAPGD(random_start=1)  # type: ignore[arg-type]
