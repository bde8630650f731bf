"""The command line: exit statuses, one-line errors, JSON, nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from snnrobust import cli
from snnrobust.testing import tiny_data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cli_factory.py").write_text(
        "from snnrobust.testing import tiny_model\n\ndef build():\n    return tiny_model().net\n"
    )
    (tmp_path / "study.toml").write_text(
        '[models.tiny]\nfactory = "cli_factory:build"\nwrap = { steps = 4 }\n'
        '[data]\nfile = "data.npz"\n[[tasks]]\nname = "pgd"\nepsilon = [0.0, 0.1]\nsteps = 3\n'
    )
    data = tiny_data(count=20)
    np.savez(tmp_path / "data.npz", x=data.x.numpy(), y=data.y.numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of `snnrobust ARGUMENTS`."""
    monkeypatch.setattr("sys.argv", ["snnrobust", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_run_report_and_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "study.toml", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "100.0" in printed
    assert "Verdict: doubtful" in printed
    page = (folder / "study" / "report.html").read_bytes()

    assert call("run", "study.toml", monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert "--resume" in error
    assert error.count("\n") == 1
    assert call("run", "study.toml", "--resume", monkeypatch=monkeypatch) == 0
    assert call("report", "study", monkeypatch=monkeypatch) == 0
    assert (folder / "study" / "report.html").read_bytes() == page
    capsys.readouterr()

    assert call("report", "study", "--json", monkeypatch=monkeypatch) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert parsed["verdict"] == "doubtful"
    assert {"clean", "pgd"} == {record["label"] for record in parsed["records"]}
    assert call("report", "study", "--strict", monkeypatch=monkeypatch) == 1


def test_probe(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("probe", "study.toml", "--json", monkeypatch=monkeypatch) == 0
    findings = {finding["name"]: finding["passed"] for finding in json.loads(capsys.readouterr().out)}
    assert findings["repeatable"] is True
    assert not (folder / "study").exists()
    (folder / "cli_factory2.py").write_text(
        "import torch\n\nclass Dead(torch.nn.Module):\n"
        "    def forward(self, x):\n        return x.detach().flatten(1)[:, :3]\n"
    )
    (folder / "dead.toml").write_text(
        (folder / "study.toml")
        .read_text()
        .replace("cli_factory:build", "cli_factory2:Dead")
        .replace("{ steps = 4 }", '{ layout = "N" }')
    )
    assert call("probe", "dead.toml", monkeypatch=monkeypatch) == 2
    assert "input-gradient" in capsys.readouterr().out


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "--json", monkeypatch=monkeypatch) == 0
    names = {plugin["name"] for plugin in json.loads(capsys.readouterr().out)}
    assert {"fgsm", "pgd", "torchattacks", "own", "atan", "gaussian", "activity", "plane", "pyhessian"} <= names
    assert call("list", monkeypatch=monkeypatch) == 0
    assert "spike-deletion" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "none.toml"),
        ("probe", "none.toml"),
        ("report", "none"),
        ("report", "."),
        ("run", "study.toml", "--out", "."),
        ("run", "study.toml", "--out", "data.npz"),
        ("run", "study.toml", "--resume", "--out", "."),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    assert call(*arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("snnrobust: expected")
    assert error.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before


def test_another_run_is_not_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "study.toml", "--out", "out", monkeypatch=monkeypatch) == 0
    before = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("steps = 3", "steps = 4"))
    assert call("run", "study.toml", "--out", "out", "--resume", monkeypatch=monkeypatch) == 2
    assert "another run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()} == before


def test_usage_errors_are_status_2_and_no_command_shows_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", monkeypatch=monkeypatch) == 2
    assert call("--help", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("demo", "run", "list", "probe", "report"))


def test_a_checkpoint_of_another_net_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.zeros(1)}, folder / "w.pt")
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("wrap =", 'checkpoint = "w.pt"\nwrap ='))
    assert call("run", "study.toml", monkeypatch=monkeypatch) == 2
    assert "fits the net" in capsys.readouterr().err
