"""What an audit gathers beside the numbers: which attacks, on which samples, at which radii."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snnrobust as sr
from snnrobust.common.batching import BatchSizer
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.evaluation.evidence_tasks import (
    FEW,
    SAMPLES,
    BallNoise,
    another_class,
    audited_rows,
    evidence_tasks,
    full_range,
    quoted,
)
from snnrobust.results.store import EVIDENCE, Store
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import spike_gradient_contexts
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.threat_models.verify import verify


def pgd(**settings: Any) -> sr.Task:
    return sr.load("pgd", **{"epsilon": [0.0, 0.1, 0.2], "steps": 7, **settings})


def gathered(*tasks: sr.Task, model: sr.SpikingModel | None = None, **others: sr.SpikingModel) -> dict[str, Any]:
    model = tiny_model() if model is None else model
    found = evidence_tasks(tasks, model, {model.name: model, **others}, 16)
    assert len({each.task.label for each in found}) == len(found)
    return {each.task.label: each for each in found}


def test_what_an_attack_needs() -> None:
    found = gathered(pgd())
    assert {each.kind for each in found.values()} == {
        "epsilon-zero", "full-range", "steps-50", "steps-100", "order", "estimators", "noise",
    }  # fmt: skip
    assert {label: each.task.strengths for label, each in found.items()} == {
        "pgd/epsilon-zero": (0.0,),
        "pgd/full-range": (1.0,),
        "pgd/steps-50": (0.1, 0.2),
        "pgd/steps-100": (0.1, 0.2),
        "pgd/order": (0.2,),
        "pgd/reversed": (0.2,),
        "linf/estimators": (0.1, 0.2),
        "linf/noise": (0.1, 0.2),
    }
    assert [found[f"pgd/steps-{n}"].task.plugin.steps for n in (50, 100)] == [50, 100]
    assert found["pgd/steps-50"].effort.stop is False  # for the last iterate
    assert found["pgd/reversed"].reverse
    assert found["pgd/reversed"].batch_size == 7
    assert found["pgd/order"].samples == found["pgd/full-range"].samples == FEW


def test_what_is_needed_only_sometimes(poisson_model: Callable[..., sr.SpikingModel]) -> None:
    other = sr.wrap(tiny_model().net, name="other", steps=4)
    assert "linf/transfer other" in gathered(pgd(), other=other)
    same = tiny_model()
    again = same.renamed("again")
    assert not [label for label in gathered(pgd(), model=same, again=again) if "transfer" in label]
    found = gathered(pgd(eot=3), model=poisson_model())
    assert found["pgd/eot"].task.attack.eot == 6
    assert found["linf/estimators"].task.attacks[0][1].eot == 3
    assert gathered(pgd(epsilon=0.0)) == {}
    assert gathered(sr.load("clean"), sr.load("gaussian", severity=0.1)) == {}
    blind = gathered(sr.load("random-search", epsilon=0.1))
    assert {"steps-50", "steps-100"} & {each.kind for each in blind.values()} == set()


def test_each_norm_has_rivals_of_its_own() -> None:
    found = gathered(pgd(), pgd(label="l2", norm="l2", epsilon=[0.5]))
    assert found["linf/estimators"].task.strengths == (0.1, 0.2)
    assert found["l2/estimators"].task.strengths == (0.5,)
    assert {attack.norm for _, attack in found["l2/estimators"].task.attacks} == {"l2"}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_what_is_gathered_fits_the_model(norm: Any) -> None:
    """Everything that is run later passes the checks that a user's own task would have to."""
    name = "flips" if norm == "l0" else "pgd"
    task, model, data = sr.load(name, norm=norm, epsilon=2.0), tiny_model(), tiny_data()
    split = EvaluationData(data, data, data, 4)
    for each in gathered(task, model=model, other=sr.wrap(tiny_model().net, name="other", steps=4)).values():
        for member, attack in each.task.attacks:
            spike_gradient_contexts(model.net, attack.gradient)
            if hasattr(member.plugin, "check"):
                member.plugin.check(model, split, member)


def test_binary_inputs_get_evidence_that_fits_them() -> None:
    model, data = tiny_model(temporal=True), tiny_data(temporal=True)
    split = EvaluationData(data, data, data, 4)
    for task in (sr.load("flips", norm="l0", epsilon=2), sr.load("pgd", epsilon=1.0)):
        for each in evidence_tasks([task], model, {"tiny": model}, 24):
            for member, attack in each.task.attacks:
                spike_gradient_contexts(model.net, attack.gradient)
                if hasattr(member.plugin, "check"):
                    member.plugin.check(model, split, member)


def test_a_net_without_known_nodes_gets_the_evidence_that_it_can_have(standard_members: Callable[..., None]) -> None:
    members = [{"name": "pgd", "label": g, "gradient": g, "steps": 3} for g in ("own", "atan")]
    standard_members(members)
    torch.manual_seed(0)
    model = sr.wrap(nn.Sequential(nn.Flatten(1), nn.Linear(16, 3)), layout="N", name="linear")
    report = sr.evaluate(model, tiny_data(), [pgd(epsilon=0.1)], evidence="full")
    (estimators,) = [each for each in report.run["evidence_tasks"]["linear"] if each["kind"] == "estimators"]
    assert [each["label"] for each in estimators["task"]["members"]] == ["own", "atan"]
    assert list(report.run["skipped"]["linear"]) == ["atan"]
    assert "surrogate-gap" in report.claims[0].missing  # there is no other estimator, and none is claimed


