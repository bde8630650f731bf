"""The conformance check on corruptions that pass it and on others that must not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import InputError, PluginError
from snnrobust.testing.corruptions import check_corruption


@dataclass(frozen=True)
class Contrast:
    """Contrast towards grey, without random numbers."""

    deterministic: ClassVar[bool] = True

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        return x if severity == 0 else 0.5 + (1 - severity) * (x - 0.5)


class Undeclared(Contrast):
    """The same without `deterministic = True`."""

    deterministic = False


class FixedNoise(Contrast):
    """Noise from its own generator: the same for every stream."""

    deterministic = False

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        return x + severity * torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0))


class Liar(Contrast):
    """Draws in spite of `deterministic = True`."""

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        return x + severity * rng.on(x).uniform(index, x.shape[1:])


def test_a_deterministic_corruption_conforms() -> None:
    check_corruption("contrast", Contrast())


@pytest.mark.parametrize("plugin", [Undeclared(), FixedNoise()], ids=lambda plugin: type(plugin).__name__)
def test_noise_that_ignores_its_stream_is_caught(plugin: Contrast) -> None:
    with pytest.raises(PluginError, match="other noise for another stream, or deterministic = True"):
        check_corruption("fixed", plugin)


def test_a_corruption_that_says_it_is_deterministic_and_is_not_is_caught() -> None:
    with pytest.raises(PluginError, match="since deterministic = True"):
        check_corruption("liar", Liar())


@dataclass(frozen=True)
class Events:
    """Noise on spikes and event counts that adds `amount` events at random; cut at `high`, and at 0."""

    amount: float
    high: float
    changes_steps: ClassVar[bool] = False

    def check(self, model: Any, data: Any, task: Any) -> None:
        if model.domain == "real":
            raise InputError("expected events, got real numbers; use others")

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        added = self.amount * (rng.on(x).uniform(index, x.shape[1:]) < severity)
        return x if severity == 0 else (x + added).clamp(min=-9 if self.amount < 0 else 0, max=self.high)


class Binary(Events):
    """The same on binary data alone."""

    def check(self, model: Any, data: Any, task: Any) -> None:
        if model.domain != "binary":
            raise InputError("expected binary data, got counts; use others")


class InPlace(Binary):
    """Changes what it is given."""

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        noisy = super().apply(x, severity, rng, index)
        return x if severity == 0 else x.copy_(noisy)


class Shorter(Binary):
    """Loses its last step."""

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        return super().apply(x, severity, rng, index)[:, : -1 if severity else None]


class Announced(Shorter):
    """The same, and says so."""

    changes_steps = True


def test_legal_event_noise_conforms() -> None:
    check_corruption("events", Binary(1.0, 1.0))
    check_corruption("events", Announced(1.0, 1.0))


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Binary(0.5, 1.0), "whole numbers in domain 'binary'"),
        (Binary(1.0, 9.0), r"counts within .* in domain 'binary'.* got counts in \(0.0, 2.0\)"),
        (Binary(-1.0, 9.0), r"counts within .* got counts in \(-1.0, 1.0\)"),
        (Events(1.0, 9.0), "counts within"),
        (InPlace(1.0, 1.0), "not changed in place"),
        (Shorter(1.0, 1.0), "expected shape"),
    ],
    ids=repr,
)
def test_illegal_event_noise_is_caught(plugin: Events, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        check_corruption("events", plugin)


@dataclass(frozen=True)
class Inside(Contrast):
    """Noise on the net's last bias; `keyed` by the stream, and `undone` afterwards."""

    deterministic = False
    keyed: bool = True
    undone: bool = True

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        return x

    @contextmanager
    def on(self, model: Any, severity: float, rng: Draws, index: Tensor) -> Iterator[None]:
        ids = index if self.keyed else index * 0 + len(index)
        hook = model.net[3].register_forward_hook(
            lambda module, args, out: out + severity * 9 * rng.on(out).normal(ids, out.shape[2:])
        )
        try:
            yield
        finally:
            if self.undone:
                hook.remove()


def test_noise_within_the_net_is_checked_by_its_outputs() -> None:
    check_corruption("inside", Inside())
    with pytest.raises(PluginError, match="does not depend on the batch"):
        check_corruption("inside", Inside(keyed=False))
    with pytest.raises(PluginError):
        check_corruption("inside", Inside(undone=False))
