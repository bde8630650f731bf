"""The page: one self-contained HTML file; its pictures are embedded and also written as files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit.judgement import AuditResult
from snnrobust.common.files import slug, write
from snnrobust.report import claims, plots, tables
from snnrobust.report.assumed import assumed_note
from snnrobust.report.findings import checks, model_verdict, summary
from snnrobust.report.searches import searches
from snnrobust.report.section import Picture
from snnrobust.report.sections import sections
from snnrobust.results.records import Record

#: Parts of run.json that are shown elsewhere on the page, or not at all.
_ELSEWHERE = ("models", "tasks", "notes", "evidence_tasks", "rows", "search", "signature")


def write_page(audit: AuditResult, records: Sequence[Record], path: Path) -> Path:
    """Writes the page of a report, and its pictures as PNG files in the folder "STEM_files" beside it.

    The same report always gives the same bytes.

    Args:
        audit: The outcomes with their findings and claims.
        records: All numbers.
        path: File to write; missing folders are created.

    Returns:
        `path`.
    """
    outcomes = audit.outcomes
    shown = sections(outcomes, records)
    pictures = [picture for section in shown for picture in section.pictures]
    folder = path.with_name(f"{path.stem}_files")
    embedded = {id(picture): _embed(picture, folder, k) for k, picture in enumerate(pictures, 1)}
    page = _template().render(
        title=_title(outcomes.models),
        facts=_facts(outcomes, records),
        verdict=audit.verdict,
        meaning=claims.verdict_text(audit),
        quoted=claims.claims_table(audit, quoted=True),
        unquoted=claims.claims_table(audit, quoted=False),
        notes=outcomes.run.get("notes", []),
        overview=tables.overview_table(audit, records),
        findings=_finding_groups(audit),
        sections=shown,
        embedded=lambda picture: embedded[id(picture)],
        mode=outcomes.run["mode"],
        settings=_settings(outcomes),
    )
    write(path, page.encode())
    return path


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(plain=_as_text, number=tables.number, strength=tables.strength)
    source = files("snnrobust.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source)


def _embed(picture: Picture, folder: Path, position: int) -> dict[str, Any]:
    """Writes a picture as a file and returns its data and size for embedding."""
    content = plots.png(picture.figure)
    write(folder / f"{position:02d}-{slug(picture.name)}.png", content)
    width, height = (round(float(side) * plots.DPI) for side in picture.figure.get_size_inches())
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"source": source, "width": width, "height": height}


def _title(models: Sequence[str]) -> str:
    return f"Robustness of {models[0]}" if len(models) == 1 else f"Robustness of {len(models)} models"


def _facts(outcomes: Outcomes, records: Sequence[Record]) -> dict[str, str]:
    """The facts at the top of the page."""
    counts = {record.count for record in tables.select(records, "accuracy", outcomes.labels("clean"))}
    facts = {
        "Models": ", ".join(outcomes.models),
        "Samples": ", ".join(f"{count:,}" for count in sorted(counts)),
        "Data": outcomes.run["data"]["name"],
        "Tasks": ", ".join(outcomes.labels()),
        "Evidence": claims.evidence_summary(outcomes),
        "Search": "; ".join(searches(outcomes)),
        "Memory": "; ".join(_out_of_memory(outcomes, model) for model in outcomes.models if outcomes.halved(model)),
        "Mode": f"bisect.{assumed_note(outcomes, outcomes.labels('attack'), outcomes.models)}"
        if outcomes.run["mode"] == "bisect"
        else "",
    }
    return {name: text for name, text in facts.items() if text}


def _out_of_memory(outcomes: Outcomes, model: str) -> str:
    sizes = outcomes.halved(model)
    times = "once" if len(sizes) == 1 else f"{len(sizes)} times"
    return f"ran out {times} on {model}: the batch size was reduced to {sizes[-1]}"


def _finding_groups(audit: AuditResult) -> list[dict[str, Any]]:
    """Checks by model, in three lists: failed or missing; passed; about attacks that are not quoted."""
    groups = []
    shown = ("", *audit.outcomes.quoted(), *audit.outcomes.labels("measurement"))
    for model in dict.fromkeys(finding.model for finding in audit.findings):
        own = checks(finding for finding in audit.findings if finding.model == model)
        decisive = [check for check in own if check.worst.label in shown]
        groups.append(
            {
                "model": model or "All models",
                "verdict": model_verdict(audit, model) if model else "",
                "summary": summary(decisive),
                "open": [check for check in decisive if check.passed is not True],
                "passed": [check for check in decisive if check.passed],
                "aside": [check for check in own if check.worst.label not in shown and check.passed is not True],
            }
        )
    return groups


def _settings(outcomes: Outcomes) -> dict[str, Any]:
    """The recorded settings: a table of models, a table of tasks, and the rest."""
    models = outcomes.run["models"]
    listed = [each for task in outcomes.run["tasks"] for each in (task, *_member_tasks(task))]
    # The plugin's text has its parameters already.
    tasks = {task["label"]: _flat({**task, "parameters": {}}) for task in listed}
    rows = sorted({name for settings in models.values() for name in _flat(settings)})
    flat = {model: _flat(settings) for model, settings in models.items()}
    columns = sorted({name for task in tasks.values() for name in task} - {"label"})
    return {
        "models": tables.Table(
            "Models, as wrapped",
            ["Setting", *models],
            [
                (
                    "",
                    [
                        tables.TableRow(row, [tables.TableCell(_as_text(flat[m].get(row, "–"))) for m in models])
                        for row in rows
                    ],
                )
            ],
        ),
        "tasks": tables.Table(
            "Tasks",
            ["Label", *(column.replace(".", ": ") for column in columns)],
            [
                (
                    "",
                    [
                        tables.TableRow(t, [tables.TableCell(_as_text(tasks[t].get(c, "–"))) for c in columns])
                        for t in tasks
                    ],
                )
            ],
        ),
        "rest": {name: value for name, value in outcomes.run.items() if name not in _ELSEWHERE},
    }


def _member_tasks(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The members of an ensemble as tasks with the label "ENSEMBLE: MEMBER"."""
    return [{**member, "label": f"{task['label']}: {member['label']}"} for member in task["members"]]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as one dict with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name in ("attack", "members") and not value:
            continue  # the task has no attack, or no members
        if name == "members":
            value = [member["label"] for member in value]
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": each for inner, each in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def _as_text(value: Any) -> str:
    """A recorded value as text."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(_as_text(each) for each in value) if isinstance(value, list | tuple) else str(value)
