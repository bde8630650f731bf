"""Random search: a closed form, batch independence, ties, and no gradient anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.data import Dataset
from snnrobust.draws import Draws
from snnrobust.errors import InputError
from snnrobust.losses import Margin
from snnrobust.oracle import Oracle
from snnrobust.plugin import Optimiser, State
from snnrobust.problem import Found, Judge, Problem
from snnrobust.search import search
from snnrobust.spike_gradient import Own
from snnrobust.testing import check_plugin, tiny_data, tiny_model
from snnrobust.threat import Norm, ThreatModel
from snnrobust_attacks.optimisers.random_search import RandomSearch


def run(model: sr.SpikingModel, data: Dataset, plugin: Optimiser, threat: ThreatModel, pool: int = 64) -> Any:
    """Examples and margins of a search that never stops early, in the order of the data."""
    rng = Draws(0, "random-search")
    oracle = Oracle(model, Margin(), Own(), 1, rng.number(), None)
    problem = Problem(Judge(model, 0, 5), oracle, Margin(), data, threat, rng, pool, False, "random-search")
    found: list[Found] = []
    with model.session():
        search(problem, plugin, torch.arange(len(data)), found.append)
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


@pytest.mark.parametrize("pool", [1, 7])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_batch_size_does_not_matter(pool: int, norm: Norm) -> None:
    threat = ThreatModel(norm, {"linf": 0.2, "l2": 1.0, "l1": 3.0}[norm])
    whole, small = (run(tiny_model(), tiny_data(), RandomSearch(steps=10), threat, each) for each in (64, pool))
    assert torch.equal(whole["x"], small["x"])
    assert not torch.equal(whole["x"], tiny_data().x)


@dataclass(frozen=True)
class Strict(RandomSearch):
    """Throws ties away."""

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


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 2.0}, {"share": 0.0}, {"share": 1.5}], ids=repr)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        RandomSearch(**settings)
