"""What a page shows, section by section: tables and pictures of one subject, with the words beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from snnrobust.analysis import transfer
from snnrobust.analysis.curves import worst_case as worst_case_curve
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.report import landscape_sections, landscape_tables, plots, tables
from snnrobust.report.assumed import remark
from snnrobust.report.plots import Line
from snnrobust.report.section import Picture, Section
from snnrobust.results.records import Curve, Record

Records = Sequence[Record]

_TABLED = (*landscape_tables.CURVATURE, *landscape_tables.SLICES, *landscape_tables.SHARPNESS)
_LANDSCAPES = (landscape_sections.surfaces, landscape_sections.curvature, landscape_sections.sharpness)


def sections(outcomes: Outcomes, records: Records) -> list[Section]:
    """The sections for which there is something to show."""
    makers = (_transfer, _noise, *_LANDSCAPES, _activity, _other, _cost)
    found = [*_attacks(outcomes, records), *(make(outcomes, records) for make in makers)]
    kept = []
    for each in found:
        filled = [table for table in each.tables if any(rows for _, rows in table.groups)]
        if filled or each.pictures:
            kept.append(Section(each.title, each.text, filled, each.pictures))
    return kept


def _attacks(outcomes: Outcomes, records: Records) -> list[Section]:
    """One section for each threat model."""
    models: dict[str, list[str]] = {}
    for threat, model in tables.threatened(outcomes, records):
        models.setdefault(threat, []).append(model)
    senses = {"robust_accuracy": "", "robust_accuracy_last_iterate": ", last iterate"}
    return [
        Section(
            f"Attacks: {threat}",
            "Robust accuracy in percent of all samples: right when clean, and broken by no example within epsilon. "
            "Epsilon is in input units." + remark(outcomes, _attacks_of(records, threat), found),
            [
                *([tables.worst_case(outcomes, found, threat)] if len(_attacks_of(records, threat)) > 1 else []),
                tables.by_strength(
                    f"Robust accuracy, {threat}", outcomes, records, senses, outcomes.labels("attack"), threat
                ),
                *(tables.members(outcomes, each, found) for each in _ensembles_of(outcomes, records, threat)),
            ],
            _attack_pictures(outcomes, records, threat, found),
        )
        for threat, found in models.items()
    ]


def _attack_pictures(outcomes: Outcomes, records: Records, threat: str, models: list[str]) -> list[Picture]:
    """A panel for the worst case and for each attack; one panel for everything where there is one model."""
    labels = _attacks_of(records, threat)
    panels: dict[str, list[Line]] = {}
    if len(labels) > 1:
        panels["worst case"] = [
            _anchored(_of_curve(worst_case_curve(outcomes, model, threat)), outcomes, records, model)
            for model in models
        ]
    for label in labels:
        curves = {model: tables.select(records, "robust_accuracy", [label], model) for model in models}
        panels[label] = [_anchored(_line(m, found), outcomes, records, m) for m, found in curves.items() if found]
    if len(models) == 1:
        panels = {models[0]: [replace(line, name=label) for label, found in panels.items() for line in found]}
    return [
        _curves(
            f"robust-accuracy {title} {threat}",
            found,
            title,
            "Epsilon (input units)",
            "Robust accuracy",
            f"Robust accuracy over epsilon, {title}, {threat}. Bars are 95 % intervals; at 0 stands clean accuracy."
            + remark(outcomes, [title] if title in labels else labels, models),
        )
        for title, found in panels.items()
    ]


def _attacks_of(records: Records, threat: str) -> list[str]:
    """Labels of the attacks of one threat model."""
    return list(dict.fromkeys(r.label for r in records if r.metric == "robust_accuracy" and r.threat == threat))


def _ensembles_of(outcomes: Outcomes, records: Records, threat: str) -> list[str]:
    return [label for label in _attacks_of(records, threat) if outcomes.task(label)["members"]]


def _transfer(outcomes: Outcomes, records: Records) -> Section:
    """A map for each group of attacks that are alike but for the model that their examples are made on."""
    pictures = []
    for labels in transfer.groups(outcomes):
        for radius in tables.chosen(transfer.strengths(outcomes, labels)):
            found = transfer.transfer(outcomes, radius, labels[0])
            title = f"{outcomes.task(labels[0])['name']}, epsilon {tables.strength(radius)}"
            cells = (
                f"made on {source}, tried on {target}: {tables.percent(float(found.values[i, j]))}"
                for i, source in enumerate(found.sources)
                for j, target in enumerate(found.targets)
            )
            caption = (
                f"Robust accuracy in percent of {found.count:,} samples under examples of "
                f"{outcomes.task(labels[0])['plugin']} within epsilon {tables.strength(radius)}, from the model of the "
                f"row on the model of the column. Tasks: {', '.join(found.labels)}."
                f"{remark(outcomes, found.labels, found.targets)}"
            )
            figure = plots.heat_map(found.sources, found.targets, found.values, title)
            pictures.append(Picture(f"transfer {title}", figure, caption, f"Transfer, {title}: {'; '.join(cells)}"))
    text = (
        "What examples made on one model leave standing of another. Where other models' examples break more of a model "
        "than its own do, its gradients are masked."
    )
    return Section("Transfer", text, [], pictures)


def _noise(outcomes: Outcomes, records: Records) -> Section:
    labels = outcomes.labels("noise")
    pictures = []
    for label in labels:
        curves = {model: tables.select(records, "accuracy", [label], model) for model in outcomes.models}
        found = [_anchored(_line(m, each), outcomes, records, m) for m, each in curves.items() if each]
        task = outcomes.task(label)
        caption = (
            f"Accuracy under {task['plugin']}, mean over {task['draws']} draws a sample. "
            "Bars are 95 % intervals over samples; at severity 0 stands clean accuracy."
        )
        axis = "Severity (the corruption's own scale)"
        pictures += [_curves(f"noise {label}", found, label, axis, "Accuracy", caption)] if found else []
    shown = [
        tables.by_strength("Accuracy under noise", outcomes, records, {"accuracy": ""}, [label], None)
        for label in labels
    ]
    return Section("Noise", "Accuracy in percent, averaged over random draws.", shown, pictures)


def _activity(outcomes: Outcomes, records: Records) -> Section:
    pictures = []
    for label in outcomes.labels("measurement"):
        for metric, title, axis, scale in (
            ("firing_rate", "Firing rate", "Firing rate (spikes per neuron and step)", 1.0),
            ("silent_neurons", "Silent neurons", "Neurons that never fire (%)", 100.0),
        ):
            found = tables.select(records, metric, [label])
            pictures += [_bars(f"{metric} {label}", found, outcomes.models, title, axis, scale)] if found else []
        steps = {m: tables.select(records, "accuracy_at_step", [label], m) for m in outcomes.models}
        curves = [_line(model, each) for model, each in steps.items() if each]
        if curves:
            caption = "Accuracy when the read-out stops after that many time steps. Bars are 95 % intervals."
            title, axis = "Accuracy by time step", "Simulated time (steps)"
            pictures.append(_curves(f"accuracy-at-step {label}", curves, title, axis, "Accuracy", caption))
    return Section("Activity and energy", "", [tables.energy(outcomes, records)], pictures)


def _other(outcomes: Outcomes, records: Records) -> Section:
    known = {*tables.COSTS, *tables.DRAWN, *_TABLED}
    other = landscape_tables.listed(
        "Numbers without a table or plot of their own", outcomes, records, lambda metric: metric not in known
    )
    return Section("Other measurements", "", [other])


def _cost(outcomes: Outcomes, records: Records) -> Section:
    return Section("Compute cost", "", [tables.cost(outcomes, records)])


def _curves(name: str, found: list[Line], title: str, x_label: str, y_label: str, caption: str) -> Picture:
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


def _bars(name: str, found: Records, models: list[str], title: str, axis: str, scale: float) -> Picture:
    layers = list(dict.fromkeys(record.metric.partition(":")[2] for record in found))
    present = [model for model in models if any(record.model == model for record in found)]
    values = np.full((len(present), len(layers)), np.nan)
    for record in found:
        values[present.index(record.model), layers.index(record.metric.partition(":")[2])] = scale * record.value
    spans = (f"{m} {np.nanmin(row):.3g} to {np.nanmax(row):.3g}" for m, row in zip(present, values, strict=True))
    figure = plots.bars(present, layers, values, title, axis)
    return Picture(name, figure, f"{title} of each layer.", f"{axis} by layer: {'; '.join(spans)}")


def _line(name: str, records: Records) -> Line:
    ordered = sorted(records, key=lambda record: record.strength)
    columns = ([getattr(record, each) for record in ordered] for each in ("strength", "value", "low", "high"))
    x, value, low, high = (tuple(column) for column in columns)
    return Line(name, x, value, low, high)


def _of_curve(curve: Curve) -> Line:
    return Line(curve.model, curve.strength, curve.value, curve.low, curve.high)


def _anchored(line: Line, outcomes: Outcomes, records: Records, model: str) -> Line:
    """The line from clean accuracy, at strength 0, on."""
    clean = tables.select(records, "accuracy", outcomes.labels("clean"), model)
    if line.x[0] == 0 or not clean:
        return line
    first = clean[0]
    low, high = (first.low, *line.low), (first.high, *line.high)
    return Line(line.name, (0.0, *line.x), (first.value, *line.value), low, high)
