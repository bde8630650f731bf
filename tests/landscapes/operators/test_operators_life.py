"""State, memory and names of operators."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError, InputTypeError
from snnrobust.neurons import lif
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.inputs import InputLandscape
from snnrobust_landscapes.loss.landscape import Chunk
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.asymmetry import asymmetry
from snnrobust_landscapes.operators.field import Field
from snnrobust_landscapes.operators.gauss_newton import Fisher, GaussNewton
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.names import NAMES, operator_spec
from snnrobust_landscapes.operators.operator import OperatorSpec
from snnrobust_landscapes.operators.relaxed import Relaxed, relaxation_gap

RNG = Draws(0, "life")
EXACT: list[OperatorSpec] = [GaussNewton("own"), Fisher(), Formal(), Relaxed(), Field(), Field("symmetric")]


def model(node: nn.Module | None = None) -> SpikingModel:
    spiking = node or neuron.LIFNode(surrogate_function=surrogate.ATan(), v_threshold=0.3, step_mode="m")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = nn.Sequential(nn.Linear(3, 6), spiking, nn.Linear(6, 3))
    return wrap(net.double(), steps=3)


def samples(n: int = 12) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    return Dataset.of(2 * torch.rand(n, 3, generator=generator), torch.randint(3, (n,), generator=generator))


def applied(each: OperatorSpec, own: SpikingModel) -> Tensor:
    with own.session():
        landscape = WeightLandscape(own, samples(), chunk=5)
        return each.on(landscape, 1.0, RNG).apply(torch.ones(1, landscape.size, dtype=torch.float64))


def snapshot(own: SpikingModel) -> list[Any]:
    node: Any = own.net[1]
    tensors = [p.detach().clone() for p in own.net.parameters()]
    flags = [own.net.training, node.detach_reset, node.v, len(node._forward_hooks), len(node._forward_pre_hooks)]
    return [*tensors, *flags, id(node.surrogate_function), [p.grad for p in own.net.parameters()]]


@pytest.mark.parametrize("each", EXACT, ids=str)
def test_leaves_the_model_as_it_was_and_repeats_itself(each: OperatorSpec) -> None:
    own = model()
    own.net[1].detach_reset = True
    before = snapshot(own)
    first = applied(each, own)
    second = applied(each, own)
    relaxation_gap(WeightLandscape(own, samples()))  # without an open session
    assert torch.equal(first, second)
    after = snapshot(own)
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(before, after, strict=True))


class Watched(WeightLandscape):
    """Counts the chunks whose graphs are alive when another one is built."""

    alive: list[weakref.ref[Tensor]]
    most: int

    def leaves(self, chunk: Chunk) -> list[Tensor]:
        self.most = max(self.most, sum(each() is not None for each in self.alive))
        found = super().leaves(chunk)
        self.alive.append(weakref.ref(found[0]))
        return found


@pytest.mark.parametrize("each", EXACT, ids=str)
@pytest.mark.parametrize(("memory", "most"), [(0.0, 0), (1.0, 5)])
def test_graphs_are_kept_only_where_all_fit(
    each: OperatorSpec, memory: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snnrobust_landscapes.operators.operator.MAX_CHUNK_BYTES", 0)  # otherwise they are one chunk
    own = model()
    gc.disable()  # graphs must be freed without the garbage collector
    try:
        with own.session():
            landscape = Watched(own, samples(30), chunk=5)
            landscape.alive, landscape.most = [], 0
            operator = each.on(landscape, memory, RNG)
            v = torch.ones(2, landscape.size, dtype=torch.float64)
            first = operator.apply(v)
            built = len(landscape.alive)
            assert torch.equal(operator.apply(v), first)
            assert landscape.most == most
            assert len(landscape.alive) - built == (0 if memory else 6)
            del operator
            assert sum(ref() is not None for ref in landscape.alive) == 0
    finally:
        gc.enable()


def test_small_chunks_go_through_together(monkeypatch: pytest.MonkeyPatch) -> None:
    own = model()
    with own.session():
        landscape = Watched(own, samples(30), chunk=5)
        landscape.alive, landscape.most = [], 0
        v = torch.ones(1, landscape.size, dtype=torch.float64)
        together = Formal().on(landscape, 1.0, RNG).apply(v)
        assert len(landscape.alive) == 1
        monkeypatch.setattr("snnrobust_landscapes.operators.operator.MAX_CHUNK_BYTES", 0)
        assert torch.allclose(Formal().on(landscape, 1.0, RNG).apply(v), together, rtol=1e-10)


def test_products_are_counted_per_vector() -> None:
    own = model()
    with own.session():
        operator = GaussNewton("own").on(WeightLandscape(own, samples()), 1.0, RNG)
        operator.apply(torch.ones(4, operator.landscape.size, dtype=torch.float64))
        operator.apply_transposed(torch.ones(1, operator.landscape.size, dtype=torch.float64))
        assert operator.products == 5


@pytest.mark.parametrize("each", EXACT, ids=str)
@pytest.mark.parametrize("settings", [{"leak": "learnable"}, {"reset": "none"}, {"recurrent": True, "features": 6}])
def test_other_neurons(each: OperatorSpec, settings: dict[str, Any]) -> None:
    """Learnable leaks and lateral weights are parameters like others; in float32, symmetric up to its rounding."""
    own = model(lif(threshold=0.3, step_mode="m", **settings))
    own.net.float()
    with own.session():
        for landscape in (WeightLandscape(own, samples(), chunk=5), InputLandscape(own, samples(), chunk=5)):
            index = asymmetry(each.on(landscape, 1.0, RNG), RNG)
            assert index < 1e-5 or each == Field()


def test_operators_by_name() -> None:
    names = [operator_spec(name).name for name in NAMES]
    assert len(set(names)) == 6
    assert operator_spec({"name": "field", "part": "symmetric"}) == Field("symmetric")
    assert operator_spec(Field("symmetric")) == Field("symmetric")
    with pytest.raises(InputError, match="got 'gaus-newton'; did you mean 'gauss-newton'"):
        operator_spec("gaus-newton")
    with pytest.raises(InputError, match=r"got 'hessian'.*; the surrogate Hessian is 'formal'"):
        operator_spec("hessian")
    with pytest.raises(InputError, match="choose one of gauss-newton, relaxed"):
        operator_spec({"part": "whole"})
    with pytest.raises(InputError, match=r"settings of operator 'formal', got \{'sigma': 1\}"):
        operator_spec({"name": "formal", "sigma": 1})
    with pytest.raises(InputError, match=r"part in \['whole', 'symmetric'\], got 'half'"):
        operator_spec({"name": "field", "part": "half"})
    with pytest.raises(InputTypeError, match=r"got 3; e\.g\. 'gauss-newton'"):
        operator_spec(3)  # type: ignore[arg-type]  # wrong on purpose
