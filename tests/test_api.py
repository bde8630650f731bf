"""The whole road: restoring the model, batches and seeds, stochastic nets, measurements, worst case."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import base, functional
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.plugin import Queries
from snnrobust.plugin.task import Task
from snnrobust.results.store import Store
from snnrobust.testing.tiny import tiny_data, tiny_model
from snnrobust.threat_models.threat_model import ThreatModel

EPSILONS = [0.0, 0.05, 0.1, 0.2]


def snapshot(net: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in net.state_dict().items()},
        "training": [module.training for module in net.modules()],
        "flags": [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in net.parameters()],
        "memories": [id(value) for m in net.modules() if isinstance(m, base.MemoryModule) for value in m.memories()],
        "classes": [type(module).__name__ for module in net.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()],
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.numpy().tobytes() == b.numpy().tobytes()
    return bool(a == b)


def lived_in(model: sr.SpikingModel) -> None:
    """A net in the middle of its owner's work: training mode, gradients, a frozen layer, live membranes."""
    net = model.net
    net.train()
    net(torch.rand(4, 5, 1, 4, 4)).sum().backward()
    functional.reset_net(net)
    with torch.no_grad():
        net(torch.rand(4, 5, 1, 4, 4))
    next(net.parameters()).requires_grad_(False)


@dataclass(frozen=True)
class Explode:
    def perturb(self, queries: Queries, x: Tensor, y: Tensor, threat: ThreatModel, rng: Draws, index: Tensor) -> Tensor:
        queries.gradient(x, y, index)
        raise RuntimeError("boom")


@pytest.fixture
def explode(attack_task: Callable[..., Task]) -> Task:
    """An attack that fails in the middle of its work."""
    return attack_task("explode", Explode(), 0.1, gradient="atan")


def test_the_model_is_left_as_it_came() -> None:
    model = tiny_model()
    lived_in(model)
    before, generator = snapshot(model.net), torch.random.get_rng_state()
    tasks = [
        "clean",
        sr.load("pgd", epsilon=0.1, steps=3, gradient="atan"),
        sr.load("gaussian", severity=0.1),
        "activity",
    ]
    sr.evaluate(model, tiny_data(), tasks, mode="exhaustive")
    assert same(before, snapshot(model.net))
    assert torch.equal(generator, torch.random.get_rng_state())


def test_the_model_is_left_as_it_came_when_an_attack_raises(explode: Task) -> None:
    model = tiny_model()
    lived_in(model)
    before = snapshot(model.net)
    with pytest.raises(RuntimeError, match="boom"):
        sr.evaluate(model, tiny_data(), [explode])
    assert same(before, snapshot(model.net))
    assert not same(before, snapshot(copy.deepcopy(tiny_model().net)))  # the comparison can tell nets apart


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_outcomes_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    tasks = [
        sr.load("pgd", epsilon=EPSILONS, steps=5, restarts=2),
        sr.load("salt-and-pepper", severity=[0.1, 0.3]),
        sr.load("gaussian", severity=[0.1, 0.3]),
    ]
    data = tiny_data(count=40)
    whole = sr.evaluate(tiny_model(), data, tasks)
    small = sr.evaluate(tiny_model(), data, tasks, batch_size=batch_size)
    assert np.array_equal(whole.robust("pgd"), small.robust("pgd"))
    for label in ("salt-and-pepper", "gaussian"):
        assert whole.curve(label) == small.curve(label)


