"""Warnings on a terminal: one line each, without file and line number."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Prints each warning on standard error as one line."""
    with warnings.catch_warnings():  # restores `showwarning`
        warnings.showwarning = _write_one_line
        yield


def _write_one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Looked up on each call: a progress bar replaces sys.stderr to print above itself.
    sys.stderr.write(f"snnrobust: warning: {' '.join(str(message).split())}\n")
