"""The tables (Markdown) and the plot of `bench.py`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

#: Target speedups over six runs of torchattacks, by setting and mode.
GOALS = {("a", "nested"): 5, ("a", "bisect"): 8, ("b", "bisect"): 4, ("c", "bisect"): 4, ("d", "bisect"): 4}
CONTENDERS = ("nested, eager", "exhaustive", "nested", "bisect", "bisect, audited")


def tables(result: dict[str, Any]) -> str:
    """All tables in Markdown."""
    parts = (
        ("One PGD step", _steps(result["step"])),
        ("The first step of a process", _cold(result["cold"])),
        ("Robust accuracy curves", _curves(result)),
        ("Agreement", _outcomes(result["curves"])),
        ("Robust accuracy by radius", _accuracies(result["curves"])),
        ("Spikes and gradient signs, accelerated model against net", _exact(result["exact"])),
        ("Scaling", _scaling(result["scaling"])),
        ("Goals", _goals(result)),
    )
    return "\n\n".join([*(f"## {title}\n\n{text}" for title, text in parts), _environment(result)])


def plot(result: dict[str, Any], path: Path) -> None:
    """Ratios of the curves by setting, and of the scaling, with their spread over the turns."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes_of = ["curves", *dict.fromkeys(row["axis"] for row in result["scaling"])]
    figure, axes = pyplot.subplots(1, len(axes_of), figsize=(4.2 * len(axes_of), 3.6), squeeze=False)
    names = [row["setting"] for row in result["curves"]]
    for number, contender in enumerate(("nested, eager", "nested", "bisect")):
        ratios = [row["ratio"][contender] for row in result["curves"]]
        at = [place + 0.27 * (number - 1) for place in range(len(names))]
        axes[0, 0].bar(at, [each["median"] for each in ratios], 0.25, label=contender, yerr=_bars(ratios))
    axes[0, 0].set_xticks(range(len(names)), names, rotation=20)
    axes[0, 0].set_ylabel("times faster than torchattacks")
    for axis, drawn in zip(axes_of[1:], axes[0, 1:], strict=True):
        rows = [row for row in result["scaling"] if row["axis"] == axis]
        for contender in ("nested", "bisect") if axis == "samples" else ("eager", "accelerated"):
            ratios = [row["ratio"][contender] for row in rows]
            values, middles = [row["value"] for row in rows], [each["median"] for each in ratios]
            drawn.errorbar(values, middles, yerr=_bars(ratios), label=contender, marker="o", capsize=3)
        drawn.set_xscale("log", base=2)
        drawn.set_xlabel({"T": "T", "width": "channels of the first layer", "samples": "samples"}[axis])
        drawn.set_ylabel(f"times faster, {'curve of (b)' if axis == 'samples' else 'step of (a)'}")
    for drawn in axes.flat:
        drawn.axhline(1, color="grey", linewidth=0.8)
        drawn.set_ylim(0, 1.35 * drawn.get_ylim()[1])  # room for the legend
        drawn.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _steps(rows: list[dict[str, Any]]) -> str:
    lines = _header(
        ["setting", "batch", "eager", "accelerated", "memory, SpikingJelly", "memory, accelerated", "share"]
    )
    for row in rows:
        kept, ours = row["saved_mib"]["SpikingJelly"], row["saved_mib"]["accelerated"]
        frozen = row["saved_mib"]["SpikingJelly, frozen weights"]
        sizes = [f"{kept:.1f} MiB ({frozen:.1f} with frozen weights)", f"{ours:.1f} MiB", f"{ours / kept:.3f}"]
        speeds = [_times(row["ratio"][name]) for name in ("eager", "accelerated")]
        lines.append(_row([f"({row['setting']}) {row['about']}", row["batch"], *speeds, *sizes]))
    return "\n".join([*lines, "", "Times faster than SpikingJelly's multi-step net with a reset in its forward pass."])


def _cold(row: dict[str, Any]) -> str:
    columns = [
        "cache",
        "kernel",
        "first step, with building and checking the accelerated model",
        "second step",
        "SpikingJelly's first",
    ]
    lines = _header(columns)
    for cache in ("empty", "filled"):
        seconds = row[f"{cache}_cache"]
        cells = [seconds[part] for part in ("kernel", "first_step", "second_step", "spikingjelly")]
        lines.append(_row([cache, *(f"{each:.3f} s" for each in cells)]))
    return "\n".join(
        [*lines, "", f"On ({row['setting']}), {row['batch']} samples; the kernel is the same for all nets."]
    )


def _curves(result: dict[str, Any]) -> str:
    lines = _header(["setting", "samples", "turns", *CONTENDERS, "bisect, cold"])
    built = result["cold"]["empty_cache"]["kernel"]
    for row in result["curves"]:
        theirs, ours = (sum(row["seconds"][name]) for name in ("torchattacks", "bisect"))
        turns = len(row["seconds"]["bisect"])
        ratios = [_times(row["ratio"][name]) for name in CONTENDERS]
        lines.append(
            _row(
                [f"({row['setting']}) {row['about']}", row["samples"], turns, *ratios, f"{theirs / (ours + built):.2f}"]
            )
        )
    steps = result["curves"][0]["steps"]
    note = (
        f"Times faster than six runs of torchattacks' PGD-{steps} and their scoring, all without a random start: the "
        "median over the turns (the least to the greatest). Cold: all turns together, and the kernel to be built."
    )
    return "\n".join([*lines, "", note])


