"""What the files of a run have to hold: entries, types and shapes, so that a damaged file is refused before it is used.

Each check raises a `ValueError` in words; the store names the file and the cure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from snnrobust.common.files import Arrays
from snnrobust.results.records import Finding, Record

R = TypeVar("R", Record, Finding)

_NUMBER = (int, float)
#: Entries of run.json that readers need, with the type that JSON gives them.
_RUN: dict[str, type | tuple[type, ...]] = {
    "fingerprint": str,
    "models": dict,
    "data": dict,
    "tasks": list,
    "seed": int,
    "mode": str,
    "evidence": str,
    "evidence_tasks": dict,
    "skipped": dict,
    "rows": list,
    "quoted": list,
}
#: Those that may be missing.
_OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "examples": int,
    "signature": dict,
    "notes": list,
    "environment": dict,
    "batch_size": (int, type(None)),
    "chunk": (int, type(None)),
}
_MODEL: dict[str, type | tuple[type, ...]] = {"domain": str, "bounds": list, "stochastic": bool}
_DATA: dict[str, type | tuple[type, ...]] = {"name": str, "samples": int}
_TASK: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "label": str,
    "kind": str,
    "origin": str,
    "plugin": str,
    "parameters": dict,
    "strengths": list,
    "members": list,
    "draws": int,
}
_THREAT: dict[str, type | tuple[type, ...]] = {"norm": str, "eot": int, "source": (str, type(None))}
#: Of an attack that an optimiser searches, besides.
_SEARCH: dict[str, type | tuple[type, ...]] = {"objective": str, "gradient": str, "restarts": int}
#: Of an attack, one for each sample, with the kinds of number; those of members are one for each member and sample.
_ATTACK = {
    **dict.fromkeys(("correct", "voted", "last_correct", "unchanged", "member"), "bi"),
    **dict.fromkeys(("forwards", "backwards", "disagreements"), "iu"),
    **dict.fromkeys(("margin", "distance"), "f"),
}
_MEMBERS = {"member_correct": "bi", "member_forwards": "iu", "member_backwards": "iu"}
_RUNNING = {"searches_done": "iu", "rank": "f", "undefined": "iu"}
_BISECTED = {"assumed": "b", "audited": "b"}
_CLEAN = {**dict.fromkeys(("correct", "voted", "tied", "silent"), "b"), "margin": "f"}
_NOISE = {"fraction": "f", "forwards": "iu", "backwards": "iu"}
_EXAMPLES = {"held": "b", "x": "f", "logits": "f"}


def check_run(run: dict[str, Any]) -> None:
    """Checks the content of run.json, brought to the present format."""
    _check_entries("the run", run, _RUN)
    _check_entries("the run", run, {name: kind for name, kind in _OPTIONAL.items() if name in run})
    _check_entries("the data", run["data"], _DATA)
    for rows in run.get("signature", {}).values():
        np.array(rows, float)  # logits, or it raises
    for name, model in run["models"].items():
        _check_entries(f"model '{name}'", model, _MODEL)
        if "keyed_by_batch" in model:
            _check_entries(f"model '{name}'", model, {"keyed_by_batch": bool})
        low, high = (float(each) for each in model["bounds"])
        if not low < high:
            raise ValueError(f"model '{name}' has bounds {model['bounds']}")
        further = run["evidence_tasks"].get(name)
        if not isinstance(further, list) or not isinstance(run["skipped"].get(name), list | dict):
            raise ValueError(f"no evidence tasks or skipped members of model '{name}'")
        for each in further:
            _check_entries("a piece of evidence", each, {"kind": str, "about": str, "task": dict, "samples": int})
            _check_task(each["task"])
    for task in run["tasks"]:
        _check_task(task)
    labels = [task["label"] for task in run["tasks"]]
    if not run["models"] or not labels or len(set(labels)) < len(labels) or not set(run["quoted"]) <= set(labels):
        raise ValueError("models or tasks are missing, or named twice")
    if not all(isinstance(row, int) for row in run["rows"]):
        raise ValueError("'rows' has entries that are no numbers")
    if run["mode"] == "bisect" and not isinstance(run.get("not_bisected"), dict):
        raise ValueError("no 'not_bisected'")


def check_cell(task: Mapping[str, Any], arrays: Arrays, count: int, *, bisected: bool) -> None:
    """Checks the outcomes of `count` samples in a finished cell of a task."""
    if task["kind"] == "attack":
        _check_arrays(arrays, _ATTACK | (_BISECTED if bisected else {}), (count,), {"undefined": "iu"})
        _check_arrays(arrays, _MEMBERS, (max(1, len(task["members"])), count))
    else:
        noise = task["kind"] == "noise"
        _check_arrays(arrays, _NOISE if noise else _CLEAN, (count,), {"outside": "f", "steps": "iu"} if noise else None)


def check_swap(arrays: Arrays, count: int) -> None:
    """Checks what the audit keeps of the swap of `count` samples for those of another class."""
    _check_arrays(arrays, {"correct": "bi"}, (count,))


def check_partial(task: Mapping[str, Any], arrays: Arrays, count: int, examples: int) -> None:
    """Checks what an interrupted attack left of a cell of `count` samples, of which `examples` are kept."""
    check_cell(task, arrays, count, bisected=False)
    _check_arrays(arrays, _RUNNING, (count,))
    kept = {f"example_{name}" for name in _EXAMPLES} if examples else set()
    if unknown := arrays.keys() - {*_ATTACK, *_MEMBERS, *_RUNNING} - kept:
        raise ValueError(f"unknown arrays {sorted(unknown)}")
    if examples:
        missing = [name for name in sorted(kept) if name not in arrays]
        if missing:
            raise ValueError(f"no arrays {missing}")
        held: Arrays = {name: arrays[f"example_{name}"] for name in _EXAMPLES}
        check_examples(held, examples, clean=False)


def check_examples(arrays: Arrays, count: int, *, clean: bool) -> None:
    """Checks `count` kept examples; those of clean accuracy are the originals."""
    _check_arrays(arrays, {"held": "b"}, (count,))
    for name in ("x", "logits"):
        _check_arrays(arrays, {name: "f"}, (count, *arrays[name].shape[1:]) if name in arrays else ())
    if clean:
        _check_arrays(arrays, {"y": "iu", "index": "iu"}, (count,))


def examples_differ(arrays: Arrays, originals: Arrays) -> str:
    """How the examples of an attack differ in shape from those of clean accuracy; empty where they fit."""
    shapes = [(each["x"].shape[1:], each["logits"].shape[1:]) for each in (arrays, originals)]
    if shapes[0][1] == (0,):  # before the first example
        shapes[0] = shapes[0][0], shapes[1][1]
    return "" if shapes[0] == shapes[1] else f"{shapes[0]} and {shapes[1]}"


def from_fields(kind: type[R], plain: Any, *, old: bool = False) -> R:
    """A dataclass of numbers and text from JSON: null for a float stands for NaN, and text for an infinity.

    Args:
        kind: The dataclass.
        plain: Its fields.
        old: Whether an older format wrote it, in which fields may be missing.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"{type(plain).__name__} for a {kind.__name__}")
    types = {each.name: str(each.type) for each in dataclasses.fields(kind)}
    values = dict(plain)
    if not old and (missing := [name for name in types if name not in plain]):
        raise ValueError(f"a {kind.__name__} without {missing}")
    for name, value in plain.items():
        wanted = types.get(name, "")
        if wanted == "float" and (value is None or value in ("inf", "-inf")):
            values[name] = math.nan if value is None else float(value)
        elif not isinstance(value, str if wanted == "str" else _NUMBER) and not (value is None and "None" in wanted):
            raise ValueError(f"{type(value).__name__} for '{name}' of a {kind.__name__}")
    return kind(**values)


