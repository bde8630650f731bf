"""Which of torchattacks' 37 attacks work on events in time, and what is left of them as legal events.

    python scripts/tables/torchattacks_temporal/table.py               # about ten minutes; writes docs/torchattacks.md
    python scripts/tables/torchattacks_temporal/table.py --only PGD    # these attacks; prints, and writes nothing

Exits with status 1 if a number is wrong: a legal example that is none, or an attack that runs here and not by hand.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import direct
import moving_bars
import torch
from torch import Tensor

import snnrobust as sr
from snnrobust.data import Dataset
from snnrobust.errors import SnnRobustError
from snnrobust.threat_models.threat_model import Domain, Norm, ThreatModel
from snnrobust.threat_models.verify import verify

OUT = Path(__file__).parents[3] / "docs" / "torchattacks.md"
COMMAND = "python scripts/tables/torchattacks_temporal/table.py"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
#: Radii by domain and norm.
RADII: dict[Domain, dict[Norm, float]] = {"real": {"linf": 0.02, "l2": 0.3}, "binary": {"linf": 1.0, "l0": 3.0}}
#: Attacks of this package beside them.
OURS: dict[Domain, str] = {"real": "pgd", "binary": "flips"}
COLUMNS = (
    *("[N,T,C,H,W]", "folded", "passes"),
    *("norm, real", "robust, real", "`pgd`"),
    *("norm, binary", "whole", "taken as it is", "legal", "`flips`"),
)


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        train: Samples that the nets are trained on.
        epochs: Epochs of the training.
        samples: Samples attacked, all of them right without an attack.
        steps: Steps of all attacks that have any, here and there.
        limit: Forward passes that an attack gets when it is run by hand.
    """

    train: int = 2000
    epochs: int = 10
    samples: int = 40
    steps: int = 50
    limit: int = 20_000


@dataclass(frozen=True)
class Victim:
    """A net and the samples that it is attacked on."""

    model: sr.SpikingModel
    data: Dataset


@dataclass
class Row:
    """The cells of an attack.

    Attributes:
        cells: By column.
        why: Why it does not run.
        wrong: What must not be.
    """

    cells: list[str]
    why: str = ""
    wrong: list[str] = field(default_factory=list)


def victims(size: Size) -> dict[Domain, Victim]:
    """A trained net for each domain, with samples that it gets right."""
    found: dict[Domain, Victim] = {}
    for domain in RADII:
        train, test = moving_bars.events(size.train, seed=1), moving_bars.events(4 * size.samples, seed=2)
        if domain == "real":
            train, test = moving_bars.graded(train, seed=3), moving_bars.graded(test, seed=4)
        model = moving_bars.trained(train, size.epochs, domain)
        with torch.no_grad():
            right = model.predict(model.logits(test.x)) == test.y
        found[domain] = Victim(model, test.select(right.nonzero()[: size.samples, 0].tolist()))
    return found


def norm_of(name: str, domain: Domain) -> Norm:
    """The norm that an attack is given: that of flips, or of L2, if it knows L2."""
    if domain == "real":
        return "l2" if name in direct.L2 else "linf"
    return "l0" if name in direct.L2 or "norm" in direct.arguments(name) else "linf"


def bridged(name: str, victim: Victim, norm: Norm, size: Size) -> tuple[float | None, str]:
    """Robust accuracy under an attack through this package, or None and why it is refused."""
    domain = victim.model.domain
    options = {key: value for key, value in {"steps": size.steps}.items() if key in direct.arguments(name)}
    try:
        task = sr.load(f"torchattacks:{name}", epsilon=RADII[domain][norm], norm=norm, **options)
        return robust(victim, task), ""
    except SnnRobustError as error:
        return None, str(error)


def robust(victim: Victim, task: sr.Task) -> float:
    """Robust accuracy under a task at its only strength."""
    report = sr.evaluate(victim.model, victim.data, [task], evidence="none", progress=False)
    return float(report.curve(task.label).value[0])


def ours(victim: Victim, norm: Norm, size: Size) -> float:
    """Robust accuracy under this package's own attack at the same radius."""
    domain = victim.model.domain
    return robust(victim, sr.load(OURS[domain], epsilon=RADII[domain][norm], norm=norm, steps=size.steps))


def row_of(name: str, victims: dict[Domain, Victim], beside: dict[tuple[Domain, Norm], float], size: Size) -> Row:
    """All cells of an attack."""
    real, binary = victims["real"], victims["binary"]
    few = real.data.x[:2], real.data.y[:2]
    # Not given: the radius. The two shapes are tried with the attack's own settings.
    flat = direct.run(name, real.model, *few, size.limit, fold=False)
    folded = direct.run(name, real.model, *few, size.limit)
    row = Row([_ran(flat), _ran(folded), "" if folded.x is None else str(folded.calls)], folded.why)
    norm = norm_of(name, "real")
    value, why = bridged(name, real, norm, size)
    refused = "with a radius" in why
    row.cells += ["", "", ""] if value is None else [norm, f"{value:.3f}", f"{beside['real', norm]:.3f}"]
    if folded.x is None and value is not None:
        row.wrong.append(f"{name} runs here and not by hand: {folded.why}")
    if refused:
        row.why = "; ".join(each for each in ("no radius `eps`", row.why) if each)
    else:
        row.why = why
    if folded.x is None:
        row.cells += [""] * 5
        return row
    norm = norm_of(name, "binary")
    norm = "l0" if refused else norm
    row.cells += [norm, *as_events(name, binary, norm, size, row, refused=refused), f"{beside['binary', norm]:.3f}"]
    return row


