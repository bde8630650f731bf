"""The command line: exit statuses, one-line errors, JSON, nothing overwritten."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnrobust import cli
from snnrobust.search.queries import ModelQueries
from snnrobust.testing.tiny import tiny_data


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
    monkeypatch.delitem(sys.modules, "cli_factory", raising=False)
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
    assert "Quoted claims" in printed
    assert [line.split()[:3] for line in printed.splitlines() if line.split()[:1] == ["tiny"]] == [
        ["tiny", "pgd", "0.1"]
    ]
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
    assert [(claim["label"], claim["strength"], claim["quoted"]) for claim in parsed["claims"]] == [("pgd", 0.1, True)]
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
    found = json.loads(capsys.readouterr().out)
    names = {plugin["name"] for plugin in found}
    assert "standard" in {plugin["name"] for plugin in found if plugin["kind"] == "ensembles"}
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
    error = capsys.readouterr().err
    assert "got another run (different in: tasks)" in error
    assert {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()} == before


def test_usage_errors_are_status_2_and_no_command_shows_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", monkeypatch=monkeypatch) == 2
    assert "missing argument 'config'" in capsys.readouterr().err.lower()
    assert call("run", "x.toml", "--workers", "0", monkeypatch=monkeypatch) == 2
    assert "--workers" in capsys.readouterr().err
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


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_one_line_and_status_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "study.toml", "--out", "/proc/xx", monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("snnrobust: expected files that can be read and written, got")
    assert error.count("\n") == 1


def test_a_warning_is_one_line_without_the_place_it_comes_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cli_factory.py").write_text(
        "import warnings\nfrom snnrobust.testing import tiny_model\n\n"
        "def build():\n    warnings.warn('expected [b]calm[/b],\\n got ' + 'noise ' * 30)\n"
        "    return tiny_model().net\n"
    )
    before = warnings.showwarning
    assert call("probe", "study.toml", monkeypatch=monkeypatch) == 0
    line = "snnrobust: warning: expected [b]calm[/b], got " + " ".join(["noise"] * 30) + "\n"
    assert capsys.readouterr().err == line
    assert warnings.showwarning is before


def test_an_unexpected_error_is_one_line_and_status_3(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("two\nlines")

    monkeypatch.setattr("snnrobust.campaigns.config_run.evaluate_config", fail)
    monkeypatch.delenv("SNNROBUST_TRACEBACK", raising=False)
    assert call("run", "study.toml", monkeypatch=monkeypatch) == 3
    error = capsys.readouterr().err
    assert error.startswith("snnrobust: unexpected KeyError: ")
    assert error.endswith("; set SNNROBUST_TRACEBACK=1 to see where\n")
    assert error.count("\n") == 1
    monkeypatch.setenv("SNNROBUST_TRACEBACK", "1")
    assert call("run", "study.toml", monkeypatch=monkeypatch) == 3
    assert "Traceback" in capsys.readouterr().err


def test_weights_without_a_checkpoint_can_be_resumed(folder: Path) -> None:
    (folder / "cli_factory.py").write_text(
        "from torch import nn\nfrom spikingjelly.activation_based import neuron\n\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(2), nn.Linear(16, 3), neuron.LIFNode(step_mode='m'))\n"
    )
    for arguments in ((), ("--resume",)):  # new processes: each starts from other random numbers
        assert finish(start("run", "study.toml", *arguments)) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
@pytest.mark.parametrize(
    ("workers", "sent", "expected"), [(1, signal.SIGINT, 130), (2, signal.SIGINT, 130), (1, signal.SIGTERM, 143)]
)
def test_an_interrupted_run_says_so_and_goes_on(
    folder: Path, slow_factory: str, workers: int, sent: signal.Signals, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "cli_factory.py").write_text(slow_factory)
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("[data]", f"{text.split('[data]')[0].replace('tiny', 'b')}[data]"))
    assert call("run", "study.toml", "--out", "whole", monkeypatch=monkeypatch) == 0

    (folder / "slow").touch()
    process = start("run", "study.toml", "--out", "cut", "--workers", str(workers))
    deadline = time.monotonic() + 60
    while not list((folder / "cut").rglob("findings.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)
    status, error = finish(process)
    assert status == expected
    assert error.splitlines()[-1].startswith("snnrobust: interrupted; ")
    assert "Traceback" not in error
    assert not (folder / "cut" / "report.html").exists()

    (folder / "slow").unlink()
    assert call("run", "study.toml", "--out", "cut", "--resume", monkeypatch=monkeypatch) == 0
    assert results(folder / "cut") == results(folder / "whole")


@pytest.mark.skipif(os.name == "nt", reason="needs SIGTERM")
def test_sigterm_interrupts_and_the_cell_is_saved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    former, count = ModelQueries.gradient, 0

    def terminated(self: ModelQueries, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return former(self, *arguments)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(ModelQueries, "gradient", terminated)
        assert call("run", "study.toml", monkeypatch=monkeypatch) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("snnrobust: interrupted; ")
    assert signal.getsignal(signal.SIGTERM) == handler
    assert list((folder / "study").rglob("*.partial.npz"))
    assert call("run", "study.toml", "--resume", monkeypatch=monkeypatch) == 0


def test_a_damaged_folder_is_one_line_with_a_cure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "study.toml", monkeypatch=monkeypatch) == 0
    page, cell = (folder / "study" / "report.html").read_bytes(), folder / "study/cells/tiny/pgd/1.npz"
    for arguments in (("report", "study"), ("run", "study.toml", "--resume")):
        cell.write_bytes(b"PK")
        capsys.readouterr()
        assert call(*arguments, monkeypatch=monkeypatch) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"'{cell}', got a damaged file" in error
        assert "; delete it and resume (`--resume`" in error
        cell.unlink()
        assert call("run", "study.toml", "--resume", monkeypatch=monkeypatch) == 0
    run = folder / "study" / "run.json"
    run.write_text("{}")
    for arguments in (("report", "study"), ("run", "study.toml", "--resume")):
        capsys.readouterr()
        assert call(*arguments, monkeypatch=monkeypatch) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"'{run}', got a damaged file" in error
        assert error.endswith("; it can't be repaired: start again in another output folder\n")
    assert call("run", "study.toml", "--out", "other", monkeypatch=monkeypatch) == 0
    assert len((folder / "other" / "report.html").read_bytes()) == pytest.approx(len(page), rel=0.01)


def test_a_checkpoint_with_a_pickle_in_it_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / "w.pt").open("wb") as file:
        pickle.dump(print, file)
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("wrap =", 'checkpoint = "w.pt"\nwrap ='))
    assert call("run", "study.toml", monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"expected a state dict in '{folder / 'w.pt'}', got a file that can't be read as weights only" in error


def start(*arguments: str) -> subprocess.Popen[str]:
    """`snnrobust ARGUMENTS` in a new process with Python's default handler of SIGINT."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from snnrobust.cli import main\nif __name__ == '__main__': main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and standard error."""
    error = process.communicate(timeout=120)[1]
    return process.returncode, error


def results(folder: Path) -> dict[Path, bytes]:
    """All files of a run except the times and the page."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("timings.json", "report.html")
    }
