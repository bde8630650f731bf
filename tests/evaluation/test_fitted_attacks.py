"""Perturbations that are fitted: on the validation split alone, once a radius, counted apart, named in the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.errors import InputError, PluginError
from snnrobust.plugin.protocols import Fitted, Queries, State
from snnrobust.plugin.task import AttackSettings, Task
from snnrobust.results.store import Store
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel

SEEN: list[dict[str, Any]] = []


@dataclass(frozen=True)
class MeanGradient:
    """One step along the mean gradient of the held-out samples, asked about in two parts, as a common change."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l0")

    def fit(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        parts = [oracle.gradient(x[at], y[at], index[at])[0] for at in (slice(0, 3), slice(3, None))]
        state = {"direction": torch.cat(parts).mean(dim=0), "noise": rng.uniform(index[:1], (2,))}
        SEEN.append({"x": x.clone(), "index": index, "epsilon": threat.epsilon, **state})
        return state

    def perturb(
        self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor, fitted: State
    ) -> Tensor:
        return threat.project(x + 2 * fitted["direction"][: x.shape[1]].sign(), x)


@dataclass(frozen=True)
class Peeks(MeanGradient):
    """Keeps the test data that its check is shown, and asks about it in fit."""

    kept: ClassVar[list[Tensor]] = []

    def check(self, model: Any, data: Any, task: Task) -> None:
        self.kept.append(data.test.x)

    def fit(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        test = self.kept[-1][: len(x)]
        return {"direction": oracle.gradient(threat.project(test, test), y[: len(test)], index[: len(test)])[0].mean(0)}


@dataclass(frozen=True)
class Foreign(MeanGradient):
    """Asks about samples that it was not given."""

    def fit(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        return {"direction": oracle.gradient(x, y, index + 1000)[0].mean(0)}


@dataclass(frozen=True)
class AsModule(MeanGradient):
    """Goes round the checks of its queries."""

    def fit(self, oracle: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> State:
        return {"direction": oracle.as_module(index)(x)}


@pytest.fixture
def splits() -> dict[str, Dataset]:
    data = tiny_data(count=40)
    test, validation = data.select(range(25)), data.select(range(25, 40))
    named = Dataset(validation.x, validation.y, validation.index, name="held-out tiny")
    return {"test": test, "validation": named}


@pytest.fixture(autouse=True)
def forget() -> None:
    SEEN.clear()
    Peeks.kept.clear()


def task(plugin: Any, *radii: float, norm: Any = "linf", objective: str = "cross_entropy", restarts: int = 1) -> Task:
    factors = AttackSettings(norm, sr.create(objective), sr.create("own"), restarts, 1)
    return Task("common", "common", "attack", "test", plugin, radii or (0.3,), factors)


def test_it_is_fitted_at_each_radius_on_the_validation_split(splits: dict[str, Dataset]) -> None:
    assert isinstance(MeanGradient(), Fitted)
    report = sr.evaluate(tiny_model(), splits, [task(MeanGradient(), 0.1, 0.3)], evidence="none")
    assert [each["epsilon"] for each in SEEN] == [0.1, 0.3]
    for each in SEEN:
        assert torch.equal(each["x"], splits["validation"].x)
        assert torch.equal(each["index"], splits["validation"].index)
    model = tiny_model()
    x = splits["validation"].x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model.logits(x), splits["validation"].y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.allclose(SEEN[0]["direction"], gradient.mean(dim=0), atol=1e-6)
    test = splits["test"]
    changed = (test.x + 0.3 * gradient.mean(dim=0).sign()).clamp(0, 1)
    by_hand = (model.predict(model.logits(changed)) == test.y).numpy()
    at_small = report.cell("tiny", "common", 0)["correct"] != 0
    expected = by_hand & at_small  # nested: a sample that broke at .1 is broken at .3
    assert np.array_equal(report.robust("common")[1], expected)


def test_the_record_names_the_split_and_counts_its_passes_apart(splits: dict[str, Dataset], tmp_path: Path) -> None:
    report = sr.evaluate(
        tiny_model(),
        splits,
        [task(MeanGradient(), 0.1, 0.3, restarts=2)],
        evidence="none",
        mode="exhaustive",
        out=tmp_path,
    )
    store = Store.open(tmp_path)
    assert store.run["fitted"] == {"attacks": ["common"], "data": "held-out tiny", "samples": 15, "left_out": 0}
    found = store.fittings("tiny")
    assert sorted(found) == [f"common/{position}/common/{restart}" for position in (0, 1) for restart in (0, 1)]
    for each in found.values():
        assert (each.data, each.samples, each.forwards, each.backwards) == ("held-out tiny", 15, 15, 15)
    cell = report.cell("tiny", "common", 0)
    assert (cell["forwards"] == 2).all()  # the scoring of two restarts
    assert (cell["backwards"] == 0).all()
    assert not torch.equal(SEEN[0]["noise"], SEEN[1]["noise"])  # each restart draws its own numbers


def test_other_runs_have_no_such_entry(splits: dict[str, Dataset]) -> None:
    report = sr.evaluate(tiny_model(), splits, [sr.load("fgsm", epsilon=0.1)], evidence="none")
    assert "fitted" not in report.outcomes._store.run


def test_what_is_fitted_does_not_depend_on_the_batch_size(splits: dict[str, Dataset]) -> None:
    for size in (64, 4, 1):
        sr.evaluate(tiny_model(), splits, [task(MeanGradient())], evidence="none", batch_size=size)
    assert torch.allclose(SEEN[0]["direction"], SEEN[1]["direction"], atol=1e-6)
    assert torch.allclose(SEEN[0]["direction"], SEEN[2]["direction"], atol=1e-6)


def test_a_resumed_run_fits_again_to_the_same(
    splits: dict[str, Dataset], tmp_path: Path, counted: Callable[..., Any]
) -> None:
    tasks = [task(MeanGradient(), 0.1, 0.3)]
    whole = sr.evaluate(tiny_model(), splits, tasks, evidence="none")
    watched = counted(MeanGradient, "perturb", stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        sr.evaluate(tiny_model(), splits, tasks, evidence="none", out=tmp_path)
    watched.stop_at = -1
    resumed = sr.evaluate(tiny_model(), splits, tasks, evidence="none", out=tmp_path)
    assert np.array_equal(whole.robust("common"), resumed.robust("common"))
    assert torch.equal(SEEN[-1]["direction"], SEEN[1]["direction"])


def test_without_validation_data_nothing_starts(splits: dict[str, Dataset], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected validation data for 'common', got none; pass data=\{'test': ..., "):
        sr.evaluate(tiny_model(), splits["test"], [task(MeanGradient())], evidence="none", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not SEEN


def test_validation_data_that_is_test_data_is_refused(splits: dict[str, Dataset]) -> None:
    """Also under other ids."""
    test = splits["test"]
    again = Dataset(test.x, test.y, test.index + 1000, name="again")
    with pytest.raises(InputError, match="apart from the test data for 'common', got 25 of 25 samples in both"):
        sr.evaluate(tiny_model(), {"test": test, "validation": again}, [task(MeanGradient())], evidence="none")


def test_a_chance_duplicate_is_left_out(splits: dict[str, Dataset], tmp_path: Path) -> None:
    many = tiny_data(count=90)
    x, y = many.x[25:].clone(), many.y[25:].clone()
    x[0], y[0] = many.x[0], many.y[0]  # one of 65
    sr.evaluate(
        tiny_model(),
        {"test": many.select(range(25)), "validation": (x, y)},
        [task(MeanGradient())],
        evidence="none",
        out=tmp_path,
    )
    assert torch.equal(SEEN[0]["x"], x[1:])
    assert Store.open(tmp_path).run["fitted"]["left_out"] == 1


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Peeks(), "allowed inputs around the held-out samples"),
        (Foreign(), "expected ids of held-out samples"),
        (AsModule(), "got as_module"),
    ],
)
def test_a_fit_that_asks_about_other_samples_is_caught(splits: dict[str, Dataset], plugin: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        sr.evaluate(tiny_model(), splits, [task(plugin)], evidence="none")


def test_padding_is_left_alone(counted: Callable[..., Any]) -> None:
    """Test sequences come without padding; held-out ones with it, and no query changes it."""
    data = tiny_data(temporal=True, count=30)
    lengths = torch.tensor([2, 3, 4] * 10)
    x = data.x.clone()
    for sample, length in enumerate(lengths.tolist()):
        x[sample, length:] = 0
    padded = Dataset(x, data.y, data.index, lengths, "padded")
    splits = {"test": padded.select(range(15)), "validation": padded.select(range(15, 30))}
    found = sr.attack(tiny_model(temporal=True), splits, task(MeanGradient(), 3.0, norm="l0"), progress=False)
    behind = torch.arange(4) >= splits["test"].lengths[:, None]  # type: ignore[index]
    assert torch.equal(found.x[behind], found.original[behind])
    assert int((found.x != found.original).flatten(1).sum(1).max()) <= 3
    assert bool((SEEN[0]["direction"][3] != 0).any())


def test_targeted_objectives_have_targets_on_held_out_samples(splits: dict[str, Dataset]) -> None:
    sr.evaluate(tiny_model(), splits, [task(MeanGradient(), objective="targeted-dlr", restarts=2)], evidence="none")
    assert len(SEEN) == 2
    assert not torch.equal(SEEN[0]["direction"], SEEN[1]["direction"])
