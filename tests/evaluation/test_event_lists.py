"""Evaluations of models on raw event lists: which attacks fit, and full evidence."""

from __future__ import annotations

import copy

import pytest

import snnrobust as sr
from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.testing.cases import cases


@pytest.fixture(scope="module")
def listed() -> tuple[sr.SpikingModel, Dataset]:
    """A small net behind a binning, with event lists that it gets right."""
    model, data = cases()[-1]
    return model, Dataset.of(data.x, model.predict(model.logits(data.x)).clamp_min(0).detach())


@pytest.mark.parametrize("name", ["flips", "pgd", "sda", "square"])
def test_attacks_on_grids_are_refused(name: str, listed: tuple[sr.SpikingModel, Dataset]) -> None:
    norm = "linf" if name in ("pgd", "square") else "l0"
    with pytest.raises(InputError, match="gumbel-events"):
        sr.evaluate(listed[0], listed[1], [sr.load(name, norm=norm, epsilon=2)])


def test_full_evidence_on_two_models(listed: tuple[sr.SpikingModel, Dataset]) -> None:
    model, data = listed
    other = sr.wrap(copy.deepcopy(model.net), steps=4, encoder=model.encoder, domain="events")
    tasks = [
        sr.load("gumbel-events", norm="l0", epsilon=[2], steps=3),
        sr.load("random-search", norm="l0", epsilon=[2], steps=5),
        sr.load("random-search", "moved", norm="shift-linf", epsilon=[2], steps=5),
    ]
    report = sr.evaluate({"one": model, "other": other}, data, tasks, evidence="full", progress=False)
    assert not {each.name for each in report.findings if each.passed is False and each.fatal}
    kinds = {each["kind"] for each in report.outcomes.run["evidence_tasks"]["one"]}
    assert {"noise", "transfer", "epsilon-zero"} <= kinds
    assert "estimators" not in kinds  # no member of `standard` has a gradient on event lists
