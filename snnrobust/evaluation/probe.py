"""Before anything long: can this model be evaluated at all, and what has to be known about it?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import prepare
from snnrobust.errors import PluginError
from snnrobust.evaluation import gradient_pass
from snnrobust.evaluation.compatibility import check_data_fits
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.results.records import NAN, Finding
from snnrobust.search.oracle import Oracle
from snnrobust.spike_gradients.swap import Own
from snnrobust.wrapping.model import SpikingModel

#: Samples that the probe looks at.
SAMPLES = 64
#: Logits further apart than this (relative to their size) differ by more than float rounding over a changed batch.
TOLERANCE = 1e-4


def probe(model: SpikingModel, data: Any) -> list[Finding]:
    """Checks a model on a few test samples; each check is a `Finding`.

    Repeatability, independence of the batch (alone, shuffled), of what came before, finite outputs, bounds and domain
    of the inputs, step modes, input gradients, randomness, ties, the encoder's gradient, and whether a pass with
    gradients is the pass that is scored and leaves parameters and buffers alone.

    Args:
        model: A wrapped model.
        data: As for `snnrobust.evaluate`.

    Raises:
        InputError: If the data does not fit the model.
    """
    data = prepare(data)
    sample = data.test.take(min(SAMPLES, len(data.test)))
    with model.session():
        check_data_fits(model, data)
        logits = _logits(model, sample)
        findings = [
            _finite(logits),
            _repeatable(model, sample, logits),
            _alone(model, sample, logits),
            _shuffled(model, sample, logits),
            _independent(model, sample, logits),
            _stochastic(model, sample, logits),
            *_step_modes(model, sample),
            *_inputs(model, sample),
            *_gradients(model, sample),
            *gradient_pass.check(model, sample),
            _ties(logits),
            _encoder(model),
        ]
    return [_about(finding, model.name) for finding in findings]


def _logits(model: SpikingModel, sample: Dataset, draw: int = 0) -> Tensor:
    with torch.no_grad():
        return model.logits(sample.x, keys=sample.index, draw=draw, lengths=sample.lengths)


def _apart(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the logits' size; infinite where only one of them is NaN."""
    scale = float(a.nan_to_num().abs().max().clamp_min(1e-12))
    return float((a - b).abs().nan_to_num(nan=0.0 if bool((a.isnan() == b.isnan()).all()) else torch.inf).max()) / scale


def _finite(logits: Tensor) -> Finding:
    share = float((~torch.isfinite(logits)).any(dim=1).float().mean())
    return Finding(
        "finite-outputs",
        share == 0,
        share,
        0.0,
        "share of samples with NaN or infinite logits; an attack can neither break nor spare them",
        "look for divisions by zero and overflow in the net",
        fatal=True,
    )


