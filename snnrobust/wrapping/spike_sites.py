"""Finds the spikes of a wrapped net that are `autograd.Function`s."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from snnrobust.frameworks.adapter import Adapter
from snnrobust.frameworks.functions.calls import FunctionClass
from snnrobust.frameworks.functions.find_sites import find_sites
from snnrobust.frameworks.functions.sites import Sites


def sites_of(
    net: nn.Module,
    adapter: Adapter | None,
    outputs: Callable[[Tensor], Tensor],
    x: Tensor,
    steps: int | None,
    named: Iterable[FunctionClass],
) -> Sites:
    """The spikes of a net that its framework's adapter does not know, in a session of its model.

    Args:
        net: The net.
        adapter: Its framework.
        outputs: Runs it on inputs, freshly reset.
        x: Inputs [N, *], one at least.
        steps: T, if it is known.
        named: Functions that the user says are spikes.
    """
    taken = {*x.shape[1:], steps, 1}
    samples = next(n for n in (3, 5, 7, 11, 13, 17, 19, 23) if n not in taken)  # no other axis is that long
    rows = x.detach()[torch.arange(samples) % len(x)]

    def forward() -> Tensor:
        with torch.enable_grad():
            return outputs(rows.clone().requires_grad_())

    known = [] if adapter is None else adapter.nodes(net).values()
    spike_function = (lambda module: False) if adapter is None else adapter.is_spike_function
    return find_sites(
        net,
        forward,
        samples=samples,
        steps=steps,
        known=list(known),
        is_spike_function=spike_function,
        named=named,
    )
