"""Tables and figures of curvature, planes, lines and sharpness, from records and artifacts made by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snnrobust.report import Report, landscape_sections, landscape_tables
from snnrobust.report.sections import sections
from snnrobust.report.tables import Table
from snnrobust.results.artifacts import Artifact, Profile, Scatter, Spectrum, Surface
from snnrobust.results.records import Record

GGN, FORMAL = "Gauss-Newton matrix", "formal surrogate Hessian"
FIELD = "Jacobian of the surrogate-gradient field, not symmetric"
RADII, UNIT = (0.01, 0.03, 0.1), "filter-relative radius"
Measured = dict[str, tuple[list[Record], list[Artifact]]]


def held(operator: str, random: float, leading: float, slope: float = 1.1) -> list[Record]:
    """Validity at three radii, with these medians."""
    found = []
    for name, median in (("random", random), ("leading", leading)):
        for k, radius in enumerate(RADII):
            for metric, value in (("validity", median + 0.02 * (k - 1)), ("slope", slope), ("ceiling", 0.97)):
                metric = metric if metric == "validity" else f"validity_{metric}"
                found.append(Record(f"{metric}:{name}", value, count=64, strength=radius, unit=UNIT, threat=operator))
    return found


def numbers(operator: str, *values: float, error: float = 1e-6, asymmetry: float = 1e-8) -> list[Record]:
    """Eigenvalues with their errors, and the asymmetry."""
    found = [Record(f"eigenvalue:{k}", v, v - error, v + error, threat=operator) for k, v in enumerate(values, 1)]
    return [*found, Record("asymmetry", asymmetry, threat=operator)]


def curvature() -> Measured:
    plateau = [Record("plateau_width", 2.3e-4, threat="true loss"), Record("distinct_losses", 3.0, threat="true loss")]
    gap = [
        Record(f"relaxation_gap:{name}", value, threat="smooth") for name, value in (("loss", 0.4), ("accuracy", -0.12))
    ]
    layers = [each for layer in ("fc1", "fc2") for each in numbers(f"{GGN}, layer {layer}", 30.0, 9.0)]
    imaginary = Record("imaginary:1", -0.25, threat=FIELD)
    return {
        "ggn": ([*numbers(GGN, 40.0, 18.0), *held(GGN, 0.91, 0.95), *plateau, *layers], []),
        "formal": ([*numbers(FORMAL, -249.8, 31.0, error=2.0), *held(FORMAL, 0.31, 0.8, -4.0)], []),
        "field": ([*numbers(FIELD, 9.0, 7.0, asymmetry=0.7), imaginary, *held(FIELD, 0.6, 0.7)], []),
        "relaxed": ([*numbers("smooth", 35.0), *gap, *held("smooth", 0.8, 0.9)], []),
        "trace": ([Record("trace", 512.5, 480.0, 545.0, threat=GGN)], []),
        "density": (held(GGN, 0.9, 0.95), []),
    }  # fmt: skip


def drawn() -> Measured:
    grid, line, radii = np.linspace(-1, 1, 9), np.linspace(0, 1, 21), np.array([0.0, *RADII])
    bowl = 1 + grid[None] ** 2 + 2 * grid[:, None] ** 2
    x = np.linspace(-5, 45, 200)
    predicted = np.linspace(0.1, 2, 12)
    pairs = {
        "random": np.stack([predicted, 2 * predicted], axis=1),
        "leading": np.stack([predicted, -predicted], axis=1),
    }
    rise = {f"loss rise, {kind}": radii * size for kind, size in (("ascent", 20.0), ("random", 1.0))}
    at: dict[str, Any] = {"threat": "plane", "unit": UNIT}
    sharp = [
        Record(f"sharpness:{k}", v * r, strength=r, unit=UNIT)
        for k, v in (("ascent", 20.0), ("sam", 9.0))
        for r in RADII
    ]
    return {
        "plane": (
            [Record("loss", 1.0, threat="plane"), Record("loss_rise", 1.7, strength=0.5, **at)],
            [Surface(grid, grid, {"loss": bowl, "accuracy": 1 / bowl}, ("first / a", "second / a"), "A plane.")],
        ),
        "line": (
            [Record("barrier", 0.8, threat="line")],
            [Profile(line, {"loss": line * (1 - line), "accuracy": 1 - line}, "Share of the way", "A line.")],
        ),
        "density": ([], [Spectrum(x, np.exp(-(x**2)), "Eigenvalue", "A density.")]),
        "pairs": ([], [Scatter(pairs, ("Predicted", "Measured"), "Pairs.")]),
        "sharpness": (
            [*sharp, Record("sharpness:sam", 0.4, strength=0.05, unit="Euclidean radius")],
            [Profile(radii, rise, UNIT, "Rises.")],
        ),
    }  # fmt: skip


def found(table: Table, group: str) -> dict[str, list[tuple[str, str, str]]]:
    """Rows of a group: name -> (text, interval, badge) of each cell."""
    ((_, rows),) = [each for each in table.groups if each[0] == group]
    return {row.name.replace("\u00a0", " "): [(c.text, c.interval, c.badge) for c in row.cells] for row in rows}


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_every_number_stands_beside_its_operator_error_and_validity(measured_report: Callable[..., Report]) -> None:
    table = landscape_tables.curvature_table(measured_report(curvature()).outcomes)
    groups = [name for name, _ in table.groups]
    assert groups == [
        f"m, ggn: {GGN}", f"m, ggn: {GGN}, layer fc1", f"m, ggn: {GGN}, layer fc2", f"m, formal: {FORMAL}",
        f"m, field: {FIELD}", "m, relaxed: smooth", f"m, trace: {GGN}", f"m, density: {GGN}",
    ]  # fmt: skip
    own = found(table, f"m, ggn: {GGN}")
    assert list(own) == ["Eigenvalue 1", "Eigenvalue 2"]
    value, verdict, random, leading, asymmetry, gap, width = own["Eigenvalue 2"]
    assert (value, verdict) == (("18", "± 1e-06", ""), ("predicts the measured loss", "", "trusted"))
    assert (random[:2], leading[0]) == (("0.91 of 0.97", "slope 1.1, n 64"), "0.95 of 0.97")
    assert (asymmetry[0], gap[0], width[:2]) == ("1e-08", "–", ("0.00023", "3 distinct losses"))
    assert found(table, f"m, trace: {GGN}")["Trace"][0] == ("512", "± 32", "")
    assert found(table, f"m, density: {GGN}")["no number"][2][0] == "0.90 of 0.97"


def test_numbers_that_do_not_predict_the_loss_are_marked(measured_report: Callable[..., Report]) -> None:
    table = landscape_tables.curvature_table(measured_report(curvature()).outcomes)
    for cells in found(table, f"m, formal: {FORMAL}").values():
        assert cells[1] == ("does not predict the measured loss", "", "untrustworthy")  # in random directions alone
    for cells in found(table, f"m, ggn: {GGN}, layer fc1").values():
        assert cells[1] == ("not compared with the measured loss", "", "doubtful")
    assert found(table, "m, relaxed: smooth")["Eigenvalue 1"][5][:2] == ("loss +0.4", "accuracy -12.0 %")
    assert found(table, f"m, field: {FIELD}")["Eigenvalue 1"][0][0] == "9 ± 0.25 i"
    assert found(table, f"m, field: {FIELD}")["Eigenvalue 2"][0][0] == "7"


def test_a_loss_that_is_noise_condemns_no_operator(measured_report: Callable[..., Report]) -> None:
    records = [replace(each, value=0.2) if "ceiling" in each.metric else each for each in held(GGN, 0.1, 0.9)]
    table = landscape_tables.curvature_table(measured_report({"ggn": ([*numbers(GGN, 1.0), *records], [])}).outcomes)
    assert found(table, f"m, ggn: {GGN}")["Eigenvalue 1"][1] == ("the measured curvature is noise", "", "doubtful")


def test_validity_is_listed_by_radius(measured_report: Callable[..., Report]) -> None:
    table = landscape_tables.validity_table(measured_report(curvature()).outcomes)
    assert UNIT in table.caption
    rows = found(table, f"m, formal: {FORMAL}")
    assert list(rows) == ["0.01", "0.03", "0.1"]
    assert [text for text, _, _ in rows["0.1"]] == ["0.33", "0.97", "-4", "0.82", "0.97", "-4"]


def test_sharpness_has_a_table_for_each_unit(measured_report: Callable[..., Report]) -> None:
    report = measured_report(drawn())
    relative, euclidean = landscape_tables.sharpness_tables(report.outcomes, report.records)
    assert relative.columns == ["Search", "Radius 0.01", "Radius 0.03", "Radius 0.1"]
    assert [text for text, _, _ in found(relative, "m, sharpness")["ascent"]] == ["0.2", "0.6", "2"]
    assert "Euclidean radius" in euclidean.caption
    assert [text for text, _, _ in found(euclidean, "m, sharpness")["sam"]] == ["0.4"]


def test_each_number_is_in_one_table_and_what_has_none_is_listed(measured_report: Callable[..., Report]) -> None:
    everything = {**curvature(), **{f"{name} drawn": each for name, each in drawn().items()}}
    everything["else"] = ([Record("flatness", 0.123)], [])
    report = measured_report(everything)
    titled = {each.title: each for each in sections(report.outcomes, report.records)}
    assert {"Surfaces", "Curvature", "Sharpness", "Other measurements"} < set(titled)
    ((_, rows),) = titled["Other measurements"].tables[0].groups
    assert [row.cells[1].text for row in rows] == ["flatness"]
    ((_, rows),) = titled["Surfaces"].tables[0].groups
    assert [row.cells[1].text for row in rows] == ["loss", "loss_rise", "barrier"]


def test_without_landscapes_there_is_no_section_of_them(measured_report: Callable[..., Report]) -> None:
    report = measured_report({"else": ([Record("flatness", 0.123)], [])})
    assert not {"Surfaces", "Curvature", "Sharpness"} & {
        each.title for each in sections(report.outcomes, report.records)
    }


# ---- pictures --------------------------------------------------------------------------------------------------------


def pictures(report: Report, title: str) -> dict[str, tuple[str, str]]:
    """Pictures of a section: name -> caption, alternative text."""
    (section,) = [each for each in sections(report.outcomes, report.records) if each.title == title]
    return {each.name: (each.caption, each.alt) for each in section.pictures}


def test_a_plane_is_drawn_from_above_and_in_space_and_a_line_beside_it(measured_report: Callable[..., Report]) -> None:
    shown = pictures(measured_report(drawn()), "Surfaces")
    assert list(shown) == ["surface plane m", "relief plane m", "profile line m Share of the way"]
    assert shown["relief plane m"] == (
        "m, plane: A plane. The loss as a height.",
        "The loss of m in space: loss 1 to 4",
    )
    assert "accuracy 0 to 1" in shown["profile line m Share of the way"][1]


def test_a_scatter_tells_correlation_and_slope_of_each_group(measured_report: Callable[..., Report]) -> None:
    caption, alt = pictures(measured_report(drawn()), "Curvature")["predicted pairs m"]
    assert caption.endswith("Correlation and slope: random: 1.00 and 2; leading: -1.00 and -1.")
    assert "Measured over Predicted, m" in alt


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.zeros((0, 2)), np.full((5, 2), np.nan), np.ones((2, 2))])
def test_pairs_that_do_not_vary_are_not_correlated(measured_report: Callable[..., Report], points: np.ndarray) -> None:
    measured: Measured = {"pairs": ([], [Scatter({"random": points}, ("a", "b"), "Pairs.")])}
    assert "random: none." in pictures(measured_report(measured), "Curvature")["predicted pairs m"][0]


def test_eigenvalues_are_drawn_by_operator_and_the_leading_ones_by_layer(
    measured_report: Callable[..., Report],
) -> None:
    shown = pictures(measured_report(curvature()), "Curvature")
    assert list(shown) == ["eigenvalues m eigenvalues, weights", "eigenvalues m by layer"]
    assert f"{FORMAL} -250" in shown["eigenvalues m eigenvalues, weights"][1]
    assert shown["eigenvalues m by layer"][1].endswith(f"{GGN} 30")


def test_two_tasks_on_one_operator_are_told_apart(measured_report: Callable[..., Report]) -> None:
    twice: Measured = {"few": (numbers(GGN, 40.0), []), "many": (numbers(GGN, 41.0), [])}
    (alt,) = (alt for _, alt in pictures(measured_report(twice), "Curvature").values())
    assert f"{GGN} (few) 40; {GGN} (many) 41" in alt


def test_operators_that_shorten_to_one_name_are_told_apart(measured_report: Callable[..., Report]) -> None:
    """Each has its own bars: named by variant, and by task where the variant is the same too."""
    own, blurred = (f"Gauss-Newton matrix, {what}" for what in ("own surrogates", "spikes blurred by moves of 0.1"))
    for space in ("", ", inputs"):
        several: Measured = {
            "narrow": ([*numbers(own + space, 40.0), *numbers(f"{own}, layer fc", 1.0)], []),
            "wide": ([*numbers(blurred + space, 41.0), *numbers(f"{blurred}, layer fc", 2.0)], []),
            "again": (numbers(blurred + space, 42.0), []),
            "formal": (numbers(f"{FORMAL}, told at length{space}", 43.0), []),
        }
        first, layers = (alt for _, alt in pictures(measured_report(several), "Curvature").values())
        assert f"{own} 40; {blurred} (wide) 41; {blurred} (again) 42; {FORMAL} 43" in first
        assert f"{own} 1; {blurred} 2" in layers


def test_radius_curves_stand_with_sharpness_and_not_with_slices(measured_report: Callable[..., Report]) -> None:
    assert list(pictures(measured_report(drawn()), "Sharpness")) == [f"profile sharpness m {UNIT}"]


# ---- page ------------------------------------------------------------------------------------------------------------


def test_the_page_shows_it_all_from_disk_too_and_in_equal_bytes(
    measured_report: Callable[..., Report], tmp_path: Path
) -> None:
    everything = {**curvature(), **{f"{name} drawn": each for name, each in drawn().items()}}
    report = measured_report(everything)
    report.save(tmp_path / "run")
    pages = [each.to_html(tmp_path / "p.html").read_text("utf-8") for each in (report, Report.load(tmp_path / "run"))]
    assert pages[0] == pages[1]
    # Contours, relief, line, density, pairs and radius curves; eigenvalues by rank and by layer.
    assert pages[0].count("<figure>") == pages[0].count("<figcaption>") == 6 + 2
    assert pages[0].count("does not predict the measured loss") == 2
    assert re.search("Under 0.5 a number is marked", pages[0])
    assert landscape_sections.curvature_section(report.outcomes, report.records).title in pages[0]
