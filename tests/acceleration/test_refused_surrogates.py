"""A node whose own surrogate does not spike at the threshold, or that is single-step, does not run on fast kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.acceleration.model import AcceleratedModel, NotAccelerated
from snnrobust.kernels.backends import backends
from snnrobust.spike_gradients.swap import Own
from snnrobust_attacks.estimators.atan import ATan

pytestmark = pytest.mark.skipif(not backends("cpu")[0], reason="no fast kernels on this machine")
T, D = 4, 3


class Strict(nn.Module):
    """Spikes above the threshold only, not at it."""

    def forward(self, u: Tensor) -> Tensor:
        return (u > 0).to(u)


def model_of(own: nn.Module, mode: str = "m") -> sr.SpikingModel:
    """The membrane potentials are the inputs."""
    net = nn.Sequential(layer.Linear(D, D), neuron.IFNode(v_reset=0.0, surrogate_function=own))
    functional.set_step_mode(net, mode)
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(D))
        net[0].bias.zero_()
    return sr.wrap(net, steps=T, layout="TN" if mode == "m" else "step", bounds=(0, 2))


def test_a_surrogate_that_does_not_spike_at_the_threshold_is_not_accelerated() -> None:
    model, at = model_of(Strict()), torch.ones(2, D)
    assert (model.logits(at) == 0.5).all()  # at steps 2 and 4, from the sum 2
    with pytest.raises(NotAccelerated, match=r"surrogate Strict of node '1' \(IFNode\) may not spike at the threshold"):
        AcceleratedModel(model, ATan())
    assert (AcceleratedModel(model_of(surrogate.ATan()), ATan()).logits(at) == 1).all()  # control: at every step


def test_the_reason_is_in_the_execution_path() -> None:
    model = model_of(Strict())
    x = 0.3 + torch.rand(8, D, generator=torch.Generator().manual_seed(0))
    data = x, model.logits(x).argmax(dim=1)
    attack = sr.load("pgd", epsilon=[0.1], steps=2, gradient="atan")
    report = sr.evaluate(model, data, [attack], progress=False, evidence="none")
    (path,) = report.execution_paths()["pgd"]
    assert "surrogate Strict of node '1' (IFNode) may not spike at the threshold" in str(path)


@pytest.mark.parametrize("estimator", [ATan(), Own()])
def test_a_node_of_the_wrong_step_mode_says_so(estimator: Any) -> None:
    """Single-step nodes that are called with all steps treat the first axis as samples."""
    single, multi = model_of(surrogate.ATan(), "s"), model_of(surrogate.ATan())
    wrong = sr.wrap(single.net, steps=5, layout="TN")
    with pytest.raises(NotAccelerated, match=r"node '1' \(IFNode\) is single-step; set step_mode='m', .*'step'"):
        AcceleratedModel(wrong, estimator)
    for advice in (single, multi):
        AcceleratedModel(advice, estimator)
