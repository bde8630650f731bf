"""Figures of loss landscapes: labelled, reproducible, with correct signs and scales, and robust to unusual values."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from snnrobust.report import landscape_plots, plots
from snnrobust.results.artifacts import Profile, Scatter, Spectrum, Surface

NAN = float("nan")
GRID = np.linspace(-1, 1, 7)
BOWL = np.add.outer(GRID**2, GRID**2)


def relief(loss: np.ndarray) -> Figure | None:
    y, x = (np.linspace(-1, 1, n) for n in loss.shape)
    drawn = Surface(x, y, {"loss": loss}, ("first / norm", "second / norm"), "A plane.")
    return landscape_plots.surface_3d(drawn, plots.levels([drawn])["loss"], "lif")


def pairs(**points: np.ndarray) -> Figure:
    return landscape_plots.scatter(Scatter(points, ("Predicted", "Measured"), "Pairs."), "lif")


def line(x: np.ndarray, **values: np.ndarray) -> Figure:
    return landscape_plots.profile(Profile(x, values, "Radius", "A line."), "lif")


def bars(**values: list[list[float]]) -> Figure:
    found = {name: np.array(each) for name, each in values.items()}
    rows = [str(k + 1) for k in range(len(next(iter(found.values()))))]
    return landscape_plots.eigenvalues(found, rows, "lif", "Rank")


def spectrum(x: np.ndarray, density: np.ndarray) -> Figure:
    return landscape_plots.spectral_density(Spectrum(x, density, "Eigenvalue", "A density."), "lif")


def figures() -> dict[str, Figure]:
    space = relief(BOWL)
    assert space is not None
    return {
        "relief": space,
        "density": spectrum(GRID, np.exp(-(GRID**2))),
        "eigenvalues": bars(a=[[2, 1, 3], [-1, -2, 0]], b=[[1, 1, 1], [NAN, NAN, NAN]]),
        "scatter": pairs(random=np.eye(2), leading=-np.eye(2)),
        "profile": line(GRID, loss=GRID**2, accuracy=1 - GRID**2),
    }


@pytest.mark.parametrize("name", list(figures()))
def test_every_axis_is_labelled_and_every_panel_has_a_title(name: str) -> None:
    for axes in figures()[name].axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_title()


@pytest.mark.parametrize("name", list(figures()))
def test_equal_figures_give_equal_bytes(name: str) -> None:
    assert plots.png(figures()[name]) == plots.png(figures()[name])


def test_the_height_of_a_steep_loss_is_logarithmic() -> None:
    gentle, steep = relief(BOWL), relief(10 ** (3 * BOWL))
    assert gentle is not None
    assert steep is not None
    names = [figure.axes[0].get_zlabel() for figure in (gentle, steep)]  # type: ignore[attr-defined]  # of a 3-D panel
    assert names == ["Loss", "log10 of the loss"]


@pytest.mark.parametrize("loss", [BOWL[:1], BOWL[:, :1], np.where(BOWL > 1, np.inf, BOWL), np.full((3, 3), NAN)])
def test_a_plane_without_area_or_finite_loss_has_no_relief(loss: np.ndarray) -> None:
    assert relief(loss) is None


def test_a_plane_without_a_loss_has_no_relief() -> None:
    drawn = Surface(GRID, GRID, {"accuracy": BOWL}, ("a", "b"), "A plane.")
    assert landscape_plots.surface_3d(drawn, np.linspace(0, 1, 3), "lif") is None


def test_bars_lie_on_the_side_of_their_sign_with_their_errors() -> None:
    axes = bars(a=[[2, 1, 3.5], [-1, -2, 0]]).axes[0]
    assert [bar.get_width() for bar in axes.containers[0]] == [2, -1]
    (errors,) = (each.get_segments() for each in axes.collections)  # type: ignore[attr-defined]  # lines
    assert [sorted(segment[:, 0]) for segment in errors] == [[1, 3.5], [-2, 0]]
    assert axes.yaxis_inverted()  # the first eigenvalue on top


def test_an_unknown_error_has_no_bar() -> None:
    assert not bars(a=[[2, NAN, NAN]]).axes[0].collections


def test_an_operator_that_dwarfs_another_leaves_it_visible() -> None:
    assert bars(a=[[2, 2, 2]], b=[[-9, -9, -9]]).axes[0].get_xscale() == "linear"
    assert bars(a=[[2, 2, 2]], b=[[-900, -900, -900]]).axes[0].get_xscale() == "symlog"


def test_a_scatter_has_the_line_of_equality_on_equal_axes() -> None:
    axes = pairs(random=np.array([[1.0, 2.0], [3.0, -4.0]])).axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    (equal,) = axes.get_lines()
    np.testing.assert_array_equal(equal.get_xdata(), equal.get_ydata())
    assert axes.get_xlim()[0] < -4
    assert axes.get_xlim()[1] > 3


def test_pairs_over_many_magnitudes_are_drawn_so_that_small_ones_can_be_told_apart() -> None:
    small = np.full((9, 2), 1e-5)
    assert pairs(near=small, far=np.ones((3, 2))).axes[0].get_xscale() == "symlog"
    assert pairs(near=small).axes[0].get_xscale() == "linear"


def test_the_accuracy_has_a_panel_of_its_own_in_percent() -> None:
    loss, accuracy = line(GRID, loss=GRID**2, accuracy=1 - GRID**2).axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("Loss", "Accuracy (%)")
    assert np.max(np.asarray(accuracy.get_lines()[0].get_ydata())) == 100


def test_several_quantities_share_a_panel_with_a_legend_and_radii_a_logarithmic_scale() -> None:
    radii = np.array([0.01, 0.03, 0.1])
    figure = line(radii, **{"loss rise, sam": radii, "loss rise, ascent": 2 * radii})
    (axes,) = figure.axes
    assert (axes.get_ylabel(), axes.get_xscale()) == ("Loss rise", "log")
    assert [text.get_text().strip("\u200b") for text in figure.legends[0].get_texts()] == [
        "loss rise, sam",
        "loss rise, ascent",
    ]
    assert line(GRID, loss=GRID).axes[0].get_xscale() == "linear"


def test_a_density_without_mass_is_said_to_have_none() -> None:
    for empty in (np.zeros(7), np.full(7, NAN)):
        assert [text.get_text() for text in spectrum(GRID, empty).axes[0].texts] == ["no density"]
    assert spectrum(GRID, np.exp(GRID)).axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    "figure",
    [
        lambda: pairs(random=np.zeros((0, 2))),
        lambda: pairs(random=np.full((3, 2), np.inf)),
        lambda: pairs(),
        lambda: line(np.zeros(0), loss=np.zeros(0)),
        lambda: line(GRID, loss=np.full(7, NAN)),
        lambda: line(GRID),
        lambda: line(np.array([1.0]), accuracy=np.array([0.5])),
        lambda: spectrum(np.zeros(0), np.zeros(0)),
        lambda: bars(a=[[NAN, NAN, NAN]]),
        lambda: bars(a=[[0.0, 0.0, 0.0]], b=[[1.0, -np.inf, np.inf]]),
        lambda: bars(**{"$\\frac{": [[1.0, 1.0, 1.0]], "_hidden": [[1.0, 1.0, 1.0]]}),
        lambda: relief(np.full((3, 3), 0.3)),
    ],
)
def test_anything_is_drawn(figure: object) -> None:
    assert callable(figure)
    assert plots.png(figure()).startswith(b"\x89PNG")
