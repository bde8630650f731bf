"""A fixed evaluation, to see that a change of the code changes no number.

    python fixed_evaluation.py FOLDER               # runs it; prints a digest of every stored result
    python fixed_evaluation.py FOLDER --against OLD # and names what differs from OLD: arrays, values, curves, verdicts

Attacks of every kind, noise, curvature and activity, on a static and a temporal net, in all three modes. Run it on two
commits, on the same machine. Timings, pages, sentences and the description of the run (run.json) are not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

import snnrobust as sr
from snnrobust.testing import tiny_data, tiny_model

#: What is compared of a record and of a finding.
RECORD = (
    *("metric", "value", "low", "high", "count", "strength", "unit", "threat", "model", "label", "plugin", "origin"),
    *("seed", "forwards", "backwards"),
)
FINDING = ("name", "passed", "value", "threshold", "required", "fatal", "model", "label", "strength")
ATAN = {"name": "atan", "alpha": 4.0}
RADII = [0.05, 0.1, 0.3]


def attacks(norm: str, radii: list[float]) -> list[sr.Task]:
    """One attack of each kind."""
    named: dict[str, dict[str, Any]] = {
        "fgsm": {},
        "r-fgsm": {},
        "pgd": {"steps": 6, "restarts": 2, "gradient": ATAN},
        "momentum": {"steps": 5},
        "apgd": {"steps": 8, "objective": "dlr"},
        "sa-pgd": {"steps": 8, "objective": "margin"},
        "square": {"steps": 40},
        "random-search": {"steps": 20},
    }
    if norm != "linf":
        del named["sa-pgd"]
    found = [sr.load(name, label=f"{name} {norm}", norm=norm, epsilon=radii, **each) for name, each in named.items()]
    found += [
        sr.load("pgd", label=f"hart {norm}", norm=norm, epsilon=radii, steps=4, gradient="hart"),
        sr.load("pgd", label=f"assg {norm}", norm=norm, epsilon=radii, steps=4, gradient="assg"),
        sr.load("apgd", label=f"graded {norm}", norm=norm, epsilon=radii, steps=5, objective="graded-margin"),
        sr.load(
            "apgd", label=f"targeted {norm}", norm=norm, epsilon=radii, steps=5, restarts=2, objective="targeted-dlr"
        ),
    ]
    return found


def static_tasks() -> list[sr.Task | str]:
    return [
        *attacks("linf", RADII),
        *attacks("l2", [0.2, 0.6]),
        sr.load("fast", epsilon=RADII),
        sr.load("minimum-norm", epsilon=RADII, steps=10),
        sr.load("hop-skip-jump", epsilon=RADII),
        sr.load("torchattacks:PGD", epsilon=RADII, steps=4),
        sr.load("pgd", label="transfer", epsilon=RADII, steps=4, source="other"),
        sr.load("gaussian", severity=[0.1, 0.3]),
        sr.load("salt-and-pepper", severity=[0.1]),
        "activity",
        "threshold-margins",
        sr.load("eigenvalues", k=3, samples=12),
        sr.load("eigenvalues", label="formal", operator="formal", k=2, samples=12),
        sr.load("trace", samples=12),
        sr.load("density", operator="formal", samples=12),
        sr.load("plane", points=5, samples=12),
        sr.load("line", points=5, samples=12),
        sr.load("sharpness", samples=12),
        sr.load("pyhessian", samples=12),
    ]


def temporal_tasks() -> list[sr.Task | str]:
    return [
        sr.load("flips", norm="l0", epsilon=[1, 3], steps=5),
        sr.load("pgd", label="pgd l0", norm="linf", epsilon=[1], steps=4),
        sr.load("spike-deletion", severity=[0.2]),
        sr.load("time-jitter", severity=[1.0]),
        "activity",
        "threshold-margins",
        sr.load("eigenvalues", k=2, samples=12),
    ]


def run(folder: Path) -> None:
    """All evaluations, each into a folder of its own."""
    splits = {"test": tiny_data(count=24), "train": tiny_data(count=32)}
    other = sr.wrap(tiny_model().net, name="other", steps=6)
    everything, temporal = static_tasks(), {"test": tiny_data(True, 24), "train": tiny_data(True, 24)}
    few = [each for each in everything if not isinstance(each, str) and each.label in ("pgd linf", "fast", "apgd l2")]
    poisson = sr.wrap(tiny_model().net, name="poisson", steps=4, encoder="poisson")
    for name, model, data, tasks, more in (
        ("static", tiny_model(), splits, everything, {"sources": {"other": other}, "evidence": "basic"}),
        ("audited", tiny_model(), splits, few, {"evidence": "full"}),
        ("exhaustive", tiny_model(), splits, few, {"mode": "exhaustive"}),
        ("bisect", tiny_model(), splits, few[:2], {"mode": "bisect"}),
        ("temporal", tiny_model(True), temporal, temporal_tasks(), {"evidence": "full"}),
        ("stochastic", poisson, splits, [sr.load("pgd", epsilon=[0.1, 0.2], steps=3, eot=2)], {"evidence": "full"}),
        ("plain", sr.wrap(tiny_model().net, steps=4, accelerate=False), splits, few, {}),
    ):
        sr.evaluate(model, data, tasks, seed=3, batch_size=16, out=folder / name, progress=False, **more)


def digests(folder: Path) -> dict[str, str]:
    """Path of each stored result -> digest of its arrays' bytes, or of its values."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".npz":
            content = path.read_bytes()
        elif path.name in ("measure.json", "findings.json", "memory.json"):
            content = repr(_values(path.name, json.loads(path.read_bytes()))).encode()
        else:
            continue
        found[str(path.relative_to(folder))] = hashlib.blake2b(content, digest_size=8).hexdigest()
    return found


def _values(name: str, content: Any) -> object:
    """What is compared of a JSON file: the numbers with what identifies them, but not the words beside them."""
    if name == "findings.json":
        return [[each[field] for field in FINDING] for each in content]
    if name == "measure.json":
        return [[each[field] for field in RECORD] for each in content["records"]], content["artifacts"]
    return content


def judgement(folder: Path) -> list[object]:
    """Curves, claims and findings of the runs in a folder, without words."""
    found: list[object] = []
    for path in sorted(folder.iterdir()):
        report = sr.Report.load(path)
        for model in report.models:
            found += [repr(report.curve(label, model)) for label in (*report.labels("attack"), *report.labels("noise"))]
        found += [repr(each) for each in report.claims]
        found += [[getattr(each, field) for field in FINDING] for each in report.findings]
    return [repr(each) for each in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    run(given.folder)
    found = digests(given.folder)
    if given.against is None:
        for name, digest in found.items():
            print(digest, name)
        return 0
    before = digests(given.against)
    apart = sorted(name for name in before.keys() | found.keys() if before.get(name) != found.get(name))
    print(f"{len(found)} results, {len(apart)} differ", *apart, sep="\n  ")
    ours, theirs = judgement(given.folder), judgement(given.against)
    differ = [each for each in ours if each not in theirs] + [each for each in theirs if each not in ours]
    print(f"{len(ours)} curves, claims and findings, {len(differ)} differ", *differ, sep="\n  ")
    return 1 if apart or differ or len(ours) != len(theirs) else 0


if __name__ == "__main__":
    sys.exit(main())
