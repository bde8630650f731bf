"""Every file of a run's folder, damaged in every way: the report is the same, or one line names the file and a cure.

The cure is applied as it is printed, and ends with the report of the undamaged run.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import snnrobust as sr
from snnrobust.errors import StoreError
from snnrobust.evaluation.make_plan import make_plan
from snnrobust.evaluation.run_description import describe
from snnrobust.evaluation.settings import EvaluationSettings
from snnrobust.results.checkpoint import MeasurementCheckpoint
from snnrobust.results.records import Finding, Record
from snnrobust.results.store import Store
from snnrobust.search.queries import ModelQueries
from snnrobust.testing.tiny import tiny_data, tiny_model

DATA = {"test": tiny_data(count=12), "train": tiny_data(count=12)}
#: Those that only describe.
FREE = ("timings.json", "searches.json", "memory.json")
FINISHED = (
    *("run.json", "findings.json", *FREE),
    *("clean/0.npz", "pgd/0.npz", "pgd/1.npz", "gaussian/0.npz", "clean/0.examples.npz", "pgd/1.examples.npz"),
    *("activity/measure.json", "activity/measure.npz", "line/measure.json", "line/measure.npz"),
)
#: Resumed with damage in the fast tests, too.
RESUMED = ("pgd/1.npz", "activity/measure.json", "memory.json")
INTERRUPTED = ("pgd/1.partial.npz", "line/measure.partial.npz")


def evaluate(out: Path | None, **more: Any) -> sr.Report:
    tasks: list[Any] = [
        sr.load("pgd", epsilon=[0.02, 0.05], steps=3, restarts=2),
        sr.load("gaussian", severity=0.1, draws=2),
        "activity",
        sr.load("line", points=3),
    ]
    return sr.evaluate(tiny_model(), DATA, tasks, out=out, batch_size=8, examples=4, **more)


def numbers(report: sr.Report) -> Any:
    """All that a report says, without what it took."""
    frame = report.to_frame().drop(columns="seconds").to_csv()
    curves = [report.curve(label) for label in ("pgd", "gaussian")]
    examples = report.examples("pgd", 0.05)
    return (
        frame,
        repr(curves),
        repr(report.findings),
        repr(report.claims),
        examples.x.tolist(),
        examples.queries.tolist(),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    evaluate(folder)
    return folder


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that were interrupted in an attack and in a measurement."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    for kind, method, calls in ((MeasurementCheckpoint, "put", 2), (ModelQueries, "gradient", 3)):
        former, count = getattr(kind, method), 0

        def interrupted(
            *arguments: Any, former: Any = former, calls: int = calls, kind: Any = kind, **more: Any
        ) -> Any:
            nonlocal count
            count += kind is MeasurementCheckpoint or (folder / "cells/tiny/pgd/0.npz").exists()
            found = former(*arguments, **more)
            if count == calls:
                raise KeyboardInterrupt
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, method, interrupted)
            with pytest.raises(KeyboardInterrupt):
                evaluate(folder)
        if kind is MeasurementCheckpoint:
            shutil.rmtree(folder / "cells/tiny/pgd")
    return folder


def named(folder: Path, name: str) -> Path:
    return folder / name if name == "run.json" else folder / "cells/tiny" / name


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbled(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(300))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine").touch()


def a_broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def zeroed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:40] + b"\0" * (len(content) - 40))


def wrong_type(plain: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(json.dumps(plain))

    damage.__name__ = f"type_{plain!r}"
    return damage


def every_key_missing_once(path: Path) -> list[Callable[[Path], None]]:
    """One damage for each key at any depth of a JSON file that is left out, and one for each of another type."""
    found: list[Callable[[Path], None]] = []

    def walk(value: Any, way: tuple[Any, ...]) -> None:
        for key in value if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else ():
            if isinstance(value, dict):
                found.append(changed((*way, key), None))
            found.append(changed((*way, key), [{"odd": "text"}] if not isinstance(value[key], list) else {"odd": 1}))
            walk(value[key], (*way, key))

    walk(json.loads(path.read_text()), ())
    return found


def changed(way: tuple[Any, ...], to: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        whole = value = json.loads(path.read_text())
        for key in way[:-1]:
            value = value[key]
        if to is None:
            del value[way[-1]]
        else:
            value[way[-1]] = to
        path.write_text(json.dumps(whole))

    damage.__name__ = f"{'/'.join(map(str, way))}={to}"
    return damage


def every_array_damaged_once(path: Path) -> list[Callable[[Path], None]]:
    """For each array: renamed, of one row less, of one axis more, of text."""
    with np.load(path) as archive:
        names = archive.files
    changes: dict[str, Callable[[np.ndarray], Any]] = {
        "renamed": lambda array: None,
        "shorter": lambda array: array[:-1],
        "deeper": lambda array: array[..., None],
        "text": lambda array: np.full(array.shape, "a"),
        "scalar": lambda array: np.zeros((), array.dtype),
    }

    def damage_of(name: str, how: str) -> Callable[[Path], None]:
        def damage(path: Path) -> None:
            with np.load(path) as archive:
                arrays = {each: archive[each] for each in archive.files}
            array = arrays.pop(name)
            new = changes[how](array)
            arrays[f"x{name}" if new is None else name] = array if new is None else new
            np.savez(path, **arrays)

        damage.__name__ = f"{name}_{how}"
        return damage

    return [damage_of(name, how) for name in names for how in changes]


PLAIN = (truncated, emptied, garbled, zeroed, a_folder, a_broken_link)
TYPES = tuple(wrong_type(each) for each in ([], {}, 3, "text", None, [None], {"a": None}, [[1]], {"a": "b"}))


def damages(path: Path, *, few: bool) -> list[Callable[[Path], None]]:
    if path.suffix == ".npz":
        found = every_array_damaged_once(path)
        return [*PLAIN, *(found[::16] if few else found)]
    found = every_key_missing_once(path)
    return [*PLAIN, *TYPES, *(found[:: max(1, len(found) // 5)] if few else found)]


def cured(error: StoreError, folder: Path, path: Path, elsewhere: Path) -> sr.Report:
    """Does what the message says."""
    message = str(error)
    assert re.fullmatch(r"expected .* (in|at) '.*', got .*; .*", message), message
    assert "\n" not in message
    at = re.search(r" (?:in|at) '(/[^']*)'", message)
    assert at is not None, message
    if "; delete both and resume" in message:
        both = [Path(each) for each in re.findall(r"'(/[^']*)'", message)]
        assert path in both
        for each in both:
            each.unlink()
        return evaluate(folder)
    if path.name == "run.json" and "got another run" in message:
        assert message.endswith("; choose another output folder")
        return evaluate(elsewhere)
    assert Path(at[1]) == path, message
    if "; delete it and resume" in message or ", or delete it and resume" in message:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return evaluate(folder)
    assert "start again in another output folder" in message, message
    return evaluate(elsewhere)


def check(sound: Path, name: str, damage: Callable[[Path], None], tmp_path: Path, wanted: Any, how: str) -> bool:
    """Damages a copy, loads or resumes it, and applies the cure; returns whether a cure was needed."""
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for each in (folder, elsewhere):
        shutil.rmtree(each, ignore_errors=True)
    shutil.copytree(sound, folder)
    path = named(folder, name)
    if name == "memory.json":
        path.write_text("[4]")
    damage(path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found, refused = numbers(sr.Report.load(folder) if how == "load" else evaluate(folder)), False
        except StoreError as error:
            found, refused = numbers(cured(error, folder, path, elsewhere)), True
    about = f"{name} {damage.__name__} {how}"
    if path.name in FREE:
        assert not refused, about
        lines = [str(each.message) for each in said if issubclass(each.category, UserWarning)]
        assert all(str(path) in line and "ignored" in line for line in lines), about
    told = (0, 1, 4, 5) if name == "memory.json" else range(6)  # a sound one is told in a finding
    assert [found[k] for k in told] == [wanted[k] for k in told], about
    return refused


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=() if how == "load" or name in RESUMED else pytest.mark.slow)
        for name in FINISHED
        for how in ("load", "resume")
    ],
)
def test_a_damaged_file_of_a_finished_run(name: str, how: str, whole: Path, tmp_path: Path) -> None:
    wanted = numbers(sr.Report.load(whole))
    listed = [*PLAIN, *TYPES] if name == "memory.json" else damages(named(whole, name), few=True)
    refused = [check(whole, name, damage, tmp_path, wanted, how) for damage in listed]
    # Resuming reads neither the probe's findings once more nor examples before they are asked for.
    assert any(refused) == (Path(name).name not in FREE)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["load", "resume"])
@pytest.mark.parametrize("name", [each for each in FINISHED if each != "memory.json"])
def test_each_entry_of_a_file_of_a_finished_run(name: str, how: str, whole: Path, tmp_path: Path) -> None:
    wanted = numbers(sr.Report.load(whole))
    for damage in damages(named(whole, name), few=False):
        check(whole, name, damage, tmp_path, wanted, how)


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_damaged_file_of_an_interrupted_run(name: str, cut: Path, tmp_path: Path) -> None:
    wanted = numbers(evaluate(None))
    for damage in damages(named(cut, name), few=True):
        check(cut, name, damage, tmp_path, wanted, "resume")


@pytest.mark.parametrize("name", ["run.json", "findings.json", "pgd/0.npz", "activity/measure.json", "timings.json"])
def test_a_file_that_nobody_may_read(name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = Path.open

    def refusing(self: Path, *arguments: Any, **more: Any) -> Any:
        if self == named(tmp_path / "run", name) and (arguments or ("r",))[0].startswith("r"):
            raise PermissionError(13, "Permission denied", str(self))
        return former(self, *arguments, **more)

    wanted = numbers(sr.Report.load(whole))
    monkeypatch.setattr(Path, "open", refusing)
    monkeypatch.setattr(Path, "read_bytes", lambda self: self.open("rb").read())

    shutil.copytree(whole, tmp_path / "run")
    if name in FREE:
        with pytest.warns(UserWarning, match="can't be read .*ignored"):
            assert numbers(sr.Report.load(tmp_path / "run")) == wanted
        return
    with pytest.raises(StoreError, match=r"can't be read .Permission denied.; change its permissions, or ") as caught:
        sr.Report.load(tmp_path / "run")
    monkeypatch.undo()
    path = named(tmp_path / "run", name)
    assert numbers(cured(caught.value, tmp_path / "run", path, tmp_path / "elsewhere")) == wanted


@pytest.mark.parametrize("name", ["cells", "cells/tiny", "cells/tiny/pgd"])
@pytest.mark.parametrize("how", ["load", "resume"])
def test_a_file_in_the_place_of_a_folder(name: str, how: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / name)
    (folder / name).touch()
    with pytest.raises(StoreError) as caught:
        sr.Report.load(folder) if how == "load" else evaluate(folder)
    found = numbers(cured(caught.value, folder, folder / name, tmp_path / "elsewhere"))
    assert found == numbers(sr.Report.load(whole))


#: Each leaves a run.json whose entries are sound by themselves.
CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a piece of evidence": lambda run: run["evidence_tasks"]["b"].pop(),
    "all evidence": lambda run: run["evidence_tasks"]["b"].clear(),
    "a model": lambda run: run["models"].pop("b"),
    "all about a model": lambda run: [run[part].pop("b") for part in ("models", "evidence_tasks", "skipped")],
    "a task": lambda run: run["tasks"].pop(),
    "a strength": lambda run: run["tasks"][1]["strengths"].pop(),
    "a member": lambda run: run["tasks"][2]["members"].pop(),
    "what is quoted": lambda run: run["quoted"].pop(),
    "the order of samples": lambda run: run["rows"].reverse(),
    "the checksum": lambda run: run.pop("checksum"),
    "the seed": lambda run: run.update(seed=1),
}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The description of a run of two models with evidence."""
    tasks = ["clean", sr.load("pgd", epsilon=[0.02, 0.05], steps=3), sr.load("fast", epsilon=[0.05])]
    models = {"a": tiny_model(), "b": tiny_model()}
    return describe(make_plan(models, DATA, tasks, EvaluationSettings(evidence="full", batch_size=8)))


