"""Training of event-driven nets: their losses, what they learn, and the remedy for silent neurons."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrobust.data import Dataset
from snnrobust.errors import InputError
from snnrobust.neurons import EventDriven, FirstSpike, Latency, SpikeCount
from snnrobust.training import SilentNeurons, accuracy, cross_entropy, initialised, spike_count, train


def toy() -> Dataset:
    """Four patterns of six pixels with a little noise, 40 samples."""
    noise = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 4
    patterns = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 1], [0, 0, 1, 1, 1, 0], [1, 0, 0, 1, 0, 1.0]])
    return Dataset.of((0.8 * patterns[y] + 0.2 * noise).clamp(0, 1), y, name="toy")


def first_spike_net() -> nn.Module:
    return nn.Sequential(
        Latency(0.1),
        EventDriven(6, 30, threshold=0.05, duration=1.0, init=(0, 1)),
        EventDriven(30, 4, threshold=0.1, duration=1.0, init=(0, 1)),
        FirstSpike(1.0),
    )


def count_net() -> nn.Module:
    return nn.Sequential(
        Latency(0.1),
        EventDriven(6, 30, 10, threshold=0.02, duration=0.4),
        EventDriven(30, 4, 30, threshold=0.2, duration=0.4),
        SpikeCount(),
    )


def test_first_spike_nets_learn() -> None:
    net = initialised(first_spike_net, 0)
    assert accuracy(net, toy(), steps=None) < 0.6
    history = train(net, toy(), steps=None, epochs=20, lr=0.01, batch_size=8)
    assert accuracy(net, toy(), steps=None) == 1
    assert history.loss[-1] < 0.5 * history.loss[0]


def test_nets_of_many_spikes_learn_once_silent_outputs_are_raised() -> None:
    asleep, woken = initialised(count_net, 0), initialised(count_net, 0)
    settings: dict[str, Any] = {"steps": None, "epochs": 20, "lr": 0.03, "batch_size": 8, "loss": "spike_count"}
    train(asleep, toy(), **settings)
    history = train(woken, toy(), **settings, raise_silent=0.05)
    assert accuracy(asleep, toy(), steps=None) < 0.8  # two of four outputs spike for no sample, and never will
    assert accuracy(woken, toy(), steps=None) == 1
    assert history.loss[-1] < 0.1 * history.loss[0]


def test_each_spike_gets_the_target_less_the_count_as_its_gradient() -> None:
    times = torch.tensor([[[0.1, 0.2, torch.inf], [0.1, torch.inf, torch.inf]]], requires_grad=True)  # counts 2 and 1
    spike_count(SpikeCount()(times), torch.tensor([0])).backward()
    assert times.grad is not None
    assert torch.equal(times.grad, torch.tensor([[[13.0, 13.0, 0.0], [2.0, 0.0, 0.0]]]))


def test_cross_entropy_of_first_spikes_is_that_of_negative_times() -> None:
    times = torch.tensor([[[0.012], [0.010], [torch.inf]]])
    loss = cross_entropy(FirstSpike(0.02, tau=0.005)(times), torch.tensor([0]))
    expected = -torch.log_softmax(-torch.tensor([0.012, 0.010, 0.02]) / 0.005, dim=0)[0]
    torch.testing.assert_close(loss, expected)


def weights(net: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in net.parameters()]


def test_silent_neurons_alone_are_raised_and_training_wakes_them() -> None:
    torch.manual_seed(0)
    layer = EventDriven(6, 5, threshold=0.05, duration=1.0, init=(0, 1))
    with torch.no_grad():
        layer.weight[[1, 3]] = -1.0
    before = layer.weight.detach().clone()
    with SilentNeurons(layer) as silent:
        layer(Latency(0.1)(toy().x[:8]))
        layer(Latency(0.1)(toy().x[8:]))
        assert silent.raise_weights(0.25) == 2
        assert silent.raise_weights(0.25) == 0  # nothing has run since
    change = (layer.weight - before).detach()
    assert torch.equal(change[[1, 3]], torch.full((2, 6), 0.25))
    assert not change[[0, 2, 4]].any()
    assert not layer._forward_hooks

    def silenced() -> nn.Module:
        net = first_spike_net()
        with torch.no_grad():
            net[2].weight[2] = -0.05
        return net

    asleep, woken = initialised(silenced, 0), initialised(silenced, 0)
    train(asleep, toy(), steps=None, epochs=20, lr=0.01, batch_size=8)
    train(woken, toy(), steps=None, epochs=20, lr=0.01, batch_size=8, raise_silent=0.02)
    assert accuracy(asleep, toy(), steps=None) < 0.8  # negative control: class 2 stays silent
    assert accuracy(woken, toy(), steps=None) == 1


def test_losses_of_the_other_kind_and_nets_over_time_are_refused() -> None:
    with pytest.raises(InputError, match="of a net without steps among cross_entropy, spike_count"):
        train(first_spike_net(), toy(), steps=None, epochs=1, loss="rate_mse")
    with pytest.raises(InputError, match=r"outputs \[40, K\].*set steps"):
        accuracy(nn.Unflatten(1, (2, 3)), toy(), steps=None)
    with pytest.raises(InputError, match="raise_silent >= 0"):
        train(first_spike_net(), toy(), steps=None, epochs=1, raise_silent=-1.0)
