"""The module of each NIR node."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.networks.nir import layers
from snnrobust.networks.nir.layers import floats
from snnrobust.networks.nir.neurons import Delay, Neuron, SpikeFunction, Threshold, above
from snnrobust.neurons.node import StepMode

Reset = Literal["hard", "soft"]

_LAYERS: Mapping[str, Callable[[Any, StepMode], nn.Module]] = {
    **{"Affine": layers.affine_layer, "Linear": layers.affine_layer, "Conv1d": layers.conv1d, "Conv2d": layers.conv2d},
    **{"SumPool2d": layers.sum_pool2d, "AvgPool2d": layers.avg_pool2d},
    **{"Flatten": layers.flatten, "Scale": layers.scale},
}
#: Nodes with a membrane potential.
NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
SUPPORTED = (*sorted(_LAYERS), *NEURONS, "Threshold", "Delay", "Input", "Output", "NIRGraph")
"""The types of NIR node that can be imported."""


@dataclass(frozen=True)
class Builder:
    """Makes modules of NIR nodes.

    Attributes:
        dt: Step in seconds.
        reset: What a spike does to the membrane potential.
        surrogate: Maps u minus the threshold to spikes; None: SpikingJelly's arctangent.
        mode: Step mode "m" for modules that take [T, N, *], "s" for [N, *].
        own_nodes: False for nodes of SpikingJelly in place of this package's, where they compute the same.
    """

    dt: float
    reset: Reset
    surrogate: SpikeFunction | None
    mode: StepMode = "m"
    own_nodes: bool = True

    def build(self, name: str, node: Any, *, shorter: bool = False) -> nn.Module:
        """The module of a node.

        Args:
            name: The node's name, for errors.
            node: A NIR node.
            shorter: For a delay: a step less.

        Raises:
            InputError: An unknown type of node, or parameters that can't be used.
        """
        kind = type(node).__name__
        check_known({name: node})
        with naming(name, node):
            if kind in _LAYERS:
                return _LAYERS[kind](node, self.mode)
            if kind == "Threshold":
                return Threshold(self._numbers(node.threshold), self._spike())
            if kind == "Delay":
                return Delay(delay_steps(node, self.dt) - int(shorter))
            fast = None if self.own_nodes else self.spikingjelly_node(node)
            return self._neuron(node) if fast is None else fast

    def fits_spikingjelly(self, name: str, node: Any) -> bool:
        """Whether SpikingJelly has a node that computes the same; errors as `build`."""
        with naming(name, node):
            return self.spikingjelly_node(node) is not None

    def spikingjelly_node(self, node: Any) -> nn.Module | None:
        """SpikingJelly's node, if it computes the same; None otherwise.

        It fires from its threshold on, NIR's neurons above it: so it gets the next number. With a soft reset that is
        not the same.
        """
        kind = type(node).__name__
        if kind not in ("IF", "LIF") or self.reset != "hard":
            return None
        own = self._neuron(node)
        constants = [value for value in own.buffers() if value.ndim]
        if constants or own.v_reset is None or own.threshold is None or own.r != 1:
            return None
        shared: dict[str, Any] = {
            "v_threshold": float(above(own.threshold)),
            "v_reset": float(own.v_reset),
            "surrogate_function": self._spike(),
            "step_mode": self.mode,
        }
        if own.tau is None or own.v_leak is None:
            made: nn.Module = neuron.IFNode(**shared)
            return made
        if own.tau <= 1 or own.v_leak != own.v_reset:
            return None
        made = neuron.LIFNode(tau=float(own.tau), decay_input=True, **shared)
        return made

    def _neuron(self, node: Any) -> Neuron:
        kind = type(node).__name__
        leaks, synapse, spikes = kind not in ("I", "IF"), kind.startswith("Cuba"), kind.endswith("F")
        r = self._numbers(node.r)
        tau = self._time_constant(node, "tau_mem" if synapse else "tau") if leaks else None
        reset_value = getattr(node, "v_reset", None)  # NIR has it since version 1.0.6
        return Neuron(
            r if leaks else self._numbers(node.r * self.dt),
            tau=tau,
            v_leak=self._numbers(node.v_leak) if leaks else None,
            threshold=self._numbers(node.v_threshold) if spikes else None,
            v_reset=self._numbers(0.0 if reset_value is None else reset_value)
            if spikes and self.reset == "hard"
            else None,
            synapse=(self._time_constant(node, "tau_syn"), self._numbers(node.w_in)) if synapse else None,
            spike=self._spike() if spikes else None,
        )

    def _time_constant(self, node: Any, name: str) -> Tensor:
        seconds = getattr(node, name)
        tau = self._numbers(seconds / self.dt)
        # Rounded up where a time constant of one step has lost its last digit.
        if not bool((tau >= 1 - 1e-6).all()):
            raise InputError(
                f"expected {name} of at least one step of dt={self.dt:g} s, got {float(seconds.min()):g} s; "
                "pass a smaller dt"
            )
        return tau

    def _spike(self) -> SpikeFunction:
        """A surrogate of its own for each node, so that one can be changed without the others."""
        fresh: SpikeFunction = surrogate.ATan() if self.surrogate is None else copy.deepcopy(self.surrogate)
        return fresh

    @staticmethod
    def _numbers(values: Any) -> Tensor:
        """One number where all neurons share it."""
        numbers = floats(values)
        shared = numbers.flatten()[:1]
        return shared.reshape(()) if bool((numbers == shared).all()) else numbers


def delay_steps(node: Any, dt: float) -> Tensor:
    """The delays of a NIR Delay in steps, whole numbers.

    Raises:
        InputError: A delay below 0, or one that is no multiple of the step.
    """
    exact: Tensor = floats(node.delay / dt)
    steps = exact.round()
    if not bool((steps >= 0).all()) or not torch.allclose(exact, steps, rtol=1e-4, atol=1e-4):
        raise InputError(
            f"expected delays of whole steps of dt={dt:g} s, got {node.delay.flatten()[:3].tolist()} s; "
            "pass another dt, or round the delays"
        )
    return steps.reshape(()) if steps.numel() == 1 else steps


def delays(name: str, node: Any, dt: float) -> bool:
    """Whether a NIR node delays all of its input by a step at least; errors as `delay_steps`."""
    with naming(name, node):
        return type(node).__name__ == "Delay" and bool((delay_steps(node, dt) > 0).all())


@contextmanager
def naming(name: str, node: Any) -> Iterator[None]:
    """Errors inside say which node of the graph is meant."""
    try:
        yield
    except InputError as error:
        raise InputError(f"NIR node '{name}' ({type(node).__name__}): {error}") from error


def check_known(nodes: Mapping[str, Any]) -> None:
    """Refuses nodes of a type that is not `SUPPORTED`, all of them at once."""
    unknown = {name: type(node).__name__ for name, node in nodes.items() if type(node).__name__ not in SUPPORTED}
    if unknown:
        raise InputError(
            f"expected NIR nodes of the types {', '.join(SUPPORTED)}, got "
            f"{', '.join(f'{kind} ({name!r})' for name, kind in unknown.items())}; replace them"
        )


def fires(node: Any) -> bool:
    """Whether a NIR node fires."""
    return type(node).__name__ in ("IF", "LIF", "CubaLIF", "Threshold")


def check_step(dt: float) -> None:
    """Refuses a step that is not positive and finite."""
    if not 0 < dt < math.inf:
        raise InputError(f"expected a positive step dt in seconds, got {dt}; pass the step the net was trained with")
