"""`table`: every variant, its equation, and its implementation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import get_args

from spikingjelly.activation_based import neuron

from snnrobust.kernels.dynamics import Reset
from snnrobust.neurons.node import Leak
from snnrobust.neurons.presets import PRESETS
from snnrobust.neurons.variants import Variant


@dataclass(frozen=True)
class VariantRow:
    """A variant: its preset's name if it has one, its equation, the class of its node, what runs it, its step modes."""

    preset: str | None
    equation: str
    node: str
    runs_on: str
    step_modes: tuple[str, ...]


def table() -> list[VariantRow]:
    """One row a variant: the presets in the order of `PRESETS`, then all other combinations of leak, reset, recurrence.

    A node "on an operator" uses SpikingJelly's CUDA kernels if its surrogate is one that they know (ATan, Sigmoid and
    other built-in ones) and its state is float32; any other surrogate or type takes SpikingJelly's Python loop.

        >>> [row.preset for row in table() if row.preset and "operator" in row.runs_on]
        ['vanilla', 'no-leak']
        >>> [row.node for row in table() if not row.preset and "operator" in row.runs_on]
        ['LIFNode', 'IFNode', 'ParametricLIFNode', 'ParametricLIFNode']
    """
    presets: dict[Variant, str] = {variant: preset for preset, variant in PRESETS.items()}
    every = [Variant(*parts) for parts in product(get_args(Leak), get_args(Reset), (False, True))]
    ordered = [*presets, *(variant for variant in every if variant not in presets)]
    return [
        VariantRow(presets.get(variant), variant.equation, variant.node_class.__name__, _runs_on(variant), ("s", "m"))
        for variant in ordered
    ]


def _runs_on(variant: Variant) -> str:
    operators = {neuron.LIFNode: "LIF", neuron.IFNode: "IF", neuron.ParametricLIFNode: "PLIF"}
    if variant.node_class in operators:
        return f"SpikingJelly {operators[variant.node_class]} operator (CUDA native/Triton, CPU reference)"
    return "documented loop in PyTorch"
