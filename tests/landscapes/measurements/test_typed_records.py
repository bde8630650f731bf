"""The typed fields of records agree with their text, from which records of format 3 are upgraded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import pytest

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.measurements.activity import Activity
from snnrobust.measurements.threshold_margins import ThresholdMargins
from snnrobust.results.artifacts import Artifact
from snnrobust.results.format_3 import upgrade_record
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust_landscapes.measurements.eigenvalues import Eigenvalues
from snnrobust_landscapes.measurements.line import Line
from snnrobust_landscapes.measurements.plane import Plane
from snnrobust_landscapes.measurements.pyhessian import PyHessian
from snnrobust_landscapes.measurements.sharpness import Sharpness
from snnrobust_landscapes.measurements.trace import Trace

TYPED = (
    "quantity", "layer", "rank", "directions", "search", "operator", "variant", "space", "symmetric", "draw_noise"
)  # fmt: skip
FEW: dict[str, Any] = {"directions": 8, "draws": 2, "chunk": 24}
SMOOTHED = {"name": "smoothed", "sigma": 0.1, "draws": 4}

pytestmark = pytest.mark.usefixtures("short_and_quiet")


def untyped(record: Record) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name not in TYPED}


def test_these_are_the_typed_fields() -> None:
    old = "metric value low high count strength unit threat model label plugin origin seed forwards backwards seconds"
    assert [each.name for each in fields(Record)] == [*old.split(), *TYPED]


@pytest.mark.parametrize(
    "plugin",
    [
        Eigenvalues("gauss-newton", k=2, per_layer=True, **FEW),
        Eigenvalues({"name": "gauss-newton", "surrogate": "own"}, space="inputs", k=2, **FEW),
        Eigenvalues("field", k=2, **FEW),
        Eigenvalues(SMOOTHED, space="inputs", k=2, **FEW),
        Trace("relaxed", products=30, **FEW),
        Plane(points=3),
        Line(points=3, space="inputs"),
        Sharpness(directions=2, steps=1),
        Sharpness(directions=2, steps=1, space="inputs"),
    ],
)
def test_typed_fields_agree_with_the_text(
    plugin: Any, spiking: Callable[[], SpikingModel], measured: Callable[..., list[Record | Artifact]]
) -> None:
    found = [each for each in measured(plugin, spiking()) if isinstance(each, Record)]
    assert found
    for each in found:
        assert repr(Record(**upgrade_record(untyped(each)))) == repr(each)


def test_pyhessian_describes_its_operator(
    spiking: Callable[[], SpikingModel], measured: Callable[..., list[Record | Artifact]]
) -> None:
    pytest.importorskip("pyhessian")
    found = measured(PyHessian(probes=3, directions=8, draws=2), spiking())
    records = [each for each in found if isinstance(each, Record)]
    assert {each.operator for each in records if each.symmetric is not None} == {"formal surrogate Hessian"}
    assert all(repr(Record(**upgrade_record(untyped(each)))) == repr(each) for each in records)


@pytest.mark.parametrize("plugin", [Activity(), ThresholdMargins()])
def test_layers_of_activity(
    plugin: Any, spiking: Callable[[], SpikingModel], data: Callable[..., EvaluationData]
) -> None:
    records = list(plugin.measure(spiking(), data(), Draws(0, "task")))
    assert {each.layer for each in records} >= {"1"}
    assert all(repr(Record(**upgrade_record(untyped(each)))) == repr(each) for each in records)
