"""What an attack may ask: means over estimators, relaxations whose values are the net's own, graded views, counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.data.batch import Batch
from snnrobust.errors import PluginError
from snnrobust.objectives.logits import CrossEntropy, Margin, TargetedDLR, margin
from snnrobust.objectives.sequences import CurrentMargin, MembraneMargin, PerStepCrossEntropy
from snnrobust.plugin import AnyEstimator, Objective
from snnrobust.search.batch_queries import BatchQueries
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust_attacks.estimators.atan import ATan
from snnrobust_attacks.estimators.relaxation import Relaxed
from snnrobust_attacks.estimators.sigmoid import Sigmoid


@dataclass(frozen=True)
class Both:
    """The mean of two estimators."""

    first: AnyEstimator
    second: AnyEstimator

    @property
    def parts(self) -> tuple[AnyEstimator, ...]:
        return self.first, self.second


def queries(objective: Objective | None = None, estimator: Any = None, eot: int = 1, model: Any = None) -> ModelQueries:
    return ModelQueries(model or tiny_model(), objective or CrossEntropy(), estimator or Own(), eot=eot, first_draw=0)


def asked(of: ModelQueries, count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    data = tiny_data(count=count)
    return of.gradient(Batch(data.x, data.y, data.index))


def test_a_mixture_is_the_mean_of_its_parts() -> None:
    parts = ATan(alpha=2.0), Sigmoid(alpha=4.0)
    first, second = (asked(queries(estimator=part))[0] for part in parts)
    mixed = asked(queries(estimator=Both(*parts)))
    assert not torch.allclose(first, second)
    torch.testing.assert_close(mixed[0], (first + second) / 2)
    for got, expected in zip(mixed[1:], asked(queries())[1:], strict=True):
        assert torch.equal(got, expected)


def test_a_relaxation_gives_its_gradient_and_the_nets_own_values() -> None:
    data = tiny_data(count=6)
    gradient, loss, logits = asked(queries(estimator=Relaxed("sigmoid", 4.0)))
    assert torch.equal(logits, tiny_model().logits(data.x))
    assert torch.equal(loss, CrossEntropy()(logits, data.y))
    # The gradient is the derivative of another net, which is smooth: told by central differences of that net.
    net = tiny_model().net.double()

    class Smooth(nn.Module):
        spiking = True

        def forward(self, u: Tensor) -> Tensor:
            return torch.sigmoid(4.0 * u)

    for node in net:
        if isinstance(node, neuron.BaseNode):
            node.surrogate_function = Smooth()
    smooth, x, h = sr.wrap(net, steps=4), data.x.double(), 1e-5
    for at in ((0, 0), (1, 2), (3, 3)):
        shift = torch.zeros_like(x)
        shift[:, 0, at[0], at[1]] = h
        up, down = (CrossEntropy()(smooth.logits(x + s), data.y) for s in (shift, -shift))
        slope = ((up - down) / (2 * h)).detach().float()
        torch.testing.assert_close(gradient[:, 0, at[0], at[1]], slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("estimator", "forwards", "backwards"),
    [
        (Own(), 1, 1),
        (ATan(), 1, 1),
        (Both(ATan(), Own()), 2, 2),
        (Relaxed(), 2, 1),  # one pass of the smooth net, and one of the real one
        (Both(Relaxed(), Own()), 2, 2),
    ],
)
@pytest.mark.parametrize("eot", [1, 3])
def test_passes_are_counted(estimator: Any, forwards: int, backwards: int, eot: int) -> None:
    made = queries(estimator=estimator, eot=eot)
    asked(made, count=5)
    assert (made.spent.forwards, made.spent.backwards) == (5 * forwards * eot, 5 * backwards * eot)
    data = tiny_data(count=4)
    made.value(Batch(data.x, data.y, data.index))
    made.logits(Batch(data.x, data.y, data.index))
    assert made.spent.forwards == 5 * forwards * eot + 2 * 4 * eot
    assert made.spent.backwards == 5 * backwards * eot


def by_hand(weight: Tensor, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Distances to threshold [N, T, K] and currents [N, T, K] of one LIF layer: v = v / 2 + w x, hard reset to 0."""
    current = x.flatten(1) @ weight.T  # (N, K)
    v, distances = torch.zeros_like(current), []
    for _ in range(steps):
        v = v / 2 + current
        distances.append(v - 1.0)
        v = torch.where(v >= 1.0, 0.0, v)
    return torch.stack(distances, dim=1), current.unsqueeze(1).expand(-1, steps, -1)


