"""Findings about noise: departures from the domain, and other numbers of steps than in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit.corruption_findings import corruption_findings
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.plugin.task import Task
from snnrobust.results.records import Finding
from snnrobust_attacks.corruptions.bin_width import BinWidth
from snnrobust_attacks.corruptions.gaussian import Gaussian
from snnrobust_attacks.corruptions.spike_deletion import SpikeDeletion
from snnrobust_attacks.corruptions.spike_insertion import SpikeInsertion


@dataclass(frozen=True)
class Careless:
    """Keyed noise on event counts that does not care about their domain."""

    whole: bool

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        noise = severity * rng.on(x).normal(index, x.shape[1:])
        return x + (noise.round() if self.whole else noise)


def run(
    *plugins: Any,
    steps: tuple[int, int] = (6, 6),
    train: bool = True,
    lengths: tuple[list[int], list[int]] | None = None,
    severities: tuple[float, ...] = (0.0, 2.0),
    **settings: Any,
) -> Outcomes:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), neuron.IFNode(step_mode="m"), nn.Linear(8, 3))
    model = sr.wrap(net, name="m", **{"encoder": None, "domain": "binary", **settings})
    sets = {}
    for k, name in enumerate(("test", "train") if train else ("test",)):
        x = torch.bernoulli(torch.full((8, steps[k], 5), 0.5), generator=torch.Generator().manual_seed(k))
        counted = None if lengths is None else torch.tensor(lengths[k] * 4)
        sets[name] = Dataset.of(x, torch.arange(8) % 3, lengths=counted, name=name)
    tasks = [Task(f"n{k}", f"n{k}", "noise", "", plugin, severities, draws=2) for k, plugin in enumerate(plugins)]
    return sr.evaluate(model, sets, tasks, evidence="none").outcomes


def named(outcomes: Outcomes, name: str) -> list[Finding]:
    return [each for each in corruption_findings(outcomes, "m") if each.name == name]


@pytest.mark.parametrize("whole", [False, True])
def test_noise_that_leaves_the_domain_is_found(whole: bool) -> None:
    (finding,) = named(run(Careless(whole)), "corruption-domain")
    assert finding.passed is False
    assert finding.value > 0.2
    assert finding.label == "n0"
    assert "at severity 2" in finding.why


def test_legal_noise_passes_and_noise_on_real_numbers_is_not_asked() -> None:
    good = named(run(SpikeDeletion(), SpikeInsertion(), severities=(0.0, 0.5)), "corruption-domain")
    assert [each.passed for each in good] == [True, True]
    assert named(run(Gaussian(), domain="real"), "corruption-domain") == []


def test_test_data_of_another_length_is_found() -> None:
    (finding,) = named(run(steps=(6, 4)), "steps-mismatch")
    assert (finding.passed, finding.value, finding.label) == (False, 2.0, "")
    assert "test data (6 steps)" in finding.why
    assert "training data (4)" in finding.why
    (same,) = named(run(steps=(6, 6)), "steps-mismatch")
    assert same.passed is True
    assert named(run(train=False), "steps-mismatch") == []  # nothing to compare with


def test_padded_sequences_are_compared_by_their_lengths() -> None:
    (inside,) = named(run(lengths=([3, 5], [2, 6])), "steps-mismatch")
    assert inside.passed is True
    (longer,) = named(run(lengths=([3, 6], [2, 4])), "steps-mismatch")
    assert (longer.passed, longer.value) == (False, 2.0)


@pytest.mark.parametrize("train", [True, False])
def test_a_corruption_that_changes_the_number_of_steps_is_found(train: bool) -> None:
    outcomes = run(BinWidth(keep_steps=False), BinWidth(), SpikeDeletion(), train=train, severities=(0.0, 1.0))
    assert all(each.passed for each in named(outcomes, "steps-mismatch"))  # bins of one step change nothing
    wide = run(BinWidth(keep_steps=False), BinWidth(), train=train, severities=(0.0, 3.0))
    found = {each.label: each for each in named(wide, "steps-mismatch")}
    assert found.keys() == ({"", "n0"} if train else {"n0"})
    assert (found["n0"].passed, found["n0"].value) == (False, 4.0)  # 2 steps of 6
    assert "(2 to 6 steps)" in found["n0"].why


def test_static_data_has_no_steps() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), neuron.IFNode(step_mode="m"), nn.Linear(8, 3))
    sets = {"test": Dataset.of(torch.rand(8, 5), torch.arange(8) % 3, name="t")}
    noise = Task("n0", "n0", "noise", "", Gaussian(), (0.1,), draws=2)
    outcomes = sr.evaluate(sr.wrap(net, name="m", steps=3), sets, [noise], evidence="none").outcomes
    assert corruption_findings(outcomes, "m") == []
    assert not outcomes.cell("m", "n0", 0)["steps"].any()


def test_runs_of_earlier_versions_are_read() -> None:
    outcomes = run(Careless(True))
    read = outcomes.cells

    def old(model: str, label: str) -> list[dict[str, Any]]:
        return [{name: each[name] for name in ("fraction", "forwards", "backwards")} for each in read(model, label)]

    outcomes.cells = old  # type: ignore[method-assign]
    del outcomes.run["steps"]
    assert corruption_findings(outcomes, "m") == []
