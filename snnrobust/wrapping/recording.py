"""Records the spikes and membrane potentials of a net during one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.find import LIKE_IN_EVAL, listed


@dataclass(frozen=True)
class Recording:
    """Spikes and membrane potentials of each spiking layer, by the layer's name in the net.

    Attributes:
        spikes: Each [N, T, *].
        membranes: Membrane potential at the moment of comparison with the threshold (before reset), each [N, T, *].
        distances: Membrane potential minus threshold, each [N, T, *].
    """

    spikes: dict[str, Tensor]
    membranes: dict[str, Tensor]
    distances: dict[str, Tensor]


class _RecordedSurrogate(nn.Module):
    """A surrogate function that also keeps its inputs."""

    #: Not the net's own surrogate.
    stands_in = True
    #: CLIF reads it: in eval mode it calls no surrogate that says it spikes.
    spiking = False

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []
        self._own = [own]  # in a list: registers no submodule

    def forward(self, u: Tensor) -> Tensor:
        self.inputs.append(u.detach())
        spikes: Tensor = self._own[0](u)
        return spikes


@torch.no_grad()
def record(forward: Callable[[], object], nodes: Mapping[str, nn.Module], adapter: Adapter) -> Recording:
    """Records the spiking `nodes` of a net while `forward` runs it once; they are left as they were.

    Raises:
        InputError: If a node does not call its surrogate function, or its spikes are not 0 and 1, one for each
            comparison of its membrane potential with the threshold.
    """
    spikes: dict[str, list[Tensor]] = {name: [] for name in nodes}
    handles, recorded = [], {}

    def keep(name: str) -> Any:
        return lambda module, args, out: spikes[name].append(out.detach())

    try:
        for name, node in nodes.items():
            handles.append(node.register_forward_hook(keep(name)))
            recorded[name] = _RecordedSurrogate(node.get_submodule("surrogate_function"))
            adapter.swap_surrogate(node, recorded[name])
        forward()
    finally:
        for handle in handles:
            handle.remove()
        for name, surrogate in recorded.items():
            adapter.swap_surrogate(nodes[name], surrogate._own[0])
    fired = {
        name: _time_second(calls, per_step=getattr(nodes[name], "step_mode", "m") == "s")
        for name, calls in spikes.items()
        if calls
    }
    if silent := [name for name in fired if not recorded[name].inputs]:
        online = any(adapter.ignores_surrogate(nodes[name]) for name in silent)
        raise InputError(
            f"expected nodes that call their surrogate function, got nodes {silent} that compute spikes without it; "
            + (LIKE_IN_EVAL if online else "record a net of nodes with backend 'torch'")
        )
    # A node may call its surrogate step by step or for all steps at once, independent of its own step mode.
    calls = {name: recorded[name].inputs for name in fired}
    distances = {name: _distances(calls[name], fired[name]) for name in fired}
    graded = {
        name: nodes[name]
        for name in fired
        if not adapter.is_binary(nodes[name]) or not _is_step(distances[name], fired[name])
    }
    if graded:
        raise InputError(
            f"expected nodes with spikes 0 and 1, 1 where the membrane potential reaches the threshold, got "
            f"{listed(graded)}; record a net without these nodes"
        )
    thresholds = {name: getattr(nodes[name], "v_threshold", 0.0) for name in fired}
    membranes = {name: distances[name] + thresholds[name] for name in fired}
    return Recording(spikes=fired, membranes=membranes, distances=distances)


def _distances(calls: list[Tensor], spikes: Tensor) -> Tensor:
    """What was compared, in the shape of the spikes [N, T, *] where each spike is one comparison."""
    if sum(call.numel() for call in calls) != spikes.numel():  # e.g. two comparisons a step
        return spikes.new_empty(0)
    if any(call.shape in (spikes[:, 0].shape, spikes.transpose(0, 1).shape) for call in calls):
        return _time_second(calls, per_step=calls[0].ndim < spikes.ndim)
    steps_first = torch.cat([call.flatten() for call in calls])  # a node may flatten what it compares
    return steps_first.reshape(spikes.transpose(0, 1).shape).transpose(0, 1)


def _is_step(distances: Tensor, spikes: Tensor) -> bool:
    """Whether spikes are 1 above the threshold, 0 below it, and either at it."""
    if distances.shape != spikes.shape:
        return False
    fits = torch.where(distances == 0, (spikes == 0) | (spikes == 1), spikes == (distances > 0).to(spikes))
    return bool((fits | distances.isnan()).all())


def _time_second(calls: list[Tensor], per_step: bool) -> Tensor:
    """Calls with [N, *] each, or with [T, N, *], as one [N, T, *]."""
    steps_first = torch.stack(calls) if per_step else torch.cat(calls)
    return steps_first.transpose(0, 1)
