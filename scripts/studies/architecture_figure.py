"""The picture of docs/architecture.md: the layers, and the files that one step of PGD visits, in order.

    python scripts/studies/architecture_figure.py       # seconds; writes docs/figures/architecture.png

The layers are those that import-linter holds (pyproject.toml), the files those that pgd_step.py sees.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from matplotlib.figure import Figure
from pgd_step import ROOT, trip

FIGURE = ROOT / "docs" / "figures" / "architecture.png"
#: Not layers that hold anything: the former paths, and the command line's second name.
LEFT_OUT = {"nets", "partial", "spike_gradient", "__main__"}


def layers() -> list[list[str]]:
    """The layers from the top, the independent ones of a line together, with the two plugin packages among them."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    lines = next(each["layers"] for each in linter["contracts"] if each["name"] == "layers of the core")
    found = [[name.strip() for name in line.split("|") if name.strip() not in LEFT_OUT] for line in lines]
    found = [line for line in found if line]
    # The plugin packages stand right above the highest layer that they may import.
    found.insert(found.index(["objectives", "spike_gradients"]), ["snnrobust_attacks"])
    found.insert(found.index(["acceleration"]), ["snnrobust_landscapes"])
    return found


def main() -> None:
    lines = layers()
    height = {name: len(lines) - 1 - k for k, line in enumerate(lines) for name in line}
    files = list(dict.fromkeys(file for file, _ in trip(accelerate=True)))
    parts = [Path(file).parts[1:] for file in files]  # ("snnrobust", "search", "loop.py") without the first
    at = [height[part[0]] for part in parts]
    stems = [Path(part[-1]).stem for part in parts]
    names = [stem if stems.count(stem) == 1 else f"{part[0]}: {stem}" for stem, part in zip(stems, parts, strict=True)]
    figure = Figure(figsize=(11, 7.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for y in range(len(lines)):
        axes.axhspan(y - 0.5, y + 0.5, color="#e8edf4" if y % 2 else "#f6f8fb", zorder=0)
    axes.plot(range(len(files)), at, color="#9aa7b8", linewidth=1, zorder=1)
    axes.scatter(range(len(files)), at, color="#1f5fa8", s=28, zorder=2)
    for x, (name, y) in enumerate(zip(names, at, strict=True)):
        axes.annotate(
            f"{x + 1}  {name}",
            (x, y),
            xytext=(3, 6),
            textcoords="offset points",
            rotation=35,
            fontsize=8,
            ha="left",
        )
    axes.set_yticks([len(lines) - 1 - k for k in range(len(lines))], [", ".join(line) for line in lines], fontsize=9)
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(files) + 0.8)
    axes.set_ylim(-0.5, len(lines) + 0.2)
    axes.set_title("Layers: each imports only what stands below it. The line: one step of PGD", fontsize=11)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)


if __name__ == "__main__":
    main()
