"""Two published nets, from their NIR files: attacks, corruptions, activity and curvature on one page each.

    python scripts/studies/published_networks.py FOLDER [--samples 20]

A smoke run on few samples, in some minutes on two cores: what works with nets that were not made here, and what is
refused, with the reason. The nets come with no training data, so that curvature is that of the loss on test samples.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path

import torch

import snnrobust as sr
from snnrobust.networks import PublishedNet, fetch_published, published

Data = dict[str, tuple[torch.Tensor, torch.Tensor]]
#: Steps of the N-MNIST net: 5 ms each.
STEPS = 60


def tasks(found: PublishedNet) -> list[sr.Task]:
    """What is asked of a net."""
    budgets = [4, 16, 64] if found.wrap["domain"] == "binary" else [8, 64, 512]
    return [
        sr.load("fast", norm="l0", epsilon=budgets, steps=10),
        sr.load("random-search", norm="l0", epsilon=budgets, steps=20),
        sr.load("spike-deletion", severity=[0.1, 0.3, 0.5]),
        sr.load("time-jitter", severity=[1.0, 4.0]),
        sr.load("activity"),
        sr.load("threshold-margins"),
    ]


def curvature() -> list[sr.Task]:
    """Of few samples, in weights and inputs."""
    short = {"samples": 2, "directions": 8, "draws": 2}
    return [
        sr.load("eigenvalues", k=2, **short),
        sr.load("trace", products=16, **short),
        sr.load("eigenvalues", label="input-eigenvalues", k=1, space="inputs", **short),
    ]


def accepted(model: sr.SpikingModel, data: Data, wanted: list[sr.Task]) -> tuple[list[sr.Task], dict[str, str]]:
    """The tasks that work on two samples, and why the others are refused."""
    kept, refused = [], {}
    few = {split: (x[:2], y[:2]) for split, (x, y) in data.items()}
    for task in wanted:
        try:
            sr.evaluate(model, few, [task], evidence="none", progress=False)
        except sr.SnnRobustError as error:
            refused[task.label] = str(error)
        else:
            kept.append(task)
    return kept, refused


def study(found: PublishedNet, samples: int, folder: Path) -> None:
    """Evaluates a net, and writes its page."""
    began = time.perf_counter()
    model = sr.wrap(found.net, **found.wrap)
    right = model.logits(found.x).argmax(1) == found.y
    print(f"\n{found.name}: {found.description}")
    print(f"{int(right.sum())} of {len(right)} right; expected {found.accuracy:.3f}, got {right.float().mean():.3f}")
    data = dict.fromkeys(("test", "train"), (found.x[:samples], found.y[:samples]))
    kept, refused = accepted(model, data, tasks(found))
    notes = [f"refused: {label}: {reason}" for label, reason in refused.items()]
    notes.append("Curvature is that of the loss on test samples: the net comes with no training data.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # findings on curvature, which the page has
        report = sr.evaluate(model, data, [*kept, *curvature()], evidence="basic", notes=notes, progress=False)
    page = folder / f"{found.name}.html"
    report.to_html(page)
    print(f"  clean: {report.clean()['correct'].mean():.2f} of {len(data['test'][1])} samples")
    for task in kept:
        if task.strengths:
            curve = report.curve(task.label)
            values = ", ".join(f"{a:g}: {b:.2f}" for a, b in zip(curve.strength, curve.value, strict=True))
            print(f"  {task.label}: {values}")
    frame = report.to_frame()
    measured = {task.label for task in kept if not task.strengths} | {task.label for task in curvature()}
    shown = frame.label.isin(measured) & frame.metric.str.match("firing_rate|synops|eigenvalue|trace|share")
    for row in frame[shown].itertuples():
        interval = f" [{row.low:.4g}, {row.high:.4g}]" if math.isfinite(row.low) else ""
        print(f"  {row.label} {row.metric}: {row.value:.4g}{interval}")
    for label, reason in refused.items():
        print(f"  refused: {label}: {reason}")
    for finding in report.findings:
        if finding.passed is False:
            print(f"  failed: {finding.label} {finding.name}: {finding.value:.3g}")
    print(f"  verdict {report.verdict}; {page}; {time.perf_counter() - began:.0f} s")


def main() -> None:
    """Both nets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the pages")
    parser.add_argument("--samples", type=int, default=20, help="of each net, at most (default: 20)")
    settings = parser.parse_args()
    settings.folder.mkdir(parents=True, exist_ok=True)
    fetch_published()
    for found in (published("nmnist-scnn", steps=STEPS), published("braille-rsnn")):
        study(found, settings.samples, settings.folder)


if __name__ == "__main__":
    main()
