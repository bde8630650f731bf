"""The page: one self-contained HTML file, with its pictures embedded and beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.audit.judgement import Judged
from snnrobust.common.files import slug, write
from snnrobust.report import claims, plots, tables
from snnrobust.report.assumed import remark
from snnrobust.report.findings import checks, summary, verdict_on
from snnrobust.report.searches import searches
from snnrobust.report.section import Picture
from snnrobust.report.sections import sections
from snnrobust.results.records import Record

#: Parts of run.json that the page shows in another way, or that only a program reads.
_ELSEWHERE = ("models", "tasks", "notes", "evidence_tasks", "rows", "search", "signature")


def write_page(judged: Judged, records: Sequence[Record], path: Path) -> Path:
    """Writes the page of a report, and its pictures as PNG files in the folder "STEM_files" beside it.

    Equal reports give equal bytes.

    Args:
        judged: What an evaluation found.
        records: Its numbers.
        path: Where the page goes; folders are made as needed.

    Returns:
        `path`.
    """
    outcomes = judged.outcomes
    shown = sections(outcomes, records)
    pictures = [picture for section in shown for picture in section.pictures]
    folder = path.with_name(f"{path.stem}_files")
    embedded = {id(picture): _embed(picture, folder, k) for k, picture in enumerate(pictures, 1)}
    page = _template().render(
        title=_title(outcomes.models),
        facts=_facts(outcomes, records),
        verdict=judged.verdict,
        meaning=claims.meaning(judged),
        quoted=claims.claims_table(judged, quoted=True),
        unquoted=claims.claims_table(judged, quoted=False),
        notes=outcomes.run.get("notes", []),
        overview=tables.overview(judged, records),
        findings=_findings(judged),
        sections=shown,
        embedded=lambda picture: embedded[id(picture)],
        mode=outcomes.run["mode"],
        settings=_settings(outcomes),
    )
    write(path, page.encode())
    return path


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(plain=_plain, number=tables.number, strength=tables.strength)
    source = files("snnrobust.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source)


def _embed(picture: Picture, folder: Path, position: int) -> dict[str, Any]:
    """Writes a picture beside the page, and returns what the page needs to hold it itself."""
    content = plots.png(picture.figure)
    write(folder / f"{position:02d}-{slug(picture.name)}.png", content)
    width, height = (round(float(side) * plots.DPI) for side in picture.figure.get_size_inches())
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"source": source, "width": width, "height": height}


def _title(models: Sequence[str]) -> str:
    return f"Robustness of {models[0]}" if len(models) == 1 else f"Robustness of {len(models)} models"


def _facts(outcomes: Outcomes, records: Sequence[Record]) -> dict[str, str]:
    """What the headline says about the run."""
    counts = {record.count for record in tables.select(records, "accuracy", outcomes.labels("clean"))}
    facts = {
        "Models": ", ".join(outcomes.models),
        "Samples": ", ".join(f"{count:,}" for count in sorted(counts)),
        "Data": outcomes.run["data"]["name"],
        "Tasks": ", ".join(outcomes.labels()),
        "Evidence": claims.evidence(outcomes),
        "Search": "; ".join(searches(outcomes)),
        "Memory": "; ".join(_out_of_memory(outcomes, model) for model in outcomes.models if outcomes.halved(model)),
        "Mode": f"bisect.{remark(outcomes, outcomes.labels('attack'), outcomes.models)}"
        if outcomes.run["mode"] == "bisect"
        else "",
    }
    return {name: text for name, text in facts.items() if text}


def _out_of_memory(outcomes: Outcomes, model: str) -> str:
    sizes = outcomes.halved(model)
    times = "once" if len(sizes) == 1 else f"{len(sizes)} times"
    return f"ran out {times} on {model}: at most {sizes[-1]} samples at once since"


def _findings(judged: Judged) -> list[dict[str, Any]]:
    """Checks by model: the open ones, apart from them those that passed and those of attacks that are not quoted."""
    groups = []
    shown = ("", *judged.outcomes.quoted(), *judged.outcomes.labels("measurement"))
    for model in dict.fromkeys(finding.model for finding in judged.findings):
        own = checks(finding for finding in judged.findings if finding.model == model)
        decisive = [check for check in own if check.worst.label in shown]
        groups.append(
            {
                "model": model or "All models",
                "verdict": verdict_on(judged, model) if model else "",
                "summary": summary(decisive),
                "open": [check for check in decisive if check.passed is not True],
                "passed": [check for check in decisive if check.passed],
                "aside": [check for check in own if check.worst.label not in shown and check.passed is not True],
            }
        )
    return groups


def _settings(outcomes: Outcomes) -> dict[str, Any]:
    """The recorded run: models and tasks side by side, the rest as it is."""
    models = outcomes.run["models"]
    everything = [each for task in outcomes.run["tasks"] for each in (task, *_members(task))]
    tasks = {task["label"]: _flat(task) for task in everything}
    rows = sorted({name for settings in models.values() for name in _flat(settings)})
    flat = {model: _flat(settings) for model, settings in models.items()}
    columns = sorted({name for task in tasks.values() for name in task} - {"label"})
    return {
        "models": tables.Table(
            "Models, as wrapped",
            ["Setting", *models],
            [("", [tables.Row(row, [tables.Cell(_plain(flat[m].get(row, "–"))) for m in models]) for row in rows])],
        ),
        "tasks": tables.Table(
            "Tasks",
            ["Label", *(column.replace(".", ": ") for column in columns)],
            [("", [tables.Row(t, [tables.Cell(_plain(tasks[t].get(c, "–"))) for c in columns]) for t in tasks])],
        ),
        "rest": {name: value for name, value in outcomes.run.items() if name not in _ELSEWHERE},
    }


def _members(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The members of an ensemble as tasks of their own, called "ENSEMBLE: MEMBER"."""
    return [{**member, "label": f"{task['label']}: {member['label']}"} for member in task["members"]]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name in ("attack", "members") and not value:
            continue  # no attack or ensemble: nothing to say about its factors
        if name == "members":
            value = [member["label"] for member in value]
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": each for inner, each in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def _plain(value: Any) -> str:
    """A recorded value as text."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(_plain(each) for each in value) if isinstance(value, list | tuple) else str(value)
