"""No false alarms: healthy nets fail no finding that counts for the verdict.

Some of the nets of `scripts/tables/healthy.py`, which audits all 21.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import snnrobust as sr

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "tables" / "healthy.py"))


@pytest.mark.slow
@pytest.mark.parametrize("net", SCRIPT["NETS"][::8], ids=str)
def test_a_healthy_net_raises_no_alarm(net: tuple[str, int, int, int, bool]) -> None:
    pytest.importorskip("sklearn", reason="needs real digits: pip install 'snnrobust[data]'")
    splits = sr.data.load("digits")
    report = SCRIPT["audited_report"](SCRIPT["healthy"](*net, splits.train), splits.test)
    failed = {
        each.name: each.value for each in report.findings if each.passed is False and (each.required or each.fatal)
    }
    assert failed == {}
    assert set(report.claims[0].missing) <= {"steps-converged"}  # a gap of two or three samples may be chance
