"""Budgets that count changes: against enumeration of all inputs, and the verifier against counting by hand."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError, ViolationError
from snnrobust.threat_models.counts import count_distance
from snnrobust.threat_models.threat_model import Norm, ThreatModel
from snnrobust.threat_models.verify import verify

KINDS: tuple[Norm, ...] = ("l0", "l0-step", "additions", "deletions", "events", "l1")
#: What is exact by the docstring of `project_counts`, for binary entries.
EXACT: tuple[tuple[Norm, ...], ...] = (
    ("l0",),
    ("l0-step",),
    ("additions",),
    ("deletions",),
    ("l0", "additions"),
    ("l0", "deletions"),
    ("additions", "deletions"),
    ("l0", "additions", "deletions"),
    ("l0", "events"),
    ("l0", "additions", "events"),
    ("l0", "l0-step"),
)


def threat(norms: tuple[Norm, ...], budgets: tuple[float, ...], domain: str, high: float) -> ThreatModel:
    limits = tuple(zip(norms[1:], budgets[1:], strict=False))
    return ThreatModel(norms[0], budgets[0], (0.0, high), domain, limits)  # type: ignore[arg-type]  # drawn


def counted(x: Tensor, x0: Tensor) -> dict[str, float]:
    """Every distance of one sample [T, F], entry by entry."""
    found = dict.fromkeys(KINDS, 0.0)
    total = 0.0
    for step, before in zip(x.tolist(), x0.tolist(), strict=True):
        here = 0
        for value, old in zip(step, before, strict=True):
            here += value != old
            found["additions"] += max(0.0, value - old)
            found["deletions"] += max(0.0, old - value)
            found["l1"] += abs(value - old)
            total += value - old
        found["l0"] += here
        found["l0-step"] = max(found["l0-step"], here)
    found["events"] = abs(total)
    return found


def allowed(x: Tensor, x0: Tensor, budgets: Mapping[str, float]) -> bool:
    found = counted(x, x0)
    return all(found[norm] <= most for norm, most in budgets.items())


def accepts(x: Tensor, x0: Tensor, model: ThreatModel) -> bool:
    try:
        verify(x[None], x0[None], model, [0], "test")
    except ViolationError:
        return False
    return True


@pytest.mark.parametrize("norms", EXACT, ids=" ".join)
def test_the_projection_is_the_nearest_of_all_inputs(norms: tuple[Norm, ...]) -> None:
    generator = torch.Generator().manual_seed(len(norms))
    everything = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8))).reshape(-1, 4, 2)
    for _ in range(25):
        x0 = (torch.rand(4, 2, generator=generator) < 0.5).float()
        x = torch.rand(4, 2, generator=generator) * 2 - 0.5
        budgets = tuple(float(torch.randint(0, 5, (), generator=generator)) for _ in norms)
        model = threat(norms, budgets, "binary", 1.0)
        found = model.project(x[None], x0[None])[0]
        assert allowed(found, x0, model.budgets)
        fits = torch.tensor([allowed(each, x0, model.budgets) for each in everything])
        least = float((everything[fits] - x).square().sum(dim=(1, 2)).min())
        assert float((found - x).square().sum()) == pytest.approx(least, abs=1e-5)


@pytest.mark.parametrize("norm", [norm for norm in KINDS if norm not in ("l0-step", "events")])
def test_one_budget_is_exact_for_event_counts(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(1)
    everything = torch.tensor(list(itertools.product(range(4), repeat=4))).float().reshape(-1, 2, 2)
    for _ in range(40):
        x0 = torch.randint(0, 4, (2, 2), generator=generator).float()
        x = torch.rand(2, 2, generator=generator) * 4 - 0.5
        model = ThreatModel(norm, float(torch.randint(0, 4, (), generator=generator)), (0.0, 3.0), "integer")
        found = model.project(x[None], x0[None])[0]
        assert allowed(found, x0, model.budgets)
        fits = torch.tensor([allowed(each, x0, model.budgets) for each in everything])
        least = float((everything[fits] - x).square().sum(dim=(1, 2)).min())
        assert float((found - x).square().sum()) == pytest.approx(least, abs=1e-4)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_combination_is_allowed_and_independent_of_the_batch(data: st.DataObject) -> None:
    domain = data.draw(st.sampled_from(["binary", "integer"]))
    high = 1.0 if domain == "binary" else 3.0
    norms = tuple(data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4, unique=True)))
    norms = ("l0", *(each for each in norms if each != "l0")) if norms[0] == "events" else norms
    budgets = tuple(float(data.draw(st.integers(0, 6))) for _ in norms)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    x0 = torch.randint(0, int(high) + 1, (3, 4, 3), generator=generator).float()
    x = x0 + 3 * torch.randn(3, 4, 3, generator=generator)
    model = threat(norms, budgets, domain, high)
    index = torch.tensor([5, 1, 9])
    for found in (model.project(x, x0), model.start(x0, Draws(0, "t"), index)):
        for each, before in zip(found, x0, strict=True):
            assert allowed(each, before, model.budgets)
        verify(found, x0, model, index.tolist(), "test")
    alone = torch.cat([model.project(x[[i]], x0[[i]]) for i in range(3)])
    assert torch.equal(alone, model.project(x, x0))
    again = torch.cat([model.start(x0[[i]], Draws(0, "t"), index[[i]]) for i in range(3)])
    assert torch.equal(again, model.start(x0, Draws(0, "t"), index))


@pytest.mark.parametrize("norm", KINDS)
@pytest.mark.parametrize(("domain", "high"), [("binary", 1.0), ("integer", 3.0)])
def test_the_verifier_equals_counting_by_hand(norm: Norm, domain: str, high: float) -> None:
    """2000 random grids a kind: no difference, and both answers occur."""
    generator = torch.Generator().manual_seed(3)
    answers = set()
    for _ in range(2000):
        x0 = torch.randint(0, int(high) + 1, (3, 3), generator=generator).float()
        redrawn = torch.rand(3, 3, generator=generator) < 0.4
        x = torch.where(redrawn, torch.randint(0, int(high) + 1, (3, 3), generator=generator).float(), x0)
        budget = float(torch.randint(0, 5, (), generator=generator))
        # A limit beside a norm that allows everything here.
        model = threat(("l0", norm) if norm == "events" else (norm,), (9.0, budget)[norm != "events" :], domain, high)
        expected = allowed(x, x0, model.budgets)
        assert accepts(x, x0, model) == expected
        assert float(count_distance(x[None], x0[None], norm)[0]) == counted(x, x0)[norm]
        answers.add(expected)
    assert answers == {True, False}


def test_additions_alone_allow_no_deletion() -> None:
    x0 = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    moved = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    assert not accepts(moved[0], x0[0], ThreatModel("additions", 1, domain="binary"))
    apart = ThreatModel("additions", 1, domain="binary", limits=(("deletions", 1),))
    assert accepts(moved[0], x0[0], apart)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (torch.tensor([[0.5, 0.0], [1.0, 0.0]]), "whole numbers"),
        (torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), "values within"),
        (torch.tensor([[2.0, 0.0], [1.0, 0.0]]), "values within"),
        (torch.tensor([[1.0, 1.0], [1.0, 0.0]]), "l0 distance <= 1"),
    ],
)
def test_illegal_grids_are_rejected(wrong: Tensor, words: str) -> None:
    x0 = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ViolationError, match=words):
        verify(wrong[None], x0[None], ThreatModel("l0", 1, domain="binary"), [7], "test")


def test_moved_padding_is_rejected() -> None:
    x0 = torch.zeros(1, 4, 2)
    x = x0.clone()
    x[0, 3, 1] = 1.0
    model = ThreatModel("l0", 2, domain="binary")
    verify(x, x0, model, [0], "test", torch.tensor([4]))
    with pytest.raises(ViolationError, match=r"padding as it was.*step 3"):
        verify(x, x0, model, [0], "test", torch.tensor([3]))


@pytest.mark.parametrize(
    ("norm", "epsilon", "domain", "limits", "words"),
    [
        ("l0", 0.5, "binary", (), "epsilon 0 or >= 1"),
        ("events", 1, "binary", (), "limits={'events'"),
        ("additions", 2, "real", (), "for real inputs"),
        ("l0", 2, "binary", (("shift-linf", 1.0),), "expected limits beside norm 'l0'"),
        ("shift-l1", 2, "binary", (("l0", 1.0),), "expected limits beside norm 'shift-l1'"),
        ("l0", 2, "binary", (("l0", 1.0),), "expected limits beside norm 'l0'"),
        ("l0", 2, "binary", (("deletions", -1.0),), ">= 0"),
        ("l0", 2, "binary", (("deletions", 0.5),), "whole number"),
        ("l2", 2, "real", (("l0", 1.0),), "leave limits= out"),
    ],
)
def test_budgets_that_make_no_sense(norm: Norm, epsilon: float, domain: str, limits: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ThreatModel(norm, epsilon, domain=domain, limits=limits)  # type: ignore[arg-type]  # drawn from a table


def test_distances_of_norm_balls() -> None:
    x, x0 = torch.tensor([[3.0, -4.0, 0.0]]), torch.zeros(1, 3)
    found = {norm: float(ThreatModel(norm, 1.0, (-9.0, 9.0)).distance(x, x0)[0]) for norm in ("linf", "l2", "l1", "l0")}
    assert found == {"linf": 4.0, "l2": 5.0, "l1": 7.0, "l0": 2.0}
