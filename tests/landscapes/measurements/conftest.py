"""Fixtures for landscape measurements: small nets, nets that can't be measured, random samples, and records."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import EvaluationData, prepare
from snnrobust.results.artifacts import Artifact
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Record
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_landscapes.validity import evidence
from snnrobust_landscapes.validity.evidence import CurvatureWarning


class DoubledGradient(torch.autograd.Function):
    """The identity with twice the gradient, which can't be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class OnceDifferentiable(nn.Sequential):
    """The same net with a backward pass that can't be differentiated."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = DoubledGradient.apply(super().forward(x))
        return out


class Detached(nn.Sequential):
    """The same net without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x).detach()
        return out


@pytest.fixture
def short_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shortens plateaus, which have their own tests, and mutes warnings of curvature that does not predict the loss."""
    monkeypatch.setattr(evidence, "plateau", partial(evidence.plateau, directions=1, points=5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CurvatureWarning)  # most of these nets are too small
        yield


@pytest.fixture(scope="session")
def lif_net() -> Callable[..., nn.Sequential]:
    """Makes nets of one layer of LIF nodes between two linear ones, with weights from a seed."""

    def make(sizes: tuple[int, int, int] = (5, 6, 3), alpha: float = 2.0, seed: int = 0) -> nn.Sequential:
        values, hidden, classes = sizes
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Linear(values, hidden),
                neuron.LIFNode(surrogate_function=surrogate.ATan(alpha), v_threshold=0.3, step_mode="m"),
                nn.Linear(hidden, classes),
            )

    return make


@pytest.fixture(scope="session")
def conv_net() -> Callable[..., nn.Sequential]:
    """Makes nets of a convolution, batch norm, LIF nodes and a linear layer, for images of 6 x 6 and 4 classes."""

    def layers() -> nn.Sequential:
        return nn.Sequential(
            layer.Conv2d(1, 3, 3, step_mode="m"),
            layer.BatchNorm2d(3, step_mode="m"),
            neuron.LIFNode(step_mode="m", v_threshold=0.2),
            nn.Flatten(2),
            nn.Linear(3 * 4 * 4, 4),
        )

    def make(seed: int | None = None) -> nn.Sequential:
        if seed is None:
            return layers()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return layers()

    return make


@pytest.fixture
def spiking(lif_net: Callable[..., nn.Sequential]) -> Callable[[], SpikingModel]:
    """Makes a spiking model in float64."""
    return lambda: wrap(lif_net().double(), name="lif", steps=3)


@pytest.fixture
def smooth() -> Callable[[], SpikingModel]:
    """Makes a model without spikes in float64."""

    def make() -> SpikingModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        return wrap(net.double(), name="smooth", layout="N")

    return make


@pytest.fixture(scope="session")
def unmeasurable() -> Callable[..., nn.Module]:
    """Makes a net that can't be measured, for a reason, from one whose last layer is linear."""

    def make(reason: str, net: nn.Sequential) -> nn.Module:
        if reason == "infinite":
            with torch.no_grad():
                net[-1].bias.fill_(torch.nan)
            return net
        if reason == "no parameters":
            return neuron.LIFNode(step_mode="m")
        return {"once differentiable": OnceDifferentiable, "detached": Detached}[reason](*net)

    return make


@pytest.fixture(scope="session")
def random_data() -> Callable[..., EvaluationData]:
    """Makes random samples, used as both test and training data."""

    def make(n: int, shape: tuple[int, ...], classes: int, batch_size: int, seed: int = 1) -> EvaluationData:
        generator = torch.Generator().manual_seed(seed)
        train = torch.rand(n, *shape, generator=generator), torch.randint(classes, (n,), generator=generator)
        return prepare({"test": train, "train": train}, batch_size)

    return make


@pytest.fixture
def data(random_data: Callable[..., EvaluationData]) -> Callable[..., EvaluationData]:
    """Makes samples for `spiking` and `smooth`."""
    return lambda n=24, batch_size=64: random_data(n, (5,), 3, batch_size)


@pytest.fixture
def measured(data: Callable[..., EvaluationData]) -> Callable[..., list[Record | Artifact]]:
    """Measures a model, by default on samples of `data`."""

    def measure(
        plugin: Any,
        model: SpikingModel,
        evaluation: EvaluationData | None = None,
        checkpoint: MeasurementCheckpoint | None = None,
        rng: Draws | None = None,
    ) -> list[Record | Artifact]:
        return list(
            plugin.measure(model, evaluation or data(), rng or Draws(0, "task"), checkpoint or MeasurementCheckpoint())
        )

    return measure


@pytest.fixture(scope="session")
def by_metric() -> Callable[..., dict[str, Record]]:
    """Records of a layer or of the whole net by metric; validity at the last radius."""

    def sort(found: list[Record | Artifact], where: str = "") -> dict[str, Record]:
        records = [each for each in found if isinstance(each, Record)]
        return {each.metric: each for each in records if each.layer == where}

    return sort
