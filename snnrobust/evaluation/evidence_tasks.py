"""What an audit needs beside the numbers themselves: further attacks on a fixed random part of the test data.

The part is small, and its attacks run at every radius by themselves, so that radii and numbers of steps can be compared
sample by sample. Where only the outcome of a whole ensemble is compared, a sample that one member broke is done, and
what the evaluation itself found with equal members at that radius is taken over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from snnrobust.common.batching import BatchSizer
from snnrobust.common.files import Arrays
from snnrobust.common.random import Draws
from snnrobust.data.batch import Batch
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import EvaluationData
from snnrobust.evaluation.settings import COMPARED, EACH_RADIUS, FACTORIAL, LAST_ITERATES, Effort
from snnrobust.plugin.task import AttackSettings, Task, load, uses_gradients, with_steps
from snnrobust.plugin.usual_attacks import gradient_attack
from snnrobust.search.scoring import Scorer
from snnrobust.spike_gradients.swap import batch_dependent
from snnrobust.threat_models.threat_model import SHIFTS, Norm, ThreatModel
from snnrobust.threat_models.verify import verify
from snnrobust.wrapping.model import SpikingModel

#: Samples that evidence is collected on, where the data has as many.
SAMPLES = 200
#: Samples at the full range of the inputs, and for the comparison of orders and batch sizes.
FEW = 48
#: Most source models for transfer attacks.
SOURCES = 2

EvidenceKind = Literal[
    "estimators", "steps-50", "steps-100", "noise", "transfer", "epsilon-zero", "full-range", "order", "eot"
]


@dataclass(frozen=True)
class BallNoise:
    """A random input that the threat model allows: the baseline that every attack has to beat.

    Attributes:
        threat: The threat model, at any radius.
    """

    threat: ThreatModel

    def apply(self, x: Tensor, severity: float, rng: Draws, index: Tensor) -> Tensor:
        """Inputs [N, *] within `severity` of x [N, *]."""
        return replace(self.threat, epsilon=severity).start(x, rng, index)


@dataclass(frozen=True)
class EvidenceTask:
    """One piece of evidence about the audited numbers.

    Attributes:
        kind: What it shows.
        about: The label of the attack that it is a variant of, or the budget of the threat model that it belongs to.
        task: What is run; its label is unique among evidence tasks.
        effort: How much of the search is done.
        samples: How many of the audit's samples it is run on.
        batch_size: Batch size of the searches; None: as in the evaluation.
        reverse: Whether the samples are taken in reverse order.
        takes_over: Whether it takes over what the evaluation found with equal attacks.
    """

    kind: EvidenceKind
    about: str
    task: Task
    effort: Effort = FACTORIAL
    samples: int = SAMPLES
    batch_size: int | None = None
    reverse: bool = False
    takes_over: bool = False

    def settings(self) -> dict[str, Any]:
        """Everything that decides the outcome, as plain values."""
        return {
            "kind": self.kind,
            "about": self.about,
            "task": self.task.settings(),
            "effort": vars(self.effort),
            "samples": self.samples,
            "batch_size": self.batch_size,
            "reverse": self.reverse,
        }

    def rows(self, rows: Tensor) -> Tensor:
        """Positions in the test data of its samples: the first of the audit's `rows`."""
        chosen = rows[: self.samples]
        return chosen.flip(0) if self.reverse else chosen

    def part(self, data: EvaluationData, rows: Tensor) -> EvaluationData:
        """The data that it is run on."""
        test = data.test.select(self.rows(rows))
        return replace(data, test=test, batch_size=self.batch_size or data.batch_size)


def audited_rows(data: Dataset, seed: int) -> Tensor:
    """Positions of the samples that evidence is collected on: those with the smallest keyed random numbers."""
    order = Draws(seed, "evidence").uniform(data.index, (1,))[:, 0].argsort(stable=True)
    return order[:SAMPLES]


