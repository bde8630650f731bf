"""Scales random weights so that every spiking layer fires: a net that is silent tests nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: A layer whose rate lies here is left as it is.
ENOUGH = (0.1, 0.45)
#: What a scaled layer is brought near to.
AIM = 0.25
#: Powers of two that scale a layer's input.
GAINS = (-6.0, 8.0)
STEPS = 9
#: Modules before a layer that are tried: attention may lie between its weights and itself.
TRIED = 8

Knobs = dict[str, list[list[Tensor]]]


@torch.no_grad()
def calibrate(net: nn.Module, spikes: Callable[[], dict[str, Tensor]], knobs: Knobs | None = None) -> None:
    """Scales the weights before each spiking layer, in the order of the forward pass, by a search of its rate.

    Args:
        net: The net, in eval mode.
        spikes: Runs it and gives the spikes of each layer.
        knobs: For each layer sets of parameters, to be scaled one after the other until it fires; found by a pass
            where None.
    """
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and not module.weight.any():
            module.weight.fill_(1.0)  # residual branches that start at zero, and would be silent
    for name, sets in (_weights_before(net, spikes) if knobs is None else knobs).items():
        best: tuple[float, list[Tensor], list[Tensor]] | None = None
        for tensors in sets:
            original = [tensor.clone() for tensor in tensors]
            off = _search(name, tensors, spikes)
            scaled = [tensor.clone() for tensor in tensors]
            if best is None or off < best[0]:
                best = off, tensors, scaled
            _put(tensors, original)
            if off == 0:
                break
        if best is not None:
            _put(*best[1:])


def rate(spikes: Tensor) -> float:
    """Share of entries that are not zero."""
    return float((spikes != 0).double().mean())


def _search(name: str, tensors: list[Tensor], spikes: Callable[[], dict[str, Tensor]]) -> float:
    """Scales tensors; how far the layer's rate is then from the range, 0 inside it."""
    original = [tensor.clone() for tensor in tensors]
    if (off := _off(rate(spikes()[name]))) == 0:
        return off
    (low, high), tried = GAINS, [(off, 0.0)]
    for _ in range(STEPS):
        gain = (low + high) / 2
        now = _rate_at(gain, name, tensors, original, spikes)
        tried.append((_off(now), gain))
        if _off(now) == 0:
            return 0.0
        low, high = (gain, high) if now < AIM else (low, gain)
    for gain in range(int(GAINS[0]), int(GAINS[1]) + 1):  # behind attention the rate may fall again
        now = _rate_at(gain, name, tensors, original, spikes)
        tried.append((_off(now), gain))
    off, gain = min(tried)
    _put(tensors, [old * 2**gain for old in original])
    return off


def _rate_at(
    gain: float, name: str, tensors: list[Tensor], original: list[Tensor], spikes: Callable[[], dict[str, Tensor]]
) -> float:
    _put(tensors, [old * 2**gain for old in original])
    return rate(spikes()[name])


def _off(now: float) -> float:
    return max(ENOUGH[0] - now, now - ENOUGH[1], 0.0)


def _put(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _weights_before(net: nn.Module, spikes: Callable[[], dict[str, Tensor]]) -> Knobs:
    """The parameters of the linear, convolutional and normalising modules that ran before each layer, latest first.

    Those before an earlier layer are left out: scaling them would undo its calibration.
    """
    known = set(spikes())
    kinds = nn.Linear | nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm
    since: list[nn.Module] = []
    found: Knobs = {}
    handles = []

    def before(name: str, module: nn.Module) -> None:
        if name in known and name not in found:
            found[name] = [list(each.parameters(recurse=False)) for each in reversed(since[-TRIED:])]
            since.clear()
        if isinstance(module, kinds) and not any(module is each for each in since):
            since.append(module)

    for name, module in net.named_modules():
        handles.append(module.register_forward_pre_hook(lambda module, _, name=name: before(name, module)))
    try:
        spikes()
    finally:
        for handle in handles:
            handle.remove()
    return found
