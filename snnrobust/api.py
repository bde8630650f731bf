"""`evaluate`, `attack` and `tune`: input is checked, run and stored, and the result is computed from the store."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snnrobust.analysis.examples import AdversarialExamples, adversarial_examples
from snnrobust.analysis.outcomes import Outcomes
from snnrobust.common.ambient import neutral_modes
from snnrobust.data.evaluation_data import prepare
from snnrobust.errors import InputError, InputTypeError
from snnrobust.evaluation.execute import execute
from snnrobust.evaluation.make_plan import make_plan
from snnrobust.evaluation.run_description import describe
from snnrobust.evaluation.settings import EvaluationSettings, EvidenceLevel, Mode
from snnrobust.evaluation.tuning import Tuned, best_of, validation_data
from snnrobust.plugin.task import Task
from snnrobust.report import Report
from snnrobust.results.store import Store
from snnrobust.wrapping.model import SpikingModel


@neutral_modes()
def evaluate(
    model: SpikingModel | Mapping[str, SpikingModel],
    data: Any,
    tasks: Sequence[Task | str],
    *,
    seed: int = 0,
    evidence: EvidenceLevel = "basic",
    mode: Mode = "nested",
    batch_size: int | None = None,
    memory_budget: float | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    notes: Sequence[str] = (),
    sources: Mapping[str, SpikingModel] | None = None,
    examples: int = 0,
) -> Report:
    """Evaluates models on tasks. All inputs are checked before anything long starts.

    Args:
        model: A wrapped model, or several by name.
        data: (x, y) as tensors or numpy arrays, a Dataset, a torch data set or DataLoader, Splits, or
            {"test": ..., "train": ..., "validation": ...} of these. Curvature needs "train".
        tasks: From `load`, or plain names of tasks that need no strength. Clean accuracy is always measured.
        seed: Seed of all random numbers, which are keyed by sample.
        evidence: "full": the model is probed, further attacks are run on 200 random samples (or all, if fewer) to test
            the reported numbers, and each number gets a verdict. "basic": without the further attacks, so that no
            number can be trusted. "none": numbers alone.
        mode: "nested": a sample that broke at one radius is not attacked at larger ones, and leaves a search at its
            first success. "exhaustive": every sample is attacked at every radius with all steps, which also gives the
            last iterate. "bisect": as nested, but each sample is first attacked in the middle of its radii, then in the
            middle of the half that is left; one that withstands a radius is assumed right at all smaller ones, which
            is audited on up to 100 samples unless evidence="none". Single-step attacks, those that own their loop,
            stochastic models and noise are run as nested. For quoted numbers take "nested".
        batch_size: Batch size of the searches; it changes speed and memory, not outcomes, unless an attack or net draws
            from global generators or an estimator takes statistics over the batch (`pdsg`). None: the largest power of
            two, at most 256, that fits into memory by a trial pass; a resumed run keeps its batch size. If
            memory still runs out it is halved, nothing is lost, and the report has a finding about it.
        memory_budget: GiB of the models' device that may be used, where `batch_size` is left out; None: half of what
            is free.
        out: Folder for results. A run that was stopped is resumed; a folder with another run raises StoreError.
        progress: Whether to show progress; None: on a terminal.
        notes: Remarks for the report's page.
        sources: Further models by name, which are not evaluated: attacks with `source=` take their examples from them
            or from one of `model`.
        examples: Keep the adversarial examples of the first so many samples, of each attack at each radius, for
            `Report.examples`. Their size is printed before the run.

    Returns:
        The report.

    Raises:
        InputError, InputTypeError: For input that does not fit, before anything long starts.
        StoreError: If `out` holds something else.
        MemoryLimitError: If memory runs out with a single sample.
        ViolationError: If an attack breaks its threat model; what was computed before is kept in `out`.

    Example:
        >>> import torch
        >>> import snnrobust as sr
        >>> from torch import nn
        >>> from spikingjelly.activation_based import neuron
        >>> net = nn.Sequential(nn.Linear(4, 3), neuron.LIFNode(step_mode="m"))
        >>> x, y = torch.rand(8, 4), torch.randint(3, (8,))
        >>> report = sr.evaluate(sr.wrap(net, steps=4), (x, y), [sr.load("fgsm", epsilon=[0.0, 0.1])])
        >>> report.curve("fgsm").value[0] == report.clean()["correct"].mean()
        np.True_
    """
    folder = Path(out) if out is not None else None
    settings = EvaluationSettings(
        seed=seed,
        mode=mode,
        evidence=evidence,
        batch_size=batch_size,
        memory_budget=memory_budget,
        examples=examples,
        notes=tuple(notes),
    )
    plan = make_plan(model, data, tasks, settings, sources=sources, out=folder)
    store = Store(folder, describe(plan))
    execute(plan, store, progress=progress)
    return Report(store)


@neutral_modes()
def attack(
    model: SpikingModel,
    data: Any,
    task: Task,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    memory_budget: float | None = None,
    progress: bool | None = None,
    sources: Mapping[str, SpikingModel] | None = None,
) -> AdversarialExamples:
    """Adversarial examples of one attack at one radius, for all samples: the examples that `evaluate` finds.

    Runs `evaluate` in memory with evidence='none' and returns the kept examples.
    Searches, checks and scoring are those of `evaluate` in its "nested" mode: each example is verified against the
    threat model, and counts as a success only if the model itself, freshly reset, misclassifies it.

    Args:
        model: A wrapped model.
        data: (x, y), a Dataset, or a mapping with "test"; its test samples are attacked.
        task: An attack from `load` with one epsilon.
        seed: Seed of all random numbers, which are keyed by sample.
        batch_size: Batch size of the searches; None: as many as memory allows. See `evaluate`.
        memory_budget: GiB that may be used, where `batch_size` is left out.
        progress: Whether to show progress; None: on a terminal.
        sources: Further models by name, for an attack with `source=`.

    Raises:
        InputError, InputTypeError: For input that does not fit, before anything long starts.
        MemoryLimitError: If memory runs out with a single sample.
        ViolationError: If the attack breaks its threat model.

    Example:
        >>> import snnrobust as sr
        >>> from snnrobust.testing import tiny_data, tiny_model
        >>> found = sr.attack(tiny_model(), tiny_data(), sr.load("pgd", epsilon=0.2, steps=5))
        >>> found
        AdversarialExamples('pgd' on 'tiny', linf in [0, 1], real within 0.2: 12 of 12 broken)
        >>> float((found.x - found.original).abs().max()) <= 0.2 + 1e-6
        True
    """
    if not isinstance(model, SpikingModel):
        raise InputTypeError(f"expected one SpikingModel, got {type(model).__name__}; pass one wrapped model")
    if not isinstance(task, Task) or task.kind != "attack":
        given = f"a task of kind '{task.kind}'" if isinstance(task, Task) else type(task).__name__
        raise InputTypeError(f"expected an attack from sr.load, got {given}; e.g. sr.load('apgd', epsilon=8 / 255)")
    if len(task.strengths) != 1:
        raise InputError(
            f"expected one epsilon for '{task.label}', got {list(task.strengths)}; call sr.attack for each, or use "
            f"sr.evaluate(..., examples=N)"
        )
    settings = EvaluationSettings(
        seed=seed,
        evidence="none",
        batch_size=batch_size,
        memory_budget=memory_budget,
        examples=sys.maxsize,  # of all samples
    )
    plan = make_plan(model, data, [task], settings, sources=sources)
    store = Store(None, describe(plan))
    execute(plan, store, progress=progress)
    return adversarial_examples(Outcomes(store), task.label, task.strengths[0], model.name)


@neutral_modes()
def tune(model: SpikingModel, data: Any, task: Task, gradient: Mapping[str, Sequence[Any]], *, seed: int = 0) -> Tuned:
    """Tries all combinations of an estimator's parameters, and keeps the one under which an attack is strongest.

    Sharpness and width change the attack's strength (Ding et al. 2024: gamma of HART). Choosing them on the test data
    would overestimate it, so only the validation split is used.

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
    validation = validation_data(prepare(data))

    def robust_accuracy(candidate: Task) -> float:
        report = evaluate(model, validation, [candidate], seed=seed, evidence="none", progress=False)
        return sum(report.curve(task.label).value) / len(task.strengths)

    return best_of(task, gradient, validation.test, robust_accuracy)
