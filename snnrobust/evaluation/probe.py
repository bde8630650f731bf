"""The probe: checks of a model on a few samples before an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from snnrobust.common.ambient import neutral_modes
from snnrobust.data.batch import Batch
from snnrobust.data.dataset import Dataset
from snnrobust.data.evaluation_data import prepare
from snnrobust.errors import InputError
from snnrobust.evaluation.compatibility import check_data_fits
from snnrobust.evaluation.gradient_pass import gradient_pass_findings, largest_difference
from snnrobust.frameworks.find import LIKE_IN_EVAL, listed, unsupported_spikes
from snnrobust.objectives.logits import CrossEntropy
from snnrobust.results.records import NAN, Finding
from snnrobust.search.queries import ModelQueries
from snnrobust.spike_gradients.swap import Own, SpikeGradient
from snnrobust.wrapping.model import SpikingModel

#: Number of samples.
SAMPLES = 64
#: Allowed relative difference of logits; more than float rounding in another batch explains.
TOLERANCE = 1e-4
#: Names of black-box attacks and the norms that they are defined for.
BLACK_BOX = "a black-box attack: 'square' (linf, l2) or 'random-search' (l1, l0)"


@neutral_modes()
def probe(model: SpikingModel, data: Any) -> list[Finding]:
    """Checks a model on a few test samples; each check is a `Finding`.

    Checks: finite outputs, repeatability, independence of the batch and of the order of samples, randomness, step
    modes, bounds and domain of the inputs, input gradients, ties, the encoder's gradient, and whether a pass with
    gradients gives the same logits as one without and leaves parameters and buffers unchanged.

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
            _finite_outputs(logits),
            _repeatable(model, sample, logits),
            _batch_of_one(model, sample, logits),
            _order(model, sample, logits),
            _sample_independence(model, sample, logits),
            _stochastic_declared(model, sample, logits),
            *_step_mode(model, sample),
            *_inputs(model, sample),
            *_input_gradients(model, sample),
            *gradient_pass_findings(model, sample),
            _spike_gradients(model),
            _ties(logits),
            _encoder_gradient(model),
        ]
    return [replace(finding, model=model.name) for finding in findings]


def _logits(model: SpikingModel, sample: Dataset, draw: int = 0) -> Tensor:
    with torch.no_grad():
        return model.logits(sample.x, keys=sample.index, draw=draw, lengths=sample.lengths)


