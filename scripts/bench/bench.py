"""How much faster a robustness curve is than with torchattacks on SpikingJelly, and whether the results agree.

    python scripts/bench/bench.py  # under a quarter of an hour on two cores
    python scripts/bench/bench.py --quick  # under a minute, on small nets: a smoke test
    python scripts/bench/bench.py --only a --samples 1000 --neuron-steps 1e9  # needs snnrobust[data,torchattacks]

Prints Markdown; writes the numbers as JSON and a plot beside it. All times are ratios of contenders that take turns in
one process. Nets are trained on first use and kept in a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import bench_exact
import bench_nets
import bench_report
import bench_speed
import torch
from bench_nets import Setting
from torch import nn

from snnrobust.data import Splits
from snnrobust.training import trainer as training

Ready = tuple[Setting, nn.Module, Splits]
NAMES = tuple(bench_nets.settings(quick=False))
MASKED = ("a-sigmoid", "a-quadratic")


@dataclass(frozen=True)
class Effort:
    """The size of the benchmark.

    Attributes:
        steps: Of PGD.
        repetitions: Repetitions of a single step.
        neuron_steps: Neuron-steps that are compared, over all nets.
        scaling: Values of T, of the channels of the first layer, and of the samples.
    """

    steps: int
    repetitions: int
    neuron_steps: int
    scaling: dict[str, tuple[int, ...]]


FULL = Effort(20, 9, 200_000_000, {"T": (2, 4, 8, 16), "width": (8, 16, 32, 64), "samples": (32, 128, 512)})
QUICK = Effort(3, 2, 500_000, {"T": (2, 8), "width": (2, 4), "samples": (4, 8)})


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """All numbers, as they go into the JSON file."""
    effort, began = QUICK if given.quick else FULL, time.perf_counter()

    def say(what: str) -> None:
        print(f"{what} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)

    known = bench_nets.settings(given.quick)
    ready: list[Ready] = []
    for setting in (known[name] for name in given.only):
        splits = setting.data(given.quick)
        ready.append((setting, setting.net(given.folder, splits.train, given.quick), splits))
        say(f"net of {setting.name}")
    plain = [each for each in ready if each[0].name not in MASKED]
    result: dict[str, Any] = {"quick": given.quick, "environment": environment()}
    result["cold"] = bench_speed.cold(ready[0][0], given.folder, given.quick)
    say("cold start")
    result["step"] = [bench_speed.pgd_step(setting, net, each.test, effort.repetitions) for setting, net, each in plain]
    say("single steps")
    result["curves"] = []
    for setting, net, splits in ready:
        test = splits.test.take(min(given.samples or setting.samples, len(splits.test)))
        result["curves"].append(bench_speed.curves(setting, net, test, effort.steps))
        say(f"curves of {setting.name}")
    result["exact"] = bench_exact.exact(ready, given.neuron_steps or effort.neuron_steps)
    say("spikes and signs")
    result["scaling"] = scaling(plain, effort)
    say("scaling")
    return result | {"seconds": time.perf_counter() - began}


def scaling(ready: Sequence[Ready], effort: Effort) -> list[dict[str, Any]]:
    """A step of nets like (a) over T and width, and the curve of (b) over the number of samples."""
    rows: list[dict[str, Any]] = []
    for setting, net, splits in ready:
        if setting.name == "a":
            for axis, value in ((name, each) for name in ("T", "width") for each in effort.scaling[name]):
                changed, built = (replace(setting, steps=value), net) if axis == "T" else (setting, _wide(value))
                step = bench_speed.pgd_step(changed, built, splits.test, min(3, effort.repetitions))
                kept = step["saved_mib"]
                saved = kept["SpikingJelly"] / kept["accelerated"]
                rows.append({"setting": "a", "axis": axis, "value": value, "saved": saved, "ratio": step["ratio"]})
        if setting.name == "b":
            for value in effort.scaling["samples"]:
                curve = bench_speed.curves(setting, net, splits.test.take(value), effort.steps)
                rows.append({"setting": "b", "axis": "samples", "value": value, "ratio": curve["ratio"]})
    return rows


def environment() -> dict[str, Any]:
    """The machine and the versions, for the JSON file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "machine": platform.machine(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small nets, few samples")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="only these settings")
    parser.add_argument("--samples", type=_count, help="samples in each setting, at most 1000")
    parser.add_argument("--neuron-steps", type=_count, help="neuron-steps to compare, over all settings, such as 1e9")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="for weights, numbers and the plot")
    parser.add_argument("--out", type=Path, help="file for the numbers, FOLDER/bench.json where left out")
    given = parser.parse_args(argv)
    given.out = given.out or given.folder / "bench.json"
    return given


def main(argv: Sequence[str]) -> None:
    """Measures, prints the tables, and writes the numbers and the plot."""
    given = arguments(argv)
    result = measured(given)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    bench_report.plot(result, given.out.with_suffix(".png"))
    print(bench_report.tables(result))


def _wide(channels: int) -> nn.Module:
    """An untrained net like (a) of another width."""
    return training.initialised(partial(bench_nets.conv, (1, channels, 2 * channels), 28), seed=0).eval()


def _count(text: str) -> int:
    value = float(text)
    if not (value.is_integer() and value >= 2):
        raise argparse.ArgumentTypeError(f"expected a whole number >= 2, got {text}")
    return int(value)


if __name__ == "__main__":
    if os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":  # read when torch is loaded, so the script starts again
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    main(sys.argv[1:])
