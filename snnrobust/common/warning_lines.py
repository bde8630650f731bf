"""Warnings for people at a terminal: a line of text each, without the place in the code that they come from."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def in_one_line() -> Iterator[None]:
    """Has each warning printed on standard error as one line."""
    with warnings.catch_warnings():  # puts `showwarning` back
        warnings.showwarning = _show
        yield


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Written to whatever standard error is now: a progress bar then makes room for the line.
    sys.stderr.write(f"snnrobust: warning: {' '.join(str(message).split())}\n")
