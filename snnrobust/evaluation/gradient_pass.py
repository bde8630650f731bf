"""Whether the pass that an attack takes through a net is the pass that is scored, and leaves the net as it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snnrobust.data.dataset import Dataset
from snnrobust.results.records import Finding
from snnrobust.wrapping.model import SpikingModel

#: Logits further apart than this (relative to their size) differ by more than float rounding.
TOLERANCE = 1e-4


def check(model: SpikingModel, sample: Dataset) -> list[Finding]:
    """Compares a pass with gradients, as attacks make it, with one without, as scoring does."""
    before = _contents(model.net)
    scored, scored_steps = _pass(model, sample, gradients=False)
    attacked, attacked_steps = _pass(model, sample, gradients=True)
    after = _contents(model.net)
    # Where one of them alone is NaN they are as far apart as can be.
    gap = (scored - attacked).abs().masked_fill(scored.isnan() & attacked.isnan(), 0.0).nan_to_num(nan=torch.inf)
    apart = float(gap.max() / scored.abs().nan_to_num().max().clamp_min(1e-12))
    changed = [name for name in before if not torch.equal(before[name], after.get(name, torch.empty(0)))]
    missing = sorted(set(before) ^ set(after))
    return [
        Finding(
            "attack-steps",
            attacked_steps == scored_steps,
            float(abs(attacked_steps - scored_steps)),
            0.0,
            f"time steps that the net's modules see in an attack ({attacked_steps}) minus those in scoring "
            f"({scored_steps}); a shorter simulation in the attack weakens it",
            "run as many time steps with gradients as without",
            fatal=True,
        ),
        Finding(
            "attack-forward",
            apart <= TOLERANCE,
            apart,
            TOLERANCE,
            "largest relative change of the logits between a pass with gradients, as attacks make it, and one without",
            "make the net compute the same with and without gradients",
            fatal=True,
        ),
        Finding(
            "buffers-untouched",
            not changed and not missing,
            float(len(changed) + len(missing)),
            0.0,
            "parameters and buffers that a forward and backward pass in eval mode changes"
            + (f": {', '.join((*changed, *missing)[:3])}" if changed or missing else ""),
            "freeze running statistics and counters in eval mode: the net under attack drifts",
            fatal=True,
        ),
    ]


def _pass(model: SpikingModel, sample: Dataset, *, gradients: bool) -> tuple[Tensor, int]:
    """Logits [N, K], and how many time steps all leaf modules saw together."""
    steps = 0

    def count(module: nn.Module, args: tuple[object, ...], out: object) -> None:
        nonlocal steps
        if isinstance(out, Tensor) and out.ndim:
            steps += out.shape[0] if out.shape[0] != len(sample) else 1  # (T, N, *) at once, or (N, *) a call

    leaves = [module for module in model.net.modules() if not any(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        with torch.set_grad_enabled(gradients):
            x = sample.x.to(device=model.device, dtype=model.dtype).requires_grad_(gradients)
            logits = model.logits(x, keys=sample.index, lengths=sample.lengths)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), x, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return logits.detach(), steps


def _contents(net: nn.Module) -> dict[str, Tensor]:
    """Copies of everything of a net that is not state to be reset."""
    return {name: value.detach().clone() for name, value in (*net.named_parameters(), *net.named_buffers())}