def quoted(tasks: Sequence[Task]) -> list[Task]:
    """The attacks whose numbers one would quote: ensembles (but those with `quotable = False`); without any, attacks of
    several gradient steps on the model itself; without any of these either, all."""
    attacks = [task for task in tasks if task.kind == "attack"]
    ensembles = [task for task in attacks if task.members and getattr(task.plugin, "quotable", True)]
    gradient_based = [task for task in attacks if _takes_gradient_steps(task) and task.attacks[0][1].source is None]
    return ensembles or gradient_based or attacks


def evidence_tasks(
    tasks: Sequence[Task], model: SpikingModel, sources: Mapping[str, SpikingModel], features: int
) -> list[EvidenceTask]:
    """The evidence that the attacks among `tasks` on `model` need.

    Args:
        tasks: The evaluation's tasks.
        model: The audited model.
        sources: All models by name.
        features: Entries of an input.
    """
    found: list[EvidenceTask] = []
    for task in quoted(tasks):
        found += _about(task, model, features)
    by_budget: dict[str, list[Task]] = {}
    for task in tasks:
        if task.kind == "attack" and any(task.strengths):
            by_budget.setdefault(task.attacks[0][1].budget, []).append(task)
    for budget, attacks in by_budget.items():
        factors = attacks[0].attacks[0][1]
        norm, limits = factors.norm, dict(factors.limits)
        radii = tuple(sorted({radius for task in attacks for radius in task.strengths if radius > 0}))
        eot = max(attack.eot for task in attacks for _, attack in task.attacks)
        standard = load("standard", label=f"{budget}/estimators", norm=norm, limits=limits, epsilon=radii, eot=eot)
        # `standard` has no members with gradients on event lists.
        known = any(each.kind == "steps-100" and _alike(each.task, standard) for each in found)
        if not known and model.domain != "events":
            found.append(EvidenceTask("estimators", budget, standard))
        noise = BallNoise(model.threat_model(norm, 0.0, factors.limits))
        ball = Task("ball", f"{budget}/noise", "noise", "snnrobust", noise, radii, draws=10)
        found.append(EvidenceTask("noise", budget, ball))
        others = [name for name, each in sources.items() if each.net is not model.net]
        if model.domain == "events" and norm in SHIFTS:
            continue  # nothing moves events of a list by a gradient
        for name in others[:SOURCES]:
            label = f"{budget}/transfer {name}"
            transfer = load(
                gradient_attack(norm, model.domain),
                label=label,
                norm=norm,
                limits=limits,
                epsilon=radii,
                eot=eot,
                steps=50,
                source=name,
            )
            found.append(EvidenceTask("transfer", budget, transfer))
    return found


def _about(task: Task, model: SpikingModel, features: int) -> list[EvidenceTask]:
    """Variants of one attack: more and fewer steps, radius 0, the full range, another order, more draws."""
    label, attacks = task.label, task.attacks
    radii = tuple(radius for radius in task.strengths if radius > 0)
    if not radii:
        return []

    def variant(kind: EvidenceKind, other: Task, strengths: Sequence[float], **more: Any) -> EvidenceTask:
        named = replace(other, label=f"{label}/{kind}", strengths=tuple(strengths))
        return EvidenceTask(kind, label, named, **{"effort": EACH_RADIUS, **more})

    everything = math.inf if attacks[0][1].limits else full_range(attacks[0][1].norm, model.bounds, features)
    found = [variant("epsilon-zero", with_steps(task, 5, 50), [0.0])]
    if math.isfinite(everything):
        found.append(variant("full-range", with_steps(task, 20, 200), [everything], samples=FEW))
    if any(_takes_gradient_steps(each) for each, _ in attacks):
        with_gradients = replace(task, members=tuple(each for each in task.members if _takes_gradient_steps(each)))
        found.append(variant("steps-50", with_steps(with_gradients, 50), radii, effort=LAST_ITERATES))
        found.append(variant("steps-100", with_steps(task, 100), radii, effort=COMPARED, takes_over=True))
    # Estimators that are declared to depend on the batch are not tested for it.
    keyed = tuple(each for each, attack in attacks if not batch_dependent(attack.gradient))
    steady = replace(task, members=keyed) if task.members and keyed else task
    order = variant("order", with_steps(steady, 10, 50), radii[-1:], samples=FEW)
    shuffled = replace(order, task=replace(order.task, label=f"{label}/reversed"), batch_size=7, reverse=True)
    found += [order, shuffled]
    if model.stochastic:
        doubled = replace(
            task,
            attack=None if task.attack is None else _doubled(task.attack),
            members=tuple(replace(each, attack=_doubled(attack)) for each, attack in attacks) if task.members else (),
        )
        found.append(variant("eot", doubled, radii))
    return found