def test_seeds_matter_and_repeat() -> None:
    data = tiny_data(count=60)
    task = sr.load("gaussian", severity=0.3, draws=3)
    first, again, other = (sr.evaluate(tiny_model(), data, [task], seed=seed).curve("gaussian") for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_poisson_epsilon_zero_equals_clean_through_the_full_path(poisson_model: Callable[..., sr.SpikingModel]) -> None:
    model, data = poisson_model(steps=6), tiny_data(count=24)
    report = sr.evaluate(model, data, [sr.load("pgd", epsilon=[0.0, 0.2], steps=3, eot=3)])
    assert np.array_equal(report.robust("pgd")[0], report.clean()["correct"])
    assert 0 < report.robust("pgd")[1].sum() < report.robust("pgd")[0].sum()
    assert np.array_equal(report.robust("pgd", by="voted")[0], report.clean()["voted"])
    shares = {(record.metric, record.strength): record.value for record in report.records}
    assert shares["majority_vote_robust_accuracy", 0.2] < shares["majority_vote_robust_accuracy", 0.0]
    names = {finding.name: finding.passed for finding in report.findings}
    assert names["epsilon-zero"]
    assert names["eot"]
    without = sr.evaluate(model, data, [sr.load("pgd", epsilon=0.2, steps=3)])
    assert {finding.name: finding.passed for finding in without.findings}["eot"] is False


def test_poisson_outcomes_repeat_and_do_not_depend_on_the_batch(poisson_model: Callable[..., sr.SpikingModel]) -> None:
    model, data = poisson_model(steps=6), tiny_data(count=10)
    task = sr.load("pgd", epsilon=[0.1, 0.3], steps=3, eot=2)
    whole, small = (sr.evaluate(model, data, [task], batch_size=size) for size in (64, 3))
    assert np.array_equal(whole.robust("pgd"), small.robust("pgd"))


def test_measurements_get_training_data_and_their_records_are_labelled() -> None:
    class Count:
        def measure(self, model: sr.SpikingModel, data: EvaluationData, rng: Draws) -> list[sr.Record]:
            return [sr.Record("samples", float(len(data.training("a test"))))]

    task = Task("count", "count", "measurement", "test", Count())
    report = sr.evaluate({"a": tiny_model()}, {"test": tiny_data(), "train": tiny_data(count=20)}, [task], seed=4)
    (record,) = [record for record in report.records if record.metric == "samples"]
    assert (record.value, record.model, record.label, record.origin, record.seed) == (20.0, "a", "count", "test", 4)


def test_what_was_computed_before_a_failure_is_kept(explode: Task, tmp_path: Path) -> None:
    tasks = [sr.load("pgd", epsilon=0.1, steps=2), explode]
    with pytest.raises(RuntimeError, match="boom"):
        sr.evaluate(tiny_model(), tiny_data(), tasks, out=tmp_path)
    store = Store.open(tmp_path)
    assert store.cell("tiny", "pgd", 0) is not None
    assert store.cell("tiny", "explode", 0) is None


def test_worst_case_and_attribution() -> None:
    data = tiny_data(count=60)
    tasks = [
        sr.load("fgsm", epsilon=[0.05, 0.2]),
        sr.load("pgd", epsilon=[0.1, 0.2], steps=10),
        sr.load("pgd", label="l2", norm="l2", epsilon=[0.5], steps=5),
    ]
    report = sr.evaluate(tiny_model(), data, tasks)
    with pytest.raises(sr.InputError, match="threat="):
        report.worst_case()
    linf = next(threat for threat in report.threats() if threat.startswith("linf"))
    worst = report.worst_case(threat=linf)
    assert worst.strength == (0.05, 0.1, 0.2)
    both = report.robust("fgsm")[1] & report.robust("pgd")[1]
    assert worst.value[-1] == pytest.approx(both.mean())
    assert worst.value[0] == report.curve("fgsm").value[0]
    broken = int(report.clean()["correct"].sum() - round(worst.value[-1] * worst.count))
    assert sum(worst.attribution.values()) == broken
    assert report.curve("pgd").low[0] <= report.curve("pgd").value[0] <= report.curve("pgd").high[0]
    with pytest.raises(sr.InputError, match="exhaustive"):
        report.curve("pgd", sense="last-iterate")


def test_attacks_that_differ_in_one_factor_start_alike() -> None:
    """The tiny net's surrogate is ATan(2): attacking through ATan(2) is the same attack, to the sample."""
    data = tiny_data(count=80)
    tasks = [sr.load("pgd", label=g, epsilon=[0.05, 0.1, 0.2], steps=3, gradient=g) for g in ("own", "atan")]
    report = sr.evaluate(tiny_model(), data, tasks)
    assert np.array_equal(report.robust("own"), report.robust("atan"))
    gaps = [finding for finding in report.findings if finding.name == "surrogate-gap"]
    assert {(finding.label, finding.passed) for finding in gaps} == {("own", None), ("atan", None)}  # no rivals


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_nets_are_not_accused_of_rounding(dtype: torch.dtype) -> None:
    model = sr.wrap(tiny_model().net.to(dtype), steps=4)
    report = sr.evaluate(model, tiny_data(), [sr.load("pgd", epsilon=[0.1], steps=3)])
    assert report.curve("pgd").count == len(tiny_data())


def test_noise_spares_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Averages(nn.Module):
        """Reads out over all steps by itself, and so would notice noise in steps that do not exist."""

        def forward(self, x: Tensor) -> Tensor:
            return x.sum(dim=1)[:, :3] + 0 * x.sum()

    x = torch.zeros(6, 4, 6)
    x[:, 0, 0] = 1.0
    data = Dataset.of(x, torch.zeros(6, dtype=torch.long), lengths=torch.ones(6, dtype=torch.long), name="padded")
    model = sr.wrap(Averages(), layout="N", encoder=None, bounds=(-9.0, 9.0))
    seen: list[Tensor] = []
    logits = sr.SpikingModel.logits

    def listening(self: sr.SpikingModel, x: Tensor, **keywords: Any) -> Tensor:
        seen.append(x)
        return logits(self, x, **keywords)

    monkeypatch.setattr(sr.SpikingModel, "logits", listening)
    sr.evaluate(model, data, [sr.load("gaussian", severity=1e-3)], evidence="none", batch_size=6)
    assert any((each[:, 0] != x[: len(each), 0]).any() for each in seen)
    assert not any((each[:, 1:] != 0).any() for each in seen)
