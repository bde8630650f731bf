"""What spikes without being a step of one argument: named by hand, or named in the report."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError

IN, HIDDEN, CLASSES = 6, 8, 3


def inputs() -> Tensor:
    return torch.rand(7, IN, generator=torch.Generator().manual_seed(3))


def wrapped(net: nn.Module, **settings: Any) -> sr.SpikingModel:
    return sr.wrap(net, layout="N", **settings)


class Random(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return torch.bernoulli(torch.sigmoid(4 * u))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        s = torch.sigmoid(4 * ctx.saved_tensors[0])
        return 4 * gradient * s * (1 - s)


class Draws(nn.Module):
    """Spikes at random: its output is no step of the membrane potential."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(Random.apply(self.first(x)))
        return out


def test_random_spikes_are_named_by_hand() -> None:
    data = inputs(), torch.zeros(7).long()
    task = sr.load("pgd", epsilon=[0.1], steps=2, gradient="atan")
    found = wrapped(Draws(), stochastic=True)
    before = torch.random.get_rng_state()
    assert not found.find_spikes(inputs()).by_name
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(InputError, match=r"'' \(Random: its output is no step of one of its arguments\)"):
        sr.evaluate(found, data, [task], progress=False)
    findings = sr.evaluate(found, data, ["clean"], progress=False).findings
    (finding,) = [each for each in findings if each.name == "spike-gradients"]
    assert finding.passed is False
    assert "Random" in finding.why
    named = wrapped(Draws(), stochastic=True, spike=Random)
    assert list(named.find_spikes(inputs()).by_name) == ["Random"]
    sr.evaluate(named, data, [task], progress=False, evidence="none")
    for wrong in (Random.apply, nn.Linear, "Random"):
        with pytest.raises(sr.InputTypeError, match=r"expected spike to be a subclass of torch.autograd.Function"):
            wrapped(Draws(), spike=wrong)


class Fused(torch.autograd.Function):
    """Spikes and membrane potential from one Function."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
        return (v > 0).to(v), v * 0.5

    @staticmethod
    def backward(ctx: Any, spikes: Tensor, v: Tensor) -> Tensor:
        return spikes + v


class Rounded(torch.autograd.Function):
    """A quantiser of weights: no spike, though its outputs are whole numbers."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        spikes, v = Fused.apply(F.linear(x, Rounded.apply(4 * self.first.weight)) - 0.25)
        out: Tensor = self.out(spikes + 0.01 * v)
        return out


def test_what_is_no_single_spike_is_named_or_no_spike_at_all() -> None:
    sites = wrapped(Odd()).find_spikes(inputs())
    assert [(each.what, each.why.split(",")[0]) for each in sites.unsupported] == [
        ("Fused", "it returns several tensors")
    ]
