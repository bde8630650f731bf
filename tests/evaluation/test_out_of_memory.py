"""Memory that runs out: the pool shrinks, no outcome changes, and the report says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.batching import BatchSizer, out_of_memory
from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.results.store import Store
from snnrobust.search.queries import ModelQueries
from snnrobust.testing.tiny import tiny_data, tiny_model

ERRORS: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError,
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
]
LIKE_CUDA = ERRORS[0]


@dataclass
class Seen:
    """Batch sizes: an object, since a session puts a net's own lists back."""

    batches: list[int] = field(default_factory=list)


class Cramped(nn.Module):
    """The tiny net with room for few samples at once, in the forward pass or on leaving the backward pass."""

    def __init__(self, room: int, error: Callable[[], Exception] = LIKE_CUDA, backward: bool = False) -> None:
        super().__init__()
        self.net = tiny_model().net
        self.room = room
        self.error = error
        self.backward = backward
        self.seen = Seen()

    def forward(self, x: Tensor) -> Tensor:  # (T, N, *)
        self.seen.batches.append(x.shape[1])
        if not self.backward:
            self._fill(x)
        elif x.requires_grad:
            x = x.clone()
            x.register_hook(self._fill)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        out: Tensor = self.net(x)
        return out

    def _fill(self, x: Tensor) -> None:
        if x.shape[1] > self.room:
            raise self.error()


def wrapped(net: nn.Module) -> sr.SpikingModel:
    return sr.wrap(net, name="tiny", steps=4, accelerate=False)  # so that every pass goes through `Cramped`


def all_cells(report: sr.Report, label: str) -> list[dict[str, np.ndarray]]:
    strengths = report.task(label)["strengths"]
    return [report.cell("tiny", label, k) for k in range(max(1, len(strengths)))]


def same(first: sr.Report, second: sr.Report) -> bool:
    """Whether all outcomes are equal, up to rounding where float sums depend on the batch."""
    for label in first.labels():
        for one, other in zip(all_cells(first, label), all_cells(second, label), strict=True):
            for name, value in one.items():
                if value.dtype.kind == "f":
                    equal = np.allclose(value, other[name], atol=1e-6, equal_nan=True)
                else:
                    equal = np.array_equal(value, other[name])
                if not equal:
                    return False
    return True


def tasks() -> list[Any]:
    return [
        sr.load("pgd", epsilon=[0.05, 0.15], steps=6, restarts=2),
        sr.load("square", epsilon=0.1, steps=8),
        sr.load("pgd", label="to a class", epsilon=0.1, steps=3, objective="targeted-dlr"),
        sr.load("gaussian", severity=[0.2]),
    ]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "python", "cpu"])
@pytest.mark.parametrize("mode", ["nested", pytest.param("exhaustive", marks=pytest.mark.slow)])
def test_outcomes_are_those_of_a_run_with_room(mode: Any, error: Callable[[], Exception]) -> None:
    net = Cramped(3, error)
    settings: dict[str, Any] = {"mode": mode, "evidence": "none", "batch_size": 32}
    free = sr.evaluate(wrapped(Cramped(99)), tiny_data(count=30), tasks(), **settings)
    tight = sr.evaluate(wrapped(net), tiny_data(count=30), tasks(), **settings)
    assert same(free, tight)
    assert 0 < free.robust("pgd")[1].sum() < 30
    assert not free.halved("tiny")
    assert tight.halved("tiny") == [15, 7, 3]  # 30 samples were tried at first
    assert max(net.seen.batches) == 30


def test_an_accelerated_search_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = ModelQueries.forward

    def cramped(self: ModelQueries, batch: Batch, *arguments: Any) -> Any:
        if len(batch) > 4:
            raise LIKE_CUDA()
        return forward(self, batch, *arguments)

    data = tiny_data(count=30)
    settings: dict[str, Any] = {"evidence": "none", "batch_size": 20}
    free = sr.evaluate(tiny_model(), data, tasks(), **settings)
    monkeypatch.setattr(ModelQueries, "forward", cramped)
    tight = sr.evaluate(tiny_model(), data, tasks(), **settings)
    assert tight.halved("tiny") == [10, 5, 2]
    assert same(free, tight)


def test_sameness_is_not_for_free() -> None:
    data = tiny_data(count=30)
    first, second = (
        sr.evaluate(tiny_model(), data, [sr.load("pgd", epsilon=0.1, steps=3)], seed=seed, evidence="none")
        for seed in (0, 1)
    )
    assert not same(first, second)