def as_events(name: str, victim: Victim, norm: Norm, size: Size, row: Row, *, refused: bool) -> list[str]:
    """What an attack makes of binary events: whole examples, robust accuracy if all are taken, and of legal ones."""
    model, data = victim.model, victim.data
    threat = ThreatModel(norm, RADII["binary"][norm], model.bounds, model.domain)
    eps = threat.epsilon if norm == "linf" else threat.epsilon**0.5
    settings: dict[str, Any] = {"eps": eps, "steps": size.steps, "norm": "Linf" if norm == "linf" else "L2"}
    if "alpha" in (known := direct.arguments(name)) and "eps" in known:
        settings["alpha"] = eps * known["alpha"] / known["eps"] * known.get("steps", 1) / size.steps
    if "lr" in known:
        settings["lr"] = 2.5 * eps / known.get("nb_iter", 1)  # as the bridge has it
    if "n_classes" in known:
        settings["n_classes"] = moving_bars.CLASSES
    if refused:  # no radius, and `steps` of OnePixel, SparseFool and others is something else
        settings = {}
    found = direct.run(name, model, data.x, data.y, size.limit, **settings)
    if found.x is None:
        row.why = row.why or found.why
        return ["", "", ""]
    whole = (found.x == found.x.round()).flatten(1).all(dim=1).float().mean()
    cells = [f"{whole:.3f}", f"{_right(victim, found.x):.3f}"]
    if refused:
        legal = threat.project(data.x + threat.steepest(found.x - data.x), data.x)
        verify(legal, data.x, threat, data.index.tolist(), name)
        return [*cells, f"{_right(victim, legal):.3f}"]
    value, why = bridged(name, victim, norm, size)
    if value is None:
        row.wrong.append(f"{name} runs by hand and not here: {why}")
        return [*cells, ""]
    return [*cells, f"{value:.3f}"]


def _right(victim: Victim, x: Tensor) -> float:
    with torch.no_grad():
        return float((victim.model.predict(victim.model.logits(x)) == victim.data.y).float().mean())


def _ran(found: direct.Returned) -> str:
    return "no" if found.x is None else "yes"


def section(rows: dict[str, Row], victims: dict[Domain, Victim], size: Size) -> str:
    """The text between the markers."""
    counts = [sum(row.cells[column] == "yes" for row in rows.values()) for column in (0, 1)]
    through = sum(bool(row.cells[4]) for row in rows.values())
    said = (
        f"Of {len(rows)} attacks, {counts[0]} run on inputs [N,T,C,H,W] as they are, {counts[1]} folded, and {through} "
        f"through `torchattacks:NAME`."
    )
    reasons: dict[str, int] = {}
    lines = [_line(["attack", *COLUMNS, "why not"]), _line(["---"] * (len(COLUMNS) + 2))]
    for name, row in rows.items():
        note = f"[{reasons.setdefault(row.why, len(reasons) + 1)}]" if row.why else ""
        lines.append(_line([name, *row.cells, note]))
    numbered = [f"{number}. {_plain(why)}" for why, number in reasons.items()]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "spikingjelly", "torchattacks"))
    radii = "; ".join(
        f"{domain}: " + ", ".join(f"{norm} {radius:g}" for norm, radius in each.items())
        for domain, each in RADII.items()
    )
    sizes = f"{len(victims['real'].data)} and {len(victims['binary'].data)} samples (real, binary), {size.steps} steps"
    made = f"`{COMMAND}`; radii: {radii}; {sizes}; {versions}."
    return "\n".join([said, "", *lines, "", *numbered, "", made])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")


def written(page: str, text: str) -> str:
    """The page with another text between its markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", metavar="NAME", nargs="+", choices=direct.ATTACKS, help="these attacks alone")
    made.add_argument("--out", type=Path, default=OUT, help="the page to write into")
    return made


def main(arguments: list[str] | None = None, size: Size | None = None) -> int:
    """Runs the attacks, and writes the table unless some were chosen."""
    given, size = parser().parse_args(arguments), size or Size()
    torch.set_num_threads(1)  # sums in one order: the same table each time
    made = victims(size)
    beside = {(domain, norm): ours(made[domain], norm, size) for domain, norms in RADII.items() for norm in norms}
    rows: dict[str, Row] = {}
    for name in given.only or direct.ATTACKS:
        began = time.perf_counter()
        rows[name] = row_of(name, made, beside, size)
        print(f"{name} ({time.perf_counter() - began:.1f} s): {rows[name].cells} {rows[name].why}", flush=True)
    text = section(rows, made, size)
    if given.only:
        print("\n" + text)
    else:
        given.out.write_text(written(given.out.read_text(encoding="utf-8"), text), encoding="utf-8")
        print(f"wrote {given.out}")
    wrong = [each for row in rows.values() for each in row.wrong]
    print("\n".join(wrong) if wrong else "no row is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
