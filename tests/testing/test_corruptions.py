"""The conformance check on corruptions that pass it and on others that must not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from snnrobust.common.random import Draws
from snnrobust.errors import PluginError
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
