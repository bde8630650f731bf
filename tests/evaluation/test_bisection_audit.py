"""The audit of a bisection: what a search that is not monotone does to it, and that it is found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import snnrobust as sr
from snnrobust.common.statistics import clopper_pearson
from snnrobust.evaluation import bisection
from snnrobust.plugin.task import Task
from snnrobust.results.records import Finding

Cells = Callable[[sr.Report, str], dict[str, np.ndarray]]

RADII = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
LIMIT = 0.35


@pytest.fixture
def shy(optimiser: Callable[..., Any], attack_task: Callable[..., Task]) -> Callable[..., Task]:
    """Makes an attack that goes the right way below a radius and nowhere from it on: success is not monotone."""

    def make(limit: float = LIMIT) -> Task:
        def move(at: Any) -> Tensor:
            step = at.threat.epsilon if at.threat.epsilon < limit else 0.0
            moved: Tensor = at.threat.project(at.x0 + step * at.gradient.sign(), at.x0)
            return moved

        return attack_task("shy", optimiser(f"shy from {limit}", move, steps=2), *RADII)

    return make


@pytest.fixture
def evaluate(line: Callable[..., Any]) -> Callable[..., sr.Report]:
    """Attacks a linear net of one input at samples of these distances from its boundary."""

    def run(distances: Any, task: Task, mode: Any = "bisect", **more: Any) -> sr.Report:
        return sr.evaluate(*line(distances), [task], mode=mode, **more)

    return run


def finding(report: sr.Report, name: str = "bisect-monotone") -> Finding:
    (found,) = [each for each in report.findings if each.name == name]
    return found


def test_a_search_that_is_not_monotone_is_found_out(
    evaluate: Callable[..., sr.Report], shy: Callable[..., Task], cells: Cells
) -> None:
    """Broken at .1, .2, .3 and at none above: the bisection looks at .4 and .6, and assumes the others."""
    blind = evaluate([0.05], shy(), evidence="none")
    assert blind.robust("shy").all()  # what the audit is for
    assert cells(blind, "shy")["assumed"][:, 0].tolist() == [True, True, True, False, True, False]
    report = evaluate([0.05], shy())
    assert cells(report, "shy")["audited"][:, 0].tolist() == [True, True, True, False, True, False]
    assert cells(report, "shy")["correct"][:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert not report.assumed("shy").any()
    assert not report.robust("shy").any()  # the breaks count
    found = finding(report)
    assert (found.passed, found.value, found.threshold, found.required) == (False, 0.75, 0.005, True)
    assert "3 of 4, in 1 of 1 samples" in found.why
    assert all("bisect-monotone" in claim.failed for claim in report.claims)


def test_lapses_are_counted_in_pairs_and_bounded_in_samples(
    evaluate: Callable[..., sr.Report], shy: Callable[..., Task], cells: Cells
) -> None:
    """200 samples out of reach and 5 that the search loses sight of; all of which are audited."""
    distances = [5.0] * 95 + [0.25] * 5
    report = evaluate(distances, shy())
    assert cells(report, "shy")["audited"].sum() == 400
    found = finding(report)
    assert found.value == 5 / 400
    assert found.passed is False
    assert f"5 of 400, in 5 of 100 samples (95 % interval: at most {clopper_pearson(5, 100)[1]:.1%}" in found.why
    assert report.robust("shy").mean(axis=1).tolist() == [1.0, 1.0, 0.95, 0.95, 0.95, 0.95]
    nested = evaluate(distances, shy(), mode="nested", evidence="none")
    assert np.array_equal(report.robust("shy"), nested.robust("shy"))


def test_a_search_that_is_monotone_passes(
    evaluate: Callable[..., sr.Report], shy: Callable[..., Task], cells: Cells
) -> None:
    report = evaluate(np.linspace(0.05, 0.65, 40), shy(limit=9.0))
    assert cells(report, "shy")["audited"].any()
    found = finding(report)
    assert (found.passed, found.value) == (True, 0.0)
    assert not any("bisect-monotone" in claim.failed + claim.missing for claim in report.claims)


def test_a_random_part_is_audited_and_the_rest_stays_assumed(
    evaluate: Callable[..., sr.Report], shy: Callable[..., Task], cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bisection, "AUDITED", 7)
    distances = [*np.linspace(0.05, 0.65, 30), 5.0, 0.01]
    found = [evaluate(distances, shy(limit=9.0), seed=seed) for seed in (0, 0, 1)]
    drawn = [cells(each, "shy")["audited"].any(axis=0) for each in found]
    assert all(each.sum() == 7 for each in drawn)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    whole = evaluate(distances, shy(limit=9.0), evidence="none")
    first = cells(found[0], "shy")
    marked = first["assumed"] | first["audited"]
    assert np.array_equal(marked, cells(whole, "shy")["assumed"])  # all that is assumed of a drawn sample is audited
    assert not (first["assumed"] & drawn[0]).any()
    assert (first["correct"][first["audited"]] >= 0).all()
    assert (first["correct"][first["assumed"]] == -1).all()


def test_what_was_assumed_at_epsilon_zero_shows_nothing(
    evaluate: Callable[..., sr.Report], cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = sr.load("pgd", epsilon=[0.0, *RADII[:-1]], steps=4)
    report = evaluate([5.0, 6.0], task)
    assert {each.passed for each in report.findings if each.name == "epsilon-zero"} == {True}
    monkeypatch.setattr(bisection, "AUDITED", 0)
    unaudited = evaluate([5.0, 6.0], task)
    assert (cells(unaudited, "pgd")["correct"][0] == -1).all()
    assert {each.passed for each in unaudited.findings if each.name == "epsilon-zero"} == {None}
    assert finding(unaudited).passed is None  # assumed, and nothing of it audited
    assert all("bisect-monotone" in claim.missing for claim in unaudited.claims)


def test_the_finding_is_explained(evaluate: Callable[..., sr.Report], shy: Callable[..., Task]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reporting.md").read_text(encoding="utf-8")
    assert f"| `{finding(evaluate([0.05], shy())).name}` |" in text


def test_other_modes_have_no_such_finding(evaluate: Callable[..., sr.Report], shy: Callable[..., Task]) -> None:
    for mode in ("nested", "exhaustive"):
        report = evaluate([0.05, 0.25], shy(), mode=mode)
        assert not [each for each in report.findings if each.name == "bisect-monotone"]
        assert not report.assumed("shy").any()
