"""Rasters and frames: each mark lies where a spike is, read back from what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import colors
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from torch import Tensor

from snnrobust.analysis.examples import AdversarialExamples
from snnrobust.errors import InputError, InputTypeError
from snnrobust.report import plots
from snnrobust.report.event_plots import ADDED, BOTH, COLUMNS, DELETED, KEPT, MOVED, POLARITIES, frames, raster


def pair(original: Tensor, x: Tensor, *, lengths: Tensor | None = None, label: str = "flips") -> AdversarialExamples:
    """Examples as an attack returns them, of inputs by hand [N, T, *]."""
    count = len(x)
    return AdversarialExamples(
        x=x.float(),
        original=original.float(),
        y=torch.arange(count),
        index=torch.arange(count) + 40,
        success=torch.ones(count, dtype=torch.bool),
        distance=torch.ones(count),
        logits=torch.eye(count + 1)[1:],
        member=(label,) * count,
        queries=torch.ones(count, dtype=torch.long),
        backwards=torch.ones(count, dtype=torch.long),
        model="net",
        label=label,
        threat="l0",
        epsilon=4.0,
        lengths=lengths,
    )


def sequences() -> AdversarialExamples:
    """[2, T = 4, F = 5]; the second sample: one spike of each fate."""
    before, after = torch.zeros(2, 4, 5), torch.zeros(2, 4, 5)
    before[1, :, 0], after[1, :, 0] = torch.tensor([1, 0, 1, 0]), torch.tensor([1, 0, 1, 0])  # kept twice
    before[1, :, 1], after[1, :, 1] = torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 0, 0])  # one deleted
    before[1, :, 3], after[1, :, 3] = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])  # one added
    before[1, :, 4], after[1, :, 4] = torch.tensor([1, 0, 0, 1]), torch.tensor([0, 0, 1, 1])  # one moved, one kept
    return pair(before, after)


def events() -> AdversarialExamples:
    """[1, T = 12, C = 2, H = 3, W = 4]."""
    before = torch.zeros(1, 12, 2, 3, 4)
    before[0, 0, 0, 0, 0] = before[0, 0, 1, 1, 1] = before[0, 0, 0, 2, 2] = before[0, 0, 1, 2, 2] = 1
    after = before.clone()
    after[0, 0, 0, 0, 0] = 0  # deleted at x = 0, y = 0
    after[0, 0, 1, 2, 3] = 1  # added at x = 3, y = 2
    after[0, 1, 0, 1, 2] = 1  # added in the second step, which the eight columns leave out
    return pair(before, after)


def marks(axes: Axes, name: str) -> set[tuple[float, float]]:
    """Where marks of a kind lie, as (x, y)."""
    (found,) = (each for each in axes.collections if isinstance(each, PathCollection) and each.get_label() == name)
    return {(float(x), float(y)) for x, y in np.asarray(found.get_offsets())}


def colour(axes: Axes, name: str) -> str:
    (found,) = (each for each in axes.collections if isinstance(each, PathCollection) and each.get_label() == name)
    return colors.to_hex(tuple(np.asarray(found.get_edgecolor())[0])).upper()


def names(figure: Figure) -> list[str]:
    return [text.get_text().strip("\u200b") for text in figure.legends[0].get_texts()]


def test_every_spike_has_its_mark() -> None:
    figure = raster(sequences(), 1)
    (axes,) = figure.axes
    # Rows from the top: features 0, 1, 3 and 4, since 2 never fires; steps from 1.
    assert marks(axes, "kept") == {(1, 0), (3, 0), (2, 1), (4, 3)}
    assert marks(axes, "deleted") == {(1, 1)}
    assert marks(axes, "added") == {(4, 2)}
    assert marks(axes, "moved from") == {(1, 3)}
    assert marks(axes, "moved later") == {(3, 3)}
    assert marks(axes, "moved earlier") == set()
    (paths,) = (each for each in axes.collections if isinstance(each, LineCollection))
    assert [path.tolist() for path in paths.get_segments()] == [[[1, 3], [3, 3]]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0", "1", "3", "4"]
    assert axes.yaxis_inverted()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Time step (from 1)", "Line (feature)")
    assert names(figure) == ["kept (4)", "deleted (1)", "added (1)", "moved (1, by ≤ 2)"]
    assert axes.get_title() == "flips, epsilon 4: sample 41, label 1, class 2"


def test_the_colours_of_marks_are_those_of_the_legend() -> None:
    figure = raster(sequences(), 1)
    wanted = {"kept": KEPT, "deleted": DELETED, "added": ADDED, "moved from": MOVED, "moved later": MOVED}
    assert {name: colour(figure.axes[0], name) for name in wanted} == wanted
    shown = [each.get_color() for each in figure.legends[0].get_lines()]  # the legend's own marks
    assert shown == [KEPT, DELETED, ADDED, MOVED]


def test_a_shift_can_be_drawn_as_two_flips() -> None:
    (axes,) = raster(sequences(), 1, retimed=False).axes
    assert marks(axes, "deleted") == {(1, 1), (1, 3)}
    assert marks(axes, "added") == {(4, 2), (3, 3)}
    assert marks(axes, "moved from") == marks(axes, "moved later") == set()


def test_a_move_to_an_earlier_step_points_back() -> None:
    found = sequences()
    (axes,) = raster(pair(found.x, found.original), 1).axes
    assert marks(axes, "moved earlier") == {(1, 3)}
    assert marks(axes, "moved from") == {(3, 3)}


def test_only_changed_lines() -> None:
    figure = raster(sequences(), 1, lines="changed")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "3", "4"]
    assert marks(axes, "kept") == {(2, 0), (4, 2)}
    assert names(figure)[0] == "kept (2)"  # of those shown
    assert marks(axes, "deleted") == {(1, 0)}


def test_pixels_are_named_by_channel_y_and_x() -> None:
    (axes,) = raster(events(), 0).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "0, 0, 0",
        "0, 1, 2",
        "0, 2, 2",
        "1, 1, 1",
        "1, 2, 2",
        "1, 2, 3",
    ]
    assert marks(axes, "added") == {(1, 5), (2, 1)}
    assert axes.get_ylabel() == "Pixel (channel, y, x)"


def test_several_spikes_at_one_place_are_one_larger_mark() -> None:
    before = torch.zeros(1, 3, 2)
    before[0, 0, 0], before[0, 1, 0] = 1, 3
    axes = raster(pair(before, before), 0).axes[0]
    (kept,) = (each for each in axes.collections if each.get_label() == "kept")
    sizes = np.asarray(kept.get_sizes())  # type: ignore[attr-defined]  # of a scatter
    assert sizes[1] == pytest.approx(3 * sizes[0])
    assert names(raster(pair(before, before), 0))[0] == "kept (4)"


def test_steps_past_the_end_are_shaded() -> None:
    found = sequences()
    shaded = raster(pair(found.original, found.x, lengths=torch.tensor([4, 3])), 1).axes[0].patches
    assert [each.get_label() for each in shaded] == ["padding"]
    assert (shaded[0].get_x(), shaded[0].get_width()) == (3.5, 1.0)  # type: ignore[attr-defined]  # a rectangle
    assert not raster(pair(found.original, found.x, lengths=torch.tensor([4, 3])), 0).axes[0].patches


def panels(figure: Figure) -> np.ndarray:
    return np.array(figure.axes, dtype=object).reshape(3, -1)


def test_frames_mark_what_was_added_and_deleted() -> None:
    figure = frames(events(), 0, steps=[1, 2])
    found = panels(figure)
    assert found.shape == (3, 2)
    assert marks(found[2, 0], "deleted") == {(0, 0)}
    assert marks(found[2, 0], "added") == {(3, 2)}
    assert marks(found[2, 1], "deleted") == set()
    assert marks(found[2, 1], "added") == {(2, 1)}
    assert not any(axes.collections for axes in found[:2].flat)
    assert names(figure) == ["deleted (1/1 shown)", "added (2/2 shown)", "channel 0", "channel 1", "both"]
    assert [axes.get_title() for axes in found[0]] == ["step 1", "step 2"]
    assert all(axes.get_xlabel() == "x (pixels)" for axes in found[2])
    rows = ("original", "attacked", "difference")
    assert [axes.get_ylabel() for axes in found[:, 0]] == [f"{name}\ny (pixels)" for name in rows]


def image(axes: Any) -> np.ndarray:
    (found,) = axes.get_images()
    return np.asarray(found.get_array())


def test_frames_have_the_colours_of_the_polarities() -> None:
    found = panels(frames(events(), 0, steps=[1]))
    before, after, difference = (image(axes) for axes in found[:, 0])
    first, second, both = (np.array(colors.to_rgb(each)) for each in (*POLARITIES, BOTH))
    coloured = {(0, 0): first, (1, 1): second, (2, 2): both}
    for y in range(3):
        for x in range(4):
            np.testing.assert_allclose(before[y, x], coloured.get((y, x), np.ones(3)))
    np.testing.assert_allclose(after[0, 0], 1)
    np.testing.assert_allclose(after[2, 3], second)
    grey = {(y, x) for y, x in np.ndindex(3, 4) if difference[y, x, 0] < 1}
    assert grey == {(1, 1), (2, 2)}  # what was kept


def test_at_most_eight_frames_are_chosen_evenly_and_the_legend_says_what_they_miss() -> None:
    figure = frames(events(), 0)
    titles = [axes.get_title() for axes in panels(figure)[0]]
    assert len(titles) == COLUMNS
    assert (titles[0], titles[-1]) == ("step 1", "step 12")
    gaps = np.diff([int(each.split()[1]) for each in titles])
    assert set(gaps) <= {1, 2}
    assert names(figure)[:2] == ["deleted (1/1 shown)", "added (1/2 shown)"]


@pytest.mark.parametrize("channels", [1, 3])
def test_other_numbers_of_channels_are_grey_and_more_spikes_darker(channels: int) -> None:
    before = torch.zeros(1, 2, channels, 2, 2)
    before[0, 0, 0, 0, 0], before[0, 0, 0, 0, 1] = 1, 4
    found = panels(frames(pair(before, before), 0))
    picture = image(found[0, 0])
    assert picture[0, 1, 0] < picture[0, 0, 0] < picture[1, 0, 0] == 1
    assert np.ptp(picture, axis=2).max() == 0
    assert names(frames(pair(before, before), 0)) == ["deleted (0/0 shown)", "added (0/0 shown)"]


FIGURES: dict[str, Callable[[], Figure]] = {
    "raster": lambda: raster(sequences(), 1),
    "pixels": lambda: raster(events(), 0),
    "empty": lambda: raster(sequences(), 0),
    "unchanged": lambda: raster(sequences(), 0, lines="changed"),
    "frames": lambda: frames(events(), 0, steps=[1, 2]),
    "dense": lambda: raster(pair(torch.ones(1, 60, 300), torch.ones(1, 60, 300)), 0),
    "long name": lambda: raster(pair(torch.ones(1, 2, 2), torch.ones(1, 2, 2), label="x$_\\frac{" * 9), 0),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_and_leave_no_state(name: str) -> None:
    before, managers = dict(matplotlib.rcParams), dict(Gcf.figs)
    figure = FIGURES[name]()
    content = plots.png(figure)
    assert content.startswith(b"\x89PNG")
    assert figure.get_size_inches()[1] < 10
    assert dict(matplotlib.rcParams) == before
    assert dict(Gcf.figs) == managers  # pyplot knows none of them
    if name in ("raster", "frames"):
        assert plots.png(FIGURES[name]()) == content


@pytest.mark.parametrize("name", ["raster", "pixels", "frames", "eight frames", "long name"])
def test_titles_and_legends_fit(name: str) -> None:
    figure = FIGURES[name]() if name in FIGURES else frames(events(), 0)
    figure.draw_without_rendering()
    titles = [each.title for each in figure.axes] + list(figure.texts)
    for text in titles:
        box = text.get_window_extent()
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.width + 1
    lowest = min(around.y0 for each in figure.axes if (around := each.get_tightbbox()) is not None)
    assert figure.legends[0].get_window_extent().y1 <= lowest + 1


@pytest.mark.parametrize(
    ("draw", "found", "sample", "more", "message"),
    [
        (raster, sequences(), 2, {}, "sample from 0 to 1, got 2"),
        (raster, sequences(), -1, {}, "sample from 0 to 1, got -1"),
        (raster, sequences(), True, {}, "sample from 0 to 1, got True"),
        (raster, sequences(), 0, {"lines": "all"}, "lines to be one of"),
        (raster, pair(torch.zeros(1, 9), torch.zeros(1, 9)), 0, {}, r"\[N, T, F\] or \[N, T, C, H, W\] for raster"),
        (raster, pair(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)), 0, {}, "got .1, 2, 3, 4.; flatten"),
        (raster, pair(torch.full((1, 2, 3), 0.3), torch.zeros(1, 2, 3)), 0, {}, "whole numbers of spikes"),
        (frames, sequences(), 0, {}, r"inputs \[N, T, C, H, W\] for frames.*draw a raster"),
        (frames, events(), 0, {"steps": []}, "time steps as a list"),
        (frames, events(), 0, {"steps": "12"}, "time steps as a list"),
        (frames, events(), 0, {"steps": [0]}, "time steps from 1 to 12, got 0"),
        (frames, events(), 0, {"steps": [13]}, "time steps from 1 to 12, got 13"),
    ],
)
def test_what_can_not_be_drawn_is_refused(draw: Any, found: Any, sample: Any, more: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(found, sample, **more)


@pytest.mark.parametrize("draw", [raster, frames])
def test_a_tensor_is_no_adversarial_example(draw: Any) -> None:
    with pytest.raises(InputTypeError, match="expected AdversarialExamples, got Tensor"):
        draw(torch.zeros(1, 2, 3), 0)


def test_a_flattened_copy_is_what_the_refusal_asks_for() -> None:
    """The remedy that the message names works."""
    found = pair(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    flat = replace(found, x=found.x.flatten(2), original=found.original.flatten(2))
    assert len(marks(raster(flat, 0).axes[0], "kept")) == 24


def steps_of(figure: Figure) -> Sequence[str]:
    return [axes.get_title() for axes in panels(figure)[0]]


def test_steps_in_the_order_given() -> None:
    assert steps_of(frames(events(), 0, steps=[5, 2])) == ["step 5", "step 2"]
