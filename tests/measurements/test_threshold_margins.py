"""Threshold margins of a net of two neurons, against numbers computed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError
from snnrobust.measurements.threshold_margins import ThresholdMargins
from snnrobust.plugin import Measurement
from snnrobust.results.records import Record
from snnrobust.testing import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.model import SpikingModel

RNG = Draws(0, "threshold-margins")


def pair(threshold: float = 1.0, kind: nn.Module | None = None) -> nn.Sequential:
    """Two integrate-and-fire neurons, one for each input: u[t] = v[t-1] + x[t], hard reset to 0."""
    node = neuron.IFNode(
        v_threshold=threshold, surrogate_function=kind or surrogate.PiecewiseQuadratic(alpha=4.0), step_mode="m"
    )
    return nn.Sequential(nn.Identity(), node, nn.Identity())


def records(model: SpikingModel, data: EvaluationData, plugin: ThresholdMargins) -> list[Record]:
    found: Iterable[Any] = plugin.measure(model, data, RNG)
    return list(found)


def by_step(found: list[Record], metric: str, threat: str = "") -> dict[float, float]:
    chosen = {r.strength: r.value for r in found if r.metric == metric and threat in r.threat}
    assert chosen
    return chosen


#: Two samples [N=2, T=3, 2]. Membranes before reset, minus the threshold of 1:
#:   sample 0: (-.5, -.05), (0: spike, .35: spike), (-.6, -.995)
#:   sample 1: (-.9, -.1), (-.8, .5: spike), (-.7, -1)
#: as 0.5, 0.5+0.5 fires and resets; 0.95, 0.95+0.4 fires and resets; and so on.
X = torch.tensor([[[0.5, 0.95], [0.5, 0.4], [0.4, 0.005]], [[0.1, 0.9], [0.1, 0.6], [0.1, 0.0]]])


def temporal(threshold: float = 1.0, **settings: Any) -> SpikingModel:
    return sr.wrap(pair(threshold), encoder=None, name="pair", **settings)


def test_shares_by_hand() -> None:
    data = prepare((X, torch.tensor([0, 1])), 1)
    found = records(temporal(), data, ThresholdMargins(deltas=(0.06, 0.11), epsilon=1e-3))
    assert by_step(found, "near_threshold:1", "< 0.06") == {1: 1 / 4, 2: 1 / 4, 3: 0.0}
    assert by_step(found, "near_threshold:1", "< 0.11") == {1: 2 / 4, 2: 1 / 4, 3: 0.0}
    # The surrogate's derivative is alpha - alpha^2 |u| = 4 - 16 |u|: zero from |u| = 1/4 on.
    assert by_step(found, "surrogate_active:1") == {1: 2 / 4, 2: 1 / 4, 3: 0.0}
    assert {(r.count, r.unit) for r in found} == {(2, "step")}
    # Only the one membrane that is on its threshold can flip under a noise of a thousandth.
    flips = by_step(found, "spike_flips:1")
    assert flips[1] == 0.0
    assert flips[2] in (0.0, 1 / 4)


def test_deltas_are_shares_of_the_threshold() -> None:
    one = records(temporal(), prepare((X, torch.tensor([0, 1]))), ThresholdMargins(deltas=(0.06,)))
    double = records(temporal(threshold=2.0), prepare((2 * X, torch.tensor([0, 1]))), ThresholdMargins(deltas=(0.06,)))
    assert by_step(one, "near_threshold:1") == by_step(double, "near_threshold:1")


def test_flips_are_those_of_the_noise_drawn() -> None:
    """One neuron's spikes from first principles: the first step fires where x + noise >= 1."""
    x = torch.linspace(0.9, 1.1, 80).reshape(40, 1, 2)
    found = records(temporal(bounds=(0.0, 2.0)), prepare((x, torch.zeros(40).long())), ThresholdMargins(epsilon=0.05))
    noise = RNG.sub("noise").uniform(torch.arange(40), (1, 2), 0, -0.05, 0.05)
    expected = ((x + noise >= 1) != (x >= 1)).float().mean()
    assert by_step(found, "spike_flips:1") == {1: pytest.approx(float(expected))}
    assert 0.05 < float(expected) < 0.5
    clipped = records(
        temporal(bounds=(0.9, 0.95)), prepare((x, torch.zeros(40).long())), ThresholdMargins(epsilon=0.05)
    )
    assert by_step(clipped, "spike_flips:1") == {1: pytest.approx(float((x >= 1).float().mean()))}  # none fires then


