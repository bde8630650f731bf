"""Turns of members and restarts: what a cascade spares, what is counted, and going on after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.batching import BatchSizer
from snnrobust.common.progress import Progress
from snnrobust.data import Dataset
from snnrobust.evaluation.attack_cell import AttackCell, searches_of
from snnrobust.evaluation.attack_outcomes import at_smaller_radius
from snnrobust.evaluation.cell_context import CellContext
from snnrobust.evaluation.cell_runner import CellRunner
from snnrobust.evaluation.settings import EXHAUSTIVE, FACTORIAL, NESTED, EvaluationSettings
from snnrobust.results.store import Store
from snnrobust.search.execution import CheckInputs
from snnrobust.search.queries import ModelQueries
from snnrobust.search.scoring import Scorer
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust_attacks.estimators.atan import ATan
from snnrobust_attacks.estimators.per_module import Modules
from snnrobust_attacks.estimators.sigmoid import Sigmoid

RADII = [0.05, 0.1, 0.2]
MEMBERS: list[dict[str, Any]] = [
    {"name": "fgsm", "label": "first"},
    {"name": "pgd", "label": "second", "steps": 4, "gradient": "atan", "restarts": 2},
    {"name": "random-search", "label": "third", "steps": 8},
]


def several(*members: dict[str, Any], epsilon: Any = RADII, **more: Any) -> sr.Task:
    """An ensemble of nothing but these members."""
    return sr.load("union", label="all", epsilon=epsilon, adaptive=list(members or MEMBERS), **more)


def cells(task: sr.Task, data: Dataset, effort: Any, model: Any = None) -> list[dict[str, np.ndarray]]:
    """Outcomes at every radius with an effort of its own."""
    model = model or tiny_model()
    store = Store(None, {"models": {model.name: {}}})
    context = CellContext(
        model=model,
        data=data,
        settings=EvaluationSettings(),
        effort=effort,
        scorer=Scorer(model, 0, 3),
        sizer=BatchSizer(16),
        store=store,
        sources={model.name: model},
        skip=frozenset(),
        check_inputs=CheckInputs(data.x, data.index),
        progress=Progress(1),
    )
    made = CellRunner(context)
    with model.session():
        for position, task_now in enumerate([sr.load("clean"), *[task] * len(task.strengths)]):
            made.run(task_now, max(0, position - 1))
    return [store.cells[model.name, task.label, k] for k in range(len(task.strengths))]


def test_a_cascade_breaks_what_all_members_together_break() -> None:
    data = tiny_data(count=40)
    alone = [cells(several(member), data, FACTORIAL) for member in MEMBERS]
    for effort in (NESTED, FACTORIAL, EXHAUSTIVE):
        together = cells(several(), data, effort)
        for k in range(len(RADII)):
            union = np.logical_or.reduce([each[k]["correct"] == 0 for each in alone])
            carried = [cell["correct"] == 0 for cell in together[: k + 1]]
            broken = np.logical_or.reduce(carried) if effort is NESTED else carried[-1]
            before = np.logical_or.reduce([each[j]["correct"] == 0 for each in alone for j in range(k)] or [broken])
            assert np.array_equal(broken, union | before if effort is NESTED and k else union)
            assert 0 < broken.sum() < len(data) or k != 1


def test_a_member_of_a_factorial_is_the_attack_by_itself() -> None:
    """Keyed alike, whatever came before it and whoever is in its batch."""
    data = tiny_data(count=30)
    together = cells(several(), data, FACTORIAL)
    for m, member in enumerate(MEMBERS):
        for k, alone in enumerate(cells(several(member), data, FACTORIAL)):
            for name in ("member_correct", "member_forwards", "member_backwards"):
                assert np.array_equal(together[k][name][m], alone[name][0])


@pytest.mark.parametrize("effort", [NESTED, FACTORIAL, EXHAUSTIVE], ids=["nested", "factorial", "exhaustive"])
def test_costs_add_up(effort: Any) -> None:
    for cell in cells(several(), tiny_data(count=30), effort):
        for name in ("forwards", "backwards"):
            assert np.array_equal(cell[f"member_{name}"].sum(axis=0), cell[name])
        tried = cell["member_correct"] >= 0
        assert np.array_equal(cell["member_forwards"] > 0, tried)
        assert not cell["member_backwards"][2].any()


def test_costs_are_those_of_each_step() -> None:
    """Exhaustive: K steps with a gradient, one more pass for what the last step made, and two to score."""
    (cell,) = cells(several(epsilon=0.1), tiny_data(count=10), EXHAUSTIVE)
    assert set(cell["member_backwards"][0]) == {1}
    assert set(cell["member_backwards"][1]) == {2 * 4}
    assert set(cell["member_forwards"][1]) == {2 * (4 + 1 + 2)}
    assert set(cell["member_forwards"][2]) == {8 + 1 + 2}


def test_members_attempt_what_those_before_left_alive() -> None:
    data = tiny_data(count=40)
    previous = np.zeros(len(data), dtype=bool)
    for cell in cells(several(), data, NESTED):
        alive = ~previous
        for m in range(len(MEMBERS)):
            tried = cell["member_correct"][m] >= 0
            assert np.array_equal(tried, alive)
            alive &= cell["member_correct"][m] != 0
        previous |= ~alive & ~previous
        assert np.array_equal(cell["correct"] == 0, (cell["member_correct"] == 0).any(axis=0))
        first = (cell["member_correct"] == 0).argmax(axis=0)
        broken = cell["correct"] == 0
        assert np.array_equal(cell["member"][broken], first[broken])


def test_the_report_names_members(tmp_path: Path) -> None:
    data = tiny_data(count=40)
    report = sr.evaluate(tiny_model(), data, [several()], evidence="none")
    broken = int((report.clean()["correct"] & ~report.robust("all")[-1]).sum())
    assert set(report.curve("all").attribution) == {"first", "second", "third"}
    assert sum(report.curve("all").attribution.values()) == broken
    assert set(report.worst_case().attribution) == {"all: first", "all: second", "all: third"}


def test_restarts_are_searches_of() -> None:
    assert [(turn.member, turn.restart) for turn in searches_of(several())] == [(0, 0), (1, 0), (1, 1), (2, 0)]
    assert [turn.task.label for turn in searches_of(sr.load("pgd", epsilon=0.1, restarts=2))] == ["pgd", "pgd"]


@pytest.mark.parametrize("stop_at", [9, 17, 29])
@pytest.mark.parametrize("mode", ["nested", "exhaustive"])
def test_an_interrupted_member_goes_on_where_it_stopped(
    stop_at: int, mode: Any, counted: Callable[..., Any], result_bytes: Callable[[Path], Any], tmp_path: Path
) -> None:
    data, tasks = tiny_data(count=20), [several(epsilon=[0.05, 0.1])]

    def run(name: str) -> None:
        sr.evaluate(tiny_model(), data, tasks, out=tmp_path / name, batch_size=4, mode=mode, evidence="none")

    run("whole")
    calls = counted(ModelQueries, "_evaluate", stop_at)
    with pytest.raises(KeyboardInterrupt):
        run("resumed")
    assert list((tmp_path / "resumed").rglob("*.partial.npz"))
    calls.stop_at = -1
    run("resumed")
    assert result_bytes(tmp_path / "resumed") == result_bytes(tmp_path / "whole")


def test_adaptive_members_count_in_the_worst_case_by_name() -> None:
    """A member of the user's own: its estimator for one node, another for the other, and its objective."""
    own = {
        "name": "pgd",
        "label": "mine",
        "steps": 10,
        "objective": "margin",
        "gradient": Modules((("2", ATan(alpha=1.0)), ("4", Sigmoid(alpha=2.0)))),
    }
    weak = {"name": "pgd", "label": "weak", "steps": 1, "step_size": 1e-6, "random_start": False}
    report = sr.evaluate(tiny_model(), tiny_data(count=40), [several(weak, own, epsilon=0.1)], evidence="none")
    assert report.curve("all").attribution["mine"] > 0
    assert report.curve("all").attribution["weak"] == 0
    assert report.worst_case().attribution["all: mine"] == 40 - report.robust("all")[0].sum()


