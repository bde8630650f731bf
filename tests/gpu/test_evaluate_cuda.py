"""A whole evaluation on a CUDA device, against the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import snnrobust as sr
from snnrobust.testing.tiny import tiny_data, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_cuda() -> sr.SpikingModel:
    return sr.wrap(copy.deepcopy(tiny_model().net).to("cuda"), steps=4, name="tiny")


def test_logits_agree_with_the_cpu() -> None:
    data = tiny_data(count=40)
    assert torch.allclose(on_cuda().logits(data.x).cpu(), tiny_model().logits(data.x), atol=1e-6)


@pytest.mark.parametrize("gradient", ["own", "atan"])
def test_robust_accuracy_agrees_with_the_cpu(gradient: str) -> None:
    """Float rounding may change single samples; more than one in forty is an error."""
    data = tiny_data(count=40)
    tasks = [
        sr.load("pgd", epsilon=[0.0, 0.05, 0.1], steps=5, gradient=gradient),
        sr.load("gaussian", severity=[0.1, 0.3]),
        "activity",
    ]
    here, there = sr.evaluate(tiny_model(), data, tasks), sr.evaluate(on_cuda(), data, tasks)
    assert int((here.robust("pgd") != there.robust("pgd")).any(axis=0).sum()) <= 1
    assert np.allclose(here.curve("gaussian").value, there.curve("gaussian").value, atol=0.01)


def test_the_global_generators_of_the_device_are_put_back() -> None:
    data = tiny_data(count=20)
    before = torch.cuda.get_rng_state()
    model = sr.wrap(on_cuda().net, steps=4, stochastic=True, name="declared")
    sr.evaluate(model, data, [sr.load("pgd", epsilon=0.1, steps=2, eot=2)])
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_an_ensemble_and_its_evidence_agree_with_the_cpu() -> None:
    data = tiny_data(count=40)
    task = sr.load("standard", epsilon=0.1, steps=5, queries=20)
    here, there = (sr.evaluate(model, data, [task], evidence="full") for model in (tiny_model(), on_cuda()))
    assert int((here.robust("standard") != there.robust("standard")).sum()) <= 1
    assert not [each for each in there.findings if each.passed is False and each.fatal]
