"""Files of a run that only describe it (timings.json, searches.json, memory.json): no result depends on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from snnrobust.common.files import exists, read_json, reading, to_json, write
from snnrobust.errors import StoreError
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.results.soundness import check_numbers

T = TypeVar("T")

_IGNORED = "it is ignored, the results stand: delete it to stop this warning"


def read_description(path: Path | None, what: str, parse: Callable[[Any], T], otherwise: T) -> T:
    """The content of a file that no result depends on; a damaged one is ignored with a warning."""
    try:
        if path is None or not exists(path):
            return otherwise
        content = read_json(path, _IGNORED)
        with reading(path, what, _IGNORED):
            return parse(content)
    except StoreError as error:
        warnings.warn(str(error), stacklevel=4)
        return otherwise


def write_description(path: Path, content: Any) -> None:
    """Writes a file that no result depends on; a folder in its place stays."""
    if not path.is_dir():
        write(path, to_json(content))


def parse_seconds(plain: Any) -> dict[str, float]:
    """Seconds of cells from timings.json."""
    check_numbers(plain, dict)
    return dict(plain)


def parse_batch_sizes(plain: Any) -> list[int]:
    """Batch sizes after memory ran out from memory.json."""
    check_numbers(plain, list)
    if any(not isinstance(each, int) or each < 1 for each in plain):
        raise ValueError("batch sizes that are no whole numbers")
    return list(plain)


def parse_execution_paths(plain: Any) -> dict[str, list[ExecutionPath]]:
    """What each search ran on from searches.json."""
    return {label: [_execution_path(each) for each in found] for label, found in plain.items()}


def _execution_path(plain: Any) -> ExecutionPath:
    if isinstance(plain, str):
        return ExecutionPath.from_format_3(plain)
    path = ExecutionPath(**plain)
    check_numbers([path.nodes, *path.kernels.values()], list)
    if not isinstance(path.accelerated, bool) or not isinstance(path.reason, str):
        raise ValueError("a search that is neither accelerated nor says why")
    return path
