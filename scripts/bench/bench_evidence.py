"""CPU time of the documented call, `standard` with full evidence, on five nets; two are masked, one is undertrained.

    python scripts/bench/bench_evidence.py FOLDER [NET ...]     # needs snnrobust[data]
    python scripts/bench/bench_evidence.py FOLDER --against OLD # compares with the runs of another version in OLD

Weights are kept in FOLDER/weights; each run starts anew in FOLDER/NET. Prints Markdown: CPU seconds by part, clean and
robust accuracy, verdicts and audited rows. Compare versions on one machine, from equal weights, with one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench_nets import QUADRATIC, SIGMOID, Setting, conv, dense

import snnrobust as sr

SAMPLES = 200
#: Samples that the undertrained net has seen once.
FEW = 600
NETS = {
    each.name: each
    for each in (
        Setting("conv", "conv 8-16, ATan", 4, (0.1, 0.2), SAMPLES, partial(conv, (1, 8, 16), 28), epochs=3),
        Setting("mlp", "MLP 784-256-10, ATan", 4, (0.03, 0.06), SAMPLES, partial(dense, (784, 256, 10)), epochs=3),
        Setting("sigmoid", "conv 8-16, Sigmoid(25)", 4, (0.1, 0.2), SAMPLES, partial(conv, (1, 8, 16), 28, SIGMOID)),
        Setting(
            "quadratic",
            "conv 8-16, PiecewiseQuadratic 1 to 4",
            4,
            (0.1, 0.2),
            SAMPLES,
            partial(conv, (1, 8, 16), 28, QUADRATIC),
            sharpening=1.0,
            epochs=4,
        ),
        Setting(
            "undertrained", f"conv 8-16, ATan, {FEW} samples", 4, (0.05, 0.1), SAMPLES, partial(conv, (1, 8, 16), 28)
        ),
    )
}


def run(setting: Setting, folder: Path) -> dict[str, Any]:
    """One evaluation, and what is compared of it."""
    splits = setting.data(quick=False)
    train = splits.train.take(FEW) if setting.name == "undertrained" else splits.train
    model = setting.wrap(setting.net(folder / "weights", train, quick=False))
    data, out = splits.test.take(setting.samples), folder / setting.name
    shutil.rmtree(out, ignore_errors=True)
    task = sr.load("standard", epsilon=setting.epsilons)
    start, wall = time.process_time(), time.perf_counter()
    report = sr.evaluate(model, data, [task], evidence="full", out=out)
    cpu, wall = time.process_time() - start, time.perf_counter() - wall
    found: dict[str, Any] = {
        "net": setting.about,
        "cpu": cpu,
        "wall": wall,
        "clean": float(report.clean()["correct"].mean()),
        "robust": list(report.curve("standard").value),
        "verdicts": [each.verdict for each in report.claims if each.label == "standard"],
        "findings": {f"{each.name} {each.strength:g}": each.passed for each in report.findings},
        "rows": {each["task"]["label"]: each["samples"] for each in report.run["evidence_tasks"][setting.name]},
        "seconds": json.loads(next(out.glob("cells/*/timings.json")).read_text()),
    }
    (folder / f"{setting.name}.json").write_text(json.dumps(found, indent=1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"of {', '.join(NETS)}; all by default")
    parser.add_argument("--against", type=Path, help="folder of another version's runs")
    arguments = parser.parse_args()
    for name in arguments.nets or NETS:
        found = run(NETS[name], arguments.folder)
        print(_line(found), flush=True)
        if arguments.against is not None:
            old = json.loads((arguments.against / f"{name}.json").read_text())
            print(_line(old), f"{found['cpu'] / old['cpu']:.2f} of the old CPU time", flush=True)
            for what in sorted(old["findings"] | found["findings"]):
                before, after = old["findings"].get(what), found["findings"].get(what)
                if before != after:
                    print(f"  {what}: {before} -> {after}")


def _line(found: dict[str, Any]) -> str:
    robust = ", ".join(f"{each:.3f}" for each in found["robust"])
    figures = f"{found['cpu']:.0f} s CPU | clean {found['clean']:.3f} | robust {robust} | {found['verdicts']}"
    return f"| {found['net']} | {figures} | rows {found['rows']} |"


if __name__ == "__main__":
    main()
