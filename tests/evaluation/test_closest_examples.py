"""Minimum-norm members of ensembles: one search at the largest radius serves all, and says what each radius would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import snnrobust as sr
from snnrobust.evaluation.closest_examples import ClosestExamples
from snnrobust.search.attack_context import SearchResult
from snnrobust.testing.tiny import tiny_data, tiny_model

RADII = [1, 2, 4, 8]
SETTINGS: dict[str, Any] = {"norm": "l0", "objective": "margin", "epsilon": RADII}
MEMBER = {"name": "fewest-flips", "label": "fewest", "objective": "margin", "steps": 30}


def model() -> sr.SpikingModel:
    return sr.wrap(tiny_model(temporal=True).net, name="tiny", encoder=None, domain="binary")


def evaluated(task: sr.Task, mode: str = "nested", **more: Any) -> sr.Report:
    settings = {"evidence": "none", "progress": False, "examples": 40, **more}
    return sr.evaluate(model(), tiny_data(temporal=True, count=40), [task], mode=mode, **settings)


@pytest.mark.parametrize("mode", ["nested", "bisect", "exhaustive"])
def test_an_ensemble_of_one_finds_what_the_attack_alone_finds(mode: str) -> None:
    alone = evaluated(sr.load("fewest-flips", steps=30, **SETTINGS), "nested")
    together = evaluated(sr.load("union", norm="l0", epsilon=RADII, adaptive=[MEMBER]), mode)
    robust = alone.robust("fewest-flips")
    assert len(set(robust.sum(axis=1))) >= 3  # radii differ
    assert np.array_equal(robust, together.robust("union"))
    for radius in RADII:
        found = together.examples("union", radius)
        flips = (found.x != found.original).flatten(1).sum(dim=1)
        assert (flips[found.success] <= radius).all()
        assert not found.success[robust[RADII.index(radius)]].any()


def test_one_search_is_counted_once() -> None:
    alone = evaluated(sr.load("fewest-flips", steps=30, **SETTINGS))
    members = evaluated(sr.load("union", norm="l0", epsilon=RADII, adaptive=[MEMBER])).members("union")
    passes = alone.members("fewest-flips")[-1].forwards
    assert members[0].forwards > 0.7 * passes  # but those that are wrong without an attack
    scored_again = sum(each.attempted for each in members)
    assert sum(each.forwards for each in members) <= passes + 2 * scored_again
    assert sum(each.backwards for each in members[1:]) == 0


@pytest.mark.parametrize("batch_size", [7, None])
def test_no_outcome_depends_on_the_batch(batch_size: int | None) -> None:
    task = sr.load("standard", norm="l0", epsilon=RADII, steps=10, queries=40)
    one, other = evaluated(task), evaluated(task, batch_size=batch_size)
    assert np.array_equal(one.robust("standard"), other.robust("standard"))


def test_a_stochastic_model_is_searched_at_each_radius(poisson_model: Any) -> None:
    task = sr.load("union", norm="l0", epsilon=[1, 4], adaptive=[MEMBER | {"steps": 5}])
    report = sr.evaluate(poisson_model(), tiny_data(count=8), [task], evidence="none", progress=False)
    assert all(each.backwards > 0 for each in report.members("union"))


def test_examples_are_kept_as_changes() -> None:
    x0 = torch.rand(5, 3, 4)
    x = x0.clone()
    x[:, 1, 2] = 7.0
    rows, ids = torch.arange(5), torch.arange(5) + 10
    ones = torch.ones(5)
    found = SearchResult(
        rows, x, ones[:, None], *[ones] * 4, x, *[ones.long()] * 3, ones.bool(), ones.long(), ones.bool()
    )
    kept = ClosestExamples()
    assert not kept.known("search", ids).any()
    kept.put("search", ids, found, x0)
    assert kept.known("search", torch.tensor([12, 3])).tolist() == [True, False]
    assert not kept.known("another", ids).any()
    back = kept.get("search", ids[[3, 1]], torch.tensor([3, 1]), x0[[3, 1]])
    assert torch.equal(back.x, x[[3, 1]])
    assert torch.equal(back.last_x, back.x)
    assert back.rows.tolist() == [3, 1]
    assert not back.forwards.any()
    assert not back.backwards.any()
    assert torch.equal(back.margin, ones[:2])
