"""snnTorch and sinabs: neurons that keep their state in buffers; their spikes are found as `autograd.Function`s."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.unit import PoolKind


class StateBuffers:
    """Adapter for neurons whose state is in buffers that are empty at first, and made when an input comes.

    Resetting makes them empty again, neuron by neuron. snnTorch's own `utils.reset` resets all neurons of a class, also
    those of other nets, but none inside containers; sinabs's skips layers that have children, and writes into tensors
    that the graph of an earlier pass may need.

    Args:
        name: The framework.
        base: Module and class, "package.Class", from which its neurons are derived; nothing is imported for it.
        buffers: The names of a neuron's buffers that are state.
    """

    def __init__(self, name: str, base: str, buffers: Callable[[nn.Module], Collection[str]]) -> None:
        self.name = name
        self._base = base
        self._buffers = buffers

    def supports(self, net: nn.Module) -> bool:
        """Whether any module of `net` is a neuron of this framework."""
        return bool(self._neurons(net))

    def reset(self, net: nn.Module) -> None:
        """Empties the state of each neuron."""
        for neuron in self._neurons(net):
            for name in self._buffers(neuron):
                if isinstance(value := neuron._buffers.get(name), Tensor):
                    neuron._buffers[name] = value.new_zeros(0)

    def save_and_reset_state(self, net: nn.Module) -> object:
        """Resets `net`; buffers are put back by whoever keeps all attributes of its modules."""
        self.reset(net)
        return None

    def restore_state(self, net: nn.Module, state: object) -> None:
        """Nothing is left to do."""

    def _neurons(self, net: nn.Module) -> list[nn.Module]:
        return [module for module in net.modules() if _derived(module, self._base)]

    def nodes(self, net: nn.Module) -> dict[str, nn.Module]:
        """None: no surrogate is a module of its own."""
        return {}

    spiking_layers = unsupported_nodes = nodes

    def is_spike_function(self, module: nn.Module) -> bool:
        """None is a module."""
        return False

    def refuses_autograd(self, net: nn.Module) -> bool:
        """None does."""
        return False

    def is_framework_block(self, module: nn.Module) -> bool:
        """Whether it is a neuron."""
        return _derived(module, self._base)

    def _no(self, module: nn.Module, *_: object) -> bool:
        return False

    ignores_surrogate = passes_own_gradient = is_binary = is_reset = is_multi_step = has_operator = _no
    records_membrane = is_stateless = is_stepwise = is_fixed_batch_norm = is_conv3x3 = swap_detach_reset = _no

    def swap_surrogate(self, node: nn.Module, surrogate: nn.Module) -> nn.Module:
        """There is none; see `nodes`."""
        raise self._no_node(node)

    def step(self, node: nn.Module, x: Tensor) -> Tensor:
        """There is none; see `nodes`."""
        raise self._no_node(node)

    def detach(self, node: nn.Module) -> None:
        """There is none; see `nodes`."""
        raise self._no_node(node)

    def dynamics(self, node: nn.Module) -> Dynamics:
        """There is none; see `nodes`."""
        raise self._no_node(node)

    def derivative(self, node: nn.Module) -> Derivative | None:
        """None is known."""
        return None

    def threshold(self, node: nn.Module) -> float | Tensor:
        """See `nodes`."""
        return 0.0

    def pool2x2_kind(self, module: nn.Module) -> PoolKind | None:
        """None is known."""
        return None

    def _no_node(self, node: nn.Module) -> InputError:
        return InputError(
            f"expected a node with u[t] = k v[t-1] + gain x[t] and a reset to 0 or by subtraction, got "
            f"{type(node).__name__} of {self.name}; use an estimator that needs no equation"
        )


def _derived(module: nn.Module, base: str) -> bool:
    return any(f"{cls.__module__}.{cls.__qualname__}" == base for cls in type(module).__mro__)


def snntorch() -> StateBuffers:
    """The adapter for snnTorch: what a neuron does not store in a state dict is its state."""
    return StateBuffers(
        "snntorch", "snntorch._neurons.neurons.SpikingNeuron", lambda neuron: neuron._non_persistent_buffers_set
    )


def sinabs() -> StateBuffers:
    """The adapter for sinabs: all buffers of a layer with state are state, by its own convention."""
    return StateBuffers("sinabs", "sinabs.layers.stateful_layer.StatefulLayer", lambda neuron: list(neuron._buffers))
