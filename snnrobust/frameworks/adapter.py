"""What the core has to know of a framework: where its spiking nodes are, and how state is reset and set aside."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.unit import Pooling


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

    def swap_detach_reset(self, node: nn.Module, detach: bool) -> bool:
        """Sets whether no gradient passes through the reset of `node`; returns whether none did."""

    def is_reset(self, node: nn.Module) -> bool:
        """Whether the state of `node` is at its initial value, so that its next call begins a forward pass."""

    def multi_step(self, node: nn.Module) -> bool:
        """Whether a call of `node` takes all steps, [T, N, *], rather than one, [N, *]."""

    def step(self, node: nn.Module, x: Tensor) -> Tensor:
        """One time step [N, *] of `node`, from its present state on."""

    def detach(self, node: nn.Module) -> None:
        """Cuts the gradient through the state of `node`."""

    def dynamics(self, node: nn.Module) -> Dynamics:
        """The equation of `node`, with its numbers as they are now.

        Raises:
            InputError: If `node` follows none of the leaky integrate-and-fire family.
        """

    def derivative(self, node: nn.Module) -> Derivative | None:
        """The derivative that the node's own surrogate gives a spike; None if it is of no known family."""

    def has_operator(self, node: nn.Module, device: torch.device) -> bool:
        """Whether the framework has an operator of its own on `device` for `node` with its own surrogate."""

    def keeps_voltages(self, node: nn.Module) -> bool:
        """Whether `node` records its membrane potentials for others to read."""

    def is_block(self, module: nn.Module) -> bool:
        """Whether `module` is a building block of the framework, rather than a net of the user's."""

    def per_step(self, module: nn.Module) -> bool:
        """Whether `module` takes [T, N, *] and treats each time step by itself, in eval mode."""

    def channel_norm(self, module: nn.Module) -> bool:
        """Whether `module` is batch normalisation of [T, N, C, H, W] with fixed statistics."""

    def windows(self, module: nn.Module) -> bool:
        """Whether `module` is a convolution of [T, N, C, H, W] in windows of 3 x 3 with stride 1, a margin of zeros and
        without a bias."""

    def halving(self, module: nn.Module) -> Pooling | None:
        """The kind of 2 x 2 pooling with stride 2 and without padding that `module` is, if it is."""
