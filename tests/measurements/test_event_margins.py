"""Exact margins of event-driven layers: lower thresholds, convolutions as dense layers, and their records."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import snnrobust as sr
from snnrobust.errors import InputError
from snnrobust.neurons import EventDriven, EventDrivenConv2d
from snnrobust.neurons.spike_trains import windows
from snnrobust.testing.tiny import tiny_data, tiny_event_model, tiny_model


def test_the_records_equal_their_definition() -> None:
    model, data = tiny_event_model(), tiny_data()
    report = sr.evaluate(model, data, [sr.load("event-margins", deltas=(0.2, 0.5))], evidence="none", progress=False)
    found = {(each.quantity, each.layer, each.strength): each.value for each in report.records if each.layer}
    net = model.net
    assert isinstance(net, nn.Sequential)
    with torch.no_grad():
        times = net[:2](data.x)
        fired = net[2](times)
        margins = net[2].margins(times, fired)
    known = margins[(fired.isfinite().sum(dim=2) < 2) & margins.isfinite()]
    assert 0 < len(known) < margins.numel()
    assert (known < 0).all()
    at = {(quantity, strength): value for (quantity, layer, strength), value in found.items() if layer == "2"}
    values = {quantity: value for (quantity, strength), value in at.items() if math.isnan(strength)}
    assert values["spike_margin"] == pytest.approx(float(known.mean()), rel=1e-5)
    assert values["silent"] == pytest.approx(float((~fired.isfinite()).all(dim=2).float().mean()))
    for delta in (0.2, 0.5):
        assert at["near_spike", delta] == pytest.approx(float((known > -delta).float().mean()))
    assert {layer for _, layer, _ in found} == {"2", "3"}
    assert not any(module._forward_hooks for module in net.modules())


def test_a_lower_threshold_takes_each_margin_over_zero() -> None:
    """A margin of -m means: with the threshold (1 - m) times as high, the neuron just spikes once more."""
    torch.manual_seed(0)
    times = torch.rand(8, 6, 1, dtype=torch.float64) * 0.3
    layer = EventDriven(6, 20, threshold=0.5, duration=0.6).double()
    fired = layer(times)
    margins = layer.margins(times, fired)
    silent = ~fired[..., 0].isfinite() & (margins > -0.95)
    assert silent.sum() > 20
    for sample, neuron in silent.nonzero()[:20].tolist():
        for change, spikes in ((1e-6, False), (-1e-6, True)):
            threshold = 0.5 * (1 + margins[sample, neuron].item() + change)
            other = EventDriven(6, 1, threshold=threshold, duration=0.6).double()
            with torch.no_grad():
                other.weight.copy_(layer.weight[[neuron]])
            assert bool(other(times[[sample]]).isfinite()) is spikes


def test_margins_of_a_convolution_equal_those_of_its_windows() -> None:
    torch.manual_seed(0)
    times = torch.rand(2, 3, 5, 5, 2) * 0.3
    layer = EventDrivenConv2d(3, 4, 3, 2, threshold=0.4, padding=1, duration=0.6)
    dense = EventDriven(27, 4, 2, threshold=0.4, duration=0.6)
    dense.weight = layer.weight
    fired = layer(times)
    margins = layer.margins(times, fired)
    assert margins.shape == (2, 4, 5, 5)
    cut = windows(times, 3, 1, 1).flatten(3, 4).flatten(0, 2)
    other = dense.margins(cut, dense(cut)).reshape(2, 5, 5, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(margins, other, equal_nan=True)


def test_nets_over_time_and_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"event-driven layers for 'event-margins', got none.*threshold-margins"):
        sr.evaluate(tiny_model(), tiny_data(), [sr.load("event-margins")], evidence="none")
    with pytest.raises(InputError, match="deltas > 0"):
        sr.load("event-margins", deltas=(0.0,))
