"""Cells of noise: padding, numbers of steps, departures from the domain, noise inside the net."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.random import Draws
from snnrobust.data import Dataset
from snnrobust.plugin.task import Task
from snnrobust_attacks.corruptions.bin_width import BinWidth
from snnrobust_attacks.corruptions.hidden_noise import HiddenNoise
from snnrobust_attacks.corruptions.spike_deletion import SpikeDeletion
from snnrobust_attacks.corruptions.truncation import Truncation

COUNT, STEPS = 30, 6


@dataclass(frozen=True)
class Plus:
    """Adds a constant to every entry, without a look at the domain."""

    amount: float
    deterministic: ClassVar[bool] = True

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        return x + severity * self.amount


@dataclass(frozen=True)
class Seen:
    """Records what it gets, changes nothing."""

    name: str = "seen"
    shapes: ClassVar[list[tuple[int, ...]]] = []

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return x

    @contextmanager
    def on(self, model: Any, severity: float, rng: Draws, index: Tensor) -> Iterator[None]:
        self.shapes.append(tuple(index.tolist()))
        yield


@dataclass(frozen=True)
class Longer:
    """Twice the steps, without saying so."""

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        return torch.cat([x, x], dim=1)


def inputs() -> Tensor:
    return torch.randint(0, 3, (COUNT, STEPS, 5), generator=torch.Generator().manual_seed(0)).float()


def model(**settings: Any) -> sr.SpikingModel:
    """A net without silent outputs, centred so that it uses all three classes."""
    torch.manual_seed(0)
    last = nn.Linear(16, 3)
    net = nn.Sequential(nn.Linear(5, 16), neuron.IFNode(step_mode="m"), last)
    found = sr.wrap(net, name="m", **{"encoder": None, "domain": "integer", "bounds": (0, 4), **settings})
    with torch.no_grad():
        last.weight.copy_(torch.randn(3, 16))
        last.bias.sub_(found.logits(inputs()).mean(dim=0))
    return found


def data(lengths: bool = False) -> Dataset:
    x, net = inputs(), model()
    each = torch.randint(2, STEPS + 1, (COUNT,), generator=torch.Generator().manual_seed(1)) if lengths else None
    if each is not None:
        x = x * (torch.arange(STEPS)[:, None] < each[:, None, None])
    y = net.logits(x, lengths=each).argmax(dim=1)
    assert len(set(y.tolist())) == 3
    return Dataset.of(x, y, lengths=each, name="toy")


def cells(plugin: Any, of: Dataset, *severities: float, draws: int = 3, **settings: Any) -> list[dict[str, Any]]:
    task = Task("noise", "noise", "noise", "", plugin, severities, draws=draws)
    report = sr.evaluate(model(**settings), of, [task], evidence="none")
    return [report.cell("m", "noise", k) for k in range(len(severities))]


@pytest.mark.parametrize("lengths", [False, True])
def test_a_cell_equals_the_draws_one_by_one(lengths: bool) -> None:
    of = data(lengths)
    cell = cells(SpikeDeletion(), of, 0.4)[0]
    right = np.zeros(COUNT)
    net = model()
    for draw in range(3):
        for i in range(COUNT):
            one = of.select([i])
            steps = STEPS if one.lengths is None else int(one.lengths)
            rng = Draws(0, "noise").sub("0.4", draw)
            noisy = SpikeDeletion().apply(one.x[:, :steps], 0.4, rng, one.index)
            right[i] += int(net.predict(net.logits(noisy)) == one.y)
    assert np.allclose(cell["fraction"], right / 3)
    assert 0 < cell["fraction"].mean() < 1
    assert cell["steps"].tolist() == ([STEPS] * COUNT if of.lengths is None else of.lengths.tolist())
    assert not cell["outside"].any()
    assert cell["forwards"].tolist() == [3] * COUNT


def test_padding_is_neither_seen_nor_changed() -> None:
    of = data(lengths=True)
    Seen.shapes.clear()
    cells(Seen(), of, 0.5, draws=1)
    assert of.lengths is not None
    inputs = [shape for shape in Seen.shapes if len(shape) == 3 and shape[2] == 5]
    assert sorted((n, t) for n, t, _ in inputs) == sorted(
        (int((of.lengths == t).sum()), t) for t in set(of.lengths.tolist())
    )
    assert tuple(of.index.tolist()) in Seen.shapes  # of all samples, in the order of the batch


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(("plugin", "severity"), [(Truncation(), 0.5), (BinWidth(keep_steps=False, high=4.0), 2.0)])
def test_other_numbers_of_steps(plugin: Any, severity: float, lengths: bool) -> None:
    of, net = data(lengths), model()
    unchanged, cell = cells(plugin, of, 0.0, severity)
    assert unchanged["fraction"].all()
    right, steps = [], []
    for i in range(COUNT):
        one = of.select([i])
        whole = one.x if one.lengths is None else one.x[:, : int(one.lengths)]
        noisy = plugin.apply(whole, severity, Draws(0, "noise"), one.index)
        steps.append(noisy.shape[1])
        right.append(float(net.predict(net.logits(noisy)) == one.y))
    assert cell["steps"].tolist() == steps
    assert cell["fraction"].tolist() == right
    assert 0 < np.mean(right) < 1
    assert cell["forwards"].tolist() == [1] * COUNT  # no random numbers: one draw says it all


def test_other_shapes_that_were_not_announced_are_violations() -> None:
    with pytest.raises(sr.ViolationError, match=r"from 'noise', got shape \(30, 12, 5\) for inputs \(30, 6, 5\)"):
        cells(Longer(), data(), 0.5)
    with pytest.raises(sr.ViolationError, match="NaN for sample 0"):
        cells(Plus(float("nan")), data(), 0.5)


def test_departures_from_the_domain_are_counted_then_clipped_and_rounded() -> None:
    of = data()
    up, down = cells(Plus(3.0), of, 1.0)[0], cells(Plus(-1.0), of, 1.0)[0]
    assert up["outside"].mean() == pytest.approx(float((of.x > 1).float().mean()))
    assert down["outside"].mean() == pytest.approx(float((of.x < 1).float().mean()))
    net = model()
    clipped = net.predict(net.logits((of.x - 1).clamp(min=0))) == of.y
    assert down["fraction"].tolist() == clipped.float().tolist()
    part = cells(Plus(0.25), of, 0.0, 1.0)
    assert not part[0]["outside"].any()
    assert part[1]["outside"].all()
    assert part[1]["fraction"].tolist() == part[0]["fraction"].tolist()  # rounded back
    assert not cells(Plus(1.0), of, 1.0)[0]["outside"].any()  # control: 3 is a count within the bounds
    assert cells(Plus(0.25), of, 1.0, domain="real")[0]["outside"].max() == 0


def test_noise_inside_the_net_is_averaged_over_draws() -> None:
    of, net = data(), model()
    none, cell = cells(HiddenNoise("1"), of, 0.0, 0.6)
    assert none["fraction"].all()
    right = torch.zeros(COUNT)
    with torch.no_grad():
        for draw in range(3):
            with HiddenNoise("1").on(net, 0.6, Draws(0, "noise").sub("0.6", draw), of.index):
                right += net.predict(net.logits(of.x, keys=of.index)) == of.y
    assert np.allclose(cell["fraction"], right.numpy() / 3)
    assert 0 < cell["fraction"].mean() < 1


@pytest.mark.parametrize("plugin", [SpikeDeletion(), HiddenNoise("1"), HiddenNoise("1", "membrane")], ids=repr)
def test_the_batch_size_does_not_matter(plugin: Any) -> None:
    of = data(lengths=True)
    task = Task("noise", "noise", "noise", "", plugin, (0.5,), draws=2)
    found = [
        sr.evaluate(model(), of, [task], evidence="none", batch_size=size).cell("m", "noise", 0) for size in (7, 30)
    ]
    assert found[0]["fraction"].tolist() == found[1]["fraction"].tolist()
