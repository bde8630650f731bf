"""The seam between forward and backward: how gradients pass a spike, swapped for a while and put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from snnrobust import adapters
from snnrobust.errors import InputError, PluginError
from snnrobust.plugin import Estimator


class Spike(torch.autograd.Function):
    """H(u) forward, grad * derivative(u) backward; works under vmap, jvp and double backward.

    The derivative is ordinary torch code, so a second backward differentiates it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        """Spikes: 1 where u >= 0, else 0."""
        return (u >= 0).to(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Callable[[Tensor], Tensor]], output: Tensor) -> None:
        """Keeps u for the backward and the forward-mode derivative."""
        u, ctx.derivative = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Gradient with respect to u."""
        return grad * ctx.derivative(ctx.saved_tensors[0]), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        """Forward-mode derivative along `tangent`."""
        along: Tensor = tangent * ctx.derivative(ctx.saved_tensors[0])
        return along


def spike(u: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
    """Spikes of u = membrane potential minus threshold, with `derivative(u)` as their gradient.

    Example:
        >>> u = torch.tensor([-1.0, 0.5], requires_grad=True)
        >>> spike(u, lambda u: 1 / (1 + u**2)).sum().backward()
        >>> u.grad
        tensor([0.5000, 0.8000])
    """
    spikes: Tensor = Spike.apply(u, derivative)
    return spikes


@dataclass(frozen=True)
class Own:
    """The model's own surrogate gradient: nothing is swapped."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The derivative that the node's own surrogate gives at u."""
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(state["surrogate"](at).sum(), at)
        return gradient


class _SwappedSpike(nn.Module):
    """Stands in for a node's surrogate function while an estimator is in place."""

    def __init__(self, estimator: Estimator, own: nn.Module, note: Callable[[], None]) -> None:
        super().__init__()
        # The state belongs to the `SpikeGradient`: as an attribute here, a session would put it back as the net's own.
        state: dict[str, Any] = {"surrogate": own.forward}  # the bound method: registers no submodule
        self._derivative = lambda u: estimator.backward(u, state)
        self._note = note

    def forward(self, u: Tensor) -> Tensor:
        self._note()
        return spike(u, self._derivative)


class SpikeGradient:
    """A reusable context that sets how gradients pass spikes in a net; forward values stay the same.

    Everything is restored on leaving, also after an exception. What an estimator keeps in its state lives as long as
    this object, over any number of times it is entered.

    Args:
        net: A net with spiking nodes of a known framework.
        estimator: One for all nodes, or a mapping from node name to estimator; nodes left out keep their own.

    Raises:
        InputError: If `net` has no node whose gradient can be swapped, a name is not among its nodes, or a node to be
            swapped emits smooth values instead of spikes (a surrogate with `spiking=False`).
        PluginError: On leaving, if a node ran without the estimator because it computes its gradient elsewhere.

    Example:
        >>> from torch import nn
        >>> from spikingjelly.activation_based import neuron
        >>> from snnrobust_attacks.estimators.atan import ATan
        >>> net = nn.Sequential(nn.Linear(4, 3), neuron.IFNode())
        >>> with SpikeGradient(net, ATan(alpha=4.0)):
        ...     spikes = net(torch.rand(2, 4))
        >>> type(net[1].surrogate_function).__name__
        'Sigmoid'
    """

    def __init__(self, net: nn.Module, estimator: Estimator | Mapping[str, Estimator]) -> None:
        self._estimator = estimator
        self._placed: list[tuple[str, nn.Module, _SwappedSpike]] = []
        self._entered: list[list[tuple[nn.Module, nn.Module, RemovableHandle]]] = []
        self._ran: set[str] = set()
        self._used: set[str] = set()
        if isinstance(estimator, Own):
            return
        adapter = adapters.find(net)
        nodes = adapter.nodes(net) if adapter is not None else {}
        if adapter is None or not nodes:
            raise InputError(
                f"expected a net with spiking nodes of a known framework for gradient={estimator!r}, "
                f"got {type(net).__name__}; use gradient='own'"
            )
        chosen = estimator if isinstance(estimator, Mapping) else dict.fromkeys(nodes, estimator)
        if unknown := sorted(set(chosen) - set(nodes)):
            raise InputError(f"expected node names among {sorted(nodes)}, got {unknown}; name nodes of this net")
        smooth = sorted(
            name
            for name, each in chosen.items()
            if not isinstance(each, Own)
            and not getattr(nodes[name].get_submodule("surrogate_function"), "spiking", True)
        )
        if smooth:
            raise InputError(
                f"expected nodes that emit spikes, got {smooth} whose surrogate has spiking=False and emits smooth "
                f"values, which a swap would change; set spiking=True, or leave these nodes out"
            )
        self._adapter = adapter
        for name, each in chosen.items():
            if not isinstance(each, Own):
                own = nodes[name].get_submodule("surrogate_function")
                stand_in = _SwappedSpike(each, own, partial(self._used.add, name))
                self._placed.append((name, nodes[name], stand_in))

    def __enter__(self) -> Self:
        entered = []
        for name, node, stand_in in self._placed:
            handle = node.register_forward_hook(lambda *_, name=name: self._ran.add(name))
            entered.append((node, self._adapter.swap_surrogate(node, stand_in), handle))
        self._entered.append(entered)
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        for node, own, handle in self._entered.pop():
            self._adapter.swap_surrogate(node, own)
            handle.remove()
        idle = sorted(self._ran - self._used)
        if kind is None and idle:
            raise PluginError(
                f"expected every node to take its gradient from {self._estimator!r}, got nodes {idle} that never "
                f"used it; name the other nodes in a mapping, or use gradient='own'"
            )
