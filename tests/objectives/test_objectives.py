"""Objectives against their formulas, and defined where the logits of spiking nets often are: at ties and at zero."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from snnrobust.objectives.logits import DLR, CrossEntropy, Margin, TargetedDLR, margin
from snnrobust.objectives.sequences import CurrentMargin, MembraneMargin, PerStepCrossEntropy
from snnrobust.plugin import Objective
from snnrobust.testing import check_plugin


@given(st.lists(st.lists(st.floats(-50, 50), min_size=4, max_size=4), min_size=1, max_size=5), st.data())
@settings(max_examples=100, deadline=None)
def test_against_explicit_formulas(rows: list[list[float]], data: st.DataObject) -> None:
    y = [data.draw(st.integers(0, 3)) for _ in rows]
    logits, labels = torch.tensor(rows, dtype=torch.float64), torch.tensor(y)
    for i, (row, label) in enumerate(zip(rows, y, strict=True)):
        best_other = max(value for k, value in enumerate(row) if k != label)
        top = max(row)
        entropy = top + math.log(sum(math.exp(value - top) for value in row)) - row[label]
        assert float(margin(logits, labels)[i]) == row[label] - best_other
        assert float(Margin()(logits, labels)[i]) == best_other - row[label]
        assert float(CrossEntropy()(logits, labels)[i]) == pytest.approx(entropy, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin(), DLR()])
@pytest.mark.parametrize(
    "row", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [1e30, 1e30, 0.0], [-1e30, 0.0, 1e30]]
)
def test_finite_with_a_useful_gradient_at_ties_and_silence(objective: Objective, row: list[float]) -> None:
    logits = torch.tensor([row], requires_grad=True)
    loss = objective(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.shape == (1,)
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.sum()) == pytest.approx(0, abs=1e-6)
    if isinstance(objective, DLR) and row[0] == min(row) < max(row):
        # The class that is last of three stays at DLR 1, with no gradient: as published, where the net is wrong anyway.
        assert float(loss.detach()) == pytest.approx(1)
        return
    assert float(gradient[0, 0]) < 0  # decreases the true logit
    assert bool((gradient[0, 1:] >= 0).all())


def test_margin_favours_no_class_index_at_a_tie() -> None:
    logits = torch.zeros(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(Margin()(logits, torch.tensor([1])).sum(), logits)
    assert torch.allclose(gradient, torch.tensor([[1 / 3, -1.0, 1 / 3, 1 / 3]]))


def test_one_value_per_sample() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    y = torch.tensor([0, 0, 0])
    assert torch.equal(margin(logits, y), torch.tensor([2.0, -1.0, 0.0]))
    together = CrossEntropy()(logits, y)
    alone = torch.cat([CrossEntropy()(logits[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert torch.equal(together, alone)


def ratio(row: list[float], gap: float, below: float) -> float:
    """A difference of logits ratio with its floor, for one sample, in plain numbers."""
    spread = max(max(row) - below, 0.1 * (max(row) - min(row)))
    return gap / (spread if spread > 1e-150 else 1.0)


@given(
    st.integers(2, 6).flatmap(
        lambda k: st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(-9, 9), min_size=k, max_size=k)
    ),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_ratios_against_explicit_formulas(row: list[float], data: st.DataObject) -> None:
    assume(max(row) == min(row) or max(row) - min(row) > 1e-6)  # below, the ratio's gradient is all cancellation
    label, target = data.draw(st.permutations(range(len(row))))[:2]
    logits = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    falling = sorted(row, reverse=True)
    gap, towards = max(v for k, v in enumerate(row) if k != label) - row[label], row[target] - row[label]
    if len(row) == 2:
        expected, targeted = gap, towards
    else:
        expected = ratio(row, gap, falling[2])
        targeted = ratio(row, towards, falling[2] if len(row) == 3 else (falling[2] + falling[3]) / 2)
    y, t = torch.tensor([label]), torch.tensor([target])
    for value, by_hand in ((DLR()(logits, y), expected), (TargetedDLR()(logits, y, t), targeted)):
        assert value.shape == (1,)
        assert float(value.detach()) == pytest.approx(by_hand, rel=1e-9, abs=1e-12)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert bool(torch.isfinite(gradient).all())
        if len(row) > 2:
            assert abs(float(value.detach())) <= 10 + 1e-9
            assert float(gradient.sum()) == pytest.approx(0, abs=1e-9 * float(gradient.abs().sum()) + 1e-12)


def test_ratios_as_published_where_the_top_is_spread() -> None:
    """The published denominators by hand: 4 - 1, and 4 - (1 + 0) / 2."""
    logits, y = torch.tensor([[4.0, 3.0, 1.0, 0.0]]), torch.tensor([0])
    assert float(DLR()(logits, y)) == pytest.approx(-1 / 3)
    assert float(TargetedDLR()(logits, y, torch.tensor([3]))) == pytest.approx(-4 / 3.5)
    assert TargetedDLR.targeted
    assert not hasattr(DLR, "targeted")


def test_ratios_change_neither_with_shift_nor_scale() -> None:
    logits = torch.rand(50, 5, generator=torch.Generator().manual_seed(0)).mul(8).round() / 8  # many ties
    y, t = torch.arange(50) % 5, (torch.arange(50) + 2) % 5
    for shift, scale in ((3.0, 1.0), (0.0, 16.0), (-1.0, 0.25)):
        moved = shift + scale * logits
        assert torch.allclose(DLR()(moved, y), DLR()(logits, y), atol=1e-4)
        assert torch.allclose(TargetedDLR()(moved, y, t), TargetedDLR()(logits, y, t), atol=1e-4)
    assert not torch.allclose(Margin()(16 * logits, y), Margin()(logits, y), atol=0.1)


def test_ratio_is_finite_where_the_published_one_is_not() -> None:
    logits = torch.tensor([[0.75, 0.75, 0.75, 0.25]], requires_grad=True)
    for label, expected in ((0, 0.0), (3, 10.0)):
        value = DLR()(logits, torch.tensor([label]))
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
        assert bool(torch.isfinite(gradient).all())
    (gradient,) = torch.autograd.grad(DLR()(logits, torch.tensor([0])).sum(), logits)
    assert torch.allclose(gradient, torch.tensor([[-20.0, 10.0, 10.0, 0.0]]))  # no class index is favoured


@pytest.mark.parametrize("objective", [MembraneMargin(), CurrentMargin()])
def test_graded_margins_are_of_the_mean_over_time(objective: MembraneMargin | CurrentMargin) -> None:
    assert objective.of == {"MembraneMargin": "membrane", "CurrentMargin": "current"}[type(objective).__name__]
    sequence = torch.tensor([[[0.1, -0.5, 0.3], [0.3, 0.1, -0.7]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])  # [2, T=2, 3]
    assert torch.allclose(objective(sequence, torch.tensor([0, 1])), torch.tensor([-0.2 - 0.2, 0.0]))


def test_graded_margin_tells_apart_what_spikes_do_not() -> None:
    """Two membrane potentials below threshold throughout: no spikes, but different distances."""
    near, far = torch.tensor([[[-0.5, -0.1]]]), torch.tensor([[[-0.5, -0.4]]])
    y = torch.tensor([0])
    assert torch.equal(Margin()((near >= 0).float().mean(1), y), Margin()((far >= 0).float().mean(1), y))
    assert float(MembraneMargin()(near, y)) > float(MembraneMargin()(far, y))


def test_per_step_is_the_mean_of_each_steps_cross_entropy() -> None:
    assert PerStepCrossEntropy.of == "outputs"
    outputs = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    y = torch.tensor([0, 4, 2])
    by_hand = [
        sum(math.log(sum(math.exp(v) for v in step)) - step[label] for step in sample) / 4
        for sample, label in zip(outputs.tolist(), y.tolist(), strict=True)
    ]
    assert PerStepCrossEntropy()(outputs, y).tolist() == pytest.approx(by_hand)
    # By convexity never below the cross entropy of the mean output.
    assert bool((PerStepCrossEntropy()(outputs, y) >= CrossEntropy()(outputs.mean(dim=1), y)).all())


@pytest.mark.parametrize(
    "name", ["cross_entropy", "margin", "dlr", "targeted-dlr", "graded-margin", "graded-current", "per-step"]
)
def test_objectives_conform(name: str) -> None:
    check_plugin(name)