def _alike(first: Task, second: Task) -> bool:
    """Whether two ensembles have equal name, threat model and radii; added members and steps may differ."""
    budgets = first.attacks[0][1].budget, second.attacks[0][1].budget
    return first.name == second.name and first.strengths == second.strengths and budgets[0] == budgets[1]


def _doubled(attack: AttackSettings | None) -> AttackSettings:
    if attack is None:
        raise TypeError("expected an attack's factors, got none")
    return replace(attack, eot=2 * attack.eot)


def _takes_gradient_steps(task: Task) -> bool:
    """Whether an attack takes several steps along a gradient."""
    return bool(uses_gradients(task)) and task.plugin.steps > 1


def full_range(norm: Norm, bounds: tuple[float, float], features: int) -> float:
    """The radius within which every input is allowed; infinite where there is none."""
    width = bounds[1] - bounds[0]
    known: dict[str, float] = {
        "linf": width,
        "l2": width * math.sqrt(features),
        "l1": width * features,
        "l0": features,
        "l0-step": features,
    }
    return known.get(norm, math.inf)


def another_class(data: Dataset, right: np.ndarray, scorer: Scorer, sizer: BatchSizer) -> Arrays:
    """Whether the net still predicts a sample's class when its input is that of another class: `correct` [N], -1 where
    there is no other class.

    At the full range of the inputs such a swap is allowed, so that robust accuracy there has to be 0. The swap is
    treated as an example: projected, checked against its budget, and scored. Replacements are samples of another
    class that the net gets right (`right` [N]), or any of another class if there are none.

    Raises:
        ViolationError: If a projection at the full range does not allow the swap.
    """
    everything, shown = torch.arange(len(data)), torch.from_numpy(np.flatnonzero(right))
    partners = []
    for label in data.y:
        others = shown[data.y[shown] != label]
        partners.append(others if len(others) else everything[data.y != label])
    rows = torch.tensor([row for row, others in enumerate(partners) if len(others)], dtype=torch.long)
    correct = np.full(len(data), -1, dtype=np.int8)
    model = scorer.model
    low, high = model.bounds
    radius = high - low if math.isfinite(high - low) else float(data.x.abs().max()) * 2
    events = model.domain == "events"
    threat = model.threat_model("l0", 2 * data.x.shape[1]) if events else model.threat_model("linf", radius)

    def swapped(rows: Tensor) -> Tensor:
        partner = torch.stack([partners[row][row % len(partners[row])] for row in rows.tolist()])
        x0, shown_x = (data.x[at].to(device=model.device, dtype=model.input_dtype) for at in (rows, partner))
        x = threat.project(shown_x, x0)
        verify(x, x0, threat, data.index[rows].tolist(), "a swap of classes")
        lengths = None if data.lengths is None else data.lengths[partner]
        shown_batch = Batch(x, data.y[rows].to(model.device), data.index[partner], lengths)
        return scorer.score(shown_batch).withstands.cpu()

    for chunk, still in sizer.over(rows, swapped):
        correct[chunk.numpy()] = still.numpy()
    return {"correct": correct}
