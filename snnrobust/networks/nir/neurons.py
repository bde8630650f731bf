"""Modules for the NIR nodes that have a memory or fire: plain torch code, without state between calls.

Each takes all steps at once, [T, N, *], and starts from its initial state at each call. `step` does one step from an
explicit state, for nets with loops.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from snnrobust.errors import InputError

State = tuple[Tensor, ...]
SpikeFunction = Callable[[Tensor], Tensor]


class Stateful(nn.Module, ABC):
    """A module with a memory."""

    @abstractmethod
    def step(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One step.

        Args:
            x: Input [N, *].
            state: The state after the step before; None at the first step.

        Returns:
            Output [N, *] and the new state.
        """

    def forward(self, x: Tensor) -> Tensor:
        """All steps [T, N, *], from the initial state."""
        state: State | None = None
        outputs = []
        for now in x:
            out, state = self.step(now, state)
            outputs.append(out)
        return torch.stack(outputs)


class Neuron(Stateful):
    """Integrator or neuron of NIR by forward Euler, with or without leak, synapse and spikes.

        I[t] = I[t-1] + (w_in x[t] - I[t-1]) / tau_syn        with a synapse; else I[t] = x[t]
        u[t] = v[t-1] + (r I[t] - (v[t-1] - v_leak)) / tau    with a leak
               v[t-1] + r I[t]                                without
        o[t] = H(u[t] - v_threshold), 0 at the threshold      with spikes; else the output is u[t]
        v[t] = v_reset where o[t] = 1, else u[t]              hard reset
               u[t] - v_threshold o[t]                        soft reset

    Time constants are in steps. The sums are in the order of SpikingJelly's nodes, so that spikes are equal to theirs.

    Args:
        r: Resistance; without leak times the step.
        tau: Membrane time constant; None: no leak.
        v_leak: Rest of the membrane potential.
        threshold: None: no spikes.
        v_reset: Membrane potential after a spike; None: a soft reset.
        synapse: (tau_syn, w_in).
        spike: Maps u minus the threshold to spikes, with a gradient.
    """

    def __init__(
        self,
        r: Tensor,
        *,
        tau: Tensor | None = None,
        v_leak: Tensor | None = None,
        threshold: Tensor | None = None,
        v_reset: Tensor | None = None,
        synapse: tuple[Tensor, Tensor] | None = None,
        spike: SpikeFunction | None = None,
    ) -> None:
        super().__init__()
        tau_syn, w_in = synapse or (None, None)
        fires_from = None if threshold is None else above(threshold)
        self.r: Tensor
        self.tau: Tensor | None
        self.v_leak: Tensor | None
        self.threshold: Tensor | None
        self.fires_from: Tensor | None
        self.v_reset: Tensor | None
        self.tau_syn: Tensor | None
        self.w_in: Tensor | None
        for name, value in {
            **{"r": r, "tau": tau, "v_leak": v_leak, "threshold": threshold, "fires_from": fires_from},
            **{"v_reset": v_reset, "tau_syn": tau_syn, "w_in": w_in},
        }.items():
            self.register_buffer(name, value)
        self.shape = next((value.shape for value in self.buffers() if value.ndim), torch.Size())
        self.spike = spike

    def step(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One step; the state is (v,) or, with a synapse, (v, I)."""
        _check_shape(self.shape, x)
        if state is None:
            v = torch.zeros_like(x) if self.v_reset is None else torch.zeros_like(x) + self.v_reset
            state = (v,) if self.tau_syn is None else (v, torch.zeros_like(x))
        v, *rest = state
        if self.tau_syn is not None and self.w_in is not None:
            x = rest[0] + (self.w_in * x - rest[0]) / self.tau_syn
            rest = [x]
        drive = self.r * x
        if self.tau is not None and self.v_leak is not None:
            drive = (drive - (v - self.v_leak)) / self.tau
        u = v + drive
        if self.threshold is None or self.fires_from is None or self.spike is None:
            return u, (u, *rest)
        o = self.spike(u - self.fires_from)
        v = u - self.threshold * o if self.v_reset is None else o * self.v_reset + (1.0 - o) * u
        return o, (v, *rest)


class Threshold(nn.Module):
    """1 where the input is above the threshold, else 0.

    Args:
        threshold: The threshold.
        spike: Maps the input minus the threshold to spikes, with a gradient.
    """

    def __init__(self, threshold: Tensor, spike: SpikeFunction) -> None:
        super().__init__()
        self.fires_from: Tensor
        self.register_buffer("fires_from", above(threshold))
        self.spike = spike

    def forward(self, x: Tensor) -> Tensor:
        """[T, N, *] or [N, *]."""
        _check_shape(self.fires_from.shape, x)
        return self.spike(x - self.fires_from)


class Delay(Stateful):
    """y[t] = x[t - d], and 0 before.

    Args:
        steps: d, whole numbers from 0.
    """

    def __init__(self, steps: Tensor) -> None:
        super().__init__()
        self.steps: Tensor
        self.register_buffer("steps", steps)
        #: Delays that occur.
        self._different = sorted({int(each) for each in steps.flatten().tolist()})

    def step(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One step; the state is the past inputs, the latest first."""
        _check_shape(self.steps.shape, x)
        past = [x, *(state or ())][: self._different[-1] + 1]
        out = torch.zeros_like(x)
        for d in self._different:
            if d < len(past):
                out = torch.where(self.steps == d, past[d], out)
        return out, tuple(past)


class OneStep(nn.Module):
    """A stateful module in a graph that is called step by step: nirtorch passes the state along.

    The state begins with the output, for feedback.

    Args:
        module: The module.
    """

    def __init__(self, module: Stateful) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, state: tuple[Tensor, State] | None = None) -> tuple[Tensor, tuple[Tensor, State]]:
        """One step [N, *], and the new state."""
        out, after = self.module.step(x, None if state is None else state[1])
        return out, (out, after)


def above(threshold: Tensor) -> Tensor:
    """The next float above: a potential u is above `threshold` just if u >= above(threshold)."""
    return torch.nextafter(threshold, torch.full_like(threshold, torch.inf))


def _check_shape(shape: torch.Size, x: Tensor) -> None:
    """Parameters that differ between neurons belong to the last axes."""
    if shape and x.shape[-len(shape) :] != shape:
        raise InputError(
            f"expected an input whose last axes are {list(shape)}, as the node's parameters, got shape "
            f"{list(x.shape)}; check the layer before it in the NIR graph"
        )
