"""Interrupting worker processes: what runs in them is saved before they end."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

#: Seconds that processes have for saving before they are killed.
SECONDS_TO_SAVE = 10.0


class WorkerInterruption:
    """Lets SIGTERM and SIGINT interrupt what runs in a worker process, once: a further signal doesn't stop its saving.

    Between two tasks a signal interrupts nothing, which would end the process with a traceback; the next task does not
    start.
    """

    def __init__(self) -> None:
        self._asked = False
        self._running = False

    def handle_signals(self) -> None:
        """Handles the signals of this process from now on, except those that it ignores."""
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._interrupt)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A task.

        Raises:
            KeyboardInterrupt: Inside, at the first signal; at once after one.
        """
        self._running = True  # before the check, so that no signal in between is missed
        try:
            if self._asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._running = False

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        first, self._asked = not self._asked, True
        if first and self._running:
            raise KeyboardInterrupt


def end(processes: Collection[BaseProcess]) -> None:
    """Interrupts processes, and kills those that have not ended `SECONDS_TO_SAVE` later."""
    for each in processes:
        each.terminate()
    deadline = time.monotonic() + SECONDS_TO_SAVE
    try:
        for each in processes:
            each.join(max(0.0, deadline - time.monotonic()))
    finally:  # also if the wait itself is interrupted
        for each in processes:
            each.kill()
