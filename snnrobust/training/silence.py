"""A remedy for event-driven neurons that fall silent in training, where no gradient can reach them."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from snnrobust.neurons.event_driven import EventDriven, EventDrivenConv2d


class SilentNeurons:
    """Finds the neurons of event-driven layers that spiked for no sample since the last `raise_weights`.

    A silent neuron has no spike time, so the loss has no gradient with respect to its weights. As is usual for nets of
    first spikes (Mostafa 2017, arXiv 1606.08165; Goeltz et al. 2021), all its weights are raised a little.

    Use it as a context, which its forward hooks last for:

        with SilentNeurons(net) as silent:
            net(x)
            silent.raise_weights(0.001)

    Args:
        net: The net; only its `EventDriven` and `EventDrivenConv2d` layers count.
    """

    def __init__(self, net: nn.Module) -> None:
        self._layers = [each for each in net.modules() if isinstance(each, EventDriven | EventDrivenConv2d)]
        self._spiked: dict[nn.Module, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        """Puts the hooks on."""
        self._hooks = [layer.register_forward_hook(self._watch) for layer in self._layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @torch.no_grad()
    def raise_weights(self, amount: float) -> int:
        """Adds `amount` to the weights of each silent neuron, or filter; returns how many there are."""
        count = 0
        for layer, spiked in self._spiked.items():
            weight: Tensor = layer.get_parameter("weight")  # (M, I)
            weight[~spiked] += amount
            count += int((~spiked).sum())
        self._spiked = {}
        return count

    def _watch(self, layer: nn.Module, _: tuple[Tensor, ...], times: Tensor) -> None:
        """Notes which neurons have spiked: times [N, M, K] or [N, M, H, W, K]."""
        spiked = times.detach().isfinite().transpose(0, 1).flatten(1).any(dim=1)  # (M,)
        before = self._spiked.get(layer)
        self._spiked[layer] = spiked if before is None else before | spiked
