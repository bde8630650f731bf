"""Activity against counts by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError
from snnrobust.measurements.activity import Activity
from snnrobust.plugin import Measurement
from snnrobust.plugin.task import load
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap

N, T = 9, 5
RNG = Draws(0, "activity")


def mlp() -> nn.Sequential:
    """6 -> 8 -> 3 -> output spikes; a hidden neuron that never fires."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(6, 8),
            neuron.LIFNode(step_mode="m", v_threshold=0.2),
            nn.Linear(8, 3),
            neuron.IFNode(step_mode="m", v_threshold=0.1),
        )
    with torch.no_grad():
        net[0].weight[2].fill_(0)
        net[0].bias[2] = -1
    return net


def data(x: Tensor | None = None, batch_size: int = 4) -> EvaluationData:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(N, 6, generator=generator) if x is None else x
    return prepare((x, torch.randint(3, (len(x),), generator=generator)), batch_size)


def values(model: SpikingModel, evaluation: EvaluationData, plugin: Activity | None = None) -> dict[str, float]:
    return {r.metric: r.value for r in records(model, evaluation, plugin) if r.metric != "accuracy_at_step"}


def records(model: SpikingModel, evaluation: EvaluationData, plugin: Activity | None = None) -> list[Record]:
    found: Iterable[Any] = (plugin or Activity()).measure(model, evaluation, RNG)
    return list(found)


def test_rates_and_silent_neurons_by_hand() -> None:
    net = mlp()
    found = values(wrap(net, steps=T), data())
    hidden = net[1](net[0](data().test.x.expand(T, N, 6))).detach()  # [T, N, 8]
    assert not hidden[..., 2].any()
    assert found["firing_rate:1"] == pytest.approx(float(hidden.mean()))
    assert 0.05 < found["firing_rate:1"] < 1
    silent = (~(hidden != 0).flatten(0, 1).any(dim=0)).float().mean()
    assert found["silent_neurons:1"] == pytest.approx(float(silent))
    assert found["silent_neurons:1"] >= 1 / 8
    assert {"firing_rate:3", "silent_neurons:3"} <= set(found)


def test_operations_and_energy_by_hand() -> None:
    net = mlp()
    found = values(wrap(net, steps=T), data())
    hidden = net[1](net[0](data().test.x.expand(T, N, 6))).detach()
    assert found["synops"] == pytest.approx(float(hidden.sum()) * 3 / N)  # hidden spikes x fan-out 3
    assert found["macs"] == T * 6 * 8  # the image, at each step
    assert found["energy_pj"] == pytest.approx(4.6 * T * 6 * 8 + 0.9 * float(hidden.sum()) * 3 / N)
    energy = next(r for r in records(wrap(net, steps=T), data()) if r.metric == "energy_pj")
    assert "45 nm" in energy.threat
    assert energy.count == N


@pytest.mark.parametrize("fill", [0.0, 1.0, None])
def test_a_real_input_multiplies_even_if_it_happens_to_be_binary(fill: float | None) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(N, 6, generator=generator).round() if fill is None else torch.full((N, 6), fill)
    net = mlp()
    hidden = net[1](net[0](x.expand(T, N, 6))).detach()
    found = values(wrap(net, steps=T), data(x, batch_size=1))
    assert found["macs"] == T * 6 * 8
    assert found["synops"] == pytest.approx(float(hidden.sum()) * 3 / N)


def test_spikes_as_input_accumulate() -> None:
    x = torch.bernoulli(torch.full((N, T, 6), 0.3), generator=torch.Generator().manual_seed(3))
    net = mlp()
    hidden = net[1](net[0](x.transpose(0, 1))).detach()
    found = values(wrap(net, encoder=None, domain="binary"), data(x))
    assert found["macs"] == 0
    assert found["synops"] == pytest.approx(float(x.sum() * 8 + hidden.sum() * 3) / N)
    assert values(wrap(net, steps=T, encoder="poisson"), data())["macs"] == 0


def test_layout_and_batch_size_do_not_matter(step_by_step: Callable[[nn.Sequential], nn.Sequential]) -> None:
    single = step_by_step(mlp())
    whole = values(wrap(mlp(), steps=T), data(batch_size=100))
    assert values(wrap(single, steps=T, layout="step"), data()) == pytest.approx(whole)
    assert values(wrap(mlp(), steps=T), data(batch_size=1)) == pytest.approx(whole)