def check_numbers(content: Any, kind: Any) -> None:
    """Checks that a list, or the values of a dict (`kind`), are numbers."""
    if not isinstance(content, kind):
        raise ValueError(f"{type(content).__name__} where a {kind.__name__} should be")
    values = content.values() if kind is dict else content
    if not all(isinstance(each, _NUMBER) and not isinstance(each, bool) for each in values):
        raise ValueError("entries that are no numbers")


def _check_task(task: Any) -> None:
    _check_entries("a task", task, _TASK)
    if task["kind"] not in ("clean", "attack", "noise", "measurement"):
        raise ValueError(f"a task of kind {task['kind']!r}")
    check_numbers(task["strengths"], list)
    if task["kind"] in ("attack", "noise") and not task["strengths"]:
        raise ValueError(f"no strengths of '{task['label']}'")
    if task["kind"] == "attack":
        attack = task.get("attack")
        _check_entries(f"'{task['label']}'", attack, _THREAT)
        if _SEARCH.keys() & attack.keys():
            _check_entries(f"'{task['label']}'", attack, _SEARCH)
    limits = task["attack"].get("limits", ()) if task["kind"] == "attack" else ()
    if not all(isinstance(most, _NUMBER) for _, most in limits):
        raise ValueError(f"limits of '{task['label']}' that are no numbers")
    for member in task["members"]:
        _check_task(member)


def _check_entries(what: str, plain: Any, wanted: Mapping[str, type | tuple[type, ...]]) -> None:
    if not isinstance(plain, dict):
        raise ValueError(f"{what} is {type(plain).__name__}")
    for name, kind in wanted.items():
        if name not in plain:
            raise ValueError(f"{what} has no '{name}'")
        if not isinstance(plain[name], kind):
            raise ValueError(f"'{name}' of {what} is {type(plain[name]).__name__}")


def _check_arrays(
    arrays: Arrays, wanted: Mapping[str, str], shape: Sequence[int], optional: Mapping[str, str] | None = None
) -> None:
    if missing := [name for name in wanted if name not in arrays]:
        raise ValueError(f"no arrays {missing}")
    for name, kinds in {**wanted, **(optional or {})}.items():
        array: np.ndarray | None = arrays.get(name)
        if array is not None and (array.shape != tuple(shape) or array.dtype.kind not in kinds):
            raise ValueError(f"'{name}' has shape {array.shape} and dtype {array.dtype}, not shape {tuple(shape)}")
