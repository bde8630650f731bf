"""Records the spikes and membrane potentials of a net during one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter


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
        InputError: If a node does not call its surrogate function.
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
        raise InputError(
            f"expected nodes that call their surrogate function, got nodes {silent} that compute spikes without it; "
            f"record a net of nodes with backend 'torch'"
        )
    # A node may call its surrogate step by step or for all steps at once, independent of its own step mode.
    calls = {name: recorded[name].inputs for name in fired}
    distances = {name: _time_second(calls[name], per_step=calls[name][0].ndim < fired[name].ndim) for name in fired}
    thresholds = {name: getattr(nodes[name], "v_threshold", 0.0) for name in fired}
    membranes = {name: distances[name] + thresholds[name] for name in fired}
    return Recording(spikes=fired, membranes=membranes, distances=distances)


def _time_second(calls: list[Tensor], per_step: bool) -> Tensor:
    """Calls with [N, *] each, or with [T, N, *], as one [N, T, *]."""
    steps_first = torch.stack(calls) if per_step else torch.cat(calls)
    return steps_first.transpose(0, 1)
