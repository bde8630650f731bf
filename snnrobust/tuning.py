"""Choosing an estimator's parameters for an attack, on validation data alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snnrobust.errors import InputError, InputTypeError
from snnrobust.evaluate import evaluate
from snnrobust.evaluation_data import EvaluationData, prepare
from snnrobust.model import SpikingModel
from snnrobust.task import Attack, Task

#: Share of validation samples that may equal a test sample: a data set may hold a picture twice.
CHANCE_DUPLICATES = 0.02


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search over parameters.

    Attributes:
        task: The attack with the parameters under which it is strongest. What was tried is part of its settings, and
            so of every run that it is used in.
        tried: Each combination and the mean robust accuracy that it left on the validation data.
    """

    task: Task
    tried: tuple[tuple[Mapping[str, Any], float], ...]


def tune(model: SpikingModel, data: Any, task: Task, gradient: Mapping[str, Sequence[Any]], *, seed: int = 0) -> Tuned:
    """Tries all combinations of an estimator's parameters, and keeps the one under which an attack is strongest.

    Sharpness and width decide how well a surrogate gradient finds its way (Ding et al. 2024: gamma of HART). Chosen on
    the test data they would flatter the attack, so only the validation split is touched.

    Args:
        model: A wrapped model.
        data: Splits, or a mapping with "test" and "validation".
        task: An attack from `load`, with its estimator.
        gradient: Fields of the estimator and the values to try.
        seed: Seed of the evaluation.

    Raises:
        InputError: If there is no validation data, or it is the test data; for an unknown parameter.
        InputTypeError: If `task` is no single attack, or a parameter has no list of values.

    Example:
        >>> import snnrobust as sr
        >>> from snnrobust.testing import tiny_data, tiny_model
        >>> splits = {"test": tiny_data(), "validation": tiny_data(count=24).select(range(12, 24))}
        >>> task = sr.load("pgd", epsilon=0.1, steps=3, gradient="atan")
        >>> tune(tiny_model(), splits, task, {"alpha": [1.0, 4.0]}).task.attack.gradient
        ATan(alpha=4.0)
    """
    attack = task.attack
    if attack is None:
        raise InputTypeError(f"expected a single attack from sr.load, got '{task.label}'; tune a member by itself")
    validation = _validation(prepare(data))
    names = list(gradient)
    for name, values in gradient.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputTypeError(f"expected a list of values for '{name}', got {values!r}; list what to try")
    tried = []
    for values in itertools.product(*gradient.values()):
        setting = dict(zip(names, values, strict=True))
        candidate = replace(task, attack=replace(attack, gradient=_with(attack, setting)))
        report = evaluate(model, validation, [candidate], seed=seed, evidence="none", progress=False)
        tried.append((setting, sum(report.curve(task.label).value) / len(task.strengths)))
    best, _ = min(tried, key=lambda each: each[1])
    record = {
        "data": validation.test.name,
        "samples": len(validation.test),
        "tried": [[setting, value] for setting, value in tried],
    }
    return Tuned(replace(task, attack=replace(attack, gradient=_with(attack, best)), tuned=record), tuple(tried))


def _with(attack: Attack, setting: Mapping[str, Any]) -> Any:
    estimator: Any = attack.gradient  # a frozen dataclass, which the protocols can't say
    try:
        return replace(estimator, **setting)
    except TypeError as error:
        raise InputError(
            f"expected fields of {type(estimator).__name__}, got {sorted(setting)}: {error}; name its parameters"
        ) from error


def _validation(data: EvaluationData) -> EvaluationData:
    if data.validation is None:
        raise InputError("expected validation data to tune on, got none; pass data={'test': ..., 'validation': ...}")
    seen = {each.numpy().tobytes() for each in data.test.x}
    shared = sum(each.numpy().tobytes() in seen for each in data.validation.x)
    if shared > CHANCE_DUPLICATES * len(data.validation):
        raise InputError(
            f"expected validation data apart from the test data, got {shared} of {len(data.validation)} samples in "
            f"both; hold out other samples"
        )
    return replace(data, test=data.validation)
