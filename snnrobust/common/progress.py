"""Progress of long work: a rich bar on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Steps:
    """Counts finished parts of a known total, and says what is being done."""

    def __init__(self, bar: Progress | None, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total) if bar is not None else None

    def doing(self, what: str) -> None:
        """Names the work that starts now."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what)

    def advance(self, parts: float = 1) -> None:
        """Counts `parts` as finished."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, parts)


@contextmanager
def shown(total: int, enabled: bool | None) -> Iterator[Steps]:
    """A progress bar over `total` parts on standard error.

    Args:
        total: Number of parts.
        enabled: True or False, or None to show it on a terminal alone.
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
