"""The held-out samples that universal perturbations and patches are fitted on: never test samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snnrobust.data.convert import overlap
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.errors import InputError
from snnrobust.evaluation.tuning import CHANCE_DUPLICATES
from snnrobust.plugin.protocols import Fitted
from snnrobust.plugin.task import Task


def fitted_labels(tasks: Sequence[Task]) -> list[str]:
    """The labels of the attacks among `tasks`, members of ensembles included, that are fitted on held-out samples."""
    return sorted({each.label for task in tasks for each, _ in task.attacks if isinstance(each.plugin, Fitted)})


def held_out(data: EvaluationData, label: str) -> Dataset:
    """The samples that the attack `label` is fitted on: the validation split, without inputs that the test split holds.

    Samples are told apart by their inputs, to the bit, as two splits may be numbered alike.

    Raises:
        InputError: If there is no validation split, or more than `CHANCE_DUPLICATES` of it are test samples.
    """
    if data.validation is None:
        raise InputError(
            f"expected validation data for '{label}', got none; pass data={{'test': ..., 'validation': ...}}"
        )
    shared = overlap(data.validation, data.test)
    if int(shared.sum()) > CHANCE_DUPLICATES * len(shared):
        raise InputError(
            f"expected validation data apart from the test data for '{label}', got {int(shared.sum())} of "
            f"{len(shared)} samples in both; hold out other samples"
        )
    return data.validation.select(~shared) if bool(shared.any()) else data.validation


def describe_fitting(data: EvaluationData, tasks: Sequence[Task]) -> dict[str, Any]:
    """What attacks were fitted on, for the record of a run; empty where none is fitted.

    Raises:
        InputError: As `held_out`.
    """
    labels = fitted_labels(tasks)
    if not labels:
        return {}
    samples = held_out(data, labels[0])
    left_out = 0 if data.validation is None else len(data.validation) - len(samples)
    return {"fitted": {"attacks": labels, "data": samples.name, "samples": len(samples), "left_out": left_out}}
