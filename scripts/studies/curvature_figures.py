"""The figures of docs/curvature.md, from the results of which_hessian.py and one net that is trained here.

python scripts/studies/curvature_figures.py     # seconds; after which_hessian.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import which_hessian as study
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import snnrobust as sr
from snnrobust import training
from snnrobust.common.random import Draws
from snnrobust.report.plots import COLOURS, DASHES, MARKERS
from snnrobust_landscapes.loss.weights import WeightLandscape
from snnrobust_landscapes.operators.names import operator_spec
from snnrobust_landscapes.validity.plateau import hidden_parameters

FOLDER = Path("docs") / "figures"
EXAMPLE = study.Case("mlp", 4, 4.0, 0)
DRAWN = ("gauss-newton", "gauss-newton, own surrogates", "relaxed", "formal")
RNG = Draws(0, "figures")


def panels(count: int, width: float = 3.4, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Panels side by side."""
    figure = Figure(figsize=(width * count, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, count, k + 1) for k in range(count)]


def save(figure: Figure, name: str) -> None:
    """Writes a picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png")


def slices() -> None:
    """The loss along one random direction of the hidden weights at three scales, with the operators' predictions."""
    train = sr.data.load("digits").train
    model = sr.wrap(EXAMPLE.trained(train), steps=EXAMPLE.steps)
    figure, axes = panels(3)
    with model.session():
        landscape = WeightLandscape(model, train.take(256), logit_scale=training.RATE_SCALE)
        moving = hidden_parameters(landscape)
        d = landscape.direction(RNG)
        rest = landscape.flatten([torch.full_like(p, name in moving) for name, p in landscape.theta.items()])
        d = d * rest
        bends = {name: float(d @ _operator(landscape, name).apply(d[None])[0]) for name in DRAWN}
        start, slope = landscape.loss(0 * d).mean, float(landscape.gradient(0 * d) @ d)
        for panel, reach in zip(axes, (0.003, 0.03, 0.3), strict=True):
            x = np.linspace(-reach, reach, 401)
            y = [landscape.loss(float(a) * d).mean for a in x]
            panel.plot(x, y, color="black", linewidth=1.2, label=f"loss: {len(set(y))} values at 401 points")
            for k, (name, bend) in enumerate(bends.items()):
                panel.plot(x, start + slope * x + bend * x * x / 2, DASHES[k % 4], color=COLOURS[k], label=name)
            spread = max(y) - min(y)
            panel.set_ylim(min(y) - 0.3 * spread, max(y) + 0.3 * spread)
            panel.set_xlabel("move / filter norm")
        axes[0].set_ylabel("training loss")
        for panel in axes:
            panel.legend(fontsize=6)
    save(figure, "slices")


def _operator(landscape: WeightLandscape, name: str) -> Any:
    return operator_spec(study.OPERATORS[name]).on(landscape, 1.0, RNG)


def by_alpha(results: Mapping[study.Case, Any]) -> None:
    """Correlation as a share of the ceiling, and slope, over the sharpness of the surrogate."""
    figure, axes = panels(3, height=3.6)
    asked = (("random", 0.1, "correlation"), ("leading", 0.03, "correlation"), ("leading", 0.03, "slope"))
    for panel, (where, radius, what) in zip(axes, asked, strict=True):
        for k, name in enumerate(study.OPERATORS):
            middle = [
                np.median([each[what] for each in study.cells(results, name, where=where, radius=radius, alpha=alpha)])
                for alpha in study.ALPHAS
            ]
            panel.plot(study.ALPHAS, middle, DASHES[k % 4], marker=MARKERS[k], color=COLOURS[k], label=name)
        if what == "correlation":
            room = [
                np.median(
                    [
                        each["ceiling"]
                        for each in study.cells(results, DRAWN[0], where=where, radius=radius, alpha=alpha)
                    ]
                )
                for alpha in study.ALPHAS
            ]
            panel.fill_between(study.ALPHAS, room, 1.0, color="0.9", label="above the noise ceiling")
            panel.set_ylim(-0.6, 1)
        else:
            panel.axhline(1.0, color="0.6", linewidth=0.8)
            panel.set_yscale("symlog", linthresh=0.1)
        panel.set_xscale("log", base=2)
        panel.set_xticks(study.ALPHAS, [f"{alpha:g}" for alpha in study.ALPHAS])
        panel.set_title(f"{where} directions, radius {radius:g}", fontsize=9)
        panel.set_xlabel("ATan alpha in training")
        panel.set_ylabel("rank correlation" if what == "correlation" else "measured / predicted")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    save(figure, "by_alpha")


def scatter(results: Mapping[study.Case, Any]) -> None:
    """Predicted against measured curvature in each operator's leading directions, for one net."""
    figure, axes = panels(len(DRAWN), width=2.6)
    for panel, name in zip(axes, DRAWN, strict=True):
        (found,) = study.cells({EXAMPLE: results[EXAMPLE]}, name, where="leading", radius=0.03)
        panel.plot(found["predicted"], found["measured"], "o", markersize=3, color=COLOURS[0])
        ends = [min(found["predicted"] + [0]), max(found["predicted"])]
        panel.plot(ends, ends, "-", color="0.5", linewidth=0.8)
        panel.set_title(f"{name}\nrank {found['correlation']:.2f}, slope {found['slope']:.2g}", fontsize=8)
        panel.set_xlabel("predicted d'Md")
    axes[0].set_ylabel("measured curvature")
    save(figure, "scatter")


def main() -> None:
    """Writes all figures."""
    results = study.load_all()
    slices()
    by_alpha(results)
    scatter(results)


if __name__ == "__main__":
    main()