def test_a_sample_is_taken_up_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimator that remembers each sample over the iterates must not hear twice of one whose gradient failed."""

    def run(room: int) -> sr.Report:
        model = wrapped(Cramped(room, backward=True))
        task = sr.load("pgd", epsilon=[0.1, 0.2], steps=6, gradient={"name": "assg", "decay": 0.5}, eot=2)
        return sr.evaluate(model, tiny_data(count=30), [task], evidence="none", batch_size=30, mode="exhaustive")

    free, tight = run(99), run(4)
    assert tight.halved("tiny") == [15, 7, 3]
    assert same(free, tight)
    monkeypatch.setattr(ModelQueries, "all_or_nothing", lambda self: nullcontext())
    assert not same(free, run(4))


@pytest.mark.parametrize("task", ["pgd", "torchattacks:PGD", "gaussian"])
def test_other_errors_are_not_swallowed(task: str) -> None:
    net = Cramped(8, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    strength = {"severity": 0.1} if task == "gaussian" else {"epsilon": 0.1}
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        sr.evaluate(wrapped(net), tiny_data(count=12), [sr.load(task, **strength)], evidence="none", batch_size=12)
    assert net.seen.batches.count(12) == 1
    assert max(net.seen.batches[:-1]) <= 8


def test_a_single_sample_that_does_not_fit_is_a_clear_error(tmp_path: Path) -> None:
    class Full(Cramped):
        """No room once an input asks for a gradient."""

        def _fill(self, x: Tensor) -> None:
            if x.requires_grad and x.shape[1] != 2:  # two are tried beforehand
                super()._fill(x)

    model = wrapped(Full(0))
    with pytest.raises(sr.SnnRobustError, match=r"one sample at a time.*CUDA out of memory") as caught:
        sr.evaluate(model, tiny_data(), [sr.load("pgd", epsilon=0.1)], evidence="none", out=tmp_path, batch_size=7)
    assert isinstance(caught.value, sr.MemoryLimitError)
    assert Store.open(tmp_path).halved("tiny") == [3, 1]
    assert Store.open(tmp_path).cell("tiny", "clean", 0) is not None  # what was computed is kept


def test_a_resumed_run_starts_with_the_size_that_fitted(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"evidence": "none", "batch_size": 16, "out": tmp_path}
    task = sr.load("pgd", epsilon=[0.05, 0.1], steps=3)
    sr.evaluate(wrapped(Cramped(5)), tiny_data(count=20), [task], **settings)
    for position in (0, 1):
        (next(tmp_path.rglob(f"pgd/{position}.npz"))).unlink()
    again = Cramped(5)
    report = sr.evaluate(wrapped(again), tiny_data(count=20), [task], **settings)
    assert again.seen.batches.count(8) == 1  # the signature was tried on 8 samples
    assert max(size for size in again.seen.batches if size != 8) <= 4
    for each in (report, sr.Report.load(tmp_path)):
        assert each.halved("tiny") == [8, 4]
    report.save(tmp_path / "copy")
    assert sr.Report.load(tmp_path / "copy").halved("tiny") == [8, 4]


@pytest.mark.parametrize(("name", "passed"), [("pgd", True), ("torchattacks:PGD", False)])
def test_the_report_says_that_memory_ran_out(
    name: str, passed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snnrobust.wrapping.model.AT_ONCE", 1000)  # or a CPU would never take as many at once
    task = sr.load(name, label="attack", epsilon=0.1)
    cramped = sr.evaluate(wrapped(Cramped(70)), tiny_data(count=200), [task], batch_size=150)
    (finding,) = [each for each in cramped.findings if each.name == "memory"]
    assert (finding.passed, finding.value, finding.required) == (passed, 2.0, False)
    assert "37 in the end" in finding.why
    page = cramped.to_html(tmp_path / "page.html").read_text()
    assert "ran out 2 times on tiny: the batch size was reduced to 37" in page
    free = sr.evaluate(wrapped(Cramped(999)), tiny_data(count=200), [task], batch_size=150)
    assert [each for each in cramped.findings if each.name != "memory"] == free.findings
    assert not [each for each in free.findings if each.name == "memory"]
    assert "ran out" not in free.to_html(tmp_path / "page.html").read_text()


def test_the_probe_starts_over_on_fewer_samples() -> None:
    report = sr.evaluate(wrapped(Cramped(20)), tiny_data(count=60), ["clean"], batch_size=4)
    assert report.halved("tiny") == [30, 15]
    assert all(each.passed for each in report.findings if each.fatal)
    assert report.clean()["correct"].all()


def test_a_measurement_starts_over_with_fewer_samples() -> None:
    asked: list[int] = []

    class Hungry:
        def measure(self, model: sr.SpikingModel, data: EvaluationData, rng: Draws) -> Iterator[sr.Record]:
            asked.append(data.batch_size)
            yield sr.Record("first", 1.0)
            if data.batch_size > 9:
                raise MemoryError
            yield sr.Record("second", 2.0)

    report = sr.evaluate(
        tiny_model(), tiny_data(), [sr.Task("hungry", "hungry", "measurement", "test", Hungry())], batch_size=32
    )
    assert asked == [32, 16, 8]
    assert [each.metric for each in report.records if each.label == "hungry"] == ["first", "second"]
    assert report.halved("tiny") == [16, 8]


@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 300))
def test_chunks_are_whole_and_in_order(room: int, size: int, count: int) -> None:
    told: list[int] = []
    pool = BatchSizer(size, told.append)

    def work(rows: Tensor) -> list[int]:
        if len(rows) > room:
            raise MemoryError
        return rows.tolist()

    seen = list(pool.over(torch.arange(count), work))
    assert [row for _, rows in seen for row in rows] == list(range(count))
    assert all(chunk.tolist() == rows for chunk, rows in seen)
    assert pool.size == (told or [size])[-1]
    assert told == sorted(set(told), reverse=True)
    if told:
        assert pool.size <= room < 2 * pool.size + 2  # no smaller than it has to be


def test_what_is_out_of_memory() -> None:
    for huge in (lambda: torch.empty(10**15), lambda: np.empty(10**15)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            huge()
        assert out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2, 3) @ torch.empty(2, 3)
    assert not out_of_memory(caught.value)
