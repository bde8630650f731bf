"""The audit of a bisection: what a search that is not monotone does to it, and that it is found out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.common.statistics import clopper_pearson
from snnrobust.data import Dataset
from snnrobust.evaluation import bisection
from snnrobust.plugin import State
from snnrobust.plugin.task import Attack, Task
from snnrobust.results.records import Finding
from snnrobust.threat_models.lp import ThreatModel

RADII = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
LIMIT = 0.35


@dataclass(frozen=True)
class Shy:
    """Goes the right way at radii below `limit` and stays where it is at larger ones: success is not monotone."""

    limit: float = LIMIT
    steps: int = 2
    needs: ClassVar[Literal["gradient"]] = "gradient"

    def init(self, x0: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        return {"x": x0.clone()}

    def step(
        self,
        state: State,
        gradient: Tensor,
        loss: Tensor,
        x0: Tensor,
        k: Tensor,
        threat: ThreatModel,
        rng: Draws,
        index: Tensor,
    ) -> State:
        step = threat.epsilon if threat.epsilon < self.limit else 0.0
        return {"x": threat.project(x0 + step * gradient.sign(), x0)}


def shy(limit: float = LIMIT) -> Task:
    factors = Attack("linf", sr.create("cross_entropy"), sr.create("own"), 1, 1)
    return Task("shy", "shy", "attack", "test", Shy(limit), RADII, factors)


def line(distances: Any) -> tuple[sr.SpikingModel, Dataset]:
    """A linear net, and a sample at each L-inf distance from its boundary."""
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0], [-1.0]])
    x = torch.tensor(distances, dtype=torch.float32)[:, None]
    data = Dataset.of(x, torch.zeros(len(x), dtype=torch.long))
    return sr.wrap(layer, layout="N", bounds=(-10.0, 10.0), name="line"), data


def evaluate(distances: Any, task: Task, mode: Any = "bisect", **more: Any) -> sr.Report:
    return sr.evaluate(*line(distances), [task], mode=mode, **more)


def cells(report: sr.Report, name: str) -> np.ndarray:
    label = report.labels("attack")[0]
    return np.stack([report.cell(report.models[0], label, k)[name] for k in range(len(RADII))])


def finding(report: sr.Report, name: str = "bisect-monotone") -> Finding:
    (found,) = [each for each in report.findings if each.name == name]
    return found


def test_a_search_that_is_not_monotone_is_found_out() -> None:
    """Broken at .1, .2, .3 and at none above: the bisection looks at .4 and .6, and assumes the others."""
    blind = evaluate([0.05], shy(), evidence="none")
    assert blind.robust("shy").all()  # what the audit is for
    assert cells(blind, "assumed")[:, 0].tolist() == [True, True, True, False, True, False]
    report = evaluate([0.05], shy())
    assert cells(report, "audited")[:, 0].tolist() == [True, True, True, False, True, False]
    assert cells(report, "correct")[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert not report.assumed("shy").any()
    assert not report.robust("shy").any()  # the breaks count
    found = finding(report)
    assert (found.passed, found.value, found.threshold, found.required) == (False, 0.75, 0.005, True)
    assert "3 of 4, in 1 of 1 samples" in found.why
    assert all("bisect-monotone" in claim.failed for claim in report.claims)


def test_lapses_are_counted_in_pairs_and_bounded_in_samples() -> None:
    """200 samples out of reach and 5 that the search loses sight of; all of which are audited."""
    distances = [5.0] * 95 + [0.25] * 5
    report = evaluate(distances, shy())
    assert cells(report, "audited").sum() == 400
    found = finding(report)
    assert found.value == 5 / 400
    assert found.passed is False
    assert f"5 of 400, in 5 of 100 samples (95 % interval: at most {clopper_pearson(5, 100)[1]:.1%}" in found.why
    assert report.robust("shy").mean(axis=1).tolist() == [1.0, 1.0, 0.95, 0.95, 0.95, 0.95]
    nested = evaluate(distances, shy(), mode="nested", evidence="none")
    assert np.array_equal(report.robust("shy"), nested.robust("shy"))


def test_a_search_that_is_monotone_passes() -> None:
    report = evaluate(np.linspace(0.05, 0.65, 40), shy(limit=9.0))
    assert cells(report, "audited").any()
    found = finding(report)
    assert (found.passed, found.value) == (True, 0.0)
    assert not any("bisect-monotone" in claim.failed + claim.missing for claim in report.claims)


def test_a_random_part_is_audited_and_the_rest_stays_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bisection, "AUDITED", 7)
    distances = [*np.linspace(0.05, 0.65, 30), 5.0, 0.01]
    found = [evaluate(distances, shy(limit=9.0), seed=seed) for seed in (0, 0, 1)]
    drawn = [cells(each, "audited").any(axis=0) for each in found]
    assert all(each.sum() == 7 for each in drawn)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    whole = evaluate(distances, shy(limit=9.0), evidence="none")
    marked = cells(found[0], "assumed") | cells(found[0], "audited")
    assert np.array_equal(marked, cells(whole, "assumed"))  # all that is assumed of a drawn sample is audited
    assert not (cells(found[0], "assumed") & drawn[0]).any()
    assert (cells(found[0], "correct")[cells(found[0], "audited")] >= 0).all()
    assert (cells(found[0], "correct")[cells(found[0], "assumed")] == -1).all()


def test_what_was_assumed_at_epsilon_zero_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task = sr.load("pgd", epsilon=[0.0, *RADII[:-1]], steps=4)
    report = evaluate([5.0, 6.0], task)
    assert {each.passed for each in report.findings if each.name == "epsilon-zero"} == {True}
    monkeypatch.setattr(bisection, "AUDITED", 0)
    unaudited = evaluate([5.0, 6.0], task)
    assert (cells(unaudited, "correct")[0] == -1).all()
    assert {each.passed for each in unaudited.findings if each.name == "epsilon-zero"} == {None}
    assert finding(unaudited).passed is None  # assumed, and nothing of it audited
    assert all("bisect-monotone" in claim.missing for claim in unaudited.claims)


def test_the_finding_is_explained() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reporting.md").read_text(encoding="utf-8")
    assert f"| `{finding(evaluate([0.05], shy())).name}` |" in text


def test_other_modes_have_no_such_finding() -> None:
    for mode in ("nested", "exhaustive"):
        report = evaluate([0.05, 0.25], shy(), mode=mode)
        assert not [each for each in report.findings if each.name == "bisect-monotone"]
        assert not report.assumed("shy").any()
