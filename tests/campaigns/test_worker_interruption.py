"""An interrupted run with several processes keeps what each of them has found, and ends in a bounded time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from snnrobust.campaigns import config_run, worker_interruption
from snnrobust.campaigns.worker_interruption import WorkerInterruption, end
from snnrobust.evaluation.attack_cell import SAVE_EVERY
from snnrobust.testing.tiny import tiny_data

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGTERM")

MODEL = """
[models.{}]
factory = "slow_factory:build"
wrap = {{ steps = 4, accelerate = false }}
"""
#: At epsilon 0 every sample takes all steps: 5 batches of 10 evaluations each.
CONFIG = f"""
{MODEL.format("a")}
{MODEL.format("b")}
[data]
file = "data.npz"
[evaluate]
batch_size = 4
evidence = "none"
[[tasks]]
name = "pgd"
epsilon = 0.0
steps = 9
"""


def results(folder: Path) -> dict[Path, bytes]:
    """All files of a run except the times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "timings.json"]
    return {path.relative_to(folder): path.read_bytes() for path in files if path.suffix != ".html"}


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "ctrl-c"])
def test_each_process_saves_its_running_cell(
    sent: signal.Signals, tmp_path: Path, slow_factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_factory.py").write_text(slow_factory)
    (tmp_path / "config.toml").write_text(CONFIG)
    data = tiny_data(count=20)
    np.savez(tmp_path / "data.npz", x=data.x.numpy(), y=data.y.numpy())
    (tmp_path / "slow").touch()
    monkeypatch.chdir(tmp_path)

    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from snnrobust.cli import main\nif __name__ == '__main__': main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", "config.toml", "--out", "cut", "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while len(list(Path("cut").rglob("clean/0.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(5)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.send_signal(sent)
    asked = time.monotonic()
    error = process.communicate(timeout=60)[1]
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[sent]
    assert error.splitlines()[-1].startswith("snnrobust: interrupted; ")
    assert "Traceback" not in error
    assert time.monotonic() - asked < worker_interruption.SECONDS_TO_SAVE
    assert SAVE_EVERY > 5 + worker_interruption.SECONDS_TO_SAVE  # so what is there was saved at the end
    for name in ("a", "b"):
        with np.load(f"cut/cells/{name}/pgd/0.partial.npz") as found:
            done = found["correct"] >= 0
        assert 0 < done.sum() < 20

    Path("slow").unlink()
    config_run.evaluate_config(Path("config.toml"), Path("cut"))
    config_run.evaluate_config(Path("config.toml"), Path("whole"))
    assert results(Path("cut")) == results(Path("whole"))


def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_interruption, "SECONDS_TO_SAVE", 0.5)
    context = get_context("fork")
    ready = context.Event()

    def deaf() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready.set()
        time.sleep(60)

    process = context.Process(target=deaf)
    process.start()
    assert ready.wait(30)
    start = time.monotonic()
    end([process])
    process.join(10)
    assert process.exitcode == -signal.SIGKILL
    assert 0.5 <= time.monotonic() - start < 10


def test_a_task_is_interrupted_once_and_none_starts_after_it() -> None:
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    done: list[str] = []

    def run(interruption: WorkerInterruption) -> None:
        with interruption.interruptible():
            done.append("started")
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("saved")

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        busy, idle = WorkerInterruption(), WorkerInterruption()
        busy.handle_signals()
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(busy)
        assert done == ["started", "saved"]

        signal.signal(signal.SIGTERM, former[signal.SIGTERM])
        idle.handle_signals()
        os.kill(os.getpid(), signal.SIGTERM)  # raises nothing
        with pytest.raises(KeyboardInterrupt):
            run(idle)
        assert done == ["started", "saved"]
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
