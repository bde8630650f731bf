"""The set search: closed forms on linear nets, properties of its proposals, and zero gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.objectives.logits import Margin
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Domain, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.optimisers.flips import Flips

BOUNDS: dict[Domain, tuple[float, float]] = {"real": (0.0, 1.0), "integer": (0.0, 5.0), "binary": (0.0, 1.0)}


def linear(domain: Domain, shape: tuple[int, ...] = (3, 4)) -> tuple[sr.SpikingModel, Dataset, Tensor]:
    """A linear net of two classes, inputs for it, and the weight difference w with margin = w x."""
    generator = torch.Generator().manual_seed(3)
    size = int(torch.tensor(shape).prod())
    layer = nn.Linear(size, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, size, generator=generator))
    low, high = BOUNDS[domain]
    model = sr.wrap(nn.Sequential(nn.Flatten(), layer), layout="N", bounds=(low, high), domain=domain, name="linear")
    x = low + (high - low) * torch.rand(20, *shape, generator=generator)
    x = x if domain == "real" else x.round()
    weight = layer.weight.detach()
    return model, Dataset.of(x, model.logits(x).argmax(dim=1).detach()), weight[0] - weight[1]


def run(
    model: sr.SpikingModel, data: Dataset, plugin: Flips, threat: ThreatModel, pool: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    rng = Draws(seed, "flips")
    context = AttackContext(
        Scorer(model, 0, 1),
        ModelQueries(model, Margin(), Own(), first_draw=rng.number()),
        data,
        threat,
        rng,
        BatchSizer(pool),
        False,
        "flips",
    )
    found: list[SearchResult] = []
    with model.session():
        search(context, plugin, torch.arange(len(data)), found.append)
    order = torch.cat([each.rows for each in found]).argsort()
    return {name: torch.cat([getattr(each, name) for each in found])[order] for name in ("x", "last_x", "margin")}


@pytest.mark.parametrize("domain", ["real", "integer", "binary"])
@pytest.mark.parametrize("budget", [1, 3, 12])
def test_linear_model_closed_form(domain: Domain, budget: int) -> None:
    """The least margin is the margin less the `budget` largest gains of moving an entry to a bound."""
    model, data, weight = linear(domain)
    low, high = BOUNDS[domain]
    found = run(model, data, Flips(steps=60), ThreatModel("l0", budget, (low, high), domain))
    against = torch.where(data.y == 0, 1.0, -1.0)[:, None] * weight  # margin = against x
    x = data.x.flatten(1)
    gain = torch.maximum(against * (x - low), against * (x - high))
    best = (against * x).sum(dim=1) - gain.topk(budget, dim=1).values.sum(dim=1)
    assert torch.allclose(found["margin"], best, atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_no_harmful_change_is_kept_where_the_budget_is_not_spent(seed: int) -> None:
    """With a budget of all entries the best set is that of the legal flips, about half of them."""
    model, data, weight = linear("binary")
    found = run(model, data, Flips(steps=60), ThreatModel("l0", 12, (0.0, 1.0), "binary"), seed=seed)
    against = torch.where(data.y == 0, 1.0, -1.0)[:, None] * weight  # margin = against x
    assert torch.equal(found["x"].flatten(1), (against < 0).float())


def test_the_first_greedy_set_is_the_best_one() -> None:
    """Without noise, the first proposal on a linear net is the optimum itself."""
    model, data, weight = linear("binary")
    found = run(model, data, Flips(steps=1, temperature=0.0), ThreatModel("l0", 3, domain="binary"))
    against = torch.where(data.y == 0, 1.0, -1.0)[:, None] * weight
    gain = (against * (2 * data.x.flatten(1) - 1)).topk(3, dim=1)
    full = (gain.values > 0).all(dim=1) & ((found["last_x"] != data.x).flatten(1).sum(dim=1) == 3)
    assert int(full.sum()) > 10  # the others spend a part of the budget
    chosen = torch.zeros_like(data.x.flatten(1)).scatter_(1, gain.indices, 1.0).bool()
    assert torch.equal((found["last_x"] != data.x).flatten(1)[full], chosen[full])


@given(
    seed=st.integers(0, 10**6),
    budget=st.sampled_from([0, 1, 2, 5, 30, 60, 1000]),
    domain=st.sampled_from(["real", "integer", "binary"]),
    shape=st.sampled_from([(60,), (5, 12), (3, 4, 5), (2, 1, 5, 6)]),
    dead=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_iterate_is_allowed_and_each_step_tries_another(
    seed: int, budget: int, domain: Domain, shape: tuple[int, ...], dead: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    low, high = BOUNDS[domain]
    threat = ThreatModel("l0", budget, (low, high), domain)
    x0 = low + (high - low) * torch.rand(3, *shape, generator=generator)
    x0 = x0 if domain == "real" else x0.round()
    plugin, rng, index = Flips(steps=6), Draws(seed, "x"), torch.arange(3)
    state = plugin.init(x0, threat, rng, index)
    before = state["x"]
    for k in range(6):
        gradient = torch.zeros_like(x0) if dead else torch.randn(x0.shape, generator=generator)
        state = plugin.step(state, gradient, torch.zeros(3), x0, torch.full((3,), k), threat, rng, index)
        verify(state["x"], x0, threat, index.tolist(), "flips")
        moved = (state["x"] != before).flatten(1).any(dim=1)
        assert bool(moved.all()) == (budget > 0)
        before = state["x"]


@dataclass(frozen=True)
class Blind(Flips):
    """Gets a zero gradient."""

    def step(self, state: Any, gradient: Tensor, *others: Any) -> Any:
        return super().step(state, torch.zeros_like(gradient), *others)


@dataclass(frozen=True)
class Misled(Flips):
    """Gets the negated gradient."""

    def step(self, state: Any, gradient: Tensor, *others: Any) -> Any:
        return super().step(state, -gradient, *others)


def test_a_dead_gradient_leaves_a_random_search_and_a_wrong_one_does_not_stop_it() -> None:
    model, data, _ = linear("binary")
    threat = ThreatModel("l0", 3, domain="binary")
    clean = run(model, data, Flips(steps=1), ThreatModel("l0", 0, domain="binary"))["margin"]
    gains = {
        kind: float((clean - run(model, data, kind(steps=8), threat)["margin"]).mean())
        for kind in (Flips, Blind, Misled)
    }
    assert gains[Flips] > 1.1 * gains[Blind]
    assert gains[Blind] > gains[Misled] > 0
    best = run(model, data, Flips(steps=60), threat)["margin"]
    assert torch.allclose(run(model, data, Blind(steps=400), threat)["margin"], best, atol=1e-4)


@pytest.mark.parametrize("pool", [1, 7])
@pytest.mark.parametrize("temporal", [False, True])
def test_batch_size_does_not_matter(pool: int, temporal: bool) -> None:
    model, data = tiny_model(temporal), tiny_data(temporal)
    threat = ThreatModel("l0", 3, domain=model.domain)
    whole, small = (run(model, data, Flips(steps=10), threat, each) for each in (64, pool))
    assert torch.equal(whole["x"], small["x"])
    assert torch.equal(whole["last_x"], small["last_x"])


def test_ties_are_accepted() -> None:
    """On a plateau the best set keeps changing, where a search that needs an improvement would stay."""
    x0, threat = torch.zeros(1, 30), ThreatModel("l0", 2, domain="binary")
    plugin, rng, index = Flips(steps=20), Draws(0, "plateau"), torch.arange(1)
    state, seen = plugin.init(x0, threat, rng, index), set()
    for k in range(20):
        state = plugin.step(state, torch.zeros(1, 30), torch.zeros(1), x0, torch.full((1,), k), threat, rng, index)
        seen.add(tuple(state["best"].nonzero().flatten().tolist()))
    assert len(seen) > 10


def test_it_conforms() -> None:
    check_plugin("flips", steps=5)


@pytest.mark.parametrize(("norm", "temporal"), [("linf", False), ("l2", True), ("l1", False)])
def test_norms_that_count_no_changes_are_refused(norm: str, temporal: bool) -> None:
    task = sr.load("flips", norm=norm, epsilon=1)
    with pytest.raises(InputError, match=r"expected norm in .*'l0'"):
        task.plugin.check(tiny_model(temporal), None, task)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"exchange": 1.5}, {"temperature": -1.0}, {"floor": 0.0}, {"steps": True}], ids=repr
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"expected {next(iter(wrong))}"):
        Flips(**wrong)
