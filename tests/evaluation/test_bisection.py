"""Bisection over radii: against closed forms and against the nested run, what it costs, and what it is not for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.evaluation.bisection import why_not_bisected
from snnrobust.plugin import Queries
from snnrobust.plugin.task import AttackSettings, Task
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel

Line = tuple[sr.SpikingModel, Dataset]
Cells = Callable[[sr.Report, str], dict[str, np.ndarray]]

RADII = [0.0, 0.02, 0.05, 0.1, 0.15, 0.2]
ENSEMBLE: list[dict[str, Any]] = [
    {"name": "fgsm", "label": "first"},
    {"name": "pgd", "label": "second", "steps": 6, "gradient": "atan", "restarts": 2},
]


@pytest.fixture(scope="session")
def five(line: Callable[..., Line]) -> Callable[[Any], Line]:
    """Makes a linear net of five inputs, and a sample at each distance from its boundary."""
    return partial(line, gap=(1.0, -2.0, 0.5, 3.0, -1.5), dtype=torch.float64)


def pgd(radii: Any, **more: Any) -> Task:
    return sr.load("pgd", epsilon=radii, **{"steps": 4, **more})


def bisected(model: Any, data: Any, tasks: Any, **more: Any) -> sr.Report:
    return sr.evaluate(model, data, tasks, mode="bisect", **{"evidence": "none", **more})


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8, 15, 16])
def test_every_outcome_is_found_in_the_fewest_searches(five: Callable[[Any], Line], cells: Cells, count: int) -> None:
    """A sample for each of the m + 1 outcomes of m radii."""
    radii = [0.1 * (k + 1) for k in range(count)]
    model, data = five([0.1 * k + 0.05 for k in range(count + 1)])
    report = bisected(model, data, [pgd(radii)])
    kept = np.arange(count)[:, None] < np.arange(count + 1)  # (strength, sample)
    assert np.array_equal(report.robust("pgd"), kept)
    found = cells(report, "pgd")
    tried = found["correct"] >= 0
    assert tried.sum(axis=0).max() == math.ceil(math.log2(count + 1))
    assert np.array_equal(found["forwards"] > 0, tried)
    assert np.array_equal(np.isnan(found["margin"]), ~tried)
    assert np.array_equal(found["assumed"], kept & ~tried)
    assert np.array_equal(report.assumed("pgd"), kept & ~tried)
    assert not found["audited"].any()


@settings(max_examples=15, deadline=None)
@given(
    radii=st.lists(st.floats(0.01, 2.0), min_size=3, max_size=9, unique=True),
    distances=st.lists(st.floats(0.02, 2.5), min_size=1, max_size=12),
)
def test_the_curve_is_that_of_the_closed_form_and_of_the_nested_run(
    five: Callable[[Any], Line], cells: Cells, radii: list[float], distances: list[float]
) -> None:
    model, data = five(distances)
    task = pgd(radii)
    one, other = bisected(model, data, [task]), sr.evaluate(model, data, [task], evidence="none")
    assert np.array_equal(one.robust("pgd"), other.robust("pgd"))
    apart = np.subtract.outer(np.sort(radii), np.array(distances))  # (strength, sample)
    clear = np.abs(apart) > 1e-4
    assert np.array_equal(one.robust("pgd")[clear], (apart < 0)[clear])
    tried, nested = cells(one, "pgd")["correct"] >= 0, cells(other, "pgd")["correct"]
    assert tried.sum(axis=0).max() <= math.ceil(math.log2(len(radii) + 1))
    both = tried & (nested >= 0)
    assert np.array_equal(cells(one, "pgd")["correct"][both], nested[both])  # the same search, wherever both made it


@pytest.mark.parametrize("task", [pgd(RADII, steps=8), sr.load("union", label="pgd", epsilon=RADII, adaptive=ENSEMBLE)])
def test_a_spiking_net_is_never_below_the_nested_run_and_as_it_where_all_is_audited(cells: Cells, task: Task) -> None:
    data = tiny_data(count=40)
    nested = sr.evaluate(tiny_model(), data, [task], evidence="none")
    blind, audited = (bisected(tiny_model(), data, [task], evidence=evidence) for evidence in ("none", "basic"))
    assert 0.2 < nested.robust("pgd").mean() < 0.8
    assert not (nested.robust("pgd") & ~blind.robust("pgd")).any()
    apart = (blind.robust("pgd") != nested.robust("pgd")).mean()
    assert apart < 0.02, apart  # such a net has gaps that a search falls into
    assert np.array_equal(audited.robust("pgd"), nested.robust("pgd"))
    assert audited.curve("pgd").attribution == nested.curve("pgd").attribution
    found, before = cells(blind, "pgd"), cells(nested, "pgd")
    both = (found["correct"] >= 0) & (before["correct"] >= 0)
    assert np.array_equal(found["correct"][both], before["correct"][both])
    assert found["backwards"].sum() < 0.8 * before["backwards"].sum()
    for name in ("forwards", "backwards"):
        assert np.array_equal(found[f"member_{name}"].sum(axis=1), found[name])


def test_an_ensemble_cascades_at_each_radius(cells: Cells) -> None:
    task = sr.load("union", epsilon=RADII, adaptive=ENSEMBLE)
    found = cells(bisected(tiny_model(), tiny_data(count=40), [task]), "union")
    first, second = (found["member_correct"][:, m] for m in range(2))
    assert np.array_equal(second >= 0, first == 1)
    assert np.array_equal(found["correct"] >= 0, first >= 0)
    assert ((first == 1) & (second == 0)).any()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("evidence", ["none", "basic"])
def test_outcomes_do_not_depend_on_the_pool(cells: Cells, batch_size: int, evidence: Any) -> None:
    data, task = tiny_data(count=30), pgd(RADII, restarts=2)
    whole = bisected(tiny_model(), data, [task], evidence=evidence)
    small = bisected(tiny_model(), data, [task], evidence=evidence, batch_size=batch_size)
    one, other = cells(whole, "pgd"), cells(small, "pgd")
    for name in ("correct", "assumed", "audited", "forwards", "backwards", "member"):
        assert np.array_equal(one[name], other[name])


def test_samples_that_are_wrong_when_clean_are_left_alone(five: Callable[[Any], Line], cells: Cells) -> None:
    model, data = five([0.15, 0.25, 0.35])
    wrong = Dataset.of(data.x, torch.tensor([0, 1, 0]))
    found = cells(bisected(model, wrong, [pgd([0.1, 0.2, 0.3])], evidence="basic"), "pgd")
    assert (found["correct"][:, 1] == -1).all()
    assert not found["assumed"][:, 1].any() | found["audited"][:, 1].any()
    ones = Dataset.of(data.x, torch.ones(3, dtype=torch.long))
    nothing = cells(bisected(model, ones, [pgd([0.1, 0.2, 0.3])]), "pgd")
    assert (nothing["correct"] == -1).all()


@dataclass(frozen=True)
class OwnLoop:
    """An attack that owns its loop."""

    def perturb(self, queries: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        gradient = queries.gradient(x, y, index)[0]
        return threat.project(x + threat.epsilon * gradient.sign(), x)


def own_loop() -> Task:
    factors = AttackSettings("linf", sr.create("cross_entropy"), sr.create("own"), 1, 1)
    return Task("own-loop", "own-loop", "attack", "test", OwnLoop(), (0.05, 0.1, 0.2), factors)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (sr.load("fgsm", epsilon=RADII), "several steps"),
        (pgd(RADII, steps=1), "several steps"),
        (pgd(RADII, source="other"), "several steps"),
        (pgd([0.1, 0.2]), "fewer than 3"),
        (own_loop(), "owns its loop"),
        (sr.load("minimum-norm", epsilon=RADII, steps=5), "one search serves"),
        (sr.load("gaussian", severity=[0.1, 0.2, 0.3]), "no search"),
        (sr.load("union", epsilon=RADII, adaptive=[{"name": "fgsm"}]), "several steps"),
    ],
    ids=lambda each: each.label if isinstance(each, Task) else None,
)
def test_what_can_not_be_bisected_runs_as_nested_and_the_run_says_so(cells: Cells, task: Task, why: str) -> None:
    data, sources = tiny_data(count=12), {"other": tiny_model().renamed("other")}
    runs = [
        sr.evaluate(tiny_model(), data, [task], mode=mode, evidence="none", sources=sources)
        for mode in ("bisect", "nested")
    ]
    (reason,) = runs[0].run["not_bisected"]["tiny"].values()
    assert why in reason
    assert "not_bisected" not in runs[1].run
    one, other = (cells(each, task.label) for each in runs)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
    if task.kind == "attack":
        assert not runs[0].bisected(task.label)
        assert runs[0].curve(task.label) == runs[1].curve(task.label)


def test_a_stochastic_model_runs_as_nested(poisson_model: Callable[..., sr.SpikingModel]) -> None:
    report = bisected({"poisson": poisson_model(), "plain": tiny_model()}, tiny_data(count=8), [pgd(RADII, steps=2)])
    assert "stochastic" in report.run["not_bisected"]["poisson"]["pgd"]
    assert report.run["not_bisected"]["plain"] == {}
    assert not report.bisected("pgd", "poisson")
    assert report.bisected("pgd", "plain")


def test_an_ensemble_needs_a_search_of_several_steps_that_the_model_allows() -> None:
    task = sr.load("union", epsilon=RADII, adaptive=ENSEMBLE)
    assert why_not_bisected(task, tiny_model()) is None
    assert "several steps" in str(why_not_bisected(task, tiny_model(), frozenset({"second"})))
    assert why_not_bisected(sr.load("standard", epsilon=RADII), tiny_model()) is None
