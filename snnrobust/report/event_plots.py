"""Figures of one sample before and after an attack: a raster of its spikes, and frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from snnrobust.analysis.examples import AdversarialExamples
from snnrobust.analysis.spike_changes import SpikeChanges, spike_changes
from snnrobust.common.validate import check_choice, check_flag, is_count
from snnrobust.errors import InputError, InputTypeError
from snnrobust.report.plots import WIDTH, legend, legend_height, new_figure, panel, plain
from snnrobust.wrapping.decision import predict

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = Literal["active", "changed"]

#: Colours of what happened to a spike; each also has a marker of its own.
KEPT, DELETED, ADDED, MOVED = "#999999", "#CC3311", "#0077BB", "#EE7733"
#: Colours of the two polarities, and of a pixel that has both.
POLARITIES, BOTH = ("#009988", "#DDAA33"), "#332288"
#: Longest title of a sample.
TITLE = 46
#: Frames side by side where no steps are named.
COLUMNS = 8
#: Inches of a raster between the smallest and the largest number of lines.
HEIGHTS = (1.3, 6.5)
#: Inches for a line of a raster.
LINE_HEIGHT = 0.11
#: Lines of a raster with a name each; of more only some have one.
NAMED_LINES = 24
#: Points of the smallest and the largest mark.
MARK = (1.0, 5.5)
#: Points of the smallest mark of a change, which has to be seen among many spikes.
CHANGE_MARK = 3.5


@dataclass(frozen=True)
class _Mark:
    """How spikes are marked: marker, colour, width of its outline in points, and whether it is filled."""

    marker: str
    colour: str
    width: float = 0.0
    filled: bool = True


#: Kind of change -> its mark; of moved spikes, where a later step is the new one.
MARKS = {
    "kept": _Mark("s", KEPT),
    "deleted": _Mark("x", DELETED, 1.2),
    "added": _Mark("o", ADDED),
    "moved": _Mark(">", MOVED),
}
#: Of the place that a moved spike left, of one that was moved to an earlier step, and of a frame's added spikes.
LEFT, EARLIER, RING = _Mark("o", MOVED, 1.0, False), _Mark("<", MOVED), _Mark("o", ADDED, 1.0, False)


def raster(found: AdversarialExamples, sample: int, *, lines: Lines = "active", retimed: bool = True) -> Figure:
    """Spikes of a sample over time, a row for each line, with what the attack did to each spike.

    Grey squares: kept. Red crosses: deleted. Blue circles: added. Orange: moved, from the hollow circle to the triangle
    at the other end of the line. Where a place holds several spikes the mark is larger, up to twice. A line is a
    feature of [T, F], or a pixel of [T, C, H, W] by channel, y and x; steps count from 1. Steps past a sequence's end
    are shaded.

    Args:
        found: Adversarial examples of spikes or numbers of spikes.
        sample: Position of the sample in `found`, from 0.
        lines: "active": all lines with a spike before or after; "changed": those that the attack changed, for samples
            with hundreds of lines.
        retimed: Whether a changed line with as many spikes as before has had them moved, in order of time; else all
            changes are deletions and additions, as counted by flips.

    Raises:
        InputError: For a position out of range, inputs that are not [N, T, F] or [N, T, C, H, W], or that are no whole
            numbers.

    Example:
        >>> import snnrobust as sr
        >>> from snnrobust.testing import tiny_data, tiny_model
        >>> task = sr.load("flips", norm="l0", epsilon=4)
        >>> found = sr.attack(tiny_model(temporal=True), tiny_data(temporal=True), task)
        >>> raster(found, 0).axes[0].get_xlabel()
        'Time step (from 1)'
    """
    check_choice("lines", lines, ("active", "changed"))
    check_flag("retimed", retimed)
    shown = _sample(found, sample, "raster", (2, 4))
    changes = spike_changes(shown.original, shown.changed, retimed=retimed)
    rows = changes.changed_lines if lines == "changed" else changes.active_lines  # [R] line of each row
    steps = changes.shape[0]
    height = float(np.clip(LINE_HEIGHT * len(rows), *HEIGHTS))
    names = _change_names(changes, rows)
    space = len(changes.shape) == 4
    kind = "Pixel (channel, y, x)" if space else "Line (feature)"
    figure, axes = panel(shown.title, "Time step (from 1)", kind, height + 0.9 + legend_height(list(names.values())))
    size = min(72 * height / max(1, len(rows)), 72 * 0.75 * WIDTH / steps)
    _draw_changes(axes, changes, rows, float(np.clip(0.75 * size, *MARK)))
    if shown.length is not None and shown.length < steps:
        axes.axvspan(shown.length + 0.5, steps + 0.5, color="#eeeeee", label="padding", zorder=0)
    if not len(rows):
        axes.text(0.5, 0.5, "no spikes" if lines == "active" else "no change", transform=axes.transAxes, ha="center")
    axes.set_xlim(0.5, steps + 0.5)
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    _whole_ticks(axes)
    every = max(1, -(-len(rows) // NAMED_LINES))
    where = list(range(0, len(rows), every))
    axes.set_yticks(where, [_line_name(int(rows[k]), changes.shape) for k in where])
    axes.tick_params(axis="y", labelsize=6)
    legend(figure, [_handle(MARKS[kind], "-" if kind == "moved" else "") for kind in names], list(names.values()))
    return figure


def frames(found: AdversarialExamples, sample: int, *, steps: Sequence[int] | None = None) -> Figure:
    """Frames of a sample: the original, after the attack, and the difference, a column for each time step.

    Of two channels each polarity has a colour, and pixels with both another; one channel, or the sum of more than two,
    is grey. More spikes are darker. In the difference, spikes that were kept are pale, a red cross marks a pixel where
    spikes were deleted, a blue circle one where they were added, of each channel. A spike that was moved in time is
    deleted from one frame and added to another: `raster` joins the two.

    Args:
        found: Adversarial examples of spikes or numbers of spikes, [N, T, C, H, W].
        sample: Position of the sample in `found`, from 0.
        steps: Time steps to show, from 1; None: at most eight, evenly spaced. The legend says how many of the changes
            lie in them.

    Raises:
        InputError: For a position or step out of range, inputs that are not [N, T, C, H, W], or that are no whole
            numbers.
    """
    shown = _sample(found, sample, "frames", (4,))
    changes = spike_changes(shown.original, shown.changed, retimed=False)
    count = len(shown.original)
    columns = _columns(steps, count)
    channels, height, width = shown.original.shape[1:]
    most = int(max(shown.original.max(), shown.changed.max(), 1))
    side = min(1.0, (WIDTH - 0.6) / len(columns))  # inches of a frame
    tall = float(np.clip(side * height / width, 0.3, 2.5))
    names = {
        kind: f"{kind} ({_within(part, columns)}/{int(part[:, 2].sum())} shown)"
        for kind, part in (("deleted", changes.deleted), ("added", changes.added))
    }
    polarities = ["channel 0", "channel 1", "both"] if channels == 2 else []
    figure = new_figure(3 * tall + 0.9 + legend_height([*names.values(), *polarities]))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.04, wspace=0.02, hspace=0.02)
    panels = figure.subplots(3, len(columns), squeeze=False)
    for column, step in enumerate(columns):
        kept = np.minimum(shown.original[step - 1], shown.changed[step - 1])
        pictures = (
            _coloured(shown.original[step - 1], most),
            _coloured(shown.changed[step - 1], most),
            1 - 0.3 * np.minimum(kept.sum(axis=0), 1)[..., None] * np.ones(3),
        )
        for row, picture in enumerate(pictures):
            axes = panels[row, column]
            axes.imshow(picture, interpolation="nearest")
            _bare(axes, column == 0, row == 2)
        panels[0, column].set_title(f"step {step}", fontsize=7)
        panels[2, column].set_xlabel("x (pixels)", fontsize=6)
        size = float(np.clip(0.8 * 72 * side / width, 2.0, MARK[1]))
        _mark_changes(panels[2, column], changes, step, size)
    for row, name in enumerate(("original", "attacked", "difference")):
        panels[row, 0].set_ylabel(f"{name}\ny (pixels)", fontsize=7)
    figure.suptitle(shown.title, fontsize=10, fontweight="bold")
    handles = [_handle(MARKS["deleted"]), _handle(RING)]
    handles += [_handle(_Mark("s", colour)) for colour in (*POLARITIES, BOTH)[: len(polarities)]]
    legend(figure, handles, [*names.values(), *polarities])
    return figure


@dataclass(frozen=True, eq=False)
class _Sample:
    """One sample: spikes before and after [T, *], its title, and its valid steps where they are known."""

    original: np.ndarray
    changed: np.ndarray
    title: str
    length: int | None


def _sample(found: AdversarialExamples, sample: int, figure: str, axes: tuple[int, ...]) -> _Sample:
    if not isinstance(found, AdversarialExamples):
        raise InputTypeError(
            f"expected AdversarialExamples, got {type(found).__name__}; pass what sr.attack or Report.examples returned"
        )
    if not is_count(sample, 0) or sample >= len(found):
        raise InputError(
            f"expected a sample from 0 to {len(found) - 1}, got {sample!r}; give a position in these examples"
        )
    if found.x.ndim - 1 not in axes:
        known = " or ".join({2: "[N, T, F]", 4: "[N, T, C, H, W]"}[each] for each in axes)
        remedy = "flatten or reshape x and original with dataclasses.replace"
        if axes == (4,) and found.x.ndim == 3:
            remedy = "draw a raster of sequences without pixels"
        raise InputError(f"expected inputs {known} for {figure}, got {list(found.x.shape)}; {remedy}")
    got = int(predict(found.logits[sample : sample + 1])[0])
    words = (
        f"sample {int(found.index[sample])}, label {int(found.y[sample])}, {'silent' if got < 0 else f'class {got}'}"
    )
    radius = f", epsilon {found.epsilon:.4g}"
    radius = radius if len(found.label + radius + words) + 2 <= TITLE else ""
    title = f"{plain(found.label, TITLE - len(radius + words) - 2)}{radius}: {words}"
    length = None if found.lengths is None else int(found.lengths[sample])
    return _Sample(found.original[sample].numpy(), found.x[sample].numpy(), title, length)


def _change_names(changes: SpikeChanges, rows: np.ndarray) -> dict[str, str]:
    """Kind of change -> how the legend names it, with the number of spikes in the lines shown."""
    counts = {kind: int(_in_rows(getattr(changes, kind), rows)[:, -1].sum()) for kind in MARKS}
    names = {kind: f"{kind} ({count})" for kind, count in counts.items()}
    if counts["moved"]:
        shift = np.abs(changes.moved[:, 2] - changes.moved[:, 1])
        names["moved"] = f"moved ({counts['moved']}, by ≤ {int(shift.max())})"
    return names


def _draw_changes(axes: Axes, changes: SpikeChanges, rows: np.ndarray, size: float) -> None:
    """Marks all spikes; `rows` [R] are the lines from the top down, `size` is that of a mark in points."""
    from matplotlib.collections import LineCollection

    change = max(size, CHANGE_MARK)
    for order, kind in enumerate(("kept", "deleted", "added"), start=2):
        row, step, count = _in_rows(getattr(changes, kind), rows).T
        _scatter(axes, step + 1, row, count, size if kind == "kept" else change, MARKS[kind], kind, order)
    moved = _in_rows(changes.moved, rows)  # [D, 4]
    start, end = (np.stack([moved[:, k] + 1, moved[:, 0]], axis=1) for k in (1, 2))  # [D, 2] as (step, row)
    paths = LineCollection(list(np.stack([start, end], axis=1)), colors=MOVED, linewidths=1.1, label="moved", zorder=5)
    axes.add_collection(paths)
    _scatter(axes, start[:, 0], start[:, 1], moved[:, 3], change, LEFT, "moved from", 6)
    later = moved[:, 2] > moved[:, 1]
    for mark, name, chosen in ((MARKS["moved"], "moved later", later), (EARLIER, "moved earlier", ~later)):
        _scatter(axes, end[chosen, 0], end[chosen, 1], moved[chosen, 3], change, mark, name, 7)


def _in_rows(entries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The entries whose line is drawn, with the row in the place of the line."""
    drawn = entries[np.isin(entries[:, 0], rows)].copy()
    drawn[:, 0] = np.searchsorted(rows, drawn[:, 0])
    return drawn


