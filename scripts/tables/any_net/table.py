"""Nets of any kind: every number that this package gives for them, beside one computed without it.

    python scripts/tables/any_net/table.py                  # about eight minutes on two cores; writes docs/any-net.md
    python scripts/tables/any_net/table.py --only snnTorch  # rows whose name holds this; prints, and writes nothing

Needs snnTorch, Norse and sinabs. Exits with status 1 if a number is wrong.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import platform
import re
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import hand_written
import other_frameworks
import spikingjelly_neurons
import spikingjelly_zoo
import torch
from checks import COLUMNS, Answer, answers
from curvature_checks import CURVATURE_SAMPLES
from spikingjelly.activation_based import model

OUT = Path(__file__).parents[3] / "docs" / "any-net.md"
COMMAND = "python scripts/tables/any_net/table.py"
GROUPS = {
    "SpikingJelly's model zoo": spikingjelly_zoo.rows,
    "SpikingJelly's neurons": spikingjelly_neurons.rows,
    "snnTorch, Norse, sinabs": other_frameworks.rows,
    "Plain torch": hand_written.rows,
}
PACKAGES = ("torch", "spikingjelly", "snntorch", "norse", "sinabs")
#: Names and classes of neurons in an error.
_NAMED = re.compile(r"(, )?'[\w.]+' \([^)]*\)|(?<=got )\w+(?= with)|(?<=surrogate )\w+")
INTRODUCTION = f"""# Any net: what works, and what is refused

    {COMMAND}

Random nets whose layers all fire, each as its user writes it. Every number is compared with one that is computed
without this package; the script exits with status 1 if one differs.

- **logits**: with a plain forward pass in the user's own way: reset by the framework's means, the input repeated over
  time, outputs averaged or added up by hand. Before each check the net is left with the state of another input.
- **input gradient**: of the cross entropy, with plain autograd.
- **swap**: the gradient with `ATan(alpha=4.0)` at every spike, with one set by hand at every neuron; logits must not
  change, and afterwards the gradient must be the net's own. The derivative of a count of spikes is taken at the
  distance to the nearest level at which the count changes.
- **accelerated**: the spiking nodes that run on fast kernels, with the net's own surrogates and with the swap; logits
  and gradients are compared as well.
- **activity**: the lowest and highest firing rate of a layer (the share of entries that are not zero), with a count by
  hooks.
- **Gauss-Newton**, **formal**: traces of the two operators in the weights with the net's own surrogates, on
  {CURVATURE_SAMPLES} samples; of nets below 200,000 weights. "Not compared": too large to compute it by hand.

"yes": equal to the last bit, or with the relative difference in brackets. "refused": an error that says why, listed
below the table by its number, for the first net that has it.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", metavar="TEXT", nargs="+", help="rows whose name, or group, holds one of these")
    made.add_argument("--out", type=Path, default=OUT, help="the page to write")
    return made


def missing() -> list[str]:
    """Classes and families of SpikingJelly that no row and no reason covers."""
    rows = {row.name for row in spikingjelly_neurons.rows()}
    families = {each.name for each in pkgutil.iter_modules(model.__path__)}
    return [
        *sorted(spikingjelly_neurons.classes() - rows - set(spikingjelly_neurons.ABSTRACT)),
        *sorted(families - set(spikingjelly_zoo.modules())),
    ]


def page(found: dict[str, dict[str, dict[str, Answer]]], notes: dict[str, str], seconds: float) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    cells = [each for rows in found.values() for row in rows.values() for each in row.values()]
    counts = {kind: sum(each.kind == kind for each in cells) for kind in ("yes", "refused", "wrong", "none")}
    parts.append(
        f"{sum(map(len, found.values()))} nets: {counts['yes']} numbers agree, {counts['refused']} are refused, "
        f"{counts['wrong']} are wrong, and {counts['none']} have nothing to be compared with.\n"
    )
    parts += [f"## {group}\n\n{table(rows, notes)}" for group, rows in found.items()]
    excluded = "\n".join(f"- {name}: {why}" for name, why in sorted(spikingjelly_neurons.ABSTRACT.items()))
    parts.append(f"## Classes of `spikingjelly.activation_based.neuron` without a row\n\n{excluded}\n")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    parts.append(
        f"{_machine()}, {torch.get_num_threads()} threads, OMP_WAIT_POLICY={os.environ['OMP_WAIT_POLICY']}, "
        f"{versions}; {seconds:.0f} s in total.\n"
    )
    return "\n".join(parts)


def table(rows: dict[str, dict[str, Answer]], notes: dict[str, str]) -> str:
    """The table of a group, and the reasons of what is refused or wrong."""
    reasons: dict[str, str] = {}  # the first of each kind: others name other neurons
    lines = [_line(["net", *COLUMNS]), _line(["---"] * (len(COLUMNS) + 1))]
    for name, row in rows.items():
        cells = []
        for column in COLUMNS:
            answer = row[column]
            text = answer.text
            if answer.why:
                kind = _NAMED.sub("", answer.why)
                reasons.setdefault(kind, answer.why)
                text += f" [{list(reasons).index(kind) + 1}]"
            cells.append(text)
        lines.append(_line([name, *cells]))
    said = [f"- {name}: {notes[name]}." for name in rows if notes.get(name)]
    numbered = [f"{number}. {_plain(why)}" for number, why in enumerate(reasons.values(), start=1)]
    return "\n".join([*lines, "", *said, *([""] if said else []), *numbered, ""])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")


def _machine() -> str:
    maker = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor()
    )
    brand = " ".join(maker.split()[:2]) if maker else "CPU"
    return f"{brand} ({platform.machine()}), {os.cpu_count()} cores"


def _cpu_lines() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.exists() else []


def main(arguments: list[str] | None = None) -> int:
    """Runs the rows, and writes the page unless some were chosen."""
    given = parser().parse_args(arguments)
    start = time.perf_counter()
    found: dict[str, dict[str, dict[str, Answer]]] = {}
    notes: dict[str, str] = {}
    if uncovered := missing():
        print(f"classes of SpikingJelly without a row or a reason: {', '.join(uncovered)}")
    for group, rows in GROUPS.items():
        for case in rows():
            if given.only and not any(text.lower() in f"{group} {case.name}".lower() for text in given.only):
                continue
            began = time.perf_counter()
            found.setdefault(group, {})[case.name] = answers(case)
            notes[case.name] = case.note
            shown = ", ".join(f"{column}: {each.text}" for column, each in found[group][case.name].items())
            print(f"{case.name} ({time.perf_counter() - began:.1f} s): {shown}", flush=True)
    text = page(found, notes, time.perf_counter() - start)
    if given.only:
        print("\n" + text[text.index("\n## ") :] if found else "no row has this name")
    else:
        given.out.write_text(text)
        print(f"wrote {given.out}")
    wrong = [
        f"{name}, {column}: {each.text} {each.why}".rstrip()
        for rows in found.values()
        for name, row in rows.items()
        for column, each in row.items()
        if each.kind == "wrong"
    ]
    print("\n".join(wrong) if wrong else "no row is wrong")
    return 1 if wrong or uncovered or not found else 0


if __name__ == "__main__":
    sys.exit(main())