@pytest.mark.parametrize("how", ["load", "open", "resume"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_description_of_which_a_part_was_removed_is_refused(
    name: str, how: str, described: dict[str, Any], tmp_path: Path
) -> None:
    Store(tmp_path, described)
    Store.open(tmp_path)
    path = tmp_path / "run.json"
    run = json.loads(path.read_text())
    assert [task["label"] for task in run["tasks"]] == ["clean", "pgd", "fast"]
    CHANGES[name](run)
    path.write_text(json.dumps(run))
    with pytest.raises(StoreError) as caught:
        {"load": sr.Report.load, "open": Store.open, "resume": lambda folder: Store(folder, described)}[how](tmp_path)
    assert str(caught.value) == (
        f"expected the description of a run in '{path}', got a damaged file (its entries don't fit its checksum); "
        f"it can't be repaired: start again in another output folder"
    )


def test_a_description_in_another_layout_is_read(described: dict[str, Any], tmp_path: Path) -> None:
    """Infinite bounds and NaN, which JSON does not hold as such, have the same checksum as they are read."""
    models = {name: {**model, "bounds": (-math.inf, math.inf)} for name, model in described["models"].items()}
    Store(tmp_path, {**described, "models": models, "notes": [math.nan]})
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(run, sort_keys=True))
    del run["checksum"]
    assert Store.open(tmp_path).run == run


@pytest.mark.parametrize("kind", [Record, Finding])
def test_each_field_of_a_stored_record_and_finding_is_required(
    kind: type[Record | Finding], whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run/cells/tiny" / {Record: "activity/measure.json", Finding: "findings.json"}[kind]
    shutil.copytree(whole, tmp_path / "run")
    content = json.loads(path.read_text())
    listed = content["records"] if kind is Record else content
    for field in dataclasses.fields(kind):
        for at in (0, len(listed) - 1):
            value = listed[at].pop(field.name)
            path.write_text(json.dumps(content))
            listed[at][field.name] = value
            with pytest.raises(StoreError) as caught:
                sr.Report.load(tmp_path / "run")
            what = "records of 'activity'" if kind is Record else "findings of the probe"
            assert str(caught.value) == (
                f"expected {what} in '{path}', got a damaged file (a {kind.__name__} without ['{field.name}']); "
                f"delete it and resume (`--resume`, or the same out=)"
            )
    path.write_text(json.dumps(content))
    assert numbers(sr.Report.load(tmp_path / "run")) == numbers(sr.Report.load(whole))
