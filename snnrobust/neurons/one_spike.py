"""`first_spike_only`: the same net with nodes that spike at most once, as in codes of the time to the first spike."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snnrobust.errors import InputError, InputTypeError
from snnrobust.neurons.node import LoopNode

#: Steps in which a neuron may spike: from the first to before the second.
Window = tuple[int, int]


def first_spike_only(net: nn.Module, windows: Mapping[str, Window] | None = None) -> nn.Module:
    """A copy of `net` in which each neuron of every SpikingJelly node spikes at most once, and only in its window.

    A spike o[t] becomes o[t] prod_{s<t} (1 - o[s]). Before its window a neuron integrates with an unreachable
    threshold; from the window's end on it is silent. The surrogate
    gradient passes where a spike is still possible. Windows that follow each other from layer to layer give the
    pipeline of Park et al. 2020 (T2FSNN, arXiv 2003.11741).

    The copy is simulated step by step, without the accelerated kernels: a node of another class is known to none.

    Args:
        net: Any module with SpikingJelly nodes, or one node.
        windows: (first step, step after the last) by name of the node in `net`; all steps where there is none.

    Raises:
        InputTypeError: If `net` is no module.
        InputError: If there is no node, a name is not that of a node, or a window is empty or negative.

        >>> from snnrobust.neurons import lif
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), lif(leak="none"))
        >>> _ = nn.init.ones_(net[0].weight)
        >>> x = torch.ones(5, 1, 1)  # (T, N, F)
        >>> first_spike_only(net)(x).flatten().tolist()
        [1.0, 0.0, 0.0, 0.0, 0.0]
        >>> first_spike_only(net, {"1": (3, 5)})(x).flatten().tolist()
        [0.0, 0.0, 0.0, 1.0, 0.0]
    """
    if not isinstance(net, nn.Module):
        raise InputTypeError(f"expected a torch module, got {type(net).__name__}; pass the net itself")
    windows = dict(windows or {})
    known = [name for name, each in net.named_modules() if _is_node(each)]
    if not known:
        raise InputError(f"expected SpikingJelly nodes, got none in {type(net).__name__}; use a net that has some")
    for name, window in windows.items():
        if name not in known:
            raise InputError(f"expected the name of a node, one of {known}, got {name!r}; correct it")
        if len(window) != 2 or not 0 <= window[0] < window[1]:
            raise InputError(
                f"expected a window (first, end) with 0 <= first < end for node '{name}', got {window!r}; correct it"
            )
    net = copy.deepcopy(net)
    for name, node in net.named_modules():
        if _is_node(node) and not isinstance(node, _OneSpike):
            constrained: Any = node
            constrained.__class__ = _constrained(constrained.__class__)
            constrained.window = windows.get(name)
            constrained.reset()
    return net


def _is_node(module: nn.Module) -> bool:
    return isinstance(module, neuron.BaseNode | neuron.SimpleBaseNode)


@cache
def _constrained(kind: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a node class whose neurons spike at most once."""
    return type(f"OneSpike{kind.__name__}", (_OneSpike, kind), {"__module__": __name__})


class _OneSpike:
    """What the subclass of a node adds: the window, the neurons that have spiked, and the number of steps so far."""

    window: Window | None
    _fired: Tensor | None
    _steps: int

    def reset(self) -> None:
        """Forgets which neurons have spiked."""
        parent: Any = super()
        parent.reset()
        self._fired, self._steps = None, 0

    def single_step_forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """Spikes [N, *] of a step with input current x [N, *], the first ones alone."""
        parent: Any = super()
        node: Any = self
        first, end = self.window or (0, self._steps + 1)
        threshold = node.v_threshold
        if self._steps < first:
            node.v_threshold = threshold + torch.finfo(x.dtype).max ** 0.5
        try:
            spike: Tensor = parent.single_step_forward(x, *args, **options)
        finally:
            node.v_threshold = threshold
        if self._fired is None or self._fired.shape != spike.shape:
            self._fired = torch.zeros_like(spike, dtype=torch.bool)
        possible = ~self._fired & (first <= self._steps < end)
        spike = torch.where(possible, spike, torch.zeros_like(spike))
        self._fired = self._fired | (spike.detach() != 0)
        self._steps += 1
        if isinstance(node, LoopNode) and node.lateral is not None:
            node.spikes = spike.clone()  # what the lateral weights see at the next step
        return spike

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **options: Any) -> Tensor:
        """Spikes [T, N, *] of input currents x_seq [T, N, *], the first ones alone."""
        return torch.stack([self.single_step_forward(x, *args, **options) for x in x_seq])
