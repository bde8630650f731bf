"""The batch size that fits: what a gradient takes, what is free, and a run that keeps the size it has."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.batching import GIB
from snnrobust.data import Dataset
from snnrobust.evaluation import memory
from snnrobust.evaluation.make_plan import make_plan
from snnrobust.evaluation.memory import COPIES, PASSING, Footprint, choose_batch_size, free_bytes, measure_footprint
from snnrobust.evaluation.settings import EvaluationSettings
from snnrobust.testing.tiny import tiny_data, tiny_model

FEATURES = 50


class Exponential(nn.Module):
    """Saves its output for the backward pass; twice over if asked, in one piece of memory."""

    def __init__(self, views: int = 1) -> None:
        super().__init__()
        self.views = views

    def forward(self, x: Tensor) -> Tensor:
        out = x.exp()
        return sum((out[:] * out[:] for _ in range(self.views - 1)), out)


def wrapped(net: nn.Module) -> sr.SpikingModel:
    return sr.wrap(net, layout="N", bounds=(0.0, 1.0))


def inputs(count: int = 5) -> Dataset:
    return Dataset.of(torch.rand(count, FEATURES), torch.zeros(count, dtype=torch.long))


@given(st.floats(0, 1e12), st.floats(1e-3, 1e12), st.floats(0, 1e15), st.floats(1, 10))
def test_the_largest_power_of_two_that_fits(constant: float, sample: float, budget: float, more: float) -> None:
    size = Footprint(constant, sample).fitting(budget)
    assert size in {2**k for k in range(9)}
    assert size == 1 or constant + size * sample <= budget * (1 + 1e-9)
    assert size == 256 or constant + 2 * size * sample > budget * (1 - 1e-9)
    assert Footprint(constant, sample).fitting(budget * more) >= size


def test_what_does_not_fit_at_all_goes_one_at_a_time() -> None:
    assert Footprint(0.0, math.inf).fitting(1e15) == 1
    assert Footprint(0.0, 0.0).fitting(0.0) == 256


@pytest.mark.parametrize("views", [1, 3])
def test_saved_tensors_are_counted_once(views: int) -> None:
    """One tensor [N, 50] is saved, however often; the logits are another, and a search keeps copies of the input."""
    model = wrapped(Exponential(views))
    found = measure_footprint(model, inputs())
    assert found.sample == pytest.approx(4 * FEATURES * (1 + PASSING + 1 + COPIES), rel=0.01)
    assert found.constant == 0


def test_the_constant_part_is_told_apart() -> None:
    """A weight that is made in the pass is saved, whatever the batch, and so is the layer's input."""

    class Positive(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight.exp())

    found = measure_footprint(wrapped(Positive(FEATURES, 200)), inputs())
    assert found.constant == pytest.approx(4 * FEATURES * 200 * (1 + PASSING), rel=0.01)  # it is also the largest
    assert found.sample == pytest.approx(4 * (FEATURES + 200 + COPIES * FEATURES), rel=0.01)
    plain = measure_footprint(wrapped(nn.Linear(FEATURES, 200)), inputs())
    assert plain.constant < 100  # the net's own weight is there anyway


def test_spiking_nets_take_memory_by_their_steps() -> None:
    def sample(steps: int) -> float:
        net = nn.Sequential(nn.Linear(FEATURES, 300), neuron.LIFNode(step_mode="m"), nn.Linear(300, 3))
        model = sr.wrap(net, steps=steps)
        return measure_footprint(model, inputs()).sample - 4 * COPIES * FEATURES

    assert sample(16) == pytest.approx(2 * sample(8), rel=0.05)
    assert sample(8) > 8 * 300 * 4 * 3  # at least the current, the membrane and the spikes of each step


def test_a_measurement_leaves_the_net_alone() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    state = torch.random.get_rng_state()
    measure_footprint(model, tiny_data())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.net.state_dict().items())
    assert all(each.grad is None for each in model.net.parameters())


def test_the_greediest_model_decides_and_processes_share() -> None:
    small = wrapped(Exponential())
    large = wrapped(nn.Linear(FEATURES, 20_000))
    budget = 100 * measure_footprint(large, inputs()).sample / GIB + measure_footprint(large, inputs()).constant / GIB
    assert choose_batch_size([small], inputs(), budget)[0] == 256
    size, about = choose_batch_size([small, large], inputs(), budget)
    assert size == 64
    assert about["bytes_a_sample"] == measure_footprint(large, inputs()).sample
    assert choose_batch_size([large], inputs(), 2 * budget, processes=2)[0] == 64


