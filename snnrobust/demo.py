"""`snnrobust demo`: the whole workflow on real digits, with five LIF variants of Yin et al. 2024."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from snnrobust import networks, neurons, training
from snnrobust.api import evaluate
from snnrobust.common import files
from snnrobust.data import Splits, load
from snnrobust.errors import StoreError
from snnrobust.plugin.task import Task
from snnrobust.plugin.task import load as task
from snnrobust.report import Report
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap

#: Leakage, reset and recurrence, one changed at a time (Yin et al. 2024, arXiv 2403.16674).
VARIANTS = ("vanilla", "no-leak", "complete-leak", "no-reset", "recurrent")
SEED = 0


@dataclass(frozen=True)
class Size:
    """The size of the demo.

    Attributes:
        steps: Time steps T.
        epochs: Training epochs.
        samples: Test samples that are attacked.
        pgd_steps: Steps of PGD.
        points: Points along each axis of the loss surface.
        surface_samples: Training samples that the surface is measured on.
    """

    steps: int
    epochs: int
    samples: int
    pgd_steps: int
    points: int
    surface_samples: int


FULL = Size(steps=8, epochs=5, samples=500, pgd_steps=20, points=15, surface_samples=500)
QUICK = Size(steps=4, epochs=2, samples=200, pgd_steps=10, points=9, surface_samples=200)


def run_demo(out: Path, *, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Report:
    """Trains five nets on 3500 real digits and evaluates them; resumes an earlier run in `out`.

    Args:
        out: Folder for trained nets and results.
        quick: Fewer steps, epochs, samples and points.
        say: Called with a line of text as each part starts.

    Raises:
        MissingExtraError: If the package with the digits is not installed.
        StoreError: If `out` has other contents.
    """
    size = QUICK if quick else FULL
    results = _check_folder(out)
    splits = load("mnist5k")
    models = {name: _trained_model(name, splits, size, out / "nets", say) for name in VARIANTS}
    tasks, notes = _demo_tasks(size)
    say(f"evaluating {len(models)} nets on {size.samples} test digits")
    report = evaluate(
        models,
        {"test": splits.test.take(size.samples), "train": splits.train, "validation": splits.validation},
        tasks,
        seed=SEED,
        out=results,
        notes=notes,
    )
    report.to_html(out / "report.html")
    return report


def _check_folder(out: Path) -> Path:
    """The folder of results in `out`, after a check that `out` holds only a demo."""
    files.check_folder(out / "results")
    if out.exists() and not out.is_dir():
        raise StoreError(f"expected a folder at '{out}', got a file; choose another output folder")
    pages = {"report.html", ".report.html.tmp", "report_files"}
    own = {"nets", "results"} | (pages if (out / "results" / "run.json").is_file() else set())
    if foreign := sorted({path.name for path in out.iterdir()} - own if out.exists() else []):
        raise StoreError(
            f"expected an empty folder or a demo in '{out}', got other files ({', '.join(foreign[:3])}); "
            f"choose another output folder"
        )
    return out / "results"


def build(variant: str) -> nn.Sequential:
    """The study's 784-512-10 net with nodes of a preset."""
    preset = neurons.PRESETS[variant]
    return networks.mlp(lambda features: preset.build(features=features if preset.recurrent else None))


def _trained_model(name: str, splits: Splits, size: Size, folder: Path, say: Callable[[str], None]) -> SpikingModel:
    """A trained net, loaded from its checkpoint if there is one."""
    net = training.initialised(lambda: build(name), SEED)
    path = folder / f"{files.slug(name)}-T{size.steps}-E{size.epochs}.pt"
    if path.is_file():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        say(f"training {name}: {size.epochs} epochs on {len(splits.train)} digits, T = {size.steps}")
        training.train(net, splits.train, steps=size.steps, epochs=size.epochs, seed=SEED)
        files.write_checkpoint(path, net.state_dict())
    return wrap(net, name=name, steps=size.steps)


def _demo_tasks(size: Size) -> tuple[list[Task], list[str]]:
    """The demo's tasks, and a note on each task that needs a missing extra."""
    epsilons = [0.0, 0.05, 0.1, 0.2]
    severities = [0.1, 0.2, 0.4]
    tasks = [
        task("clean"),
        task("fgsm", epsilon=epsilons),
        task("pgd", epsilon=epsilons, steps=size.pgd_steps),
        task("pgd", label="pgd-atan4", epsilon=epsilons, steps=size.pgd_steps, gradient={"name": "atan", "alpha": 4.0}),
        task("pgd", label="pgd-long", epsilon=epsilons, steps=2 * size.pgd_steps),
        task("random-search", epsilon=epsilons, steps=2 * size.pgd_steps),
        task("uniform", severity=severities),
        task("gaussian", severity=severities),
        task("salt-and-pepper", severity=[0.02, 0.05, 0.1]),
        task("activity"),
        task("plane", points=size.points, samples=size.surface_samples, logit_scale=training.RATE_SCALE),
    ]
    notes = [
        "Leak k = 0.5, threshold 1, ATan surrogate and training settings are assumed, not the study's own.",
    ]
    if find_spec("torchattacks") is not None:
        tasks.insert(5, task("torchattacks:MIFGSM", label="mifgsm", epsilon=epsilons, steps=10))
    else:
        notes.append("Left out for want of an extra: MIFGSM from torchattacks (pip install 'snnrobust[torchattacks]').")
    if find_spec("pyhessian") is not None:
        tasks.append(task("pyhessian", samples=size.surface_samples // 2, probes=30, logit_scale=training.RATE_SCALE))
    else:
        notes.append("Left out for want of an extra: eigenvalues and trace (pip install 'snnrobust[pyhessian]').")
    return tasks, notes
