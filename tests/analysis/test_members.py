"""Which member of an ensemble broke which samples, and the distances of the closest examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import snnrobust as sr
from snnrobust.analysis.members import first_broken_by
from snnrobust.errors import InputError
from snnrobust.report import Report
from snnrobust.testing.tiny import tiny_data, tiny_model

CLEAN = [1, 1, 1, 1, 1, 0]


@pytest.fixture
def cascade(made: Any) -> Report:
    """A breaks sample 0, B sample 1; at the larger radius B breaks 2 and A 3; 4 is robust and 5 wrong when clean."""
    small = made.cell([0, 1, 1, 1, 1, -1], [-1, 0, 1, 1, 1, -1], distance=[0.1, 0.05, 0.1, 0.1, 0.1, np.nan])
    large = made.cell([-1, -1, 1, 0, 1, -1], [-1, -1, 0, -1, 1, -1], distance=[9, 9, 0.2, 0.15, 0.2, np.nan])
    return made.report([made.ensemble("both", ["A", "B"], [0.1, 0.2])], {"both": [small, large]}, CLEAN)


def test_each_member_is_credited_with_what_it_broke_first(cascade: Report) -> None:
    found = {(each.label, each.strength): each for each in cascade.members("both")}
    assert [(each.label, each.strength) for each in cascade.members("both")] == [
        ("A", 0.1),
        ("B", 0.1),
        ("A", 0.2),
        ("B", 0.2),
    ]
    assert {key: (each.attempted, each.broken) for key, each in found.items()} == {
        ("A", 0.1): (5, 1),
        ("B", 0.1): (4, 1),
        ("A", 0.2): (3, 1),
        ("B", 0.2): (2, 1),
    }
    assert (found["B", 0.1].forwards, found["B", 0.1].backwards) == (80, 40)
    assert cascade.curve("both").attribution == {"A": 2, "B": 2}


def test_the_worst_case_names_members_of_ensembles_and_plain_attacks(made: Any) -> None:
    tasks = [made.attack("plain"), made.ensemble("both", ["A", "B"])]
    cells = {"plain": [made.cell([0, 1, 1, 1])], "both": [made.cell([0, 0, 1, 1], [-1, -1, 0, 1])]}
    found = made.report(tasks, cells, [1, 1, 1, 1])
    assert found.worst_case().attribution == {"plain": 1, "both: A": 1, "both: B": 1}
    assert found.worst_case().value == (0.25,)
    assert found.curve("plain").attribution == {}


def test_members_are_records_with_what_they_spent(cascade: Report) -> None:
    frame = cascade.to_frame().set_index(["metric", "strength"])
    row = frame.loc[("broken_first:B", 0.1)]
    assert (row["value"], row["count"], row["forwards"], row["backwards"]) == (1, 4, 80, 40)
    assert not [name for name in frame.loc[:, "label"] if name in ("A", "B")]


def test_a_plain_attack_has_no_records_of_members(made: Any) -> None:
    found = made.report([made.attack("pgd")], {"pgd": [made.cell([0, 1])]}, [1, 1])
    assert not [record for record in found.records if record.metric.startswith("broken_first")]
    assert [(each.label, each.broken) for each in found.members("pgd")] == [("pgd", 1)]


def test_without_a_cascade_the_first_in_order_is_credited_and_only_once(made: Any) -> None:
    """All members attack all samples: B's example was kept for sample 0, but A breaks it too and comes before B."""
    small = made.cell([0, 1, 1, 0], [0, 0, 1, 0], member=[1, 1, 0, 0])
    large = made.cell([0, 0, 1, 0], [0, 0, 0, 0], member=[0, 0, 1, 0])
    tasks = [made.ensemble("both", ["A", "B"], [0.1, 0.2])]
    found = made.report(tasks, {"both": [small, large]}, [1, 1, 1, 0], mode="exhaustive")
    assert [(each.attempted, each.broken) for each in found.members("both")] == [(4, 1), (4, 1), (4, 0), (4, 1)]


def test_for_a_stochastic_model_the_member_whose_example_was_kept_is_credited(made: Any) -> None:
    """A broke sample 0 in one draw by chance, but B's example is stronger and was scored."""
    cells = {"both": [made.cell([0, 0], [0, 1], member=[1, 1], correct=[0, 1])]}
    tasks = [made.ensemble("both", ["A", "B"])]
    noisy = made.report(tasks, cells, [1, 1], [made.model("m", stochastic=True)])
    assert noisy.curve("both").attribution == {"A": 0, "B": 1}


@given(
    alone=arrays(np.int8, (3, 2, 8), elements=st.integers(-1, 1)),
    clean=arrays(np.bool_, 8),
)
def test_the_samples_broken_by_members_add_up(made: Any, alone: np.ndarray, clean: np.ndarray) -> None:
    tasks = [made.ensemble("both", ["A", "B"], [0.1, 0.2, 0.3])]
    found = made.report(tasks, {"both": [made.cell(*each) for each in alone]}, clean)
    broken = int(clean.sum() - found.robust("both")[-1].sum())
    assert sum(each.broken for each in found.members("both")) == broken
    assert sum(found.curve("both").attribution.values()) == sum(found.worst_case().attribution.values()) == broken
    assert np.array_equal(found.robust("both"), (first_broken_by(found.outcomes, "both", "m") < 0) & clean)


@pytest.mark.parametrize(
    ("parameters", "restarts", "budget"),
    [
        ({"steps": 20, "step_size": None}, 3, 60),
        ({}, 1, None),
        ({"inner": {"steps": 5}}, 1, None),
        ({"steps": None}, 1, None),
    ],
)
def test_the_budget_is_steps_times_restarts(
    made: Any, parameters: dict[str, Any], restarts: int, budget: int | None
) -> None:
    tasks = [made.attack("a", parameters=parameters, restarts=restarts)]
    assert made.report(tasks, {"a": [made.cell([1])]}, [1]).members("a")[0].budget == budget


def test_only_attacks_have_members_and_distances(cascade: Report) -> None:
    for ask in (cascade.members, cascade.distances):
        with pytest.raises(InputError, match="label of an attack"):
            ask("clean")
        with pytest.raises(InputError, match="task label"):
            ask("none")


def test_distances(cascade: Report) -> None:
    assert cascade.distances("both").tolist() == [0.1, 0.05, 0.2, 0.15, np.inf, 0.0]


def test_a_closer_example_from_a_larger_radius_counts(made: Any) -> None:
    cells = {"a": [made.cell([0], distance=[0.1]), made.cell([0], distance=[0.07])]}
    assert made.report([made.attack("a", [0.1, 0.2])], cells, [1]).distances("a").tolist() == [0.07]


def test_the_distance_of_an_example_that_broke_nothing_is_none(made: Any) -> None:
    assert made.report([made.attack("a")], {"a": [made.cell([1], distance=[0.03])]}, [1]).distances("a")[0] == np.inf


def test_the_distances_of_a_minimum_norm_attack_are_its_curve() -> None:
    radii = [0.02, 0.05, 0.1]
    tasks = [sr.load("minimum-norm", epsilon=radii, steps=10), sr.load("pgd", epsilon=radii, steps=3)]
    found = sr.evaluate(tiny_model(), tiny_data(), tasks, evidence="none", progress=False)
    for label in ("minimum-norm", "pgd"):
        robust = found.distances(label) > np.array(radii)[:, None] * (1 + 1e-5)
        assert np.array_equal(found.robust(label), robust)
    assert len(set(found.distances("minimum-norm"))) > 3
