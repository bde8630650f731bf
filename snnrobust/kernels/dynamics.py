"""The equations of the leaky integrate-and-fire family, written once: stateless functions of the input current."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Charge = Literal["divide", "multiply", "keep"]
Reset = Literal["hard", "soft", "none"]
SpikeFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Dynamics:
    """The parameters of a neuron model; each time step charges the membrane, fires, and resets.

        u[t] = v + (x - (v - r)) / rate      charge "divide", decay_input     (LIF, rate = tau)
               v - (v - r) / rate + x        charge "divide"
               ... * rate                    charge "multiply": the same two  (parametric LIF, rate = 1 / tau)
               rate v + x                    charge "keep"                    (rate = 1: IF; 0: no memory)
               ... + V o[t-1]                with `lateral` V
        o[t] = H(u[t] - threshold)           a membrane at the threshold fires
        v[t] = o r + (1 - o) u               reset "hard"
               u - threshold o               reset "soft"
               u                             reset "none"

    with v = v[t-1] and r = `reset_value`. Division and multiplication round differently, so they are kept apart: a
    spike on the threshold depends on it.

    Source: Gerstner et al. 2014, "Neuronal Dynamics", section 1.3, in discrete time; the forms are those of
    SpikingJelly's nodes and of Yin et al. 2024, arXiv 2403.16674.

    Attributes:
        charge: How the membrane takes up the input and leaks.
        rate: Its rate; a scalar tensor where it is learnt.
        threshold: Membrane potential at which it fires.
        reset: What a spike does to the membrane.
        reset_value: The r above; also the start v[-1] of a hard reset. Else the start is 0.
        decay_input: Whether the input is scaled with the leak.
        detach_reset: Whether no gradient passes through the reset.
        lateral: V [F, F], from the spikes of the previous step to the current of this one.
    """

    charge: Charge
    rate: float | Tensor
    threshold: float
    reset: Reset
    reset_value: float = 0.0
    decay_input: bool = False
    detach_reset: bool = False
    lateral: Tensor | None = None

    @property
    def start(self) -> float:
        """The membrane potential before the first step."""
        return self.reset_value if self.reset == "hard" else 0.0

    @property
    def number(self) -> float:
        """The rate as a plain number."""
        return self.rate.item() if isinstance(self.rate, Tensor) else self.rate

    @property
    def leak(self) -> float:
        """The share k of the membrane potential that a step keeps, in u[t] = k v[t-1] + gain x[t]."""
        if self.charge == "keep":
            return self.number
        return 1 - (1 / self.number if self.charge == "divide" else self.number)

    @property
    def gain(self) -> float:
        """What the input is multiplied by."""
        return 1 - self.leak if self.decay_input else 1.0

    def charged(self, x: Tensor, v: Tensor) -> Tensor:
        """The membrane potential u before firing, from the input x and the membrane v, [N, *] each."""
        if self.charge == "keep":
            # Complete leakage skips 0 * v, so that an infinite membrane potential is forgotten too; the copy keeps
            # the membrane from being the caller's tensor.
            forgets = isinstance(self.rate, float) and self.rate == 0
            return x.clone() if forgets else self.rate * v + x
        past = v - self.reset_value
        if self.decay_input:
            change = (x - past) / self.rate if self.charge == "divide" else (x - past) * self.rate
            return v + change
        return v - (past / self.rate if self.charge == "divide" else past * self.rate) + x

    def after(self, u: Tensor, o: Tensor) -> Tensor:
        """The membrane potential after a spike o or none, [N, *]."""
        o = o.detach() if self.detach_reset else o
        if self.reset == "hard":
            return o * self.reset_value + (1.0 - o) * u
        return u - o * self.threshold if self.reset == "soft" else u

    def step(self, x: Tensor, v: Tensor, before: Tensor | None, spike: SpikeFunction) -> tuple[Tensor, Tensor, Tensor]:
        """One time step.

        Args:
            x: Input [N, *].
            v: Membrane potential after the step before, [N, *].
            before: Its spikes [N, F], for a lateral input; None at the first step.
            spike: Spikes of u - threshold, with a derivative.

        Returns:
            Spikes o, the membrane potentials u before and v after the reset, [N, *] each.
        """
        u = self.charged(x, v)
        if self.lateral is not None and before is not None:
            u = u + torch.nn.functional.linear(before, self.lateral)
        o = spike(u - self.threshold)
        return o, u, self.after(u, o)


def multi_step(dynamics: Dynamics, current: Tensor, spike: SpikeFunction, steps: int | None = None) -> Tensor:
    """Spikes over time from the initial state: plain torch code, twice differentiable, also under vmap and jvp.

    Args:
        dynamics: The neuron model.
        current: Input current [T, N, *]; or [1, N, *], the same at each of `steps` steps.
        spike: Spikes of u - threshold, such as `snnrobust.kernels.spike.spike` with a derivative.
        steps: T, where the current is a single step.

    Returns:
        Spikes [T, N, *].

    Example:
        >>> from snnrobust.kernels.spike import spike
        >>> lif = Dynamics("keep", 0.5, threshold=1.0, reset="hard")
        >>> current = torch.full((4, 1), 0.6)
        >>> multi_step(lif, current, lambda u: spike(u, torch.ones_like)).flatten()  # u: .6, .9, 1.05 (spike), .6
        tensor([0., 0., 1., 0.])
    """
    v = torch.full_like(current[0], dynamics.start)
    o: Tensor | None = None
    spikes = []
    for t in range(steps or len(current)):
        o, _, v = dynamics.step(current[t if len(current) > 1 else 0], v, o, spike)
        spikes.append(o)
    return torch.stack(spikes)
