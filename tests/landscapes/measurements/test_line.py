"""Lines: closed forms on a loss that is known, both spaces, and the plane whose axis they are."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.errors import InputError
from snnrobust.plugin import Measurement
from snnrobust.plugin.task import load
from snnrobust.results.artifacts import Profile
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.measurements import directions
from snnrobust_landscapes.measurements.line import Line
from snnrobust_landscapes.measurements.section_points import UNITS
from snnrobust_landscapes.solvers.lanczos import lanczos
from snnrobust_landscapes.validity.evidence import CurvatureWarning

RNG = Draws(0, "line")


def measured(
    plugin: Line, model: Any, data: EvaluationData, checkpoint: MeasurementCheckpoint | None = None
) -> tuple[Profile, Any]:
    profile, *records = plugin.measure(model, data, RNG, checkpoint)
    assert isinstance(profile, Profile)
    return profile, {record.metric: record for record in records if isinstance(record, Record)}


class Score(nn.Module):
    """Two classes with logits (w . x, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, -0.25, 1.0]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.weight[0]
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def tiny(batch_size: int = 4) -> EvaluationData:
    data = tiny_data()
    return EvaluationData(data, data, data, batch_size)


def test_uphill_in_weights_is_known() -> None:
    net = Score()
    x = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.long)
    data = prepare({"test": (x, y), "train": (x, y)}, 4)
    profile, records = measured(Line(points=5, radius=0.5, direction="adversarial"), wrap(net, layout="N"), data)
    theta = net.weight.detach()[0].numpy()
    score = x.numpy() @ theta
    gradient = (-(1 / (1 + np.exp(score)))[:, None] * x.numpy()).mean(axis=0)  # of mean softplus(-score)
    direction = gradient / np.linalg.norm(gradient) * np.linalg.norm(theta)  # one filter: as long as it
    for a, loss in zip(profile.x, profile.values["loss"], strict=True):
        moved = x.numpy() @ (theta + a * direction)
        assert loss == pytest.approx(np.logaddexp(0, -moved).mean(), abs=1e-6)
    assert profile.x.tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5]
    ends = profile.values["loss"][[0, -1]] - profile.values["loss"][2]
    assert records["loss_rise"].value == ends.max() == ends[1]
    assert records["loss_rise_mean"].value == ends.mean()
    assert (records["loss_rise"].strength, records["loss_rise"].unit) == (0.5, UNITS["weights"])
    assert records["loss"].value == profile.values["loss"][2]


def test_uphill_in_inputs_is_known() -> None:
    net = Score()
    x = torch.tensor([[0.6, 0.0, 0.8], [0.0, 0.5, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 1])
    data = prepare({"test": (x, y), "train": (x, y)}, 4)
    plugin = Line(points=3, direction="adversarial", space="inputs")
    profile, records = measured(plugin, wrap(net, layout="N"), data)
    theta, signs = net.weight.detach()[0].numpy(), np.array([-1.0, 1.0])  # down the score of class 0, up that of 1
    norms = np.linalg.norm(x.numpy(), axis=1)
    score = x.numpy() @ theta + signs * norms * np.linalg.norm(theta)
    assert profile.values["loss"][2] == pytest.approx(np.logaddexp(0, signs * score).mean(), abs=1e-6)
    assert records["loss"].threat.endswith(", inputs")
    assert "Inputs are not clipped" in profile.caption


def test_random_lines_are_keyed_and_resume() -> None:
    checkpoint = MeasurementCheckpoint()
    profile, records = measured(Line(points=5), tiny_model(), tiny(), checkpoint)
    name = "chunks of 4"
    held = checkpoint.get(name)
    assert held is not None
    held[2:] = np.nan
    checkpoint.put(name, held)
    again, again_records = measured(Line(points=5), tiny_model(), tiny(), checkpoint)
    fresh, _ = measured(Line(points=5), tiny_model(), tiny())
    assert np.array_equal(profile.values["loss"], again.values["loss"])
    assert np.array_equal(profile.values["loss"], fresh.values["loss"])
    assert records == again_records
    (other, *_) = Line(points=5).measure(tiny_model(), tiny(), Draws(1, "line"))
    assert isinstance(other, Profile)
    assert not np.array_equal(profile.values["loss"], other.values["loss"])  # control


def test_a_spiking_loss_is_constant_at_small_scales() -> None:
    profile, _ = measured(Line(points=21, radius=1e-6), tiny_model(), tiny())
    assert np.ptp(profile.values["loss"]) == 0
    further, _ = measured(Line(points=21, radius=1.0), tiny_model(), tiny())
    assert np.ptp(further.values["loss"]) > 1e-2  # control


def test_an_eigenvector_that_has_not_converged_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Line(points=3, direction="eigenvector")
    whole, _ = measured(plugin, tiny_model(), tiny())
    assert "converged" not in whole.caption  # control
    monkeypatch.setattr(directions, "lanczos", partial(lanczos, most=1, tolerance=1e-12))
    checkpoint = MeasurementCheckpoint()
    with pytest.warns(CurvatureWarning, match="to converge within 1 products, got 1 of 1"):
        profile, _ = measured(plugin, tiny_model(), tiny(), checkpoint)
    assert profile.caption.endswith("1 of its eigenvectors has not converged.")
    assert measured(plugin, tiny_model(), tiny(), checkpoint)[0].caption == profile.caption  # gone on with


def test_settings_and_checks() -> None:
    assert isinstance(Line(), Measurement)
    for setting in ({"points": 4}, {"points": 1}, {"radius": -1.0}, {"radius": math.nan}, {"chunk": 0}, {"samples": 0}):
        with pytest.raises(InputError, match=next(iter(setting))):
            Line(**setting)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(InputError, match="direction among"):
        Line(direction="down")
    x = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.long)
    with pytest.raises(InputError, match="training data"):
        Line().check(tiny_model(), prepare(x, 4), load("line"))
    Line(space="inputs").check(tiny_model(), tiny(), load("line"))
