"""The raised threshold against a net written out step by step; which layer it is in; what stays as it is."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.errors import InputError, InputTypeError
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.plugin import AnyEstimator
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own, SpikeGradient
from snnrobust.testing.estimators import check_estimator
from snnrobust_attacks.estimators.atan import ATan
from snnrobust_attacks.estimators.per_module import Modules
from snnrobust_attacks.estimators.raised_threshold import RaisedThreshold

THRESHOLD, DECAY, HALF = 0.3, 0.25, 0.5


class Window(torch.autograd.Function):
    """A spike at `fires`, with the derivative 1 within `HALF` of 0."""

    @staticmethod
    def forward(ctx, u: Tensor, fires: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(u)
        return (u >= fires).to(u)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (u,) = ctx.saved_tensors
        return gradient * (u.abs() < HALF).to(u), None


class WindowSurrogate(nn.Module):
    """The same as a node's surrogate."""

    spiking = True

    def forward(self, u: Tensor) -> Tensor:
        spikes: Tensor = Window.apply(u, 0.0)
        return spikes


def make(features: tuple[int, ...], seed: int = 0) -> tuple[sr.SpikingModel, list[nn.Linear]]:
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(a, b) for a, b in pairwise(features)]
    modules: list[nn.Module] = []
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.5)
        node = neuron.LIFNode(
            tau=1 / (1 - DECAY),
            decay_input=False,
            v_threshold=THRESHOLD,
            v_reset=0.0,
            surrogate_function=WindowSurrogate(),
            step_mode="m",
        )
        modules += [layer, node]
    return sr.wrap(nn.Sequential(*modules), encoder=None, domain="binary", name="net"), layers


def by_hand(layers: list[nn.Linear], x: Tensor, y: Tensor, raised: int, by: float) -> Tensor:
    """The input gradient of the cross entropy with the threshold of layer `raised` higher by `by`."""
    x = x.clone().requires_grad_()
    v = [torch.zeros(len(x), layer.out_features) for layer in layers]
    spikes = [torch.zeros_like(each) for each in v]
    total = torch.zeros(len(x), layers[-1].out_features)
    for t in range(x.shape[1]):
        signal = x[:, t]
        for k, layer in enumerate(layers):
            v[k] = v[k] * DECAY * (1 - spikes[k]) + layer(signal)
            spikes[k] = Window.apply(v[k] - THRESHOLD, by if k == raised else 0.0)
            signal = spikes[k]
        total = total + signal
    loss = nn.functional.cross_entropy(total / x.shape[1], y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def gradient_of(model: sr.SpikingModel, x: Tensor, y: Tensor, estimator: AnyEstimator) -> tuple[Tensor, Tensor]:
    queries = ModelQueries(model, CrossEntropy(), estimator, first_draw=Draws(0, "x").number())
    with model.session():
        gradient, _, logits = queries.gradient(Batch(x, y, torch.arange(len(x))))
    return gradient, logits


def inputs(features: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(9, 6, features, generator=generator) < 0.5).float()
    return x, torch.arange(9) % 3


@pytest.mark.parametrize(("features", "raised"), [((5, 8, 7, 3), 1), ((5, 8, 3), 0), ((5, 3), 0)])
def test_the_gradient_is_that_of_the_net_with_a_raised_penultimate_threshold(
    features: tuple[int, ...], raised: int
) -> None:
    model, layers = make(features)
    x, y = inputs(features[0])
    found, logits = gradient_of(model, x, y, RaisedThreshold(by=0.7))
    assert torch.allclose(found, by_hand(layers, x, y, raised, 0.7), atol=1e-6)
    assert torch.equal(logits, model.logits(x))  # the net's own
    assert found.abs().max() > 0
    assert not torch.allclose(found, by_hand(layers, x, y, raised, 0.0), atol=1e-6)
    own, _ = gradient_of(model, x, y, Own())
    assert torch.allclose(own, by_hand(layers, x, y, raised, 0.0), atol=1e-6)


@pytest.mark.parametrize(("name", "place"), [("1", 0), ("3", 1), ("5", 2)])
def test_a_layer_can_be_named(name: str, place: int) -> None:
    model, layers = make((5, 8, 7, 3))
    x, y = inputs(5)
    expected = by_hand(layers, x, y, place, 0.7)
    for estimator in (RaisedThreshold(layer=name), Modules(((name, RaisedThreshold()),))):
        assert torch.allclose(gradient_of(model, x, y, estimator)[0], expected, atol=1e-6)


def test_beside_other_estimators() -> None:
    model, _ = make((5, 8, 7, 3))
    x, y = inputs(5)
    beside = Modules((("1", ATan()), ("3", RaisedThreshold(layer="3"))))
    alone = gradient_of(model, x, y, RaisedThreshold())[0]
    found, logits = gradient_of(model, x, y, beside)
    assert torch.equal(logits, model.logits(x))
    assert not torch.equal(found, alone)


def test_a_tiny_rise_changes_nothing() -> None:
    model, _ = make((5, 8, 3))
    x, y = inputs(5)
    assert torch.allclose(
        gradient_of(model, x, y, RaisedThreshold(by=1e-9))[0], gradient_of(model, x, y, Own())[0], atol=1e-6
    )


def test_spikes_are_fewer_while_it_is_in_place() -> None:
    model, _ = make((5, 8, 3))
    x, _ = inputs(5)
    hidden = model.net[:2]  # type: ignore[index]
    plain = hidden(x.transpose(0, 1))
    functional.reset_net(model.net)
    with SpikeGradient(model.net, RaisedThreshold()):
        raised = hidden(x.transpose(0, 1))
    functional.reset_net(model.net)
    assert 0 < raised.sum() < plain.sum()
    assert torch.equal(hidden(x.transpose(0, 1)), plain)


def test_it_is_in_no_layer_that_does_not_exist() -> None:
    model, _ = make((5, 8, 3))
    x, y = inputs(5)
    with pytest.raises(
        InputError, match=r"expected layer to name a spiking layer, got 'fc2'; name one of \['1', '3'\]"
    ):
        gradient_of(model, x, y, RaisedThreshold(layer="fc2"))


def test_it_conforms() -> None:
    check_estimator("raised-threshold", RaisedThreshold())


def test_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="expected a finite by > 0"):
        RaisedThreshold(by=0.0)
    with pytest.raises(InputTypeError, match="expected layer as the name"):
        RaisedThreshold(layer=2)  # type: ignore[arg-type]


def test_the_derivative_is_taken_at_the_own_threshold() -> None:
    u = torch.tensor([-0.6, -0.1, 0.3, 0.69, 0.8], requires_grad=True)
    spikes = RaisedThreshold().primitive(u, {"surrogate": surrogate.Rect(alpha=1.0)})
    assert spikes.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    (slope,) = torch.autograd.grad(spikes.sum(), u)
    assert slope.tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
