"""Random search: a closed form, batch independence, ties, and no gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.objectives.logits import Margin
from snnrobust.plugin import Optimiser, State
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import Domain, Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust_attacks.optimisers.random_search import RandomSearch

BOUNDS: dict[Domain, tuple[float, float]] = {"real": (-1.0, 1.5), "integer": (0.0, 9.0), "binary": (0.0, 1.0)}


def run(model: sr.SpikingModel, data: Dataset, plugin: Optimiser, threat: ThreatModel, pool: int = 64) -> Any:
    """Examples and margins of a search that never stops early, in the order of the data."""
    rng = Draws(0, "random-search")
    queries = ModelQueries(model, Margin(), Own(), first_draw=rng.number())
    context = AttackContext(Scorer(model, 0, 5), queries, data, threat, rng, BatchSizer(pool), False, "random-search")
    found: list[SearchResult] = []
    with model.session():
        search(context, plugin, torch.arange(len(data)), found.append)
    order = torch.cat([each.rows for each in found]).argsort()
    return {name: torch.cat([getattr(each, name) for each in found])[order] for name in ("x", "margin", "backwards")}


def test_linear_model_closed_form() -> None:
    """Under L-inf, the least margin of a linear model is margin - epsilon |w_true - w_other|_1."""
    layer = nn.Linear(6, 2).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 6, generator=generator))
        layer.bias.zero_()
    model = sr.wrap(layer, layout="N", bounds=(-100.0, 100.0), name="linear")
    x = torch.randn(20, 6, generator=generator)
    logits = model.logits(x).detach()
    y = logits.argmax(dim=1)
    found = run(model, Dataset.of(x, y), RandomSearch(steps=200), ThreatModel("linf", 0.05, (-100.0, 100.0)))
    clean = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]
    gain = (clean - found["margin"]) / (0.05 * (layer.weight[0] - layer.weight[1]).abs().sum().detach())
    assert 0.95 < float(gain.min()) <= float(gain.max()) < 1 + 1e-6, gain


@pytest.mark.parametrize(("norm", "epsilon", "least"), [("l2", 0.5, 0.9), ("l1", 0.7, 0.99), ("l0", 2, 0.99)])
def test_linear_model_closed_form_in_other_norms(norm: Norm, epsilon: float, least: float) -> None:
    """The largest change of w x is epsilon |w|_2, epsilon max|w|, or the largest gains of going to a bound."""
    model, low, high = sr.wrap(nn.Linear(6, 2, bias=False).double(), layout="N", bounds=(-9.0, 9.0)), -9.0, 9.0
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        model.net.get_parameter("weight").copy_(torch.randn(2, 6, generator=generator))
    x = torch.randn(20, 6, generator=generator)
    logits = model.logits(x).detach()
    y = logits.argmax(dim=1)
    found = run(model, Dataset.of(x, y), RandomSearch(steps=300), ThreatModel(norm, epsilon, (low, high)))
    weight = model.net.get_parameter("weight").detach()
    against = torch.where(y == 0, 1.0, -1.0)[:, None] * (weight[0] - weight[1])
    best = {
        "l2": epsilon * against.norm(dim=1),
        "l1": epsilon * against.abs().amax(dim=1),
        "l0": torch.maximum(against * (x - low), against * (x - high)).topk(2, dim=1).values.sum(dim=1),
    }[norm]
    clean = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]
    gain = (clean - found["margin"]) / best
    assert least < float(gain.min()) <= float(gain.max()) < 1 + 1e-4, gain


@given(
    seed=st.integers(0, 10**6),
    threat=st.sampled_from(
        [ThreatModel("l0", budget, BOUNDS[domain], domain) for budget in (0, 1, 3, 30, 99) for domain in BOUNDS]
        + [ThreatModel("l1", budget, BOUNDS[domain], domain) for budget in (0, 1, 2.5, 99) for domain in BOUNDS]
        + [ThreatModel("l2", 1.3)]
    ),
    shape=st.sampled_from([(30,), (5, 6), (2, 3, 5), (2, 1, 5, 3)]),
)
@settings(max_examples=80, deadline=None)
def test_every_iterate_is_allowed_and_most_spend_the_budget(
    seed: int, threat: ThreatModel, shape: tuple[int, ...]
) -> None:
    generator, (low, high) = torch.Generator().manual_seed(seed), threat.bounds
    x0 = low + (high - low) * torch.rand(3, *shape, generator=generator)
    x0 = x0 if threat.domain == "real" else x0.round()
    plugin, rng, index = RandomSearch(steps=8), Draws(seed, "x"), torch.arange(3)
    state, spent = plugin.init(x0, threat, rng, index), []
    for k in range(8):
        verify(state["x"], x0, threat, index.tolist(), "random search")
        change = (state["x"] - x0).flatten(1)
        spent.append(
            {"l0": (change != 0).sum(dim=1), "l1": change.abs().sum(dim=1), "l2": change.norm(dim=1)}[threat.norm]
        )
        state = plugin.step(state, None, torch.zeros(3), x0, torch.full((3,), k), threat, rng, index)
    room = {"l0": 30.0, "l1": 30 * (high - low) / 2, "l2": 99.0}[threat.norm]
    budget = threat.epsilon if threat.domain == "real" else threat.whole
    assert float(torch.stack(spent).float().median()) >= 0.8 * min(budget, room) * (1 - 1e-4)


@pytest.mark.parametrize("pool", [1, 7])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_batch_size_does_not_matter(pool: int, norm: Norm) -> None:
    threat = ThreatModel(norm, {"linf": 0.2, "l2": 1.0, "l1": 3.0, "l0": 4}[norm])
    whole, small = (run(tiny_model(), tiny_data(), RandomSearch(steps=10), threat, each) for each in (64, pool))
    assert torch.equal(whole["x"], small["x"])
    assert not torch.equal(whole["x"], tiny_data().x)


@dataclass(frozen=True)
class Strict(RandomSearch):
    """Rejects ties."""

    def step(self, state: State, gradient: Tensor | None, loss: Tensor, *others: Any) -> State:
        lower = torch.where(loss > state["loss"], loss, -torch.inf)
        return super().step(state, gradient, lower, *others)


def rate_coded() -> tuple[sr.SpikingModel, Dataset]:
    """A net of 64 inputs whose margin takes a handful of values, and samples that it gets right."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(64, 24, bias=False), nn.Linear(24, 2, bias=False)
    with torch.no_grad():
        for layer in linear:
            layer.weight.copy_(0.4 * torch.randn(layer.weight.shape, generator=generator))
    net = nn.Sequential(linear[0], neuron.IFNode(step_mode="m"), linear[1], neuron.IFNode(step_mode="m"))
    model = sr.wrap(net, steps=4, name="rate")
    x = torch.rand(400, 64, generator=generator)
    y = model.predict(model.logits(x)).detach()
    return model, Dataset.of(x[y >= 0][:60], y[y >= 0][:60])


