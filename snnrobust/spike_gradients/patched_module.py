"""A module of a net whose gradient is replaced by an estimator's for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.errors import InputError, PluginError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.spike import spike
from snnrobust.plugin.protocols import Estimator, NodeEstimator, Relaxation
from snnrobust.spike_gradients.heaviside import emits_heaviside, same_as_heaviside
from snnrobust.spike_gradients.sample_memory import SampleMemory


@dataclass
class PassContext:
    """The samples of a forward and backward pass.

    Attributes:
        index: Sample ids [N].
        frozen: Whether it is a further draw at an iterate that was evaluated before.
        memory: What is kept for each sample.
        updated: (node, call) pairs whose memory was already updated at this iterate.
    """

    index: Tensor
    frozen: bool
    memory: SampleMemory
    updated: set[tuple[str, int]] = field(default_factory=set)


class PatchedModule:
    """A module of a net and the estimator for it, which can be put in and removed any number of times.

    Args:
        name: Qualified name of the module.
        module: A spiking node; or any module, for a `NodeEstimator`.
        estimator: How gradients pass it.
        adapter: The framework of a spiking node; None for another module.
    """

    def __init__(self, name: str, module: nn.Module, estimator: Any, adapter: Adapter | None) -> None:
        self.name = name
        self.estimator = estimator
        self.ran = self.used = False
        self._module = module
        self._adapter = adapter
        self._calls: list[Tensor] = []
        self._context: PassContext | None = None
        self._shapes: tuple[torch.Size, ...] = ()
        # What the estimator keeps here lives as long as this object. On a module, a session would put it back.
        self._state: dict[str, Any] = {}
        self._checked: nn.Module | None = None
        self._unsure = False

    def check_surrogate(self) -> None:
        """Raises an `InputError` if the node's own surrogate emits other values than an estimator would."""
        own = self._module.get_submodule("surrogate_function")
        if own is self._checked:
            return
        emits = emits_heaviside(own)
        if emits == "no":
            self._refuse(own)
        self._checked, self._unsure = own, emits == "unsure"

    def place(self, context: PassContext | None) -> ExitStack:
        """Puts the estimator in; closing the result removes it."""
        module, adapter = self._module, self._adapter
        with ExitStack() as undo:
            undo.callback(self._remove, self._context)
            self._context = context
            undo.callback(module.register_forward_hook(self._after_forward).remove)
            if adapter is not None and isinstance(self.estimator, Estimator | Relaxation):
                self.check_surrogate()
                own = module.get_submodule("surrogate_function")
                if not (isinstance(own, _PatchedSurrogate) and own.patched is self):  # entered twice
                    self._state["surrogate"] = own.forward  # the bound method: registers no submodule
                undo.callback(adapter.swap_surrogate, module, own)
                adapter.swap_surrogate(module, _PatchedSurrogate(self))
                undo.callback(module.register_forward_pre_hook(self._before_forward).remove)
            if isinstance(self.estimator, NodeEstimator):
                undo.callback(put_forward, module, vars(module).get("forward"))
                node = Node(self.name, module, adapter)
                put_forward(module, lambda x: self._through(node, x))
            return undo.pop_all()

    def compare(self, u: Tensor) -> Tensor:
        """Spikes of u = membrane potential minus threshold, or a relaxation's smooth values in their place."""
        calls, context = self._calls, self._context
        call, axis = len(calls), self._sample_axis(u)
        calls.append(u.detach())
        self.used = True
        if isinstance(self.estimator, Relaxation):
            self._state.update(calls=calls, call=call, axis=axis, memory={}, frozen=False)
            return self.estimator.primitive(u, self._state)
        own = self._checked if self._unsure and not torch._C._functorch.is_functorch_wrapped_tensor(u) else None
        if own is not None and not same_as_heaviside(own, u):
            self._refuse(own)
        return spike(u, lambda at: self._derivative(at, calls, call, axis, context))

    def _refuse(self, own: nn.Module) -> None:
        raise InputError(
            f"expected nodes that emit spikes 0 and 1, 1 where the membrane potential is at least the threshold, got "
            f"node '{self.name}' ({type(self._module).__name__}) whose surrogate {type(own).__name__} emits other "
            f"values, which {self.estimator!r} would change; use gradient='own', or name only the other nodes: "
            f"gradient={{'name': 'per-module', 'entries': (('NODE', estimator), ...)}}"
        )

    def _derivative(
        self, u: Tensor, calls: list[Tensor], call: int, axis: int | None, context: PassContext | None
    ) -> Tensor:
        key = (self.name, call)
        memory = {} if context is None else context.memory.take(key, context.index)
        memory = {name: value.movedim(0, axis or 0) for name, value in memory.items()}
        frozen = context is not None and (context.frozen or key in context.updated)
        self._state.update(calls=calls, call=call, axis=axis, memory=memory, frozen=frozen)
        derivative: Tensor = self.estimator.backward(u, self._state)
        if context is not None and memory and not frozen:
            if axis is None:
                raise PluginError(
                    f"expected node '{self.name}' to compare [N, *] or [T, N, *] for {self.estimator!r}, which "
                    f"remembers each sample, got {tuple(u.shape)}; name only the other nodes: gradient={{'name': "
                    f"'per-module', 'entries': (('NODE', estimator), ...)}}"
                )
            context.memory.put(key, context.index, {name: value.movedim(axis, 0) for name, value in memory.items()})
            context.updated.add(key)
        return derivative

    def _before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Before the node runs: notes whether a new forward pass begins, and the shape of one step."""
        if self._adapter is None:
            return
        if self._adapter.is_reset(module):
            self._calls = []  # a new list: graphs of earlier passes keep theirs
        shape = inputs[0].shape
        self._shapes = (shape[1:], shape) if self._adapter.is_multi_step(module) else (shape,)

    def _sample_axis(self, u: Tensor) -> int | None:
        """0 for one step [N, *], 1 for all at once [T, N, *], None where the node compares in another shape."""
        return self._shapes.index(u.shape) if u.shape in self._shapes else None

    def _through(self, node: Node, x: Tensor) -> Tensor:
        self.used = True
        out: Tensor = self.estimator.through(node, x)
        return out

    def _after_forward(self, *_: object) -> None:
        self.ran = True

    def _remove(self, outer: PassContext | None) -> None:
        if self._context is not None:
            self._calls.clear()  # the backward pass is over: nothing needs them any more
        self._calls = []
        self._context = outer


class _PatchedSurrogate(nn.Module):
    """Calls the estimator in place of a node's surrogate function."""

    #: Not the net's own surrogate.
    stands_in = True
    #: CLIF reads it: in eval mode it calls no surrogate that says it spikes.
    spiking = False

    def __init__(self, patched: PatchedModule) -> None:
        super().__init__()
        self.patched = patched

    def forward(self, u: Tensor) -> Tensor:
        return self.patched.compare(u)


