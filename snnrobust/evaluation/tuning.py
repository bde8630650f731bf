"""Choosing an estimator's parameters for an attack, on validation data alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError, InputTypeError
from snnrobust.plugin.task import AttackSettings, Task

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


def best_of(
    task: Task, gradient: Mapping[str, Sequence[Any]], data: Dataset, robust_accuracy: Callable[[Task], float]
) -> Tuned:
    """Tries all combinations of an estimator's parameters; the one that leaves the least robust accuracy is kept.

    Args:
        task: An attack, with its estimator.
        gradient: Fields of the estimator and the values to try.
        data: What the candidates are judged on, for the record.
        robust_accuracy: The mean over the strengths that an attack leaves on that data.
    """
    attack = task.attack
    if attack is None:
        raise InputTypeError(f"expected a single attack from sr.load, got '{task.label}'; tune a member by itself")
    names = list(gradient)
    for name, values in gradient.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputTypeError(f"expected a list of values for '{name}', got {values!r}; list what to try")
    tried = []
    for values in itertools.product(*gradient.values()):
        setting = dict(zip(names, values, strict=True))
        candidate = replace(task, attack=replace(attack, gradient=_with(attack, setting)))
        tried.append((setting, robust_accuracy(candidate)))
    best, _ = min(tried, key=lambda each: each[1])
    record = {
        "data": data.name,
        "samples": len(data),
        "tried": [[setting, value] for setting, value in tried],
    }
    return Tuned(replace(task, attack=replace(attack, gradient=_with(attack, best)), tuned=record), tuple(tried))


def _with(attack: AttackSettings, setting: Mapping[str, Any]) -> Any:
    estimator: Any = attack.gradient  # a frozen dataclass, which the protocols can't say
    try:
        return replace(estimator, **setting)
    except TypeError as error:
        raise InputError(
            f"expected fields of {type(estimator).__name__}, got {sorted(setting)}: {error}; name its parameters"
        ) from error


def validation_data(data: EvaluationData) -> EvaluationData:
    """The validation split in the place of the test split.

    Raises:
        InputError: If there is none, or it is the test data.
    """
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
