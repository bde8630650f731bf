"""A module of a net whose gradient is replaced by an estimator's for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.functions.levels import Levels, find_levels
from snnrobust.kernels.dynamics import Dynamics
from snnrobust.kernels.spike import spike
from snnrobust.plugin.protocols import Estimator, NodeEstimator, Relaxation
from snnrobust.spike_gradients.heaviside import emits_heaviside, same_as_heaviside
from snnrobust.spike_gradients.patched import PassContext, Patched


class PatchedModule(Patched):
    """A module of a net and the estimator for it, which can be put in and removed any number of times.

    Args:
        name: Qualified name of the module.
        module: A spiking node; or any module, for a `NodeEstimator`.
        estimator: How gradients pass it.
        adapter: The framework of a spiking node; None for another module.
    """

    def __init__(self, name: str, module: nn.Module, estimator: Any, adapter: Adapter | None) -> None:
        super().__init__(name, estimator)
        self._module = module
        self._adapter = adapter
        self._shapes: tuple[torch.Size, ...] = ()
        self._checked: nn.Module | None = None
        self._counts: Levels | None = None
        self._unsure = False

    def check_surrogate(self) -> None:
        """Raises an `InputError` if the node's own surrogate emits other values than an estimator would."""
        own = self._module.get_submodule("surrogate_function")
        if own is self._checked:
            return
        emits = emits_heaviside(own)
        self._counts = _count_levels(own) if emits == "no" and isinstance(self.estimator, Estimator) else None
        if emits == "no" and self._counts is None:
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
        """Spikes of u = membrane potential minus threshold, or a relaxation's smooth values in their place.

        A count of spikes keeps its value; its gradient is that of the nearest of its levels.
        """
        if self._counts is not None and self._checked is not None:
            counts: Tensor = self._checked(u.detach()).detach()
            nearest = self._spikes(self._counts.distance(u, ()))
            return nearest + (counts - nearest).detach()
        return self._spikes(u)

    def _spikes(self, u: Tensor) -> Tensor:
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


def _count_levels(surrogate: nn.Module) -> Levels | None:
    """The levels of a surrogate that emits counts of spikes; None for other values."""
    own = next((each for each in surrogate.parameters() if each.is_floating_point()), torch.zeros(()))
    at = torch.linspace(-1, 1, 5).to(own)
    with torch.random.fork_rng([own.device] if own.device.type == "cuda" else []):
        try:
            found = find_levels(lambda u: surrogate.forward(u), at, (at,), 0)
        except Exception:  # anything: it is the user's module, on an input of ours
            return None
    return found if found is not None and found.size == 1 else None


def put_forward(module: nn.Module, forward: Callable[[Tensor], Tensor] | None) -> None:
    """Sets the forward pass of this one object; None leaves that of its class."""
    if forward is None:
        vars(module).pop("forward", None)
    else:
        vars(module)["forward"] = forward
