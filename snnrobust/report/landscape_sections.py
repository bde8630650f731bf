"""Sections of a page about loss landscapes: planes and lines, curvature, sharpness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

from snnrobust.analysis.curvature_results import curvature_results
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.report import landscape_plots, landscape_tables, plots, tables
from snnrobust.report.section import Picture, Section
from snnrobust.results.artifacts import Artifact, Profile, Scatter, Spectrum, Surface
from snnrobust.results.curvature import SIZE_OFF, SIZE_WRONG, VALID_CORRELATION, CurvatureResult
from snnrobust.results.records import NAN, Record

Records = Sequence[Record]
ArtifactType = TypeVar("ArtifactType", bound=Artifact)


@dataclass(frozen=True)
class _Bars:
    """Bars of one colour: the eigenvalues of an operator, measured by one task."""

    operator: str
    operator_and_variant: str
    label: str


def surface_section(outcomes: Outcomes, records: Records) -> Section:
    """Planes, each as contours and as a surface in space, and lines."""
    pictures = []
    for label in outcomes.labels("measurement"):
        drawn = artifacts(outcomes, Surface, label)
        shared = plots.levels(drawn)
        for each in drawn:
            name = each.model or label
            words = f"{name}, {label}: {each.caption}"
            ranges = "; ".join(_ranges(each.values))
            contours = plots.surface(each, shared, name)
            cross = f"{words} The cross marks the model as it is."
            pictures.append(Picture(f"surface {label} {name}", contours, cross, f"Contours of {name}: {ranges}"))
            relief = landscape_plots.surface_3d(each, shared["loss"], name) if "loss" in shared else None
            if relief is not None:
                alt = f"The loss of {name} in space: {_ranges({'loss': each.values['loss']})[0]}"
                pictures.append(Picture(f"relief {label} {name}", relief, f"{words} The loss as a height.", alt))
        elsewhere = _measures_sharpness(records, label) or over_time(records, label)
        pictures += [] if elsewhere else _profiles(outcomes, label)
    text = "All surfaces of one task have the same scale of colours and heights."
    return Section("Surfaces", text, [landscape_tables.slices_table(outcomes, records)], pictures)


def curvature_section(outcomes: Outcomes, records: Records) -> Section:
    """Curvature numbers with the evidence for them."""
    found = {model: curvature_results(outcomes, model) for model in outcomes.models}
    pictures = [picture for model, own in found.items() for picture in _eigenvalues(model, own)]
    for label in outcomes.labels("measurement"):
        for scatter in artifacts(outcomes, Scatter, label):
            pictures.append(_scatter(scatter, label))
        for spectrum in artifacts(outcomes, Spectrum, label):
            name = spectrum.model or label
            low, high = (f"{x:.3g}" for x in (spectrum.x.min(initial=np.inf), spectrum.x.max(initial=-np.inf)))
            caption = f"{name}, {label}: {spectrum.caption}"
            alt = f"Spectral density of {name} between {low} and {high}"
            figure = landscape_plots.spectral_density(spectrum, f"{name}: {label}")
            pictures.append(Picture(f"density {label} {name} {spectrum.axis}", figure, caption, alt))
    text = (
        "A curvature number describes the loss only if its operator predicts the measured loss. Error: the residual of "
        "an eigenvalue, the 95 % interval of a trace. Correlation: Spearman's, of predicted with measured curvature of "
        "the training loss in random and leading directions, median over radii; after it the noise ceiling, the "
        f"correlation that a perfect prediction would reach. Under {VALID_CORRELATION} a number is marked. Slope: "
        f"measured over predicted; beyond a factor {SIZE_OFF:g} the size is called off, and beyond {SIZE_WRONG:g} or "
        "below 0 the number is marked too; n: directions. Asymmetry: |M − Mᵀ| over |M|. Relaxation gap: the smooth net "
        "minus the spiking one. Plateau width: how far the weights can move, relative to their filters, before the "
        "loss changes at all."
    )
    return Section(
        "Curvature",
        text,
        [landscape_tables.curvature_table(outcomes), landscape_tables.validity_table(outcomes)],
        pictures,
    )


def sharpness_section(outcomes: Outcomes, records: Records) -> Section:
    """How much the loss rises within a radius."""
    pictures = [
        each
        for label in outcomes.labels("measurement")
        if _measures_sharpness(records, label)
        for each in _profiles(outcomes, label)
    ]
    text = (
        "Rise of the measured training loss within a radius, for each search. Surrogate gradients only choose the "
        "direction. Each value is a lower bound of the largest rise: a stronger search can only find more."
    )
    return Section("Sharpness", text, landscape_tables.sharpness_tables(outcomes, records), pictures)


def over_time(records: Records, label: str) -> bool:
    """Whether a task measured margins over the time steps, whose profiles belong to another section."""
    return bool(tables.select(records, "margin_at_step", [label]))


def _measures_sharpness(records: Records, label: str) -> bool:
    return bool(tables.select(records, "sharpness", [label]))


def artifacts(outcomes: Outcomes, kind: type[ArtifactType], label: str) -> list[ArtifactType]:
    """The artifacts of one kind that a task gave, of all models."""
    return [each for each in outcomes.artifacts if isinstance(each, kind) and each.label == label]


def _profiles(outcomes: Outcomes, label: str) -> list[Picture]:
    pictures = []
    for each in artifacts(outcomes, Profile, label):
        name = each.model or label
        alt = f"{name} over {each.axis}: {'; '.join(_ranges(each.values))}"
        figure = landscape_plots.profile(each, f"{name}: {label}")
        pictures.append(Picture(f"profile {label} {name} {each.axis}", figure, f"{name}, {label}: {each.caption}", alt))
    return pictures


def _scatter(drawn: Scatter, label: str) -> Picture:
    """Predicted against measured, with the rank correlation of all points and of each group."""
    name = drawn.model or label
    words = "; ".join(f"{group}: {_correlated(points)}" for group, points in drawn.points.items())
    caption = f"{name}, {label}: {drawn.caption} On the dashed line both are equal. Correlation and slope: {words}."
    figure = landscape_plots.scatter(drawn, f"{name}: {label}")
    return Picture(
        f"predicted {label} {name}", figure, caption, f"{drawn.axes[1]} over {drawn.axes[0]}, {name}: {words}"
    )


def _correlated(points: np.ndarray) -> str:
    """Rank correlation and slope of measured over predicted, in words."""
    finite = points[np.isfinite(points).all(axis=1)]
    predicted, measured = finite.T
    if len(finite) < 3 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return "none"
    rank = float(stats.spearmanr(predicted, measured).statistic)
    slope = float(predicted @ measured / (predicted @ predicted))
    return f"{rank:.2f} and {tables.number(slope)}"


def _eigenvalues(model: str, found: Sequence[CurvatureResult]) -> list[Picture]:
    """Eigenvalues by rank for whole nets and inputs, the leading ones by layer."""
    figures: dict[str, dict[_Bars, dict[str, Record]]] = {}  # title -> bars -> row -> record
    for each in found:
        bars = _Bars(each.operator, each.operator_and_variant, each.label)
        for record in each.of("eigenvalue"):
            if not each.layer:
                figures.setdefault(f"eigenvalues, {each.space}", {}).setdefault(bars, {})[str(record.rank)] = record
            elif record.rank == 1:
                figures.setdefault("by layer", {}).setdefault(bars, {})[each.layer] = record
    pictures = []
    for kind, drawn in figures.items():
        operators = {_legend_name(bars, list(drawn)): own for bars, own in drawn.items()}
        rows = list(dict.fromkeys(row for own in operators.values() for row in own))
        values = {name: np.array([_triple(own.get(row)) for row in rows]) for name, own in operators.items()}
        of = "Leading eigenvalue of each layer's block" if kind == "by layer" else "Eigenvalues"
        words = "; ".join(f"{name} {each[0, 0]:.3g}" for name, each in values.items())
        figure = landscape_plots.eigenvalues(
            values, rows, f"{model}: {kind}", "Layer" if kind == "by layer" else "Rank"
        )
        caption = f"{model}: {of}, by operator, with their errors. Bars to the left are negative.{_hollow(values)}"
        pictures.append(Picture(f"eigenvalues {model} {kind}", figure, caption, f"{of} of {model}: {words}"))
    return pictures


def _legend_name(bars: _Bars, every: Sequence[_Bars]) -> str:
    """A name that no other bars of a figure have.

    The operator; with its variant where there are several, and with the task where several tasks have the same one.
    """
    variants = [each.operator_and_variant for each in every if each.operator == bars.operator]
    name = bars.operator if len(set(variants)) == 1 else bars.operator_and_variant
    return name if variants.count(bars.operator_and_variant) == 1 else f"{name} ({bars.label})"


def _hollow(values: dict[str, np.ndarray]) -> str:
    """A sentence about values [R, 3] whose low and high are not known; empty where all are known."""
    hollow = any(bool((np.isfinite(v[:, 0]) & ~np.isfinite(v[:, 1:]).all(axis=1)).any()) for v in values.values())
    return " The error of hollow bars is not known." if hollow else ""


def _triple(record: Record | None) -> tuple[float, float, float]:
    return (NAN, NAN, NAN) if record is None else (record.value, record.low, record.high)


def _ranges(values: dict[str, np.ndarray]) -> list[str]:
    """The smallest and largest value of each quantity, in words."""
    finite = {name: each[np.isfinite(each)] for name, each in values.items()}
    return [
        f"{name} {v.min():.3g} to {v.max():.3g}" if v.size else f"{name} never finite" for name, v in finite.items()
    ]
