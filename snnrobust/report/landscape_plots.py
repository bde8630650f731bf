"""Figures of loss landscapes: surfaces in space, spectra, eigenvalues, predicted against measured, and profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from snnrobust.report.plots import (
    COLOURS,
    DASHES,
    HATCHES,
    LOG_RATIO,
    MARKERS,
    label,
    legend,
    legend_height,
    new_figure,
    panel,
    plain,
)
from snnrobust.results.artifacts import Profile, Scatter, Spectrum, Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D  # type: ignore[import-untyped]  # matplotlib ships no annotations for mpl_toolkits

#: Share of the highest peak under which a density is not drawn: there it is only the broadening.
FAINT = 1e-6
#: Ratio of the largest to the smallest position above which positions are drawn on a logarithmic scale.
LOG_POSITIONS = 5.0


def surface_3d(drawn: Surface, levels: np.ndarray, title: str) -> Figure | None:
    """The loss over the plane as a surface in space; None where it has no area or is not finite.

    Args:
        drawn: The surface.
        levels: Contour levels of its loss; the height is logarithmic where these are.
        title: Of the panel.
    """
    loss = drawn.values.get("loss")
    if loss is None or min(loss.shape) < 2 or not np.isfinite(loss).all():
        return None
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(3.6)
    axes: Axes3D = figure.add_subplot(projection="3d")
    steep = bool(levels[0] > 0 and levels[-1] / levels[0] > LOG_RATIO)
    height, ends = (np.log10(loss), np.log10(levels)) if steep else (loss, levels)
    x, y = np.meshgrid(drawn.x, drawn.y)
    axes.plot_surface(
        x,
        y,
        height,
        cmap="magma_r",
        vmin=ends[0],
        vmax=ends[-1],
        rcount=51,
        ccount=51,
        linewidth=0.15,
        edgecolor="#444",
    )
    axes.set_title(plain(f"{title}: loss", 48), fontsize=10, fontweight="bold", pad=0)
    for name, put in zip(drawn.axes, (axes.set_xlabel, axes.set_ylabel), strict=True):
        put(plain(name.partition(" / ")[0], 32), fontsize=7)  # the contours beside it have the unit too
    axes.set_zlabel("log10 of the loss" if steep else "Loss", fontsize=7)
    axes.set_zlim(ends[0], ends[-1])
    axes.tick_params(labelsize=7, pad=-1)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.set_box_aspect((1, 1, 0.75), zoom=1.0)
    figure.subplots_adjust(left=0.0, right=0.88, bottom=0.06, top=0.94)
    return figure


def spectral_density(drawn: Spectrum, title: str) -> Figure:
    """A spectral density on a logarithmic scale, as few of a net's eigenvalues are outside of the bulk."""
    figure, axes = panel(title, drawn.axis, "Density", 3.0)
    peak = float(drawn.density[np.isfinite(drawn.density)].max(initial=0.0))
    if peak == 0:
        axes.text(0.5, 0.5, "no density", transform=axes.transAxes, ha="center", fontsize=9)
        return figure
    shown = np.maximum(np.nan_to_num(drawn.density), FAINT * peak)
    axes.fill_between(drawn.x, FAINT * peak, shown, color=COLOURS[0], alpha=0.2, linewidth=0)
    axes.semilogy(drawn.x, shown, color=COLOURS[0], linewidth=1.2)
    axes.set_ylim(FAINT * peak, 3 * peak)
    axes.axvline(0, color="black", linewidth=0.7)
    _grid(axes)
    return figure