def test_a_surrogate_that_is_nowhere_zero_is_active_everywhere() -> None:
    model = sr.wrap(pair(kind=surrogate.ATan()), encoder=None, name="pair")
    found = records(model, prepare((X, torch.tensor([0, 1]))), ThresholdMargins())
    assert set(by_step(found, "surrogate_active:1").values()) == {1.0}


def test_padding_is_left_out() -> None:
    lengths = torch.tensor([3, 1])
    model = temporal()
    padded = prepare(Dataset.of(X, torch.tensor([0, 1]), lengths=lengths), 2)
    found = records(model, padded, ThresholdMargins(deltas=(0.11,)))
    assert by_step(found, "near_threshold:1") == {1: 2 / 4, 2: 1 / 2, 3: 0.0}
    assert [r.count for r in found if r.metric == "near_threshold:1"] == [2, 1, 1]
    short = prepare(Dataset.of(X, torch.tensor([0, 1]), lengths=torch.tensor([2, 1])), 2)
    assert set(by_step(records(model, short, ThresholdMargins()), "surrogate_active:1")) == {1, 2}


@pytest.mark.parametrize("domain", ["binary", "integer"])
def test_events_move_by_one(domain: Any) -> None:
    """With probability 1 every event of a binary input is flipped, and so is every spike of a neuron at threshold."""
    bounds = (0.0, 1.0) if domain == "binary" else (0.0, 3.0)
    x = torch.bernoulli(torch.full((30, 4, 2), 0.5), generator=torch.Generator().manual_seed(0))
    model = temporal(domain=domain, bounds=bounds)
    every = records(model, prepare((x, torch.zeros(30).long())), ThresholdMargins(epsilon=1.0))
    rare = records(model, prepare((x, torch.zeros(30).long())), ThresholdMargins(epsilon=0.05))
    first, few = by_step(every, "spike_flips:1")[1], by_step(rare, "spike_flips:1")[1]
    assert first == 1.0 if domain == "binary" else 0.5 < first < 1.0
    assert 0 < few < 0.2
    with pytest.raises(InputError, match="epsilon <= 1"):
        records(model, prepare((x, torch.zeros(30).long())), ThresholdMargins(epsilon=2.0))


def test_batch_size_samples_and_the_model_left_alone() -> None:
    model, data = tiny_model(), tiny_data(count=12)
    whole, parts = (records(model, prepare(data, size), ThresholdMargins(epsilon=0.1)) for size in (64, 5))
    assert whole == parts
    assert {r.count for r in whole} == {12}
    assert {r.count for r in records(model, prepare(data, 5), ThresholdMargins(samples=7))} == {7}
    assert any(r.value > 0 for r in whole if r.metric.startswith("spike_flips"))
    assert len({(r.metric, r.strength, r.threat) for r in whole}) == len(whole)
    assert {r.metric.partition(":")[2] for r in whole} == {"2", "4"}


def test_layout_does_not_matter(step_by_step: Callable[[nn.Sequential], nn.Sequential]) -> None:
    single = step_by_step(pair())
    data = prepare((X, torch.tensor([0, 1])), 2)
    whole = records(temporal(), data, ThresholdMargins())
    stepped = records(sr.wrap(single, encoder=None, layout="step", name="pair"), data, ThresholdMargins())
    assert whole == stepped


def test_it_conforms_and_refuses_nets_without_nodes() -> None:
    assert isinstance(ThresholdMargins(), Measurement)
    check_plugin("threshold-margins", samples=8)
    plain = sr.wrap(nn.Linear(3, 2), layout="N", name="plain")
    data = prepare((torch.rand(4, 3), torch.zeros(4).long()))
    with pytest.raises(InputError, match=r"spikes that can be recorded.*spike=My.*threshold-margins needs"):
        sr.evaluate(plain, data, [sr.load("threshold-margins")])


def test_in_a_report_from_a_list_of_deltas() -> None:
    plugin = sr.load("threshold-margins", deltas=[0.02], epsilon=0.05).plugin
    assert plugin == ThresholdMargins(deltas=(0.02,), epsilon=0.05)
    assert hash(plugin) == hash(ThresholdMargins(deltas=(0.02,), epsilon=0.05))
    frame = sr.evaluate(tiny_model(), tiny_data(), [sr.load("threshold-margins")]).to_frame()
    assert set(frame.metric) >= {"near_threshold:2", "spike_flips:2", "surrogate_active:4"}


@pytest.mark.parametrize(
    "parameters",
    [
        {"samples": 0},
        {"deltas": ()},
        {"deltas": (0.1, 0.0)},
        {"deltas": 0.1},
        {"epsilon": 0.0},
        {"epsilon": float("inf")},
    ],
    ids=repr,
)
def test_settings_out_of_range(parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(parameters))):
        ThresholdMargins(**parameters)
