"""The independent check of examples: each kind of violation is an error; float rounding is not a violation."""

from __future__ import annotations

import ast
import inspect
import math

import pytest
import torch

from snnrobust.errors import ViolationError
from snnrobust.threat_models import verify as verify_module
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.threat_models.verify import verify

IDS = [40, 41, 42]


def original(value: float = 0.5) -> torch.Tensor:
    return torch.full((3, 2, 2), value)


@pytest.mark.parametrize(
    ("entry", "domain", "message"),
    [
        (math.nan, "real", "finite values .*NaN or infinity"),
        (math.inf, "real", "finite values .*NaN or infinity"),
        (-math.inf, "real", "finite values .*NaN or infinity"),
        (1.001, "real", r"values within \[0, 1\] .*to 1\.001"),
        (-0.002, "real", r"values within \[0, 1\] .*from -0\.002"),
        (0.25, "integer", "whole numbers .*'integer'.*0.25 away"),
        (0.999, "binary", "whole numbers .*'binary'.*0.001 away"),
    ],
)
def test_each_violation_names_plugin_sample_and_value(entry: float, domain: str, message: str) -> None:
    x0 = original(0.5 if domain == "real" else 1.0)
    x = x0.clone()
    x[1, 0, 1] = entry
    threat = ThreatModel("linf", 100.0, (0.0, 1.0), domain)
    with pytest.raises(ViolationError, match=f"expected {message}") as caught:
        verify(x, x0, threat, IDS, "evil")
    text = str(caught.value)
    assert "'evil'" in text
    assert "sample 41" in text
    assert "1 of 3" in text
    verify(x0, x0, threat, IDS, "good")


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.1), ("l2", 0.1 * math.sqrt(3)), ("l1", 0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_budget_is_checked_in_each_norm(norm: str, length: float, dtype: torch.dtype) -> None:
    x0 = original().to(dtype)
    x = x0.clone()
    x[2].view(-1)[:3] += torch.tensor([0.1, -0.1, 0.1], dtype=dtype)
    verify(x, x0, ThreatModel(norm, length), IDS, "fits")
    with pytest.raises(ViolationError, match=rf"{norm} distance <= .*got {length:.4g}.* for sample 42"):
        verify(x, x0, ThreatModel(norm, length * 0.999), IDS, "evil")


@pytest.mark.parametrize("domain", ["real", "integer", "binary"])
def test_changed_entries_are_counted_however_small_the_change(domain: str) -> None:
    x0 = original(0.5 if domain == "real" else 0.0)
    x = x0.clone()
    x[2].view(-1)[1:] += 1e-7 if domain == "real" else 1.0
    for allowed in (3, 3.5, 2.9999999, 4):
        verify(x, x0, ThreatModel("l0", allowed, domain=domain), IDS, "fits")
    for too_few in (0, 2, 2.9):
        with pytest.raises(ViolationError, match=r"l0 distance <= .*got 3.* for sample 42"):
            verify(x, x0, ThreatModel("l0", too_few, domain=domain), IDS, "evil")


def test_a_count_of_entries_has_no_relative_tolerance() -> None:
    x0 = torch.zeros(1, 40_000)
    x = x0.clone()
    x[0, :20_001] = 1
    with pytest.raises(ViolationError, match=r"l0 distance <= 20000 .*got 20001"):
        verify(x, x0, ThreatModel("l0", 20_000), [7], "evil")


def test_epsilon_zero_allows_the_original_alone() -> None:
    x0 = original()
    verify(x0.clone(), x0, ThreatModel("l2", 0.0), IDS, "good")
    with pytest.raises(ViolationError, match="distance"):
        verify(x0 + 1e-5, x0, ThreatModel("linf", 0.0), IDS, "evil")


def test_shape_is_checked_first() -> None:
    with pytest.raises(ViolationError, match=r"shape \(3, 2, 2\) from 'evil', got \(2, 2, 2\)"):
        verify(original()[:2] * math.nan, original(), ThreatModel("linf", 0.1), IDS, "evil")
    with pytest.raises(ViolationError, match="shape"):
        verify(original().reshape(3, 4), original(), ThreatModel("linf", 0.1), IDS, "evil")
    verify(original()[:0], original()[:0], ThreatModel("linf", 0.1), [], "nothing")


@pytest.mark.parametrize("high", [1.0, 255.0, 1000.1])
@pytest.mark.parametrize("epsilon", [1e-2, 8 / 255])
def test_float32_rounding_is_not_a_violation(high: float, epsilon: float) -> None:
    """x0 + epsilon in float32 is off by half a unit in the last place, which is 8e-6 at 255."""
    x0 = torch.rand(3, 500, generator=torch.Generator().manual_seed(0)) * high
    x0[:, 0] = high
    x = (x0 + epsilon * torch.randn_like(x0).sign()).clamp(0.0, high)
    verify(x, x0, ThreatModel("linf", epsilon, (0.0, high)), IDS, "rounded")
    with pytest.raises(ViolationError, match="linf distance"):
        verify(x0 - 1.05 * epsilon, x0, ThreatModel("linf", epsilon, (-high, high)), IDS, "evil")


def rows(*values: float) -> torch.Tensor:
    """One sample of one entry for each value."""
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


@pytest.mark.parametrize(
    ("x0", "x", "threat", "allowed"),
    [
        # Distance: 1e-6 absolute and 1e-4 of epsilon.
        (0.0, 1e-3 + 5e-7, ThreatModel("linf", 1e-3), True),
        (0.0, 1e-3 + 3e-6, ThreatModel("linf", 1e-3), False),
        (0.0, 1 + 5e-5, ThreatModel("linf", 1.0, (0.0, 2.0)), True),
        (0.0, 1 + 2e-4, ThreatModel("linf", 1.0, (0.0, 2.0)), False),
        # Bounds: 1e-6 absolute and a float32 rounding error of the larger of both entries.
        (0.0, -5e-7, ThreatModel("linf", 0.1), True),
        (0.0, -3e-6, ThreatModel("linf", 0.1), False),
        (1.0, 1 + 5e-7, ThreatModel("linf", 0.1), True),
        (1.0, 1 + 3e-6, ThreatModel("linf", 0.1), False),
        (0.0, 255 + 2e-5, ThreatModel("linf", 300.0, (0.0, 255.0)), True),
        (255.0, -2e-5, ThreatModel("linf", 300.0, (0.0, 255.0)), True),
        (255.0, -5e-5, ThreatModel("linf", 300.0, (0.0, 255.0)), False),
        # Whole numbers: 1e-6 absolute, above and below.
        (1.0, 1 + 5e-7, ThreatModel("linf", 1.0, (0.0, 2.0), "integer"), True),
        (1.0, 1 + 3e-6, ThreatModel("linf", 1.0, (0.0, 2.0), "integer"), False),
        (1.0, 1 - 3e-6, ThreatModel("linf", 1.0, (0.0, 2.0), "integer"), False),
        (1.0, 1 - 3e-6, ThreatModel("linf", 1.0, (0.0, 1.0), "binary"), False),
    ],
    ids=str,
)
def test_the_tolerances(x0: float, x: float, threat: ThreatModel, allowed: bool) -> None:
    if allowed:
        verify(rows(x), rows(x0), threat, IDS, "rounded")
    else:
        with pytest.raises(ViolationError, match="sample 40"):
            verify(rows(x), rows(x0), threat, IDS, "evil")


def test_the_tolerance_of_a_sample_does_not_depend_on_other_samples() -> None:
    threat = ThreatModel("linf", 1e-3, (0.0, 1000.0))
    with pytest.raises(ViolationError, match=r"sample 41 \(1 of 2 samples\)"):
        verify(rows(1000.0, 1e-3 + 5e-6), rows(1000.0, 0.0), threat, IDS, "evil")


def test_float32_rounding_of_float64_examples_is_not_a_violation() -> None:
    """An attack that computes in float32 on float64 data."""
    x0 = torch.full((3, 4), 254.9)
    x = x0 + 8 / 255
    verify(x.double(), x0.double(), ThreatModel("linf", 8 / 255, (0.0, 255.0)), IDS, "rounded")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_examples_in_half_precision_have_the_tolerance_of_their_dtype(dtype: torch.dtype) -> None:
    x0 = torch.rand(3, 500, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = (x0 + 8 / 255).clamp(0, 1)
    verify(x, x0, ThreatModel("linf", 8 / 255), IDS, "rounded")
    with pytest.raises(ViolationError, match="linf distance"):
        verify(x, x0, ThreatModel("linf", 4 / 255), IDS, "evil")


def test_tensors_that_require_gradients_are_checked() -> None:
    x0 = original().requires_grad_()
    verify((x0 + 0.05).requires_grad_(), x0, ThreatModel("linf", 0.1), IDS, "good")
    with pytest.raises(ViolationError, match="distance"):
        verify((x0 + 0.2).requires_grad_(), x0, ThreatModel("linf", 0.1), IDS, "evil")


def test_large_values_are_checked_against_the_bounds() -> None:
    x0 = original()
    for entry in (1e9, 1.00001, -1e9):
        x = x0.clone()
        x[0, 0, 0] = entry
        with pytest.raises(ViolationError, match="within"):
            verify(x, x0, ThreatModel("linf", 1e12), IDS, "evil")


def test_a_broken_projection_is_caught() -> None:
    """Negative control: without clipping to the bounds, an L1 projection leaves them."""
    x0 = original(0.9)
    with pytest.raises(ViolationError, match="within"):
        verify(x0 + 0.2, x0, ThreatModel("l1", 1.0), IDS, "no box")


def test_the_check_does_not_use_the_threat_models_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the check used the projection")

    for name in ("project", "start", "steepest"):
        monkeypatch.setattr(ThreatModel, name, refuse)
    verify(original() + 0.05, original(), ThreatModel("l2", 0.2), IDS, "good")
    with pytest.raises(ViolationError):
        verify(original() + 0.3, original(), ThreatModel("l2", 0.2), IDS, "evil")
    imported = [
        alias.name
        for node in ast.walk(ast.parse(inspect.getsource(verify_module)))
        if isinstance(node, ast.ImportFrom) and node.module == "snnrobust.threat_models.threat_model"
        for alias in node.names
    ]
    assert imported == ["ThreatModel"]
