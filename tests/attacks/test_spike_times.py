"""Inputs that are spike times: absent spikes stay absent, others keep to their budget; noise; bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.errors import InputError, ViolationError
from snnrobust.testing.tiny import tiny_data, tiny_model, tiny_time_model, tiny_times
from snnrobust.threat_models.threat_model import BALLS, Norm, ThreatModel
from snnrobust.threat_models.verify import verify


def times(seed: int, silent: float) -> Tensor:
    """Spike times [6, 5, 2], some absent."""
    unit = torch.rand(6, 5, 2, generator=torch.Generator().manual_seed(seed))
    return torch.where(unit < 0.3, torch.full_like(unit, silent), silent * unit)


@given(st.integers(0, 10_000), st.sampled_from(BALLS), st.sampled_from([0.26, 0.52, 1.0]))
def test_projections_and_starts_leave_absent_spikes(seed: int, norm: Norm, silent: float) -> None:
    x0, ids = times(seed, silent), torch.arange(6)
    threat = ThreatModel(norm, 3.0 if norm == "l0" else 0.2, (0.0, silent), silent=silent)
    moved = x0 + torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + 1))
    free = ThreatModel(norm, threat.epsilon, threat.bounds)
    absent = x0 == silent
    for x in (threat.project(moved, x0), threat.start(x0, Draws(seed, "times"), ids)):
        assert x[absent].equal(x0[absent])
        verify(x, x0, threat, list(range(6)), "test")
    # The projection is that of the spikes alone.
    torch.testing.assert_close(threat.project(moved, x0), free.project(torch.where(absent, x0, moved), x0))


def test_absent_spikes_of_a_net_in_float64_stay() -> None:
    """0.52 as float32 data is another number in float64."""
    x0 = times(0, 0.52).double()
    threat = ThreatModel("linf", 0.2, (0.0, 0.52), silent=0.52)
    absent = times(0, 0.52) == 0.52
    assert not (x0[absent] == 0.52).any()
    assert threat.project(x0 - 0.1, x0)[absent].equal(x0[absent])
    with pytest.raises(ViolationError, match="as they were"):
        verify(torch.where(absent, x0 - 0.1, x0), x0, threat, list(range(6)), "test")


def test_the_verifier_rejects_a_spike_that_was_absent() -> None:
    x0 = times(0, 0.52)
    threat = ThreatModel("linf", 0.2, (0.0, 0.52), silent=0.52)
    absent = (x0 == 0.52).nonzero()[0]
    x = x0.clone()
    x[tuple(absent)] -= 0.1  # within the budget and the bounds
    verify(x, x0, ThreatModel("linf", 0.2, (0.0, 0.52)), list(range(6)), "test")
    with pytest.raises(ViolationError, match=r"entries of 0\.52 as they were"):
        verify(x, x0, threat, list(range(6)), "test")


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.2), ("l1", 0.3), ("l0", 2)])
def test_attacks_move_spikes_and_break_the_net(norm: str, epsilon: float) -> None:
    model, data = tiny_time_model(), tiny_times()
    broken = 0
    for task in (
        sr.load("standard", norm=norm, epsilon=epsilon, steps=10, queries=50),
        sr.load("pgd" if norm != "l0" else "flips", norm=norm, epsilon=epsilon, steps=10),
    ):
        found = sr.attack(model, data, task)
        assert found.x[data.x == 1].eq(1).all()
        broken += int(found.success.sum())
    assert broken > 0


def test_the_threat_model_is_named_in_the_report() -> None:
    report = sr.evaluate(
        tiny_time_model(), tiny_times(), [sr.load("pgd", epsilon=0.1)], evidence="none", progress=False
    )
    assert report.curve("pgd").threat == "linf in [0, 1], real, 1 fixed"


def noisy(name: str, severity: float, **options: Any) -> tuple[Tensor, Tensor]:
    """Times of 40 samples before and after a corruption."""
    x = times(3, 1.0).repeat(40, 1, 1)
    plugin = sr.load(name, severity=severity, **options).plugin
    return x, plugin.apply(x, severity, Draws(0, name), torch.arange(len(x)))


def test_deletion_and_insertion_have_their_rates_and_change_nothing_else() -> None:
    x, found = noisy("spike-time-deletion", 0.25)
    absent = x == 1
    assert found[absent].eq(1).all()
    lost = found[~absent] == 1
    assert abs(float(lost.float().mean()) - 0.25) < 0.03
    assert found[~absent][~lost].equal(x[~absent][~lost])
    x, found = noisy("spike-time-insertion", 0.25)
    appeared = found[absent] < 1
    assert abs(float(appeared.float().mean()) - 0.25) < 0.04
    assert abs(float(found[absent][appeared].mean()) - 0.5) < 0.06
    assert found[~absent].equal(x[~absent])
    for name in ("spike-time-deletion", "spike-time-insertion"):
        x, found = noisy(name, 0.0)
        assert found.equal(x)


def test_noise_keeps_absent_spikes_but_for_insertion() -> None:
    """Of a net of one sample whose accuracy tells whether an absent spike has appeared."""

    class Absent(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            appeared = (x[:, 0, 0] < 1).float()
            return torch.stack([1 - appeared, appeared], dim=1)

    model = sr.wrap(Absent(), layout="N", silent=1.0)
    x = torch.tensor([[[1.0], [0.5]]]).repeat(20, 1, 1)
    tasks = [
        sr.load("gaussian", severity=0.5, draws=5),
        sr.load("spike-time-deletion", severity=0.5, draws=5),
        sr.load("spike-time-insertion", severity=0.5, draws=5),
    ]
    report = sr.evaluate(model, (x, torch.zeros(20, dtype=torch.long)), tasks, evidence="none", progress=False)
    right = [report.curve(task.label).value[0] for task in tasks]
    assert right[:2] == [1.0, 1.0]
    assert 0.3 < right[2] < 0.7


def test_misfits_are_refused() -> None:
    model, data = tiny_time_model(), tiny_times()
    for task, message in (
        (sr.load("retiming", norm="shift-linf", epsilon=1), "'linf' \\(the largest shift\\)"),
        (sr.load("spike-time-deletion", severity=0.5, silent=0.5), "expected silent=1"),
    ):
        with pytest.raises(InputError, match=message):
            sr.evaluate(model, data, [task])
    with pytest.raises(InputError, match="expected spike times"):
        sr.evaluate(tiny_model(False), tiny_data(), [sr.load("spike-time-deletion", severity=0.5)])
    late = data.x.masked_fill(data.x == 1, float("inf"))
    with pytest.raises(InputError, match=r"infin|finite"):
        sr.evaluate(model, (late, data.y), [sr.load("pgd", epsilon=0.1)])