def eigenvalues(values: Mapping[str, np.ndarray], rows: Sequence[str], title: str, axis: str) -> Figure:
    """Bars with their errors, one colour for each operator; hollow ones have no known error.

    Args:
        values: Operator -> value, low and high of each row [R, 3]; NaN where it has none.
        rows: The name of each row: a rank or a layer.
        title: Of the panel.
        axis: The label of the vertical axis, "Rank" or "Layer".
    """
    names = list(values)
    height = 0.9 + legend_height(names) + len(rows) * (0.12 + 0.13 * len(names))
    figure, axes = panel(title, "Eigenvalue", axis, height)
    position, thick = np.arange(len(rows)), 0.82 / len(names)
    handles = []
    for k, each in enumerate(values.values()):
        value, low, high = each.T
        at = position + (k - (len(names) - 1) / 2) * thick
        colour, hatch = COLOURS[k % len(COLOURS)], HATCHES[k % len(HATCHES)]
        bars = axes.barh(at, value, thick, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
        handles.append(bars.patches[0])
        known = np.isfinite(low) & np.isfinite(high)
        for bar in (bars.patches[k] for k in np.flatnonzero(np.isfinite(value) & ~known)):
            bar.set(facecolor="none", edgecolor=colour, linewidth=1, linestyle="--")
        if known.any():
            spread = np.maximum(0, [(value - low)[known], (high - value)[known]])
            axes.errorbar(value[known], at[known], xerr=spread, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    _far_apart([float(np.nanmax(np.abs(each[:, 0]), initial=0.0)) for each in values.values()], axes)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(position, [plain(row) for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    legend(figure, handles, names)
    return figure


def scatter(drawn: Scatter, title: str) -> Figure:
    """Measured over predicted values, with the line on which both are equal."""
    names = list(drawn.points)
    figure, axes = panel(title, *drawn.axes, 3.6 + legend_height(names))
    handles = []
    for k, points in enumerate(drawn.points.values()):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        handles.append(
            axes.scatter(points[:, 0], points[:, 1], s=12, color=colour, marker=marker, alpha=0.65, linewidth=0)
        )
    every = np.concatenate([np.zeros((1, 2)), *drawn.points.values()])
    every = every[np.isfinite(every).all(axis=1)]
    low, high = float(every.min()), float(every.max())
    sizes = np.abs(every[every != 0])
    if len(sizes) and sizes.max() > LOG_RATIO * np.median(sizes):  # small radii would all lie at 0
        ends = (1.5 * low, 1.5 * high)
        for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            linear = float(np.median(sizes)) / 3
            scale("symlog", linthresh=linear)
            axis.set_ticks(_ticks(*ends, linear))
    else:
        room = 0.06 * (high - low) or 1.0
        ends = (low - room, high + room)
    axes.plot(ends, ends, color="black", linewidth=0.9, linestyle="--")
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    _grid(axes)
    legend(figure, handles, names)
    return figure


def profile(drawn: Profile, title: str) -> Figure:
    """Quantities over one number, with the accuracy, in percent, in a separate panel below."""
    kinds = [
        [name for name in drawn.values if name != "accuracy"],
        [name for name in drawn.values if name == "accuracy"],
    ]
    shown = [names for names in kinds if names]
    several = [names for names in shown if len(names) > 1]
    extra = sum(map(legend_height, several))
    figure = new_figure(0.3 + extra + (2.9 if len(shown) < 2 else 2.1 * len(shown)))
    figure.set_layout_engine("constrained", hspace=0.06)
    panels = figure.subplots(max(1, len(shown)), 1, squeeze=False)[:, 0]
    for axes, names in zip(panels, shown, strict=False):
        share = names == ["accuracy"]
        label(axes, title if axes is panels[0] else "Accuracy", drawn.axis, _quantity(names))
        handles = []
        for k, name in enumerate(names):
            value = np.where(np.isfinite(drawn.values[name]), drawn.values[name], np.nan)
            look = {"color": COLOURS[2] if share else COLOURS[k % len(COLOURS)], "linestyle": DASHES[k % len(DASHES)]}
            marker = MARKERS[k % len(MARKERS)] if len(drawn.x) <= 25 else ""
            handles += axes.plot(
                drawn.x, 100 * value if share else value, marker=marker, markersize=4, linewidth=1.3, **look
            )
        if share:
            axes.set_ylim(-2, 102)
        if len(drawn.x) and drawn.x.min() > 0 and drawn.x.max() > LOG_POSITIONS * drawn.x.min():
            axes.set_xscale("log")
            axes.set_xticks(drawn.x, [f"{x:.3g}" for x in drawn.x], minor=False)
            axes.minorticks_off()
        elif len(drawn.x) and drawn.x.min() < 0 < drawn.x.max():
            axes.axvline(0, color="black", linewidth=0.7)
        _grid(axes)
        if len(names) > 1:
            legend(figure, handles, names)
    return figure


def _quantity(names: Sequence[str]) -> str:
    """The label of a panel's vertical axis."""
    if names == ["accuracy"]:
        return "Accuracy (%)"
    kinds = {name.partition(", ")[0] for name in names}  # "loss rise, ascent" and "loss rise, random" are one
    return kinds.pop().capitalize() if len(kinds) == 1 else "Loss"


def _far_apart(largest: Sequence[float], axes: Axes) -> None:
    """A scale linear up to the smallest operator's largest value and logarithmic beyond, if others are far larger."""
    known = [each for each in largest if each > 0]
    if known and max(known) > LOG_RATIO * min(known):
        axes.set_xscale("symlog", linthresh=min(known))
        axes.set_xticks(_ticks(*axes.get_xlim(), min(known)))


def _ticks(low: float, high: float, linear: float) -> list[float]:
    """At most three powers of ten to each side of 0, clear of the part around it that is linear."""
    largest = math.floor(math.log10(max(-low, high, linear)))
    least = math.ceil(math.log10(3 * linear))
    powers = [10.0**power for power in range(largest, least - 1, -max(1, math.ceil((largest - least + 1) / 3)))]
    return sorted([0.0, *(side * each for each in powers for side in (1, -1) if low <= side * each <= high)])


def _grid(axes: Axes) -> None:
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
