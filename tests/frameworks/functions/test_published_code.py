"""Nets in the two most common styles of published code, written anew: activity equals a count by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.kernels.derivative import Derivative
from snnrobust.spike_gradients.swap import SpikeGradient
from snnrobust_attacks.estimators.atan import ATan

N, T, IN, HIDDEN, CLASSES = 6, 11, 7, 9, 3


class Spike(torch.autograd.Function):
    """Spikes as they are emitted are kept on the class: what a net holds is put back."""

    emitted: ClassVar[list[Tensor]] = []
    by_hand: ClassVar[bool] = False

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        out = torch.zeros_like(u)
        out[u > 0] = 1.0
        Spike.emitted.append(out.clone())
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return gradient * Derivative.atan(4.0)(u) if Spike.by_hand else gradient / (1 + 10 * u.abs()) ** 2


class AtHalf(Spike):
    """The threshold is a constant inside."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return Spike.forward(ctx, v - 0.5)


class SpikesFirst(nn.Module):
    """Each step spikes before it takes its input, so that no gradient passes the first one; layer after layer.

    After the style of Zenke's tutorials.
    """

    def __init__(self, layers: int, steps_first: bool = False) -> None:
        super().__init__()
        sizes = [IN, *[HIDDEN] * layers]
        self.weights = nn.ParameterList([4 * torch.randn(a, b) / a**0.5 for a, b in pairwise(sizes)])
        self.back = nn.Parameter(torch.randn(HIDDEN, HIDDEN) / HIDDEN)
        self.out = nn.Parameter(torch.randn(HIDDEN, CLASSES))
        self.steps_first = steps_first

    def step(self, current: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        synapse, v = state
        spikes: Tensor = Spike.apply(v - 1)
        v = (0.8 * v + synapse) * (1 - spikes.detach())
        synapse = 0.5 * synapse + current + spikes @ self.back
        return spikes, (synapse, v)

    def forward(self, x: Tensor) -> Tensor:  # [N, T, IN]
        def start() -> tuple[Tensor, Tensor]:
            return torch.zeros(len(x), HIDDEN), torch.zeros(len(x), HIDDEN)

        if self.steps_first:
            states, total = [start() for _ in self.weights], torch.zeros(len(x), CLASSES)
            for t in range(x.shape[1]):
                signal = x[:, t]
                for k, weight in enumerate(self.weights):
                    signal, states[k] = self.step(signal @ weight, states[k])
                total = total + signal @ self.out
            return total
        for weight in self.weights:
            currents, state, spikes = x @ weight, start(), []
            for t in range(x.shape[1]):
                emitted, state = self.step(currents[:, t], state)
                spikes.append(emitted)
            x = torch.stack(spikes, dim=1)
        return x.sum(dim=1) @ self.out


class Update(nn.Module):
    """A neuron that loops over all steps [T, N, *] itself, and writes into its output."""

    def forward(self, x: Tensor) -> Tensor:
        out, before, spikes = torch.zeros_like(x), torch.zeros_like(x[0]), torch.zeros_like(x[0])
        for t in range(len(x)):
            before = 0.25 * before * (1 - spikes.detach()) + x[t]
            spikes = AtHalf.apply(before)
            out[t] = spikes
        return out


class Repeats(nn.Module):
    """Repeats its input itself, [N, IN] to [N, T, CLASSES]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.spike1, self.spike2 = Update(), Update()
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.mul_(4)

    def forward(self, x: Tensor) -> Tensor:
        sequence = x.repeat(T, 1, 1)
        hidden = self.spike2(self.second(self.spike1(self.first(sequence))))
        out: Tensor = self.out(hidden).permute(1, 0, 2)
        return out


def seeded(build: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: nn.Module = build()
    return net


SEQUENCES = {"layout": "NT", "encoder": None}
CASES: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "one layer": (lambda: SpikesFirst(1), SEQUENCES, ["Spike"]),
    "layer after layer": (lambda: SpikesFirst(3), SEQUENCES, ["Spike:0", "Spike:1", "Spike:2"]),
    "step after step": (lambda: SpikesFirst(3, True), SEQUENCES, ["Spike:0", "Spike:1", "Spike:2"]),
    "layer after layer, T unknown": (lambda: SpikesFirst(2), {"layout": "N", "encoder": None}, ["Spike:0", "Spike:1"]),
    "loops in neurons": (Repeats, {"layout": "N"}, ["spike1", "spike2"]),
}


@pytest.mark.parametrize("case", CASES)
def test_activity_and_swaps_are_right(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, settings, names = CASES[case]
    model = sr.wrap(seeded(build), **settings)
    shape = (N, IN) if settings == {"layout": "N"} else (N, T, IN)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    assert list(model.find_spikes(x).by_name) == names
    Spike.emitted.clear()
    model.net(x)
    by_hand = Spike.emitted[:]
    found = model.record(x)
    for k, name in enumerate(names):
        steps = by_hand[k :: len(names)] if case == "step after step" else by_hand[k * T : (k + 1) * T]
        assert torch.equal(found.spikes[name], torch.stack(steps, dim=1))
    assert found.spikes[names[-1]].any()
    report = sr.evaluate(model, (x, torch.zeros(N).long()), ["activity"], progress=False, evidence="none")
    rates = {each.metric: each.value for each in report.records}
    for name in names:
        assert rates[f"firing_rate:{name}"] == pytest.approx(float(found.spikes[name].mean()))

    def gradient() -> tuple[Tensor, Tensor]:
        at = x.clone().requires_grad_()
        logits = model.logits(at)
        return logits.detach(), torch.autograd.grad(F.cross_entropy(logits, torch.arange(N) % CLASSES), at)[0]

    plain, own = gradient()
    with SpikeGradient(model, ATan(alpha=4.0)):
        logits, swapped = gradient()
    monkeypatch.setattr(Spike, "by_hand", True)
    assert torch.equal(logits, plain)
    assert torch.allclose(swapped, gradient()[1], rtol=1e-5, atol=1e-9)
    assert not torch.allclose(swapped, own)