def _scatter(
    axes: Axes, x: np.ndarray, y: np.ndarray, count: np.ndarray, points: float, mark: _Mark, name: str, order: int
) -> None:
    """Marks of a size in points, larger for several spikes."""
    axes.scatter(
        x,
        y,
        s=points**2 * np.minimum(count, 4),
        marker=mark.marker,
        color=mark.colour if mark.filled else None,
        edgecolors=None if mark.filled else mark.colour,
        facecolors=None if mark.filled else "none",
        linewidths=mark.width,
        label=name,
        zorder=order,
    )


def _handle(mark: _Mark, line: Literal["-", ""] = "") -> Artist:
    """A mark of a legend."""
    from matplotlib.lines import Line2D

    face = mark.colour if mark.filled else "none"
    return Line2D([], [], linestyle=line, color=mark.colour, marker=mark.marker, markersize=5, markerfacecolor=face)


def _line_name(line: int, shape: tuple[int, ...]) -> str:
    """E.g. "17", or "1, 4, 20" of a pixel."""
    return ", ".join(str(int(each)) for each in np.unravel_index(line, shape[1:]))


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))


def _columns(steps: Sequence[int] | None, count: int) -> list[int]:
    """The time steps to show, from 1."""
    if steps is None:
        return sorted({round(each) for each in np.linspace(1, count, min(count, COLUMNS)).tolist()})
    if isinstance(steps, str) or not isinstance(steps, Sequence) or not steps:
        raise InputError(f"expected time steps as a list, got {steps!r}; give some from 1 to {count}")
    if wrong := [each for each in steps if not is_count(each) or each > count]:
        raise InputError(f"expected time steps from 1 to {count}, got {wrong[0]!r}; they count from 1")
    return list(steps)