def _relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, divided by the largest logit; infinite if a logit is NaN in only one of them."""
    gap, scale = largest_difference(a, b)
    return float(gap) / float(scale)


def _finite_outputs(logits: Tensor) -> Finding:
    share = float(logits.isnan().any(dim=1).float().mean())
    return Finding(
        "finite-outputs",
        share == 0,
        share,
        0.0,
        "Share of samples with NaN logits, which can't be classified, with or without an attack.",
        "Look for divisions by zero and overflow in the net.",
        fatal=True,
    )


def _repeatable(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    difference = _relative_difference(logits, _logits(model, sample))
    why = (
        "Largest relative difference of the logits between two forward passes on the same input. Above the threshold, "
        "state is not reset between passes, or the net draws random numbers."
    )
    if not model.resets:
        why += " No reset is known for this net."
    return Finding(
        "repeatable",
        difference <= TOLERANCE,
        difference,
        TOLERANCE,
        why,
        "Pass reset= to wrap if the net keeps state, stochastic=True if it draws random numbers.",
        fatal=True,
    )


def _batch_of_one(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    few = range(min(8, len(sample)))
    single = torch.cat([_logits(model, sample.select([i])) for i in few])
    difference = NAN if model.foreign_randomness else _relative_difference(logits[: len(few)], single)
    return Finding(
        "batch-of-one",
        None if model.foreign_randomness else difference <= TOLERANCE,
        difference,
        TOLERANCE,
        "Largest relative difference of a sample's logits between a batch and a batch of one. Above the threshold, "
        "outputs depend on the other samples of the batch, so robust accuracy depends on the batches.",
        "Use BatchNorm with track_running_stats=True, and check layout=.",
        required=not model.foreign_randomness,
        fatal=True,
    )


def _order(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    order = torch.arange(len(sample)).flip(0)
    shuffled = _logits(model, sample.select(order.tolist()))
    difference = NAN if model.foreign_randomness else _relative_difference(logits[order.to(logits.device)], shuffled)
    return Finding(
        "order",
        None if model.foreign_randomness else difference <= TOLERANCE,
        difference,
        TOLERANCE,
        "Largest relative difference of the logits when the order of the batch is reversed. Above the threshold, a "
        "sample's output depends on its position in the batch.",
        "Check layout=: the net may treat the batch axis as time.",
        required=not model.foreign_randomness,
        fatal=True,
    )


def _sample_independence(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    """Changes the first half of the batch (mirrored within the bounds) and compares the logits of the second half."""
    half, (low, high) = len(sample) // 2, model.bounds
    decidable = half > 0 and not model.foreign_randomness
    difference = NAN
    if decidable:
        changed = replace(sample, x=torch.cat([(low + high) - sample.x[:half], sample.x[half:]]))
        difference = _relative_difference(logits[half:], _logits(model, changed)[half:])
    return Finding(
        "sample-independence",
        difference <= TOLERANCE if decidable else None,
        difference,
        TOLERANCE,
        "Largest relative difference of a sample's logits when other samples of its batch change. Above the threshold, "
        "samples influence each other, so an attack on one changes the outcome of another.",
        "Look for statistics over the batch axis, and check layout=.",
        required=decidable,
        fatal=True,
    )


def _stochastic_declared(model: SpikingModel, sample: Dataset, logits: Tensor) -> Finding:
    difference = _relative_difference(logits, _logits(model, sample, draw=1))
    differs = difference > TOLERANCE
    return Finding(
        "stochastic-declared",
        model.stochastic or not differs,
        difference,
        TOLERANCE,
        "Largest relative difference of the logits between two random draws. "
        + (
            "The model is declared stochastic and is scored on the mean over fresh draws."
            if model.stochastic
            else "The model is declared deterministic. Above the threshold it is not, and attacks don't average draws."
        ),
        "Pass stochastic=True to wrap, and eot= to attacks.",
        fatal=True,
    )


def _step_mode(model: SpikingModel, sample: Dataset) -> list[Finding]:
    """Whether the inputs of all nodes match their step mode: [N, *] for single-step nodes, [T, N, *] for multi-step."""
    steps = sample.x.shape[1] if model.encoder is None else model.steps
    if len(sample) == steps:  # the batch size must differ from the number of steps
        sample = sample.take(len(sample) - 1) if len(sample) > 1 else sample
    nodes = model.adapter.nodes(model.net) if model.adapter is not None else {}
    if model.layout == "N" or not nodes or len(sample) == steps:
        return []
    seen: dict[str, list[int]] = {name: [] for name in nodes}

    def record_length(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, out: seen[name].append(len(out))

    def fits(name: str) -> bool:
        # Compare with the wrong length, not with the right one: a net may pool over time or not use a node.
        wrong_length = len(sample) if getattr(nodes[name], "step_mode", "m") == "m" else steps
        return all(length != wrong_length for length in seen[name])

    handles = [node.register_forward_hook(record_length(name)) for name, node in nodes.items()]
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
            "Number of spiking nodes that treat the batch axis as time or the time axis as batch. Such a node computes "
            "another function than intended." + (f" Nodes: {', '.join(wrong)}." if wrong else ""),
            "Set the nodes' step_mode to match layout=: 'm' for layout='TN', 's' for layout='step'.",
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
            f"Share of input entries outside the bounds [{low:g}, {high:g}]. Attacks only produce inputs within "
            "the bounds.",
            "Scale the data, or pass bounds= to wrap.",
            fatal=True,
        ),
        Finding(
            "inputs-in-domain",
            fraction == 0,
            fraction,
            0.0,
            f"Largest distance of an input entry from the domain '{model.domain}'. Attacks only produce inputs of this "
            "domain.",
            "Round the data, or pass domain='real' to wrap.",
            fatal=True,
        ),
    ]


def _input_gradients(model: SpikingModel, sample: Dataset) -> list[Finding]:
    queries = ModelQueries(model, CrossEntropy(), Own())
    batch = Batch.of(sample, torch.arange(len(sample)), model.device, model.input_dtype)
    why = (
        "Share of samples whose input gradient through the model's own surrogate is exactly zero at the original "
        "input. Gradient attacks without a random start do not move these samples."
    )
    remedy = _other_gradients(model)
    gradient, _, _ = queries.gradient(batch)
    undefined = float((~torch.isfinite(gradient).flatten(1).all(dim=1)).float().mean())
    if undefined:
        not_computed = (
            f"The input gradient is NaN or infinite for {undefined:.0%} of the samples, whose searches end there."
        )
        return [
            Finding("input-gradient", False, 1.0, 1.0, not_computed, remedy),
            Finding("zero-gradient", None, NAN, 0.01, f"{why} Not measured: some gradients are not finite.", remedy),
        ]
    zero = float((gradient == 0).flatten(1).all(dim=1).float().mean())
    return [
        Finding(
            "input-gradient",
            zero < 1,
            zero,
            1.0,
            "Share of samples whose input gradient is exactly zero. If it is 1, gradient attacks can't find examples.",
            f"{remedy} If the net encodes inside (Poisson, latency), no estimator of its nodes helps: take the encoder "
            "out (encoder= of sr.wrap), or give it an estimator by 'per-module'.",
            fatal=True,
        ),
        Finding("zero-gradient", zero <= 0.01, zero, 0.01, why, remedy),
    ]


def _spike_gradients(model: SpikingModel) -> Finding:
    others = unsupported_spikes(model.net, model.sites)
    named = f" Here: {listed(others)}." if others else ""
    return Finding(
        "spike-gradients",
        not others,
        float(len(others)),
        0.0,
        f"Number of places that spike but keep their own gradient under every estimator.{named} If that gradient is "
        "masked, gradient attacks may be weak.",
        f"Confirm the result with {BLACK_BOX}; name a torch.autograd.Function that spikes: sr.wrap(..., spike=...).",
        required=False,
    )


class _AnyEstimator:
    """Stands for whatever estimator may be swapped in."""

    def backward(self, u: Tensor, state: dict[str, Any]) -> Tensor:
        """Of no use: no gradient is computed with it."""
        return torch.ones_like(u)


def _other_gradients(model: SpikingModel) -> str:
    """What to attack with where the model's own gradient fails; an estimator only if the net takes one."""
    nodes = {} if model.adapter is None else model.adapter.nodes(model.net)
    if model.adapter is not None and model.adapter.refuses_autograd(model.net):
        return f"No estimator helps, as the net has nodes that allow no gradient. Attack with {BLACK_BOX}."
    try:
        SpikeGradient(model, _AnyEstimator())
    except InputError:
        online = model.adapter is not None and any(map(model.adapter.ignores_surrogate, nodes.values()))
        likewise = f"{LIKE_IN_EVAL[0].upper()}{LIKE_IN_EVAL[1:]}, or attack" if online else "Attack"
        return f"No estimator can be put into all nodes of this net. {likewise} with {BLACK_BOX}."
    return f"Attack with another estimator, e.g. gradient='atan', and with {BLACK_BOX}."


def _ties(logits: Tensor) -> Finding:
    tied = float(((logits == logits.amax(dim=1, keepdim=True)).sum(dim=1) > 1).float().mean())
    return Finding(
        "ties",
        tied <= 0.01,
        tied,
        0.01,
        "Share of samples for which several classes have the largest logit. Argmax then predicts the first of them, "
        "which may be correct by chance.",
        "Report strict accuracy next to accuracy; use more time steps, or let the net return membrane potentials.",
        required=False,
    )


def _encoder_gradient(model: SpikingModel) -> Finding:
    return Finding(
        "encoder-gradient",
        not model.straight_through,
        float(model.straight_through),
        0.5,
        "Value 1 if the encoder has no gradient and the backward pass uses the identity instead (straight-through), "
        "else 0. If 1, gradients are not those of the model, and gradient attacks may be weak.",
        f"Confirm the result with {BLACK_BOX}.",
        required=False,
    )