def test_targets_cover_the_other_classes_over_the_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    targets_of = AttackCell._targets

    def recorded(self: AttackCell, *arguments: Any) -> Tensor:
        seen.append(targets_of(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(AttackCell, "_targets", recorded)
    data, model = tiny_data(count=10), tiny_model()
    task = sr.load("pgd", epsilon=0.01, steps=1, objective="targeted-dlr", restarts=3)
    sr.evaluate(model, data, [task], mode="exhaustive", evidence="none")
    assert len(seen) == 3
    logits = model.logits(data.x).detach()
    for position, (y, row) in enumerate(zip(data.y.tolist(), logits, strict=True)):
        others = [int(targets[position]) for targets in seen]
        assert set(others[:2]) == {0, 1, 2} - {y}
        assert row[others[0]] >= row[others[1]]  # the likeliest first
        assert others[2] == others[0]


def test_the_curve_of_a_minimum_norm_attack_steps_down_at_its_distances() -> None:
    data, radii = tiny_data(count=20), [0.0, 0.03, 0.06, 0.12, 0.3]
    task = sr.load("minimum-norm", epsilon=radii, steps=20)
    report = sr.evaluate(tiny_model(), data, [task], evidence="none")
    distances = report.distances("minimum-norm")
    assert np.isfinite(distances).sum() > 5
    for k, radius in enumerate(radii):
        assert np.array_equal(report.robust("minimum-norm")[k], distances > radius * (1 + 1e-6))
        cell = report.cell("tiny", "minimum-norm", k)
        assert not (cell["distance"][cell["correct"] == 0] > radius * (1 + 1e-6)).any()
    spent = [int(report.cell("tiny", "minimum-norm", k)["forwards"].sum()) for k in range(len(radii))]
    assert spent[:-1] == [0] * (len(radii) - 1)
    assert spent[-1] > 0


def test_a_minimum_norm_attack_finds_the_boundary_of_a_linear_net_at_every_radius() -> None:
    """The distance is |w x| / |w|_1 with w the difference of the classes' weights: a step function known beforehand."""
    layer = nn.Linear(6, 2, bias=False).double()
    generator = torch.Generator().manual_seed(0)
    layer.weight.data = torch.randn(2, 6, generator=generator).double()
    x = torch.rand(20, 6, generator=generator) * 2 - 1
    logits: Tensor = layer(x.double()).detach()
    data = Dataset.of(x, logits.argmax(dim=1))
    gap = (layer.weight[0] - layer.weight[1]).detach()
    exact = ((x.double() @ gap).abs() / gap.abs().sum()).numpy()
    model = sr.wrap(layer, layout="N", bounds=(-10.0, 10.0), name="linear")
    radii = [0.05, 0.1, 0.2, 0.5]
    together = sr.evaluate(model, data, [sr.load("minimum-norm", epsilon=radii)], evidence="none")
    for k, radius in enumerate(radii):
        alone = sr.evaluate(model, data, [sr.load("minimum-norm", epsilon=radius)], evidence="none")
        clear = np.abs(exact - radius) > 0.02 * radius
        for kept in (together.robust("minimum-norm")[k], alone.robust("minimum-norm")[0]):
            assert np.array_equal(kept[clear], (exact > radius)[clear])


def test_at_smaller_radius() -> None:
    cell = {
        "correct": np.array([0, 0, 1, -1], dtype=np.int8),
        "voted": np.array([0, 0, 1, -1], dtype=np.int8),
        "last_correct": np.array([0, 0, 1, -1], dtype=np.int8),
        "member_correct": np.array([[0, 0, 1, -1]], dtype=np.int8),
        "margin": np.array([-1.0, -1.0, 0.5, np.nan], dtype=np.float32),
        "distance": np.array([0.1, 0.3, 0.0, np.nan], dtype=np.float32),
        **{name: np.full(4, 9) for name in ("forwards", "backwards", "member_forwards", "member_backwards")},
    }
    here = at_smaller_radius(cell, 0.1)
    assert here["correct"].tolist() == here["member_correct"][0].tolist() == [0, 1, 1, -1]
    assert np.isnan(here["margin"]).tolist() == [False, True, False, True]
    assert here["forwards"].sum() == here["member_backwards"].sum() == 0
    assert cell["correct"].tolist() == [0, 0, 1, -1]  # the original is left alone


def test_an_ensemble_on_a_stochastic_net_is_not_weaker_than_its_best_member(
    poisson_model: Callable[..., sr.SpikingModel],
) -> None:
    """Members are compared on fresh draws of the search's own: lucky draws of a weak one don't outrank a better."""
    members = [
        {"name": "apgd", "label": "apgd", "steps": 20, "objective": "margin"},
        {"name": "square", "label": "square", "steps": 300, "objective": "margin"},
    ]
    alone = [sr.load(**member, epsilon=0.2, eot=4) for member in members]
    union = sr.load("union", epsilon=0.2, eot=4, adaptive=members)
    report = sr.evaluate(poisson_model(), tiny_data(count=60), [*alone, union], evidence="none")
    left = {label: report.curve(label).value[0] for label in report.labels("attack")}
    assert left["apgd"] < left["square"]
    assert left["union"] <= left["apgd"] + 0.05, left
