"""What a spike function emits is told from its values alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from snnrobust.frameworks.functions.levels import Levels, Position, find_levels

V = torch.linspace(-2, 3, 12).reshape(3, 4)
THRESHOLDS = torch.tensor([0.5, 1.0, 0.7, 2.0])


def count(v: Tensor, threshold: Any) -> Tensor:
    return (v > 0) * torch.div(v, threshold, rounding_mode="trunc")


@pytest.mark.parametrize(
    ("emit", "further", "expected"),
    [
        (lambda v: (v >= 0).float(), (), Levels()),
        (lambda v: (v > 0).float(), (), Levels()),
        (lambda v: (v > 0.3).float(), (), Levels(0.3)),
        (lambda v, slope: (v >= 0).float(), (25.0,), Levels()),
        (lambda v, threshold: (v - threshold >= 0).float(), (1.5,), Levels(Position(1))),
        (lambda v, threshold: (v > threshold).float(), (THRESHOLDS,), Levels(Position(1))),
        (count, (torch.tensor(0.7),), Levels(Position(1), Position(1), None)),
        (count, (THRESHOLDS,), Levels(Position(1), Position(1), None)),
        (lambda v, most, threshold: count(v, threshold).clamp(max=most), (3, 0.5), Levels(Position(2), Position(2), 3)),
        (lambda v, most: v.clamp(0, most).round(), (4,), Levels(0.5, 1.0, 4)),
        (lambda v: 0.5 * (v > 0), (), Levels(size=0.5)),
    ],
)
def test_steps_and_counts(emit: Callable[..., Tensor], further: tuple[Any, ...], expected: Levels) -> None:
    assert find_levels(lambda v: emit(v, *further), V, (V, *further), 0) == expected


@pytest.mark.parametrize(
    "emit",
    [
        torch.sign,
        torch.sigmoid,
        torch.round,
        torch.ones_like,
        lambda v: torch.bernoulli(torch.sigmoid(v)),
        lambda v: (v >= 0).float() - (v <= -1).float(),
        lambda v: (v.abs() < 1).float(),
        lambda v: (v >= v.mean()).float(),
    ],
)
def test_control_other_functions_have_no_levels(emit: Callable[[Tensor], Tensor]) -> None:
    assert find_levels(emit, V, (V,), 0) is None


def test_distance_is_to_the_nearest_level() -> None:
    v = torch.tensor([-1.0, 0.6, 1.3, 1.6, 9.0])
    distance = Levels(0.5, 1.0, 3).distance(v, ())
    assert torch.allclose(distance, torch.tensor([-1.5, 0.1, -0.2, 0.1, 6.5]))  # levels 1/2, 3/2, 5/2
