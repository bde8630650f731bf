"""When one search's outcome replaces another's: the truth table, against the sentences that state it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from snnrobust.evaluation.attack_outcomes import (
    AttackOutcomes,
    KeptExamples,
    replaces,
    worst_of,
)
from snnrobust.search.attack_context import SearchResult
from snnrobust.threat_models.threat_model import ThreatModel

HELD = {"nothing": -1, "broken": 0, "withstands": 1}
RANKS = {"stronger": 0.0, "equal": 1.0, "weaker": 2.0}
#: held, found broken or not, its rank against the held one -> does it replace it on a deterministic net?
TABLE = {
    ("nothing", "broken", "stronger"): True,
    ("nothing", "broken", "equal"): True,
    ("nothing", "broken", "weaker"): True,
    ("nothing", "withstands", "stronger"): True,
    ("nothing", "withstands", "equal"): True,
    ("nothing", "withstands", "weaker"): True,
    ("broken", "broken", "stronger"): True,
    ("broken", "broken", "equal"): False,
    ("broken", "broken", "weaker"): False,
    ("broken", "withstands", "stronger"): False,  # a success is never undone
    ("broken", "withstands", "equal"): False,
    ("broken", "withstands", "weaker"): False,
    ("withstands", "broken", "stronger"): True,
    ("withstands", "broken", "equal"): True,
    ("withstands", "broken", "weaker"): True,  # a confirmed success outweighs any rank
    ("withstands", "withstands", "stronger"): True,
    ("withstands", "withstands", "equal"): False,
    ("withstands", "withstands", "weaker"): False,
}


def asked(held: str, found: str, rank: str, stochastic: bool) -> bool:
    held_rank = np.array([1.0 if held != "nothing" else np.inf], dtype=np.float32)
    return bool(
        replaces(
            np.array([HELD[held]], dtype=np.int8),
            held_rank,
            np.array([found == "withstands"]),
            np.array([RANKS[rank]], dtype=np.float32),
            stochastic=stochastic,
        )[0]
    )


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(itertools.product(HELD, ("broken", "withstands"), RANKS))


@pytest.mark.parametrize(("held", "found", "rank"), TABLE)
def test_a_deterministic_net(held: str, found: str, rank: str) -> None:
    assert asked(held, found, rank, stochastic=False) is TABLE[held, found, rank]


@pytest.mark.parametrize(("held", "found", "rank"), TABLE)
def test_on_a_stochastic_net_the_rank_alone_decides(held: str, found: str, rank: str) -> None:
    """Scoring draws must not choose among searches."""
    assert asked(held, found, rank, stochastic=True) is (held == "nothing" or rank == "stronger")


def test_the_first_outcome_is_taken_even_without_a_finite_rank() -> None:
    nothing = np.array([-1], dtype=np.int8), np.array([np.inf], dtype=np.float32)
    for stochastic in (True, False):
        taken = replaces(*nothing, np.array([True]), np.array([np.inf], dtype=np.float32), stochastic=stochastic)
        assert taken.tolist() == [True]


def test_the_worst_of_several() -> None:
    held, found = np.array([-1, -1, 0, 0, 1, 1]), np.array([0, 1, 0, 1, 0, 1])
    assert worst_of(held, found).tolist() == [0, 1, 0, 0, 0, 1]


def result(rows: list[int], withstands: list[bool], rank: list[float], value: float) -> SearchResult:
    """A result whose every field says which search it is from."""
    n = len(rows)
    size = torch.full((n,), value)
    return SearchResult(
        rows=torch.tensor(rows),
        x=torch.full((n, 2), value),
        logits=torch.full((n, 3), value),
        withstands=torch.tensor(withstands),
        voted=torch.tensor(withstands),
        margin=size,
        rank=torch.tensor(rank),
        last_x=torch.full((n, 2), value),
        last_withstands=torch.tensor(withstands),
        forwards=torch.full((n,), 3),
        backwards=torch.full((n,), 2),
        unchanged=torch.zeros(n, dtype=torch.bool),
        disagreements=torch.ones(n, dtype=torch.long),
        undefined=torch.tensor(withstands),
    )


def merged(*results: SearchResult) -> AttackOutcomes:
    outcomes = AttackOutcomes.empty(4, 2, KeptExamples.none_of(3, (2,), torch.float32))
    for number, each in enumerate(results):
        originals = torch.zeros(len(each.rows), 2)
        outcomes.merge(
            each, originals, ThreatModel("l1", 9.0, (-9.0, 9.0)), member=number, search_number=number, stochastic=False
        )
    return outcomes


def test_everything_that_is_kept_comes_from_the_same_search() -> None:
    first = result([0, 1, 2], [False, True, True], [-1.0, 0.5, 0.5], 0.1)
    second = result([2, 1, 0], [True, False, True], [0.2, 0.9, -5.0], 0.3)
    found = merged(first, second)
    # 0: broken by the first, and stays so; 1: broken by the second; 2: the second came closer; 3: never attempted.
    assert found.correct.tolist() == [0, 0, 1, -1]
    assert found.voted.tolist() == [0, 0, 1, -1]
    assert found.member.tolist() == [0, 1, 1, -1]
    assert found.margin[:3].tolist() == pytest.approx([0.1, 0.3, 0.3])
    assert found.distance[:3].tolist() == pytest.approx([0.2, 0.6, 0.6])
    assert np.isnan(found.margin[3])
    assert np.isnan(found.distance[3])
    assert found.rank.tolist() == pytest.approx([-1.0, 0.9, 0.2, np.inf])
    assert found.unchanged.tolist() == [0, 0, 0, -1]
    assert found.last_correct.tolist() == [0, 0, 1, -1]
    assert found.member_correct.tolist() == [[0, 1, 1, -1], [1, 0, 1, -1]]
    assert found.forwards.tolist() == [6, 6, 6, 0]
    assert found.backwards.tolist() == [4, 4, 4, 0]
    assert found.member_forwards.tolist() == [[3, 3, 3, 0], [3, 3, 3, 0]]
    assert found.member_backwards.tolist() == [[2, 2, 2, 0], [2, 2, 2, 0]]
    assert found.disagreements.tolist() == [2, 2, 2, 0]
    assert found.searches_done.tolist() == [2, 2, 2, 0]
    assert found.undefined.tolist() == [1, 1, 2, 0]
    assert found.examples is not None
    assert found.examples.held.tolist() == [True, True, True]
    assert found.examples.x[:, 0].tolist() == pytest.approx([0.1, 0.3, 0.3])
    assert found.examples.logits[:, 0].tolist() == pytest.approx([0.1, 0.3, 0.3])


def test_a_partial_cell_is_read_as_it_was_written() -> None:
    found = merged(result([3, 1], [False, True], [-1.0, 0.5], 0.1))
    again = AttackOutcomes.from_partial(found.partial())
    assert again.partial().keys() == found.partial().keys()
    for name, array in found.partial().items():
        assert np.array_equal(again.partial()[name], array, equal_nan=array.dtype.kind == "f"), name
    assert set(found.partial()) - set(found.finished()) == {
        *("searches_done", "rank", "example_held", "example_x", "example_logits")
    }
    assert found.examples is not None
    assert found.examples.held.tolist() == [False, True, False]  # of the first three samples alone
