"""Adversarial examples that a run kept, put together over the radii of an attack."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from snnrobust.analysis.outcomes import Outcomes
from snnrobust.common.files import pack, unpack, write
from snnrobust.errors import InputError, StoreError


@dataclass(frozen=True, eq=False)
class AdversarialExamples:
    """Adversarial examples of one attack on one model at one radius, a row for each sample, on the CPU.

    Attributes:
        x: The strongest example that was found, [N, *]. The original where the model is wrong without an attack, and
            where nothing was attempted since a larger radius was withstood (`mode="bisect"`).
        original: The inputs in the model's precision, [N, *].
        y: Labels, [N].
        index: Sample ids, [N].
        success: Whether the model misclassifies x, [N]. Its complement is what robust accuracy counts.
        distance: Distance of x from the original in the attack's norm, [N]; NaN where there is no success.
        logits: The model's logits at x, [N, K]: the mean over scoring draws for a stochastic model.
        member: The member of the ensemble that made x, or the attack's label, [N]; "" where x is the original.
        queries: Forward passes that were spent on the sample, at this radius and all smaller ones of the run, [N].
            Those of a minimum-norm attack are spent at its largest radius.
        backwards: Backward passes, [N].
        model: Name of the model.
        label: Label of the attack.
        threat: The threat model, without its radius.
        epsilon: The radius.
        lengths: Valid steps of each sequence, [N]; None where all steps are valid, or the run did not keep them.
    """

    x: Tensor
    original: Tensor
    y: Tensor
    index: Tensor
    success: Tensor
    distance: Tensor
    logits: Tensor
    member: tuple[str, ...]
    queries: Tensor
    backwards: Tensor
    model: str
    label: str
    threat: str
    epsilon: float
    lengths: Tensor | None = None

    @property
    def robust_accuracy(self) -> float:
        """Share of the samples that the attack did not break."""
        return 1.0 - float(self.success.double().mean())

    def save(self, path: str | Path) -> Path:
        """Writes everything to one .npz file; returns its path."""
        path = Path(path)
        arrays = {
            each.name: value.numpy() if isinstance(value, Tensor) else np.array(value)
            for each in fields(self)
            if (value := getattr(self, each.name)) is not None
        }
        write(path, pack(arrays))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote.

        Raises:
            StoreError: If the file is damaged, or holds something else.
        """
        if not Path(path).is_file():
            raise StoreError(f"expected adversarial examples in '{path}', got no such file; name one that `save` wrote")
        arrays = unpack(Path(path))
        known = [each for each in fields(cls) if each.name in arrays or each.default is MISSING]
        if missing := [each.name for each in known if each.name not in arrays]:
            raise StoreError(f"expected adversarial examples in '{path}', got a file without {missing}; name another")
        values: dict[str, Any] = {
            each.name: torch.from_numpy(arrays[each.name]) if "Tensor" in str(each.type) else arrays[each.name].tolist()
            for each in known
        }
        values["member"] = tuple(values["member"])
        return cls(**values)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return (
            f"AdversarialExamples('{self.label}' on '{self.model}', {self.threat} within {self.epsilon:g}: "
            f"{int(self.success.sum())} of {len(self)} broken)"
        )


def adversarial_examples(outcomes: Outcomes, label: str, strength: float, model: str) -> AdversarialExamples:
    """The examples that were kept of an attack at one of its radii.

    Where no search at this radius broke a sample, but one at a smaller radius did, that one's example is given: it is
    allowed here, too.

    Raises:
        InputError: If the run kept no examples, or for a label or radius without an attack.
    """
    task = outcomes.attack(label)
    if strength not in task["strengths"]:
        raise InputError(f"expected a radius in {task['strengths']} of '{label}', got {strength!r}; name one of these")
    originals = outcomes.examples(model, "clean", 0)
    if originals is None:
        raise InputError(
            f"expected a run that kept examples of '{label}', got one without; evaluate with examples=N, or call "
            f"sr.attack"
        )
    labels = np.array([part["label"] for part in task["members"] or [task]], dtype=str)
    count = len(originals["x"])
    clean = outcomes.clean(model)["correct"][:count]
    x, logits, success = originals["x"].copy(), originals["logits"].copy(), ~clean
    distance = np.where(clean, np.nan, 0.0).astype(np.float32)
    member = np.full(count, "", dtype=labels.dtype)
    queries, backwards = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    position = task["strengths"].index(strength)
    attempted = np.zeros(count, dtype=bool)
    for k in range(position, -1, -1):  # this radius first, then the next smaller ones
        cell, held = outcomes.cell(model, label, k), outcomes.examples(model, label, k)
        queries += cell["forwards"][:count]
        backwards += cell["backwards"][:count]
        if held is None or not held["held"].any():
            continue
        broken = held["held"] & (cell["correct"][:count] == 0) & ~success
        shown = broken | (held["held"] & clean & ~success & ~attempted) if k == position else broken
        x[shown], logits[shown] = held["x"][shown], held["logits"][shown]
        member[shown] = labels[cell["member"][:count][shown]]
        distance[broken] = cell["distance"][:count][broken]
        success |= broken
        attempted |= shown
    return AdversarialExamples(
        x=torch.from_numpy(x),
        original=torch.from_numpy(originals["x"].copy()),
        y=torch.from_numpy(originals["y"].copy()),
        index=torch.from_numpy(originals["index"].copy()),
        success=torch.from_numpy(success),
        distance=torch.from_numpy(distance),
        logits=torch.from_numpy(logits),
        member=tuple(member.tolist()),
        queries=torch.from_numpy(queries),
        backwards=torch.from_numpy(backwards),
        model=model,
        label=label,
        threat=outcomes.threat(label, model),
        epsilon=strength,
        lengths=torch.from_numpy(originals["lengths"].copy()) if "lengths" in originals else None,
    )
