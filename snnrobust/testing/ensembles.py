"""Checks of ensembles."""

from __future__ import annotations

from typing import get_args

from snnrobust.plugin.protocols import Ensemble
from snnrobust.plugin.task import load
from snnrobust.testing.checks import check_promise
from snnrobust.threat_models.threat_model import Norm


def check_ensemble(name: str, plugin: Ensemble) -> None:
    """Members that load under every norm."""
    for norm in get_args(Norm):
        members = list(plugin.members(norm))
        labels = [member.get("label") for member in members]
        check_promise(name, len(set(labels)) == len(labels), f"members of different labels under {norm}", f"{labels}")
        for member in members:
            task = load(**member, norm=norm, epsilon=1.0)  # raises where an argument does not fit
            check_promise(name, task.attack is not None, f"attacks as members under {norm}", f"'{task.label}'")
