"""What tests of evaluations share: a net whose boundary is known, and the outcomes of an attack at all its radii."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snnrobust as sr
from snnrobust.data import Dataset


@pytest.fixture(scope="session")
def line() -> Callable[..., tuple[sr.SpikingModel, Dataset]]:
    """Makes a linear net of two classes, and a sample at each distance from its boundary, in L-inf: |w x| / |w|_1."""

    def make(
        distances: Any, gap: Sequence[float] = (1.0,), dtype: torch.dtype = torch.float32
    ) -> tuple[sr.SpikingModel, Dataset]:
        layer = nn.Linear(len(gap), 2, bias=False).to(dtype)
        weight = torch.tensor(gap, dtype=dtype)
        layer.weight.data = torch.stack([weight, -weight])
        x = (torch.as_tensor(np.asarray(distances))[:, None] * weight.sign()).float()
        data = Dataset.of(x, torch.zeros(len(x), dtype=torch.long))
        return sr.wrap(layer, layout="N", bounds=(-10.0, 10.0), name="line"), data

    return make


@pytest.fixture(scope="session")
def cells() -> Callable[[sr.Report, str], dict[str, np.ndarray]]:
    """Stacks every array of an attack on the first model over its radii, [strength, ...]."""

    def stack(report: sr.Report, label: str) -> dict[str, np.ndarray]:
        found = [report.cell(report.models[0], label, k) for k in range(len(report.task(label)["strengths"]))]
        return {name: np.stack([each[name] for each in found]) for name in found[0]}

    return stack
