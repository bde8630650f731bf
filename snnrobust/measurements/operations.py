"""Counts of operations: accumulations for spikes, multiplications for anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import op_counter
from torch import Tensor

#: Positions of the operands that may be spikes.
_OPERANDS = {
    torch.ops.aten.mm.default: (0,),
    torch.ops.aten.addmm.default: (1,),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.baddbmm.default: (1, 2),
    torch.ops.aten.convolution.default: (0,),
}
_BATCH_NORM_IS_FREE: dict[Any, Callable[..., int]] = {
    torch.ops.aten.native_batch_norm.default: lambda args, kwargs, out: 0
}


def operation_counters() -> tuple[Any, Any]:
    """SpikingJelly's counters of synaptic operations and of multiply-accumulates.

    It takes values 0 and 1 for spikes; here signed spikes and counts are spikes as well, one for each entry that is
    not zero.
    """
    synops = op_counter.SynOpCounter()
    macs = op_counter.MACCounter(extra_rules=_BATCH_NORM_IS_FREE)
    for counter in (synops, macs):
        for operation, operands in _OPERANDS.items():
            counter.rules[operation] = _on_events(counter.rules[operation], operands)
    return synops, macs


def _on_events(rule: Callable[..., int], operands: tuple[int, ...]) -> Callable[..., int]:
    def counted(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> int:
        events = [_events(each) if i in operands else each for i, each in enumerate(args)]
        return rule(tuple(events), kwargs, out)

    return counted


def _events(values: Tensor) -> Tensor:
    """1 where a tensor of whole numbers is not zero; a tensor of other numbers as it is."""
    whole = not values.is_complex() and bool((values == values.round()).all())
    return (values != 0).to(values) if whole else values
