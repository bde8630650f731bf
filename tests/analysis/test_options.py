"""Options of a report that don't exist are refused, with the ones that do."""

from __future__ import annotations

from typing import Any

import pytest

import snnrobust as sr
from snnrobust.testing.tiny import tiny_data, tiny_model


@pytest.fixture(scope="module", params=["nested", "exhaustive", "bisect"])
def report(request: pytest.FixtureRequest) -> sr.Report:
    tasks = [sr.load("pgd", epsilon=[0.05, 0.1, 0.2], steps=2), sr.load("gaussian", severity=0.1, draws=2)]
    return sr.evaluate(tiny_model(), tiny_data(), tasks, evidence="none", mode=request.param, progress=False)


@pytest.mark.parametrize("sense", ["last", "last_iterate", "nonsense", "mean over draws", 5])
def test_an_unknown_sense_of_an_attack(report: sr.Report, sense: Any) -> None:
    with pytest.raises((sr.InputError, sr.InputTypeError), match=r"sense .*any-iterate"):
        report.curve("pgd", sense=sense)


@pytest.mark.parametrize("sense", ["last-iterate", "any-iterate", 5])
def test_an_unknown_sense_of_noise(report: sr.Report, sense: Any) -> None:
    with pytest.raises((sr.InputError, sr.InputTypeError), match=r"sense .*mean over draws"):
        report.curve("gaussian", sense=sense)


def test_the_senses_that_there_are(report: sr.Report) -> None:
    mode = report.run["mode"]
    assert report.curve("gaussian", sense="mean over draws") == report.curve("gaussian")
    assert report.curve("pgd", sense="any-iterate") == report.curve("pgd")
    assert report.curve("pgd", sense=report.curve("pgd").sense) == report.curve("pgd")
    if mode == "exhaustive":
        assert report.curve("pgd", sense="last-iterate").sense == "last-iterate"
    else:
        with pytest.raises(sr.InputError, match="mode='exhaustive'"):
            report.curve("pgd", sense="last-iterate")
    if mode != "bisect":
        with pytest.raises(sr.InputError, match="sense"):
            report.curve("pgd", sense="any-iterate, bisect")


def test_other_options(report: sr.Report) -> None:
    with pytest.raises(sr.InputError, match=r"by .*'correct', 'voted'.*did you mean 'voted'"):
        report.robust("pgd", by="vote")  # type: ignore[arg-type]
    with pytest.raises(sr.InputError, match=r"kind .*did you mean 'attack'"):
        report.labels("attacks")
    assert report.labels("attack") == ["pgd"]
    assert report.robust("pgd", by="voted").shape == (3, 12)
