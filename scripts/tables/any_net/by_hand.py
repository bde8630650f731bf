"""ATan(4) set by hand: the derivative written out, and contexts that put it into a framework's own places.

Nothing here comes from snnrobust: it is what its swap is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

ALPHA = 4.0


def slope(u: Tensor) -> Tensor:
    """Derivative of ATan(4) at the distance u to the threshold: alpha / 2 / (1 + (pi alpha u / 2)^2)."""
    return ALPHA / 2 / (1 + (math.pi * ALPHA * u / 2) ** 2)


def nearest_level(v: Tensor, spacing: Any = 1.0, offset: float = 0.0, most: float = math.inf) -> Tensor:
    """The nearest of the levels (k - offset) * spacing, k = 1 ... most, at which a count of spikes changes."""
    return (((v / spacing + offset).round()).clamp(1.0, most) - offset) * spacing


class _Step(torch.autograd.Function):
    """H(u), as `at_threshold` says at 0, with the derivative of ATan(4)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, at_threshold: bool) -> Tensor:
        ctx.save_for_backward(u)
        return (u >= 0 if at_threshold else u > 0).to(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * slope(ctx.saved_tensors[0]), None


def strict_step(u: Tensor) -> Tensor:
    """1 above the threshold, 0 at it: snnTorch's spike."""
    return _Step.apply(u, False)


class EvalStep(nn.Module):
    """H(u) for ComplementaryLIFNode, which calls no surrogate with `spiking` in eval mode."""

    spiking = False

    def forward(self, u: Tensor) -> Tensor:
        return _Step.apply(u, True)


class _Count(torch.autograd.Function):
    """A rounded count of spikes, with the derivative of ATan(4) at the distance to the nearest level k - 1/2."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, most: int) -> Tensor:
        ctx.save_for_backward(v)
        ctx.most = most
        return v.clamp(0, most).round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (v,) = ctx.saved_tensors
        return grad * slope(v - nearest_level(v, offset=0.5, most=ctx.most)), None


class CountByHand(surrogate.MultiLevelSpikeCount):
    """SpikingJelly's spike count with another derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return _Count.apply(x, self.max_spike_count)


@contextmanager
def replaced(owner_name_value: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Sets attributes, and puts the old ones back."""
    pairs = list(owner_name_value)
    old = [(owner, name, vars(owner).get(name, getattr(owner, name))) for owner, name, _ in pairs]
    try:
        for owner, name, value in pairs:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in old:
            setattr(owner, name, value)


def spikingjelly(net: nn.Module) -> Any:
    """SpikingJelly's own ATan(4) at every module that has a surrogate function."""
    pairs = [
        (module, name, _in_place_of(module, child))
        for module in net.modules()
        for name, child in module.named_children()
        if isinstance(child, surrogate.SurrogateFunctionBase)
    ]
    for node in net.modules():
        if isinstance(node, neuron.ILIFNode):  # its operator for all steps takes no other surrogate
            pairs.append((node, "multi_step_forward", _step_by_step(node)))
    return replaced(pairs)


def _step_by_step(node: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stack([node.single_step_forward(each) for each in x])


def _in_place_of(node: nn.Module, own: nn.Module) -> nn.Module:
    if isinstance(own, surrogate.MultiLevelSpikeCount):
        return CountByHand(own.max_spike_count)
    return EvalStep() if isinstance(node, neuron.ComplementaryLIFNode) else surrogate.ATan(alpha=ALPHA)


def function(*patches: tuple[type, Callable[..., Any]]) -> Any:
    """Another backward of autograd Functions."""
    return replaced([(cls, "backward", staticmethod(backward)) for cls, backward in patches])
