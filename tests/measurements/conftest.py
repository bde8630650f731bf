"""Fixtures for measurements: a net that is called step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from spikingjelly.activation_based import neuron
from torch import nn


class Steps(nn.Sequential):
    """A net that is called step by step."""


@pytest.fixture(scope="session")
def step_by_step() -> Callable[[nn.Sequential], nn.Sequential]:
    """Makes a net that takes all steps at once into one that is called step by step."""

    def make(net: nn.Sequential) -> nn.Sequential:
        single = Steps(*net)
        for module in single:
            if isinstance(module, neuron.BaseNode):
                module.step_mode = "s"
        return single

    return make
