"""Convolutions that an accelerated model takes into its nodes' kernels: when, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust import networks
from snnrobust.acceleration.model import AcceleratedModel
from snnrobust.acceleration.node import FastNode
from snnrobust.kernels.backends import backends
from snnrobust.kernels.convolved import Convolved
from snnrobust.spike_gradients.swap import Own
from snnrobust.wrapping.model import SpikingModel

pytestmark = pytest.mark.skipif(not backends("cpu")[0], reason="no fast kernels on this machine")
STEPS, N = 5, 16


def lif(features: int) -> nn.Module:
    return neuron.LIFNode(decay_input=False, step_mode="m", v_threshold=0.4)


def small(*, channels: tuple[int, ...] = (4, 8)) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return networks.conv(lif, channels, classes=3, size=8)


def images() -> Tensor:
    return torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def nodes(accelerated: AcceleratedModel) -> list[FastNode]:
    return list(accelerated.fast.values())


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of the kernel, whether its channels come last."""
    found: list[bool] = []
    forward = Convolved.forward

    def watched(self: Convolved, *given: Any, channels_last: bool) -> Tensor:
        found.append(channels_last)
        return forward(self, *given, channels_last=channels_last)

    monkeypatch.setattr(Convolved, "forward", watched)
    return found


@torch.no_grad()
def test_bits_are_those_of_the_net_and_weights_are_read_anew(fused: list[bool]) -> None:
    net = small()
    model = sr.wrap(net, steps=STEPS)
    accelerated = AcceleratedModel(model, Own())
    for _ in range(2):
        found = accelerated.outputs(images())
        assert torch.equal(found, model.outputs(images()))
        assert 0.02 < found.mean() < 0.98
        net[4].weight += 0.3
        net[5].bias -= 0.1
    assert fused == [True, False] * 2  # channels last from convolution to convolution, and not into the linear layer


def test_gradients_go_through_the_convolution_itself(fused: list[bool]) -> None:
    model = sr.wrap(small(), steps=STEPS)
    accelerated = AcceleratedModel(model, Own())
    accelerated.compare(images(), torch.arange(N))
    assert not fused
    taken = [each.conv for each in nodes(accelerated)]
    largest = [each.largest for each in nodes(accelerated)]
    assert [type(each) for each in taken] == [layer.Conv2d, layer.Conv2d, type(None)]
    assert not any(True for each in nodes(accelerated) for _ in each.parameters())  # the net's own
    with torch.no_grad():
        accelerated.outputs(images())
    assert len(fused) == 2
    assert [each.largest for each in nodes(accelerated)] == largest  # what a gradient needs room for
    assert nodes(accelerated)[1].held < nodes(accelerated)[1].largest


@torch.no_grad()
@pytest.mark.parametrize("change", ["bias", "stride", "heard", "read twice", "rounding"])
def test_others_stay_as_they_are(change: str, fused: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    net: nn.Module = small()
    heard: list[Tensor] = []
    if change == "bias":
        net[4].bias = nn.Parameter(torch.full((8,), 0.1))  # type: ignore[index]  # a Sequential
    elif change == "stride":
        net[4].stride, net[7] = (2, 2), nn.Identity()  # type: ignore[index,operator]  # a Sequential
    elif change == "heard":
        net[4].register_forward_hook(lambda module, given, out: heard.append(out))  # type: ignore[index]  # the same
    elif change == "read twice":
        net = _Twice(small())
    else:
        monkeypatch.setattr(Convolved, "_agrees_on", lambda self, x, weight: len(weight) == 4)
    model = sr.wrap(net, steps=STEPS)
    accelerated = AcceleratedModel(model, Own())
    assert torch.equal(accelerated.outputs(images()), SpikingModel.outputs(model, images()))
    # Where rounding differs is found out late: the one before gave its channels last, and the bits stay.
    assert fused == [change == "rounding"]
    assert len(heard) == (2 if change == "heard" else 0)


class _Twice(nn.Module):
    """Reads the second convolution's sums and the first's spikes twice."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        first = self.net[3](self.net[2](self.net[1](self.net[0](x))))  # [T, N, 4, 4, 4]
        sums = self.net[4](first)
        spikes = self.net[6](self.net[5](sums)) + 0.1 * sums + first.mean(dim=2, keepdim=True)
        out: Tensor = self.net[10](self.net[9](self.net[8](self.net[7](spikes))))
        return out
