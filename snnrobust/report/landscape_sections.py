"""Sections of a page about loss landscapes: surfaces and slices, curvature, sharpness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

from snnrobust.analysis.curvatures import curvatures
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.report import landscape_plots, landscape_tables, plots, tables
from snnrobust.report.section import Picture, Section
from snnrobust.results.artifacts import Artifact, Profile, Scatter, Spectrum, Surface
from snnrobust.results.curvature import HOPELESS, SIZE, VALID, Curvature
from snnrobust.results.records import NAN, Record

Records = Sequence[Record]
Kind = TypeVar("Kind", bound=Artifact)
#: What has a colour of its own among eigenvalues: an operator in words, and the task.
Bars = tuple[str, str]


def surfaces(outcomes: Outcomes, records: Records) -> Section:
    """Planes, each from above and in space, and lines."""
    pictures = []
    for label in outcomes.labels("measurement"):
        drawn = _drawn(outcomes, Surface, label)
        shared = plots.levels(drawn)
        for each in drawn:
            name = each.model or label
            words = f"{name}, {label}: {each.caption}"
            ranges = "; ".join(_ranges(each.values))
            above = plots.surface(each, shared, name)
            cross = f"{words} The cross marks the model as it is."
            pictures.append(Picture(f"surface {label} {name}", above, cross, f"Contours of {name}: {ranges}"))
            relief = landscape_plots.relief(each, shared["loss"], name) if "loss" in shared else None
            if relief is not None:
                alt = f"The loss of {name} in space: {_ranges({'loss': each.values['loss']})[0]}"
                pictures.append(Picture(f"relief {label} {name}", relief, f"{words} The loss as a height.", alt))
        pictures += [] if _sharp(records, label) else _profiles(outcomes, label)
    text = "Colours and heights of one kind of surface share one scale, so that pictures side by side compare."
    return Section("Surfaces", text, [landscape_tables.slices(outcomes, records)], pictures)


def curvature(outcomes: Outcomes, records: Records) -> Section:
    """Second-order numbers with what stands beside them."""
    found = {model: curvatures(outcomes, model) for model in outcomes.models}
    pictures = [picture for model, own in found.items() for picture in _eigenvalues(model, own)]
    for label in outcomes.labels("measurement"):
        for held in _drawn(outcomes, Scatter, label):
            pictures.append(_scatter(held, label))
        for spectrum in _drawn(outcomes, Spectrum, label):
            name = spectrum.model or label
            low, high = (f"{x:.3g}" for x in (spectrum.x.min(initial=np.inf), spectrum.x.max(initial=-np.inf)))
            caption = f"{name}, {label}: {spectrum.caption}"
            alt = f"Spectral density of {name} between {low} and {high}"
            figure = landscape_plots.density(spectrum, f"{name}: {label}")
            pictures.append(Picture(f"density {label} {name} {spectrum.axis}", figure, caption, alt))
    text = (
        "A second-order number means nothing without its operator, nor where that does not predict how the loss "
        "changes. Error: the residual of an eigenvalue, the 95 % interval of a trace. Correlation: Spearman's, of the "
        "predicted with the measured change of the training loss along random and leading directions, median over "
        f"radii; of the most that the noise of the measurement leaves room for. Under {VALID} a number is marked. "
        f"Slope: measured over predicted; beyond {SIZE:g}-fold the size is called off, and beyond {HOPELESS:g}-fold "
        "or below 0 the number is marked too; n: directions. Asymmetry: |M − Mᵀ| over |M|. Relaxation gap: the smooth "
        "net minus the spiking one. Plateau width: how far the weights move, relative to their filters, before the "
        "loss changes at all."
    )
    return Section(
        "Curvature", text, [landscape_tables.curvature(outcomes), landscape_tables.validity(outcomes)], pictures
    )


def sharpness(outcomes: Outcomes, records: Records) -> Section:
    """How far the loss rises within a radius."""
    pictures = [
        each
        for label in outcomes.labels("measurement")
        if _sharp(records, label)
        for each in _profiles(outcomes, label)
    ]
    text = (
        "By how much the measured training loss rises within a radius, by how it is searched. Surrogate gradients "
        "choose where to look; nothing but the loss itself is reported. A stronger search can only find more."
    )
    return Section("Sharpness", text, landscape_tables.sharpness(outcomes, records), pictures)


def _sharp(records: Records, label: str) -> bool:
    return bool(tables.select(records, "sharpness", [label]))


def _drawn(outcomes: Outcomes, kind: type[Kind], label: str) -> list[Kind]:
    return [each for each in outcomes.artifacts if isinstance(each, kind) and each.label == label]


def _profiles(outcomes: Outcomes, label: str) -> list[Picture]:
    pictures = []
    for each in _drawn(outcomes, Profile, label):
        name = each.model or label
        alt = f"{name} over {each.axis}: {'; '.join(_ranges(each.values))}"
        figure = landscape_plots.profile(each, f"{name}: {label}")
        pictures.append(Picture(f"profile {label} {name} {each.axis}", figure, f"{name}, {label}: {each.caption}", alt))
    return pictures


def _scatter(drawn: Scatter, label: str) -> Picture:
    """Predicted against measured, with the rank correlation of all points and of each group."""
    name = drawn.model or label
    told = "; ".join(f"{group}: {_correlated(points)}" for group, points in drawn.points.items())
    caption = f"{name}, {label}: {drawn.caption} On the dashed line both are equal. Correlation and slope: {told}."
    figure = landscape_plots.scatter(drawn, f"{name}: {label}")
    return Picture(
        f"predicted {label} {name}", figure, caption, f"{drawn.axes[1]} over {drawn.axes[0]}, {name}: {told}"
    )


def _correlated(points: np.ndarray) -> str:
    """Rank correlation and slope of measured over predicted, in words."""
    kept = points[np.isfinite(points).all(axis=1)]
    predicted, measured = kept.T
    if len(kept) < 3 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return "none"
    rank = float(stats.spearmanr(predicted, measured).statistic)
    slope = float(predicted @ measured / (predicted @ predicted))
    return f"{rank:.2f} and {tables.number(slope)}"


def _eigenvalues(model: str, found: Sequence[Curvature]) -> list[Picture]:
    """Eigenvalues by rank for whole nets and inputs, the leading ones by layer."""
    blocks: dict[str, dict[Bars, dict[str, Record]]] = {}  # kind -> operator and task -> row -> record
    for each in found:
        whole, _, layer = each.operator.partition(", layer ")
        space = "inputs" if whole.endswith(", inputs") else "weights"
        bars = whole.removesuffix(", inputs"), each.label
        for record in each.of("eigenvalue"):
            rank = record.metric.partition(":")[2]
            if not layer:
                blocks.setdefault(f"eigenvalues, {space}", {}).setdefault(bars, {})[rank] = record
            elif rank == "1":
                blocks.setdefault("by layer", {}).setdefault(bars, {})[layer] = record
    pictures = []
    for kind, drawn in blocks.items():
        operators = {_operator(bars, list(drawn)): own for bars, own in drawn.items()}
        rows = list(dict.fromkeys(row for own in operators.values() for row in own))
        values = {name: np.array([_triple(own.get(row)) for row in rows]) for name, own in operators.items()}
        of = "Leading eigenvalue of each layer's block" if kind == "by layer" else "Eigenvalues"
        told = "; ".join(f"{name} {each[0, 0]:.3g}" for name, each in values.items())
        figure = landscape_plots.eigenvalues(
            values, rows, f"{model}: {kind}", "Layer" if kind == "by layer" else "Rank"
        )
        caption = f"{model}: {of}, by operator, with their errors. Bars to the left are negative.{_hollow(values)}"
        pictures.append(Picture(f"eigenvalues {model} {kind}", figure, caption, f"{of} of {model}: {told}"))
    return pictures


def _operator(bars: Bars, every: Sequence[Bars]) -> str:
    """A name that no other bars of a figure have.

    The operator without what is said of it, or with it where that tells operators apart; the task stands beside it
    where several share the operator.
    """
    operator, label = bars
    alike = [each for each, _ in every if each.partition(", ")[0] == operator.partition(", ")[0]]
    name = operator.partition(", ")[0] if len(set(alike)) == 1 else operator
    return name if alike.count(operator) == 1 else f"{name} ({label})"


def _hollow(values: dict[str, np.ndarray]) -> str:
    """What captions say of values [R, 3] whose low and high are not known; nothing where all are."""
    bare = any(bool((np.isfinite(v[:, 0]) & ~np.isfinite(v[:, 1:]).all(axis=1)).any()) for v in values.values())
    return " The error of hollow bars is not known." if bare else ""


def _triple(record: Record | None) -> tuple[float, float, float]:
    return (NAN, NAN, NAN) if record is None else (record.value, record.low, record.high)


def _ranges(values: dict[str, np.ndarray]) -> list[str]:
    """The smallest and largest value of each quantity, in words."""
    kept = {name: each[np.isfinite(each)] for name, each in values.items()}
    return [f"{name} {v.min():.3g} to {v.max():.3g}" if v.size else f"{name} never finite" for name, v in kept.items()]
