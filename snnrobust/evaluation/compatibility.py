"""Whether data and tasks fit a model, found out before anything long starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from snnrobust.data.batch import Batch
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import BATCH, EvaluationData
from snnrobust.errors import InputError
from snnrobust.evaluation.held_out import held_out
from snnrobust.plugin.protocols import Fitted, Optimiser
from snnrobust.plugin.task import AttackSettings, Task
from snnrobust.plugin.usual_attacks import gradient_attack
from snnrobust.search.queries import ModelQueries
from snnrobust.threat_models.threat_model import BALLS, SHIFTS
from snnrobust.wrapping.model import SpikingModel


def check_data_fits(model: SpikingModel, data: EvaluationData) -> None:
    """Runs a few samples of each split through the model and compares its classes, bounds and domain with the data.

    Raises:
        InputError: If the net does not take the data's shape, labels exceed its classes, or inputs are out of bounds
            or not of the stated domain.
    """
    frozen = [name for name, p in (*model.net.named_parameters(), *model.net.named_buffers()) if p.is_inference()]
    if frozen:
        raise InputError(
            f"expected weights of model '{model.name}' that autograd can use, got inference tensors {frozen[:3]}; "
            f"build and load the net outside of torch.inference_mode"
        )
    for name, value in (*model.net.named_parameters(), *model.net.named_buffers()):
        if value.is_floating_point() and bool(value.isnan().any()):
            raise InputError(
                f"expected weights of model '{model.name}' without NaN, got some in '{name}', which silences "
                f"neurons; load another checkpoint, or train with a lower learning rate"
            )
    low, high = model.bounds
    named = (("test", data.test), ("train", data.train), ("validation", data.validation))
    splits = [(name, split) for name, split in named if split is not None]
    for name, split in splits:
        least, greatest = split.x.min(), split.x.max()
        if least < low or greatest > high:  # compared in float32: that of 0.1 is above 0.1
            raise InputError(
                f"expected inputs of '{name}' within the bounds [{low:g}, {high:g}] of model '{model.name}', "
                f"got [{least:g}, {greatest:g}]; scale the data, or pass bounds= to wrap"
            )
        if model.domain != "real" and any(bool((part != part.round()).any()) for part in torch.split(split.x, BATCH)):
            raise InputError(
                f"expected whole numbers in '{name}' for domain '{model.domain}' of model '{model.name}', "
                f"got fractions; round the data, or wrap with domain='real'"
            )
    for _, split in splits:
        # Three sizes: a net whose state has the shape of its batch fails at the second or third.
        for count in sorted({min(count, len(split)) for count in (1, 2, 3)}):
            classes = _try_forward(model, split.take(count)).shape[1]
    if classes < 2:
        raise InputError(
            f"expected a logit for each class from model '{model.name}', got {classes} in all; "
            f"give a yes/no net two outputs"
        )
    for name, split in splits:
        if (greatest_label := int(split.y.max())) >= classes:
            raise InputError(
                f"expected labels below {classes}, the outputs of model '{model.name}', got {greatest_label} "
                f"in '{name}'; relabel the classes 0..{classes - 1}, or use a net with {greatest_label + 1} outputs"
            )


def incompatible_members(
    task: Task, model: SpikingModel, data: EvaluationData, sources: Mapping[str, SpikingModel]
) -> dict[str, str]:
    """Labels of an ensemble's members that can't be run on a model, with the reason.

    For example, a net without known spiking nodes has no surrogate gradient to replace. The others are run without
    them; members that the user added are not left out.

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
            theirs, ours = ((each.bounds, each.domain, each.silent) for each in (attacked, model))
            if theirs != ours:
                raise InputError(
                    f"expected source '{attacked.name}' to have the bounds and domain of '{model.name}' and its silent "
                    f"value, {ours}, got {theirs}; wrap both alike"
                )
        _try_attack(task, task.attack, attacked, data)
        _check_threat_model(task, task.attack, model, data)
        for epsilon in task.strengths:
            threat = model.threat_model(task.attack.norm, epsilon, task.attack.limits)
            if model.domain != "real" and 0 < epsilon < 1:
                raise InputError(
                    f"expected epsilon 0 or >= 1 for '{task.label}' in domain '{model.domain}', got {epsilon:g}, which "
                    f"allows no change ({threat.ball}); pass whole radii"
                )
        if model.domain != "real" and task.attack.norm == "l2":
            raise InputError(
                f"expected norm 'linf', 'l1' or 'l0' for '{task.label}' in domain '{model.domain}', got 'l2', whose "
                f"steps round to no change; use one of these norms"
            )
    if (check := getattr(task.plugin, "check", None)) is not None:
        check(model, data, task)
    if isinstance(task.plugin, Fitted):
        held_out(data, task.label)


