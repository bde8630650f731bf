"""Figures over the time steps: accuracy, margins and attack success."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from snnrobust.report.plots import COLOURS, DASHES, MARKERS, label, legend, legend_height, new_figure
from snnrobust.results.artifacts import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: Steps above which points have no markers.
MARKED = 32
STEPS = "Time (steps)"


def margins_by_step(profiles: Sequence[Profile], names: Sequence[str], title: str) -> Figure:
    """Mean margins over the time steps, and the shares of ties below in percent; a line for each profile.

    Args:
        profiles: Each with "mean margin" and "ties".
        names: Their names.
        title: Of the figure.
    """
    upper, lower, figure = _two_panels(names)
    label(upper, title, STEPS, "Mean margin (logits)")
    label(lower, "Ties", STEPS, "Ties (%)")
    handles = []
    for k, each in enumerate(profiles):
        handles.append(_line(upper, each.x, each.values["mean margin"], k))
        _line(lower, each.x, 100 * each.values["ties"], k)
    upper.axhline(0, color="black", linewidth=0.7)
    lower.set_ylim(-2, 102)
    _finish(figure, (upper, lower), handles, names)
    return figure


def attack_by_step(
    steps: np.ndarray,
    shares: Mapping[str, np.ndarray],
    last_interval: np.ndarray,
    margins: Mapping[str, np.ndarray],
    title: str,
) -> Figure:
    """Shares over the time steps in percent, and margins below.

    Args:
        steps: 1 ... T, [T].
        shares: Name -> share, [T].
        last_interval: 95 % interval of the last of the shares, [T, 2], drawn as a band.
        margins: Name -> margin of each sample, [T, N]; the mean is a line, the quartiles a band.
        title: Of the figure.
    """
    names = list(shares)
    upper, lower, figure = _two_panels(names)
    label(upper, title, STEPS, "Samples (%)")
    label(lower, "Margin: mean, and quartiles as a band", STEPS, "Margin (logits)")
    handles = [_line(upper, steps, 100 * share, k) for k, share in enumerate(shares.values())]
    _band(upper, steps, 100 * last_interval[:, 0], 100 * last_interval[:, 1], len(names) - 1)
    for k, each in enumerate(margins.values()):
        finite = np.where(np.isfinite(each), each, np.nan)
        with warnings.catch_warnings():  # of steps without a finite margin, which are left out
            warnings.filterwarnings("ignore", "(Mean of empty slice|All-NaN slice encountered)")
            low, high = np.nanquantile(finite, [0.25, 0.75], axis=1)
            mean = np.nanmean(finite, axis=1)
        _line(lower, steps, mean, k)
        _band(lower, steps, low, high, k)
    lower.axhline(0, color="black", linewidth=0.7)
    upper.set_ylim(-2, 102)
    _finish(figure, (upper, lower), handles, names)
    return figure


def _two_panels(names: Sequence[str]) -> tuple[Axes, Axes, Figure]:
    figure = new_figure(4.6 + legend_height(names))
    figure.set_layout_engine("constrained", hspace=0.06)
    upper, lower = figure.subplots(2, 1)
    return upper, lower, figure


def _line(axes: Axes, x: np.ndarray, value: np.ndarray, k: int) -> Line2D:
    """The k-th line of a panel, told apart by colour, dash and marker."""
    (handle,) = axes.plot(
        x,
        np.where(np.isfinite(value), value, np.nan),
        DASHES[k % len(DASHES)],
        color=COLOURS[k % len(COLOURS)],
        marker=MARKERS[k % len(MARKERS)] if len(x) <= MARKED else "",
        markersize=4,
        linewidth=1.3,
    )
    return handle


def _band(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, k: int) -> None:
    axes.fill_between(x, low, high, color=COLOURS[k % len(COLOURS)], alpha=0.15, linewidth=0)


def _finish(figure: Figure, panels: Sequence[Axes], handles: Sequence[Line2D], names: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    legend(figure, handles, names)