def test_quoted() -> None:
    one, several = sr.load("fgsm", epsilon=0.1), pgd()
    both = sr.load("standard", epsilon=0.1)
    blind = sr.load("random-search", epsilon=0.1)
    noise = sr.load("gaussian", severity=0.1)
    assert quoted([sr.load("clean"), noise, one, several, both, blind]) == [both]
    assert quoted([one, several, blind, noise]) == [several]
    assert quoted([one, blind, noise]) == [one, blind]
    transferred = pgd(label="transferred", source="other")
    assert quoted([several, transferred]) == [several]  # another model's examples are no bound to quote
    assert quoted([transferred]) == [transferred]
    assert quoted([noise]) == []


def test_the_audited_samples_are_random_fixed_and_keyed() -> None:
    x = torch.rand(500, 1, 4, 4)
    data = Dataset.of(x, torch.zeros(500, dtype=torch.long))
    rows = audited_rows(data, 0)
    assert len(rows) == len(set(rows.tolist())) == SAMPLES
    assert torch.equal(rows, audited_rows(data, 0))
    assert not torch.equal(rows, audited_rows(data, 1))
    assert not torch.equal(rows, torch.arange(SAMPLES))
    # A sample's place depends on its id, not on where it stands in the data.
    turned = data.select(torch.arange(499, -1, -1).tolist())
    assert torch.equal(turned.index[audited_rows(turned, 0)], data.index[rows])
    few = audited_rows(data.take(30), 0)
    assert sorted(few.tolist()) == list(range(30))


def test_rows_of_an_exhibit() -> None:
    rows = torch.tensor([5, 3, 8, 1])
    found = gathered(pgd())["pgd/order"]
    assert replace(found, samples=3).rows(rows).tolist() == [5, 3, 8]
    assert replace(found, samples=3, reverse=True).rows(rows).tolist() == [8, 3, 5]


@pytest.mark.parametrize(("norm", "radius"), [("linf", 2.0), ("l2", 8.0), ("l1", 32.0), ("l0", 16)])
def test_the_full_range_allows_every_input(norm: Any, radius: float) -> None:
    assert full_range(norm, (-1.0, 1.0), 16) == radius
    low, high = torch.full((1, 1, 4, 4), -1.0), torch.full((1, 1, 4, 4), 1.0)
    verify(high, low, ThreatModel(norm, radius, (-1.0, 1.0)), [0], "corner")
    with pytest.raises(sr.ViolationError):
        verify(high, low, ThreatModel(norm, 0.9 * radius, (-1.0, 1.0)), [0], "corner")


def test_noise_stays_in_the_ball_and_the_box() -> None:
    from snnrobust.common.random import Draws

    x, index = torch.rand(20, 1, 4, 4), torch.arange(20)
    ball = BallNoise(ThreatModel("l2", 0.0))
    noisy = ball.apply(x, 0.5, Draws(0, "noise"), index)
    verify(noisy, x, ThreatModel("l2", 0.5), index.tolist(), "noise")
    assert not torch.equal(noisy, x)
    assert torch.equal(noisy[3:4], ball.apply(x[3:4], 0.5, Draws(0, "noise"), index[3:4]))


def test_another_class() -> None:
    """Another class is shown in each sample's place: one that the net gets right, where there is such a one."""
    model, data = tiny_model(), tiny_data(count=20)
    judge, pool = Scorer(model, 0, 1), BatchSizer(8)
    right = np.ones(20, dtype=bool)
    assert another_class(data, right, judge, pool)["correct"].tolist() == [0] * 20
    alike = data.select((data.y == data.y[0]).nonzero()[:, 0].tolist())
    assert set(another_class(alike, np.ones(len(alike), dtype=bool), judge, pool)["correct"].tolist()) == {-1}
    one = (data.y == data.y[0]).numpy()
    assert another_class(data, one, judge, pool)["correct"].tolist() == [0] * 20  # shown although not held to be right


def test_members_and_radii_of_the_evidence_are_tried_on_every_sample(standard_members: Callable[..., None]) -> None:
    """No cascade and nothing carried: each can be compared with each other, sample by sample."""
    members = [{"name": "pgd", "label": g, "gradient": g, "steps": 3} for g in ("own", "atan")]
    standard_members(members)
    report = sr.evaluate(tiny_model(), tiny_data(count=10), [pgd()], evidence="full")
    for k in (0, 1):
        cell = report.cell("tiny", EVIDENCE + "linf/estimators", k)
        assert (cell["member_correct"] >= 0).all()
        assert (cell["member_correct"] == 0).any()
        assert (cell["member_forwards"] > 0).all()


def test_evidence_is_kept_and_not_gathered_again(
    standard_members: Callable[..., None], forbid: Callable[..., None], tmp_path: Any
) -> None:
    members = [{"name": "pgd", "label": "own", "steps": 3}]
    standard_members(members)
    first = sr.evaluate(tiny_model(), tiny_data(), [pgd(epsilon=0.1)], evidence="full", out=tmp_path)

    forbid(Store, "save_cell", "a cell was computed again")
    again = sr.evaluate(tiny_model(), tiny_data(), [pgd(epsilon=0.1)], evidence="full", out=tmp_path)
    assert again.claims == first.claims
    assert sr.Report.load(tmp_path).verdict == first.verdict
