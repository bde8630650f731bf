"""Checks that a forward pass with gradients, as in attacks, equals one without, as in scoring, and changes no state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snnrobust.data.dataset import Dataset
from snnrobust.results.records import Finding
from snnrobust.wrapping.model import SpikingModel

#: Allowed relative difference of logits; more than float rounding explains.
TOLERANCE = 1e-4


def largest_difference(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The largest difference of two tensors of logits, and the largest finite entry of the first, at least 1e-12.

    Equal infinities differ by 0, and so do NaN and NaN; NaN in only one of them is an infinite difference.
    """
    same = (first == second) | (first.isnan() & second.isnan())
    gap = (first - second).abs().masked_fill(same, 0.0).nan_to_num(nan=torch.inf)
    return gap.max(), first.abs().nan_to_num(posinf=0.0).max().clamp_min(1e-12)


def gradient_pass_findings(model: SpikingModel, sample: Dataset) -> list[Finding]:
    """Compares a forward pass with gradients, as in attacks, with one without, as in scoring."""
    before = _parameters_and_buffers(model.net)
    scored, scored_steps = _pass_and_steps(model, sample, gradients=False)
    attacked, attacked_steps = _pass_and_steps(model, sample, gradients=True)
    after = _parameters_and_buffers(model.net)
    gap, scale = largest_difference(scored, attacked)
    difference = float(gap / scale)
    changed = [name for name in before if not torch.equal(before[name], after.get(name, torch.empty(0)))]
    missing = sorted(set(before) ^ set(after))
    return [
        Finding(
            "attack-steps",
            attacked_steps == scored_steps,
            float(abs(attacked_steps - scored_steps)),
            0.0,
            f"Difference between the time steps that the net's modules run in an attack ({attacked_steps}) and in "
            f"scoring ({scored_steps}). Above 0, the attack simulates another net than the one that is scored.",
            "Run the same number of time steps with gradients as without.",
            fatal=True,
        ),
        Finding(
            "attack-forward",
            difference <= TOLERANCE,
            difference,
            TOLERANCE,
            "Largest relative difference of the logits between a forward pass with gradients, as in attacks, and one "
            "without. Above the threshold, the attack optimises another function than the one that is scored.",
            "Make the net compute the same function with and without gradients.",
            fatal=True,
        ),
        Finding(
            "buffers-untouched",
            not changed and not missing,
            float(len(changed) + len(missing)),
            0.0,
            "Number of parameters and buffers that a forward and backward pass in eval mode changes. Above 0, the net "
            "changes while it is attacked."
            + (f" The first: {', '.join((*changed, *missing)[:3])}." if changed or missing else ""),
            "Don't update running statistics and counters in eval mode.",
            fatal=True,
        ),
    ]


def _pass_and_steps(model: SpikingModel, sample: Dataset, *, gradients: bool) -> tuple[Tensor, int]:
    """Logits [N, K], and the number of time steps summed over all leaf modules."""
    steps = 0

    def count(module: nn.Module, args: tuple[object, ...], out: object) -> None:
        nonlocal steps
        if isinstance(out, Tensor) and out.ndim:
            steps += out.shape[0] if out.shape[0] != len(sample) else 1  # [T, N, *], or [N, *] for one step

    leaves = [module for module in model.net.modules() if not any(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        with torch.set_grad_enabled(gradients):
            x = sample.x.to(device=model.device, dtype=model.input_dtype).requires_grad_(gradients)
            logits = model.logits(x, keys=sample.index, lengths=sample.lengths)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), x, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return logits.detach(), steps


def _parameters_and_buffers(net: nn.Module) -> dict[str, Tensor]:
    """Copies of the net's parameters and buffers."""
    return {name: value.detach().clone() for name, value in (*net.named_parameters(), *net.named_buffers())}
