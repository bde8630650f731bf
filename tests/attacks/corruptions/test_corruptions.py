"""Corruptions: closed-form rates, keyed draws, unchanged at severity 0."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import prepare
from snnrobust.errors import InputError
from snnrobust.plugin import Corruption
from snnrobust.plugin.task import Task
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_attacks.corruptions.gaussian import Gaussian
from snnrobust_attacks.corruptions.salt_and_pepper import SaltAndPepper
from snnrobust_attacks.corruptions.spike_deletion import SpikeDeletion
from snnrobust_attacks.corruptions.time_jitter import TimeJitter
from snnrobust_attacks.corruptions.uniform import Uniform

EVERY = [Gaussian(), Uniform(), SaltAndPepper(), SpikeDeletion(), TimeJitter()]
RNG = Draws(3, "noise")


def spikes(n: int = 5, steps: int = 6, rate: float = 0.4) -> Tensor:
    return torch.bernoulli(torch.full((n, steps, 4, 3), rate), generator=torch.Generator().manual_seed(0))


def model(**settings: Any) -> SpikingModel:
    return wrap(nn.Sequential(nn.Flatten(2), nn.Linear(12, 2), neuron.IFNode(step_mode="m")), **settings)


TEMPORAL = {"encoder": None, "domain": "binary"}
DATA = prepare((torch.zeros(2, 6, 4, 3), torch.zeros(2, dtype=torch.long)), 2)


@pytest.mark.parametrize("corruption", EVERY, ids=repr)
def test_protocol_shape_and_dtype(corruption: Corruption) -> None:
    assert isinstance(corruption, Corruption)
    for dtype in (torch.float32, torch.float64):
        x = spikes().to(dtype)
        out = corruption.apply(x, 0.5, RNG, torch.arange(5))
        assert out.shape == x.shape
        assert out.dtype == dtype
        assert not torch.equal(out, x)


@pytest.mark.parametrize("corruption", EVERY, ids=repr)
def test_severity_zero_changes_no_bit(corruption: Corruption) -> None:
    x = spikes()
    x[0, 0, 0, 0] = 0.0 if isinstance(corruption, SpikeDeletion | TimeJitter) else -0.0
    before = x.clone()
    out = corruption.apply(x, 0.0, RNG, torch.arange(5))
    assert torch.equal(out.view(torch.int32), before.view(torch.int32))


@pytest.mark.parametrize("corruption", EVERY, ids=repr)
def test_a_sample_does_not_depend_on_its_batch_mates(corruption: Corruption) -> None:
    x = spikes()
    x[4] *= 3 if isinstance(corruption, SpikeDeletion) else 1  # batch mates with more events than sample 2
    before = x.clone()
    together = corruption.apply(x, 0.5, RNG, torch.arange(5))
    assert torch.equal(x, before)
    alone = corruption.apply(x[[2]], 0.5, RNG, torch.tensor([2]))
    assert torch.equal(together[[2]], alone)
    order = torch.tensor([3, 2, 0, 4, 1])
    assert torch.equal(corruption.apply(x[order], 0.5, RNG, order), together[order])
    # Control: other ids and other streams draw other numbers.
    assert not torch.equal(corruption.apply(x[[2]], 0.5, RNG, torch.tensor([7])), alone)
    assert not torch.equal(corruption.apply(x[[2]], 0.5, RNG.sub("draw", 1), torch.tensor([2])), alone)


def test_gaussian_moments() -> None:
    noise = Gaussian().apply(torch.full((4, 100, 100), 0.3), 0.2, RNG, torch.arange(4)) - 0.3
    assert noise.mean().abs() < 5 * 0.2 / 200
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert ((noise.abs() < 0.2).float().mean() - 0.6827).abs() < 0.01  # normal, not merely of that width


def test_uniform_stays_within_its_severity_and_fills_it() -> None:
    noise = Uniform().apply(torch.zeros(4, 100, 100), 0.2, RNG, torch.arange(4))
    assert noise.abs().max() <= 0.2
    assert noise.abs().max() > 0.199
    assert noise.std() == pytest.approx(0.2 / math.sqrt(3), rel=0.02)


def test_salt_and_pepper_shares() -> None:
    x = torch.full((4, 100, 100), 5.0)
    out = SaltAndPepper(low=-1.0, high=7.0).apply(x, 0.3, RNG, torch.arange(4))
    assert set(out.unique().tolist()) == {-1.0, 5.0, 7.0}
    assert ((out == -1).float().mean() - 0.15).abs() < 0.01
    assert ((out == 7).float().mean() - 0.15).abs() < 0.01
    assert (SaltAndPepper().apply(x, 1.0, RNG, torch.arange(4)) != 5.0).all()


def test_salt_and_pepper_replaces_more_of_the_same_as_severity_grows() -> None:
    x = torch.full((2, 50), 0.5)
    mild, strong = (SaltAndPepper().apply(x, s, RNG, torch.arange(2)) for s in (0.2, 0.6))
    touched = mild != 0.5
    assert torch.equal(strong[touched], mild[touched])


@pytest.mark.parametrize("count", [1, 5])
def test_deletion_is_binomial_thinning(count: int) -> None:
    x = torch.full((2, 10, 2000), float(count))
    left = SpikeDeletion().apply(x, 0.3, RNG, torch.arange(2))
    assert torch.equal(left, left.round())
    assert left.min() >= 0
    assert left.max() <= count
    assert left.mean() == pytest.approx(0.7 * count, rel=0.02)
    assert left.var() == pytest.approx(count * 0.3 * 0.7, rel=0.05)  # binomial: not all or nothing
    assert not SpikeDeletion().apply(x, 1.0, RNG, torch.arange(2)).any()


def test_deletion_adds_nothing() -> None:
    x = spikes()
    assert (SpikeDeletion().apply(x, 0.5, RNG, torch.arange(5)) <= x).all()


def test_jitter_moves_a_spike_by_a_rounded_normal() -> None:
    x = torch.zeros(2, 41, 3000)
    x[:, 20] = 1
    out = TimeJitter().apply(x, 2.0, RNG, torch.arange(2))
    assert torch.equal(out.sum(dim=1), torch.ones(2, 3000))  # one spike in, one out: nothing to meet
    shift = out.argmax(dim=1).float() - 20
    assert shift.mean().abs() < 0.15
    assert shift.var() == pytest.approx(4 + 1 / 12, rel=0.05)  # rounding adds 1/12
    assert ((shift == 0).float().mean() - 0.1974).abs() < 0.02  # P(|n| < 0.25)


def test_jitter_merges_and_clamps() -> None:
    x = spikes(rate=0.9)
    out = TimeJitter().apply(x, 1e6, RNG, torch.arange(5))
    assert set(out.unique().tolist()) == {0.0, 1.0}
    assert not out[:, 1:-1].any()  # all at the ends
    assert (out.sum(dim=1) <= x.sum(dim=1)).all()
    small = TimeJitter().apply(x, 0.5, RNG, torch.arange(5))
    assert (small.sum(dim=1) <= x.sum(dim=1)).all()
    assert torch.equal(small.sum(dim=1) > 0, x.sum(dim=1) > 0)


def task(corruption: Corruption, *severities: float) -> Task:
    return Task("noise", "noise", "noise", "", corruption, severities or (0.0, 1.0))


@pytest.mark.parametrize(
    ("corruption", "settings"),
    [
        (Gaussian(), TEMPORAL),
        (Uniform(), TEMPORAL),
        (SaltAndPepper(high=2.0), {"steps": 2}),
        (SpikeDeletion(), {"encoder": None}),
        (SpikeDeletion(), {"encoder": None, "domain": "integer", "bounds": (-1, 1)}),
        (SpikeDeletion(), {"steps": 2, "domain": "binary"}),
        (TimeJitter(), {"steps": 2, "domain": "binary"}),
        (TimeJitter(), {"encoder": None, "domain": "integer", "bounds": (0, 7)}),
        (TimeJitter(high=7.0), TEMPORAL),
    ],
    ids=repr,
)
def test_check_refuses_models_that_do_not_fit(corruption: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected .*, got .*"):
        corruption.check(model(**settings), DATA, task(corruption))


@pytest.mark.parametrize(
    ("corruption", "settings"),
    [
        (Gaussian(), {"steps": 2}),
        (Uniform(), {"encoder": None}),
        (SaltAndPepper(), TEMPORAL),
        (SaltAndPepper(-1, 2), {"steps": 2, "bounds": (-1, 2)}),
        (SpikeDeletion(), TEMPORAL),
        (SpikeDeletion(), {"encoder": None, "domain": "integer", "bounds": (0, 7)}),
        (TimeJitter(), TEMPORAL),
        (TimeJitter(high=7.0), {"encoder": None, "domain": "integer", "bounds": (0, 7)}),
    ],
    ids=repr,
)
def test_check_accepts_models_that_fit(corruption: Any, settings: dict[str, Any]) -> None:
    corruption.check(model(**settings), DATA, task(corruption))


@pytest.mark.parametrize(
    ("corruption", "severity"),
    [(SaltAndPepper(), 1.5), (SpikeDeletion(), -0.1), (SpikeDeletion(), 2.0), (TimeJitter(), math.inf)],
)
def test_severities_out_of_range(corruption: Corruption, severity: float) -> None:
    with pytest.raises(InputError, match="severity"):
        corruption.apply(spikes(), severity, RNG, torch.arange(5))


def test_salt_and_pepper_needs_low_below_high() -> None:
    with pytest.raises(InputError, match="low < high"):
        SaltAndPepper(1.0, 0.0)


@pytest.mark.parametrize("corruption", [SaltAndPepper(), SpikeDeletion()], ids=repr)
def test_check_refuses_shares_above_one(corruption: Any) -> None:
    with pytest.raises(InputError, match=r"severity in \[0, 1\] .* got 1.5"):
        corruption.check(model(**TEMPORAL), DATA, task(corruption, 0.5, 1.5))
