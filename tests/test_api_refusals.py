"""Bad input is refused early, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import snnrobust as sr
from snnrobust.evaluation import execute
from snnrobust.testing.tiny import tiny_data, tiny_model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "bisection"}, "expected mode in"),
        ({"evidence": "plenty"}, "expected evidence in"),
        ({"seed": -1}, "expected seed"),
        ({"batch_size": 0}, "expected batch_size"),
        ({"batch_size": True}, "expected batch_size"),
        ({"tasks": None}, "list of tasks"),
        ({"tasks": 5}, "list of tasks"),
        (
            {
                "model": sr.wrap(nn.Linear(4, 3), layout="N"),
                "data": (torch.rand(3, 4), torch.arange(3)),
                "tasks": [sr.load("pgd", epsilon=0.1, gradient="atan")],
            },
            "spikes that can be swapped",
        ),
        ({"model": sr.wrap(tiny_model().net, steps=4, normalize=([0.1, 0.2], [1.0, 1.0]))}, "channels"),
        (
            {"data": {"test": tiny_data(), "train": (torch.rand(3, 1, 5, 5), torch.zeros(3, dtype=torch.long))}},
            "inputs of shape",
        ),
        ({"tasks": ["pgdd"]}, "did you mean 'pgd'"),
        ({"tasks": [3]}, "expected tasks"),
        ({"tasks": [sr.load("gaussian", severity=0.1), sr.load("gaussian", severity=0.2)]}, "label once"),
        ({"model": tiny_model().net}, "wrap each net with sr.wrap"),
        ({"model": {}}, "at least one model"),
        ({"data": {"train": None}}, "'test' split"),
        ({"data": {"test": None}}, "None"),
        ({"data": {"tset": None}}, "splits among"),
        ({"data": 3}, "Dataset"),
        ({"data": (torch.rand(0, 1, 4, 4), torch.zeros(0, dtype=torch.long))}, "at least one sample"),
        ({"data": (torch.rand(3, 1, 4, 4) * torch.nan, torch.zeros(3, dtype=torch.long))}, "finite"),
        ({"data": (torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 3]))}, "below 3"),
        ({"data": (torch.rand(3, 1, 4, 4), torch.tensor([0, 1, -1]))}, "labels from 0"),
        ({"data": (torch.rand(3, 1, 4, 4), torch.zeros(3))}, "int64"),
        ({"data": (torch.rand(3, 1, 4, 4), torch.zeros(2, dtype=torch.long))}, "expected"),
        ({"data": (torch.rand(3, 1, 5, 5), torch.zeros(3, dtype=torch.long))}, "to take inputs of shape"),
        ({"data": (torch.rand(3, 1, 4, 4) + 1, torch.zeros(3, dtype=torch.long))}, "within the bounds"),
        ({"tasks": ["plane"]}, "training data"),
        ({"tasks": [sr.load("spike-deletion", severity=0.1)]}, "expected"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    forbid: Callable[..., None], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    forbid(execute._ModelRun, "run", "an evaluation started")
    given = {"model": tiny_model(), "data": tiny_data(), "tasks": ["clean"], "out": tmp_path / "out", **arguments}
    with pytest.raises(sr.SnnRobustError, match=message) as caught:
        sr.evaluate(given.pop("model"), given.pop("data"), given.pop("tasks"), **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
