"""Figures of a report. Most have one panel; all have the same width and are readable on a phone."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from snnrobust.results.artifacts import Surface

# Matplotlib takes half a second to import, so the functions import it when they are called.
if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

DPI = 200
WIDTH = 4.2
COLOURS = ("#0077BB", "#CC3311", "#009988", "#EE7733", "#AA4499", "#33BBEE", "#555555", "#DDAA33")
MARKERS = "osD^vPX*h"
DASHES = ("-", "--", "-.", ":")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oooo")
#: Characters of a name that fit into a legend.
NAME_LENGTH = 34
#: The same where the legend has one column.
ONE_COLUMN_LENGTH = 46
#: Ratio of the largest to the smallest value above which a surface gets logarithmic levels.
LOG_RATIO = 30.0


@dataclass(frozen=True)
class PlotLine:
    """A named curve: positions, values and 95 % intervals (NaN where unknown)."""

    name: str
    x: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def lines(curves: Sequence[PlotLine], title: str, x_label: str, y_label: str) -> Figure:
    """Shares in percent over a strength or over time, with error bars."""
    names = [curve.name for curve in curves]
    figure, axes = panel(title, x_label, f"{y_label} (%)", 3.0 + legend_height(names))
    handles = []
    for k, curve in enumerate(curves):
        colour, dash = COLOURS[k % len(COLOURS)], DASHES[k % len(DASHES)]
        value, low, high = (100 * np.asarray(each, dtype=np.float64) for each in (curve.value, curve.low, curve.high))
        (handle,) = axes.plot(
            curve.x, value, dash, color=colour, marker=MARKERS[k % len(MARKERS)], markersize=4.5, linewidth=1.4
        )
        handles.append(handle)
        known = np.isfinite(low) & np.isfinite(high)
        if known.any():
            x = np.asarray(curve.x)[known]
            spread = np.maximum(0, [(value - low)[known], (high - value)[known]])
            axes.errorbar(
                x, value[known], yerr=spread, fmt="none", ecolor=colour, elinewidth=0.9, capsize=2.5, alpha=0.8
            )
    axes.set_ylim(-2, 102)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    legend(figure, handles, names)
    return figure


def bars(names: Sequence[str], layers: Sequence[str], values: np.ndarray, title: str, x_label: str) -> Figure:
    """A bar for each model and layer: `values` [model, layer], NaN where a model has no such layer."""
    figure, axes = panel(title, x_label, "Layer", 0.9 + legend_height(names) + len(layers) * (0.12 + 0.13 * len(names)))
    position, height = np.arange(len(layers)), 0.82 / len(names)
    handles = []
    for k, row in enumerate(values):
        drawn = axes.barh(
            position + (k - (len(names) - 1) / 2) * height,
            row,
            height,
            color=COLOURS[k % len(COLOURS)],
            hatch=HATCHES[k % len(HATCHES)],
            edgecolor="white",
            linewidth=0.5,
        )
        handles.append(drawn.patches[0])
    axes.set_yticks(position, [plain(layer) for layer in layers])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    legend(figure, handles, names)
    return figure


def levels(surfaces: Sequence[Surface]) -> dict[str, np.ndarray]:
    """Contour levels of each quantity, the same for all surfaces, so that colours are comparable."""
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for surface in surfaces for name in surface.values):
        values = np.concatenate([surface.values[name].ravel() for surface in surfaces if name in surface.values])
        values = values[np.isfinite(values)].astype(np.float64)
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        if name == "accuracy":
            found[name] = np.linspace(0, 1, 11)
        elif low > 0 and high / low > LOG_RATIO:
            found[name] = np.geomspace(low, high, 13)
        else:
            found[name] = np.linspace(low, high if high > low else low + 1, 13)
    return found


def surface(drawn: Surface, shared: dict[str, np.ndarray], title: str) -> Figure:
    """Filled contours of each quantity, one below the other; a cross marks the unperturbed model."""
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    figure = new_figure(0.3 + 3.1 * len(drawn.values))
    figure.set_layout_engine("constrained", hspace=0.08)
    panels = figure.subplots(len(drawn.values), 1, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, drawn.values.items(), strict=True):
        label(axes, f"{title}: {name}", drawn.axes[0], "")
        axes.set_ylabel("\n".join(plain(part, 40) for part in drawn.axes[1].split(" / ")), fontsize=9)
        share = name == "accuracy"
        bounds, shown = (100 * shared[name], 100 * values) if share else (shared[name], values)
        if not np.isfinite(shown).any():
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", fontsize=9)
            continue
        colours = colormaps["viridis" if share else "magma_r"]
        norm, shown = BoundaryNorm(bounds, colours.N), np.ma.masked_invalid(shown)
        if min(shown.shape) > 1:
            image: ScalarMappable = axes.contourf(drawn.x, drawn.y, shown, levels=bounds, norm=norm, cmap=colours)
            inside = bounds[(bounds > shown.min()) & (bounds < shown.max())]
            if len(inside):
                axes.contour(drawn.x, drawn.y, shown, levels=inside, colors="black", linewidths=0.3, alpha=0.5)
        else:
            image = axes.pcolormesh(drawn.x, drawn.y, shown, norm=norm, cmap=colours, shading="nearest")
        if drawn.x.min() <= 0 <= drawn.x.max() and drawn.y.min() <= 0 <= drawn.y.max():
            axes.plot(0, 0, "+", color="white", markersize=12, markeredgewidth=3)
            axes.plot(0, 0, "+", color="black", markersize=10, markeredgewidth=1.2)
        bar = figure.colorbar(image, ax=axes, ticks=bounds[:: 2 if share else 3], format="%.3g")
        bar.set_label("Accuracy (%)" if share else plain(name.capitalize()), fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return figure


def heat_map(rows: Sequence[str], columns: Sequence[str], values: np.ndarray, title: str) -> Figure:
    """Shares [row, column] as a heat map in percent, with the numbers; NaN is shown as a dash."""
    height = 1.5 + 0.42 * len(rows) + 0.05 * max(min(len(name), 16) for name in columns)
    figure, axes = panel(title, "Target model", "Source model", height)
    image = axes.imshow(np.ma.masked_invalid(100 * values), cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        known = bool(np.isfinite(value))
        text, colour = (f"{100 * value:.1f}", "white" if value < 0.6 else "black") if known else ("–", "black")
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    turned = len(columns) * max(len(name) for name in columns) > 30
    axes.set_xticks(range(len(columns)), [plain(name, 16) for name in columns], rotation=45 if turned else 0)
    axes.set_yticks(range(len(rows)), [plain(name, 16) for name in rows])
    bar = figure.colorbar(image, ax=axes, ticks=range(0, 101, 20))
    bar.set_label("Robust accuracy (%)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure always gives the same bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def new_figure(height: float) -> Figure:
    """An empty figure of the standard width; the height is in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def panel(title: str, x_label: str, y_label: str, height: float) -> tuple[Figure, Axes]:
    """A figure with one panel, its title and axis labels; the height is in inches."""
    figure = new_figure(height)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    label(axes, title, x_label, y_label)
    return figure, axes