def _within(entries: np.ndarray, columns: Sequence[int]) -> int:
    """Number of spikes of the entries that lie in the steps shown."""
    return int(entries[np.isin(entries[:, 1] + 1, columns), 2].sum())


def _coloured(frame: np.ndarray, most: int) -> np.ndarray:
    """A frame [C, H, W] on white, [H, W, 3]: a colour for each of two polarities, grey else; more spikes are darker."""
    from matplotlib.colors import to_rgb

    total: np.ndarray = frame.sum(axis=0)  # [H, W]
    if len(frame) == 2:
        first, second, both = (np.array(to_rgb(each)) for each in (*POLARITIES, BOTH))
        has_first, has_second = frame[:, :, :, None] > 0  # [H, W, 1] each
        colour = np.where(has_first, np.where(has_second, both, first), second)
    else:
        colour = np.full((*total.shape, 3), 0.2)
    weight = np.where(total > 0, 0.5 + 0.5 * np.minimum(total / most, 1), 0.0)[:, :, None]
    return np.asarray(1 - weight * (1 - colour))


def _bare(axes: Axes, first: bool, last: bool) -> None:
    """Pixel numbers only at the left and at the bottom."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.tick_params(labelsize=6, length=2, labelleft=first, labelbottom=last)


def _mark_changes(axes: Axes, changes: SpikeChanges, step: int, size: float) -> None:
    """Marks what was deleted and added in a frame."""
    for kind, mark in (("deleted", MARKS["deleted"]), ("added", RING)):
        entries = getattr(changes, kind)
        here = entries[entries[:, 1] == step - 1]
        _, y, x = np.unravel_index(here[:, 0], changes.shape[1:])
        _scatter(axes, x, y, np.minimum(here[:, 2], 1), size, mark, kind, 3)
