"""Whether a task can be run on a model, found out before anything long starts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from snnrobust.errors import InputError, PluginError
from snnrobust.evaluation_data import EvaluationData
from snnrobust.model import SpikingModel
from snnrobust.oracle import Oracle
from snnrobust.plugin import Optimiser
from snnrobust.task import Attack, Task
from snnrobust.threat import ThreatModel


def unfit_members(
    task: Task, model: SpikingModel, data: EvaluationData, sources: Mapping[str, SpikingModel]
) -> dict[str, str]:
    """Labels of an ensemble's members that can't be run on a model, with the reason.

    A net whose spikes are not known, say, has no gradient to swap. The others are run without them; members that the
    user added are not left out.

    Raises:
        InputError: If `task` is no ensemble and does not fit, or no member of it does, or one of the user's does not.
    """
    if not task.members:
        check_task(task, model, data, sources)
        return {}
    own = {member.get("label") for member in task.plugin.members(task.attacks[0][1].norm)}
    unfit: dict[str, InputError] = {}
    for member in task.members:
        try:
            check_task(member, model, data, sources)
        except InputError as error:
            if member.label not in own:
                raise
            unfit[member.label] = error
    if len(unfit) == len(task.members):
        raise next(iter(unfit.values()))
    return {label: str(error) for label, error in unfit.items()}


def check_task(task: Task, model: SpikingModel, data: EvaluationData, sources: Mapping[str, SpikingModel]) -> None:
    """Raises an `InputError` if a task can't be run on a model."""
    if task.attack is not None:
        attacked = model
        if task.attack.source is not None:
            if task.attack.source not in sources:
                raise InputError(
                    f"expected source= of '{task.label}' in {sorted(sources)}, got {task.attack.source!r}; "
                    f"name one of the evaluated models, or pass it in sources="
                )
            attacked = sources[task.attack.source]
            if (attacked.bounds, attacked.domain) != (model.bounds, model.domain):
                raise InputError(
                    f"expected source '{attacked.name}' to have the bounds and domain of '{model.name}', "
                    f"got {attacked.bounds}, {attacked.domain}; wrap both alike"
                )
        _try(task, task.attack, attacked, data)
        for epsilon in task.strengths:
            threat = ThreatModel(task.attack.norm, epsilon, model.bounds, model.domain)
            if model.domain != "real" and 0 < epsilon < 1:
                raise InputError(
                    f"expected epsilon 0 or >= 1 for '{task.label}' in domain '{model.domain}', got {epsilon:g}; "
                    f"a radius below 1 allows no change ({threat.ball})"
                )
        if model.domain != "real" and task.attack.norm == "l2":
            raise InputError(
                f"expected norm 'linf', 'l1' or 'l0' for '{task.label}' in domain '{model.domain}', "
                f"got 'l2'; gradient steps are cut to nothing there"
            )
    if (check := getattr(task.plugin, "check", None)) is not None:
        check(model, data, task)


def _try(task: Task, attack: Attack, model: SpikingModel, data: EvaluationData) -> None:
    """Asks for one gradient, or value, of two samples: an estimator or objective may not fit the net."""
    sample = data.test.take(min(2, len(data.test)))
    lengths = None
    if sample.lengths is not None:
        lengths = dict(zip(sample.index.tolist(), sample.lengths.tolist(), strict=True))
    oracle = Oracle(model, attack.objective, attack.gradient, 1, 0, lengths, accelerate=False)
    x, y = sample.x.to(device=model.device, dtype=model.dtype), sample.y.to(model.device)
    if attack.targeted:
        oracle = oracle.towards({int(i): int(label == 0) for i, label in zip(sample.index, sample.y, strict=True)})
    blind = isinstance(task.plugin, Optimiser) and task.plugin.needs == "loss"
    with model.session(), suppress(PluginError):  # a gradient that is not finite is for the probe to find
        oracle.value(x, y, sample.index) if blind else oracle.gradient(x, y, sample.index)
