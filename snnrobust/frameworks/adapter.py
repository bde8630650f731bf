"""The interface to an SNN framework: its spiking nodes, their state, equations and surrogates, and its layers."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.unit import PoolKind


class Adapter(Protocol):
    """Access to the spiking nodes, state and layers of a framework."""

    name: str

    def supports(self, net: nn.Module) -> bool:
        """Whether `net` has stateful modules of this framework."""

    def reset(self, net: nn.Module) -> None:
        """Resets all state to its initial value."""

    def save_and_reset_state(self, net: nn.Module) -> object:
        """Returns the present state, for `restore_state`, and resets `net`."""

    def restore_state(self, net: nn.Module, state: object) -> None:
        """Restores the state that `save_and_reset_state` returned."""

    def nodes(self, net: nn.Module) -> dict[str, nn.Module]:
        """Spiking nodes by qualified name, each once."""

    def spiking_layers(self, net: nn.Module) -> dict[str, nn.Module]:
        """Modules by qualified name, `nodes` among them, whose outputs are their spikes."""

    def unsupported_nodes(self, net: nn.Module) -> dict[str, nn.Module]:
        """Modules of `net` by qualified name that spike as well, but can't be swapped or recorded."""

    def is_spike_function(self, module: nn.Module) -> bool:
        """Whether `module` is only the spike function of the node that calls it."""

    def ignores_surrogate(self, node: nn.Module) -> bool:
        """Whether `node`, one of `nodes`, is known not to call its surrogate in eval mode."""

    def passes_own_gradient(self, node: nn.Module) -> bool:
        """Whether the spikes of `node`, one of `nodes`, have the gradient of its own surrogate in eval mode."""

    def refuses_autograd(self, net: nn.Module) -> bool:
        """Whether a module of `net` raises an error where a gradient is recorded."""

    def is_binary(self, node: nn.Module) -> bool:
        """Whether the class of `node` is not known to emit other values than 0 and 1."""

    def swap_surrogate(self, node: nn.Module, surrogate: nn.Module) -> nn.Module:
        """Gives `node` another spike function of u = membrane potential minus threshold; returns the old one."""

    def swap_detach_reset(self, node: nn.Module, detach: bool) -> bool:
        """Sets whether no gradient passes through the reset of `node`; returns the previous setting."""

    def is_reset(self, node: nn.Module) -> bool:
        """Whether the state of `node` is at its initial value, so that its next call starts a sequence."""

    def is_multi_step(self, node: nn.Module) -> bool:
        """Whether a call of `node` takes all steps, [T, N, *], rather than one, [N, *]."""

    def step(self, node: nn.Module, x: Tensor) -> Tensor:
        """One time step [N, *] of `node` from its present state."""

    def detach(self, node: nn.Module) -> None:
        """Detaches the state of `node` from the graph."""

    def dynamics(self, node: nn.Module) -> Dynamics:
        """The equation of `node` with its current parameters.

        Raises:
            InputError: If `node` is not of the leaky integrate-and-fire family.
        """

    def derivative(self, node: nn.Module) -> Derivative | None:
        """The derivative of the node's own surrogate; None if its family is unknown."""

    def has_operator(self, node: nn.Module, device: torch.device) -> bool:
        """Whether the framework has a fused operator on `device` for `node` with its own surrogate."""

    def threshold(self, node: nn.Module) -> float | Tensor:
        """The membrane potential at which `node` fires, one number or one for each neuron; 0 if it is not known."""

    def records_membrane(self, node: nn.Module) -> bool:
        """Whether `node` stores its membrane potentials of all steps."""

    def is_framework_block(self, module: nn.Module) -> bool:
        """Whether `module` is a layer of the framework rather than a net of the user."""

    def is_stateless(self, module: nn.Module) -> bool:
        """Whether a module keeps nothing from call to call in eval mode, and treats each sample by itself."""

    def is_stepwise(self, module: nn.Module) -> bool:
        """Whether `module` takes [T, N, *] and treats each time step separately, in eval mode."""

    def is_fixed_batch_norm(self, module: nn.Module) -> bool:
        """Whether `module` is batch normalisation of [T, N, C, H, W] with fixed statistics."""

    def is_conv3x3(self, module: nn.Module) -> bool:
        """Whether `module` is a 3 x 3 convolution of [T, N, C, H, W] with stride 1, zero padding 1 and no bias."""

    def pool2x2_kind(self, module: nn.Module) -> PoolKind | None:
        """The kind of 2 x 2 pooling (stride 2, no padding) of `module`; None if it is no such pooling."""