def _check_threat_model(task: Task, attack: AttackSettings, model: SpikingModel, data: EvaluationData) -> None:
    """Raises an `InputError` if a threat model makes no sense for a model's inputs, or the attack does not know it."""
    norms = getattr(task.plugin, "norms", BALLS)
    if attack.norm not in norms:
        usual = gradient_attack(attack.norm, model.domain)
        raise InputError(
            f"expected norm in {list(norms)} for '{task.label}', got '{attack.norm}'; use one of these, or an attack "
            f"that is defined for '{attack.norm}', e.g. '{usual}'"
        )
    if attack.limits and not hasattr(task.plugin, "norms"):
        raise InputError(
            f"expected no limits= for '{task.label}', which knows norm balls only, got {dict(attack.limits)}; "
            f"use an attack that does, e.g. '{gradient_attack(attack.norm, model.domain)}'"
        )
    if model.domain == "events" and not getattr(task.plugin, "event_lists", False):
        raise InputError(
            f"expected an attack on event lists for '{task.label}', got '{task.name}' on model '{model.name}'; use "
            f"'{gradient_attack(attack.norm, model.domain)}', or attack the frames: bin the recordings first, and wrap "
            f"with encoder=None"
        )
    names = {attack.norm, *(norm for norm, _ in attack.limits)}
    if model.domain == "real" and names - {*BALLS, "l0-step"}:
        raise InputError(
            f"expected one of {list(BALLS)} for '{task.label}' on the real inputs of model '{model.name}', got "
            f"'{attack.budget}'; wrap spikes or event counts with domain='binary' or 'integer', and for spike times "
            f"take 'linf' (the largest shift), 'l1' or 'l0'"
        )
    if model.static and model.domain != "events" and names & {"l0-step", *SHIFTS}:
        raise InputError(
            f"expected sequences [N, T, *] for '{task.label}' under '{attack.budget}', got static data of model "
            f"'{model.name}'; wrap with encoder=None"
        )
    shape = data.test.x.shape[1:]
    entries = {"l0": shape.numel(), "l0-step": shape[1:].numel()}
    for norm, most in (*((attack.norm, epsilon) for epsilon in task.strengths), *attack.limits):
        if model.domain != "events" and most > entries.get(norm, math.inf):
            whole = "a step" if norm == "l0-step" else "an input"
            raise InputError(
                f"expected at most {entries[norm]} changes, the entries of {whole} {list(shape)}, for '{task.label}' "
                f"under '{norm}', got {most:g}; give fewer"
            )


def _try_attack(task: Task, attack: AttackSettings, model: SpikingModel, data: EvaluationData) -> None:
    """Computes one gradient, or value, of two samples: an estimator or objective may not fit the net."""
    few = Batch.of(data.test, torch.arange(min(2, len(data.test))), model.device, model.input_dtype)
    if attack.targeted:
        few = replace(few, targets=(few.y == 0).long())
    queries = ModelQueries(model, attack.objective, attack.gradient, accelerate=False)
    black_box = isinstance(task.plugin, Optimiser) and task.plugin.needs == "loss"
    with model.session():
        queries.value(few) if black_box else queries.gradient(few)


def _try_forward(model: SpikingModel, sample: Dataset) -> Tensor:
    """The logits of a few samples, or a one-line error with its likely causes."""
    try:
        with torch.no_grad():
            return model.logits(sample.x, keys=sample.index, lengths=sample.lengths)
    except Exception as error:  # the user's own net may fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        reset = "" if model.resets else ", and pass reset= if the net keeps state"
        raise InputError(
            f"expected model '{model.name}' to take inputs of shape {tuple(sample.x.shape)} (layout '{model.layout}'), "
            f"got {type(error).__name__}: {reason}; check layout=, steps=, encoder= and the data's shape{reset}"
        ) from error
