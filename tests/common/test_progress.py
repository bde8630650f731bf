"""Progress without a terminal: lines of the log, at most one every ten seconds."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from snnrobust.common import progress as module
from snnrobust.common.progress import Progress, duration, progress_of


class Clock:
    """Time that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO, "snnrobust")
    return caplog.messages


def test_a_line_says_what_is_done_and_how_long_it_takes(clock: Clock) -> None:
    shown = Progress(8)
    shown.doing("net: pgd epsilon 0.1")
    shown.within("second of two searches")
    shown.advance(2)
    clock.now = 30.0
    assert shown.line() == "net: pgd epsilon 0.1, second of two searches; 2 of 8 parts done in 30 s, about 90 s left"
    shown.estimate(lambda: 600.0)
    shown.doing("net: square")
    assert shown.line() == "net: square; 2 of 8 parts done in 30 s, about 10 min left"
    shown.estimate(lambda: None)
    assert shown.seconds_left == 90.0


def test_nothing_is_known_before_the_first_part() -> None:
    shown = Progress(8, "models")
    shown.doing("net")
    assert shown.line() == "net; 0 of 8 models done in 0 s"


def test_at_most_one_line_in_ten_seconds(clock: Clock, lines: list[str], caplog: pytest.LogCaptureFixture) -> None:
    shown = Progress(3)
    shown.doing("net")
    log = module._LogLines(shown)
    written = []
    for clock.now in (1.0, 9.9, 10.0, 12.0, 19.9, 21.0, 31.5):
        log.write()
        written.append(len(caplog.messages))
    assert written == [0, 0, 1, 1, 1, 2, 3]


@pytest.mark.parametrize(("left", "early"), [(300.0, 1), (2.0, 0)])
def test_an_estimate_is_shown_at_once_if_the_work_is_long(
    clock: Clock, caplog: pytest.LogCaptureFixture, left: float, early: int
) -> None:
    caplog.set_level(logging.INFO, "snnrobust")
    shown = Progress(3)
    log = module._LogLines(shown)
    shown.note("keeping examples")
    shown.estimate(lambda: left)
    clock.now = 1.0
    log.write()
    assert len(caplog.messages) == early
    assert all("keeping examples" in line and "about 5 min left" in line for line in caplog.messages)
    clock.now = 5.0
    log.write()
    assert len(caplog.messages) == early


def test_lines_go_to_standard_error_if_logging_is_not_configured(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stream, log = io.StringIO(), logging.getLogger("snnrobust")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda _: False)
    before = log.handlers[:], log.level
    with progress_of(2, None) as shown:
        shown.doing("net: pgd")
        clock.now = 20.0
    assert stream.getvalue().startswith("snnrobust: net: pgd; 0 of 2 parts done in 20 s")
    assert (log.handlers, log.level) == before


@pytest.mark.parametrize("enabled", [None, False])
def test_short_work_and_work_without_progress_write_nothing(
    enabled: bool | None, capfd: pytest.CaptureFixture[str]
) -> None:
    with progress_of(2, enabled) as shown:
        shown.advance()
    assert capfd.readouterr().err == ""


def test_an_error_ends_the_thread() -> None:
    with pytest.raises(ValueError, match="stop"), progress_of(2, None):
        raise ValueError("stop")


def test_durations() -> None:
    assert [duration(each) for each in (0.2, 119.0, 121.0, 7300.0)] == ["0 s", "119 s", "2 min", "2.0 h"]
