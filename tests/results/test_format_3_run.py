"""A folder of format 3 is read with the same curves, verdicts and members as the run that it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import snnrobust as sr
from snnrobust.results.errata import errata
from snnrobust.results.execution_path import ExecutionPath
from snnrobust.results.format_3 import upgrade_run
from snnrobust.testing.tiny import tiny_data, tiny_model

TYPED = (
    *("quantity", "layer", "rank", "directions", "search", "operator", "variant", "space", "symmetric", "draw_noise"),
)


def as_format_3(folder: Path) -> None:
    """Takes away from a folder what format 4 added, as format 3 wrote it."""
    run = json.loads((folder / "run.json").read_text())
    assert run["format"] == 4
    run["format"] = 3
    run["exhibits"] = run.pop("evidence_tasks")
    if "not_bisected" in run:
        run["kept_nested"] = run.pop("not_bisected")
    del run["examples"], run["example_bytes"]
    for task in (*run["tasks"], *(each["task"] for found in run["exhibits"].values() for each in found)):
        for part in (task, *task["members"]):
            del part["parameters"]
    (folder / "run.json").write_text(json.dumps(run))
    for path in folder.rglob("searches.json"):
        paths = json.loads(path.read_text())
        words = {label: [str(ExecutionPath(**each)) for each in found] for label, found in paths.items()}
        path.write_text(json.dumps(words))
    for path in folder.rglob("measure.json"):
        content = json.loads(path.read_text())
        content["records"] = [{k: v for k, v in each.items() if k not in TYPED} for each in content["records"]]
        path.write_text(json.dumps(content))


@pytest.fixture(
    params=[{"evidence": "basic"}, {"evidence": "basic", "mode": "bisect"}], ids=["nested", "bisect"], scope="module"
)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[sr.Report, Path]:
    """A report, and its folder in format 3, which no test changes."""
    folder = tmp_path_factory.mktemp("run")
    tasks: list[Any] = [
        sr.load("pgd", epsilon=[0.02, 0.05, 0.1], steps=4, restarts=2),
        sr.load("fast", epsilon=[0.02, 0.05, 0.1]),
        sr.load("gaussian", severity=[0.1]),
        "activity",
        sr.load("eigenvalues", k=2, samples=8),
    ]
    splits = {"test": tiny_data(count=16), "train": tiny_data(count=16)}
    report = sr.evaluate(tiny_model(), splits, tasks, out=folder, **request.param)
    as_format_3(folder)
    return report, folder


def test_curves_findings_records_and_members_are_equal(both: tuple[sr.Report, Path]) -> None:
    report, folder = both
    loaded = sr.Report.load(folder)
    for label in ("pgd", "fast", "gaussian"):
        assert loaded.curve(label) == report.curve(label)
    assert loaded.members("fast") == report.members("fast")
    assert loaded.members("pgd")[0].budget == 8
    assert loaded.claims == report.claims
    assert [(each.name, each.passed) for each in loaded.findings] == [
        (each.name, each.passed) for each in report.findings
    ]
    assert loaded.verdict == report.verdict
    assert [repr(each) for each in loaded.records] == [repr(each) for each in report.records]  # NaN is not NaN
    assert loaded.execution_paths() == report.execution_paths()
    assert loaded.run.get("not_bisected") == report.run.get("not_bisected")


def test_it_can_be_saved_in_the_present_format(both: tuple[sr.Report, Path], tmp_path: Path) -> None:
    report, folder = both
    loaded = sr.Report.load(folder)
    loaded.save(tmp_path / "copy")
    again = sr.Report.load(tmp_path / "copy")
    assert again.claims == report.claims
    assert json.loads((tmp_path / "copy" / "run.json").read_text())["format"] == 4


def test_it_is_not_resumed(both: tuple[sr.Report, Path]) -> None:
    _, folder = both
    with pytest.raises(sr.StoreError, match=r"format 3, which can be read .* but not resumed"):
        sr.evaluate(tiny_model(), tiny_data(), ["clean"], out=folder)


def test_a_plugin_whose_repr_is_no_call_has_no_parameters() -> None:
    task = {"members": [], "plugin": "<something>", "label": "it"}
    run = upgrade_run({"format": 3, "tasks": [task, {**task, "plugin": "Name"}], "exhibits": {}})
    assert [each["parameters"] for each in run["tasks"]] == [{}, {}]


def test_loading_a_run_whose_numbers_may_be_wrong_warns(both: tuple[sr.Report, Path]) -> None:
    """It says in which cases; a run of the present format says nothing."""
    _, folder = both
    with pytest.warns(
        RuntimeWarning, match="format 3, where robust accuracy is wrong if the net is in half precision"
    ) as caught:
        sr.Report.load(folder)
    assert "(ILIF, ternary); run it again if this applies" in str(caught[0].message)
    assert str(folder) in str(caught[0].message)


def _run(**changes: Any) -> dict[str, Any]:
    attack = {"norm": "linf", "objective": "CrossEntropy()", "gradient": "Own()"} | changes.pop("attack", {})
    task = {"name": "pgd", "kind": "attack", "members": [], "attack": attack} | changes.pop("task", {})
    model = {"encoder": None, "layout": "TN"} | changes.pop("model", {})
    return {"written_by_format": 3, "tasks": [task], "models": {"m": model}} | changes


@pytest.mark.parametrize(
    ("run", "margin", "named"),
    [
        (_run(), 0.5, []),
        (_run(), -np.inf, ["infinite"]),
        (_run(task={"name": "torchattacks:SPSA"}), 0.5, ["SPSA"]),
        (_run(attack={"norm": "l1"}), 0.5, ["padded"]),
        (_run(task={"name": "square"}), 0.5, ["padded"]),
        (_run(attack={"objective": "PerStepCrossEntropy()"}), 0.5, ["padded"]),
        (_run(attack={"norm": "l1"}, model={"encoder": "repeat"}), 0.5, []),
        (_run(attack={"gradient": "HART(gamma=1.0)"}), 0.5, ["padded", "ternary"]),
        (_run(attack={"gradient": "ATan(alpha=2.0)"}), 0.5, ["ternary"]),
    ],
)
def test_a_case_is_named_unless_the_run_excludes_it(run: dict[str, Any], margin: float, named: list[str]) -> None:
    found = errata(run, {("m", "pgd", 0): {"margin": np.array([0.1, margin])}})
    every = ["SPSA", "infinite", "padded", "ternary"]
    assert [name for name in every if any(name in line for line in found)] == sorted(named, key=every.index)
    assert sum("half precision" in line for line in found) == 1
    assert errata({**run, "written_by_format": None}, {}) == []