def test_batch_norm_is_free_and_convolutions_count_their_fan_out() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            layer.Conv2d(1, 2, 3, padding=1, step_mode="m"),
            layer.BatchNorm2d(2, step_mode="m"),
            neuron.IFNode(step_mode="m", v_threshold=0.3),
            layer.Conv2d(2, 4, 3, padding=1, step_mode="m"),
            layer.AvgPool2d(5, step_mode="m"),
            nn.Flatten(2),
        ).eval()
    x = torch.rand(N, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    found = values(wrap(net, steps=T), data(x))
    spikes = net[2](net[1](net[0](x.expand(T, N, 1, 5, 5)))).detach()  # [T, N, 2, 5, 5]
    reached = torch.full((5, 5), 3.0 * 3)  # outputs that a pixel reaches: fewer at the border
    reached[[0, -1]] *= 2 / 3
    reached[:, [0, -1]] *= 2 / 3
    assert found["macs"] == T * 25 * 2 * 9
    assert found["synops"] == pytest.approx(float((spikes * reached).sum()) * 4 / N)


def test_accuracy_at_each_step() -> None:
    model, evaluation = wrap(mlp(), steps=T), data()
    found = [r for r in records(model, evaluation) if r.metric == "accuracy_at_step"]
    assert [r.strength for r in found] == [1.0, 2.0, 3.0, 4.0, 5.0]
    for step, record in enumerate(found, start=1):
        with torch.no_grad():
            logits = wrap(mlp(), steps=step).logits(evaluation.test.x)
        right = int((model.predict(logits) == evaluation.test.y).sum())
        assert record.value == right / N
        interval = binomtest(right, N).proportion_ci(0.95, "exact")
        assert (record.low, record.high) == pytest.approx((interval.low, interval.high))
        assert (record.count, record.unit) == (N, "step")
    assert len({record.value for record in found}) > 1


def test_least_logit_decides() -> None:
    evaluation = data()
    found = records(wrap(mlp(), steps=T, decide="argmin"), evaluation)
    model = wrap(mlp(), steps=T, decide="argmin")
    with torch.no_grad():
        right = (model.predict(model.logits(evaluation.test.x)) == evaluation.test.y).sum()
    assert found[-1].value == float(right) / N


def test_a_net_that_reads_out_by_itself_has_no_latency() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            rates: Tensor = self.net(x.expand(T, *x.shape)).mean(dim=0)
            return rates

    model = wrap(Whole(), layout="N")
    assert not [r for r in records(model, data()) if r.metric == "accuracy_at_step"]
    assert values(model, data())["synops"] == pytest.approx(values(wrap(mlp(), steps=T), data())["synops"])


def test_padding_is_left_out_of_rates_and_latency() -> None:
    x = torch.bernoulli(torch.full((N, T, 6), 0.5), generator=torch.Generator().manual_seed(3))
    y = torch.randint(3, (N,), generator=torch.Generator().manual_seed(4))
    lengths = torch.tensor([5, 2, 3, 5, 1, 4, 2, 3, 5])
    net = mlp()
    model = wrap(net, encoder=None, domain="binary")
    evaluation = prepare(Dataset.of(x, y, lengths=lengths), 4)
    found = values(model, evaluation)
    hidden = net[1](net[0](x.transpose(0, 1))).transpose(0, 1).detach()  # [N, T, 8]
    spikes = sum(float(hidden[i, : lengths[i]].sum()) for i in range(N))
    assert found["firing_rate:1"] == pytest.approx(spikes / (8 * int(lengths.sum())))
    with torch.no_grad():
        right = (model.predict(model.logits(x, lengths=lengths)) == y).sum()
    assert records(model, evaluation)[-1].value == float(right) / N


def test_first_samples_and_the_net_as_before() -> None:
    net = mlp().train()
    net(torch.rand(2, 3, 6))
    state = net[1].v
    found = records(wrap(net, steps=T), data(), Activity(samples=3))
    assert {r.count for r in found} == {3}
    assert net[1].v is state
    assert net.training
    assert not net[1]._forward_hooks
    first = {r.metric: r.value for r in records(wrap(mlp(), steps=T), data(data().test.x[:3]))}
    assert first["firing_rate:1"] == {r.metric: r.value for r in found}["firing_rate:1"]


def test_a_net_without_spiking_nodes() -> None:
    assert isinstance(Activity(), Measurement)
    Activity().check(wrap(mlp(), steps=T), data(), load("activity"))
    with pytest.raises(InputError, match=r"spikes that can be recorded.*spike=MyFunction.*activity needs them"):
        Activity().check(wrap(nn.Linear(6, 3), layout="N"), data(), load("activity"))


@pytest.mark.parametrize("samples", [0, 2.0, True])
def test_samples_out_of_range(samples: Any) -> None:
    with pytest.raises(InputError, match="samples"):
        Activity(samples=samples)
