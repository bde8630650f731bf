from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from snnrobust.report import plots
from snnrobust.report.plots import PlotLine
from snnrobust.results.artifacts import Surface

NAN = float("nan")


def line(name: str, known: bool = True) -> PlotLine:
    value = (0.9, 0.5, 0.1)
    spread = 0.05 if known else NAN
    return PlotLine(name, (0.0, 0.1, 0.2), value, tuple(v - spread for v in value), tuple(v + spread for v in value))


def plane(loss: np.ndarray, **more: np.ndarray) -> Surface:
    y, x = (np.linspace(-1, 1, n) for n in loss.shape)
    return Surface(x, y, {"loss": loss, **more}, ("first / norm", "second / norm"), "A plane.")


BOWL = np.add.outer(np.linspace(-1, 1, 7) ** 2, np.linspace(-1, 1, 9) ** 2)
BROKEN = np.where(BOWL > 1, np.inf, BOWL)


def figures() -> dict[str, Figure]:
    rates = np.array([[0.1, 0.2], [0.3, NAN]])
    drawn = plane(BOWL, accuracy=np.exp(-BOWL))
    return {
        "lines": plots.lines([line("a"), line("b", known=False)], "Title", "Epsilon (input units)", "Accuracy"),
        "bars": plots.bars(["a", "b"], ["l1", "l2"], rates, "Firing rate", "Rate (spikes per step)"),
        "surface": plots.surface(drawn, plots.levels([drawn]), "lif"),
        "heat map": plots.heat_map(["a", "$b"], ["a", "$b"], rates, "pgd, epsilon 0.1"),
    }


@pytest.mark.parametrize("name", list(figures()))
def test_every_axis_is_labelled_and_every_panel_has_a_title(name: str) -> None:
    figure = figures()[name]
    assert isinstance(figure, Figure)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert all(axes.get_xlabel() and axes.get_ylabel() and axes.get_title() for axes in panels)
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert all(axes.get_ylabel() for axes in bars)
    assert len(bars) == {"surface": 2, "heat map": 1}.get(name, 0)


@pytest.mark.parametrize("name", list(figures()))
def test_equal_figures_give_equal_bytes(name: str) -> None:
    assert plots.png(figures()[name]) == plots.png(figures()[name])


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    for figure in figures().values():
        plots.png(figure)
    assert dict(matplotlib.rcParams) == before


def test_lines_can_be_told_apart_without_colour() -> None:
    figure = plots.lines([line(str(k)) for k in range(12)], "Title", "x", "y")
    drawn = [each for each in figure.axes[0].get_lines() if each.get_marker() in plots.MARKERS]
    assert len({(each.get_marker(), each.get_linestyle()) for each in drawn}) == 12


def test_the_legend_lies_outside_the_panel() -> None:
    figure = plots.lines([line("a" * 30), line("b" * 30), line("c")], "Title", "x", "y")
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y1 <= figure.axes[0].get_tightbbox().y0 + 1


def test_intervals_are_drawn_where_they_are_known() -> None:
    assert len(plots.lines([line("a")], "t", "x", "y").axes[0].containers) == 1
    assert len(plots.lines([line("a", known=False)], "t", "x", "y").axes[0].containers) == 0


@pytest.mark.parametrize("name", ["_hidden", "$x$", "$\\frac{", "a\nb", "x" * 500, ""])
def test_any_name_is_drawn_as_it_is(name: str) -> None:
    figure = plots.lines([line(name)], name, name, name)
    assert len(figure.legends[0].get_texts()) == 1
    assert plots.png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "loss",
    [BOWL, BROKEN, np.full((5, 5), 0.3), np.full((5, 5), NAN), BOWL[:1], BOWL[:, :1], BOWL[:1, :1], 10 ** (3 * BOWL)],
    ids=["bowl", "diverging", "flat", "nan", "row", "column", "point", "steep"],
)
def test_surfaces_of_any_kind_are_drawn(loss: np.ndarray) -> None:
    drawn = plane(loss, accuracy=np.clip(1 - np.nan_to_num(loss), 0, 1))
    figure = plots.surface(drawn, plots.levels([drawn]), "lif")
    assert plots.png(figure).startswith(b"\x89PNG")


def test_surfaces_side_by_side_share_their_levels() -> None:
    shared = plots.levels([plane(BOWL), plane(3 * BOWL)])
    assert shared["loss"][0] == BOWL.min()
    assert shared["loss"][-1] == 3 * BOWL.max()


def test_a_wide_range_of_values_gets_logarithmic_levels() -> None:
    ratios = np.diff(np.log(plots.levels([plane(10 ** (3 * BOWL))])["loss"]))
    np.testing.assert_allclose(ratios, ratios[0])
    assert np.allclose(np.diff(plots.levels([plane(BOWL + 1)])["loss"], 2), 0)


def test_a_heat_map_writes_each_share_into_its_field() -> None:
    figure = plots.heat_map(["a"], ["a", "b", "c"], np.array([[0.125, NAN, 1.0]]), "pgd")
    axes = next(axes for axes in figure.axes if axes.get_label() != "<colorbar>")
    assert [(text.get_text(), text.get_position()) for text in axes.texts] == [
        ("12.5", (0, 0)),
        ("–", (1, 0)),
        ("100.0", (2, 0)),
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Target model", "Source model")
    assert plots.png(figure).startswith(b"\x89PNG")
