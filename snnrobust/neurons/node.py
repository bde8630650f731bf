"""A SpikingJelly node for the leaky integrate-and-fire equation with every component replaceable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.kernels.dynamics import Dynamics, Reset

Leak: TypeAlias = Literal["normal", "none", "complete", "learnable"]
StepMode: TypeAlias = Literal["s", "m"]
Surrogate: TypeAlias = Callable[[Tensor], Tensor]


class LoopNode(neuron.BaseNode):  # type: ignore[misc]  # SpikingJelly ships no types: its base class is Any
    """A spiking node for the combinations that SpikingJelly has no operator for. Build it with `snnrobust.neurons.lif`.

    Each time step, with o = H(u - threshold) (a membrane at the threshold fires) and the input x not scaled by 1 - k:

        u[t] = k v[t-1] + x[t]  (+ V o[t-1])
        o[t] = surrogate_function(u[t] - threshold)
        v[t] = (1 - o[t]) u[t]            hard reset, to 0
               u[t] - threshold o[t]      soft reset
               u[t]                       no reset

    Source: Yin et al. 2024, arXiv 2403.16674; V as in the sibling code of the same group.

    Args:
        leak: "none" is k = 1, "complete" k = 0, "learnable" k = sigmoid(-w) with a parameter w, as in SpikingJelly's
            `ParametricLIFNode(decay_input=False)`.
        reset_rule: what a spike does to the membrane.
        k: the share of the membrane potential that a step keeps, in (0, 1); used by the leaks "normal" and "learnable".
        threshold: the membrane potential at which a spike is fired.
        surrogate_function: maps u - threshold to spikes; looked up at each step, so it can be replaced.
        detach_reset: no gradient passes through the reset.
        step_mode: "s", one step [N, *] a call, or "m", all steps [T, N, *].
        features: the size of V, [features, features], for inputs [N, features]; None: no lateral recurrence.

    The memories are `v`, the membrane after the reset, and, with recurrence, `spikes`: both [N, *].
    """

    def __init__(
        self,
        leak: Leak,
        reset_rule: Reset,
        *,
        k: float,
        threshold: float,
        surrogate_function: Surrogate,
        detach_reset: bool,
        step_mode: StepMode,
        features: int | None,
    ) -> None:
        super().__init__(
            v_threshold=threshold,
            v_reset=0.0 if reset_rule == "hard" else None,
            surrogate_function=surrogate_function,
            detach_reset=detach_reset,
            step_mode=step_mode,
        )
        self.leak: Leak = leak
        self.reset_rule: Reset = reset_rule  # not `reset`, the method that clears the memories
        self._k = {"none": 1.0, "complete": 0.0}.get(leak, k)
        if leak == "learnable":
            self.w = nn.Parameter(torch.tensor(math.log((1.0 - k) / k)))
        self.lateral = None if features is None else nn.Linear(features, features, bias=False)
        if features is not None:
            self.register_memory("spikes", 0.0)

    @property
    def k(self) -> float | Tensor:
        """The share of the membrane potential that a step keeps; a scalar tensor where it is learnable."""
        return torch.sigmoid(-self.w) if self.leak == "learnable" else self._k

    def materialize_states(
        self, inputs: tuple[Tensor, ...], states: tuple[object, ...], step_mode: str
    ) -> tuple[object, ...]:
        """Replaces memories that are the number 0, or of another shape, by zeros [N, *] like one step of input."""
        if self.lateral is not None and inputs[0].shape[-1:] != (self.lateral.in_features,):
            raise InputError(
                f"expected an input whose last dimension is features={self.lateral.in_features}, got shape "
                f"{tuple(inputs[0].shape)}; build the recurrent node with the features of the layer before it"
            )
        # SpikingJelly fills in the first state only; each of ours begins at zero like it.
        return tuple(super(LoopNode, self).materialize_states(inputs, (state,), step_mode)[0] for state in states)

    @property
    def dynamics(self) -> Dynamics:
        """The equation with its current parameters."""
        return Dynamics(
            "keep",
            self.k,
            threshold=self.v_threshold,
            reset=self.reset_rule,
            detach_reset=self.detach_reset,
            lateral=None if self.lateral is None else self.lateral.weight,
        )

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """One time step from explicit states; SpikingJelly loops over it in step mode "m".

        Args:
            inputs: the current (x,), [N, *].
            states: (v,) or, with recurrence, (v, spikes), each [N, *].
            kwargs: unused; part of SpikingJelly's signature.

        Returns:
            (o,) and the new states.
        """
        before = None if self.lateral is None else states[1]
        o, _, after = self.dynamics.step(inputs[0], states[0], before, self.surrogate_function)
        # A copy: in step mode "s" the caller gets these spikes as the output.
        return (o,), ((after,) if self.lateral is None else (after, o.clone()))

    def extra_repr(self) -> str:
        """The components, then what SpikingJelly shows of a node."""
        k = "sigmoid(-w)" if self.leak == "learnable" else f"{self._k:g}"
        return f"leak={self.leak}, reset_rule={self.reset_rule}, k={k}, {super().extra_repr()}"
