"""What the core has to know of a framework: where its spiking nodes are, and how state is reset and set aside.

One file a framework; `find` picks the first that claims a net. A net that none claims still works through a `reset=`
callable, but its spikes' gradients can't be swapped and its layers can't be recorded.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from snnrobust.adapters.equation import Equation
from snnrobust.adapters.spikingjelly import SpikingJelly


class Adapter(Protocol):
    """A framework's spiking nodes and state."""

    name: str

    def claims(self, net: nn.Module) -> bool:
        """Whether `net` holds state of this framework."""

    def reset(self, net: nn.Module) -> None:
        """Puts all state back to its initial value."""

    def take_state(self, net: nn.Module) -> object:
        """Sets the present state aside, leaving initial state behind; the result goes to `put_state`."""

    def put_state(self, net: nn.Module, state: object) -> None:
        """Puts state that was set aside back as it was."""

    def nodes(self, net: nn.Module) -> dict[str, nn.Module]:
        """Spiking nodes by qualified name, each once."""

    def swap_surrogate(self, node: nn.Module, surrogate: nn.Module) -> nn.Module:
        """Gives `node` another spike function of u = membrane potential minus threshold; returns the old one."""

    def is_reset(self, node: nn.Module) -> bool:
        """Whether the state of `node` is at its initial value, so that its next call begins a forward pass."""

    def multi_step(self, node: nn.Module) -> bool:
        """Whether a call of `node` takes all steps, [T, N, *], rather than one, [N, *]."""

    def step(self, node: nn.Module, x: Tensor) -> Tensor:
        """One time step [N, *] of `node`, from its present state on."""

    def detach(self, node: nn.Module) -> None:
        """Cuts the gradient through the state of `node`."""

    def equation(self, node: nn.Module) -> Equation:
        """The numbers of u[t] = k v[t-1] + gain x[t]; a lateral input is left aside.

        Raises:
            InputError: If `node` follows another equation.
        """


def find(net: nn.Module) -> Adapter | None:
    """The adapter that claims `net`, if any."""
    for adapter in (SpikingJelly(),):
        if adapter.claims(net):
            return adapter
    return None
