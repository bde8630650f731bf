"""What tests of attacks that are fitted or draw patterns share: a net that tells moving bars apart, and a stub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

import snnrobust as sr
from snnrobust.common.statistics import mcnemar
from snnrobust.data import Dataset
from snnrobust.plugin.task import AttackSettings, Task
from snnrobust.threat_models.threat_model import ThreatModel
from snnrobust.threat_models.verify import verify


@dataclass(frozen=True)
class Bars:
    """A trained net and splits of bars that move in four directions, [N, 8, 2, 10, 10]."""

    model: sr.SpikingModel
    splits: dict[str, Dataset]

    def attack(self, plugin: Any, epsilon: float, norm: str = "l0", seed: int = 0) -> Any:
        """The examples of an attack on the samples that the net gets right without one."""
        factors = AttackSettings(norm, sr.create("margin"), sr.create("own"), 1, 1)  # type: ignore[arg-type]
        task = Task("attack", "attack", "attack", "test", plugin, (epsilon,), factors)
        return sr.attack(self.model, self.splits, task, seed=seed, progress=False)

    def broken(self, x: Tensor, y: Tensor) -> np.ndarray:
        """Which inputs the net gets wrong."""
        with torch.no_grad(), self.model.session():
            wrong: np.ndarray = (self.model.predict(self.model.logits(x)) != y).numpy()
        return wrong


def bars_in_motion(count: int, seed: int, steps: int = 8, size: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=generator)
    start, place = torch.randint(size, (count, 1), generator=generator), torch.arange(size)
    way = torch.where(y % 2 == 0, 1, -1)[:, None]
    at = (start + way * torch.arange(steps)) % size  # (N, T)
    on, off = (place == at[..., None]).float(), (place == (at - way)[..., None] % size).float()  # (N, T, size)
    along = ((place >= 2) & (place < 8)).float()
    lines = torch.stack([on, off], dim=2)[..., None] * along  # (N, T, 2, size, size): rows
    x = torch.where((y < 2)[:, None, None, None, None], lines, lines.transpose(3, 4))
    x = x * (torch.rand(x.shape, generator=generator) < 0.8)
    return torch.maximum(x, (torch.rand(x.shape, generator=generator) < 0.02).float()), y


@pytest.fixture(scope="session")
def bars() -> Bars:
    x, y = bars_in_motion(200, 0)
    generator = torch.Generator().manual_seed(0)

    def lif() -> neuron.LIFNode:
        return neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(), step_mode="m")

    net = nn.Sequential(nn.Flatten(2), nn.Linear(200, 32), lif(), nn.Linear(32, 4), lif())
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(8):
        for part in torch.randperm(len(x), generator=generator).split(40):
            functional.reset_net(net)
            loss = nn.functional.cross_entropy(5 * net(x[part].transpose(0, 1)).mean(0), y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    functional.reset_net(net)
    net.eval().requires_grad_(False)
    model = sr.wrap(net, encoder=None, domain="binary", name="bars")
    test = Dataset.of(*bars_in_motion(130, 1), name="test bars")
    with torch.no_grad():
        right = (model.predict(model.logits(test.x)) == test.y).nonzero()[:100, 0]
    assert len(right) == 100
    validation = Dataset.of(*bars_in_motion(100, 2), name="validation bars")
    return Bars(model, {"test": test.select(right), "validation": validation})


def flips_elsewhere(x: Tensor, changed: Tensor, among: Tensor, seed: int = 0) -> Tensor:
    """As many random additions and deletions in each sample as `changed` has, at entries of the mask `among` [N, *]."""
    generator, found = torch.Generator().manual_seed(seed), x.clone().flatten(1)
    for value in (1.0, 0.0):
        wanted = ((changed != x) & (changed == value)).flatten(1).sum(dim=1, keepdim=True)
        free = (among & (x != value)).flatten(1)
        order = torch.where(free, torch.rand(free.shape, generator=generator), 2.0).argsort(dim=1).argsort(dim=1)
        found = torch.where(free & (order < wanted), value, found)
    return found.reshape(x.shape)


@pytest.fixture(scope="session")
def random_control() -> Callable[..., Tensor]:
    """Makes random flips of the same realised budget."""
    return flips_elsewhere


@pytest.fixture(scope="session")
def beats() -> Callable[[np.ndarray, np.ndarray], bool]:
    """Whether the first attack breaks more samples than the second, in an exact McNemar test at 1 %."""

    def judge(first: np.ndarray, second: np.ndarray) -> bool:
        return bool(first.sum() > second.sum()) and mcnemar(~second, ~first).greater < 0.01

    return judge


class RandomOracle:
    """Answers with random numbers, and checks that queries are about allowed inputs."""

    def __init__(self, x: Tensor, threat: ThreatModel, seed: int, static: bool = False, dead: bool = False) -> None:
        self._x, self._threat, self.static, self._dead = x, threat, static, dead
        self._generator = torch.Generator().manual_seed(seed)
        self.asked = 0

    def logits(self, x: Tensor, index: Tensor, query: Any = 0) -> Tensor:
        self.asked += 1
        verify(x, self._x[index], self._threat, index.tolist(), "query")
        return torch.randn(len(x), 3, generator=self._generator)

    def value(self, x: Tensor, y: Tensor, index: Tensor, query: Any = 0) -> tuple[Tensor, Tensor]:
        logits = self.logits(x, index)
        return -logits.gather(1, y[:, None])[:, 0], logits

    def gradient(self, x: Tensor, y: Tensor, index: Tensor, query: Any = 0) -> tuple[Tensor, Tensor, Tensor]:
        objective, logits = self.value(x, y, index)
        gradient = torch.zeros_like(x) if self._dead else torch.randn(x.shape, generator=self._generator)
        return gradient, objective, logits


@pytest.fixture(scope="session")
def random_oracle() -> type[RandomOracle]:
    return RandomOracle
