"""Typed fields of records of format 3, from literal records that the former version stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from snnrobust.results.format_3 import upgrade_record
from snnrobust.results.records import Record

SMOOTHED = "Hessian of the loss smoothed at sigma 0.03"
NOISE = "eigenvalues noise of 1,200 draws in 25,450 weights"
GAUSS_NEWTON = {"operator": "Gauss-Newton matrix", "space": "weights", "symmetric": True, "draw_noise": False}
FORMAL = GAUSS_NEWTON | {"operator": "formal surrogate Hessian", "variant": "", "layer": ""}

#: metric, threat -> the typed fields.
OLD: list[tuple[str, str, dict[str, Any]]] = [
    ("robust_accuracy", "linf", {"quantity": "robust_accuracy"}),
    ("synops", "SpikingJelly op_counter: layers with binary input accumulate, others multiply", {"quantity": "synops"}),
    ("firing_rate:net.0.lif", "", {"quantity": "firing_rate", "layer": "net.0.lif"}),
    ("near_threshold:2", "|u - threshold| < 0.01 threshold", {"quantity": "near_threshold", "layer": "2"}),
    ("surrogate_active:", "own surrogate", {"quantity": "surrogate_active", "layer": ""}),
    ("eigenvalue:3", "formal surrogate Hessian", FORMAL | {"quantity": "eigenvalue", "rank": 3}),
    (
        "eigenvalue:1",
        "Gauss-Newton matrix, own surrogates, exact spectrum, layer conv.0",
        GAUSS_NEWTON
        | {"quantity": "eigenvalue", "rank": 1, "variant": "own surrogates, exact spectrum", "layer": "conv.0"},
    ),
    (
        "trace",
        "Gauss-Newton matrix, spikes blurred by moves of 0.1, layer of the net itself",
        GAUSS_NEWTON | {"quantity": "trace", "variant": "spikes blurred by moves of 0.1", "layer": "the net itself"},
    ),
    (
        "imaginary:2",
        "Jacobian of the surrogate-gradient field, not symmetric, inputs",
        {
            "quantity": "imaginary",
            "rank": 2,
            "operator": "Jacobian of the surrogate-gradient field",
            "variant": "not symmetric",
            "space": "inputs",
            "layer": "",
            "symmetric": False,
            "draw_noise": False,
        },
    ),
    (
        "eigenvalue_max:1",
        f"{SMOOTHED}, {NOISE}, inputs",
        {
            "quantity": "eigenvalue_max",
            "rank": 1,
            "operator": SMOOTHED,
            "variant": NOISE,
            "space": "inputs",
            "layer": "",
            "symmetric": True,
            "draw_noise": True,
        },
    ),
    (
        "validity_slope:leading",
        "formal surrogate Hessian",
        FORMAL | {"quantity": "validity_slope", "directions": "leading"},
    ),
    ("asymmetry", "formal surrogate Hessian", FORMAL | {"quantity": "asymmetry"}),
    ("relaxation_gap:loss", "formal surrogate Hessian", FORMAL | {"quantity": "relaxation_gap"}),
    ("plateau_width", "loss in the hidden weights", {"quantity": "plateau_width", "space": "weights"}),
    (
        "sharpness:one_step",
        "true loss along surrogate gradients",
        {"quantity": "sharpness", "search": "one_step", "space": "weights"},
    ),
    (
        "sharpness:random_max",
        "true loss along random directions, inputs",
        {"quantity": "sharpness", "search": "random_max", "space": "inputs"},
    ),
    ("loss_rise", "line of direction: random, inputs", {"quantity": "loss_rise", "space": "inputs"}),
    ("loss", "filter-normalised random plane", {"quantity": "loss", "space": "weights"}),
    ("barrier", "straight line between checkpoints", {"quantity": "barrier", "space": "weights"}),
    ("weight_norm:fc", "", {"quantity": "weight_norm"}),  # of a third-party plugin
    ("eigenvalue:first", "matrix", GAUSS_NEWTON | {"quantity": "eigenvalue", "rank": 0, "operator": "matrix"}),
]


@pytest.mark.parametrize(("metric", "threat", "expected"), OLD)
def test_the_text_of_an_old_record_becomes_typed_fields(metric: str, threat: str, expected: dict[str, Any]) -> None:
    old = {
        "metric": metric, "value": 0.5, "low": None, "high": None, "count": 24, "strength": None, "unit": "",
        "threat": threat, "model": "", "label": "", "plugin": "", "origin": "", "seed": 0, "forwards": 0,
        "backwards": 0, "seconds": None,
    }  # fmt: skip
    before = dict(old)
    found = upgrade_record(old)
    assert old == before
    assert {name: found[name] for name in old} == old
    defaults = {name: value for name, value in asdict(Record(metric, 0.5)).items() if name not in old}
    assert asdict(Record(**found)) == asdict(Record(**old | defaults | expected))
