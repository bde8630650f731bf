"""The smooth net in which every spike is the integral of its own surrogate, and its gap to the spiking net."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.errors import InputError
from snnrobust.kernels.derivative import Derivative
from snnrobust.kernels.primitive import is_relaxable, smooth_step
from snnrobust.spike_gradients.swap import SpikeGradient
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.loss.landscape import Landscape, LossValues, loss_and_correct
from snnrobust_landscapes.operators.hessian import Hessian
from snnrobust_landscapes.operators.nodes import spiking_nodes
from snnrobust_landscapes.operators.operator import Operator


@dataclass(frozen=True)
class Relaxed:
    """The Hessian of the smooth net in which each spike H(u) is P(u), the integral of its node's own surrogate.

    A true Hessian, but of another net: `relaxation_gap` measures how far the two nets' losses are apart. The difference
    grows over layers and steps; a sharper surrogate makes it smaller, and the curvature larger. A node's `detach_reset`
    is ignored, as with it the gradient would not be that of the smooth net's loss.
    """

    @property
    def name(self) -> str:
        """The second-order object in words."""
        return "Hessian of the smooth relaxation"

    def on(self, landscape: Landscape, memory: float, rng: Draws) -> Operator:
        """The operator of this landscape; exact, no draws.

        Raises:
            InputError: If the net has no spiking nodes of a supported framework, or a surrogate
                without a known integral.
        """
        return Hessian(landscape, memory, name=self.name, spikes=smooth_net(landscape.model))


def relaxation_gap(landscape: Landscape) -> tuple[float, float]:
    """Mean loss and accuracy of the relaxed net minus those of the net itself.

    Args:
        landscape: A loss over weights or inputs.

    Returns:
        The gap in loss and the gap in accuracy, in [-1, 1].

    Raises:
        InputError: As `Relaxed.on`; or if a loss is not finite.
    """
    here = (landscape.size,) if landscape.space == "weights" else (landscape.blocks, landscape.size)
    spiking = landscape.loss(torch.zeros(here, dtype=torch.float64))
    relaxed = _relaxed_loss(landscape)
    return relaxed.mean - spiking.mean, relaxed.accuracy - spiking.accuracy


def smooth_net(model: SpikingModel) -> Callable[[], AbstractContextManager[None]]:
    """Makes a context in which the net of `model` is the relaxed one; errors as in `Relaxed.on`."""
    adapter, nodes = spiking_nodes(model, Relaxed().name)
    relaxed_spikes = {name: _Smooth(_known(name, node, adapter.derivative(node))) for name, node in nodes.items()}
    primitives = SpikeGradient(model.net, relaxed_spikes)

    @contextmanager
    def smooth() -> Iterator[None]:
        with ExitStack() as undo:
            for node in nodes.values():  # the gradient of the smooth net's loss includes the reset
                undo.callback(adapter.swap_detach_reset, node, adapter.swap_detach_reset(node, False))
            undo.enter_context(primitives)
            yield

    return smooth


@dataclass(frozen=True)
class _Smooth:
    """A `snnrobust.plugin.Relaxation`."""

    derivative: Derivative

    def primitive(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """The smooth value in place of the spike, of the shape of u."""
        return smooth_step(u, self.derivative)


def _known(name: str, node: nn.Module, derivative: Derivative | None) -> Derivative:
    # A derivative with jumps has a second one that misses them.
    if derivative is None or not is_relaxable(derivative):
        raise InputError(
            f"expected surrogates with a known integral and a continuous derivative for the {Relaxed().name}, got "
            f"{node.get_submodule('surrogate_function')} at node '{name}'; use a surrogate such as ATan or Sigmoid "
            f"that emits spikes, or operator='gauss-newton' or 'formal'"
        )
    return derivative


@torch.no_grad()
def _relaxed_loss(landscape: Landscape) -> LossValues:
    smooth = smooth_net(landscape.model)
    losses, correct = [], []
    for chunk in landscape.chunks:
        with smooth():
            logits = landscape.logits(landscape.leaves(chunk), chunk)  # scaled
        each, right = loss_and_correct(landscape.model, logits, chunk, 1.0)
        losses.append(each)
        correct.append(right)
    return LossValues(torch.cat(losses), torch.cat(correct))
