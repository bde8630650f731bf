"""A place in a net where an estimator takes over the gradient, and what it keeps there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from snnrobust.errors import PluginError
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


class Patched:
    """The part that all such places share.

    Args:
        name: Name of the place: a module, or a call in it.
        estimator: How gradients pass it.

    Attributes:
        ran: Whether a forward pass came by.
        used: Whether the estimator was asked.
    """

    def __init__(self, name: str, estimator: Any) -> None:
        self.name = name
        self.estimator = estimator
        self.ran = self.used = False
        self._calls: list[Tensor] = []
        self._context: PassContext | None = None
        # What the estimator keeps here lives as long as this object. On a module, a session would put it back.
        self._state: dict[str, Any] = {"layer": name, "layers": (name,)}

    def among(self, layers: Sequence[str]) -> None:
        """States which places have an estimator, in the net's order."""
        self._state["layers"] = tuple(layers)

    def _derivative(
        self, u: Tensor, calls: list[Tensor], call: int, axis: int | None, context: PassContext | None
    ) -> Tensor:
        """The estimator's derivative at u, the comparison number `call` of a pass, whose `axis` counts samples."""
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

    def _remove(self, outer: PassContext | None) -> None:
        if self._context is not None:
            self._calls.clear()  # the backward pass is over: nothing needs them any more
        self._calls = []
        self._context = outer