def test_ties_are_accepted() -> None:
    model, data = rate_coded()
    threat = ThreatModel("linf", 0.15)
    loose, strict = (float(run(model, data, kind(150), threat)["margin"].mean()) for kind in (RandomSearch, Strict))
    assert loose < strict - 0.1, (loose, strict)


def test_it_never_asks_for_gradients() -> None:
    model, data = rate_coded()
    report = sr.evaluate(model, data, [sr.load("random-search", epsilon=[0.1, 0.3], steps=30)])
    for strength in range(2):
        cell = report.cell("rate", "random-search", strength)
        assert cell["forwards"].any()
        assert not cell["backwards"].any()
    first, last = report.curve("random-search").value
    assert last < first <= 1


@pytest.mark.parametrize(("domain", "high"), [("integer", 5.0), ("binary", 1.0)])
def test_events_move_by_whole_numbers(domain: Any, high: float) -> None:
    model = sr.wrap(nn.Linear(6, 2), layout="N", domain=domain, bounds=(0.0, high))
    x = torch.randint(int(high) + 1, (8, 6), generator=torch.Generator().manual_seed(0)).float()
    data = Dataset.of(x, model.logits(x).argmax(dim=1).detach())
    found = run(model, data, RandomSearch(steps=20), ThreatModel("linf", 1.0, (0.0, high), domain))
    assert torch.equal(found["x"], found["x"].round())
    assert float((found["x"] - x).abs().max()) == 1


def test_it_conforms() -> None:
    check_plugin("random-search", steps=5)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": 2.0}, {"share": 0.0}, {"share": 1.5}, {"exchange": -0.1}], ids=repr
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        RandomSearch(**wrong)
