"""A progress bar on a terminal; no output elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Steps:
    """A progress bar, or none: counts finished parts and shows the current work."""

    def __init__(self, bar: Progress | None, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total) if bar is not None else None

    def doing(self, what: str) -> None:
        """Shows the work that starts now."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what)

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)

    def advance(self, parts: float = 1) -> None:
        """Counts `parts` as finished."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, parts)


@contextmanager
def progress_bar(total: int, enabled: bool | None) -> Iterator[Steps]:
    """A progress bar over `total` parts on standard error.

    Args:
        total: Number of parts.
        enabled: Whether to show it; None: only on a terminal.
    """
    console = Console(stderr=True)
    if not (console.is_terminal if enabled is None else enabled):
        yield Steps(None, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Steps(bar, total)
