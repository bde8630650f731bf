"""Signed, graded and continuous spikes count once each; their comparisons with a threshold are refused by name."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.errors import InputError

T, N, D = 4, 6, 5


def model_of(node: nn.Module) -> sr.SpikingModel:
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(D, D), node, layer.Linear(D, D), neuron.LIFNode(v_threshold=0.3))
    mode = getattr(node, "step_mode", "m")
    functional.set_step_mode(net, mode)
    return sr.wrap(net, layout="TN" if mode == "m" else "step", steps=T, bounds=(0, 2))


def inputs() -> Tensor:
    return 2 * torch.rand(N, D, generator=torch.Generator().manual_seed(1))


def _data() -> tuple[Tensor, Tensor]:
    return inputs(), torch.zeros(N, dtype=torch.long)


@pytest.mark.parametrize(
    "node",
    [
        neuron.ILIFNode(),
        neuron.TernaryIFNode(),
        neuron.TernaryLIFNode(step_mode="m"),
        neuron.LIAFNode(torch.sigmoid, True, step_mode="m"),
        neuron.IFNode(surrogate_function=surrogate.Sigmoid(spiking=False)),
        neuron.IFNode(surrogate_function=surrogate.MultiLevelSpikeCount(3), step_mode="m"),
        neuron.DSRIFNode(T=T, step_mode="m"),
        neuron.OTTTLIFNode(),
        neuron.SLTTLIFNode(),
    ],
)
def test_outputs_that_are_no_spikes_0_and_1_count_once_each(node: nn.Module) -> None:
    _assert_counted(node)


def _assert_counted(node: nn.Module) -> None:
    """The firing rate is the share of outputs that are not zero; threshold margins are refused."""
    model, emitted = model_of(node), []
    model.find_spikes(inputs())
    handle = node.register_forward_hook(lambda module, args, out: emitted.append(out.detach()))
    spikes = model.record(inputs()).spikes["1"]
    handle.remove()
    assert torch.equal(spikes, (torch.stack(emitted) if len(emitted) > 1 else emitted[0]).transpose(0, 1))
    report = sr.evaluate(model, _data(), ["activity"], progress=False, evidence="none")
    (rate,) = [each.value for each in report.records if each.metric == "firing_rate:1"]
    assert rate == pytest.approx(float((spikes != 0).float().mean()))
    with pytest.raises(InputError, match=rf"got '1' \({type(node).__name__}\)"):
        sr.evaluate(model, _data(), ["threshold-margins"], progress=False, evidence="none")


class Doubled(neuron.LIFNode):  # type: ignore[misc]  # SpikingJelly has no types
    """Asks its surrogate twice a step."""

    def single_step_forward(self, x: Tensor) -> Tensor:
        self.surrogate_function(x - 5)
        out: Tensor = super().single_step_forward(x)
        return out


class Scaled(neuron.LIFNode):  # type: ignore[misc]  # SpikingJelly has no types
    """A user's node whose spikes are as large as its threshold."""

    def single_step_forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().single_step_forward(x)
        return 2 * out


@pytest.mark.parametrize("kind", [Doubled, Scaled])
def test_nodes_of_users_are_heard_to_be_graded(kind: type[neuron.LIFNode]) -> None:
    _assert_counted(kind(v_threshold=0.2))


@pytest.mark.parametrize(
    "node",
    [
        neuron.LIFNode(),
        neuron.PSN(T),
        neuron.ParametricLIFNode(step_mode="m"),
        neuron.ComplementaryLIFNode(step_mode="m"),
        neuron.MaskedPSN(k=2, T=T, step_mode="m"),
        neuron.SlidingPSN(k=2, step_mode="m"),
        neuron.SlidingPSN(k=2, step_mode="s"),
        neuron.KLIFNode(step_mode="m"),
    ],
)
def test_control_spikes_are_counted_as_the_node_emits_them(node: nn.Module) -> None:
    model, emitted = model_of(node), []
    model.find_spikes(inputs())
    handle = node.register_forward_hook(lambda module, args, out: emitted.append(out.detach()))
    recording = model.record(inputs())
    handle.remove()
    spikes = (torch.stack(emitted) if len(emitted) > 1 else emitted[0]).transpose(0, 1)
    assert torch.equal(recording.spikes["1"], spikes)
    assert torch.equal((recording.distances["1"] >= 0).float(), spikes)
    report = sr.evaluate(model, _data(), ["activity"], progress=False, evidence="none")
    (rate,) = [each.value for each in report.records if each.metric == "firing_rate:1"]
    assert rate == pytest.approx(float(spikes.mean()))
    sr.evaluate(model, _data(), ["threshold-margins"], progress=False, evidence="none")


def test_no_own_surrogate_of_clif_is_active_in_eval_mode() -> None:
    """CLIF calls a step without a gradient there, whatever its surrogate's derivative is."""
    shares = {}
    for node in (neuron.ComplementaryLIFNode(surrogate_function=surrogate.ATan(), step_mode="m"), neuron.LIFNode()):
        node.surrogate_function = surrogate.ATan()
        net = nn.Sequential(layer.Linear(D, D), node, layer.Linear(D, 3))
        functional.set_step_mode(net, "m")
        model = sr.wrap(net, steps=T, bounds=(0, 2))
        report = sr.evaluate(model, _data(), ["threshold-margins"], progress=False, evidence="none")
        shares[type(node)] = {each.value for each in report.records if each.metric == "surrogate_active:1"}
        logits = model.logits(inputs().requires_grad_())
        (weight,) = torch.autograd.grad(logits.sum(), net[0].weight, allow_unused=True)
        assert (weight is None) == (shares[type(node)] == {0.0})
    assert shares == {neuron.ComplementaryLIFNode: {0.0}, neuron.LIFNode: {1.0}}
