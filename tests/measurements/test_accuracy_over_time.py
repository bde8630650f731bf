"""Accuracy, margin and ties after each time step, against numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.data.batch import Batch
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError
from snnrobust.measurements.accuracy_over_time import AccuracyOverTime
from snnrobust.measurements.activity import Activity
from snnrobust.measurements.time_steps import first_lasting, step_decisions
from snnrobust.plugin import Measurement
from snnrobust.plugin.task import Task
from snnrobust.results.artifacts import Profile
from snnrobust.results.records import Record
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap

RNG = Draws(0, "accuracy-over-time")

#: Output spikes of two classes over four steps, for four samples of class 0: they are the net's inputs, too.
SPIKES = torch.tensor(
    [
        [[1, 0], [0, 0], [0, 1], [1, 0]],  # counts (1,0) (1,0) (1,1) (2,1): right, right, tied but lowest, right
        [[0, 0], [0, 1], [1, 0], [1, 0]],  # silent, wrong, tied, right
        [[0, 1], [0, 1], [1, 0], [0, 0]],  # wrong throughout
        [[0, 0], [0, 0], [0, 0], [1, 0]],  # silent, silent, silent, right
    ],
    dtype=torch.float32,
)
RIGHT = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool).T  # [T, N]
TIED = np.array([[0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=bool).T
SUMMED = np.array([[1, 1, 0, 1], [0, -1, 0, 1], [-1, -2, -1, -1], [0, 0, 0, 1]]).T  # margins of spike counts


def echo(readout: Any = "sum") -> SpikingModel:
    """A net whose outputs are its inputs."""
    return wrap(nn.Identity(), name="echo", encoder=None, domain="binary", readout=readout)


def data(lengths: list[int] | None = None, batch_size: int = 3) -> EvaluationData:
    y = torch.zeros(len(SPIKES), dtype=torch.long)
    return prepare(
        Dataset.of(SPIKES, y, lengths=None if lengths is None else torch.tensor(lengths), name="spikes"), batch_size
    )


def measured(
    model: SpikingModel, evaluation: EvaluationData, plugin: AccuracyOverTime | None = None
) -> tuple[dict[str, list[Record]], Profile]:
    found = list((plugin or AccuracyOverTime()).measure(model, evaluation, RNG))
    (profile,) = (each for each in found if isinstance(each, Profile))
    records: dict[str, list[Record]] = {}
    for each in found:
        if isinstance(each, Record):
            records.setdefault(each.quantity, []).append(each)
    return records, profile


def values(records: list[Record]) -> list[float]:
    assert [each.strength for each in records] == [1, 2, 3, 4]
    assert {each.unit for each in records} == {"step"}
    return [each.value for each in records]


def test_numbers_by_hand() -> None:
    records, profile = measured(echo(), data())
    assert values(records["accuracy_at_step"]) == RIGHT.mean(axis=1).tolist() == [0.25, 0.25, 0.5, 0.75]
    assert values(records["tie_share_at_step"]) == TIED.mean(axis=1).tolist() == [0.5, 0.25, 0.75, 0.0]
    assert values(records["margin_at_step"]) == SUMMED.mean(axis=1).tolist() == [0.0, -0.5, -0.25, 0.5]
    for quantity in ("accuracy_at_step", "tie_share_at_step"):
        for each in records[quantity]:
            interval = binomtest(round(4 * each.value), 4).proportion_ci(0.95, "exact")
            assert (each.low, each.high) == pytest.approx((interval.low, interval.high))
            assert each.count == 4
    for each in records["margin_at_step"]:
        assert each.low <= each.value <= each.high
    assert profile.x.tolist() == [1, 2, 3, 4]
    for name, quantity in (
        ("accuracy", "accuracy_at_step"),
        ("ties", "tie_share_at_step"),
        ("mean margin", "margin_at_step"),
    ):
        assert profile.values[name].tolist() == values(records[quantity])


def test_latencies_by_hand() -> None:
    records, _ = measured(echo(), data())
    (settled,), (t95,) = records["settling_step"], records["t95"]
    assert (settled.value, settled.count) == (3.0, 3)  # 1, 3 and 4; the third sample ends wrong
    assert (t95.value, t95.count) == (4.0, 4)
    assert first_lasting(RIGHT).tolist() == [1, 3, math.inf, 4]


def test_t95_is_the_first_step_that_reaches_the_share() -> None:
    x = torch.zeros(20, 3, 2)
    x[:, 0, 0] = 1
    x[0, 0] = torch.tensor([0.0, 1.0])  # 19 of 20 right after the first step, 20 after the second
    x[0, 1:, 0] = 1
    evaluation = prepare((x, torch.zeros(20, dtype=torch.long)), 7)
    found = {r.quantity: r.value for r in AccuracyOverTime().measure(echo(), evaluation, RNG) if isinstance(r, Record)}
    assert found["t95"] == 1
    x[1, 0] = torch.tensor([0.0, 2.0])  # 18 of 20 are too few
    x[1, 1:, 0] = 2
    evaluation = prepare((x, torch.zeros(20, dtype=torch.long)), 7)
    found = {r.quantity: r.value for r in AccuracyOverTime().measure(echo(), evaluation, RNG) if isinstance(r, Record)}
    assert found["t95"] == 2


def test_nothing_right_at_the_end_has_no_latency() -> None:
    evaluation = prepare((SPIKES[2:3], torch.tensor([0])), 4)
    records, _ = measured(echo(), evaluation)
    assert math.isnan(records["t95"][0].value)
    assert math.isnan(records["settling_step"][0].value)
    assert records["settling_step"][0].count == 0
    assert all(math.isnan(each.low) for each in records["margin_at_step"])  # one sample has no spread


def test_margins_of_sums_never_fall_where_the_other_class_is_silent() -> None:
    """Sums of spikes of the true class alone are monotone; of "last" they are not."""
    x = torch.zeros(6, 8, 2)
    x[..., 0] = torch.bernoulli(torch.full((6, 8), 0.4), generator=torch.Generator().manual_seed(0))
    evaluation = prepare((x, torch.zeros(6, dtype=torch.long)), 4)
    _, summed = measured(echo(), evaluation)
    assert (np.diff(summed.values["mean margin"]) >= 0).all()
    np.testing.assert_allclose(summed.values["mean margin"], x[..., 0].cumsum(dim=1).mean(dim=0).numpy(), rtol=1e-6)
    _, last = measured(echo("last"), evaluation)
    np.testing.assert_allclose(last.values["mean margin"], x[..., 0].mean(dim=0).numpy(), rtol=1e-6)
    assert (np.diff(last.values["mean margin"]) < 0).any()


def test_a_sequence_that_is_over_keeps_its_last_decision() -> None:
    lengths = [4, 2, 1, 3]
    records, _ = measured(echo(), data(lengths))
    expected = np.array([RIGHT[np.minimum(np.arange(4), length - 1), k] for k, length in enumerate(lengths)]).T
    assert values(records["accuracy_at_step"]) == expected.mean(axis=1).tolist() == [0.25, 0.25, 0.25, 0.25]
    model = echo()
    logits = model.logits(SPIKES, lengths=torch.tensor(lengths))
    assert values(records["accuracy_at_step"])[-1] == float((model.predict(logits) == 0).double().mean())


@pytest.mark.parametrize("readout", ["mean", "sum", "last", "max", "first_spike"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_last_step_is_what_the_model_says(readout: str, padded: bool) -> None:
    model = echo(readout)
    lengths = torch.tensor([4, 2, 1, 3]) if padded else None
    y = torch.zeros(4, dtype=torch.long)
    found = step_decisions(model, [Batch(SPIKES, y, torch.arange(4), lengths)])
    logits = model.logits(SPIKES, lengths=lengths)
    assert found.correct[-1].tolist() == (model.predict(logits) == y).tolist()
    assert found.margin[-1].tolist() == (logits[:, 0] - logits[:, 1]).tolist()


def test_a_read_out_of_the_user_gets_no_later_steps() -> None:
    """One that looks at all outputs it is given, whatever the lengths."""
    seen = []

    def backwards(outputs: Tensor, lengths: Tensor | None) -> Tensor:
        seen.append(outputs.shape[1])
        return outputs[:, -1]

    model = echo(backwards)
    found = step_decisions(model, [Batch(SPIKES, torch.zeros(4, dtype=torch.long), torch.arange(4))])
    assert seen == [1, 2, 3, 4]
    assert found.margin.tolist() == (SPIKES[..., 0] - SPIKES[..., 1]).T.tolist()


@pytest.mark.parametrize("temporal", [False, True])
def test_a_spiking_net_agrees_with_activity_whatever_the_batch(temporal: bool) -> None:
    model, samples = tiny_model(temporal), tiny_data(temporal, 20)
    records, _ = measured(model, EvaluationData(samples, None, None, 20))
    small, _ = measured(model, EvaluationData(samples, None, None, 3))
    assert repr(records) == repr(small)
    activity = Activity().measure(model, EvaluationData(samples, None, None, 7), RNG)
    by_step = [each for each in activity if each.quantity == "accuracy_at_step"]
    assert [each.value for each in records["accuracy_at_step"]] == [each.value for each in by_step]
    assert records["accuracy_at_step"][-1].value == 1.0  # its labels are the model's


def test_infinite_margins_are_left_out_of_the_mean() -> None:
    def logs(outputs: Tensor, lengths: Tensor | None) -> Tensor:
        return outputs.sum(dim=1).log()

    records, _ = measured(echo(logs), data())
    by_step = records["margin_at_step"]
    assert [each.count for each in by_step] == [2, 1, 4, 3]  # log 0 - log 0 counts as a tie, 0
    assert by_step[0].value == 0.0


def test_draws_of_a_stochastic_model_are_averaged() -> None:
    model = wrap(nn.Identity(), steps=6, encoder="poisson", readout="mean")
    x, y = torch.full((30, 2), 0.5), torch.zeros(30, dtype=torch.long)
    batch = Batch(x, y, torch.arange(30))
    one, many = (step_decisions(model, [batch], draws) for draws in (1, 40))
    assert many.margin[-1].std() < 0.4 * one.margin[-1].std()
    logits = torch.stack([model.logits(x, draw=draw) for draw in range(40)]).mean(dim=0)
    np.testing.assert_allclose(many.margin[-1], (logits[:, 0] - logits[:, 1]).numpy(), atol=1e-6)


def test_a_net_with_its_own_read_out_is_refused_before_it_starts() -> None:
    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=1)

    model = wrap(Whole(), layout="NT", encoder=None, domain="binary", name="whole")
    task = Task("accuracy-over-time", "accuracy-over-time", "measurement", "", AccuracyOverTime())
    with pytest.raises(InputError, match=r"two or more time steps for accuracy-over-time, got T = 1 .*'whole'"):
        AccuracyOverTime().check(model, data(), task)
    with pytest.raises(InputError, match="two or more time steps"):
        step_decisions(model, [Batch(SPIKES, torch.zeros(4, dtype=torch.long), torch.arange(4))])
    AccuracyOverTime().check(echo(), data(), task)


@pytest.mark.parametrize("samples", [0, 2.0, True])
def test_samples_out_of_range(samples: Any) -> None:
    with pytest.raises(InputError, match="samples"):
        AccuracyOverTime(samples=samples)


def test_the_first_samples() -> None:
    records, profile = measured(echo(), data(), AccuracyOverTime(samples=2))
    assert values(records["accuracy_at_step"]) == [0.5, 0.5, 1.0, 1.0]
    assert "2 samples" in profile.caption
    assert isinstance(AccuracyOverTime(), Measurement)
