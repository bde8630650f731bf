"""Logits of the accelerated model, in parts: equal to the net's to the bit, or else computed by the net itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from snnrobust import networks
from snnrobust.acceleration.model import COMPARED, AcceleratedModel
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.kernels.backends import backends
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss import fast_logits
from snnrobust_landscapes.loss.fast_logits import FastLogits
from snnrobust_landscapes.loss.weights import WeightLandscape

N = 100
needs_kernels = pytest.mark.skipif(not backends("cpu")[0], reason="no compiler here: there are no accelerated models")


def setting(**wrapping: Any) -> tuple[SpikingModel, Dataset]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = networks.conv(
            lambda features: neuron.LIFNode(decay_input=False, step_mode="m", v_threshold=0.3), (2, 3), 4, size=9
        )
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(N, 1, 9, 9, generator=generator), torch.randint(4, (N,), generator=generator)
    return wrap(net, steps=5, **wrapping), Dataset.of(x, y, name="noise")


def sizes(monkeypatch: pytest.MonkeyPatch, kind: type[SpikingModel]) -> list[int]:
    """The number of samples of each pass through models of a class."""
    seen: list[int] = []
    outputs = kind.outputs

    def counting(self: SpikingModel, x: Tensor, **rest: Any) -> Tensor:
        if type(self) is kind:
            seen.append(len(x))
        return outputs(self, x, **rest)

    monkeypatch.setattr(kind, "outputs", counting)
    return seen


@needs_kernels
@torch.no_grad()
def test_parts_on_the_accelerated_model_give_the_nets_own_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_logits, "LARGEST", 1)
    model, data = setting()
    with model.session():
        landscape = WeightLandscape(model, data, chunk=N)
        (chunk,) = landscape.chunks
        fast = FastLogits(model, chunk, weights_move=True)
        passes, eager = sizes(monkeypatch, AcceleratedModel), sizes(monkeypatch, SpikingModel)
        for each in range(3):
            offset = 0.3 * each * landscape.direction(Draws(0, str(each)))
            with landscape._temporarily_set(landscape.moved(offset)):
                found = fast(chunk.x, chunk)
                passed = list(passes)
                assert not eager
                assert torch.equal(found, model.logits(chunk.x))
            assert found.std() > 0
            assert passed == [25] * 4  # even parts of at most 2 COMPARED = 32
            passes.clear()
            eager.clear()
    assert 2 * COMPARED == 32


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize("least", [1, COMPARED + 1])
def test_what_rounds_otherwise_is_not_used(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerated model, or a part of it, that is one bit off is not used."""
    monkeypatch.setattr(fast_logits, "LARGEST", 1)
    outputs = AcceleratedModel.outputs

    def rounded(self: AcceleratedModel, x: Tensor, **rest: Any) -> Tensor:
        found = outputs(self, x, **rest)
        off = least == 1 or (len(x) < N and len(x) >= least)
        return torch.nextafter(found, found + 1) if off else found

    monkeypatch.setattr(AcceleratedModel, "outputs", rounded)
    model, data = setting()
    with model.session():
        (chunk,) = WeightLandscape(model, data, chunk=N).chunks
        fast = FastLogits(model, chunk, weights_move=True)
        passes, eager = sizes(monkeypatch, AcceleratedModel), sizes(monkeypatch, SpikingModel)
        found = fast(chunk.x, chunk)
        assert (passes, eager) == (([], [N]) if least == 1 else ([N], []))
        assert torch.equal(found, model.logits(chunk.x))


@needs_kernels
@torch.no_grad()
def test_a_net_that_is_silent_at_its_weights_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerated model that is wrong wherever a neuron spikes has the right bits for a silent net only."""
    outputs = AcceleratedModel.outputs

    def rounded(self: AcceleratedModel, x: Tensor, **rest: Any) -> Tensor:
        found = outputs(self, x, **rest)
        return found if bool((found == found[:1]).all()) else torch.nextafter(found, found + 1)

    monkeypatch.setattr(AcceleratedModel, "outputs", rounded)
    model, data = setting()
    model.net[0].weight.data *= 1e-3
    with model.session():
        landscape = WeightLandscape(model, data, chunk=16)
        chunk = landscape.chunks[0]
        assert len(model.logits(chunk.x).unique(dim=0)) == 1
        landscape.loss_at(landscape.theta)
        passes, eager = sizes(monkeypatch, AcceleratedModel), sizes(monkeypatch, SpikingModel)
        louder = {name: each * (1e3 if name == "0.weight" else 1.0) for name, each in landscape.theta.items()}
        losses = landscape.loss_at(louder).losses
    assert losses.std() > 0
    assert (passes, eager) == ([], [16] * 6 + [4])  # nor are chunks joined


@torch.no_grad()
def test_a_model_that_is_not_to_be_accelerated_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = setting(accelerate=False)
    passes = sizes(monkeypatch, AcceleratedModel)
    with model.session():
        landscape = WeightLandscape(model, data, chunk=64)
        loss = landscape.loss(torch.zeros(landscape.size, dtype=torch.float64))
    assert not passes
    assert loss.losses.shape == (N,)
