"""Objectives against their formulas, and defined where the logits of spiking nets often are: at ties and at zero."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrobust.losses import CrossEntropy, Margin, margin


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


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin()])
@pytest.mark.parametrize(
    "row", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [1e30, 1e30, 0.0], [-1e30, 0.0, 1e30]]
)
def test_finite_with_a_useful_gradient_at_ties_and_silence(objective: CrossEntropy | Margin, row: list[float]) -> None:
    logits = torch.tensor([row], requires_grad=True)
    loss = objective(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.shape == (1,)
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.sum()) == pytest.approx(0, abs=1e-6)
    assert float(gradient[0, 0]) < 0  # pushes the true class down
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