class Node:
    """A module as a `NodeEstimator` sees it; see `snnrobust.plugin.NodeRun`."""

    def __init__(self, name: str, module: nn.Module, adapter: Adapter | None) -> None:
        self.name = name
        self._module = module
        self._adapter = adapter
        self._forward: Callable[[Tensor], Tensor] = module.forward

    @property
    def leak(self) -> float:
        """The share k of the membrane potential that a step keeps."""
        return self._dynamics().leak

    @property
    def gain(self) -> float:
        """What the input is multiplied by."""
        return self._dynamics().gain

    @property
    def threshold(self) -> float:
        """Membrane potential at which it fires."""
        return self._dynamics().threshold

    def forward(self, x: Tensor) -> Tensor:
        """The module's own forward pass."""
        return self._forward(x)

    def step(self, x: Tensor) -> Tensor:
        """One time step [N, *] of a spiking node."""
        return self._spiking().step(self._module, x)

    def detach(self) -> None:
        """Cuts the gradient through the node's state."""
        self._spiking().detach(self._module)

    def _dynamics(self) -> Dynamics:
        dynamics = self._spiking().dynamics(self._module)
        if dynamics.reset_value != 0:  # it adds a constant to the equation
            raise InputError(
                f"expected a node with u[t] = k v[t-1] + gain x[t] and a reset to 0 or by subtraction, got "
                f"'{self.name}' with a reset to {dynamics.reset_value:g}; use an estimator that needs no equation"
            )
        return dynamics

    def _spiking(self) -> Adapter:
        if self._adapter is None:
            raise InputError(
                f"expected a spiking node at '{self.name}', got {type(self._module).__name__}; "
                f"name spiking nodes for this estimator"
            )
        return self._adapter


def put_forward(module: nn.Module, forward: Callable[[Tensor], Tensor] | None) -> None:
    """Sets the forward pass of this one object; None leaves that of its class."""
    if forward is None:
        vars(module).pop("forward", None)
    else:
        vars(module)["forward"] = forward