def system(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_0_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


MEMINFO = "MemTotal:       8000 kB\nMemFree:        100 kB\nMemAvailable:   4000 kB\n"


def test_what_is_free(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert 0 < free_bytes(cpu) < math.inf
    machine = system(tmp_path / "machine", proc__meminfo=MEMINFO)
    assert free_bytes(cpu, machine) == 4000 * 1024

    group = {"proc__meminfo": MEMINFO, "proc__self__cgroup": "0::/user/job\n"}
    limits = {
        "sys__fs__cgroup__user__memory_0_max": "3000000\n",
        "sys__fs__cgroup__user__memory_0_current": "2500000\n",
    }
    second = system(tmp_path / "second", **group, **limits)
    assert free_bytes(cpu, second) == 500_000
    system(second, sys__fs__cgroup__user__memory_0_stat="anon 5\ninactive_file 1000000\n")
    assert free_bytes(cpu, second) == 1_500_000  # files that can be dropped count as free
    system(second, sys__fs__cgroup__user__memory_0_max="max\n")
    assert free_bytes(cpu, second) == 4000 * 1024

    group = {"proc__meminfo": MEMINFO, "proc__self__cgroup": "4:cpu,memory:/away\n3:cpuset:/away\n0::/\n"}
    base = "sys__fs__cgroup__memory__memory_0_"
    first = system(
        tmp_path / "first", **group, **{f"{base}limit_in_bytes": "2000000\n", f"{base}usage_in_bytes": "1900000\n"}
    )
    assert free_bytes(cpu, first) == 100_000


def test_a_run_keeps_the_batch_size_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the batch decides outcomes: a size from what happens to be free must not make a run another one."""
    tasks = [sr.load("torchattacks:PGD", epsilon=[0.05, 0.1]), "clean"]

    def run(**more: Any) -> sr.Report:
        return sr.evaluate(tiny_model(), tiny_data(), tasks, evidence="none", out=tmp_path, **more)

    first = run()
    assert first.run["batch_size"] == first.run["chunk"] == 256
    monkeypatch.setattr(memory, "free_bytes", lambda device: 40_000.0)
    assert sr.evaluate(tiny_model(), tiny_data(), tasks, evidence="none").run["batch_size"] < 256
    (next(tmp_path.rglob("1.npz"))).unlink()
    again = run()
    assert again.run["batch_size"] == 256
    assert again.to_frame().drop(columns="seconds").equals(first.to_frame().drop(columns="seconds"))
    assert run(memory_budget=1e-5).run["batch_size"] == 256
    with pytest.raises(sr.StoreError, match="chunk"):
        run(batch_size=4)


def test_a_budget_named_for_a_resumed_run_counts(tmp_path: Path) -> None:
    """Where outcomes don't depend on the batch, a run may go on in less memory."""

    def plan(**more: Any) -> int:
        settings = EvaluationSettings(**more)
        task = sr.load("pgd", epsilon=0.1)
        return make_plan(tiny_model(), tiny_data(), [task], settings, out=tmp_path).data.batch_size

    sr.evaluate(tiny_model(), tiny_data(), [sr.load("pgd", epsilon=0.1)], evidence="none", out=tmp_path, batch_size=32)
    assert plan() == 32
    assert plan(batch_size=5) == 5
    assert plan(memory_budget=1.0) == 256
    assert plan(memory_budget=1e-6) == 1


def test_the_choice_is_recorded_and_equal_for_equal_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = []
    for free in (2e9, 3e9):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        records.append(sr.evaluate(tiny_model(), tiny_data(), ["clean"], evidence="none").run)
    assert records[0] == records[1]
    about = records[0]["environment"]["memory"]
    assert about["share_of_free"] == 0.5
    assert about["bytes_a_sample"] == measure_footprint(tiny_model(), tiny_data()).sample
    given_size = sr.evaluate(tiny_model(), tiny_data(), ["clean"], evidence="none", batch_size=4).run
    assert given_size["environment"]["memory"] is None
    named = sr.evaluate(tiny_model(), tiny_data(), ["clean"], evidence="none", memory_budget=0.5).run
    assert named["environment"]["memory"]["budget_gib"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory_budget": 0}, "number > 0"),
        ({"memory_budget": math.nan}, "number > 0"),
        ({"memory_budget": "4"}, "number > 0"),
        ({"memory_budget": True}, "number > 0"),
        ({"memory_budget": 1.0, "batch_size": 8}, "batch_size or memory_budget, not both"),
    ],
)
def test_budgets_that_can_not_be_used(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        sr.evaluate(tiny_model(), tiny_data(), ["clean"], **arguments)


def test_a_trial_pass_that_does_not_fit_is_no_error() -> None:
    class Full(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 4:
                raise MemoryError
            return x.exp()

    assert measure_footprint(wrapped(Full()), inputs()).fitting(1e15) == 1
