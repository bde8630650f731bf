"""The tables of `bench_curvature.py`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def tables(result: dict[str, Any]) -> str:
    """The numbers in Markdown."""
    lines = [
        f"## Top k eigenvalues to {result['accurate']:g}, against PyHessian",
        "| net | k | times faster | least | greatest | our products | theirs | PyHessian got there |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (net, k), rows in _grouped(result["eigenvalues"], "net", "k"):
        ratios = [row["ratio"] for row in rows]
        counts = [f"{statistics.median(row[who]['products'] for row in rows):.0f}" for who in ("ours", "pyhessian")]
        reached = f"{sum(row['pyhessian']['reached'] for row in rows)} of {len(rows)}"
        shown = [f"{each:.1f}" for each in (statistics.median(ratios), min(ratios), max(ratios))]
        lines.append(_row([net, k, *shown, *counts, reached]))
    lines += [
        "\n## Products against scipy's eigsh at the same tolerance",
        "| net | k | tolerance | ours | eigsh | ratio, worst seed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (net, k, tolerance), rows in _grouped(result["products"], "net", "k", "tolerance"):
        counts = [f"{statistics.median(row[who] for row in rows):.0f}" for who in ("ours", "eigsh")]
        lines.append(_row([net, k, tolerance, *counts, f"{max(row['ours'] / row['eigsh'] for row in rows):.2f}"]))
    lines += [
        "\n## Trace at the same standard error, against PyHessian's probes",
        "| net | asked for | our error | our products | its products | times fewer | least | times faster |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (net, relative), rows in _grouped(result["traces"], "net", "relative"):
        middle = {name: statistics.median(row[name] for row in rows) for name in rows[0] if name != "net"}
        counts = [f"{middle[each]:.0f}" for each in ("ours", "pyhessian")]
        times = [middle["ratio"], min(row["ratio"] for row in rows), middle["ratio_seconds"]]
        lines.append(_row([net, relative, f"{middle['reached']:.2g}", *counts, *(f"{each:.1f}" for each in times)]))
    for few, many in [result["memory"]] if "memory" in result else []:
        ratio = many["mib"] / few["mib"]
        lines.append(
            f"\nPeak memory over {many['samples']} samples is {ratio:.2f} times that over {few['samples']} "
            f"({many['mib']:.0f} against {few['mib']:.0f} MiB)."
        )
    return "\n".join(lines)


def _grouped(rows: Sequence[dict[str, Any]], *names: str) -> Iterator[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    yield from found.items()


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