def label(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Sets the title and axis labels of a panel."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(plain(title, 48), fontsize=10, fontweight="bold")
    axes.set_xlabel(plain(x_label, 60), fontsize=9)
    axes.set_ylabel(plain(y_label, 48), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """A legend below the panel."""
    length = NAME_LENGTH if _legend_columns(names) > 1 else ONE_COLUMN_LENGTH
    figure.legend(
        # Matplotlib leaves names with a leading underscore out of the legend; the zero-width space prevents that.
        list(handles),
        [f"\u200b{plain(name, length)}" for name in names],
        loc="outside lower center",
        ncols=_legend_columns(names),
        fontsize=8,
        frameon=False,
        handlelength=3.2,
        columnspacing=1.2,
    )


def _legend_columns(names: Sequence[str]) -> int:
    longest = max((min(len(name), NAME_LENGTH) for name in names), default=1)
    return max(1, min(4, len(names), 58 // (longest + 9)))


def legend_height(names: Sequence[str]) -> float:
    """Height of the legend in inches."""
    return 0.1 + 0.17 * math.ceil(len(names) / _legend_columns(names))


def plain(text: str, length: int = NAME_LENGTH) -> str:
    """The text as one line of limited length, with markup escaped."""
    line = " ".join(text.split())
    if len(line) > length:
        line = f"{line[: length // 2]}…{line[len(line) - length // 2 + 1 :]}"
    return line.replace("$", r"\$")
