"""The tables of docs/ensembles.md: the ensembles on nets with masked gradients, healthy nets and hardened nets.

    python scripts/tables/trust.py FOLDER [VICTIM ...] [--samples N]  # an hour or two; needs snnrobust[all]

Stores victims and runs in FOLDER and continues an interrupted run. Prints Markdown.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import victims

import snnrobust as sr
from snnrobust.report import Report

#: The 19 estimators of Ozdenizci & Legenstein 2024 (TMLR); `rate-relu` stands for their ReLU net.
CLASSICAL: list[Any] = [
    *({"name": "triangle", "gamma": gamma} for gamma in (0.25, 0.5, 1.0, 2.0, 3.0)),
    *({"name": "exponential", "scale": scale, "gamma": gamma} for scale in (1.0, 0.3) for gamma in (0.5, 1.0, 2.0)),
    *({"name": "rectangle", "gamma": gamma} for gamma in (0.25, 0.5, 1.0, 2.0, 4.0)),
    "straight-through",
    "bptr",
    "rate-relu",
]


def attacks(epsilon: float) -> list[sr.Task]:
    """The attacks that `standard` is compared with: torchattacks, the classical estimators, and all members at once."""
    classical = [
        {"name": "apgd", "label": f"apgd {number}", "gradient": gradient} for number, gradient in enumerate(CLASSICAL)
    ]
    return [
        sr.load("torchattacks:PGD", epsilon=epsilon, steps=100),
        sr.load("torchattacks:APGD", epsilon=epsilon, steps=100),
        sr.load("torchattacks:Square", epsilon=epsilon, n_queries=2000),
        sr.load("union", label="classical", epsilon=epsilon, adaptive=classical),
        sr.load("fast", epsilon=epsilon),
        sr.load("exhaustive", epsilon=epsilon),
    ]


def claimed(epsilon: float) -> list[sr.Task]:
    """The claims: what a paper would quote, and what it should quote."""
    return [sr.load("pgd", label="own PGD-20", epsilon=epsilon, steps=20), sr.load("standard", epsilon=epsilon)]


def evaluate(name: str, folder: Path, samples: int) -> tuple[Report, Report, Report]:
    """The victim under the audited attacks, all others, and each member alone; continues an interrupted run."""
    model, epsilon = victims.load(name, folder), victims.VICTIMS[name].epsilon
    data = sr.data.load("mnist5k").test.take(samples)
    audited = sr.evaluate(
        model, data, claimed(epsilon), evidence="full", out=folder / f"judged-{name}-{samples}", progress=False
    )
    others = sr.evaluate(
        model, data, attacks(epsilon), evidence="none", out=folder / f"others-{name}-{samples}", progress=False
    )
    alone = sr.evaluate(
        model,
        data,
        [sr.load("standard", epsilon=epsilon)],
        mode="exhaustive",
        evidence="none",
        out=folder / f"alone-{name}-{samples}",
        progress=False,
    )
    return audited, others, alone


def strength_table(reports: list[tuple[Report, Report, Report]]) -> list[str]:
    """Robust accuracy under each attack, the strongest member of `standard` alone, and the verdicts."""
    others = ["torchattacks:PGD", "torchattacks:APGD", "torchattacks:Square", "classical", "fast"]
    columns = ["victim", "epsilon", "clean", "own PGD-20", *others, "best member alone", "standard", "exhaustive"]
    lines = _header([*columns, "claim of own PGD-20", "claim of standard"])
    for audited, compared, members in reports:
        (epsilon,) = audited.task("standard")["strengths"]
        (name,) = audited.models
        alone, member = _best_alone(members)
        verdicts = {claim.label: claim.verdict for claim in audited.claims}
        shares = [
            audited.clean()["correct"].mean(),
            audited.curve("own PGD-20").value[0],
            *(compared.curve(label).value[0] for label in others),
        ]
        ends = [audited.curve("standard").value[0], compared.curve("exhaustive").value[0]]
        cells = [*_shares(shares), f"{alone:.3f} ({member})", *_shares(ends)]
        lines.append(_row([name, f"{epsilon:g}", *cells, verdicts["own PGD-20"], verdicts["standard"]]))
    return lines


def cost_table(report: Report) -> list[str]:
    """The samples attempted, first broken and the passes of each member of `standard`."""
    lines = _header(["member", "attempted", "broken first", "steps", "forwards", "backwards", "steps x attempted"])
    total = bound = 0
    for member in report.members("standard"):
        allowed = (member.budget or 0) * member.attempted
        spent = [member.forwards, member.backwards]
        lines.append(_row([member.label, member.attempted, member.broken, member.budget, *spent, allowed]))
        total, bound = total + member.forwards, bound + allowed
    return [
        *lines,
        "",
        f"Forward passes over the sum of steps x attempted: {total} / {bound} = {total / bound:.3f}.",
    ]


def _best_alone(report: Report) -> tuple[float, str]:
    """The strongest member of `standard` by itself, from a run in which each member attacks each sample."""
    (model,), members = report.models, report.task("standard")["members"]
    robust = (report.cell(model, "standard", 0)["member_correct"] != 0) & report.clean(model)["correct"]
    shares = robust.mean(axis=1)  # by member
    return float(shares.min()), members[int(shares.argmin())]["label"]


def _shares(values: Iterable[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _header(columns: list[str]) -> list[str]:
    return [_row(columns), "|" + " --- |" * len(columns)]


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Prints the tables of the victims named on the command line, or of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(victims.VICTIMS))
    parser.add_argument("--samples", type=int, default=200)
    given = parser.parse_args()
    reports = [evaluate(name, given.folder, given.samples) for name in given.names]
    print("\n".join(strength_table(reports)))
    for audited, *_ in reports:
        print(f"\n{audited.models[0]}, verdict {audited.verdict}\n\n" + "\n".join(cost_table(audited)))
    print(f"\n{given.samples} test digits, {platform.machine()} CPU, torch {torch.__version__}")


if __name__ == "__main__":
    main()