@pytest.mark.parametrize("layout", ["TN", "step"])
def test_graded_objectives_see_the_output_layer(layout: Any) -> None:
    """Membrane potentials of a single layer, computed by hand."""
    weight = torch.tensor([[0.9, 0.1, 0.0, 0.3], [0.2, 0.8, 0.3, 0.1], [0.1, 0.2, 1.2, 0.2]])
    linear = nn.Linear(4, 3, bias=False)
    linear.weight.data = weight
    node = neuron.LIFNode(
        tau=2.0,
        decay_input=False,
        v_reset=0.0,
        surrogate_function=surrogate.ATan(),
        step_mode="m" if layout == "TN" else "s",
    )
    model = sr.wrap(nn.Sequential(linear, node), layout=layout, steps=5)
    x, y, index = torch.rand(7, 4), torch.arange(7) % 3, torch.arange(7)
    distances, currents = by_hand(weight, x, 5)
    with model.session():
        for objective, sequence in ((MembraneMargin(), distances), (CurrentMargin(), currents)):
            loss, logits = queries(objective, model=model).value(Batch(x, y, index))
            torch.testing.assert_close(loss, -margin(sequence.mean(dim=1), y))
            torch.testing.assert_close(logits, model.logits(x))  # what counts as a success is the net's own
            gradient, again, _ = queries(objective, ATan(), model=model).gradient(Batch(x, y, index))
            torch.testing.assert_close(again, loss)
            assert gradient.abs().sum() > 0
    assert node.surrogate_function.alpha == 2.0  # put back
    assert not node._forward_pre_hooks


