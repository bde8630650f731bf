"""Records the spikes and membrane potentials of a net during one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.errors import InputError
from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.functions.calls import Call
from snnrobust.frameworks.functions.levels import Position
from snnrobust.frameworks.functions.sites import Site, Sites

#: A spike function's own values and gradient, as a function of distances to the threshold [N, T, *].
SpikeFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recording:
    """Spikes and membrane potentials of each spiking layer, by the layer's name in the net.

    The first has all layers; the others those whose spikes are one comparison of a membrane potential with a threshold
    each: not signed or graded spikes, whose comparisons are not known.

    Attributes:
        spikes: What the layer emits, each [N, T, *].
        membranes: Membrane potential at the moment of comparison with the threshold (before reset), each [N, T, *].
        distances: Membrane potential minus threshold, each [N, T, *]; of a count, minus the nearest of its levels.
        thresholds: The size of the threshold, the mean over a layer's neurons; 1 where there is none or it is 0.
        surrogates: The layer's own spike function of distances; None where no gradient passes it in eval mode.
    """

    spikes: dict[str, Tensor]
    membranes: dict[str, Tensor] = field(default_factory=dict)
    distances: dict[str, Tensor] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    surrogates: dict[str, SpikeFunction | None] = field(default_factory=dict)


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
def record(
    forward: Callable[[], object],
    net: nn.Module,
    adapter: Adapter | None,
    sites: Sites,
    *,
    samples: int,
    steps: int | None,
) -> Recording:
    """Records the spikes of `net` while `forward` runs it once; it is left as it was.

    Args:
        forward: One forward pass.
        net: The net.
        adapter: Its framework.
        sites: Its spikes that the adapter does not know.
        samples: N.
        steps: T, if it is known.

    Raises:
        InputError: If the time axis of a layer's spikes is not known.
    """
    layers = spiking_layers(net, adapter, sites)
    nodes = adapter.nodes(net) if adapter is not None else {}
    spikes: dict[str, list[Tensor]] = {name: [] for name in layers}
    calls: dict[str, list[Call]] = {}
    compared: dict[str, _RecordedSurrogate] = {}
    with ExitStack() as undo:
        for name, layer in layers.items():
            undo.callback(layer.register_forward_hook(partial(_keep, spikes[name])).remove)
        for name, node in nodes.items():
            own = node.get_submodule("surrogate_function")
            compared[name] = _RecordedSurrogate(own)
            undo.callback(_swap, adapter, node, own)
            _swap(adapter, node, compared[name])
        undo.enter_context(sites.followed(net, lambda site, call: calls.setdefault(site.name, []).append(call)))
        forward()
    found = Recording({})
    for name, outputs in spikes.items():
        if outputs and adapter is not None:
            comparisons = compared[name].inputs if name in compared else []
            _add_layer(found, name, layers[name], adapter, outputs, comparisons)
    for name, own_calls in calls.items():
        _add_site(found, sites.by_name[name], own_calls, samples, steps or 1)
    return found


def spiking_layers(net: nn.Module, adapter: Adapter | None, sites: Sites) -> dict[str, nn.Module]:
    """The layers of a framework that spike, by name, other than those whose Functions are among the sites."""
    found = adapter.spiking_layers(net) if adapter is not None else {}
    reached = set(sites.patterns)
    return {name: layer for name, layer in found.items() if not reached.intersection(layer.modules())}


def _swap(adapter: Adapter | None, node: nn.Module, surrogate: nn.Module) -> None:
    if adapter is not None:
        adapter.swap_surrogate(node, surrogate)


def _keep(spikes: list[Tensor], module: nn.Module, args: object, out: Any) -> None:
    """A forward hook."""
    spikes.append((out[0] if isinstance(out, tuple) else out).detach())


def _add_layer(
    found: Recording, name: str, layer: nn.Module, adapter: Adapter, outputs: list[Tensor], comparisons: list[Tensor]
) -> None:
    """A layer of a framework, whose outputs are its spikes."""
    fired = _time_second(outputs, per_step=not adapter.is_multi_step(layer))
    found.spikes[name] = fired
    # A node may call its surrogate step by step or for all steps at once, independent of its own step mode.
    distances = _distances(comparisons, fired)
    if not (comparisons and adapter.is_binary(layer) and _is_step(distances, fired)):
        return
    threshold = adapter.threshold(layer)
    found.distances[name] = distances
    found.membranes[name] = distances + threshold
    found.thresholds[name] = float(torch.as_tensor(threshold).abs().mean()) or 1.0
    own = layer.get_submodule("surrogate_function")
    found.surrogates[name] = own if adapter.passes_own_gradient(layer) else None


def _add_site(found: Recording, site: Site, calls: list[Call], samples: int, steps: int) -> None:
    """A place where a Function spikes."""

    def arranged(values: list[Tensor]) -> Tensor:
        together = site.batch_first(values, samples, steps)
        if together is None:
            raise InputError(
                f"expected the spikes of '{site.name}' step by step, or all of them in one call, got {len(values)} "
                f"calls with all steps; record a net that calls it once a pass"
            )
        return together

    found.spikes[site.name] = arranged([call.output.detach() for call in calls])
    distances = arranged([site.distance(call).detach() for call in calls])
    compares_potential = isinstance(site.levels.first, Position)
    potentials = [call.args[site.argument].detach() for call in calls]
    found.distances[site.name] = distances
    found.membranes[site.name] = arranged(potentials) if compares_potential else distances
    size = float((found.membranes[site.name] - distances).abs().mean()) if compares_potential else 1.0
    found.thresholds[site.name] = size or 1.0
    found.surrogates[site.name] = lambda u: site.own_over_time(calls, u)


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
