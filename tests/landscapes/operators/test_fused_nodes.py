"""Operators on fused nodes: the same products, and the net itself wherever a node can't be fused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.kernels import twice_differentiable
from snnrobust.neurons import PRESETS
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Landscape
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators import fused_nodes
from snnrobust_landscapes.operators.gauss_newton import Fisher, GaussNewton
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import OperatorSpec

RNG = Draws(0, "jets")
KINDS: list[OperatorSpec] = [Formal(), GaussNewton("own"), GaussNewton(), Fisher()]


def samples(count: int = 20) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    return Dataset.of(torch.rand(count, 1, 6, 6, generator=generator), torch.randint(4, (count,), generator=generator))


def conv(node: Any, accelerate: bool = True) -> SpikingModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [layer.Conv2d(1, 3, 3, step_mode="m"), layer.BatchNorm2d(3, step_mode="m"), node()]
        net = nn.Sequential(*parts, nn.Flatten(2), nn.Linear(48, 4), node())
    with torch.no_grad():
        net[1].weight.mul_(2)
        net[4].weight.mul_(3)
    return wrap(net.double(), steps=4, accelerate=accelerate)


def lif() -> nn.Module:
    return neuron.LIFNode(v_threshold=0.5, surrogate_function=surrogate.ATan(), step_mode="m")


def products(model: SpikingModel, kind: OperatorSpec, space: str = "weights") -> Tensor:
    with model.session():
        landscape: Landscape = (WeightLandscape if space == "weights" else InputLandscape)(model, samples(), chunk=7)
        rows = 2 if space == "weights" else landscape.blocks
        along = torch.randn(rows, landscape.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        return kind.on(landscape, 1.0, RNG).apply(along)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts fused nodes that ran."""
    seen: list[int] = []
    real = twice_differentiable.twice_differentiable_node
    monkeypatch.setattr(fused_nodes, "twice_differentiable_node", lambda *args: seen.append(1) or real(*args))
    return seen


@pytest.mark.parametrize("space", ["weights", "inputs"])
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_net_itself(kind: OperatorSpec, space: str, calls: list[int]) -> None:
    fast = products(conv(lif), kind, space)
    ran = len(calls)
    plain = products(conv(lif, accelerate=False), kind, space)
    assert ran > 0
    assert len(calls) == ran  # `accelerate=False` turns it off
    assert float(plain.abs().max()) > 1e-6
    assert torch.allclose(fast, plain, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset(name: str) -> None:
    """Nodes with learnable leaks or lateral inputs are not fused; other nodes of the net are."""

    def node() -> nn.Module:
        return PRESETS[name].build(features=4) if "recurrent" in name else PRESETS[name].build()

    def build() -> SpikingModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(2), nn.Linear(36, 8), lif(), nn.Linear(8, 4), node())
        return wrap(net.double(), steps=3)

    fast, slow = build(), build()
    slow.accelerate = False
    for kind in KINDS[:3]:
        assert torch.allclose(products(fast, kind), products(slow, kind), rtol=1e-8, atol=1e-12)


class Twice(nn.Module):
    """Calls one node twice a pass, the second time from the state after the first."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.node = nn.Linear(36, 4), lif()

    def forward(self, x: Tensor) -> Tensor:
        current = self.linear(x.flatten(2))
        return self.node(current) + self.node(current)


class Reader(Twice):
    """Reads the node's membrane potential after the pass."""

    def forward(self, x: Tensor) -> Tensor:
        self.node(self.linear(x.flatten(2)))
        return self.node.v


@pytest.mark.parametrize("net", [Twice, Reader])
def test_a_net_that_relies_on_a_nodes_state_runs_as_it_is(net: type[Twice]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = net().double()
    fast, slow = (wrap(own, steps=3, accelerate=each) for each in (True, False))
    assert torch.equal(products(fast, Formal()), products(slow, Formal()))


def test_the_net_is_left_as_it_was() -> None:
    model = conv(lif)
    before = [dict(vars(module)) for module in model.net.modules()]
    products(model, Formal())
    after = [dict(vars(module)) for module in model.net.modules()]
    assert [each.keys() for each in before] == [each.keys() for each in after]
    assert all("forward" not in each for each in after)