@pytest.mark.parametrize("objective", [MembraneMargin(), CurrentMargin(), PerStepCrossEntropy(), CrossEntropy()])
@pytest.mark.parametrize("estimator", [Own(), ATan(), Both(ATan(), Own())], ids=repr)
def test_queries_outside_a_session_are_those_inside(objective: Objective, estimator: AnyEstimator) -> None:
    model, data = tiny_model(), tiny_data(count=6)
    batch = Batch(data.x, data.y, data.index)
    with model.session():
        made = queries(objective, estimator, model=model)
        expected = [*made.gradient(batch), *made.value(batch), made.logits(batch)]
    made = queries(objective, estimator, model=model)
    found = [*made.gradient(batch), *made.value(batch), made.logits(batch)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_gradient_of_the_current_is_that_of_the_weights() -> None:
    """d/dx of max_{i != y} w_i x - w_y x, whatever the spikes do."""
    linear = nn.Linear(4, 3, bias=False)
    node = neuron.LIFNode(step_mode="m", surrogate_function=surrogate.ATan())
    model = sr.wrap(nn.Sequential(linear, node), steps=3)
    x, y, index = torch.rand(7, 4), torch.arange(7) % 3, torch.arange(7)
    with model.session():
        gradient, _, _ = queries(CurrentMargin(), model=model).gradient(Batch(x, y, index))
    other = (x @ linear.weight.T).scatter(1, y[:, None], -torch.inf).argmax(dim=1)
    torch.testing.assert_close(gradient, (linear.weight[other] - linear.weight[y]).detach())


def test_an_objective_of_each_step() -> None:
    data, model = tiny_data(count=6), tiny_model()
    loss, logits = queries(PerStepCrossEntropy(), model=model).value(Batch(data.x, data.y, data.index))
    outputs = model.outputs(data.x)  # (N, T, K)
    each = torch.stack([CrossEntropy()(outputs[:, t], data.y) for t in range(4)])
    torch.testing.assert_close(loss, each.mean(dim=0))
    assert torch.equal(logits, model.logits(data.x))


def test_targets_belong_to_samples() -> None:
    data = tiny_data(count=6)
    chosen = 1 - (data.y > 0).long()
    made, samples = queries(TargetedDLR()), Batch(data.x, data.y, data.index, targets=chosen)
    loss, logits = made.value(samples)
    turned, _ = made.value(samples.select(torch.arange(6).flip(0)))
    torch.testing.assert_close(turned, loss.flip(0))
    # An attack that owns its loop asks about samples in any order.
    turned, _ = BatchQueries(made, samples).value(data.x.flip(0), data.y.flip(0), data.index.flip(0))
    torch.testing.assert_close(turned, loss.flip(0))
    torch.testing.assert_close(loss, TargetedDLR()(logits, data.y, chosen))


def test_a_mean_over_draws_is_one_of_a_stochastic_net() -> None:
    data = tiny_data(count=6)
    model = sr.wrap(tiny_model().net, steps=4, encoder="poisson")
    several = queries(Margin(), eot=3, model=model)
    _, logits = several.value(Batch(data.x, data.y, data.index), 5)
    draws = [model.logits(data.x, keys=data.index, draw=15 + e) for e in range(3)]
    torch.testing.assert_close(logits, torch.stack(draws).mean(dim=0).detach())
    assert not torch.equal(draws[0], draws[1])


def test_an_attack_that_owns_its_loop_asks_about_samples_of_its_batch() -> None:
    data = tiny_data(count=6)
    made, samples = queries(), Batch(data.x, data.y, data.index + 40)
    batch_queries = BatchQueries(made, samples)
    some = torch.tensor([44, 41])
    expected = made.logits(samples.select(torch.tensor([4, 1])))
    torch.testing.assert_close(batch_queries.logits(data.x[[4, 1]], some), expected)
    with pytest.raises(PluginError, match=r"ids of samples in this batch, got \[41, 3\]"):
        batch_queries.logits(data.x[:2], torch.tensor([41, 3]))
    with pytest.raises(PluginError, match="an estimator of one pass"):
        BatchQueries(queries(estimator=Both(ATan(), Own())), samples).as_module(some)


def test_lengths_belong_to_samples_too() -> None:
    model, data = tiny_model(temporal=True), tiny_data(temporal=True, count=4)
    lengths = torch.tensor([1, 4, 2, 3])
    samples = Batch(data.x, data.y, data.index, lengths)
    batch_queries = BatchQueries(queries(model=model), samples)
    order = torch.tensor([2, 0, 3])
    expected = model.logits(data.x[order], lengths=lengths[order])
    torch.testing.assert_close(batch_queries.logits(data.x[order], data.index[order]), expected)
    module = batch_queries.as_module(data.index[order])
    torch.testing.assert_close(module(data.x[order]), expected)
    with pytest.raises(PluginError, match="which of their lengths and paddings to take"):
        module(data.x[:2])
    plain = BatchQueries(queries(model=model), Batch(data.x, data.y, data.index)).as_module(data.index)
    assert plain(data.x[:2]).shape == (2, 3)  # control: without padding a part is allowed


def test_batches_join_and_part() -> None:
    data = tiny_data(count=5)
    whole = Batch(data.x, data.y, data.index, torch.arange(5), torch.arange(5) + 7)
    first, rest = whole.select(slice(0, 2)), whole.select(torch.tensor([False, False, True, True, True]))
    again = Batch.concatenate([first, rest])
    for name, value in vars(whole).items():
        assert torch.equal(getattr(again, name), value), name
    assert Batch.concatenate([first, Batch(data.x, data.y, data.index)]).lengths is None
