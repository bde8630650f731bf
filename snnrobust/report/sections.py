"""The sections of a page, each with tables and pictures of one subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from snnrobust.analysis import transfer
from snnrobust.analysis.curves import worst_case_curve
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.report import landscape_sections, landscape_tables, plots, tables, time_plots
from snnrobust.report.assumed import assumed_note
from snnrobust.report.plots import PlotLine
from snnrobust.report.section import Picture, Section
from snnrobust.results.artifacts import Profile
from snnrobust.results.records import Curve, Record

Records = Sequence[Record]

_TABLED = (*landscape_tables.CURVATURE, *landscape_tables.SLICES, *landscape_tables.SHARPNESS)
#: Quantities over the time steps that are shown as pictures.
_BY_STEP = ("margin_at_step", "tie_share_at_step")
#: Quantities that say how soon decisions settle.
_SETTLED = ("settling_step", "t95")
_LANDSCAPES = (
    landscape_sections.surface_section,
    landscape_sections.curvature_section,
    landscape_sections.sharpness_section,
)


def sections(outcomes: Outcomes, records: Records) -> list[Section]:
    """All sections that are not empty."""
    makers = (
        _transfer_section,
        _noise_section,
        *_LANDSCAPES,
        _activity_section,
        _time_section,
        _other_section,
        _cost_section,
    )
    found = [*_attack_sections(outcomes, records), *(make(outcomes, records) for make in makers)]
    kept = []
    for each in found:
        filled = [table for table in each.tables if any(rows for _, rows in table.groups)]
        if filled or each.pictures:
            kept.append(Section(each.title, each.text, filled, each.pictures))
    return kept


def _attack_sections(outcomes: Outcomes, records: Records) -> list[Section]:
    """One section for each threat model."""
    models: dict[str, list[str]] = {}
    for threat, model in tables.threatened(outcomes, records):
        models.setdefault(threat, []).append(model)
    senses = {"robust_accuracy": "", "robust_accuracy_last_iterate": ", last iterate"}
    return [
        Section(
            f"Attacks: {threat}",
            "Robust accuracy in percent of all samples: correct when clean and not broken by an example within "
            "epsilon. Epsilon is in input units." + assumed_note(outcomes, _attacks_of(records, threat), found),
            [
                *([tables.worst_case_table(outcomes, found, threat)] if len(_attacks_of(records, threat)) > 1 else []),
                tables.by_strength(
                    f"Robust accuracy, {threat}", outcomes, records, senses, outcomes.labels("attack"), threat
                ),
                *(tables.members_table(outcomes, each, found) for each in _ensembles_of(outcomes, records, threat)),
            ],
            _attack_pictures(outcomes, records, threat, found),
        )
        for threat, found in models.items()
    ]


def _attack_pictures(outcomes: Outcomes, records: Records, threat: str, models: list[str]) -> list[Picture]:
    """One picture for the worst case and one for each attack; a single picture if there is only one model."""
    labels = _attacks_of(records, threat)
    panels: dict[str, list[PlotLine]] = {}
    if len(labels) > 1:
        panels["worst case"] = [
            _from_clean(_line_of_curve(worst_case_curve(outcomes, model, threat)), outcomes, records, model)
            for model in models
        ]
    for label in labels:
        curves = {model: tables.select(records, "robust_accuracy", [label], model) for model in models}
        panels[label] = [
            _from_clean(_line_of_records(m, found), outcomes, records, m) for m, found in curves.items() if found
        ]
    if len(models) == 1:
        panels = {models[0]: [replace(line, name=label) for label, found in panels.items() for line in found]}
    return [
        _line_picture(
            f"robust-accuracy {title} {threat}",
            found,
            title,
            "Epsilon (input units)",
            "Robust accuracy",
            f"Robust accuracy over epsilon, {title}, {threat}. Error bars are 95 % intervals; the value at 0 is clean "
            "accuracy." + assumed_note(outcomes, [title] if title in labels else labels, models),
        )
        for title, found in panels.items()
    ]


def _attacks_of(records: Records, threat: str) -> list[str]:
    """Labels of the attacks of one threat model."""
    return list(dict.fromkeys(r.label for r in records if r.quantity == "robust_accuracy" and r.threat == threat))


def _ensembles_of(outcomes: Outcomes, records: Records, threat: str) -> list[str]:
    return [label for label in _attacks_of(records, threat) if outcomes.task(label)["members"]]


def _transfer_section(outcomes: Outcomes, records: Records) -> Section:
    """A heat map for each group of attacks that differ only in the source model."""
    pictures = []
    for labels in transfer.transfer_groups(outcomes):
        for radius in tables.middle_and_largest(transfer.transfer_strengths(outcomes, labels)):
            found = transfer.transfer(outcomes, radius, labels[0])
            title = f"{outcomes.task(labels[0])['name']}, epsilon {tables.strength(radius)}"
            cells = (
                f"from {source} to {target}: {tables.percent(float(found.values[i, j]))}"
                for i, source in enumerate(found.sources)
                for j, target in enumerate(found.targets)
            )
            caption = (
                f"Robust accuracy in percent of {found.count:,} samples under examples of "
                f"{outcomes.task(labels[0])['plugin']} within epsilon {tables.strength(radius)}. Rows are source "
                f"models, columns target models. Tasks: {', '.join(found.labels)}."
                f"{assumed_note(outcomes, found.labels, found.targets)}"
            )
            figure = plots.heat_map(found.sources, found.targets, found.values, title)
            pictures.append(Picture(f"transfer {title}", figure, caption, f"Transfer, {title}: {'; '.join(cells)}"))
    text = (
        "Robust accuracy under transfer attacks: examples are made on a source model and scored on a target model. If "
        "they break more samples than examples made on the target model itself, its gradients are masked."
    )
    return Section("Transfer", text, [], pictures)


def _noise_section(outcomes: Outcomes, records: Records) -> Section:
    labels = outcomes.labels("noise")
    pictures = []
    for label in labels:
        curves = {model: tables.select(records, "accuracy", [label], model) for model in outcomes.models}
        found = [_from_clean(_line_of_records(m, each), outcomes, records, m) for m, each in curves.items() if each]
        task = outcomes.task(label)
        caption = (
            f"Accuracy under {task['plugin']}, mean over {task['draws']} draws per sample. "
            "Error bars are 95 % intervals over samples; the value at severity 0 is clean accuracy."
        )
        axis = "Severity (the corruption's own scale)"
        pictures += [_line_picture(f"noise {label}", found, label, axis, "Accuracy", caption)] if found else []
    shown = [
        tables.by_strength("Accuracy under noise", outcomes, records, {"accuracy": ""}, [label], None)
        for label in labels
    ]
    return Section("Noise", "Accuracy in percent, averaged over random draws.", shown, pictures)


def _activity_section(outcomes: Outcomes, records: Records) -> Section:
    pictures = []
    for label in outcomes.labels("measurement"):
        for quantity, title, axis, scale in (
            ("firing_rate", "Firing rate", "Firing rate (spikes per neuron and step)", 1.0),
            ("silent_neurons", "Silent neurons", "Silent neurons (%)", 100.0),
        ):
            found = tables.select(records, quantity, [label])
            pictures += (
                [_bar_picture(f"{quantity} {label}", found, outcomes.models, title, axis, scale)] if found else []
            )
    return Section("Activity and energy", "", [tables.energy(outcomes, records)], pictures)


def _time_section(outcomes: Outcomes, records: Records) -> Section:
    """Accuracy, margin and ties after each time step, and how soon decisions settle."""
    pictures = []
    for label in outcomes.labels("measurement"):
        steps = {m: tables.select(records, "accuracy_at_step", [label], m) for m in outcomes.models}
        curves = [_line_of_records(model, each) for model, each in steps.items() if each]
        if curves:
            caption = "Accuracy of the read-out after the given number of time steps. Error bars are 95 % intervals."
            title, axis = "Accuracy by time step", "Simulated time (steps)"
            pictures.append(_line_picture(f"accuracy-at-step {label}", curves, title, axis, "Accuracy", caption))
        if landscape_sections.over_time(records, label):
            pictures.append(_margin_picture(landscape_sections.artifacts(outcomes, Profile, label), label))
    settled = landscape_tables.numbers_table(
        "Steps that a decision takes", outcomes, records, lambda quantity: quantity in _SETTLED
    )
    return Section("Time steps", "", [settled], pictures)


def _margin_picture(profiles: Sequence[Profile], label: str) -> Picture:
    """Mean margins and ties of all models."""
    figure = time_plots.margins_by_step(profiles, [each.model for each in profiles], "Margin by time step")
    ends = "; ".join(
        f"{each.model} {tables.number(float(margin[0]))} after the first step, {tables.number(float(margin[-1]))} "
        "after the last"
        for each in profiles
        for margin in (each.values["mean margin"],)
    )
    caption = (
        "Mean logit of the true class minus the largest other one, and the share of samples in which several classes "
        f"share the largest logit, silent outputs included. {profiles[0].caption}"
    )
    return Picture(f"margin-at-step {label}", figure, caption, f"Mean margin by time step: {ends}")


def _other_section(outcomes: Outcomes, records: Records) -> Section:
    known = {*tables.COSTS, *tables.DRAWN, *_TABLED, *_BY_STEP, *_SETTLED}
    other = landscape_tables.numbers_table("Other numbers", outcomes, records, lambda quantity: quantity not in known)
    return Section("Other measurements", "", [other])


def _cost_section(outcomes: Outcomes, records: Records) -> Section:
    return Section("Compute cost", "", [tables.cost(outcomes, records)])


def _line_picture(name: str, found: list[PlotLine], title: str, x_label: str, y_label: str, caption: str) -> Picture:
    ends = (
        f"{line.name} {tables.percent(line.value[0])} at {tables.strength(line.x[0])}, "
        f"{tables.percent(line.value[-1])} at {tables.strength(line.x[-1])}"
        for line in found
    )
    alt = f"{y_label}, {title}: {'; '.join(ends)}"
    if x_label.startswith("Epsilon") and all(tables.in_pixels(x) for line in found for x in line.x):
        found = [replace(line, x=tuple(255 * x for x in line.x)) for line in found]
        x_label = "Epsilon (1/255 of an input unit)"
    return Picture(name, plots.lines(found, title, x_label, y_label), caption, alt)


def _bar_picture(name: str, found: Records, models: list[str], title: str, axis: str, scale: float) -> Picture:
    layers = list(dict.fromkeys(record.layer for record in found))
    present = [model for model in models if any(record.model == model for record in found)]
    values = np.full((len(present), len(layers)), np.nan)
    for record in found:
        values[present.index(record.model), layers.index(record.layer)] = scale * record.value
    spans = (f"{m} {np.nanmin(row):.3g} to {np.nanmax(row):.3g}" for m, row in zip(present, values, strict=True))
    figure = plots.bars(present, layers, values, title, axis)
    return Picture(name, figure, f"{title} of each layer.", f"{axis} by layer: {'; '.join(spans)}")


def _line_of_records(name: str, records: Records) -> PlotLine:
    ordered = sorted(records, key=lambda record: record.strength)
    columns = ([getattr(record, each) for record in ordered] for each in ("strength", "value", "low", "high"))
    x, value, low, high = (tuple(column) for column in columns)
    return PlotLine(name, x, value, low, high)


def _line_of_curve(curve: Curve) -> PlotLine:
    return PlotLine(curve.model, curve.strength, curve.value, curve.low, curve.high)


def _from_clean(line: PlotLine, outcomes: Outcomes, records: Records, model: str) -> PlotLine:
    """The line with clean accuracy prepended at strength 0."""
    clean = tables.select(records, "accuracy", outcomes.labels("clean"), model)
    if line.x[0] == 0 or not clean:
        return line
    first = clean[0]
    low, high = (first.low, *line.low), (first.high, *line.high)
    return PlotLine(line.name, (0.0, *line.x), (first.value, *line.value), low, high)
