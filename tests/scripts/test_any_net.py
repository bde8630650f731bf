"""`scripts/tables/any_net`: a row of each kind, and controls that show what a wrong number looks like."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts" / "tables" / "any_net"
#: Without the curvature, which takes seconds.
QUICK = ("logits", "input gradient", "swap", "accelerated", "activity")
#: A row of each kind, by the module that has it.
ROWS = {
    "spikingjelly_zoo": "PLIF MNISTNet",
    "spikingjelly_neurons": "LIFNode",
    "other_frameworks": "snnTorch: Leaky, explicit state",
    "hand_written": "ctx style",
}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the script, which import each other by name."""
    for framework in ("snntorch", "norse", "sinabs"):
        pytest.importorskip(framework, reason="a row is a net of it")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = ("by_hand", "calibrate", "case", "checks", "table", *ROWS)
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def row(scripts: SimpleNamespace, module: str) -> Any:
    (found,) = [each for each in getattr(scripts, module).rows() if each.name == ROWS[module]]
    return found


@pytest.mark.parametrize("module", list(ROWS))
def test_no_number_is_wrong(scripts: SimpleNamespace, module: str) -> None:
    found = scripts.checks.answers(row(scripts, module), QUICK)
    assert {column: each.text for column, each in found.items() if each.kind == "wrong"} == {}
    assert found["logits"].kind == found["input gradient"].kind == "yes"
    assert all(";" in each.why for column, each in found.items() if each.kind == "refused" and column != "accelerated")


def test_curvature_is_that_of_the_definition(scripts: SimpleNamespace) -> None:
    found = scripts.checks.answers(row(scripts, "spikingjelly_neurons"), ("formal",))
    assert found["formal"].kind == "yes"


def test_a_wrong_swap_is_flagged(scripts: SimpleNamespace) -> None:
    """Set by hand at the first of two neurons only."""
    case = row(scripts, "spikingjelly_neurons")
    half = replace(case, by_hand=lambda net: scripts.by_hand.spikingjelly(net[1:3].eval()))
    assert scripts.checks.answers(case, ("swap",))["swap"].kind == "yes"
    found = scripts.checks.answers(half, ("swap",))["swap"]
    assert found.kind == "wrong"
    assert found.text.startswith("WRONG: off by")


def test_a_missing_reset_is_flagged(scripts: SimpleNamespace) -> None:
    """A plain pass that goes on from the state that is there, which no wrapped net does."""
    case = row(scripts, "spikingjelly_neurons")
    calibrated = case.net()

    def on(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return net(x.unsqueeze(0).repeat(4, 1, 1)).mean(0)

    found = scripts.checks.answers(replace(case, build=lambda: calibrated, plain=on), ("logits", "input gradient"))
    assert [each.kind for each in found.values()] == ["wrong", "wrong"]


def test_a_wrong_count_is_flagged(scripts: SimpleNamespace) -> None:
    case = row(scripts, "spikingjelly_neurons")

    def one_more(net: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = case.spikes(net, x)
        found["1"][(found["1"] == 0).nonzero()[0]] = 1.0
        return found

    assert scripts.checks.answers(replace(case, spikes=one_more), ("activity",))["activity"].kind == "wrong"


def test_an_error_without_a_reason_is_wrong(scripts: SimpleNamespace) -> None:
    """An error that is none of this package's does not count as a refusal."""
    broken = replace(row(scripts, "spikingjelly_neurons"), settings={"unknown": 1})
    found = scripts.checks.answers(broken, ("logits",))["logits"]
    assert found.kind == "wrong"
    assert "TypeError" in found.why


def test_the_page_lists_reasons_and_the_exit_status_says_wrong(
    scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = scripts.checks.Answer
    said = {
        "fine": dict.fromkeys(scripts.checks.COLUMNS, answer("yes", "yes")),
        "bad": dict.fromkeys(scripts.checks.COLUMNS, answer("refused", "refused", "expected a, got b; do c")),
    }
    said["bad"] |= {"swap": answer("wrong", "WRONG: off by 1.0e+00")}
    monkeypatch.setattr(scripts.table, "GROUPS", {"toy": lambda: [SimpleNamespace(name=n, note="") for n in said]})
    monkeypatch.setattr(scripts.table, "answers", lambda case: said[case.name])
    out = tmp_path / "page.md"
    assert scripts.table.main(["--out", str(out)]) == 1
    assert "bad, swap: WRONG" in capsys.readouterr().out
    text = out.read_text()
    assert "refused [1]" in text
    assert "1. expected a, got b; do c" in text
    assert "2 nets: 7 numbers agree, 6 are refused, 1 are wrong" in text
    said["bad"]["swap"] = answer("yes", "yes")
    assert scripts.table.main(["--out", str(out)]) == 0


def test_every_class_of_spikingjelly_has_a_row_or_a_reason(scripts: SimpleNamespace) -> None:
    assert scripts.table.missing() == []
