"""Runs and records of format 3, brought to the present format while they are read."""

from __future__ import annotations

import ast
from typing import Any

_RANKED = ("eigenvalue", "eigenvalue_max", "imaginary")
_BY_LAYER = ("firing_rate", "silent_neurons", "near_threshold", "spike_flips", "surrogate_active")
_BY_DIRECTIONS = ("validity", "validity_slope", "validity_ceiling")
_OF_OPERATORS = (*_RANKED, *_BY_DIRECTIONS, "trace", "asymmetry", "relaxation_gap")
_OF_LOSSES = ("loss", "loss_rise", "loss_rise_mean", "sharpness")
_OF_WEIGHTS = ("barrier", "plateau_width", "distinct_losses")


def upgrade_run(plain: dict[str, Any]) -> dict[str, Any]:
    """The content of a run.json of format 3 in that of format 4; "written_by_format" tells where it comes from.

    Args:
        plain: The content; it is not changed.
    """
    run = dict(plain)
    evidence = run.pop("exhibits", {})
    not_bisected = run.pop("kept_nested", None)
    return {
        **run,
        "format": 4,
        "written_by_format": 3,
        "tasks": [_task(each) for each in plain["tasks"]],
        "examples": 0,
        "evidence_tasks": {
            model: [{**each, "task": _task(each["task"])} for each in found] for model, found in evidence.items()
        },
        **({} if not_bisected is None else {"not_bisected": not_bisected}),
    }


def _task(plain: dict[str, Any]) -> dict[str, Any]:
    """A task's settings with the parameters that format 3 has only in the plugin's `repr`."""
    members = [_task(member) for member in plain["members"]]
    return {**plain, "members": members, "parameters": _parameters(plain["plugin"])}


def _parameters(plugin: str) -> dict[str, Any]:
    """Keyword arguments of a `repr` such as "PGD(steps=20, step_size=None)": numbers and text as such."""
    try:
        call = ast.parse(plugin, mode="eval").body
    except SyntaxError:  # a repr need not be an expression
        return {}
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return {
        each.arg: each.value.value if isinstance(each.value, ast.Constant) else ast.unparse(each.value)
        for each in keywords
        if each.arg is not None
    }


def upgrade_record(plain: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stored record, with the typed ones filled in from the text of `metric` and `threat`.

    Args:
        plain: A record of format 3, as JSON holds it; it is not changed.

    Example:
        >>> upgrade_record({"metric": "firing_rate:0.2", "value": 0.1, "threat": ""})["layer"]
        '0.2'
    """
    quantity, _, suffix = plain["metric"].partition(":")
    found: dict[str, Any] = {"quantity": quantity}
    if quantity in _RANKED:
        found["rank"] = int(suffix) if suffix.isdigit() else 0
    elif quantity in _BY_LAYER:
        found["layer"] = suffix
    elif quantity in _BY_DIRECTIONS:
        found["directions"] = suffix
    elif quantity == "sharpness":
        found["search"] = suffix
    threat: str = plain.get("threat", "")
    if quantity in _OF_OPERATORS:
        found |= _operator(threat)
    elif quantity in _OF_LOSSES:
        found["space"] = "inputs" if threat.endswith(", inputs") else "weights"
    elif quantity in _OF_WEIGHTS:
        found["space"] = "weights"
    return plain | found


def _operator(threat: str) -> dict[str, Any]:
    """From "OPERATOR, VARIANT, not symmetric, layer LAYER", where all but the first may be missing."""
    whole, _, layer = threat.partition(", layer ")
    text = whole.removesuffix(", inputs")
    operator, _, variant = text.partition(", ")
    return {
        "operator": operator,
        "variant": variant,
        "space": "weights" if text == whole else "inputs",
        "layer": layer.removeprefix("of "),  # the net itself
        "symmetric": "not symmetric" not in variant.split(", "),
        "draw_noise": "eigenvalues noise of" in variant,
    }
