"""The loop: closed forms, enumeration, pool invariance, nested against exhaustive."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.batching import BatchSizer
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.objectives.logits import CrossEntropy, Margin
from snnrobust.plugin import Optimiser, State
from snnrobust.search.attack_context import AttackContext, SearchResult
from snnrobust.search.loop import search
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust_attacks.optimisers.fgsm import FGSM
from snnrobust_attacks.optimisers.pgd import PGD


def linear_model(features: int = 6, classes: int = 2) -> sr.SpikingModel:
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(features, classes).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, features, generator=generator))
        layer.bias.copy_(torch.randn(classes, generator=generator))
    return sr.wrap(layer, layout="N", bounds=(-100.0, 100.0), name="linear")


def run(
    model: sr.SpikingModel,
    data: Dataset,
    plugin: Optimiser,
    threat: ThreatModel,
    *,
    pool: int = 64,
    stop: bool = False,
    label: str = "test",
) -> dict[str, Tensor]:
    """All outcomes of a search in the order of the data."""
    rng = Draws(0, label)
    objective = Margin()
    queries = ModelQueries(model, objective, Own(), first_draw=rng.number())
    context = AttackContext(Scorer(model, 0, 5), queries, data, threat, rng, BatchSizer(pool), stop, label)
    found: list[SearchResult] = []
    with model.session():
        search(context, plugin, torch.arange(len(data)), found.append)
    rows = torch.cat([each.rows for each in found])
    assert sorted(rows.tolist()) == list(range(len(data)))
    order = rows.argsort()
    names = ("x", "last_x", "withstands", "margin", "forwards", "backwards", "disagreements")
    return {name: torch.cat([getattr(each, name) for each in found])[order] for name in names}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("optimiser", [FGSM(), PGD(steps=20, step_size=0.1)], ids=repr)
def test_linear_model_closed_form(norm: str, optimiser: Optimiser) -> None:
    """On a linear model the least margin in a ball is margin - epsilon |w_true - w_other|_dual."""
    model = linear_model()
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    data = Dataset.of(x, model.logits(x).argmax(dim=1).detach(), name="linear")
    epsilon = 0.05
    found = run(model, data, optimiser, ThreatModel(norm, epsilon, (-100.0, 100.0)))
    layer = model.net
    assert isinstance(layer, nn.Linear)
    difference = layer.weight[0] - layer.weight[1]
    dual = {"linf": difference.abs().sum(), "l2": difference.norm(), "l1": difference.abs().max()}[norm]
    logits = model.logits(x)
    margins = (logits.gather(1, data.y[:, None]) - logits.gather(1, 1 - data.y[:, None]))[:, 0]
    gain = (margins.detach() - found["margin"]) / (epsilon * dual.detach())
    assert float(gain.min()) > 0.99, gain
    assert float(gain.max()) < 1 + 1e-6, gain


@pytest.mark.parametrize("pool", [1, 7])
@pytest.mark.parametrize("stop", [True, False])
def test_pool_size_does_not_matter(pool: int, stop: bool) -> None:
    model, data = tiny_model(), tiny_data(count=40)
    threat = ThreatModel("linf", 0.15)
    whole, small = (run(model, data, PGD(steps=8), threat, pool=p, stop=stop) for p in (64, pool))
    for name in ("withstands", "forwards", "backwards"):
        assert torch.equal(whole[name], small[name]), name
    assert torch.allclose(whole["x"], small["x"], atol=1e-6)
    assert 0 < int(whole["withstands"].sum()) < len(data)


def test_search_stops_at_first_success_and_counts_its_cost() -> None:
    model, data = tiny_model(), tiny_data(count=40)
    threat = ThreatModel("linf", 0.15)
    nested, full = (run(model, data, PGD(steps=8), threat, stop=stop) for stop in (True, False))
    assert torch.equal(nested["withstands"], full["withstands"])
    assert torch.all(full["backwards"] == 8)
    assert torch.all(nested["backwards"][nested["withstands"]] == 8)
    assert nested["backwards"].sum() < full["backwards"].sum()
    assert not nested["disagreements"].any()


def test_binary_search_finds_what_enumeration_finds() -> None:
    """On binary inputs under L-inf 1 every input is allowed: the attack may only claim classes that exist."""
    model = sr.wrap(_binary_net(), name="bits", layout="N", domain="binary")
    points = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    labels = model.logits(points).argmax(dim=1).detach()
    data = Dataset.of(points, labels, name="bits")
    found = run(model, data, PGD(steps=20), ThreatModel("linf", 1.0, (0.0, 1.0), "binary"))
    assert torch.equal(found["x"], found["x"].round())
    reachable = len(set(labels.tolist())) > 1
    assert reachable
    assert float((~found["withstands"]).float().mean()) > 0.9  # every sample is breakable under this budget
    scored = model.logits(found["x"]).argmax(dim=1)
    assert torch.equal(scored == data.y, found["withstands"])


def _binary_net() -> nn.Module:
    layer = nn.Linear(6, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 6, generator=torch.Generator().manual_seed(5)))
        layer.bias.zero_()
    return layer


@dataclass(frozen=True)
class Walk:
    """A gradient-free optimiser with state of its own: keeps a running best loss."""

    steps: int = 12
    needs: ClassVar[Literal["loss"]] = "loss"

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        floor = torch.full((len(x0),), -torch.inf, dtype=x0.dtype)
        return {"x": x0.clone(), "best": x0.clone(), "loss": floor}

    def step(
        self,
        state: State,
        gradient: Tensor | None,
        loss: Tensor,
        x0: Tensor,
        k: Tensor,
        threat: ThreatModel,
        rng: Draws,
        index: Tensor,
    ) -> State:
        assert gradient is None
        better = (loss >= state["loss"]).reshape(-1, *[1] * (x0.ndim - 1))
        best = torch.where(better, state["x"], state["best"])
        noise = rng.uniform(index, x0.shape[1:], k, -threat.epsilon, threat.epsilon)
        return {"x": threat.project(best + noise, x0), "best": best, "loss": torch.maximum(loss, state["loss"])}


def test_optimisers_without_gradients_are_pool_invariant_too() -> None:
    model, data = tiny_model(), tiny_data(count=30)
    threat = ThreatModel("linf", 0.3)
    whole, small = (run(model, data, Walk(), threat, pool=p, stop=True) for p in (64, 7))
    assert torch.equal(whole["x"], small["x"])
    assert not whole["backwards"].any()
    assert int((~whole["withstands"]).sum()) > 0


def test_sequences_keep_their_padding() -> None:
    model = tiny_model(temporal=True)
    plain = tiny_data(temporal=True, count=8)
    lengths = torch.tensor([1, 2, 3, 4, 1, 2, 3, 4])
    y = model.logits(plain.x, lengths=lengths).argmax(dim=1).detach()
    data = Dataset.of(plain.x, y, lengths=lengths, name="sequences")
    rng = Draws(0, "padded")
    queries = ModelQueries(model, CrossEntropy(), Own())
    threat = ThreatModel("linf", 1.0, (0.0, 1.0), "binary")
    context = AttackContext(Scorer(model, 0, 1), queries, data, threat, rng, BatchSizer(3), False, "padded")
    found: list[SearchResult] = []
    with model.session():
        search(context, PGD(steps=3), torch.arange(8), found.append)
    changed = 0
    for each in found:
        for row, x in zip(each.rows.tolist(), each.last_x, strict=True):
            assert torch.equal(x[lengths[row] :], plain.x[row, lengths[row] :])
            changed += int((x != plain.x[row]).sum())
    assert changed > 0


def test_nested_equals_exhaustive_carried_forward() -> None:
    data = tiny_data(count=60)
    tasks = [
        sr.load("pgd", epsilon=[0.0, 0.02, 0.05, 0.1, 0.2, 0.4], steps=6, restarts=2),
        sr.load("fgsm", epsilon=[0.1, 0.3]),
    ]
    nested, full = (sr.evaluate(tiny_model(), data, tasks, mode=mode) for mode in ("nested", "exhaustive"))
    for label in ("pgd", "fgsm"):
        assert np.array_equal(nested.robust(label), full.robust(label))
    values = nested.curve("pgd").value
    assert values[0] == 1.0
    assert values[-1] < values[1]
    assert all(a >= b for a, b in itertools.pairwise(values))


def test_restarts_find_at_least_as_much() -> None:
    data = tiny_data(count=60)
    tasks = [sr.load("pgd", label=f"r{r}", epsilon=0.1, steps=2, restarts=r) for r in (1, 6)]
    report = sr.evaluate(tiny_model(), data, tasks)
    assert report.curve("r6").value[0] < report.curve("r1").value[0]
