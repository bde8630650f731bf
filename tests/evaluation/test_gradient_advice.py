"""What the probe advises where a net's own gradient fails is something that works."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError

T, N, D = 4, 16, 5


def model_of(node: nn.Module) -> sr.SpikingModel:
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(D, D), node, layer.Linear(D, 3))
    mode = getattr(node, "step_mode", "s")
    functional.set_step_mode(net, mode)
    return sr.wrap(net, layout="TN" if mode == "m" else "step", steps=T, bounds=(0, 2))


def data_for(model: sr.SpikingModel) -> tuple[Tensor, Tensor]:
    x = 2 * torch.rand(N, D, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, model.logits(x).argmax(dim=1)


def advice(model: sr.SpikingModel) -> str:
    findings = {each.name: each for each in sr.probe(model, data_for(model))}
    assert findings["input-gradient"].passed is False
    return findings["input-gradient"].remedy


def robust(model: sr.SpikingModel, attack: sr.Task) -> float:
    report = sr.evaluate(model, data_for(model), [attack], progress=False, evidence="none")
    return float(report.curve(attack.label).value[0])


@pytest.mark.parametrize("kind", [neuron.OTTTLIFNode, neuron.SLTTLIFNode])
def test_online_nodes_are_not_advised_an_estimator(kind: type) -> None:
    model = model_of(kind(v_threshold=0.4))
    remedy = advice(model)
    assert "gradient='atan'" not in remedy
    assert "Put SpikingJelly's LIFNode" in remedy
    with pytest.raises(InputError):
        robust(model, sr.load("pgd", epsilon=[0.1], steps=2, gradient="atan"))
    assert robust(model, sr.load("square", epsilon=[1.0], steps=100)) < 1
    like = model_of(neuron.LIFNode(v_threshold=0.4, surrogate_function=surrogate.ATan(), step_mode="s"))
    assert robust(like, sr.load("pgd", epsilon=[1.0], steps=5, gradient="atan")) < 1


def test_control_an_estimator_is_advised_where_it_works() -> None:
    model = model_of(neuron.ComplementaryLIFNode(v_threshold=0.4, step_mode="m"))
    assert "gradient='atan'" in advice(model)
    assert robust(model, sr.load("pgd", epsilon=[1.0], steps=5, gradient="atan")) < 1


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_net_of_st_bif_nodes_is_evaluated_without_gradients(mode: str) -> None:
    """SpikingJelly raises an error at these nodes where a gradient is recorded."""
    model = model_of(neuron.STBIFNode(q_threshold=0.2, level=4, sym=True, step_mode=mode))
    x, y = data_for(model)
    logits = model.logits(x.requires_grad_())
    assert not logits.requires_grad
    net = model.net
    functional.reset_net(net)
    with torch.no_grad():
        want = torch.stack([net[2](net[1].single_step_forward(net[0](x))) for _ in range(T)]).mean(dim=0)
    functional.reset_net(net)
    torch.testing.assert_close(logits, want)
    remedy = advice(model)
    assert "gradient='atan'" not in remedy
    assert "'square'" in remedy
    assert robust(model, sr.load("square", epsilon=[1.0], steps=100)) < 1
    report = sr.evaluate(model, (x.detach(), y), [sr.load("fgsm", epsilon=[1.0])], progress=False)
    assert report.verdict == "untrustworthy"  # nothing was attacked
