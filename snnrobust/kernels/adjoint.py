"""The gradient of `dynamics.multi_step` with respect to its input current: a recursion backwards in time.

With the gradients g to the spikes, c to the membrane v after the reset and h to the membrane u before it:

    h[t] = g[t] d[t] + c[t] dv/du      d = derivative(u[t] - threshold)
           dv/du = 1 - o + (r - u) d   reset "hard"    ((r - u) d and -threshold d only where the reset is not detached)
                   1 - threshold d     reset "soft"
                   1                   reset "none"
    c[t-1] = h[t] du/dv,  to the current h[t] du/dx,  to the spikes o[t-1] also V^T h[t] through lateral recurrence

Only the current has to be saved for it: membrane potentials are recomputed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from snnrobust.kernels.dynamics import Dynamics

#: (input x, membrane v, lateral input or None) to the membranes (u before the reset, v after it); all flat, [M].
ForwardStep = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
#: (u, gradient to the spikes, gradient to v) to the gradients to (the input, u, v of the step before); all flat, [M].
BackwardStep = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def spikes(dynamics: Dynamics, u: Tensor) -> Tensor:
    """1 where the membrane u is at or above the threshold, else 0."""
    return (u - dynamics.threshold >= 0).to(u)


def step(dynamics: Dynamics, x: Tensor, v: Tensor, beside: Tensor | None) -> tuple[Tensor, Tensor]:
    """One time step, as `Dynamics.step`: a `ForwardStep`."""
    u = dynamics.charged(x, v)
    if beside is not None:
        u = u + beside
    return u, dynamics.after(u, spikes(dynamics, u))


def adjoint(
    dynamics: Dynamics, derivative: Callable[[Tensor], Tensor], u: Tensor, gradient: Tensor, carry: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step backwards: a `BackwardStep`."""
    slope = derivative(u - dynamics.threshold)
    if dynamics.reset == "hard":
        through = 1.0 - spikes(dynamics, u)
        if not dynamics.detach_reset:
            through = through + (dynamics.reset_value - u) * slope
        carry = carry * through
    elif dynamics.reset == "soft" and not dynamics.detach_reset:
        carry = carry * (1.0 - dynamics.threshold * slope)
    to_u = gradient * slope + carry
    if dynamics.charge == "keep":
        return to_u, to_u, dynamics.rate * to_u
    part = to_u / dynamics.rate if dynamics.charge == "divide" else to_u * dynamics.rate
    return part if dynamics.decay_input else to_u, to_u, to_u - part


class PaddedCurrent:
    """A current over all steps as rows [M] of neurons, padded with zeros to a multiple of `lanes`.

    Args:
        dynamics: The neuron model.
        current: Input current [T, N, *], or [1, N, *] for one that is the same at each step; [T, N, F] for lateral
            recurrence.
        steps: T.
        lanes: What M is a multiple of.
    """

    def __init__(self, dynamics: Dynamics, current: Tensor, steps: int, lanes: int) -> None:
        self._dynamics = dynamics
        self._shape = current.shape[1:]
        self._steps = steps
        self._lanes = lanes
        self._static = len(current) < steps
        self._rows = self._flat(current).unbind()

    def membranes(self, step: ForwardStep) -> list[Tensor]:
        """The membrane potentials u before the reset, T of [M]."""
        lateral, beside = self._dynamics.lateral, None
        v = self._rows[0].new_full(self._rows[0].shape, self._dynamics.start)
        found: list[Tensor] = []
        for t in range(self._steps):
            if lateral is not None and found:
                fired = spikes(self._dynamics, found[-1])
                beside = self._flat(F.linear(self.shaped(fired), lateral).unsqueeze(0))[0]
            u, v = step(self._rows[0 if self._static else t], v, beside)
            found.append(u)
        return found

    def adjoints(self, membranes: list[Tensor], to_spikes: Tensor, adjoint: BackwardStep) -> list[Tensor]:
        """The gradient with respect to the current, T (or 1) of [M], from that with respect to the spikes [T, N, *]."""
        lateral, to_u = self._dynamics.lateral, None
        rows = self._flat(to_spikes).unbind()
        carry = rows[0].new_zeros(rows[0].shape)
        found: list[Tensor] = []
        for t in reversed(range(self._steps)):
            gradient = rows[t]
            if lateral is not None and to_u is not None:
                gradient = gradient + self._flat((self.shaped(to_u) @ lateral).unsqueeze(0))[0]
            to_x, to_u, carry = adjoint(membranes[t], gradient, carry)
            if self._static and found:
                found[0] = found[0] + to_x
            else:
                found.append(to_x)
        return found[::-1]

    def shaped(self, rows: Tensor) -> Tensor:
        """Rows [..., M] in the shape of the current, [..., N, *]."""
        return rows[..., : self._shape.numel()].reshape(*rows.shape[:-1], *self._shape)

    def _flat(self, x: Tensor) -> Tensor:
        flat = x.detach().reshape(len(x), -1)
        missing = -flat.shape[1] % self._lanes
        return F.pad(flat, (0, missing)) if missing else flat
