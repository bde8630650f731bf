"""Progress of long work: a bar on a terminal, log lines elsewhere, with what is being done and the time left."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

#: Least seconds between two log lines.
EVERY = 10.0

_log = logging.getLogger("snnrobust")


class Progress:
    """Counts finished parts of some work, and tells what is being done.

    Args:
        total: Number of parts.
        unit: What a part is, in the plural.
        visible: Whether it is shown anywhere.

    Attributes:
        what: The work being done.
        done: Finished parts.
    """

    def __init__(self, total: int, unit: str = "parts", *, visible: bool = False) -> None:
        self.total = total
        self.unit = unit
        self.what = self._detail = ""
        self.visible = visible
        self.done = 0.0
        self._start = time.monotonic()
        self._estimate: Callable[[], float | None] | None = None
        self._notes: list[str] = []

    def doing(self, what: str) -> None:
        """The work that starts now."""
        self.what, self._detail = what, ""

    def within(self, detail: str) -> None:
        """What is being done of the present work."""
        self._detail = detail

    def note(self, text: str) -> None:
        """A line of its own, shown once."""
        self._notes.append(text)

    def advance(self, parts: float = 1) -> None:
        """Counts `parts` as finished."""
        self.done += parts

    def estimate(self, seconds_left: Callable[[], float | None]) -> None:
        """Takes the time left from a function; where it returns None, from the number of parts."""
        self._estimate = seconds_left

    @property
    def work(self) -> str:
        """The work being done, and what of it."""
        return f"{self.what}, {self._detail}" if self._detail else self.what

    @property
    def estimated(self) -> bool:
        """Whether the time left is estimated by more than the number of parts."""
        return self._estimate is not None

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None where nothing is known yet."""
        if self._estimate is not None and (left := self._estimate()) is not None:
            return left
        return self.elapsed / self.done * (self.total - self.done) if self.done else None

    def take_notes(self) -> list[str]:
        """The notes since the last call."""
        taken, self._notes = self._notes, []
        return taken

    def line(self) -> str:
        """What is being done, how much of it is done, and the time that it took and will take."""
        left = self.seconds_left
        expected = "" if left is None else f", about {duration(left)} left"
        return f"{self.work}; {self.done:.0f} of {self.total} {self.unit} done in {duration(self.elapsed)}{expected}"


def duration(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> duration(8.4), duration(754), duration(9000)
        ('8 s', '13 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_of(total: int, enabled: bool | None, unit: str = "parts") -> Iterator[Progress]:
    """Progress over `total` parts, on standard error.

    Args:
        total: Number of parts.
        enabled: True for a bar; False for nothing; None for a bar on a terminal, and elsewhere for lines of the logger
            "snnrobust" at level INFO, at most one every 10 seconds. They go to standard error if logging is not
            configured.
        unit: What a part is, in the plural.
    """
    console = Console(stderr=True)
    progress = Progress(total, unit, visible=enabled is not False)
    with ExitStack() as stack:
        if enabled or (enabled is None and console.is_terminal):
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
            )
            bar = stack.enter_context(Bar(*columns, console=console, transient=True))
            task = bar.add_task("", total=total, left="")
            stack.enter_context(_repeated(lambda: _draw(bar, task, progress)))
        elif enabled is None:
            stack.enter_context(_shown())
            stack.enter_context(_repeated(_LogLines(progress).write))
        yield progress


def _draw(bar: Bar, task: TaskID, progress: Progress) -> None:
    for text in progress.take_notes():
        bar.console.print(text, highlight=False)
    left = progress.seconds_left
    expected = "" if left is None else f"about {duration(left)} left"
    bar.update(task, description=progress.work, completed=progress.done, left=expected)


class _LogLines:
    """Writes a line as soon as there is an estimate for long work, and from then on every `EVERY` seconds."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._next = EVERY

    def write(self) -> None:
        """Writes a line if one is due."""
        progress = self._progress
        early = self._next == EVERY and progress.estimated and (progress.seconds_left or 0.0) > EVERY
        if early or progress.elapsed >= self._next:
            self._next = progress.elapsed + EVERY
            _log.info("%s", "; ".join([*progress.take_notes(), progress.line()]))


@contextmanager
def _shown() -> Iterator[None]:
    """Lines of the log go to standard error inside, if logging is not configured."""
    if _log.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(sys.stderr), _log.level
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)


@contextmanager
def _repeated(call: Callable[[], None], seconds: float = 0.25) -> Iterator[None]:
    """Calls a function again and again in a thread of its own, so that long work need not; and once in the end."""
    over = Event()

    def run() -> None:
        while not over.wait(seconds):
            call()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        call()