def _repeatable(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    apart = _apart(logits, _logits(model, sample))
    why = "largest relative change of the logits when a forward pass is repeated; state or randomness leaks through"
    if not model.resets:
        why += " (no reset is known for this net, and repetition tells whether it needs one)"
    return Finding(
        "repeatable",
        apart <= TOLERANCE,
        apart,
        TOLERANCE,
        why,
        "pass reset= to wrap if the net keeps state, stochastic=True if it draws random numbers",
        fatal=True,
    )


def _alone(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    few = range(min(8, len(sample)))
    alone = torch.cat([_logits(model, sample.select([i])) for i in few])
    apart = NAN if model.foreign_randomness else _apart(logits[: len(few)], alone)
    return Finding(
        "batch-of-one",
        None if model.foreign_randomness else apart <= TOLERANCE,
        apart,
        TOLERANCE,
        "largest relative change of a sample's logits between a batch and alone; a net whose outputs depend on batch "
        "mates has no robust accuracy of its own",
        "use running statistics in eval mode, and keep the batch axis where layout= says it is",
        required=not model.foreign_randomness,
        fatal=True,
    )


def _shuffled(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    order = torch.arange(len(sample)).flip(0)
    shuffled = _logits(model, sample.select(order.tolist()))
    apart = NAN if model.foreign_randomness else _apart(logits[order.to(logits.device)], shuffled)
    return Finding(
        "order",
        None if model.foreign_randomness else apart <= TOLERANCE,
        apart,
        TOLERANCE,
        "largest relative change of the logits when the batch is reversed",
        "check layout=: a batch axis taken for time makes samples depend on their order",
        required=not model.foreign_randomness,
        fatal=True,
    )


def _independent(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    """Mirrors the first half of the batch within its bounds; the second half must not notice."""
    half, (low, high) = len(sample) // 2, model.bounds
    decidable = half > 0 and not model.foreign_randomness
    apart = NAN
    if decidable:
        changed = replace(sample, x=torch.cat([(low + high) - sample.x[:half], sample.x[half:]]))
        apart = _apart(logits[half:], _logits(model, changed)[half:])
    return Finding(
        "sample-independence",
        apart <= TOLERANCE if decidable else None,
        apart,
        TOLERANCE,
        "largest relative change of a sample's logits when other samples of its batch are changed",
        "look for statistics over the batch axis, and check layout=",
        required=decidable,
        fatal=True,
    )


def _stochastic(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    apart = _apart(logits, _logits(model, sample, draw=1))
    differs = apart > TOLERANCE
    return Finding(
        "stochastic-declared",
        model.stochastic or not differs,
        apart,
        TOLERANCE,
        "largest relative change of the logits between two random draws; "
        + ("the model is scored on the mean over fresh draws" if model.stochastic else "it was declared deterministic"),
        "pass stochastic=True to wrap, and eot= to attacks",
        fatal=True,
    )


def _step_modes(model: SpikingModel, sample: Dataset) -> list[Finding]:
    """Whether time is time to every node: a single-step one takes [N, *], a multi-step one [T, N, *]."""
    steps = sample.x.shape[1] if model.encoder is None else model.steps
    if len(sample) == steps:  # a batch as long as the sequence could not be told from it
        sample = sample.take(len(sample) - 1) if len(sample) > 1 else sample
    nodes = model.adapter.nodes(model.net) if model.adapter is not None else {}
    if model.layout == "N" or not nodes or len(sample) == steps:
        return []
    seen: dict[str, list[int]] = {name: [] for name in nodes}

    def listen(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, out: seen[name].append(len(out))

    def fits(name: str) -> bool:
        # Told by what is wrong, not by what is right: a net may pool time, or leave a node unused.
        taken_for = len(sample) if getattr(nodes[name], "step_mode", "m") == "m" else steps
        return all(length != taken_for for length in seen[name])

    handles = [node.register_forward_hook(listen(name)) for name, node in nodes.items()]
    try:
        _logits(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    wrong = [name for name in nodes if not fits(name)]
    return [
        Finding(
            "step-mode",
            not wrong,
            float(len(wrong)),
            0.0,
            "nodes that took the batch for time, or time for the batch" + (f": {wrong}" if wrong else ""),
            "set the nodes' step mode to what layout= hands them: 'm' for 'TN', 's' for 'step'",
            fatal=True,
        )
    ]


def _inputs(model: SpikingModel, sample: Dataset) -> list[Finding]:
    low, high = model.bounds
    outside = float(((sample.x < low) | (sample.x > high)).float().mean())
    fraction = float((sample.x - sample.x.round()).abs().max()) if model.domain != "real" else 0.0
    return [
        Finding(
            "inputs-in-bounds",
            outside == 0,
            outside,
            0.0,
            f"share of input entries outside [{low:g}, {high:g}]",
            "scale the data, or pass bounds= to wrap",
            fatal=True,
        ),
        Finding(
            "inputs-in-domain",
            fraction == 0,
            fraction,
            0.0,
            f"largest distance of an input from the domain '{model.domain}'",
            "round the data, or wrap with domain='real'",
            fatal=True,
        ),
    ]


def _gradients(model: SpikingModel, sample: Dataset) -> list[Finding]:
    lengths = None
    if sample.lengths is not None:
        lengths = dict(zip(sample.index.tolist(), sample.lengths.tolist(), strict=True))
    oracle = Oracle(model, CrossEntropy(), Own(), 1, 0, lengths)
    x = sample.x.to(device=model.device, dtype=model.dtype)
    why = "share of samples whose input gradient is exactly zero with the model's own surrogate"
    remedy = "attack with gradient='atan' or another estimator, and with attacks that need no gradient"
    try:
        gradient, _, _ = oracle.gradient(x, sample.y.to(model.device), sample.index)
    except PluginError as error:
        return [
            Finding("input-gradient", False, 1.0, 1.0, f"no usable input gradient: {error}", remedy),
            Finding("zero-gradient", None, NAN, 0.01, why, remedy),
        ]
    zero = float((gradient == 0).flatten(1).all(dim=1).float().mean())
    return [
        Finding(
            "input-gradient",
            zero < 1,
            zero,
            1.0,
            "share of samples without any input gradient; where it is 1, gradient attacks can't find anything",
            remedy,
            fatal=True,
        ),
        Finding("zero-gradient", zero <= 0.01, zero, 0.01, f"{why}; there a gradient attack stands still", remedy),
    ]


def _ties(logits: Tensor) -> Finding:
    tied = float(((logits == logits.amax(dim=1, keepdim=True)).sum(dim=1) > 1).float().mean())
    return Finding(
        "ties",
        tied <= 0.01,
        tied,
        0.01,
        "share of samples whose largest logit is shared by several classes; argmax then favours the lower class",
        "read strict accuracy beside accuracy, or use a read-out with more values",
        required=False,
    )


def _encoder(model: SpikingModel) -> Finding:
    return Finding(
        "encoder-gradient",
        not model.straight_through,
        float(model.straight_through),
        0.5,
        "whether input gradients pass the encoder as if it were the identity, because it has none of its own",
        "confirm with an attack that needs no gradient",
        required=False,
    )


def _about(finding: Finding, model: str) -> Finding:
    return replace(finding, model=model)
