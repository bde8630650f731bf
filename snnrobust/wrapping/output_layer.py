"""Membrane potentials and input currents of the output layer during a forward pass, for graded objectives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from snnrobust.wrapping.model import SpikingModel


class _CapturedSurrogate(nn.Module):
    """A surrogate function that also keeps its inputs, with their gradient."""

    def __init__(self, inner: nn.Module, captured: list[Tensor]) -> None:
        super().__init__()
        self._inner = [inner]  # in a list: registers no submodule
        self._captured = captured

    def forward(self, u: Tensor) -> Tensor:
        self._captured.append(u)
        spikes: Tensor = self._inner[0](u)
        return spikes


class OutputLayer:
    """The spiking node whose spikes are the net's outputs, if there is one.

    Args:
        model: A wrapped model.
        x: A few inputs [N, *], to find the node by running them.
    """

    def __init__(self, model: SpikingModel, x: Tensor) -> None:
        self._model = model
        self._name, self._node = self._find(x)
        self._captured: list[Tensor] = []

    @property
    def spikes(self) -> bool:
        """Whether the net's outputs are the spikes of a node; otherwise the outputs themselves are graded."""
        return self._node is not None

    @contextmanager
    def capture(self, view: Literal["membrane", "current"]) -> Iterator[None]:
        """Keeps the node's distances to threshold, or its input currents, of a forward pass inside for `captured`."""
        node, adapter = self._node, self._model.adapter
        if node is None or adapter is None:
            yield
            return
        self._captured.clear()
        if view == "current":
            handle = node.register_forward_pre_hook(lambda _, args: self._captured.append(args[0]))
            try:
                with self._model.single_passes():
                    yield
            finally:
                handle.remove()
            return
        inner = node.get_submodule("surrogate_function")
        adapter.swap_surrogate(node, _CapturedSurrogate(inner, self._captured))
        try:
            with self._model.single_passes():
                yield
        finally:
            adapter.swap_surrogate(node, inner)

    def captured(self, outputs: Tensor) -> Tensor:
        """What was captured during the forward pass that gave `outputs` [N, T, K], of the same shape."""
        if not self.spikes:
            return outputs
        kept = self._captured
        steps_first = torch.stack(kept) if kept[0].ndim < outputs.ndim else torch.cat(kept)  # (T, N, K)
        return steps_first.transpose(0, 1)

    @torch.no_grad()
    def _find(self, x: Tensor) -> tuple[str, nn.Module | None]:
        model = self._model
        nodes = model.adapter.nodes(model.net) if model.adapter is not None else {}
        if not nodes:
            return "", None
        model.outputs(x[:1])  # shows where outputs have time
        spikes: dict[str, list[Tensor]] = {}
        handles = [
            node.register_forward_hook(lambda _, args, out, name=name: spikes.setdefault(name, []).append(out))
            for name, node in nodes.items()
        ]
        try:
            with model.single_passes():
                outputs = model.outputs(x)  # (N, T, K)
        finally:
            for handle in handles:
                handle.remove()
        for name, calls in reversed(spikes.items()):
            fired = torch.stack(calls) if calls[0].ndim < outputs.ndim else torch.cat(calls)  # (T, N, *)
            if torch.equal(fired.transpose(0, 1), outputs):
                return name, nodes[name]
        return "", None
