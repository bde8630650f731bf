"""The same start for every test: idle threads sleep, Hypothesis is deterministic, global generators are seeded.

Environment variables are set before torch is imported. `--hypothesis-profile=explore` draws new examples.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core per worker

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

_NO_CLOCK: Any = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}  # shared machines are slow at times
settings.register_profile("same", derandomize=True, database=None, **_NO_CLOCK)
settings.register_profile("explore", print_blob=True, **_NO_CLOCK)
settings.load_profile("same")


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # third-party nets and data draw from the global generator
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collectstart() -> None:
    """Modules draw the same numbers at import, in any order of imports."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """A fixture has the same numbers, whichever test uses it first."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """A test draws the same numbers, in any order of tests."""
    _seed()