def _outcomes(rows: list[dict[str, Any]]) -> str:
    columns = [
        "setting",
        "pairs",
        "nested differs from exhaustive",
        "bisect differs from nested",
        "differs from eager",
        "radii above torchattacks",
    ]
    lines = _header([*columns, "torchattacks broke, nested did not", "disagreements", "passes, nested", "bisect"])
    for row in rows:
        off, all_passes = row["pairs_off"], row["passes"]["torchattacks"]
        spent = [f"{row['passes'][name] / all_passes:.3f}" for name in ("nested", "bisect")]
        counts = [off["exhaustive"], f"{off['bisect']} ({off['bisect'] / row['pairs']:.2%})", off["eager"]]
        more = [row["above_torchattacks"]["nested"], row["missed"]["nested"], row["disagreements"]["nested"]]
        lines.append(_row([row["setting"], row["pairs"], *counts, *more, *spent]))
    note = (
        "Pairs of a radius and a sample. Exhaustive: carried forward to larger radii. Eager: nested without kernels. "
        "Disagreements: successes of a search that the net itself did not confirm. Passes: share of torchattacks'."
    )
    return "\n".join([*lines, "", note])


def _accuracies(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        lines += [*_header([f"({row['setting']})", *(f"{epsilon:g}" for epsilon in row["epsilons"])])]
        for name, shares in row["robust"].items():
            lines.append(_row([name, *(f"{share:.1%}" for share in shares)]))
        lines.append("")
    return "\n".join(lines).rstrip()


def _exact(rows: list[dict[str, Any]]) -> str:
    columns = [
        "setting",
        "neuron-steps",
        "adversarial",
        "spikes",
        "spikes differ",
        "samples differ",
        "gradient entries",
    ]
    lines = _header([*columns, "signs differ", "exact zeros", "zeros differ"])
    spikes = ("neuron_steps", "adversarial_neuron_steps", "spikes", "spikes_off", "samples_off")
    keys = (*spikes, "gradient_entries", "signs_off", "zeros", "zeros_off")
    total = {"setting": "all"} | {key: sum(row[key] for row in rows) for key in keys}
    return "\n".join([*lines, *(_row([row["setting"], *(f"{row[key]:,}" for key in keys)]) for row in (*rows, total))])


def _scaling(rows: list[dict[str, Any]]) -> str:
    lines = _header(["what", "axis", "value", "eager", "accelerated", "memory", "nested", "bisect"])
    for row in rows:
        ratios = [_times(row["ratio"][name]) if name in row["ratio"] else "" for name in ("eager", "accelerated")]
        modes = [_times(row["ratio"][name]) if name in row["ratio"] else "" for name in ("nested", "bisect")]
        saved = f"1/{row['saved']:.1f}" if "saved" in row else ""
        what = "a step of (a)" if saved else f"the curve of ({row['setting']})"
        lines.append(_row([what, row["axis"], row["value"], *ratios, saved, *modes]))
    return "\n".join(lines)


def _goals(result: dict[str, Any]) -> str:
    lines = _header(["goal", "target", "measured", "met"])
    goals: list[tuple[str, str, str, bool]] = []
    for row in result["step"]:
        if row["setting"] == "a":
            speed, kept = row["ratio"]["accelerated"]["median"], row["saved_mib"]
            share = kept["accelerated"] / kept["SpikingJelly"]
            goals.append(("one step on (a)", "3x", f"{speed:.2f}x", speed >= 3))
            goals.append(("its memory for the backward pass", "at most 1/4", f"{share:.3f}", share <= 0.25))
    for row in result["curves"]:
        for (setting, mode), goal in GOALS.items():
            if setting == row["setting"]:
                speed = row["ratio"][mode]["median"]
                goals.append((f"curve on ({setting}), {mode}", f"{goal}x", f"{speed:.2f}x", speed >= goal))
    off = sum(row["pairs_off"]["exhaustive"] for row in result["curves"])
    goals.append(("nested differs from exhaustive, all settings", "0", str(off), off == 0))
    for row in result["curves"]:
        if row["setting"] == "a":
            share = row["pairs_off"]["bisect"] / row["pairs"]
            goals.append(("bisect differs from nested on (a)", "at most 0.5 %", f"{share:.2%}", share <= 0.005))
    above = sum(row["above_torchattacks"][mode] for row in result["curves"] for mode in ("nested", "bisect"))
    goals.append(("radii with a robust accuracy above torchattacks'", "0", str(above), above == 0))
    for what, key in (("different spikes", "spikes_off"), ("different gradient signs", "signs_off")):
        count, steps = (sum(row[each] for row in result["exact"]) for each in (key, "neuron_steps"))
        goals.append((f"{what}, of {steps:.1e} neuron-steps", "0 of 1e9", str(count), count == 0 and steps >= 1e9))
    lines += [_row([*cells, "yes" if met else "no"]) for *cells, met in goals]
    return "\n".join(
        [*lines, *(["", "The targets are for the full nets; --quick runs small ones."] if result["quick"] else [])]
    )


def _environment(result: dict[str, Any]) -> str:
    about = result["environment"]
    load = "" if about["load"] is None else f", load {about['load']:.1f} at the start"
    return (
        f"{about['cpu']} ({about['machine']}), {about['cores']} cores, {about['threads']} threads, "
        f"OMP_WAIT_POLICY={about['omp_wait_policy']}, torch {about['torch']}{load}; {result['seconds']:.0f} s in total."
    )


def _bars(ratios: Sequence[dict[str, float]]) -> list[list[float]]:
    return [[each["median"] - each["low"] for each in ratios], [each["high"] - each["median"] for each in ratios]]


def _times(ratio: dict[str, float]) -> str:
    if math.isclose(ratio["low"], ratio["high"]):
        return f"{ratio['median']:.2f}"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _header(columns: Sequence[str]) -> list[str]:
    return [_row(columns), "|" + " --- |" * len(columns)]


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
