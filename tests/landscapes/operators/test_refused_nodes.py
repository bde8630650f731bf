"""Operators that replace spikes refuse nodes that can't be replaced, and name operators that work."""

from __future__ import annotations

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.dataset import Dataset
from snnrobust.errors import InputError
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.field import Field
from snnrobust_landscapes.operators.gauss_newton import GaussNewton
from snnrobust_landscapes.operators.hessian import Formal
from snnrobust_landscapes.operators.operator import OperatorSpec
from snnrobust_landscapes.operators.relaxed import Relaxed

T, D, K = 3, 4, 3


def product(spec: OperatorSpec, node: nn.Module) -> Tensor:
    """With a vector of ones, in the weights of a net of this node before one that can be replaced."""
    torch.manual_seed(0)
    known = neuron.LIFNode(surrogate_function=surrogate.ATan(), v_threshold=0.3)
    net = nn.Sequential(layer.Linear(D, D), node, layer.Linear(D, D), known, layer.Linear(D, K))
    mode = getattr(node, "step_mode", "m")
    functional.set_step_mode(net, mode)
    model = wrap(net, steps=T, layout="TN" if mode == "m" else "step", bounds=(0, 2))
    generator = torch.Generator().manual_seed(1)
    samples = Dataset.of(2 * torch.rand(8, D, generator=generator), torch.randint(K, (8,), generator=generator))
    with model.session():
        landscape = WeightLandscape(model, samples, chunk=8)
        operator = spec.on(landscape, 1.0, Draws(0, "refused"))
        return operator.apply(torch.ones(1, landscape.size, dtype=torch.float64))[0, : D * D]


@pytest.mark.parametrize("spec", [Relaxed(), Field(), GaussNewton()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize(
    "node",
    [
        neuron.DSRIFNode(T=T, step_mode="m"),
        neuron.ILIFNode(),
        neuron.IFNode(surrogate_function=surrogate.Sigmoid(spiking=False), step_mode="m"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_refusal_names_operators_that_work(spec: OperatorSpec, node: nn.Module) -> None:
    advice = r"use operator='formal' or \{'name': 'gauss-newton', 'surrogate': 'own'\}"
    with pytest.raises(InputError, match=rf"'1' \({type(node).__name__}\).*{advice}"):
        product(spec, node)
    for advised in (Formal(), GaussNewton("own")):
        found = product(advised, node)  # of the weights before the node
        assert found.isfinite().all()
        assert found.abs().max() > 0


@pytest.mark.parametrize("spec", [Relaxed(), Field(), GaussNewton()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("kind", [neuron.OTTTLIFNode, neuron.SLTTLIFNode])
def test_no_operator_is_named_where_no_gradient_passes(spec: OperatorSpec, kind: type) -> None:
    with pytest.raises(InputError, match="put SpikingJelly's LIFNode") as refusal:
        product(spec, kind())
    assert "operator=" not in str(refusal.value)
    assert not product(Formal(), kind()).any()  # why: zero before the node
    like = neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="s")
    assert product(spec, like).abs().max() > 0  # the advice


@pytest.mark.parametrize("node", [neuron.PSN(T), neuron.MaskedPSN(k=2, T=T, step_mode="m")], ids=["PSN", "MaskedPSN"])
def test_neurons_over_all_steps_are_relaxed_as_others(node: nn.Module) -> None:
    """The relaxed Hessian is that of the net whose surrogates emit their integrals."""
    node.surrogate_function = surrogate.Sigmoid(alpha=4.0)
    found = product(Relaxed(), node)
    torch.manual_seed(0)
    smooth = copy.deepcopy(node)
    smooth.surrogate_function.spiking = False
    known = neuron.LIFNode(surrogate_function=surrogate.ATan(spiking=False), v_threshold=0.3)
    net = nn.Sequential(layer.Linear(D, D), smooth, layer.Linear(D, D), known, layer.Linear(D, K))
    functional.set_step_mode(net, "m")
    generator = torch.Generator().manual_seed(1)
    x, y = 2 * torch.rand(8, D, generator=generator), torch.randint(K, (8,), generator=generator)
    weights = list(net.eval().parameters())
    loss = nn.functional.cross_entropy(net(x.expand(T, 8, D)).mean(dim=0), y)
    first = torch.autograd.grad(loss, weights, create_graph=True)
    total = sum((each.sum() for each in first), start=torch.zeros(()))
    expected = torch.autograd.grad(total, weights[0])[0].flatten()
    assert torch.allclose(found.float(), expected, rtol=1e-3, atol=1e-6)
